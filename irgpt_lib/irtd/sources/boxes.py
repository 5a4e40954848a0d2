"""Annotated corners of any format, checked before they become boxes."""

import math
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from irgpt_lib.irtd.record import Box, RecordError

TOLERANCE_PX = 1.0


def make_box(category: str, corners: tuple[object, object, object, object], where: str) -> Box:
    """A box from `x1, y1, x2, y2` as a file states them (numbers or their text), in pixels.

    Raises:
        RecordError: `unreadable box` where a corner is no number, `degenerate box` where one is not finite or
            the box has no area. `where` names the annotation in the detail.
    """
    try:
        x1, y1, x2, y2 = (float(corner) for corner in corners)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError) as error:
        raise RecordError("unreadable box", f"{where}: {corners}") from error
    if not all(map(math.isfinite, (x1, y1, x2, y2))) or x2 <= x1 or y2 <= y1:
        raise RecordError("degenerate box", f"{where}: {category} {(x1, y1, x2, y2)}")
    return Box(category, x1, y1, x2, y2)


def fit_box(box: Box, width: int, height: int) -> Box:
    """The box clipped to the image where it leaves it by no more than a pixel, the slack of rounded labels.

    Raises:
        RecordError: `box outside image` beyond that, `degenerate box` where nothing is left.
    """
    if min(box.x1, box.y1) < -TOLERANCE_PX or box.x2 > width + TOLERANCE_PX or box.y2 > height + TOLERANCE_PX:
        corners = (box.x1, box.y1, box.x2, box.y2)
        raise RecordError("box outside image", f"{box.category} {corners} in {width}x{height}")
    return clip_box(box, width, height)


def clip_box(box: Box, width: int, height: int) -> Box:
    """The part of the box inside the image.

    Raises:
        RecordError: `degenerate box` where nothing is left.
    """
    x1, y1, x2, y2 = max(box.x1, 0.0), max(box.y1, 0.0), min(box.x2, float(width)), min(box.y2, float(height))
    if x2 <= x1 or y2 <= y1:
        raise RecordError("degenerate box", f"{box.category} has no part inside {width}x{height}")
    return replace(box, x1=x1, y1=y1, x2=x2, y2=y2)


def warp_box(homography: Float[np.ndarray, "3 3"], box: Box) -> Box:
    """The axis-aligned box around the four warped corners; `homography` maps the box's pixels to the
    result's.

    Raises:
        RecordError: `degenerate box` where a corner lands at or behind the horizon, or beyond all numbers.
    """
    corners = np.array([[box.x1, box.y1, 1], [box.x2, box.y1, 1], [box.x2, box.y2, 1], [box.x1, box.y2, 1]])
    with np.errstate(over="ignore", invalid="ignore"):
        warped = corners @ homography.T
    if not (np.isfinite(warped).all() and (warped[:, 2] > 0).all()):
        raise RecordError("degenerate box", f"{box.category} is warped behind the horizon")
    points = warped[:, :2] / warped[:, 2:]
    (x1, y1), (x2, y2) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return replace(box, x1=x1, y1=y1, x2=x2, y2=y2)
