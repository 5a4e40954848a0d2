"""KAIST multispectral pedestrians: videos of aligned far-infrared and visible frames, one text file a frame.

Hwang et al., CVPR 2015. Sets 00-05 train, 06-11 test; each half goes through campus, road and downtown by day, then by
night. The text is `bbGt version=3` of Dollár's toolbox, converted from the video annotation: after the header, a line
is `label x y w h occlusion x y w h ignore angle`, the second box being the part that is not occluded.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from irgpt_lib.irtd.record import Box, RecordError, Rejected, Sample
from irgpt_lib.irtd.sources.assembly import (
    Annotation,
    annotated_sample,
    attempt,
    by_stem,
    counted_category,
    relative,
    tally,
)
from irgpt_lib.irtd.sources.boxes import make_box
from irgpt_lib.irtd.sources.coco import corners
from irgpt_lib.irtd.sources.files import read_image
from irgpt_lib.irtd.sources.lines import read_lines
from irgpt_lib.irtd.sources.source import Found, Source
from irgpt_lib.irtd.sources.video import clipped, frames_in

VIDEO_FOLDERS = ("images", "videos", "")
HEADER = re.compile(r"%\s*bbGt\s+version\s*=\s*3")
LINE_FIELDS = 12
CLASSES = frozenset({"person", "cyclist"})
# A group without its members, and a guess: neither says how many objects there are.
LEFT_OUT = {"people": "people", "person?": "uncertain_person"}
PLACES = ("campus", "road", "downtown")
TRAINING_SETS = 6


def parse_bbgt(lines: Sequence[str]) -> Annotation:
    """The persons and cyclists of one frame; groups, guesses and ignored regions are counted, not kept.

    Raises:
        RecordError: `malformed header`, `malformed line`, `unknown class`, or a reason of a box; the detail names the
            line.
    """
    if not lines or not HEADER.match(lines[0]):
        raise RecordError("malformed header", f"line 1: {lines[:1]}, expected `% bbGt version=3`")
    boxes: list[Box] = []
    left_out: list[str] = []
    for number, line in enumerate(lines[1:], start=2):
        where, fields = f"line {number}", line.split()
        if len(fields) != LINE_FIELDS or fields[10] not in ("0", "1"):
            expected = "`label x y w h occlusion x y w h ignore angle` with ignore 0 or 1"
            raise RecordError("malformed line", f"{where}: {line!r}, expected {expected}")
        label = fields[0].lower()
        if label not in CLASSES and label not in LEFT_OUT:
            known = ", ".join(sorted(CLASSES | LEFT_OUT.keys()))
            raise RecordError("unknown class", f"{where}: {label!r}; known: {known}")
        if label in LEFT_OUT or fields[10] == "1":
            left_out.append(LEFT_OUT.get(label, "ignored"))
        else:
            boxes.append(make_box(label, corners(fields[1:5], where), where))
    return Annotation(tuple(boxes), tally(left_out))


def set_facts(name: str) -> tuple[str, dict[str, str]]:
    """Split, and time and place of the recording, of `set00` to `set11`; nothing of another name."""
    if not re.fullmatch(r"set(0\d|10|11)", name):
        return "", {}
    number = int(name.removeprefix("set"))
    night, place = divmod(number % TRAINING_SETS, len(PLACES))
    facts = {"time": "night" if night else "day", "place": PLACES[place]}
    return "train" if number < TRAINING_SETS else "test", facts


def kaist_sample(source: Source, root: Path, image: Path, facts: dict[str, str]) -> Sample:
    """One far-infrared frame with its visible mate and its boxes, clipped to the image.

    Raises:
        RecordError: `missing visible mate`, `size mismatch` between the two, or a reason of the parts.
    """
    video = image.parents[1]
    sequence = f"{video.parent.name}/{video.name}"
    mate = video / "visible" / image.name
    if not mate.is_file():
        raise RecordError("missing visible mate", relative(mate, root))
    visible, width, height = read_image(mate)
    label = root / "annotations" / sequence / f"{image.stem}.txt"
    annotation = parse_bbgt(read_lines(label)) if label.is_file() else None
    unboxed = annotation and replace(annotation, boxes=())
    split, recording = set_facts(video.parent.name)
    sample = annotated_sample(source, root, image, unboxed, split, visible)
    if (sample.width, sample.height) != (width, height):
        raise RecordError("size mismatch", f"visible {width}x{height}, infrared {sample.width}x{sample.height}")
    boxes, beyond = clipped(annotation.boxes if annotation else (), width, height)
    reached = {"clipped_boxes": str(beyond)} if beyond else {}
    return replace(
        sample,
        sample_id=f"{source.name}/{sequence}/{image.stem}",
        group=f"{source.name}/{sequence}",
        boxes=boxes,
        counted=counted_category(source, annotation) if annotation else "",
        facts=sample.facts | recording | facts | reached | {"visible_frame": "aligned"},
    )


def read_video(root: Path, source: Source, video: Path) -> Found:
    """Frames 0, k, 2k ... of one video, k being `source.keep_every`, then annotations of frames that it lacks."""
    sequence = f"{video.parent.name}/{video.name}"
    if not (video / "lwir").is_dir():
        detail = f"{relative(video, root)} has no folder lwir"
        yield Rejected(source.name, relative(video, root), sequence, "missing infrared frames", detail)
        return
    stems, repeated = by_stem(source, root, frames_in(video / "lwir"))
    yield from repeated
    frames = list(stems.values())
    for number in range(0, len(frames), source.keep_every):
        image = frames[number]
        facts = {
            "sequence": sequence,
            "frame": str(number),
            "sequence_frames": str(len(frames)),
            "keep_every": str(source.keep_every),
        }
        build = partial(kaist_sample, source, root, image, facts)
        yield attempt(source, relative(image, root), f"{sequence}/{image.stem}", build)
    for file in sorted((root / "annotations" / sequence).glob("*.txt")):
        if file.stem not in stems:
            detail = f"lwir has no frame {file.stem}"
            yield Rejected(source.name, relative(file, root), f"{sequence}/{file.stem}", "missing image", detail)


def read_kaist(root: Path, source: Source) -> Found:
    """One sample a kept far-infrared frame of `setNN/VNNN/lwir`, below `images/`, `videos/` or the root itself.

    A video is one group. `people`, `person?` and ignored boxes become facts, and such a frame cannot be counted.

    Raises:
        MissingData: no folder, no video, or no `annotations/` with text files (those of the first release are MATLAB
            files: convert them first).
    """
    if not root.is_dir():
        raise source.missing(root, "no such folder")
    found = (sorted(path for path in (root / name).glob("set*/V*") if path.is_dir()) for name in VIDEO_FOLDERS)
    videos = next(filter(None, found), [])
    if not videos:
        raise source.missing(root, "no folder setNN/VNNN of frames")
    if not (root / "annotations").is_dir():
        raise source.missing(root, "no annotations/ with one text file a frame (.vbb files have to be converted)")
    for video in videos:
        yield from read_video(root, source, video)
