"""FLIR ADAS 2018 frames with boxes in one CSV, as the released FLIR questions need them.

`boxes.csv` names its columns in any order. `infrared/` (or the original `PreviewData/`) holds full frames;
`crop_infrared/` and `crop_visible/` hold the aligned crops of RoadScene, and
`ir_full_to_crop_transforms.json` the homography `H` from full-frame to crop pixels, by frame.
"""

import csv
import io
from collections import defaultdict
from collections.abc import Container, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float

from irgpt_lib.irtd.record import Box, RecordError, Rejected, Sample
from irgpt_lib.irtd.sources.assembly import (
    Annotation,
    annotated_sample,
    attempt,
    by_stem,
    relative,
    unmatched,
    with_aligned_mate,
    with_facts,
)
from irgpt_lib.irtd.sources.boxes import clip_box, make_box, warp_box
from irgpt_lib.irtd.sources.files import first_folder, inside, list_images, read_image, read_json, read_text
from irgpt_lib.irtd.sources.source import Found, MalformedFile, Source

COLUMNS = ("image_name", "class_id", "xmin", "xmax", "ymin", "ymax")
CLASSES = {"1": "person", "2": "bicycle", "3": "car", "17": "dog"}
FRAMES = ("infrared", "PreviewData", "training/PreviewData", "train/PreviewData")
VISIBLE_CROPS = "crop_visible"
MAX_ENTRY = 1e9
# A box of which less is left in the crop shows too little of its object to be asked about.
KEPT_FRACTION = 0.5

# The key of what a row holds beyond its columns: a list, where all else is text.
SURPLUS = "beyond the columns"

# Line number and fields of each row.
Rows = list[tuple[int, dict[str, str | list[str]]]]


def read_rows(file: Path) -> dict[str, Rows]:
    """Rows of the CSV with their line numbers, by image name, in file order.

    Raises:
        MalformedFile: a column is missing (the message lists which, and those that exist) or there twice, or it is no
            CSV.
    """
    table = csv.DictReader(io.StringIO(read_text(file), newline=""), restkey=SURPLUS, restval="")
    rows: dict[str, Rows] = defaultdict(list)
    try:
        columns = [name.strip() for name in table.fieldnames or []]
        if lacking := [name for name in COLUMNS if name not in columns]:
            held = ", ".join(columns) or "none"
            raise MalformedFile(f"{file}: lacks the columns {', '.join(lacking)}; it has {held}")
        if repeated := [name for name in COLUMNS if columns.count(name) > 1]:
            raise MalformedFile(f"{file}: has the columns {', '.join(repeated)} twice; leave one of each")
        table.fieldnames = columns
        for row in table:
            rows[row["image_name"].strip()].append((table.line_num, row))
    except csv.Error as error:
        raise MalformedFile(f"{file}: after line {table.line_num}: {error}") from error
    return dict(rows)


def row_box(line: int, row: dict[str, str | list[str]]) -> Box:
    """One row's box.

    Raises:
        RecordError: `malformed line` where it has more fields than columns, `unknown class`, `unreadable box`,
            `degenerate box`; the detail names the line.
    """
    if SURPLUS in row:
        raise RecordError("malformed line", f"line {line}: {len(row[SURPLUS])} fields more than columns")
    class_id = str(row["class_id"]).strip()
    if class_id not in CLASSES:
        known = ", ".join(f"{number} {name}" for number, name in CLASSES.items())
        raise RecordError("unknown class", f"line {line}: class_id {class_id!r}; known: {known}")
    return make_box(CLASSES[class_id], (row["xmin"], row["ymin"], row["xmax"], row["ymax"]), f"line {line}")


def frame_annotation(rows: Rows) -> Annotation:
    """All boxes of one frame.

    Raises:
        RecordError: of the first row that is no box; a frame with a hole in its truth is no truth.
    """
    return Annotation(tuple(row_box(line, row) for line, row in rows))


def frames_and_table(root: Path, source: Source) -> tuple[dict[str, Path], list[Rejected], Path]:
    """Infrared frames by stem, those rejected for their stem, and the CSV file.

    Raises:
        MissingData: no folder, no frame or no `boxes.csv`.
    """
    if not root.is_dir():
        raise source.missing(root, "no such folder")
    table, folder = root / "boxes.csv", first_folder(root, FRAMES)
    if folder is None or not table.is_file():
        raise source.missing(root, "no boxes.csv" if folder else f"no folder of frames ({', '.join(FRAMES)})")
    frames, repeated = by_stem(source, root, list_images(folder))
    if not frames:
        raise source.missing(root, f"no image in {relative(folder, root)}/")
    return frames, repeated, table


def rows_by_stem(rows: dict[str, Rows], source: Source, place: str) -> tuple[dict[str, Rows], list[Rejected]]:
    """Rows by the stem of their image: the CSV says `.jpeg` where a converted copy is `.png`.

    Names that lead out of the folder are returned as rejected.
    """
    stems: dict[str, Rows] = defaultdict(list)
    rejected = []
    for name, found in rows.items():
        try:
            stems[inside(Path(), name).stem].extend(found)
        except RecordError as error:
            record = name or f"line {found[0][0]}"
            rejected.append(Rejected(source.name, place, record, error.reason, error.detail))
    return dict(stems), rejected


def frame_sample(source: Source, root: Path, image: Path, rows: Rows | None, crop: Path | None) -> Sample:
    """The full infrared frame with its boxes.

    The visible crop, where there is one, shows the same content but not the same pixels: `visible_frame` is
    `crop`.

    Raises:
        RecordError: the reasons of `frame_annotation`, `annotated_sample` and `read_image`.
    """
    visible = read_image(crop)[0] if crop else b""
    annotation = None if rows is None else frame_annotation(rows)
    sample = annotated_sample(source, root, image, annotation, visible=visible)
    return with_facts(sample, visible_frame="crop") if visible else sample


