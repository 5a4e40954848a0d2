"""Person re-identification folders: one montage of eight infrared persons a query.

Four layouts, told apart by their folders; below each infrared folder lies one folder an identity.

| data set     | infrared                | identities by split            | camera              |
|--------------|-------------------------|--------------------------------|---------------------|
| SYSU-MM01    | `cam3/`, `cam6/`        | `exp/{train,val,test}_id.txt`  | the folder          |
| RegDB        | `Thermal/`              | `idx/{train,test}_thermal_1.txt` | one               |
| LLCM         | `nir/`                  | `idx/{train,test}_nir.txt`     | `_c06_` in the name |
| ThermalWorld | `IR_8/`, `IR/`          | `train/`, `test/` above them   | not stated          |

The lists of SYSU-MM01 hold identities between commas. Those of RegDB and LLCM hold lines `path label`, whose label
starts at 0 in each list: only the path names the identity. RegDB has ten random partings into 206 and 206 identities,
of which the first is used. LLCM's lists part 1,064 identities into 713 and 351; its `test_nir/` holds copies of test
images in `nir/`. The layout of ThermalWorld is doubtful: it was told from programs that read it.
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from PIL import Image

from irgpt_lib.irtd.record import Box, RecordError, Rejected, Sample, png_bytes
from irgpt_lib.irtd.sources.assembly import attempt, printable, relative, split_of
from irgpt_lib.irtd.sources.files import (
    colour_facts,
    decoded,
    inside,
    is_there,
    list_images,
    read_text,
    read_toned,
    short_path,
)
from irgpt_lib.irtd.sources.montage import (
    CELL_HEIGHT,
    CELL_WIDTH,
    COLUMNS,
    MIN_IDENTITIES,
    ROWS,
    Plan,
    Shot,
    blocks_of,
    cell_corners,
    compose,
    plan_block,
)
from irgpt_lib.irtd.sources.source import Found, Source


@dataclass(frozen=True)
class Entry:
    """One entry of a list: the record that it is, the identity that it names, or why it names none."""

    record: str
    identity: str = ""
    reason: str = ""
    detail: str = ""


# The text of a list and the images that exist, as paths below the root -> what its entries say.
Listing = Callable[[str, frozenset[str]], Iterator[Entry]]
# Identity -> the splits that claim it.
Splits = dict[str, set[str]]


def plain_identity(name: str) -> str:
    """The name of an identity, whatever zeros a folder or list puts before its number: `0007` for `7`."""
    return f"{int(name):04d}" if re.fullmatch(r"[0-9]{1,9}", name) else name


def listed_identities(text: str, files: frozenset[str]) -> Iterator[Entry]:
    """Identities between commas, as in SYSU-MM01; an entry that is no number has the reason `malformed entry`."""
    for number, word in enumerate(re.split(r"[,\s]+", text.strip(", \t\r\n")), start=1):
        if re.fullmatch(r"[0-9]{1,9}", word):
            yield Entry(f"identity {word}", plain_identity(word))
        elif word:
            yield Entry(f"entry {number}", reason="malformed entry", detail=f"{word!r:.60} is no identity")


def listed_paths(text: str, files: frozenset[str]) -> Iterator[Entry]:
    """Lines `path label`, as in RegDB and LLCM; the folder of the file names the identity.

    A line has the reason `unsafe path`, `malformed line`, or `missing image` where `files` lacks its path.
    """
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        name = line.strip().rsplit(maxsplit=1)[0]
        try:
            path = inside(Path(), name)
        except RecordError as error:
            yield Entry(f"line {number}", reason=error.reason, detail=error.detail)
            continue
        if len(path.parts) < 3:
            detail = f"expected `folder/identity/image label`, found {line!r:.80}"
            yield Entry(f"line {number}", reason="malformed line", detail=detail)
        elif path.as_posix() not in files:
            yield Entry(f"line {number}", plain_identity(path.parts[-2]), "missing image", name)
        else:
            yield Entry(f"line {number}", plain_identity(path.parts[-2]))


def camera_folder(path: Path) -> str:
    """`cam3` of `cam3/0001/0001.jpg`."""
    return path.parts[0]


def camera_in_name(path: Path) -> str:
    """`c06` of `0250_c06_s195701_f13335_nir.jpg`; empty where the name has another form."""
    match = re.search(r"_(c[0-9]+)_", path.name)
    return match[1] if match else ""


def no_camera(path: Path) -> str:
    """Nothing: the data set has one camera or does not tell."""
    return ""


@dataclass(frozen=True)
class Layout:
    """Where a data set keeps its infrared folders, and which list gives which split.

    `camera` tells the camera of a file from its path below the root. `lists` is empty where the folders above tell the
    split; `listed` takes a list apart (see `listed_identities`, `listed_paths`).
    """

    folders: tuple[str, ...]
    camera: Callable[[Path], str]
    lists: dict[str, str] = field(default_factory=dict)
    listed: Listing = listed_paths


LAYOUTS = (
    Layout(
        ("cam3", "cam6"),
        camera_folder,
        {"exp/train_id.txt": "train", "exp/val_id.txt": "val", "exp/test_id.txt": "test"},
        listed_identities,
    ),
    Layout(
        ("Thermal",),
        no_camera,
        {"idx/train_thermal_1.txt": "train", "idx/test_thermal_1.txt": "test"},
        listed_paths,
    ),
    Layout(("nir",), camera_in_name, {"idx/train_nir.txt": "train", "idx/test_nir.txt": "test"}, listed_paths),
    Layout(("train/IR_8", "test/IR_8", "train/IR", "test/IR", "IR_8", "IR"), no_camera),
)


def layout_of(root: Path) -> Layout | None:
    """The first layout of which `root` has an infrared folder."""
    return next((known for known in LAYOUTS if any((root / folder).is_dir() for folder in known.folders)), None)


def list_shots(root: Path, source: Source, layout: Layout) -> tuple[list[Shot], list[Rejected]]:
    """All infrared images that lie in an identity's folder, sorted by folder and name, and those that lie in none,
    rejected; no image is opened."""
    shots = []
    rejected = []
    for folder in layout.folders:
        for file in list_images(root / folder):
            if file.parent == root / folder:
                detail = f"lies in no identity's folder below {folder}/"
                rejected.append(Rejected(source.name, relative(file, root), file.stem, "misplaced image", detail))
            else:
                camera = layout.camera(file.relative_to(root))
                shots.append(Shot(plain_identity(file.relative_to(root / folder).parts[0]), camera, file))
    return shots, rejected


def splits_by_list(root: Path, source: Source, layout: Layout, shots: list[Shot]) -> tuple[Splits, list[Rejected]]:
    """What the data set's own lists say, and their absent files and bad entries as rejected.

    Raises:
        MalformedFile: a list is not UTF-8.
    """
    splits: Splits = defaultdict(set)
    rejected = []
    files = frozenset(relative(shot.file, root) for shot in shots)
    present = {shot.identity for shot in shots}
    for name, split in layout.lists.items():
        if not is_there(root / name):
            rejected.append(Rejected(source.name, name, name, "missing list", f"no identities of {split}"))
            continue
        absent = set()
        for entry in layout.listed(read_text(root / name), files):
            if entry.identity:
                splits[entry.identity].add(split)
            if entry.identity and entry.identity not in present:
                absent.add(entry.identity)
            elif entry.reason:
                detail = printable(entry.detail)
                rejected.append(Rejected(source.name, name, entry.record, entry.reason, detail))
        for identity in sorted(absent):
            detail = f"listed for {split}, but no infrared folder holds an image of it"
            rejected.append(Rejected(source.name, name, printable(identity), "identity without images", detail))
    return dict(splits), rejected


def splits_by_folder(root: Path, shots: list[Shot]) -> Splits:
    """What the folders above the images say: the split that they name, or the empty one."""
    splits: Splits = defaultdict(set)
    for shot in shots:
        splits[shot.identity].add(split_of(relative(shot.file, root)))
    return dict(splits)


def usable_identities(
    root: Path, source: Source, shots: list[Shot], splits: Splits
) -> tuple[dict[str, dict[str, list[Shot]]], list[Rejected]]:
    """Split -> identity -> shots, of the identities that can be asked about, and those that cannot, each once.

    Where no list names any identity, all have the empty split; where lists do, one that they leave out is rejected, for
    nobody knows on which side it belongs.
    """
    grouped: dict[str, list[Shot]] = defaultdict(list)
    for shot in shots:
        grouped[shot.identity].append(shot)
    usable: dict[str, dict[str, list[Shot]]] = defaultdict(dict)
    rejected = []
    for identity, own in sorted(grouped.items()):
        place, name = printable(relative(own[0].file.parent, root)), printable(identity)
        claims = sorted(splits.get(identity, ())) if splits else [""]
        if len(claims) > 1:
            rejected.append(Rejected(source.name, place, name, "identity in two splits", " and ".join(claims)))
        elif not claims:
            rejected.append(Rejected(source.name, place, name, "identity in no list", f"{len(own)} images"))
        elif len(own) < 2:
            detail = f"{printable(own[0].file.name)} is its only infrared image"
            rejected.append(Rejected(source.name, place, name, "single image of identity", detail))
        else:
            usable[claims[0]][identity] = own
    return dict(usable), rejected


def read_cell(file: Path) -> tuple[Image.Image, dict[str, str]]:
    """One cell's image, gray unless its content lies in hue, and the facts of its reading.

    Raises:
        RecordError: the reasons of `read_toned` and `decoded`; the detail names the file.
    """
    read = read_toned(file)
    facts = read.facts | colour_facts(read.data, short_path(file))
    return decoded(read.data, short_path(file)).convert("RGB" if "colour_mapped" in facts else "L"), facts


def montage_sample(
    source: Source, root: Path, plan: Plan, group: str, split: str, numbered: bool, record: str, images: int
) -> Sample:
    """One montage. The facts `identities`, `cameras` and `cells` (the files) are JSON lists in the order of the cells;
    what was done to single cells (`tone`, `bit_depth`, `colour_mapped`, `page`) is a JSON object by cell number.
    `identity_images` counts the query's identity's `images`, at most ten of which ask for a montage.

    Raises:
        RecordError: the reasons of `read_cell`, or `answer repeats query` where both are one image under two names.
    """
    read = [read_cell(shot.file) for shot in plan.cells]
    query, match = read[0][0], read[plan.answer - 1][0]
    if query.size == match.size and query.tobytes() == match.tobytes():
        names = f"{relative(plan.cells[0].file, root)} and {relative(plan.cells[plan.answer - 1].file, root)}"
        raise RecordError("answer repeats query", f"{names} show the same pixels")
    facts = {
        "identities": json.dumps([shot.identity for shot in plan.cells]),
        "cameras": json.dumps([shot.camera for shot in plan.cells]),
        "cells": json.dumps([relative(shot.file, root) for shot in plan.cells]),
        "identity_images": str(images),
    }
    for fact in sorted({fact for _, found in read for fact in found}):
        facts[fact] = json.dumps({str(cell): found[fact] for cell, (_, found) in enumerate(read, 1) if fact in found})
    # Identities carry the source's name: two data sets both number theirs from 1.
    boxes = (
        Box("person", *map(float, cell_corners(cell)), f"{source.name}/{printable(shot.identity)}")
        for cell, shot in enumerate(plan.cells, start=1)
    )
    return Sample(
        sample_id=f"{source.name}/{record}",
        source=source.name,
        band=source.band,
        kind="montage",
        width=COLUMNS * CELL_WIDTH,
        height=ROWS * CELL_HEIGHT,
        infrared=png_bytes(compose([image for image, _ in read], numbered)),
        authentic=source.authentic,
        group=group,
        split=split,
        boxes=tuple(boxes),
        montage_answer=plan.answer,
        origin=printable(relative(plan.cells[0].file, root)),
        facts=facts | ({"own_split": split} if split else {}),
    )


def split_montages(root: Path, source: Source, split: str, shots: dict[str, list[Shot]], numbered: bool) -> Found:
    """The montages of one of the data set's own splits, block by block; a block is the samples' group."""
    if len(shots) < MIN_IDENTITIES:
        detail = f"{len(shots)} identities with two images in split {split!r}; a montage shows {MIN_IDENTITIES}"
        yield Rejected(source.name, split or "all", ", ".join(map(printable, shots)), "too few identities", detail)
        return
    for number, block in enumerate(blocks_of(list(shots))):
        name = f"{split or 'all'}_{number:03d}"
        for plan in plan_block({identity: shots[identity] for identity in block}, name):
            file = relative(plan.cells[0].file, root)
            record = printable(Path(file).with_suffix("").as_posix().replace("/", "_"))
            group, images = f"{source.name}/{name}", len(shots[plan.cells[0].identity])
            build = partial(montage_sample, source, root, plan, group, split, numbered, record, images)
            yield attempt(source, file, record, build)


def read_reid(root: Path, source: Source, *, numbered: bool = True) -> Found:
    """Montages of a re-identification data set, at most ten an identity; `numbered` writes each cell's number into it.

    Infrared images alone are shown. Montages stay within a block of 20 to 39 identities, and a block within one split
    of the data set's own lists. An identity with one image, in two splits or in none of the lists is rejected once; a
    list that is absent, too, and where all are, the identities are parted by hash alone.

    Raises:
        MissingData: no folder, none of the layouts, or no image in them.
        MalformedFile: a list is not UTF-8.
    """
    if not root.is_dir():
        raise source.missing(root, "no such folder")
    if (layout := layout_of(root)) is None:
        raise source.missing(root, "no cam3/ or cam6/, Thermal/, nir/, IR_8/ or IR/")
    shots, misplaced = list_shots(root, source, layout)
    if not shots:
        raise source.missing(root, f"no image in an identity's folder below {' or '.join(layout.folders)}")
    if layout.lists:
        splits, rejected = splits_by_list(root, source, layout, shots)
    else:
        splits, rejected = splits_by_folder(root, shots), []
    usable, left_out = usable_identities(root, source, shots, splits)
    yield from (*misplaced, *rejected, *left_out)
    for split in sorted(usable):
        yield from split_montages(root, source, split, usable[split], numbered)
