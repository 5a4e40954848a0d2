"""Semantic cropping: two cameras' frames of one scene are cut so that their content agrees, where their pixels do not.

The paper's appendix J: cameras with different fields of view are brought together by the places of the objects that are
labelled in both frames. Between the frames stand one scale and one shift, so both crops have the same aspect and the
same objects at about the same relative places; parallax and lens distortion remain.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

from irgpt_lib.irtd.captions import RULES, with_rule_caption
from irgpt_lib.irtd.near_duplicates import perceptual_hash
from irgpt_lib.irtd.record import Box, Point, RecordError, Sample, open_image, png_bytes
from irgpt_lib.irtd.sources.boxes import clip_box, make_box

SEMANTIC_CROP = "semantic crop"
UNALIGNED = "unaligned"
# Matching tries every pair of objects as the anchor, so only so many of the largest take part.
LARGEST_OBJECTS = 12
BORDER_PX = 1.0
# How far two matched boxes may differ in side after scaling, and how far in place relative to the crop's sides.
SIZE_RATIO = 1.5
PLACE_TOLERANCE = 0.1
SMALLEST_SIDE_PX = 32
KEPT_SHARE = 0.5

Size = tuple[int, int]


class Rectangle(NamedTuple):
    """Pixels `x1 <= x < x2`, `y1 <= y < y2` of an image."""

    x1: int
    y1: int
    x2: int
    y2: int

    @property
    def size(self) -> Size:
        return self.x2 - self.x1, self.y2 - self.y1

    def text(self) -> str:
        return ",".join(map(str, self))


class Crops(NamedTuple):
    """The rectangles of the infrared and of the visible frame that show the same content."""

    infrared: Rectangle
    visible: Rectangle


@dataclass(frozen=True)
class Placement:
    """Infrared pixels to visible pixels: `visible = scale * infrared + shift`, one scale for both axes."""

    scale: float
    shift_x: float
    shift_y: float

    def to_visible(self, box: Box) -> Box:
        x1, x2 = (self.scale * x + self.shift_x for x in (box.x1, box.x2))
        y1, y2 = (self.scale * y + self.shift_y for y in (box.y1, box.y2))
        return replace(box, x1=x1, y1=y1, x2=x2, y2=y2)

    def to_infrared(self, x: float, y: float) -> tuple[float, float]:
        return (x - self.shift_x) / self.scale, (y - self.shift_y) / self.scale


def corners_of(boxes: Sequence[Box]) -> Float[np.ndarray, "n 4"]:
    """A row of x1, y1, x2, y2 for each box."""
    return np.array([(box.x1, box.y1, box.x2, box.y2) for box in boxes], dtype=float).reshape(-1, 4)


def fit_placement(infrared: Float[np.ndarray, "n 4"], visible: Float[np.ndarray, "n 4"]) -> Placement:
    """The placement of matched boxes, row by row, by medians, so that a few wrong matches do not move it.

    The scale is the median ratio of distances between box edges in the two frames (Theil 1950, Sen 1968), over the
    longer half of the distances: the short ones are mostly noise of the labels. Of one match these are its sides.
    """
    before, after = infrared.reshape(-1, 2), visible.reshape(-1, 2)
    first, second = np.triu_indices(len(before), 1)
    apart, there = (before[second] - before[first]).T.ravel(), (after[second] - after[first]).T.ravel()
    longer = np.median(np.abs(apart)) if len(infrared) > 1 else 0.0
    told = (np.abs(apart) >= longer) & (apart != 0)
    scale = float(np.median(there[told] / apart[told]))
    return Placement(scale, *np.median(after - scale * before, axis=0).tolist())


def match_objects(infrared: Sequence[Box], visible: Sequence[Box]) -> list[tuple[int, int]]:
    """Which labelled object of one frame is which of the other, by their places in the lists; empty where that cannot
    be told.

    Each pair of one category is tried as the anchor of a placement, and the placement under which most objects of the
    two frames agree wins (the closest of equals). Where a frame has several objects at least two must agree: one would
    be the anchor alone, which tells nothing.
    """
    before, after = corners_of(infrared), corners_of(visible)
    kinds = np.array([[one.category == other.category for other in visible] for one in infrared], dtype=bool)
    best: list[tuple[int, int]] = []
    least = np.inf
    for i, j in np.argwhere(kinds):
        trial, error = agreeing(fit_placement(before[[i]], after[[j]]), before, after, kinds)
        if (-len(trial), error) < (-len(best), least):
            best, least = trial, error
    needed = 1 if len(infrared) == len(visible) == 1 else 2
    return best if len(best) >= needed else []


def agreeing(
    placement: Placement,
    infrared: Float[np.ndarray, "n 4"],
    visible: Float[np.ndarray, "m 4"],
    kinds: Bool[np.ndarray, "n m"],
) -> tuple[list[tuple[int, int]], float]:
    """One-to-one matches, nearest first, and their mean distance of centres in box diagonals.

    Two boxes match where their categories do (`kinds`), their sides are alike and their centres lie nearer than half
    the infrared box's diagonal, as `placement` has it in the visible frame.
    """
    shift = np.array([placement.shift_x, placement.shift_y] * 2)
    placed, there = (placement.scale * infrared + shift)[:, None], visible[None]
    sides, seen = placed[..., 2:] - placed[..., :2], there[..., 2:] - there[..., :2]
    alike = (np.maximum(sides / seen, seen / sides) <= SIZE_RATIO).all(axis=2)
    centres = (placed[..., :2] + placed[..., 2:] - there[..., :2] - there[..., 2:]) / 2
    away = np.linalg.norm(centres, axis=2) / np.linalg.norm(sides, axis=2)
    candidates = np.argwhere(kinds & alike & (away <= 0.5)).tolist()
    found: dict[int, int] = {}
    for i, j in sorted(candidates, key=lambda pair: away[pair[0], pair[1]]):
        if i not in found and j not in found.values():
            found[i] = j
    matches = sorted(found.items())
    return matches, float(np.mean([away[pair] for pair in matches])) if matches else float("inf")


def whole(boxes: Sequence[Box], size: Size) -> list[Box]:
    """The largest boxes that do not touch the image's border: there an object is cut, and its box misleads."""
    width, height = size
    inner = [
        box
        for box in boxes
        if min(box.x1, box.y1) > BORDER_PX and box.x2 < width - BORDER_PX and box.y2 < height - BORDER_PX
    ]
    return sorted(inner, key=lambda box: -box.area)[:LARGEST_OBJECTS]


