"""Single-object tracking: a folder a sequence, a line or an XML file with the target's box a frame.

Known layouts: RGBT234 and LasHeR (`infrared/`, `visible/`), VTUAV (`ir/`, `rgb/`, a line every tenth frame), GTOT
(`i/`, `v/`, opposite corners instead of a corner and a size), LSOTB-TIR for evaluation (`img/`) and for training
(`TrainingData/` and `Annotations/`, mirrored trees with Pascal VOC files). `init.txt`, the tracker's first box, is not
read.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

from irgpt_lib.irtd.record import Box, RecordError, Rejected, Sample
from irgpt_lib.irtd.sources.assembly import (
    SPLITS,
    Annotation,
    annotated_sample,
    attempt,
    by_stem,
    relative,
    unmatched,
)
from irgpt_lib.irtd.sources.boxes import make_box
from irgpt_lib.irtd.sources.files import (
    IMAGE_SUFFIXES,
    MAX_RECORD_BYTES,
    files_in,
    is_there,
    list_files,
    list_images,
    read_bytes,
    read_image,
    walk,
)
from irgpt_lib.irtd.sources.lines import numbers, read_lines
from irgpt_lib.irtd.sources.naming import NAME_RULES
from irgpt_lib.irtd.sources.source import Found, Source
from irgpt_lib.irtd.sources.video import clipped, frame_number, frames_in
from irgpt_lib.irtd.sources.voc import parse_voc
from irgpt_lib.tasks.grounding import iou

IMAGE_TREE, XML_TREE = "TrainingData", "Annotations"
UNKNOWN_TARGET = "object"
BOX_FIELDS = 4
# Below this overlap the target's two boxes show that the cameras' pictures do not lie on each other.
ALIGNED_IOU = 0.5


@dataclass(frozen=True)
class Layout:
    """How one benchmark lays out a sequence: its folder of frames and its file of boxes, for each camera.

    `corners`: a line is two opposite corners, not `x, y, width, height`. `annotated_every`: a line stands for so many
    frames. `more_fields`: a line goes on after the box.
    """

    infrared: str
    boxes: str
    visible: str = ""
    visible_boxes: str = ""
    corners: bool = False
    annotated_every: int = 1
    more_fields: bool = False


LAYOUTS = (
    Layout("infrared", "infrared.txt", "visible", "visible.txt"),
    Layout("ir", "ir.txt", "rgb", "rgb.txt", annotated_every=10, more_fields=True),
    Layout("i", "groundTruth_i.txt", "v", "groundTruth_v.txt", corners=True),
    Layout("img", "groundtruth_rect.txt"),
    Layout("", "groundtruth_rect.txt"),
)


@dataclass(frozen=True)
class Frame:
    """One kept frame: the `number`-th of `total` of its sequence, from 0, with its annotation: a line of each camera's
    boxes, or an XML file. Both are `None` where the authors annotated other frames only."""

    sequence: str
    number: int
    total: int
    image: Path
    line: str | None = None
    mate: Path | None = None
    visible_line: str | None = None
    xml: Path | None = None
    layout: Layout = LAYOUTS[-1]


def line_box(line: str, layout: Layout, category: str, where: str) -> Box | None:
    """The target's box in pixels; `None` where it is absent, written as NaN or as a box without width and height.

    Fields stand between commas, blanks or tabs.

    Raises:
        RecordError: `malformed line`, `unreadable box` or `degenerate box`; `where` names the line in the detail.
    """
    fields = re.split(r"[,\s]+", line.strip(", \t"))
    if len(fields) < BOX_FIELDS or (len(fields) > BOX_FIELDS and not layout.more_fields):
        raise RecordError("malformed line", f"{where}: {line!r}, expected the {BOX_FIELDS} numbers of a box")
    values = numbers(fields[:BOX_FIELDS], where)
    if all(map(math.isnan, values)):
        return None
    x1, y1, x2, y2 = values
    if layout.corners:
        x1, x2, y1, y2 = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
    else:
        x2, y2 = x1 + x2, y1 + y2
    if (x1, y1) == (x2, y2):
        return None
    return make_box(category, (x1, y1, x2, y2), where)


def target_category(source: Source, sequence: str) -> str:
    """The class that the sequence's name tells by the source's naming rule, empty where it tells none."""
    return NAME_RULES[source.naming](PurePosixPath(sequence).name).facts.get("category", "")


def frame_annotation(source: Source, root: Path, frame: Frame) -> Annotation | None:
    """The target's box, none where it is absent; `None` where the frame is not annotated.

    An XML file names its objects itself: a frame of `horse_004` can show a rider too, and the released Recognition
    answers follow it. A name that is no word gives way to the sequence's class.

    Raises:
        RecordError: the reasons of `line_box` and `parse_voc`.
    """
    category = target_category(source, frame.sequence) or UNKNOWN_TARGET
    if frame.xml:
        annotation = parse_voc(read_bytes(frame.xml, MAX_RECORD_BYTES), relative(frame.xml, root))[1]
        words = (
            box if re.match("[a-z]", box.category) else replace(box, category=category) for box in annotation.boxes
        )
        return replace(annotation, boxes=tuple(words))
    if frame.line is None:
        return None
    box = line_box(frame.line, frame.layout, category, f"{frame.layout.boxes}, frame {frame.number}")
    return Annotation(() if box is None else (box,))


def target_facts(source: Source, frame: Frame, boxes: Sequence[Box] | None, beyond: int) -> dict[str, str]:
    """What the sequence and the target's box tell; `boxes` is `None` for a frame that is not annotated, and `beyond`
    of them reached out of the image."""
    facts = {
        "sequence": frame.sequence,
        "frame": str(frame.number),
        "sequence_frames": str(frame.total),
        "keep_every": str(source.keep_every),
    }
    if boxes is None:
        return facts
    facts["annotated"] = "target only"
    if not boxes:
        facts["target"] = "absent"
    if any(box.category == UNKNOWN_TARGET for box in boxes):
        facts["category"] = "unknown"
    if beyond:
        facts["clipped_boxes"] = str(beyond)
    return facts


def visible_mate(frame: Frame, width: int, height: int, boxes: Sequence[Box]) -> tuple[bytes, dict[str, str]]:
    """The visible frame and how it lies to the infrared one of `width` x `height` pixels with these boxes.

    `visible_frame` is `unaligned` where the sizes differ or the target's two boxes overlap by less than half; then
    `visible_box` is the target's box in pixels of the visible frame, `x1,y1,x2,y2`, where there is one.

    Raises:
        RecordError: `missing visible mate`, or a reason of `read_image`, `line_box` and `clipped`.
    """
    if frame.mate is None:
        raise RecordError("missing visible mate", f"frame {frame.number} of {frame.sequence}")
    visible, *size = read_image(frame.mate)
    box = None
    if frame.visible_line is not None:
        where = f"{frame.layout.visible_boxes}, frame {frame.number}"
        box = line_box(frame.visible_line, frame.layout, UNKNOWN_TARGET, where)
    shown = clipped((box,) if box else (), size[0], size[1])[0]
    pairs = [((a.x1, a.y1, a.x2, a.y2), (b.x1, b.y1, b.x2, b.y2)) for a in boxes for b in shown]
    if size == [width, height] and all(iou(a, b) >= ALIGNED_IOU for a, b in pairs):
        return visible, {"visible_frame": "aligned"}
    facts = {"visible_frame": "unaligned"}
    for part in shown:
        facts["visible_box"] = ",".join(f"{value:g}" for value in (part.x1, part.y1, part.x2, part.y2))
    return visible, facts


def sequence_split(sequence: str) -> str:
    """The split that a folder above the sequence names: `train_ST_006`, `TestingSet`; empty where none does."""
    folders = (folder.lower() for folder in PurePosixPath(sequence).parts[:-1])
    return next((SPLITS[word] for folder in folders for word in SPLITS if folder.startswith(word)), "")


def tracked_sample(source: Source, root: Path, frame: Frame) -> Sample:
    """One frame with the target's box, clipped to the image, and its visible mate.

    Raises:
        RecordError: the reasons of `frame_annotation`, `annotated_sample`, `clipped` and `visible_mate`.
    """
    annotation = frame_annotation(source, root, frame)
    drawn = annotation.boxes if annotation else ()
    # The naming rule speaks of sequences; a frame's own name says nothing. Other objects go without a box.
    unnamed = replace(source, naming="", counted=())
    unboxed = annotation and replace(annotation, boxes=())
    sample = annotated_sample(unnamed, root, frame.image, unboxed, sequence_split(frame.sequence))
    boxes, beyond = clipped(drawn, sample.width, sample.height)
    facts = target_facts(source, frame, boxes if annotation else None, beyond)
    visible, pairing = b"", {}
    if frame.layout.visible and (frame.image.parents[1] / frame.layout.visible).is_dir():
        visible, pairing = visible_mate(frame, sample.width, sample.height, boxes)
    return replace(
        sample,
        sample_id=f"{source.name}/{frame.sequence}/{frame.image.stem}",
        group=f"{source.name}/{PurePosixPath(frame.sequence).name}",
        visible=visible,
        boxes=boxes,
        facts=sample.facts | facts | pairing,
    )


def mates(infrared: Sequence[Path], visible: Sequence[Path]) -> list[Path | None]:
    """The visible frame of each infrared one: by their order where there are as many, as the benchmarks' own tools
    read them, else by the numbers in their names."""
    if len(infrared) == len(visible):
        return list(visible)
    by_number = {frame_number(image): image for image in visible}
    return [by_number.get(frame_number(image)) for image in infrared]


def line_of(lines: Sequence[str], number: int, every: int) -> str | None:
    """The line of frame `number` where one stands for `every` frames; `None` for a frame between two lines, or after
    the last."""
    return lines[number // every] if number % every == 0 and number // every < len(lines) else None


def read_text_sequence(root: Path, source: Source, folder: Path, sequence: str, layout: Layout) -> Found:
    """Frames 0, k, 2k ... of one sequence, k being `source.keep_every`; frames after the last line, and lines after
    the last frame, are rejected and no other."""
    boxes, visible_boxes = folder / layout.boxes, folder / layout.visible_boxes
    file = boxes
    try:
        lines, visible_lines = read_lines(boxes), []
        if layout.visible and is_there(visible_boxes):
            file = visible_boxes
            visible_lines = read_lines(visible_boxes)
    except RecordError as error:
        yield Rejected(source.name, relative(file, root), sequence, error.reason, error.detail)
        return
    stems, rejected = frames_in(source, root, folder / layout.infrared)
    if not stems:
        yield Rejected(source.name, relative(boxes, root), sequence, "missing image", f"{sequence} has no frame")
    visible, rejected_visible = frames_in(source, root, folder / layout.visible) if layout.visible else ({}, [])
    yield from (*rejected, *rejected_visible)
    frames = list(stems.values())
    pairs = mates(frames, list(visible.values()))
    # A copy may hold the annotated frames only: what fits better tells, since either count may be off by a few.
    steps = (1, layout.annotated_every)
    every = min(steps, key=lambda step: abs(math.ceil(len(frames) / step) - len(lines)))
    for number in range(0, len(frames), source.keep_every):
        image, record = frames[number], f"{sequence}/{frames[number].stem}"
        line = line_of(lines, number, every)
        if line is None and number % every == 0:
            detail = f"{layout.boxes} has {len(lines)} lines for {len(frames)} frames, one every {every}"
            yield Rejected(source.name, relative(image, root), record, "frame without line", detail)
            continue
        frame = Frame(
            sequence=sequence,
            number=number,
            total=len(frames),
            image=image,
            line=line,
            mate=pairs[number],
            visible_line=line_of(visible_lines, number, every),
            layout=layout,
        )
        yield attempt(source, relative(image, root), record, partial(tracked_sample, source, root, frame))
    used = math.ceil(len(frames) / every)
    for file, found in ((boxes, lines), (visible_boxes, visible_lines)):
        if used < len(found):
            detail = f"{len(found) - used} lines, from line {used + 1}, stand for no frame of {len(frames)}"
            yield Rejected(source.name, relative(file, root), sequence, "line without frame", detail)
    paired = {mate.stem for mate in pairs if mate}
    lacking = f"{relative(folder / layout.infrared, root)} has no frame for"
    yield from unmatched(source, root, visible.values(), paired, "missing infrared image", lacking, sequence)
    if layout.infrared:
        yield from beside_frames(root, source, folder, sequence, (layout.infrared, layout.visible))


def beside_frames(root: Path, source: Source, folder: Path, sequence: str, known: Sequence[str]) -> Iterator[Rejected]:
    """Images that lie in a sequence's folder and in none of its `known` ones: each image of the folder itself, and each
    other folder with images as one."""
    _, folders, names = next(walk(folder))
    for name in names:
        if has_images([name]):
            place = relative(folder / name, root)
            detail = f"lies beside {known[0]}/ and not in it"
            yield Rejected(source.name, place, f"{sequence}/{Path(name).stem}", "misplaced image", detail)
    for other in folders:
        if other not in known and (count := sum(1 for _ in list_images(folder / other))):
            place = relative(folder / other, root)
            detail = f"{count} images in a folder that is neither of {', '.join(filter(None, known))}"
            yield Rejected(source.name, place, sequence, "misplaced image", detail)


def read_xml_sequence(root: Path, source: Source, images: Path, sequence: str, xml: Path) -> Found:
    """Frames 0, k, 2k ... of one sequence with an XML file a frame; XML files of absent frames are rejected."""
    stems, rejected = frames_in(source, root, images)
    yield from rejected
    frames = list(stems.values())
    in_sequence = images.parent == xml.parent
    # of mirrored trees, each folder is another sequence
    files, repeated = by_stem(source, root, list_files(xml, {".xml"}) if in_sequence else files_in(xml, ".xml"))
    yield from repeated
    for number in range(0, len(frames), source.keep_every):
        image = frames[number]
        frame = Frame(sequence, number, len(frames), image, xml=files.get(image.stem))
        record = f"{sequence}/{image.stem}"
        yield attempt(source, relative(image, root), record, partial(tracked_sample, source, root, frame))
    lacking = f"{relative(images, root)} has no frame"
    yield from unmatched(source, root, files.values(), stems, "missing image", lacking, sequence)
    if in_sequence:
        yield from beside_frames(root, source, images.parent, sequence, (images.name, xml.name))


def mirrored(root: Path, folder: Path, tree: str, other: str) -> Path | None:
    """The folder's place in the mirrored tree `other`; `None` for one outside `tree`."""
    parts = list(folder.relative_to(root).parts)
    if tree not in parts:
        return None
    parts[parts.index(tree)] = other
    return root.joinpath(*parts)


