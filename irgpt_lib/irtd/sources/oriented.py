"""Vehicles in oriented boxes, seen from above: VEDAI (one text file, or one an image) and DroneVehicle (VOC-like XML).

A sample's boxes are the axis-aligned hulls of the oriented ones, cut at the image's border; the fact `boxes_from` is
`oriented`, `boxes_cut` the number of those that reached beyond it.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from irgpt_lib.irtd.record import Box, RecordError, Rejected, Sample, png_bytes
from irgpt_lib.irtd.sources.assembly import (
    Annotation,
    annotated_sample,
    attempt,
    by_stem,
    counted_category,
    plain_category,
    relative,
    with_aligned_mate,
    with_facts,
)
from irgpt_lib.irtd.sources.boxes import clip_box, make_box
from irgpt_lib.irtd.sources.files import (
    MAX_RECORD_BYTES,
    decoded,
    files_in,
    first_folder,
    inside,
    is_there,
    list_files,
    list_images,
    read_bytes,
    read_text,
)
from irgpt_lib.irtd.sources.lines import read_lines
from irgpt_lib.irtd.sources.source import Found, Source
from irgpt_lib.irtd.sources.voc import read_tree, stated_size

# DroneVehicle: misspellings as found in its files. Its `*` is no class and rejects the image.
DRONE_CLASSES = {
    "car": "car",
    "truck": "truck",
    "truvk": "truck",
    "bus": "bus",
    "van": "van",
    "freight car": "freight car",
    "freight": "freight car",
    "feright car": "freight car",
    "feright": "freight car",
}
SHIPPED_SIZE, BORDER_PX = (840, 712), 100
SPLITS = ("train", "val", "test")
VEDAI_CLASSES: dict[float, str] = {
    1: "car",
    2: "truck",
    4: "tractor",
    5: "camping car",
    7: "motorcycle",
    8: "bus",
    9: "van",
    10: "other vehicle",
    11: "pickup",
    23: "boat",
    31: "plane",
}
VEDAI_SIDES = (1024, 512)
INFRARED, VISIBLE = "_ir", "_co"
# How far an object's stated centre may lie from the mean of its corners, as a share of its hull's side and in pixels:
# they are the same for a rectangle, nearly so for one drawn by hand.
CENTRE_SHARE, CENTRE_SLACK_PX = 0.25, 2.0


def hull(category: str, xs: Sequence[object], ys: Sequence[object], where: str) -> Box:
    """The axis-aligned box around corners as a file states them, numbers or their text, in pixels.

    Raises:
        RecordError: `unreadable box` where a corner is no number, `degenerate box` where one is not finite or all lie
            on a line along an axis.
    """
    try:
        x, y = ([float(value) for value in values] for values in (xs, ys))  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError) as error:
        raise RecordError("unreadable box", f"{where}: {category} {list(xs)} {list(ys)}") from error
    if not all(map(math.isfinite, (*x, *y))):
        raise RecordError("degenerate box", f"{where}: {category} {x} {y}")
    return make_box(category, (min(x), min(y), max(x), max(y)), where)


def with_hulls(sample: Sample, source: Source, hulls: Sequence[Box]) -> Sample:
    """The sample with the parts of the hulls that its image shows, and the category that may be counted.

    Raises:
        RecordError: `box outside image` where one lies outside altogether.
    """
    boxes = []
    for box in hulls:
        try:
            boxes.append(clip_box(box, sample.width, sample.height))
        except RecordError as error:
            raise RecordError("box outside image", f"{box} in {sample.width}x{sample.height}") from error
    facts = {"boxes_from": "oriented"}
    if cut := sum(part != box for part, box in zip(boxes, hulls, strict=True)):
        facts["boxes_cut"] = str(cut)
    counted = counted_category(source, Annotation(tuple(boxes)))
    return with_facts(replace(sample, boxes=tuple(boxes), counted=counted), **facts)


# DroneVehicle


def parse_vehicles(data: bytes, where: str) -> tuple[tuple[Box, ...], tuple[int, int] | None]:
    """The hulls of an XML file's `<polygon>` or `<bndbox>` objects, and the image size that it states.

    Raises:
        RecordError: `unknown class`, or a reason of `read_tree`, `stated_size` and `hull`.
    """
    tree = read_tree(data, where)
    boxes = []
    for number, entry in enumerate(tree.iter("object")):
        place = f"{where}: object {number}"
        name = plain_category(entry.findtext("name")).replace("_", " ")
        if name not in DRONE_CLASSES:
            raise RecordError("unknown class", f"{place}: {name!r}; known: {', '.join(DRONE_CLASSES)}")
        if (polygon := entry.find("polygon")) is not None:
            xs, ys = ([polygon.findtext(f"{axis}{corner}") for corner in range(1, 5)] for axis in "xy")
        else:
            xs, ys = ([entry.findtext(f"bndbox/{axis}{end}") for end in ("min", "max")] for axis in "xy")
        boxes.append(hull(DRONE_CLASSES[name], xs, ys, place))
    return tuple(boxes), stated_size(tree, where)


def without_border(data: bytes, name: str, mode: str) -> bytes:
    """The image without the white border of DroneVehicle, as PNG of the given mode.

    Raises:
        RecordError: the reasons of `decoded`.
    """
    width, height = SHIPPED_SIZE
    inner = (BORDER_PX, BORDER_PX, width - BORDER_PX, height - BORDER_PX)
    image: Image.Image = decoded(data, name).convert(mode).crop(inner)
    return png_bytes(np.asarray(image))


def drone_sample(source: Source, root: Path, image: Path, mate: Path, file: Path, part: str) -> Sample:
    """One infrared image of DroneVehicle with the boxes drawn on it and its visible mate, registered by its authors.

    Where the images still are 840 x 712 pixels, their border of 100 pixels is cut and the boxes move with it.

    Raises:
        RecordError: a reason of `parse_vehicles`, `annotated_sample`, `with_aligned_mate` and `with_hulls`.
    """
    boxes, size = parse_vehicles(read_bytes(file, MAX_RECORD_BYTES), file.name)
    sample = with_aligned_mate(annotated_sample(source, root, image, Annotation(stated_size=size)), mate)
    facts = {"alignment": "registered by its authors"}
    if (sample.width, sample.height) == SHIPPED_SIZE:
        infrared = without_border(sample.infrared, image.name, "L")
        visible = without_border(sample.visible, mate.name, "RGB")
        width, height = (side - 2 * BORDER_PX for side in SHIPPED_SIZE)
        sample = replace(sample, width=width, height=height, infrared=infrared, visible=visible)
        boxes = tuple(moved(box, -BORDER_PX) for box in boxes)
        facts["border_cut_px"] = str(BORDER_PX)
    named = replace(sample, sample_id=f"{source.name}/{part}_{image.stem}", split=part)
    return with_facts(with_hulls(named, source, boxes), **facts)


def moved(box: Box, by: float) -> Box:
    """The box moved by as many pixels along both axes."""
    return replace(box, x1=box.x1 + by, y1=box.y1 + by, x2=box.x2 + by, y2=box.y2 + by)


def drone_folder(root: Path, part: str) -> Path | None:
    """The folder that holds one of the folders that are read: `<root>/<part>/`, or the root itself."""
    wanted = [f"{part}{ending}" for ending in ("imgr", "img", "labelr")]
    held = (folder for folder in (root / part, root) if any((folder / name).is_dir() for name in wanted))
    return next(held, None)


def read_drone_vehicle(root: Path, source: Source, folder: Path, part: str) -> Found:
    """One split: `<part>imgr/`, `<part>img/` and `<part>labelr/`, the boxes drawn on the infrared images."""
    images, repeated = by_stem(source, root, list_images(folder / f"{part}imgr"))
    mates, repeated_mates = by_stem(source, root, list_images(folder / f"{part}img"))
    files, repeated_files = by_stem(source, root, list_files(folder / f"{part}labelr", {".xml"}))
    yield from (*repeated, *repeated_mates, *repeated_files)
    have = {"image": images, "visible mate": mates, "annotation": files}
    for stem in sorted(images.keys() | mates.keys() | files.keys()):
        if lacking := [what for what, found in have.items() if stem not in found]:
            present = relative(next(found[stem] for found in have.values() if stem in found), root)
            detail = f"{part}: {stem} has no {', no '.join(lacking)}"
            yield Rejected(source.name, present, stem, f"missing {lacking[0]}", detail)
            continue
        build = partial(drone_sample, source, root, images[stem], mates[stem], files[stem], part)
        yield attempt(source, relative(images[stem], root), stem, build)


# VEDAI


@dataclass(frozen=True)
class Line:
    """Where an object of VEDAI is stated, and its fields as text: centre, class, corners."""

    place: str
    centre: Sequence[str]
    class_id: str
    corners: Sequence[str]


def table_line(number: int, fields: Sequence[str]) -> Line:
    """A line of the file of all images: `id xc yc orientation x1 x2 x3 x4 y1 y2 y3 y4 class contained occluded`.

    Raises:
        RecordError: `malformed line` where it has not these 15 fields.
    """
    if len(fields) != 15:
        raise RecordError("malformed line", f"line {number}: {len(fields)} fields, expected 15")
    return Line(f"line {number}", fields[1:3], fields[12], fields[4:12])


def image_line(number: int, fields: Sequence[str]) -> Line:
    """A line of one image's file: `xc yc orientation class contained occluded x1 x2 x3 x4 y1 y2 y3 y4`.

    Raises:
        RecordError: `malformed line` where it has not these 14 fields; a few files as shipped state centres only.
    """
    if len(fields) != 14:
        raise RecordError("malformed line", f"line {number}: {len(fields)} fields, expected 14")
    return Line(f"line {number}", fields[0:2], fields[3], fields[6:14])


def vedai_box(line: Line) -> Box:
    """The hull of one object.

    Raises:
        RecordError: `unknown class`, `centre off corners` where the fields stand in another order, or a reason of
            `hull`.
    """
    try:
        category = VEDAI_CLASSES[float(line.class_id)]
    except (ValueError, KeyError) as error:
        known = ", ".join(f"{number:g} {name}" for number, name in VEDAI_CLASSES.items())
        raise RecordError("unknown class", f"{line.place}: {line.class_id!r}; known: {known}") from error
    box = hull(category, line.corners[:4], line.corners[4:], line.place)
    try:
        x, y = map(float, line.centre)
    except ValueError as error:
        raise RecordError("unreadable box", f"{line.place}: centre {list(line.centre)}") from error
    # the corners' mean, not their hull: of columns in another order the hull spans from x to y and holds both
    mean_x, mean_y = (sum(map(float, values)) / 4 for values in (line.corners[:4], line.corners[4:]))
    far_x = abs(mean_x - x) > CENTRE_SHARE * (box.x2 - box.x1) + CENTRE_SLACK_PX
    far_y = abs(mean_y - y) > CENTRE_SHARE * (box.y2 - box.y1) + CENTRE_SLACK_PX
    if not (math.isfinite(x) and math.isfinite(y)) or far_x or far_y:
        raise RecordError("centre off corners", f"{line.place}: {x}, {y} is not amid {box}")
    return box


def vedai_sample(
    source: Source,
    root: Path,
    image: Path,
    mate: Path,
    lines: Sequence[tuple[int, str]] | Path | None,
    side: int | None,
) -> Sample:
    """One infrared image of VEDAI with its aligned visible mate.

    `lines` are the image's numbered lines of the file of all images, or its own file, or `None` where neither speaks of
    it. `side` is the width and height in pixels that the annotations are for, `None` where their folder does not tell.

    Raises:
        RecordError: a reason of the files, of `vedai_box`, `annotated_sample`, `with_aligned_mate` and `with_hulls`.
    """
    boxes: tuple[Box, ...] = ()
    if isinstance(lines, Path):
        own = [(number, text) for number, text in enumerate(read_lines(lines), 1) if text]
        boxes = tuple(vedai_box(image_line(number, text.split())) for number, text in own)
    elif lines is not None:
        boxes = tuple(vedai_box(table_line(number, text.split())) for number, text in lines)
    annotation = None if lines is None else Annotation(stated_size=(side, side) if side else None)
    sample = annotated_sample(source, root, image, annotation)
    named = replace(sample, sample_id=f"{source.name}/{image.stem.removesuffix(INFRARED)}")
    paired = with_aligned_mate(named, mate)
    return paired if lines is None else with_hulls(paired, source, boxes)


def table_rows(file: Path) -> dict[str, list[tuple[int, str]]]:
    """The numbered lines of the file of all images, by image id.

    Raises:
        MalformedFile: it is not UTF-8.
    """
    rows: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for number, line in enumerate(read_text(file).splitlines(), 1):
        if fields := line.split():
            rows[fields[0]].append((number, line))
    return dict(rows)


@dataclass(frozen=True)
class VedaiPlace:
    """Where a copy of VEDAI lies: images, annotations, the side in pixels that these are for (0 where untold) and the
    file of all images, `None` where each image has its own."""

    images: Path
    annotations: Path
    side: int
    table: Path | None


def vedai_place(root: Path) -> VedaiPlace | None:
    """The copy with the largest images: `Vehicules1024/` with `Annotations1024/`, then 512; else `images/`
    with `annotations/`, or all in one folder."""
    for side in VEDAI_SIDES:
        images = first_folder(root, (f"Vehicules{side}", "images", ""))
        annotations = first_folder(root, (f"Annotations{side}", "annotations", "metadata", ""))
        if images and annotations and any(image.stem.endswith(INFRARED) for image in list_images(images)):
            table = annotations / f"annotation{side}.txt"
            if is_there(table):
                return VedaiPlace(images, annotations, side, table)
            if own_files(annotations):
                told = annotations.name.endswith(str(side))
                return VedaiPlace(images, annotations, side if told else 0, None)
    return None


def read_vedai(root: Path, source: Source, place: VedaiPlace) -> Found:
    """One sample an `<id>_ir` image with its mate `<id>_co`. An image that the file of all images does not name has no
    annotation, one whose own file is empty has no vehicle."""
    found, repeated = by_stem(source, root, list_images(place.images))
    yield from repeated
    infrared = {stem.removesuffix(INFRARED): file for stem, file in found.items() if stem.endswith(INFRARED)}
    visible = {stem.removesuffix(VISIBLE): file for stem, file in found.items() if stem.endswith(VISIBLE)}
    for stem, file in found.items():
        if not stem.endswith((INFRARED, VISIBLE)):
            detail = f"expected <number>{INFRARED} or <number>{VISIBLE}"
            yield Rejected(source.name, relative(file, root), stem, "unknown name", detail)
    stated: dict[str, list[tuple[int, str]]] | dict[str, Path]
    if place.table:
        stated = table_rows(place.table)
    else:
        stated, repeated = by_stem(source, root, own_files(place.annotations))
        yield from repeated
    for name, image in infrared.items():
        if name not in visible:
            detail = f"no {name}{VISIBLE} beside it"
            yield Rejected(source.name, relative(image, root), image.stem, "missing visible mate", detail)
            continue
        build = partial(vedai_sample, source, root, image, visible[name], stated.get(name), place.side or None)
        yield attempt(source, relative(image, root), image.stem, build)
    for name in sorted(visible.keys() - infrared.keys()):
        detail = f"no {name}{INFRARED} beside it"
        yield Rejected(source.name, relative(visible[name], root), visible[name].stem, "missing image", detail)
    for name in sorted(stated.keys() - infrared.keys()):
        yield without_image(source, root, place.table or place.annotations / f"{name}.txt", name)


def own_files(folder: Path) -> list[Path]:
    """The annotation files of single images; beside them lie lists of the authors' folds."""
    return [file for file in files_in(folder, ".txt") if file.stem.isdecimal()]


def without_image(source: Source, root: Path, file: Path, name: str) -> Rejected:
    """The rejection of annotations without their image, or of a name that is no path inside the folder."""
    try:
        inside(root, name)
    except RecordError as error:
        return Rejected(source.name, relative(file, root), name, error.reason, error.detail)
    detail = f"no image {name}{INFRARED}"
    return Rejected(source.name, relative(file, root), name, "missing image", detail)


def read_oriented(root: Path, source: Source) -> Found:
    """One sample an infrared image of DroneVehicle (`<split>/<split>imgr/`) or of VEDAI (`<id>_ir`).

    Raises:
        MissingData: no folder, or neither layout in it.
        MalformedFile: VEDAI's file of all images is not UTF-8.
    """
    if not root.is_dir():
        raise source.missing(root, "no such folder")
    splits = [(folder, part) for part in SPLITS if (folder := drone_folder(root, part))]
    if any(any(list_images(folder / f"{part}imgr")) for folder, part in splits):
        for folder, part in splits:
            yield from read_drone_vehicle(root, source, folder, part)
        return
    if (place := vedai_place(root)) is None:
        raise source.missing(root, "no image in <split>imgr/, and no <id>_ir image with annotations")
    yield from read_vedai(root, source, place)
