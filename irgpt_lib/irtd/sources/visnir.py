"""VIS-NIR scenes: pairs `<number>_nir.*`, `<number>_rgb.*` in one folder a scene class.

The registration benchmark made from the EPFL set warps each near-infrared image by a known similarity, to be
found again. Its `<number>_nir.npy` is the 2 x 3 matrix A that maps a pixel of the aligned image to its place
in the warped one, so `aligned(x) = warped(A x)`. Corners that the warp pushed out of the image are lost: both
images are cut to the largest rectangle that is left. A pair without a matrix is aligned as it is.
"""

import io
import tokenize
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from irgpt_lib.irtd.captions import SPOKEN
from irgpt_lib.irtd.record import RecordError, Rejected, Sample, png_bytes
from irgpt_lib.irtd.sources.assembly import attempt, relative
from irgpt_lib.irtd.sources.files import (
    colour_facts,
    decoded,
    is_there,
    list_files,
    list_images,
    read_bytes,
    read_image,
    read_toned,
)
from irgpt_lib.irtd.sources.source import Found, Source

MAX_MATRIX_BYTES = 4096
# No shift in pixels is larger; products of larger numbers overflow.
MAX_ENTRY = 1e6
# Pixels nearer to the warped image's border mix with what lies beyond it.
BORDER_PX = 2
GRID_PX = 8
INFRARED, VISIBLE = "_nir", "_rgb"
MIN_SIDE_PX = 64


class Cut(NamedTuple):
    """A rectangle of pixels: left, top, width, height."""

    left: int
    top: int
    width: int
    height: int


def read_matrix(file: Path) -> Float[np.ndarray, "2 3"]:
    """The affine map from aligned to warped pixels.

    Raises:
        RecordError: `bad transform` where the file is no finite, invertible 2 x 3 array of numbers.
    """
    data = read_bytes(file, MAX_MATRIX_BYTES)
    try:
        matrix = np.load(io.BytesIO(data), allow_pickle=False)
    # numpy parses the header as Python text, and lets the tokenizer complain.
    except (ValueError, EOFError, OSError, MemoryError, SyntaxError, tokenize.TokenError) as error:
        # numpy's own words may name an address in memory
        raise RecordError("bad transform", f"{file.name}: no .npy file of numbers") from error
    if not isinstance(matrix, np.ndarray) or matrix.shape != (2, 3) or matrix.dtype.kind not in "fiu":
        raise RecordError("bad transform", f"{file.name}: expected a 2x3 array of numbers")
    matrix = matrix.astype(np.float64)
    if not (np.abs(matrix) < MAX_ENTRY).all() or abs(np.linalg.det(matrix[:, :2])) < 1e-3:
        raise RecordError("bad transform", f"{file.name}: not finite, over {MAX_ENTRY:g} or not invertible")
    return matrix