def sequence_in(root: Path, source: Source, folder: Path, folders: Sequence[str], names: Sequence[str]) -> Found | None:
    """The records of the sequence that the folder is, of which these are the subfolders and files, or why it cannot be
    used; `None` where it is none."""
    sequence = relative(folder, root) if folder != root else root.absolute().name
    for layout in LAYOUTS:
        if layout.boxes in names and (not layout.infrared or layout.infrared in folders):
            return read_text_sequence(root, source, folder, sequence, layout)
    if {"img", "anno"} <= set(folders):
        return read_xml_sequence(root, source, folder / "img", sequence, folder / "anno")
    xml = mirrored(root, folder, IMAGE_TREE, XML_TREE)
    if xml and xml.is_dir() and has_images(names):
        return read_xml_sequence(root, source, folder, sequence, xml)
    for layout in LAYOUTS:
        if layout.boxes in names:
            detail = f"{layout.boxes} without {layout.infrared}/"
            return iter([Rejected(source.name, sequence, sequence, "missing image", detail)])
        if layout.infrared in folders and any(list_images(folder / layout.infrared)):
            detail = f"{layout.infrared}/ without {layout.boxes}"
            return iter([Rejected(source.name, sequence, sequence, "missing annotation", detail)])
    return None


def has_images(names: Sequence[str]) -> bool:
    """Whether one of the names is an image's."""
    return any(Path(name).suffix.lower() in IMAGE_SUFFIXES for name in names)


