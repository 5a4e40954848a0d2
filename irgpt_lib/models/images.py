"""Encoded images to the small gray arrays that the study's models read."""

import io
from collections.abc import Iterable

import numpy as np
from jaxtyping import UInt8
from PIL import Image


def decode_image(data: bytes, px: int) -> UInt8[np.ndarray, "px px"]:
    """One encoded image as gray, resized to a square of `px`; its aspect is not kept, for the frame 0-1000 is relative
    to width and height too."""
    image = Image.open(io.BytesIO(data)).convert("L")
    return np.array(image if image.size == (px, px) else image.resize((px, px), Image.Resampling.BICUBIC))


def decode_all(images: Iterable[bytes], px: int) -> UInt8[np.ndarray, "n px px"]:
    """All of them in one array; an empty one where there is no image."""
    decoded = [decode_image(data, px) for data in images]
    return np.stack(decoded) if decoded else np.empty((0, px, px), np.uint8)
