"""Encoded images to the gray arrays that each family reads. Sizes and tiles are decided as transformers decides them;
resizing is Pillow's bicubic, on one channel, for infrared has one.
"""

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from irgpt_lib.compat import ensure_torchvision

ensure_torchvision()

from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas  # noqa: E402
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize  # noqa: E402

from irgpt_lib.models.families.frame import padding  # noqa: E402

# Tiles, rows and columns; an image of one tile has a first axis of length 1. False colours are a last axis of length 3.
Tiles = UInt8[np.ndarray, "_ _ _ ..."]


def tiled(data: bytes, px: int, max_tiles: int) -> Tiles:
    """InternVL: tiles of `px`, at most `max_tiles` in the grid whose aspect is nearest the image's, row by row, and
    the whole image last where there are several. With one tile the image becomes one square, its aspect not kept."""
    image = _gray(data)
    if max_tiles == 1:
        return _stacked(_resized(image, px, px))
    columns, rows = get_optimal_tiled_canvas((image.height, image.width), (px, px), 1, max_tiles)
    whole = _resized(image, columns * px, rows * px)
    places = [(column * px, row * px) for row in range(rows) for column in range(columns)]
    parts = [whole.crop((x, y, x + px, y + px)) for x, y in places]
    return _stacked(*parts, *([_resized(image, px, px)] if len(parts) > 1 else []))


def padded(data: bytes, px: int, fill: int) -> Tiles:
    """LLaVA-1.5: the image in the middle of a square of gray level `fill`, the whole square at `px`."""
    image = _gray(data)
    square = Image.new("L", (max(image.size),) * 2, fill)
    square.paste(image, padding(image.size))
    return _stacked(_resized(square, px, px))


def cropped(data: bytes, px: int) -> Tiles:
    """CLIP and ImageBind: the shorter side at `px`, then the middle square; the ends of the longer side are lost."""
    image = _gray(data)
    short = min(image.size)
    width, height = (int(px * side / short) for side in image.size)
    left, top = (width - px) // 2, (height - px) // 2
    return _stacked(_resized(image, width, height).crop((left, top, left + px, top + px)))


def patched(data: bytes, multiple: int, min_pixels: int, max_pixels: int) -> Tiles:
    """Qwen2-VL: both sides a multiple of `multiple` pixels, the area within the bounds, the aspect nearly kept."""
    image = _gray(data)
    height, width = smart_resize(image.height, image.width, multiple, min_pixels, max_pixels)
    return _stacked(_resized(image, width, height))


def size_of(data: bytes) -> tuple[int, int]:
    """Width and height in pixels."""
    return Image.open(io.BytesIO(data)).size


def _gray(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("L")


def _resized(image: Image.Image, width: int, height: int) -> Image.Image:
    same = image.size == (width, height)
    return image if same else image.resize((width, height), Image.Resampling.BICUBIC)


def _stacked(*images: Image.Image) -> Tiles:
    return np.stack([np.asarray(image) for image in images])
