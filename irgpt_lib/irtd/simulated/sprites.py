"""Shapes of the objects, drawn once from polygons in the unit square and sampled at any size.

A sprite is a part map: 0 outside, and 1 `PAINT`, 2 `WARM`, 3 `GLASS`, 4 `DARK`, 5 `HAT`, 6 `BAG` inside.
"""

from functools import cache
from itertools import product

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

PAINT, WARM, GLASS, DARK, HAT, BAG = 1, 2, 3, 4, 5, 6
PARTS = 7
MASTER_PX = 192
CATEGORIES = ("person", "car", "truck", "bicycle", "boat", "dog")
# Width and height of a category in units of the scale that a scene draws for each object.
ASPECT = {
    "person": (0.42, 1.0),
    "car": (1.1, 0.6),
    "truck": (1.35, 0.8),
    "bicycle": (0.95, 0.7),
    "boat": (1.1, 1.0),
    "dog": (0.9, 0.65),
}
Shape = tuple[str, int, tuple[float, ...]]
DRAWINGS: dict[str, list[Shape]] = {
    "person": [
        ("rect", PAINT, (0.10, 0.20, 0.90, 0.60)),
        ("rect", DARK, (0.20, 0.58, 0.46, 1.00)),
        ("rect", DARK, (0.54, 0.58, 0.80, 1.00)),
        ("oval", WARM, (0.28, 0.00, 0.72, 0.20)),
    ],
    "car": [
        (
            "poly",
            PAINT,
            (0.0, 0.88, 0.0, 0.50, 0.18, 0.44, 0.32, 0.06, 0.74, 0.06, 0.88, 0.44, 1.0, 0.52, 1.0, 0.88),
        ),
        ("poly", GLASS, (0.28, 0.44, 0.38, 0.15, 0.68, 0.15, 0.77, 0.44)),
        ("rect", WARM, (0.00, 0.50, 0.20, 0.74)),
        ("oval", DARK, (0.10, 0.64, 0.34, 1.00)),
        ("oval", DARK, (0.66, 0.64, 0.90, 1.00)),
    ],
    "truck": [
        ("rect", PAINT, (0.34, 0.00, 1.00, 0.80)),
        ("rect", WARM, (0.00, 0.32, 0.30, 0.80)),
        ("rect", GLASS, (0.04, 0.37, 0.20, 0.56)),
        ("oval", DARK, (0.05, 0.70, 0.26, 1.00)),
        ("oval", DARK, (0.48, 0.70, 0.69, 1.00)),
        ("oval", DARK, (0.75, 0.70, 0.96, 1.00)),
    ],
    "bicycle": [
        ("oval", DARK, (0.00, 0.44, 0.42, 1.00)),
        ("oval", 0, (0.10, 0.57, 0.32, 0.87)),
        ("oval", DARK, (0.58, 0.44, 1.00, 1.00)),
        ("oval", 0, (0.68, 0.57, 0.90, 0.87)),
        ("poly", PAINT, (0.18, 0.74, 0.38, 0.34, 0.46, 0.34, 0.28, 0.76)),
        ("poly", PAINT, (0.36, 0.38, 0.76, 0.30, 0.76, 0.43, 0.40, 0.49)),
        ("poly", PAINT, (0.70, 0.18, 0.80, 0.18, 0.86, 0.74, 0.74, 0.74)),
        ("oval", WARM, (0.32, 0.00, 0.60, 0.30)),
    ],
    "boat": [
        ("poly", PAINT, (0.0, 0.60, 1.0, 0.60, 0.82, 1.0, 0.18, 1.0)),
        ("rect", DARK, (0.45, 0.00, 0.54, 0.60)),
        ("poly", GLASS, (0.57, 0.04, 0.92, 0.53, 0.57, 0.53)),
        ("rect", WARM, (0.14, 0.42, 0.40, 0.60)),
    ],
    "dog": [
        ("rect", WARM, (0.20, 0.30, 0.86, 0.66)),
        ("rect", WARM, (0.00, 0.05, 0.33, 0.42)),
        ("rect", PAINT, (0.22, 0.60, 0.35, 1.00)),
        ("rect", PAINT, (0.70, 0.60, 0.83, 1.00)),
        ("poly", PAINT, (0.82, 0.36, 1.0, 0.05, 1.0, 0.20, 0.86, 0.46)),
    ],
    "car from above": [
        ("rect", PAINT, (0.00, 0.00, 1.00, 1.00)),
        ("rect", WARM, (0.00, 0.00, 1.00, 0.22)),
        ("rect", GLASS, (0.20, 0.24, 0.80, 0.44)),
        ("rect", GLASS, (0.20, 0.68, 0.80, 0.80)),
    ],
}
ATTRIBUTES = ("hat", "bag", "skirt")


def rasterise(shapes: list[Shape]) -> UInt8[np.ndarray, "h w"]:
    """The part map of a drawing at the master size; later shapes cover earlier ones."""
    image = Image.new("L", (MASTER_PX, MASTER_PX), 0)
    draw = ImageDraw.Draw(image)
    for form, part, numbers in shapes:
        points = [n * (MASTER_PX - 1) for n in numbers]
        {"rect": draw.rectangle, "oval": draw.ellipse, "poly": draw.polygon}[form](points, fill=part)
    return np.array(image)


@cache
def sprite(name: str) -> UInt8[np.ndarray, "h w"]:
    """The part map of a category or of `car from above`."""
    return rasterise(DRAWINGS[name])


@cache
def pedestrian(hat: bool, bag: bool, skirt: bool) -> UInt8[np.ndarray, "h w"]:
    """A person as Re-ID cameras see one, with the attributes that tell identities apart."""
    shapes: list[Shape] = [
        ("rect", PAINT, (0.20, 0.22, 0.80, 0.58)),
        ("oval", WARM, (0.30, 0.02, 0.70, 0.23)),
    ]
    if skirt:
        shapes += [
            ("poly", DARK, (0.34, 0.56, 0.66, 0.56, 0.98, 0.91, 0.02, 0.91)),
            ("rect", WARM, (0.34, 0.91, 0.45, 1.00)),
            ("rect", WARM, (0.55, 0.91, 0.66, 1.00)),
        ]
    else:
        shapes += [("rect", DARK, (0.24, 0.56, 0.47, 1.00)), ("rect", DARK, (0.53, 0.56, 0.76, 1.00))]
    if hat:
        shapes += [("rect", HAT, (0.16, 0.00, 0.84, 0.10))]
    if bag:
        shapes += [
            ("rect", BAG, (0.78, 0.28, 1.00, 0.64)),
            ("poly", BAG, (0.66, 0.22, 0.76, 0.22, 0.86, 0.30, 0.76, 0.30)),
        ]
    return rasterise(shapes)


IDENTITIES = tuple(product((False, True), repeat=len(ATTRIBUTES)))


def resample(parts: UInt8[np.ndarray, "H W"], width: int, height: int, flip: bool) -> UInt8[np.ndarray, "h w"]:
    """Nearest-neighbour samples of a part map on a grid of `height` by `width` pixels, mirrored if `flip`."""
    rows = ((np.arange(height) + 0.5) * parts.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * parts.shape[1] / width).astype(int)
    sampled = parts[rows[:, None], columns[None]]
    return sampled[:, ::-1] if flip else sampled
