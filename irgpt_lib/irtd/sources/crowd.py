"""Crowds: a point on each head of a thermal image, with its visible mate.

RGBT-CC keeps `<number>_T.jpg` (`_Grey` in the release of IR-TD), `<number>_RGB.jpg` and `<number>_GT.json` in one
folder a split. DroneRGBT keeps `Infrared/<number>R.jpg`, `RGB/<number>.jpg` and `GT_/<number>R.xml`.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from irgpt_lib.irtd.record import Box, Point, RecordError, Rejected, Sample
from irgpt_lib.irtd.sources.assembly import (
    Annotation,
    annotated_sample,
    attempt,
    by_stem,
    plain_category,
    relative,
    with_aligned_mate,
)
from irgpt_lib.irtd.sources.boxes import make_box
from irgpt_lib.irtd.sources.files import MAX_RECORD_BYTES, files_in, list_files, list_images, parse_json, read_bytes
from irgpt_lib.irtd.sources.source import Found, Source
from irgpt_lib.irtd.sources.voc import read_tree, stated_size

PERSON = "person"
PARTS = ("train", "Train", "val", "Val", "test", "Test", "")
IMAGE_NAME = re.compile(r"(.+)_(T|Grey|RGB)")
TRUTH = "_GT"
ENDING = re.compile(r"_(T|Grey|RGB|GT)$")
DRONE_ENDING = re.compile(r"R$")
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


def crowd_of_json(data: bytes, where: str) -> Crowd:
    """The people of `{"count": n, "points": [[x, y], ...]}`.

    Raises:
        RecordError: `malformed JSON`, `malformed annotation` without a list of points, `unreadable point`, or `count
            mismatch` where the stated count is not the number of points.
    """
    content = parse_json(data, where)
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


def crowd_of_xml(data: bytes, where: str) -> Crowd:
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
        RecordError: a reason of the files or of `with_aligned_mate`.
    """
    parse = crowd_of_json if truth.suffix.lower() == ".json" else crowd_of_xml
    crowd = parse(read_bytes(truth, MAX_RECORD_BYTES), truth.name)
    annotation = Annotation(crowd.boxes, stated_size=crowd.stated_size)
    sample = annotated_sample(source, root, image, annotation)
    named = replace(sample, sample_id=f"{source.name}/{name}", points=crowd.points)
    return with_aligned_mate(named, mate)


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


def by_number(
    source: Source, root: Path, files: Iterable[Path], ending: re.Pattern[str]
) -> tuple[dict[str, Path], list[Rejected]]:
    """Files by their stem without its ending; a second file of a number is rejected."""
    numbered: dict[str, Path] = {}
    rejected = []
    for file in files:
        number = ending.sub("", file.stem)
        if numbered.setdefault(number, file) != file:
            detail = f"{relative(numbered[number], root)} is the file of {number} too"
            rejected.append(Rejected(source.name, relative(file, root), file.stem, "duplicate id", detail))
    return numbered, rejected


def read_rgbt_cc_part(root: Path, source: Source, part: str) -> Found:
    """RGBT-CC: the three files of a number lie side by side."""
    images, annotations = rgbt_cc_files(root / part)
    endings = {image: match[2] for image in images if (match := IMAGE_NAME.fullmatch(image.stem))}
    truths = [file for file in annotations if file.stem.endswith(TRUTH)]
    for file in sorted({*images, *annotations} - endings.keys() - set(truths)):
        detail = f"expected <number>_T, <number>_Grey or <number>_RGB, or <number>{TRUTH}.json"
        yield Rejected(source.name, relative(file, root), file.stem, "unknown name", detail)
    thermal = [image for image, ending in endings.items() if ending != "RGB"]
    visible = [image for image, ending in endings.items() if ending == "RGB"]
    numbered = [by_number(source, root, found, ENDING) for found in (thermal, visible, truths)]
    for _, repeated in numbered:
        yield from repeated
    yield from listed(source, root, part, *(found for found, _ in numbered))


def rgbt_cc_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The images and the JSON files of the folder itself."""
    return [image for image in list_images(folder) if image.parent == folder], files_in(folder, ".json")


def read_drone_part(root: Path, source: Source, part: str) -> Found:
    """DroneRGBT: a folder for each of the three files; names of infrared images and annotations end in R."""
    infrared, rgb, truth = (root / part / folder for folder in DRONE_FOLDERS)
    images, repeated = by_number(source, root, list_images(infrared), DRONE_ENDING)
    mates, repeated_mates = by_stem(source, root, list_images(rgb))
    truths, repeated_truths = by_number(source, root, list_files(truth, {".xml"}), DRONE_ENDING)
    yield from (*repeated, *repeated_mates, *repeated_truths)
    yield from listed(source, root, part, images, mates, truths)


def read_crowd(root: Path, source: Source) -> Found:
    """One sample a thermal image of RGBT-CC or DroneRGBT, people as points (a few of DroneRGBT as boxes).

    Raises:
        MissingData: no folder, or no `<split>/<number>_T` image and no image in `<split>/Infrared/`.
    """
    if not root.is_dir():
        raise source.missing(root, "no such folder")
    parts: list[str] = []
    for part in PARTS:
        # file systems that fold case show `train` and `Train` as one
        if (root / part).is_dir() and not any((root / part).samefile(root / other) for other in parts):
            parts.append(part)
    drone = [part for part in parts if any((root / part / folder).is_dir() for folder in DRONE_FOLDERS)]
    beside = [part for part in parts if part not in drone and is_rgbt_cc(root / part)]
    if not beside and not any(any(list_images(root / part / DRONE_FOLDERS[0])) for part in drone):
        raise source.missing(root, "no <split>/<number>_T image, and no image in <split>/Infrared/")
    for part in drone:
        yield from read_drone_part(root, source, part)
    for part in beside:
        yield from read_rgbt_cc_part(root, source, part)


def is_rgbt_cc(folder: Path) -> bool:
    """Whether one of the folder's own files is named as those of RGBT-CC are."""
    images, files = rgbt_cc_files(folder)
    return any(IMAGE_NAME.fullmatch(image.stem) for image in images) or any(file.stem.endswith(TRUTH) for file in files)
