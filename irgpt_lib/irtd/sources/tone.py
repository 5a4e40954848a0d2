"""From wide samples to 8 bits, and images that carry their content in hue.

A thermal camera reads 12 to 16 bits, a model and a JPEG hold 8. What is kept is a choice: a stretch between two
percentiles of the frame (the linear automatic gain of thermal cameras, with its tails rejected) shows every scene in
full contrast and forgets its temperature; a fixed range keeps frames comparable and loses what lies outside; contrast
limited adaptive histogram equalisation brings out local detail and changes the order of gray levels between regions.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Real, UInt8

from irgpt_lib.irtd.record import RecordError

Mode = Literal["percentile", "minmax", "range", "clahe"]
MODES: tuple[Mode, ...] = get_args(Mode)
# Chroma is the largest channel less the smallest, 0-255. Its mean on thumbnails of 126 thermal frames in usual colour
# maps was 95 and more, on those of 78 visible photographs 68 and less.
COLOUR_MAP_CHROMA = 80.0
COLOURED_PIXEL_CHROMA = 32
# Length of the mean unit vector of hue, 1 for a single hue. Frames tinted and saved as JPEG of quality 40:
# 0.998 and more; in the colour map of fewest hues (black, red, yellow, white): 0.991 and less.
TINT_CONCENTRATION = 0.995


@dataclass(frozen=True)
class Tone:
    """How samples become gray levels: the limits are the frame's own `percentiles` (0-100) for `percentile` and
    `clahe`, its extremes for `minmax`, and `limits` in the samples' unit for `range`.

    Raises:
        ValueError: an unknown mode, percentiles or limits that do not rise, a range without limits.
    """

    mode: Mode = "percentile"
    percentiles: tuple[float, float] = (1.0, 99.0)
    limits: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"no tone mode is named {self.mode!r}; known: {', '.join(MODES)}")
        if not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise ValueError(f"percentiles rise within 0-100, not {self.percentiles}")
        if (self.mode == "range") != (self.limits is not None):
            raise ValueError("limits belong to the mode range, and that mode needs them")
        if self.limits is not None and not -np.inf < self.limits[0] < self.limits[1] < np.inf:
            raise ValueError(f"limits are finite and rise, not {self.limits}")


DEFAULT = Tone()


class Toned(NamedTuple):
    """An 8-bit image and the words for what was done to the samples."""

    pixels: UInt8[np.ndarray, "h w"]
    note: str


def to_8bit(pixels: Real[np.ndarray, "h w"], tone: Tone = DEFAULT) -> Toned:
    """The samples on 0-255, linear between the limits of `tone` and clipped beyond; `clahe` then equalises locally.

    Where the percentiles coincide, as on an even sky with one small target, the extremes stand in for them and the
    note says so.

    Raises:
        RecordError: `not finite` where a sample is NaN or infinite, `flat image` where all are equal or none lies
            between the limits.
    """
    # loaded here, for it takes longer than listing a source and most images have 8 bits
    from skimage.exposure import equalize_adapthist, rescale_intensity

    if bad := int(np.count_nonzero(~np.isfinite(pixels))):
        raise RecordError("not finite", f"{bad} of {pixels.size} samples are NaN or infinite")
    darkest, brightest = float(pixels.min()), float(pixels.max())
    if darkest == brightest:
        raise RecordError("flat image", f"every sample is {darkest:.10g}")
    low, high, words = stretch_limits(pixels, tone)
    if brightest <= low or darkest >= high:
        found = f"samples from {darkest:.10g} to {brightest:.10g}"
        raise RecordError("flat image", f"{found}, none between {low:.10g} and {high:.10g}")
    stretched = rescale_intensity(pixels, in_range=(low, high), out_range=(0.0, 1.0))
    if tone.mode == "clahe":
        stretched, words = equalize_adapthist(stretched), f"clahe after {words}"
    note = f"{words} ({round(low, 3):.10g}..{round(high, 3):.10g})"
    return Toned(np.rint(255 * stretched).astype(np.uint8), note)


def stretch_limits(pixels: Real[np.ndarray, "h w"], tone: Tone) -> tuple[float, float, str]:
    """The samples that become 0 and 255, and how they were found."""
    if tone.limits is not None:
        return *tone.limits, "range"
    if tone.mode == "minmax":
        return float(pixels.min()), float(pixels.max()), "minmax"
    low, high = (float(value) for value in np.percentile(pixels, tone.percentiles))
    words = f"percentile {tone.percentiles[0]:g}-{tone.percentiles[1]:g}"
    if low < high:
        return low, high, words
    return float(pixels.min()), float(pixels.max()), f"minmax, as {words} coincide"


def looks_colour_mapped(pixels: UInt8[np.ndarray, "h w 3"]) -> bool:
    """Whether an RGB image is strongly coloured in more than one hue, as a pseudo-colour rendering is.

    Gray in three channels is not, a tint of one hue is not: both keep their content in brightness. A thumbnail is
    enough. A mostly black frame may be missed.
    """
    red, green, blue = (pixels[..., channel].astype(np.float32) for channel in range(3))
    chroma = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    if not pixels.size or chroma.mean() < COLOUR_MAP_CHROMA:
        return False
    across, along = np.sqrt(3) * (green - blue), 2 * red - green - blue
    length = np.hypot(across, along)
    coloured = chroma > COLOURED_PIXEL_CHROMA
    unit = np.array([(part[coloured] / length[coloured]).mean() for part in (across, along)])
    return bool(np.hypot(*unit) < TINT_CONCENTRATION)
