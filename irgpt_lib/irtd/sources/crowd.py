"""Crowds: a point on each head of a thermal image, with its visible mate.

RGBT-CC keeps `<number>_T.jpg` (`_Grey` in the release of IR-TD), `<number>_RGB.jpg` and `<number>_GT.json` in one
folder a split. DroneRGBT keeps `Infrared/<number>R.jpg`, `RGB/<number>.jpg` and `GT_/<number>R.xml`.
"""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from irgpt_lib.irtd.record import Box, Point, RecordError, Rejected, Sample
from irgpt_lib.irtd.sources.assembly import (
    Annotation,
    annotated_sample,
    attempt,
    by_stem,
    plain_category,
    relative,
    with_facts,
)
from irgpt_lib.irtd.sources.boxes import make_box
from irgpt_lib.irtd.sources.files import MAX_RECORD_BYTES, list_images, read_bytes, read_image
from irgpt_lib.irtd.sources.oriented import read_tree, stated_size
from irgpt_lib.irtd.sources.source import Found, Source

PERSON = "person"
PARTS = ("train", "Train", "val", "Val", "test", "Test", "")
SUFFIXES = re.compile(r"(.+)_(T|Grey|RGB)")
DRONE_FOLDERS = ("Infrared", "RGB", "GT_")


@dataclass(frozen=True)
class Crowd:
    """The people of one image: those annotated by a point, those by a box, and the size that the file states."""

    points: tuple[Point, ...]
    boxes: tuple[Box, ...] = ()
    stated_size: tuple[int, int] | None = None


def person_at(x: object, y: object, where: str) -> Point:
    """A person at `x, y` as a file states them, numbers or their text, in pixels.

    Raises:
        RecordError: `unreadable point` where one is no finite number.
    """
    try:
        point = Point(PERSON, float(x), float(y))  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError) as error:
        raise RecordError("unreadable point", f"{where}: {x!r:.40}, {y!r:.40}") from error
    if not (math.isfinite(point.x) and math.isfinite(point.y)):
        raise RecordError("unreadable point", f"{where}: {point.x}, {point.y}")
    return point


