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
    with_facts,
)
from irgpt_lib.irtd.sources.boxes import fit_box, make_box
from irgpt_lib.irtd.sources.files import list_images, read_image, read_text
from irgpt_lib.irtd.sources.lines import numbers, read_lines
from irgpt_lib.irtd.sources.source import Found, MalformedFile, Source

CLASS_FILES = ("data.yaml", "data.yml", "dataset.yaml", "classes.txt", "labels/classes.txt")
IMAGE_FOLDERS = frozenset({"images", "infrared", "ir"})
VISIBLE_FOLDERS = ("visible", "vis", "Vis")
LABELS = "labels"
LABEL_FIELDS = 5


class Place(NamedTuple):
    """Where an image stands: `key` is its path without the images folder and the suffix, `label` the file with its
    boxes, `mate` its visible image; neither need exist."""

    key: str
    label: Path
    mate: Path | None


def class_names(root: Path, source: Source) -> dict[str, str]:
    """Lower-case class names by number as labels write it, of the first of `CLASS_FILES` that exists.

    Raises:
        MissingData: none exists.
        MalformedFile: it names no class.
    """
    file = next((root / name for name in CLASS_FILES if (root / name).is_file()), None)
    if file is None:
        raise source.missing(root, f"no class names in any of {', '.join(CLASS_FILES)}")
    text = read_text(file)
    names = dict(enumerate(text.split("\n"))) if file.suffix == ".txt" else yaml_names(text, file)
    named = {number: name for number, name in names.items() if name is not None and str(name).strip()}
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
    """Where the image stands; `None` for one in no folder of infrared images."""
    parts = image.relative_to(root).parts
    folders = [part.lower() for part in parts[:-1]]
    at = next((number for number, folder in enumerate(folders) if folder in IMAGE_FOLDERS), None)
    if at is None or any(folder in VISIBLE_FOLDERS for folder in folders):
        return None
    before, after = parts[:at], parts[at + 1 :]
    mates = (root.joinpath(*before, name, *after) for name in VISIBLE_FOLDERS)
    return Place(
        key=Path(*before, *after).with_suffix("").as_posix(),
        label=root.joinpath(*before, LABELS, *after).with_suffix(".txt"),
        mate=next((mate for mate in mates if mate.is_file()), None),
    )


def yolo_boxes(lines: Sequence[str], names: dict[str, str], width: int, height: int) -> tuple[Box, ...]:
    """The boxes of one label file in pixels; blank lines are none.

    Raises:
        RecordError: of the first line that is no box.
    """
    return tuple(
        label_box(line, names, width, height, f"line {number}") for number, line in enumerate(lines, start=1) if line
    )


def yolo_sample(source: Source, root: Path, image: Path, place: Place, names: dict[str, str]) -> Sample:
    """One image with its boxes; without a label file it is not annotated, with an empty one it shows no object.

    Raises:
        RecordError: the reasons of `read_lines`, `label_box` and `annotated_sample`, or `size mismatch` between the
            image and its visible mate.
    """
    labelled = place.label.is_file()
    sample = annotated_sample(source, root, image, Annotation() if labelled else None)
    sample = replace(sample, sample_id=f"{source.name}/{place.key}")
    if place.mate:
        visible, width, height = read_image(place.mate)
        if (width, height) != (sample.width, sample.height):
            raise RecordError("size mismatch", f"visible {width}x{height}, infrared {sample.width}x{sample.height}")
        sample = with_facts(replace(sample, visible=visible), visible_frame="aligned")
    if not labelled:
        return sample
    boxes = yolo_boxes(read_lines(place.label), names, sample.width, sample.height)
    return replace(sample, boxes=boxes, counted=counted_category(source, Annotation(boxes)))


def read_yolo(root: Path, source: Source) -> Found:
    """One sample an image below a folder `images` (or `infrared`, `ir`), whose labels lie in `labels` in its place.

    A sample is named by its path, since `train` and `val` may repeat a name. An image of the same path below `visible`
    or `vis` is its visible mate. Outlines and oriented boxes are rejected.

    Raises:
        MissingData: no folder, no class names or no image.
        MalformedFile: the class names cannot be used.
    """
    if not root.is_dir():
        raise source.missing(root, "no such folder")
    names = class_names(root, source)
    seen: dict[str, Path] = {}
    labels = set()
    for image in list_images(root):
        if (place := place_of(root, image)) is None:
            continue
        if place.key in seen:
            detail = f"{relative(seen[place.key], root)} has the same label file"
            yield Rejected(source.name, relative(image, root), place.key, "duplicate id", detail)
            continue
        seen[place.key] = image
        labels.add(place.label)
        build = partial(yolo_sample, source, root, image, place, names)
        yield attempt(source, relative(image, root), place.key, build)
    if not seen:
        raise source.missing(root, f"no image below a folder {', '.join(sorted(IMAGE_FOLDERS))}")
    for file in sorted(root.rglob("*.txt")):
        if LABELS in file.relative_to(root).parts[:-1] and file not in labels and file.name != "classes.txt":
            yield Rejected(source.name, relative(file, root), file.stem, "missing image", "no image has this path")
