"""What sources of video frames share: their order, and boxes of objects that leave the picture."""

import re
from collections.abc import Sequence
from pathlib import Path

from irgpt_lib.irtd.record import Box, RecordError, Rejected
from irgpt_lib.irtd.sources.assembly import by_stem, relative
from irgpt_lib.irtd.sources.boxes import clip_box
from irgpt_lib.irtd.sources.files import list_images
from irgpt_lib.irtd.sources.source import Source

# Whoever follows an object out of the picture draws its whole extent. A box of which less than half lies inside shows
# too little, or was drawn on pictures of another size.
KEPT_FRACTION = 0.5


def frame_order(file: Path) -> tuple[str | int, ...]:
    """A sorting key that takes the digits of a file's stem as numbers: `i9` stands before `i10`."""
    return tuple(int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", file.stem))


def frames_in(source: Source, root: Path, folder: Path) -> tuple[dict[str, Path], list[Rejected]]:
    """The images of the folder itself by stem, in the order of their numbers; rejected are those of a stem that came
    before, and those that lie deeper, whose place in the sequence nobody knows."""
    images = list(list_images(folder))
    frames, rejected = by_stem(source, root, sorted((i for i in images if i.parent == folder), key=frame_order))
    for image in images:
        if image.parent != folder:
            detail = f"lies below {relative(folder, root)}/ and not in it"
            rejected.append(Rejected(source.name, relative(image, root), image.stem, "misplaced image", detail))
    return frames, rejected


def frame_number(file: Path) -> tuple[int, ...]:
    """The numbers in a file's stem: `(12,)` of `00012v` and of `i000012`."""
    return tuple(map(int, re.findall(r"\d+", file.stem)))


def clipped(boxes: Sequence[Box], width: int, height: int) -> tuple[tuple[Box, ...], int]:
    """The parts of the boxes inside the image, and how many of them reached beyond it.

    Raises:
        RecordError: `box outside image` where less than half of a box lies inside.
    """
    inner = []
    for box in boxes:
        corners = (box.x1, box.y1, box.x2, box.y2)
        outside = f"{box.category} {corners} lies more than half outside {width}x{height}"
        try:
            part = clip_box(box, width, height)
        except RecordError as error:
            raise RecordError("box outside image", outside) from error
        if part.area < KEPT_FRACTION * box.area:
            raise RecordError("box outside image", outside)
        inner.append(part)
    return tuple(inner), sum(part != box for part, box in zip(inner, boxes, strict=True))