def read_flir(root: Path, source: Source) -> Found:
    """One sample a full frame, 640 x 512 pixels as released; rows and visible crops without it are rejected.

    Raises:
        MissingData: no folder, no frames or no `boxes.csv`.
        MalformedFile: the CSV is not UTF-8 or lacks a column.
    """
    frames, repeated, table = frames_and_table(root, source)
    rows, rejected = rows_by_stem(read_rows(table), source, relative(table, root))
    crops, repeated_crops = by_stem(source, root, list_images(root / VISIBLE_CROPS))
    for stem, image in frames.items():
        build = partial(frame_sample, source, root, image, rows.get(stem), crops.get(stem))
        yield attempt(source, relative(image, root), stem, build)
    yield from (*repeated, *repeated_crops, *rejected)
    yield from unmatched(source, root, crops.values(), frames, "missing infrared image", "no frame")
    yield from rows_without_image(source, root, table, rows, frames)


def rows_without_image(
    source: Source, root: Path, table: Path, rows: dict[str, Rows], images: Container[str]
) -> Iterator[Rejected]:
    """The rows of each image that is absent, rejected together."""
    for stem in sorted(stem for stem in rows if stem not in images):
        detail = f"{len(rows[stem])} rows, first at line {rows[stem][0][0]}, name an image that is absent"
        yield Rejected(source.name, relative(table, root), stem, "missing image", detail)


def read_homographies(file: Path) -> dict[str, object]:
    """The transforms file, by frame.

    Raises:
        MalformedFile: it is no JSON object.
    """
    transforms = read_json(file)
    if not isinstance(transforms, dict):
        raise MalformedFile(f"{file}: expected an object by frame name, found {type(transforms).__name__}")
    return transforms


def homography(transforms: dict[str, object], stem: str) -> Float[np.ndarray, "3 3"]:
    """The 3 x 3 map from full-frame to crop pixels.

    Raises:
        RecordError: `missing transform` or `bad transform`.
    """
    if stem not in transforms:
        raise RecordError("missing transform", f"{stem} has no homography")
    entry = transforms[stem]
    try:
        matrix = np.array(entry["H"], dtype=np.float64)  # type: ignore[index]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise RecordError("bad transform", f"{stem}: {error!r:.200}") from error
    # the determinant of larger numbers overflows
    if matrix.shape != (3, 3) or not (np.abs(matrix) < MAX_ENTRY).all() or abs(np.linalg.det(matrix)) < 1e-9:
        raise RecordError("bad transform", f"{stem}: no invertible 3x3 matrix of finite numbers below {MAX_ENTRY:g}")
    return matrix


def boxes_in_crop(boxes: tuple[Box, ...], matrix: Float[np.ndarray, "3 3"], width: int, height: int) -> tuple[Box, ...]:
    """The boxes in crop pixels, clipped; those that keep less than half of their area in the crop are left
    out."""
    kept = []
    for box in boxes:
        try:
            warped = warp_box(matrix, box)
            clipped = clip_box(warped, width, height)
        except RecordError:
            continue
        if clipped.area >= KEPT_FRACTION * warped.area:
            kept.append(clipped)
    return tuple(kept)


def crop_sample(
    source: Source, root: Path, crop: Path, mate: Path | None, rows: Rows, transforms: dict[str, object]
) -> Sample:
    """The infrared crop with its pixel-aligned visible mate and the boxes warped into it.

    Raises:
        RecordError: `missing visible mate`, or a reason of `frame_annotation`, `homography` and `with_aligned_mate`.
    """
    if mate is None:
        raise RecordError("missing visible mate", f"{VISIBLE_CROPS}/ has no image {crop.stem}")
    sample = annotated_sample(source, root, crop, Annotation())
    boxes = frame_annotation(rows).boxes
    kept = boxes_in_crop(boxes, homography(transforms, crop.stem), sample.width, sample.height)
    named = replace(sample, sample_id=f"{source.name}/{crop.stem}_crop", boxes=kept)
    return with_facts(with_aligned_mate(named, mate), outside_crop=str(len(boxes) - len(kept)))


def read_flir_crops(root: Path, source: Source) -> Found:
    """One sample an aligned crop, its group the same as its full frame's.

    Frames are not read, but they tell which rows name an image.

    Raises:
        MissingData: no folder, no crops or no transforms.
        MalformedFile: the CSV or the transforms file cannot be used.
    """
    frames, _, table = frames_and_table(root, source)
    rows, rejected = rows_by_stem(read_rows(table), source, relative(table, root))
    transforms_file, folder = root / "ir_full_to_crop_transforms.json", root / "crop_infrared"
    if not folder.is_dir() or not transforms_file.is_file():
        raise source.missing(root, f"no crop_infrared/ with {transforms_file.name}")
    transforms = read_homographies(transforms_file)
    crops, repeated = by_stem(source, root, list_images(folder))
    mates, repeated_mates = by_stem(source, root, list_images(root / VISIBLE_CROPS))
    for stem, crop in crops.items():
        if stem not in rows:
            detail = f"no row for {stem}; a crop without boxes cannot be told from an empty one"
            yield Rejected(source.name, relative(crop, root), stem, "missing annotation", detail)
            continue
        build = partial(crop_sample, source, root, crop, mates.get(stem), rows[stem], transforms)
        yield attempt(source, relative(crop, root), stem, build)
    yield from (*repeated, *repeated_mates, *rejected)
    yield from unmatched(source, root, mates.values(), crops, "missing infrared image", "no crop")
    yield from rows_without_image(source, root, table, rows, frames.keys() | crops.keys())
