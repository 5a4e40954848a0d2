"""COCO and files that resemble it: `annotation` for `annotations`, `filename` for `file_name`, categories
from 0."""

import json
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

from irgpt_lib.irtd.record import Box, RecordError, Rejected, Sample
from irgpt_lib.irtd.sources.assembly import (
    NOT_OBJECTS,
    SPLITS,
    Annotation,
    annotated_sample,
    attempt,
    plain_category,
    printable,
    relative,
    tally,
)
from irgpt_lib.irtd.sources.boxes import make_box
from irgpt_lib.irtd.sources.files import inside, list_images, read_text
from irgpt_lib.irtd.sources.source import Found, MalformedFile, Source

ANNOTATION_FOLDERS = ("annotations", "normal_json/annotations", "")
IMAGE_FOLDERS = ("", "images", "normal_json", "infrared")


def annotation_files(root: Path) -> list[Path]:
    """The JSON files of the first annotation folder that has any."""
    for folder in ANNOTATION_FOLDERS:
        if files := sorted((root / folder).glob("*.json")):
            return files
    return []


def read_annotations(file: Path) -> dict[str, Any]:
    """The file as an object with lists `images`, `categories`, `annotations`.

    Raises:
        MalformedFile: no JSON object, or one of the lists is missing; the message names the keys that exist.
    """
    text = read_text(file)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MalformedFile(f"{file}: not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise MalformedFile(f"{file}: expected a COCO object, found {type(content).__name__}")
    if "annotations" not in content and "annotation" in content:
        content["annotations"] = content["annotation"]
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise MalformedFile(f"{file}: lacks the list {key!r}; it has {', '.join(sorted(content))}")
    return content


def category_names(file: Path, categories: list[Any]) -> dict[Any, str]:
    """Lower-case names by id.

    Raises:
        MalformedFile: an entry has no id or no name.
    """
    try:
        return {entry["id"]: plain_category(entry["name"]) for entry in categories}
    except (KeyError, TypeError, RecordError) as error:
        raise MalformedFile(f"{file}: categories need `id` and `name` each: {error!r}") from error


def image_annotation(annotations: list[dict[str, Any]], names: dict[Any, str], size: Any) -> Annotation:
    """The boxes of one image; crowds and regions of no interest are counted, not kept.

    Raises:
        RecordError: `unknown class`, `unreadable box` or `degenerate box`; the detail names the annotation's
            id.
    """
    boxes: list[Box] = []
    left_out: list[str] = []
    for entry in annotations:
        where = f"annotation {entry.get('id')}"
        class_id, corner = entry.get("category_id"), entry.get("bbox")
        if not isinstance(class_id, (int, str)) or class_id not in names:
            raise RecordError("unknown class", f"{where}: category_id {class_id!r}; known: {names}")
        if names[class_id].replace(" ", "").replace("_", "") in NOT_OBJECTS:
            left_out.append("dont_care")
        elif entry.get("iscrowd"):
            left_out.append("crowd")
        else:
            boxes.append(make_box(names[class_id], corners(corner, where), where))
    return Annotation(tuple(boxes), tally(left_out), size)


def corners(bbox: Any, where: str) -> tuple[float, float, float, float]:
    """`x1, y1, x2, y2` of COCO's `x, y, width, height`.

    Raises:
        RecordError: `unreadable box` where there are not four numbers.
    """
    if not isinstance(bbox, list):
        raise RecordError("unreadable box", f"{where}: bbox {bbox!r:.60}")
    try:
        x, y, width, height = (float(value) for value in bbox)
    except (TypeError, ValueError, OverflowError) as error:
        raise RecordError("unreadable box", f"{where}: bbox {bbox!r}") from error
    return x, y, x + width, y + height


def find_image(root: Path, split_folder: str, name: str) -> Path:
    """The file that the annotation names, where the common layouts put it.

    Raises:
        RecordError: `unsafe path`, or `missing image` with the places that were tried.
    """
    inside(root, name)
    folders = [folder for base in IMAGE_FOLDERS for folder in (f"{base}/{split_folder}", base)]
    tried = [root / folder.strip("/") / name for folder in folders]
    for candidate in tried:
        if candidate.is_file():
            return candidate
    places = ", ".join(relative(candidate.parent, root) for candidate in tried)
    raise RecordError("missing image", f"{name!r} in none of {places}")


def stated_size(entry: dict[str, Any]) -> tuple[int, int] | None:
    """Width and height where the entry states both as integers."""
    width, height = entry.get("width"), entry.get("height")
    return (width, height) if isinstance(width, int) and isinstance(height, int) else None


def read_file(root: Path, file: Path, source: Source, seen: set[Path]) -> Found:
    """The images of one annotation file, listed; their paths are added to `seen`."""
    content, place = read_annotations(file), relative(file, root)
    names = category_names(file, content["categories"])
    folder = file.stem.removeprefix("instances_")
    split = next((SPLITS[word] for word in SPLITS if folder.lower().startswith(word)), "")
    grouped: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for entry in content["annotations"]:
        if isinstance(entry, dict) and isinstance(entry.get("image_id"), (int, str)):
            grouped[entry["image_id"]].append(entry)
        else:
            yield Rejected(source.name, place, f"annotation {entry!r:.60}", "malformed annotation", "no image_id")
    known = set()
    for number, entry in enumerate(content["images"]):
        name = entry.get("file_name", entry.get("filename")) if isinstance(entry, dict) else None
        if not isinstance(name, str) or not isinstance(entry.get("id"), (int, str)):
            detail = f"image {number} needs `id` and `file_name`"
            yield Rejected(source.name, place, f"image {number}", "malformed image entry", detail)
            continue
        annotations = grouped[entry["id"]]
        if entry["id"] in known:
            yield Rejected(
                source.name, place, printable(name), "duplicate id", f"image id {entry['id']!r} occurs before"
            )
            continue
        known.add(entry["id"])

        try:
            image = find_image(root, folder, name)
        except RecordError as error:
            yield Rejected(source.name, place, printable(name), error.reason, printable(error.detail))
            continue
        seen.add(image)

        def build(image: Path = image, entry: Any = entry, annotations: list[Any] = annotations) -> Sample:
            annotation = image_annotation(annotations, names, stated_size(entry))
            return annotated_sample(source, root, image, annotation, split)

        yield attempt(source, place, name, build)
    for image_id in sorted(grouped.keys() - known, key=str):
        detail = f"{len(grouped[image_id])} annotations of image_id {image_id!r}, which no image has"
        yield Rejected(source.name, place, printable(f"image_id {image_id}"), "annotation without image", detail)


def read_coco(root: Path, source: Source) -> Found:
    """One sample an image of every JSON file in `annotations/`, then the images that no file lists, without
    boxes.

    Categories come in lower case. `DontCare` regions and crowds become the facts `dont_care` and `crowd`.

    Raises:
        MissingData: no folder or no JSON file.
        MalformedFile: a JSON file is not COCO-like.
    """
    if not root.is_dir():
        raise source.missing(root, "no such folder")
    if not (files := annotation_files(root)):
        raise source.missing(root, "no annotations/*.json")
    seen: set[Path] = set()
    for file in files:
        yield from read_file(root, file, source, seen)
    for image in list_images(root):
        if image not in seen:
            yield attempt(
                source,
                relative(image, root),
                image.stem,
                partial(annotated_sample, source, root, image, None),
            )
