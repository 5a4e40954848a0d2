"""Scene folders: a folder a class with infrared images; visible mates beside them (`<name>_rgb`) or in `visible/`.

`visible/` and `infrared/` may lie inside each class folder or above all of them, and a split folder above those.
"""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from irgpt_lib.irtd.record import Rejected, Sample
from irgpt_lib.irtd.sources.assembly import (
    SPLITS,
    Annotation,
    annotated_sample,
    attempt,
    plain_category,
    relative,
    with_facts,
)
from irgpt_lib.irtd.sources.files import list_images, read_image
from irgpt_lib.irtd.sources.source import Found, Source

INFRARED_FOLDERS = frozenset({"infrared", "ir", "nir", "thermal"})
VISIBLE_FOLDERS = frozenset({"visible", "vis", "rgb"})
VISIBLE_STEM = re.compile(r"(.+)_(rgb|vis)", re.IGNORECASE)
INFRARED_STEM = re.compile(r"(.+)_(ir|nir|swir|tir|thermal)", re.IGNORECASE)


class Place(NamedTuple):
    """What a path tells: the scene folder (empty where there is none), the name that an infrared image shares with its
    visible mate, and which of the two it is."""

    scene: str
    name: str
    visible: bool


def place_of(path: Path) -> Place:
    """The place of an image, its path taken from the root of the source."""
    folders = [part for part in path.parts[:-1] if part.lower() not in INFRARED_FOLDERS | VISIBLE_FOLDERS]
    visible = any(part.lower() in VISIBLE_FOLDERS for part in path.parts[:-1])
    stem = path.stem
    if match := VISIBLE_STEM.fullmatch(stem):
        stem, visible = match[1], True
    elif match := INFRARED_STEM.fullmatch(stem):
        stem = match[1]
    scene = next((folder for folder in folders if folder.lower() not in SPLITS), "")
    return Place(scene, "_".join([*folders, stem]), visible)


def scene_sample(source: Source, root: Path, image: Path, mate: Path | None, place: Place) -> Sample:
    """One infrared image of a scene, with its visible mate where there is one; whether the two are aligned is not
    known.

    Raises:
        RecordError: `unknown class` for a folder name that is none, or a reason of `annotated_sample` and
            `read_image`.
    """
    scene = plain_category(place.scene.replace("_", " "))
    sample = annotated_sample(source, root, image, Annotation())
    named = replace(
        sample,
        sample_id=f"{source.name}/{place.name}",
        group=sample.group.replace("/", f"/{place.scene}_", 1),
        scene=scene,
        visible=read_image(mate)[0] if mate else b"",
    )
    return with_facts(named, visible_frame="unknown") if mate else named


def read_scenes(root: Path, source: Source) -> Found:
    """One sample an infrared image; its scene is the name of its folder.

    Raises:
        MissingData: no folder, or no infrared image in a folder of its own.
    """
    if not root.is_dir():
        raise source.missing(root, "no such folder")
    infrared: dict[str, Path] = {}
    visible: dict[str, Path] = {}
    rejected = []
    for image in list_images(root):
        place, file = place_of(image.relative_to(root)), relative(image, root)
        images = visible if place.visible else infrared
        if not place.scene:
            detail = "lies in no scene folder"
            rejected.append(Rejected(source.name, file, image.stem, "no scene folder", detail))
        elif place.name in images:
            detail = f"{relative(images[place.name], root)} has the same scene and name"
            rejected.append(Rejected(source.name, file, image.stem, "duplicate id", detail))
        else:
            images[place.name] = image
    if not infrared:
        raise source.missing(root, "no infrared image in a scene folder")
    yield from rejected
    for name, image in infrared.items():
        place = place_of(image.relative_to(root))
        build = partial(scene_sample, source, root, image, visible.get(name), place)
        yield attempt(source, relative(image, root), image.stem, build)
    for name in sorted(visible.keys() - infrared.keys()):
        detail = f"no infrared image shares its scene and name, {name}"
        yield Rejected(source.name, relative(visible[name], root), visible[name].stem, "missing infrared image", detail)
