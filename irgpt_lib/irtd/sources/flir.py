"""FLIR ADAS 2018 frames with boxes in one CSV, as the released FLIR questions need them.

`boxes.csv` names its columns in any order. `infrared/` (or the original `PreviewData/`) holds full frames;
`crop_infrared/` and `crop_visible/` hold the aligned crops of RoadScene, and
`ir_full_to_crop_transforms.json` the homography `H` from full-frame to crop pixels, by frame.
"""

import csv
import io
import json
from collections import defaultdict
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
    with_facts,
)
from irgpt_lib.irtd.sources.boxes import clip_box, make_box, warp_box
from irgpt_lib.irtd.sources.files import first_folder, inside, list_images, read_image, read_text
from irgpt_lib.irtd.sources.source import Found, MalformedFile, Source

COLUMNS = ("image_name", "class_id", "xmin", "xmax", "ymin", "ymax")
CLASSES = {"1": "person", "2": "bicycle", "3": "car", "17": "dog"}
FRAMES = ("infrared", "PreviewData", "training/PreviewData", "train/PreviewData")
# A box of which less is left in the crop shows too little of its object to be asked about.
KEPT_FRACTION = 0.5

# Line number and fields of each row.
Rows = list[tuple[int, dict[str, str]]]


def read_rows(file: Path) -> dict[str, Rows]:
    """Rows of the CSV with their line numbers, by image name, in file order.

    Raises:
        MalformedFile: a column is missing (the message lists which, and those that exist), or it is no CSV.
    """
    table = csv.DictReader(io.StringIO(read_text(file), newline=""), restval="")
    columns = [name.strip() for name in table.fieldnames or []]
    if lacking := [name for name in COLUMNS if name not in columns]:
        raise MalformedFile(f"{file}: lacks the columns {', '.join(lacking)}; it has {', '.join(columns) or 'none'}")
    table.fieldnames = columns
    rows: dict[str, Rows] = defaultdict(list)
    try:
        for row in table:
            rows[row["image_name"].strip()].append((table.line_num, row))
    except csv.Error as error:
        raise MalformedFile(f"{file}: after line {table.line_num}: {error}") from error
    return dict(rows)


def row_box(line: int, row: dict[str, str]) -> Box:
    """One row's box.

    Raises:
        RecordError: `unknown class`, `unreadable box`, `degenerate box`; the detail names the line.
    """
    class_id = row["class_id"].strip()
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
            rejected.append(Rejected(source.name, place, name, error.reason, error.detail))
    return dict(stems), rejected


def frame_sample(source: Source, root: Path, image: Path, rows: Rows | None) -> Sample:
    """The full infrared frame with its boxes.

    The visible crop, where there is one, shows the same content but not the same pixels: `visible_frame` is
    `crop`.

    Raises:
        RecordError: the reasons of `frame_annotation` and `annotated_sample`.
    """
    crop = root / "crop_visible" / f"{image.stem}.jpg"
    visible = read_image(crop)[0] if crop.is_file() else b""
    annotation = None if rows is None else frame_annotation(rows)
    sample = annotated_sample(source, root, image, annotation, visible=visible)
    return with_facts(sample, visible_frame="crop") if visible else sample


def read_flir(root: Path, source: Source) -> Found:
    """One sample a full frame, 640 x 512 pixels as released; rows without their image are rejected.

    Raises:
        MissingData: no folder, no frames or no `boxes.csv`.
        MalformedFile: the CSV is not UTF-8 or lacks a column.
    """
    frames, repeated, table = frames_and_table(root, source)
    rows, rejected = rows_by_stem(read_rows(table), source, relative(table, root))
    for stem, image in frames.items():
        yield attempt(
            source,
            relative(image, root),
            stem,
            partial(frame_sample, source, root, image, rows.get(stem)),
        )
    yield from (*repeated, *rejected)
    for stem in sorted(rows.keys() - frames.keys()):
        detail = f"{len(rows[stem])} rows, first at line {rows[stem][0][0]}, name an image that is absent"
        yield Rejected(source.name, relative(table, root), stem, "missing image", detail)


def read_homographies(file: Path) -> dict[str, object]:
    """The transforms file, by frame.

    Raises:
        MalformedFile: it is no JSON object.
    """
    text = read_text(file)
    try:
        transforms = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MalformedFile(f"{file}: not valid JSON: {error}") from error
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
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError("bad transform", f"{stem}: {error!r}") from error
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-9:
        raise RecordError("bad transform", f"{stem}: no invertible 3x3 matrix")
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


def crop_sample(source: Source, root: Path, crop: Path, rows: Rows, transforms: dict[str, object]) -> Sample:
    """The infrared crop with its pixel-aligned visible mate and the boxes warped into it.

    Raises:
        RecordError: the reasons of `frame_annotation`, `homography` and `read_image`.
    """
    sample = annotated_sample(source, root, crop, Annotation())
    boxes = frame_annotation(rows).boxes
    kept = boxes_in_crop(boxes, homography(transforms, crop.stem), sample.width, sample.height)
    visible, *_ = read_image(root / "crop_visible" / crop.name)
    paired = replace(sample, sample_id=f"{source.name}/{crop.stem}_crop", boxes=kept, visible=visible)
    return with_facts(paired, visible_frame="aligned", outside_crop=str(len(boxes) - len(kept)))


def read_flir_crops(root: Path, source: Source) -> Found:
    """One sample an aligned crop, its group the same as its full frame's.

    Raises:
        MissingData: no folder, no crops or no transforms.
        MalformedFile: the CSV or the transforms file cannot be used.
    """
    *_, table = frames_and_table(root, source)
    rows, _ = rows_by_stem(read_rows(table), source, relative(table, root))
    transforms_file, folder = root / "ir_full_to_crop_transforms.json", root / "crop_infrared"
    if not folder.is_dir() or not transforms_file.is_file():
        raise source.missing(root, f"no crop_infrared/ with {transforms_file.name}")
    transforms = read_homographies(transforms_file)
    for crop in list_images(folder):
        if crop.stem not in rows:
            detail = f"no row for {crop.stem}; a crop without boxes cannot be told from an empty one"
            yield Rejected(source.name, relative(crop, root), crop.stem, "missing annotation", detail)
            continue
        yield attempt(
            source,
            relative(crop, root),
            crop.stem,
            partial(crop_sample, source, root, crop, rows[crop.stem], transforms),
        )