def semantic_crop(
    infrared_boxes: Sequence[Box], visible_boxes: Sequence[Box], infrared_size: Size, visible_size: Size
) -> Crops | None:
    """The largest rectangles of the two frames that show the same content, by the objects labelled in both.

    Boxes are pixels of their own frame, sizes are width and height. `None` where the objects cannot be matched (see
    `match_objects`), where a matched object's place in the two crops differs by more than a tenth of a side, or less
    than half of it lies in them, or where less than 32 pixels of a side are left.
    """
    infrared, visible = whole(infrared_boxes, infrared_size), whole(visible_boxes, visible_size)
    matches = [(infrared[i], visible[j]) for i, j in match_objects(infrared, visible)]
    if not matches:
        return None
    placement = fit_placement(*map(corners_of, zip(*matches, strict=True)))
    crops = common_field(placement, infrared_size, visible_size)
    if min(*crops.infrared.size, *crops.visible.size) < SMALLEST_SIDE_PX:
        return None
    places = [[relative_place(box, frame) for box, frame in zip(match, crops, strict=True)] for match in matches]
    if any(np.abs(one - other).max() > PLACE_TOLERANCE for one, other in places):
        return None
    held = all(contains(frame, box) for match in matches for box, frame in zip(match, crops, strict=True))
    return crops if held else None


def common_field(placement: Placement, infrared_size: Size, visible_size: Size) -> Crops:
    """What both cameras see under the placement, as whole pixels inside both frames; sides below 1 where that is
    nothing."""
    right, bottom = placement.to_infrared(*map(float, visible_size))
    left, top = placement.to_infrared(0.0, 0.0)
    infrared = Rectangle(
        int(np.ceil(max(left, 0.0))),
        int(np.ceil(max(top, 0.0))),
        int(np.floor(min(right, infrared_size[0]))),
        int(np.floor(min(bottom, infrared_size[1]))),
    )
    shown = placement.to_visible(Box("", *map(float, infrared)))
    # rounding may leave the frame by half a pixel
    xs, ys = (
        np.clip(np.round(c), 0, limit)
        for c, limit in zip(((shown.x1, shown.x2), (shown.y1, shown.y2)), visible_size, strict=True)
    )
    return Crops(infrared, Rectangle(int(xs[0]), int(ys[0]), int(xs[1]), int(ys[1])))


def relative_place(box: Box, frame: Rectangle) -> Float[np.ndarray, "2"]:
    """The box's centre in the rectangle, 0-1 from its left and from its top."""
    return (np.array(box.centre) - frame[:2]) / frame.size


def contains(frame: Rectangle, box: Box) -> bool:
    """Whether at least half of the box lies in the rectangle."""
    moved = moved_box(box, frame)
    return moved is not None and moved.area >= KEPT_SHARE * box.area


