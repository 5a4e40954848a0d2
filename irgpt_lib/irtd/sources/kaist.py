"""KAIST multispectral pedestrians: videos of aligned far-infrared and visible frames, one text file a frame.

Hwang et al., CVPR 2015. Sets 00-05 train, 06-11 test; each half goes through campus, road and downtown by day, then by
night. The text is `bbGt version=3` of Dollár's toolbox, converted from the video annotation: after the header, a line
is `label x y w h occlusion x y w h ignore angle`, the second box being the part that is not occluded.
"""

import re
from collections.abc import Iterator, Sequence
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
    unmatched,
    with_aligned_mate,
)
from irgpt_lib.irtd.sources.boxes import make_box
from irgpt_lib.irtd.sources.coco import corners
from irgpt_lib.irtd.sources.files import is_there, list_files
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


def kaist_sample(source: Source, root: Path, image: Path, label: Path | None, facts: dict[str, str]) -> Sample:
    """One far-infrared frame with its visible mate and the boxes of its text file, clipped to the image.

    Raises:
        RecordError: `missing visible mate`, or a reason of the parts.
    """
    video = image.parents[1]
    sequence = f"{video.parent.name}/{video.name}"
    mate = video / "visible" / image.name
    if not is_there(mate):
        raise RecordError("missing visible mate", relative(mate, root))
    annotation = parse_bbgt(read_lines(label)) if label else None
    unboxed = annotation and replace(annotation, boxes=())
    split, recording = set_facts(video.parent.name)
    sample = with_aligned_mate(annotated_sample(source, root, image, unboxed, split), mate)
    boxes, beyond = clipped(annotation.boxes if annotation else (), sample.width, sample.height)
    reached = {"clipped_boxes": str(beyond)} if beyond else {}
    return replace(
        sample,
        sample_id=f"{source.name}/{sequence}/{image.stem}",
        group=f"{source.name}/{sequence}",
        boxes=boxes,
        counted=counted_category(source, annotation) if annotation else "",
        facts=sample.facts | recording | facts | reached,
    )


def read_video(root: Path, source: Source, video: Path) -> Found:
    """Frames 0, k, 2k ... of one video, k being `source.keep_every`, then visible frames and annotations of frames that
    it lacks."""
    sequence = f"{video.parent.name}/{video.name}"
    if not (video / "lwir").is_dir():
        annotations = sum(1 for _ in list_files(root / "annotations" / sequence, {".txt"}))
        detail = f"{relative(video, root)} has no folder lwir; {annotations} annotations are without frame"
        yield Rejected(source.name, relative(video, root), sequence, "missing infrared frames", detail)
        return
    stems, rejected = frames_in(source, root, video / "lwir")
    mates, rejected_mates = frames_in(source, root, video / "visible")
    labels, repeated = by_stem(source, root, list_files(root / "annotations" / sequence, {".txt"}))
    yield from (*rejected, *rejected_mates, *repeated)
    frames = list(stems.values())
    for number in range(0, len(frames), source.keep_every):
        image = frames[number]
        facts = {
            "sequence": sequence,
            "frame": str(number),
            "sequence_frames": str(len(frames)),
            "keep_every": str(source.keep_every),
        }
        build = partial(kaist_sample, source, root, image, labels.get(image.stem), facts)
        yield attempt(source, relative(image, root), f"{sequence}/{image.stem}", build)
    detail = f"{sequence}/lwir has no frame"
    yield from unmatched(source, root, mates.values(), stems, "missing infrared image", detail, sequence)
    yield from unmatched(source, root, labels.values(), stems, "missing image", detail, sequence)


def annotations_without_video(root: Path, source: Source, videos: Sequence[Path]) -> Iterator[Rejected]:
    """The folders of annotations of each video that is absent, rejected."""
    present = {f"{video.parent.name}/{video.name}" for video in videos}
    for folder in sorted(path for path in (root / "annotations").glob("*/*") if path.is_dir()):
        sequence = f"{folder.parent.name}/{folder.name}"
        if sequence not in present:
            detail = f"{sum(1 for _ in list_files(folder, {'.txt'}))} annotations of a video that is absent"
            yield Rejected(source.name, relative(folder, root), sequence, "missing image", detail)


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
    yield from annotations_without_video(root, source, videos)