def parse_json(data: bytes, where: str) -> Crowd:
    """The people of `{"count": n, "points": [[x, y], ...]}`.

    Raises:
        RecordError: `malformed JSON`, `malformed annotation` without a list of points, `unreadable point`, or `count
            mismatch` where the stated count is not the number of points.
    """
    try:
        content: Any = json.loads(data)
    # ValueError covers bytes that are not UTF-8 and numbers of more digits than Python converts
    except (ValueError, RecursionError) as error:
        raise RecordError("malformed JSON", f"{where}: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("points"), list):
        raise RecordError("malformed annotation", f"{where}: expected an object with the list `points`")
    points = []
    for number, pair in enumerate(content["points"]):
        if not isinstance(pair, list) or len(pair) != 2:
            raise RecordError("unreadable point", f"{where}: point {number}: {pair!r:.40}, expected x and y")
        points.append(person_at(*pair, f"{where}: point {number}"))
    if "count" in content and content["count"] != len(points):
        raise RecordError("count mismatch", f"{where}: states {content['count']!r:.40}, has {len(points)} points")
    return Crowd(tuple(points))


def parse_xml(data: bytes, where: str) -> Crowd:
    """The people of a VOC-like file, each with `<point>` or, now and then, with `<bndbox>`.

    Raises:
        RecordError: `unknown class` for anything but a person, `unreadable point`, or a reason of `read_tree` and
            `make_box`.
    """
    tree = read_tree(data, where)
    points: list[Point] = []
    boxes: list[Box] = []
    for number, entry in enumerate(tree.iter("object")):
        place = f"{where}: object {number}"
        if (category := plain_category(entry.findtext("name"))) != PERSON:
            raise RecordError("unknown class", f"{place}: {category!r}; known: {PERSON}")
        if entry.find("point") is not None:
            points.append(person_at(entry.findtext("point/x"), entry.findtext("point/y"), place))
        else:
            x1, y1, x2, y2 = (entry.findtext(f"bndbox/{corner}") for corner in ("xmin", "ymin", "xmax", "ymax"))
            boxes.append(make_box(PERSON, (x1, y1, x2, y2), place))
    return Crowd(tuple(points), tuple(boxes), stated_size(tree, where))


def crowd_sample(source: Source, root: Path, image: Path, mate: Path, truth: Path, name: str) -> Sample:
    """One thermal image with its people and its aligned visible mate; `name` becomes its id within the source.

    Raises:
        RecordError: `size mismatch` between the two images, or a reason of the files.
    """
    parse = parse_json if truth.suffix == ".json" else parse_xml
    crowd = parse(read_bytes(truth, MAX_RECORD_BYTES), truth.name)
    visible, *size = read_image(mate)
    annotation = Annotation(crowd.boxes, stated_size=crowd.stated_size)
    sample = annotated_sample(source, root, image, annotation, visible=visible)
    if size != [sample.width, sample.height]:
        sizes = f"{size[0]}x{size[1]}, infrared {sample.width}x{sample.height}"
        raise RecordError("size mismatch", f"{mate.name}: visible {sizes}")
    named = replace(sample, sample_id=f"{source.name}/{name}", points=crowd.points)
    return with_facts(named, visible_frame="aligned")


def listed(
    source: Source,
    root: Path,
    part: str,
    images: dict[str, Path],
    mates: dict[str, Path],
    truths: dict[str, Path],
) -> Found:
    """One record a number; where one of its three files is absent, it is rejected."""
    for number in sorted(images.keys() | mates.keys() | truths.keys()):
        have = {"infrared image": images, "visible mate": mates, "annotation": truths}
        lacking = [what for what, files in have.items() if number not in files]
        if lacking:
            present = next(files[number] for files in have.values() if number in files)
            detail = f"{number} has no {', no '.join(lacking)}"
            yield Rejected(source.name, relative(present, root), number, f"missing {lacking[0]}", detail)
            continue
        name = f"{part.lower()}_{number}" if part else number
        build = partial(crowd_sample, source, root, images[number], mates[number], truths[number], name)
        yield attempt(source, relative(images[number], root), number, build)


def by_number(files: Iterable[Path], suffix: str) -> dict[str, Path]:
    """Files by their stem without the suffix."""
    return {file.stem.removesuffix(suffix): file for file in files}


def read_rgbt_cc_part(root: Path, source: Source, part: str) -> Found:
    """RGBT-CC: the three files of a number lie side by side."""
    folder = root / part
    thermal: list[Path] = []
    visible: list[Path] = []
    for image in sorted(file for file in list_images(folder) if file.parent == folder):
        if not (match := SUFFIXES.fullmatch(image.stem)):
            detail = "expected <number>_T, <number>_Grey or <number>_RGB"
            yield Rejected(source.name, relative(image, root), image.stem, "unknown name", detail)
        else:
            (visible if match[2] == "RGB" else thermal).append(image)
    images: dict[str, Path] = {}
    for image in thermal:
        number = SUFFIXES.sub(r"\1", image.stem)
        if number in images:
            detail = f"{images[number].name} is the infrared image of {number} too"
            yield Rejected(source.name, relative(image, root), image.stem, "duplicate id", detail)
        images.setdefault(number, image)
    truths = by_number(sorted(folder.glob("*_GT.json")), "_GT")
    yield from listed(source, root, part, images, by_number(visible, "_RGB"), truths)


def read_drone_part(root: Path, source: Source, part: str) -> Found:
    """DroneRGBT: a folder for each of the three files; names of infrared images and annotations end in R."""
    infrared, rgb, truth = (root / part / folder for folder in DRONE_FOLDERS)
    images, repeated = by_stem(source, root, list_images(infrared))
    mates, repeated_mates = by_stem(source, root, list_images(rgb))
    yield from (*repeated, *repeated_mates)
    truths = by_number(sorted(truth.glob("*.xml")), "R")
    yield from listed(source, root, part, by_number(images.values(), "R"), mates, truths)


def read_crowd(root: Path, source: Source) -> Found:
    """One sample a thermal image of RGBT-CC or DroneRGBT, people as points (a few of DroneRGBT as boxes).

    Raises:
        MissingData: no folder, or no `<split>/<number>_T` image and no image in `<split>/Infrared/`.
    """
    if not root.is_dir():
        raise source.missing(root, "no such folder")
    seen: list[Path] = []
    for part in PARTS:
        folder = root / part
        # file systems that fold case show `train` and `Train` as one
        if not folder.is_dir() or any(folder.samefile(other) for other in seen):
            continue
        if any(list_images(folder / "Infrared")):
            seen.append(folder)
            yield from read_drone_part(root, source, part)
        elif any(SUFFIXES.fullmatch(file.stem) for file in list_images(folder) if file.parent == folder):
            seen.append(folder)
            yield from read_rgbt_cc_part(root, source, part)
    if not seen:
        raise source.missing(root, "no <split>/<number>_T image, and no image in <split>/Infrared/")