def warped_positions(
    matrix: Float[np.ndarray, "2 3"], width: int, height: int
) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
    """Where each aligned pixel centre lies in the warped image: x and y, pixel centres at integers."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    (a, b, c), (d, e, f) = matrix
    return a * x + b * y + c, d * x + e * y + f


def covered(matrix: Float[np.ndarray, "2 3"], width: int, height: int) -> Bool[np.ndarray, "h w"]:
    """Which aligned pixels the warped image still shows."""
    x, y = warped_positions(matrix, width, height)
    inside_x = (x >= BORDER_PX) & (x <= width - 1 - BORDER_PX)
    return inside_x & (y >= BORDER_PX) & (y <= height - 1 - BORDER_PX)


def largest_rectangle(mask: Bool[np.ndarray, "h w"], grid: int = GRID_PX) -> Cut:
    """The largest rectangle of true pixels whose sides lie on a grid; all zero where there is none.

    Largest rectangle under a histogram, row by row, on cells of `grid` pixels: 64 times less work than on
    pixels, for at most a cell a side.
    """
    rows, columns = mask.shape[0] // grid, mask.shape[1] // grid
    cells = mask[: rows * grid, : columns * grid].reshape(rows, grid, columns, grid).all(axis=(1, 3))
    best, heights = Cut(0, 0, 0, 0), [0] * columns
    for row in range(rows):
        heights = [above + 1 if free else 0 for above, free in zip(heights, cells[row].tolist(), strict=True)]
        open_bars: list[tuple[int, int]] = []
        for column, height in enumerate([*heights, 0]):
            start = column
            while open_bars and open_bars[-1][1] >= height:
                start, tall = open_bars.pop()
                if tall * (column - start) > best.width * best.height:
                    best = Cut(start, row - tall + 1, column - start, tall)
            open_bars.append((start, height))
    return Cut(*(grid * value for value in best))


def undo_warp(
    image: Image.Image, matrix: Float[np.ndarray, "2 3"]
) -> tuple[UInt8[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
    """The aligned gray image, and which of its pixels are real."""
    linear = matrix[:, :2]
    # Pillow puts pixel centres at halves, the matrix at integers.
    shift = matrix[:, 2] + 0.5 - linear @ np.array([0.5, 0.5])
    coefficients = (*linear[0].tolist(), float(shift[0]), *linear[1].tolist(), float(shift[1]))
    aligned = image.convert("L").transform(image.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC)
    return np.asarray(aligned), covered(matrix, *image.size)


def scene_sample(source: Source, root: Path, image: Path, mate: Path) -> Sample:
    """One aligned pair. The fact `alignment` says whether it came so or a warp was undone; `cut` is the
    rectangle `left,top,width,height` of the original pair that is kept.

    Raises:
        RecordError: `size mismatch`, `no overlap`, `missing transform`, or a reason of the files.
    """
    read = read_toned(image)
    infrared, width, height = read.data, read.width, read.height
    visible, *size = read_image(mate)
    if size != [width, height]:
        raise RecordError("size mismatch", f"{mate.name} is {size[0]}x{size[1]}, {image.name} {width}x{height}")
    colour = colour_facts(infrared, relative(image, root))
    facts = read.facts | colour | {"alignment": "as shipped", "visible_frame": "aligned"}
    side_file = image.with_suffix(".npy")
    if is_there(side_file):
        matrix = read_matrix(side_file)
        pixels, real = undo_warp(decoded(infrared, image.name), matrix)
        left, top, width, height = largest_rectangle(real)
        if min(width, height) < MIN_SIDE_PX:
            raise RecordError("no overlap", f"{width}x{height} pixels are left after the warp is undone")
        rows, columns = slice(top, top + height), slice(left, left + width)
        infrared = png_bytes(pixels[rows, columns])
        visible = png_bytes(np.asarray(decoded(visible, mate.name).convert("RGB"))[rows, columns])
        facts |= {"alignment": "warp undone", "cut": f"{left},{top},{width},{height}"}
    elif is_there(side_file.with_suffix(".txt")):
        raise RecordError("missing transform", f"{image.stem}.txt tells of a warp, but {side_file.name} is absent")
    scene = image.parent.name.lower()
    stem = f"{scene}_{image.stem.removesuffix(INFRARED)}"
    return Sample(
        sample_id=f"{source.name}/{stem}",
        source=source.name,
        band=source.band,
        kind=source.kind,
        width=width,
        height=height,
        infrared=infrared,
        visible=visible,
        authentic=source.authentic,
        group=f"{source.name}/{stem}",
        scene=SPOKEN.get(scene, scene),
        origin=relative(image, root),
        facts=facts,
    )


def pairs_of(root: Path, source: Source) -> tuple[dict[Path, Path], dict[Path, Path], list[Rejected]]:
    """Near-infrared and colour images by their path without `_nir`, `_rgb` and suffix, and images that are neither or
    whose name is taken, rejected."""
    infrared: dict[Path, Path] = {}
    visible: dict[Path, Path] = {}
    rejected = []
    for image in list_images(root):
        file = relative(image, root)
        for ending, images in ((INFRARED, infrared), (VISIBLE, visible)):
            if image.stem.endswith(ending) and image.parent != root:
                first = images.setdefault(image.with_name(image.stem.removesuffix(ending)), image)
                if first != image:
                    detail = f"{relative(first, root)} has the same name"
                    rejected.append(Rejected(source.name, file, image.stem, "duplicate id", detail))
                break
        else:
            detail = f"expected <scene>/<number>{INFRARED} or <scene>/<number>{VISIBLE}"
            rejected.append(Rejected(source.name, file, image.stem, "unknown name", detail))
    return infrared, visible, rejected


def read_visnir(root: Path, source: Source) -> Found:
    """One sample a pair; an image without its mate is rejected, and so are a second image of a name, one of another
    name, one in no scene folder and a matrix without its image.

    Raises:
        MissingData: no folder, or no `<scene>/<number>_nir` image.
    """
    if not root.is_dir():
        raise source.missing(root, "no such folder")
    infrared, visible, rejected = pairs_of(root, source)
    if not infrared:
        raise source.missing(root, "no <scene>/<number>_nir image")
    for key, image in infrared.items():
        if key in visible:
            build = partial(scene_sample, source, root, image, visible[key])
            yield attempt(source, relative(image, root), image.stem, build)
        else:
            detail = f"no {key.name}{VISIBLE} image beside it"
            yield Rejected(source.name, relative(image, root), image.stem, "missing visible mate", detail)
    yield from rejected
    for key in sorted(visible.keys() - infrared.keys()):
        mate, detail = visible[key], f"no {key.name}{INFRARED} image beside it"
        yield Rejected(source.name, relative(mate, root), mate.stem, "missing infrared image", detail)
    described = {image.with_suffix(".npy") for image in infrared.values()}
    for file in list_files(root, {".npy"}):
        if file not in described:
            detail = f"no image {file.stem} beside it"
            yield Rejected(source.name, relative(file, root), file.stem, "missing image", detail)