def moved_box(box: Box, frame: Rectangle) -> Box | None:
    """The part of the box inside the rectangle, in its pixels; `None` where nothing is."""
    shifted = replace(box, x1=box.x1 - frame.x1, x2=box.x2 - frame.x1, y1=box.y1 - frame.y1, y2=box.y2 - frame.y1)
    try:
        return clip_box(shifted, *frame.size)
    except RecordError:
        return None


def cropped(data: bytes, frame: Rectangle, name: str) -> bytes:
    """The rectangle of an encoded image, as PNG: gray stays gray, all else becomes RGB.

    Raises:
        RecordError: the reasons of `open_image`.
    """
    image = open_image(data, name)
    gray = image.mode in ("1", "L", "LA")
    return png_bytes(np.asarray(image.convert("L" if gray else "RGB").crop(frame)))


def apply_crops(sample: Sample, crops: Crops) -> Sample:
    """The sample of both crops: boxes and points moved and clipped, those with less than half their area left out.

    Where a part of a left-out object is still seen, no counting question has a true answer any more. A caption of the
    rules is written anew, and a perceptual hash computed anew. Facts: `visible_frame` is `semantic crop`, and
    `crop_infrared`, `crop_visible` are `x1,y1,x2,y2` in pixels of the frames as they were; `visible_box`, which was in
    those pixels too, goes.

    Raises:
        RecordError: the reasons of `open_image`.
    """
    name, (width, height) = sample.origin or sample.sample_id, crops.infrared.size
    moved = [(box, moved_box(box, crops.infrared)) for box in sample.boxes]
    kept = tuple(part for box, part in moved if part and part.area >= KEPT_SHARE * box.area)
    cut = sum(part is not None for _, part in moved) > len(kept)
    shifted = (Point(p.category, p.x - crops.infrared.x1, p.y - crops.infrared.y1) for p in sample.points)
    infrared = cropped(sample.infrared, crops.infrared, name)
    facts = {key: value for key, value in sample.facts.items() if key != "visible_box"}
    result = replace(
        sample,
        infrared=infrared,
        visible=cropped(sample.visible, crops.visible, f"visible pair of {name}"),
        width=width,
        height=height,
        boxes=kept,
        points=tuple(point for point in shifted if 0 <= point.x < width and 0 <= point.y < height),
        counted="" if cut else sample.counted,
        perceptual_hash=perceptual_hash(infrared) if sample.perceptual_hash else "",
        facts=facts
        | {
            "visible_frame": SEMANTIC_CROP,
            "crop_infrared": crops.infrared.text(),
            "crop_visible": crops.visible.text(),
        },
    )
    return with_rule_caption(result) if sample.caption_by == RULES else result


def visible_target(sample: Sample) -> tuple[Box, ...]:
    """The target's box in the visible frame (the fact `visible_box`, pixels `x1,y1,x2,y2`), under the category that it
    has in the infrared one; none where either frame shows none.

    Raises:
        RecordError: `unreadable box` or `degenerate box`.
    """
    stated = sample.facts.get("visible_box", "")
    if not stated or len(sample.boxes) != 1:
        return ()
    corners = tuple(stated.split(","))
    if len(corners) != 4:
        raise RecordError("unreadable box", f"visible_box of {sample.sample_id}: {stated!r}")
    return (make_box(sample.boxes[0].category, corners, f"visible_box of {sample.sample_id}"),)


def semantically_paired(sample: Sample, visible_boxes: Sequence[Box] = ()) -> Sample:
    """The sample with both frames cropped to their common content, where its frames are unaligned and objects tell how
    they lie; any other sample as it is.

    `visible_boxes` are the objects labelled in the visible frame; without them the target of a tracking sequence serves
    (the fact `visible_box`). A sample that stays unaligned says so in the fact `semantic_crop: impossible`.

    Raises:
        RecordError: the reasons of `open_image` and `visible_target`.
    """
    if not sample.visible or sample.facts.get("visible_frame") != UNALIGNED:
        return sample
    size = open_visible(sample).size
    crops = semantic_crop(sample.boxes, visible_boxes or visible_target(sample), (sample.width, sample.height), size)
    if crops is None:
        return replace(sample, facts=sample.facts | {"semantic_crop": "impossible"})
    return apply_crops(sample, crops)


def open_visible(sample: Sample) -> Image.Image:
    """The decoded visible image.

    Raises:
        RecordError: the reasons of `open_image`.
    """
    return open_image(sample.visible, f"visible pair of {sample.origin or sample.sample_id}")
