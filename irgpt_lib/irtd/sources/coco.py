"""COCO and files that resemble it: `annotation` for `annotations`, `filename` for `file_name`, categories
from 0."""

from collections import Counter, defaultdict
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
    relative,
    tally,
)
from irgpt_lib.irtd.sources.boxes import make_box
from irgpt_lib.irtd.sources.files import files_in, inside, list_images, read_json
from irgpt_lib.irtd.sources.source import Found, MalformedFile, Source

ANNOTATION_FOLDERS = ("annotations", "normal_json/annotations", "")
IMAGE_FOLDERS = ("", "images", "normal_json", "infrared")
# as text too: some files write all their numbers so
CROWD_MARKS = {"0": False, "False": False, "1": True, "True": True}


def annotation_files(root: Path) -> list[Path]:
    """The JSON files of the first annotation folder that has any."""
    for folder in ANNOTATION_FOLDERS:
        if files := files_in(root / folder, ".json"):
            return files
    return []


def read_annotations(file: Path) -> dict[str, Any]:
    """The file as an object with lists `images`, `categories`, `annotations`.

    Raises:
        MalformedFile: no JSON object, or one of the lists is missing; the message names the keys that exist.
    """
    content = read_json(file)
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
        MalformedFile: an entry has no id or no name, or an id has two names.
    """
    names: dict[Any, str] = {}
    try:
        for entry in categories:
            name = plain_category(entry["name"])
            if names.setdefault(entry["id"], name) != name:
                taken = f"{names[entry['id']]!r} and {name!r}"
                raise MalformedFile(f"{file}: category id {entry['id']!r} names {taken}; give each its own")
    except (KeyError, TypeError, RecordError) as error:
        raise MalformedFile(f"{file}: categories need `id` and `name` each: {error!r}") from error
    return names


def image_annotation(annotations: list[dict[str, Any]], names: dict[Any, str], size: Any) -> Annotation:
    """The boxes of one image; crowds and regions of no interest are counted, not kept.

    Raises:
        RecordError: `unknown class`, `malformed annotation`, `unreadable box` or `degenerate box`; the detail names the
            annotation's id.
    """
    boxes: list[Box] = []
    left_out: list[str] = []
    for entry in annotations:
        where = f"annotation {entry.get('id')}"
        class_id, corner, crowd = entry.get("category_id"), entry.get("bbox"), str(entry.get("iscrowd") or 0)
        if crowd not in CROWD_MARKS:
            raise RecordError("malformed annotation", f"{where}: iscrowd {crowd!r:.40}, neither 0 nor 1")
        if not isinstance(class_id, (int, str)) or class_id not in names:
            raise RecordError("unknown class", f"{where}: category_id {class_id!r}; known: {names}")
        if names[class_id].replace(" ", "").replace("_", "") in NOT_OBJECTS:
            left_out.append("dont_care")
        elif CROWD_MARKS[crowd]:
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


def refuse_repeated_ids(annotations: list[dict[str, Any]]) -> None:
    """Let only annotations of one image pass that differ in their ids: one of two of the same id may be a copy, and
    then there are fewer objects than boxes. Annotations without id pass.

    Raises:
        RecordError: `duplicate id`.
    """
    ids = Counter(str(entry["id"]) for entry in annotations if entry.get("id") is not None)
    if repeated := [one for one, times in ids.items() if times > 1]:
        raise RecordError("duplicate id", f"annotation {', '.join(repeated):.60} stands twice under one image")


def find_image(root: Path, split_folder: str, name: str) -> Path:
    """The file that the annotation names, where the common layouts put it.

    Raises:
        RecordError: `unsafe path`, or `missing image` with the places that were tried.
    """
    path = inside(root, name).relative_to(root)
    folders = [folder for base in IMAGE_FOLDERS for folder in (f"{base}/{split_folder}", base)]
    tried = [root / folder.strip("/") / path for folder in folders]
    for candidate in tried:
        if candidate.is_file():
            return candidate
    places = ", ".join(relative(candidate.parent, root) for candidate in tried)
    raise RecordError("missing image", f"{name!r} in none of {places}")


def stated_size(entry: dict[str, Any]) -> tuple[int, int] | None:
    """Width and height where the entry states both as integers."""
    width, height = entry.get("width"), entry.get("height")
    return (width, height) if isinstance(width, int) and isinstance(height, int) else None


def coco_sample(
    source: Source,
    root: Path,
    image: Path,
    annotations: list[dict[str, Any]],
    names: dict[Any, str],
    size: tuple[int, int] | None,
    split: str,
) -> Sample:
    """One image with its boxes.

    Raises:
        RecordError: the reasons of `refuse_repeated_ids`, `image_annotation` and `annotated_sample`.
    """
    refuse_repeated_ids(annotations)
    return annotated_sample(source, root, image, image_annotation(annotations, names, size), split)


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
            yield Rejected(source.name, place, name, "duplicate id", f"image id {entry['id']!r} occurs before")
            continue
        known.add(entry["id"])
        try:
            image = find_image(root, folder, name)
        except RecordError as error:
            yield Rejected(source.name, place, name or f"image {number}", error.reason, error.detail)
            continue
        seen.add(image)
        size = stated_size(entry)
        yield attempt(source, place, name, partial(coco_sample, source, root, image, annotations, names, size, split))
    for image_id in sorted(grouped.keys() - known, key=str):
        detail = f"{len(grouped[image_id])} annotations of image_id {image_id!r}, which no image has"
        yield Rejected(source.name, place, f"image_id {image_id}", "annotation without image", detail)


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