def left_over(root: Path, source: Source, folder: Path, names: Sequence[str]) -> list[Rejected]:
    """What a folder holds of a sequence that it is not: frames without boxes, or XML files without frames."""
    place, rejected = relative(folder, root), []
    if has_images(names):
        rejected.append(Rejected(source.name, place, place, "missing annotation", "frames of no known layout"))
    frames = mirrored(root, folder, XML_TREE, IMAGE_TREE)
    if any(name.lower().endswith(".xml") for name in names) and not (frames and any(list_images(frames))):
        where = relative(frames, root) if frames else "img/ beside it"
        rejected.append(Rejected(source.name, place, place, "missing image", f"no frames in {where}"))
    return rejected


def sequences(root: Path, source: Source) -> Iterator[Found]:
    """Every sequence below the root, sorted by path, and what is none; what lies below a sequence is its own."""
    for folder, folders, names in walk(root):
        if found := sequence_in(root, source, folder, folders, names):
            folders[:] = []
            yield found
        elif rejected := left_over(root, source, folder, names):
            yield iter(rejected)


def read_tracking(root: Path, source: Source) -> Found:
    """One sample a kept frame of every sequence of a known layout, at any depth below the root.

    A sequence is a group by its own name, so that a second copy in another folder stays with the first. Only the
    target has a box (the fact `annotated`), so nothing can be counted. Its category is the one that the sequence's
    name tells by `source.naming`, else `object` with the fact `category: unknown`.

    Raises:
        MissingData: no folder or no sequence.
    """
    if not root.is_dir():
        raise source.missing(root, "no such folder")
    found = False
    for sequence in sequences(root, source):
        found = True
        yield from sequence
    if not found:
        known = ", ".join(f"{layout.infrared}/ with {layout.boxes}".lstrip("/ ") for layout in LAYOUTS)
        raise source.missing(root, f"no sequence ({known}, or {IMAGE_TREE}/ with {XML_TREE}/)")
