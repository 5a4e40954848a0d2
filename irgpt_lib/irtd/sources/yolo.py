"""YOLO labels: `images/` and `labels/` are mirrored trees.

A line of a label file is `class cx cy w h`: centre and size in shares of the image's width and height.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from irgpt_lib.irtd.record import Box, RecordError, Rejected, Sample
from irgpt_lib.irtd.sources.assembly import (
    Annotation,
    annotated_sample,
    attempt,
    counted_category,
    plain_category,
    relative,
    with_aligned_mate,
)
from irgpt_lib.irtd.sources.boxes import fit_box, make_box
from irgpt_lib.irtd.sources.files import is_there, list_files, list_images, read_text
from irgpt_lib.irtd.sources.lines import numbers, read_lines
from irgpt_lib.irtd.sources.source import Found, MalformedFile, Source

CLASS_FILES = ("data.yaml", "data.yml", "dataset.yaml", "classes.txt", "labels/classes.txt")
IMAGE_FOLDERS = frozenset({"images", "infrared", "ir"})
VISIBLE_FOLDERS = frozenset({"visible", "vis"})
LABELS = "labels"
LABEL_FIELDS = 5


class Place(NamedTuple):
    """Where an image stands: `key` is its path without the images folder and the suffix, which an infrared image and
    its visible mate share, `label` the file with its boxes, which need not exist."""

    key: str
    label: Path
    visible: bool


def class_names(root: Path, source: Source) -> dict[str, str]:
    """Lower-case class names by number as labels write it, of the first of `CLASS_FILES` that exists.

    Raises:
        MissingData: none exists.
        MalformedFile: it names no class.
    """
    file = next((root / name for name in CLASS_FILES if is_there(root / name)), None)
    if file is None:
        raise source.missing(root, f"no class names in any of {', '.join(CLASS_FILES)}")
    text = read_text(file)
    names = dict(enumerate(text.split("\n"))) if file.suffix == ".txt" else yaml_names(text, file)
    # blank lines are none, and the numbers go on; `str` of anything else could come to gigabytes (aliases of YAML)
    named = {n: name for n, name in names.items() if name is not None and (not isinstance(name, str) or name.strip())}
    try:
        plain = {str(number): plain_category(name) for number, name in named.items()}
    except RecordError as error:
        raise MalformedFile(f"{file}: {error.detail}; write one name a class") from error
    if not plain:
        raise MalformedFile(f"{file}: names no class; write one name a class")
    return plain


def yaml_names(text: str, file: Path) -> dict[int, object]:
    """The entry `names` of a YAML file, a list or a mapping from class numbers.

    Raises:
        MalformedFile: no YAML, or no such entry.
    """
    try:
        content = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError, RecursionError) as error:
        raise MalformedFile(f"{file}: not valid YAML: {error}") from error
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not all(type(number) is int for number in names):
        raise MalformedFile(f"{file}: needs `names`, a list of class names or a mapping from class numbers")
    return names


def label_box(line: str, names: dict[str, str], width: int, height: int, where: str) -> Box:
    """One line's box in pixels.

    Raises:
        RecordError: `polygon label` (an outline or an oriented box), `malformed line`, `unknown class`, or a reason of
            a box; `where` names the line in the detail.
    """
    fields = line.split()
    if len(fields) > LABEL_FIELDS + 1 and len(fields) % 2:
        raise RecordError("polygon label", f"{where}: {len(fields) // 2} points, where a box has `class cx cy w h`")
    if len(fields) != LABEL_FIELDS:
        raise RecordError("malformed line", f"{where}: {len(fields)} fields, expected `class cx cy w h`")
    if fields[0] not in names:
        raise RecordError("unknown class", f"{where}: class {fields[0]!r}; known: {names}")
    x, y, across, down = numbers(fields[1:], where)
    corners = (
        (x - across / 2) * width,
        (y - down / 2) * height,
        (x + across / 2) * width,
        (y + down / 2) * height,
    )
    return fit_box(make_box(names[fields[0]], corners, where), width, height)


def place_of(root: Path, image: Path) -> Place | None:
    """Where the image stands; `None` for one in no folder of images."""
    parts = image.relative_to(root).parts
    of_images = [part.lower() in IMAGE_FOLDERS | VISIBLE_FOLDERS for part in parts[:-1]]
    if not any(of_images):
        return None
    at = of_images.index(True)
    kept = [part for part, known in zip(parts, [*of_images, False], strict=True) if not known]
    return Place(
        key=Path(*kept).with_suffix("").as_posix(),
        label=root.joinpath(*parts[:at], LABELS, *parts[at + 1 :]).with_suffix(".txt"),
        visible=any(part.lower() in VISIBLE_FOLDERS for part in parts[:-1]),
    )


def yolo_boxes(lines: Sequence[str], names: dict[str, str], width: int, height: int) -> tuple[Box, ...]:
    """The boxes of one label file in pixels; blank lines are none.

    Raises:
        RecordError: of the first line that is no box.
    """
    return tuple(
        label_box(line, names, width, height, f"line {number}") for number, line in enumerate(lines, start=1) if line
    )


def yolo_sample(
    source: Source, root: Path, image: Path, place: Place, mate: Path | None, names: dict[str, str]
) -> Sample:
    """One image with its boxes; without a label file it is not annotated, with an empty one it shows no object.

    Raises:
        RecordError: the reasons of `read_lines`, `label_box`, `annotated_sample` and `with_aligned_mate`.
    """
    labelled = is_there(place.label)
    sample = annotated_sample(source, root, image, Annotation() if labelled else None)
    sample = replace(sample, sample_id=f"{source.name}/{place.key}")
    if mate:
        sample = with_aligned_mate(sample, mate)
    if not labelled:
        return sample
    boxes = yolo_boxes(read_lines(place.label), names, sample.width, sample.height)
    return replace(sample, boxes=boxes, counted=counted_category(source, Annotation(boxes)))


def placed_images(
    root: Path, source: Source
) -> tuple[dict[str, tuple[Path, Place]], dict[str, tuple[Path, Place]], list[Rejected]]:
    """Infrared and visible images by key, each with its place, and those rejected: a second image of a key, an image in
    no folder of images."""
    infrared: dict[str, tuple[Path, Place]] = {}
    visible: dict[str, tuple[Path, Place]] = {}
    rejected = []
    for image in list_images(root):
        file = relative(image, root)
        if (place := place_of(root, image)) is None:
            detail = f"lies in no folder {', '.join(sorted(IMAGE_FOLDERS | VISIBLE_FOLDERS))}"
            rejected.append(Rejected(source.name, file, image.stem, "misplaced image", detail))
            continue
        images = visible if place.visible else infrared
        if place.key in images:
            detail = f"{relative(images[place.key][0], root)} has the same label file"
            rejected.append(Rejected(source.name, file, place.key, "duplicate id", detail))
        else:
            images[place.key] = image, place
    return infrared, visible, rejected


def read_yolo(root: Path, source: Source) -> Found:
    """One sample an image below a folder `images` (or `infrared`, `ir`), whose labels lie in `labels` in its place.

    A sample is named by its path, since `train` and `val` may repeat a name. An image of the same path below `visible`
    or `vis` is its visible mate. Outlines and oriented boxes are rejected, and so are images in other folders.

    Raises:
        MissingData: no folder, no class names or no image.
        MalformedFile: the class names cannot be used.
    """
    if not root.is_dir():
        raise source.missing(root, "no such folder")
    names = class_names(root, source)
    infrared, visible, rejected = placed_images(root, source)
    if not infrared:
        raise source.missing(root, f"no image below a folder {', '.join(sorted(IMAGE_FOLDERS))}")
    labels = set()
    for key, (image, place) in infrared.items():
        labels.add(place.label)
        mate = visible[key][0] if key in visible else None
        build = partial(yolo_sample, source, root, image, place, mate, names)
        yield attempt(source, relative(image, root), key, build)
    yield from rejected
    for key in sorted(visible.keys() - infrared.keys()):
        file, detail = visible[key][0], "no infrared image has this path"
        yield Rejected(source.name, relative(file, root), key, "missing infrared image", detail)
    for file in list_files(root, {".txt"}):
        if LABELS in file.relative_to(root).parts[:-1] and file not in labels and file.name != "classes.txt":
            yield Rejected(source.name, relative(file, root), file.stem, "missing image", "no image has this path")
