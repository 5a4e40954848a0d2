"""Night visible images are brightened before they are described; what is stored stays as it was taken.

The paper uses Retinexformer (its appendix B), whose weights come with no licence that this study could rely on. Here
stand CLAHE, which needs no weights, and Zero-DCE (Guo et al., CVPR 2020) or Zero-DCE++ (Li et al., TPAMI 2021), whose
weights the user brings as a file.
"""

import io
import pickle
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from skimage.exposure import equalize_adapthist

from irgpt_lib.irtd.record import Sample, content_hash, open_image, png_bytes

Enhancement = Literal["clahe", "zero_dce", "none"]
ENHANCEMENTS: tuple[Enhancement, ...] = get_args(Enhancement)

# A quarter of the range of gray levels: below it lies most of LLVIP, and hardly a picture taken by day.
NIGHT_LUMINANCE = 64.0
DIGEST_DIGITS = 12

CHANNELS = 32
LAYERS = 7
ITERATIONS = 8
# Zero-DCE++ estimates its curves on an image reduced by this factor, as its authors test it.
REDUCTION = 12
# Zero-DCE runs in strips; each layer looks one pixel further, so this much overlap leaves no seam.
STRIP_ROWS, OVERLAP = 256, LAYERS


class UnfitWeights(ValueError):
    """A file of weights is absent or not Zero-DCE's; the message names the file, what is wrong and the cure."""


class Curves(NamedTuple):
    """Weights of the curve estimator by their published names. `separable` is Zero-DCE++; `digest` is the SHA-256 of
    the file."""

    weights: dict[str, Any]
    separable: bool
    digest: str


def mean_luminance(data: bytes) -> float:
    """Mean gray level of an encoded image, 0-255.

    Raises:
        RecordError: the reasons of `open_image`.
    """
    return float(np.asarray(open_image(data, "visible image").convert("L")).mean())


def is_night(data: bytes, time: str = "") -> bool:
    """Whether a visible image was taken at night: as the source states (`time` is `night` or `day`), else where its
    mean luminance is below 64 of 255.

    Raises:
        RecordError: the reasons of `open_image`.
    """
    return time == "night" if time in ("night", "day") else mean_luminance(data) < NIGHT_LUMINANCE


def view_to_describe(sample: Sample, kind: Enhancement, weights: str = "") -> tuple[bytes, dict[str, str]]:
    """The visible image as a describer should see it, enhanced where it was taken at night, and the facts to record.

    The fact `visible_enhanced` is `clahe` or `zero_dce:<first 12 digits of the weights' SHA-256>`; there is none where
    nothing was changed. The sample itself is not touched.

    Raises:
        RecordError: the reasons of `open_image`.
        UnfitWeights: see `read_curves`.
    """
    if kind == "none" or not sample.visible or not is_night(sample.visible, sample.facts.get("time", "")):
        return sample.visible, {}
    return enhance(sample.visible, kind, weights), {"visible_enhanced": enhancement_name(kind, weights)}


def enhancement_name(kind: Enhancement, weights: str = "") -> str:
    """`clahe`, `none`, or `zero_dce:` with 12 digits that name the weights.

    Raises:
        UnfitWeights: see `read_curves`.
    """
    return f"{kind}:{read_curves(weights).digest[:DIGEST_DIGITS]}" if kind == "zero_dce" else kind


def enhance(data: bytes, kind: Enhancement, weights: str = "") -> bytes:
    """The encoded image brightened, as RGB PNG of the same size; with `none` the bytes as they are.

    Raises:
        RecordError: the reasons of `open_image`.
        UnfitWeights: see `read_curves`.
    """
    if kind == "none":
        return data
    pixels = np.asarray(open_image(data, "visible image").convert("RGB"))
    return png_bytes(clahe(pixels) if kind == "clahe" else zero_dce(pixels, read_curves(weights)))


def clahe(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Contrast-limited adaptive histogram equalisation of the luminance of Y'CbCr; the colour stays."""
    luminance, *colour = Image.fromarray(pixels).convert("YCbCr").split()
    equalised = np.round(255 * equalize_adapthist(np.asarray(luminance))).astype(np.uint8)
    return np.asarray(Image.merge("YCbCr", [Image.fromarray(equalised), *colour]).convert("RGB"))


def zero_dce(pixels: UInt8[np.ndarray, "h w 3"], curves: Curves) -> UInt8[np.ndarray, "h w 3"]:
    """Zero-DCE: the image goes eight times through the quadratic curve `x + a (x² - x)`, `a` estimated for each pixel
    and channel (Eq. 3 of Guo et al., with the sign of their code); on the GPU where there is one.

    Zero-DCE++ has one `a` for all eight rounds, estimated on an image reduced by 12.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    weights = {name: value.to(device) for name, value in curves.weights.items()}
    with torch.inference_mode():
        image = torch.from_numpy(pixels.copy()).to(device).permute(2, 0, 1)[None].float() / 255
        amounts = reduced_curves(weights, image) if curves.separable else curves_in_strips(weights, image)
        for a in rounds(amounts):
            image = image + a * (image * image - image)
        return (255 * image[0]).round().byte().permute(1, 2, 0).cpu().numpy()


def rounds(amounts: Any) -> list[Any]:
    """The curve of each of the eight rounds, from 24 channels or from 3 that all rounds share."""
    return list(amounts.split(3, dim=1)) * (3 * ITERATIONS // amounts.shape[1])


def reduced_curves(weights: dict[str, Any], image: Any) -> Any:
    """Zero-DCE++'s curves, `1 3 h w` in -1..1, of an image `1 3 h w`."""
    from torch.nn.functional import interpolate

    size = image.shape[2:]
    small = interpolate(image, [max(side // REDUCTION, 1) for side in size], mode="bilinear")
    return interpolate(estimate_curves(weights, small), size, mode="bilinear", align_corners=True)


def curves_in_strips(weights: dict[str, Any], image: Any) -> Any:
    """Zero-DCE's curves, `1 24 h w` in -1..1, of an image `1 3 h w`: those of the whole, in less memory."""
    import torch

    height, strips = image.shape[2], []
    for top in range(0, height, STRIP_ROWS):
        start = max(top - OVERLAP, 0)
        strip = estimate_curves(weights, image[:, :, start : top + STRIP_ROWS + OVERLAP])
        strips.append(strip[:, :, top - start : top - start + STRIP_ROWS])
    return torch.cat(strips, dim=2)


def estimate_curves(weights: dict[str, Any], image: Any) -> Any:
    """The published network: four layers down, three up, each of the three beside the layer that mirrors it."""
    import torch

    def layer(number: int, *inputs: Any) -> Any:
        return convolve(weights, f"e_conv{number}", torch.cat(inputs, dim=1))

    one = layer(1, image).relu()
    two = layer(2, one).relu()
    three = layer(3, two).relu()
    four = layer(4, three).relu()
    five = layer(5, three, four).relu()
    six = layer(6, two, five).relu()
    return layer(7, one, six).tanh()


def convolve(weights: dict[str, Any], name: str, inputs: Any) -> Any:
    """A 3x3 convolution, in Zero-DCE++ as one of each channel alone and one of 1x1 over them."""
    from torch.nn.functional import conv2d

    if f"{name}.weight" in weights:
        return conv2d(inputs, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1)
    depth, point = f"{name}.depth_conv", f"{name}.point_conv"
    alone = conv2d(inputs, weights[f"{depth}.weight"], weights[f"{depth}.bias"], padding=1, groups=inputs.shape[1])
    return conv2d(alone, weights[f"{point}.weight"], weights[f"{point}.bias"])


def published_shapes(separable: bool) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights as the authors of Zero-DCE, or of Zero-DCE++, publish them."""
    last = 3 if separable else 3 * ITERATIONS
    sizes = [(3, CHANNELS), *[(CHANNELS, CHANNELS)] * 3, *[(2 * CHANNELS, CHANNELS)] * 2, (2 * CHANNELS, last)]
    shapes: dict[str, tuple[int, ...]] = {}
    for number, (ins, outs) in enumerate(sizes, 1):
        name = f"e_conv{number}"
        if separable:
            shapes |= {f"{name}.depth_conv.weight": (ins, 1, 3, 3), f"{name}.depth_conv.bias": (ins,)}
            shapes |= {f"{name}.point_conv.weight": (outs, ins, 1, 1), f"{name}.point_conv.bias": (outs,)}
        else:
            shapes |= {f"{name}.weight": (outs, ins, 3, 3), f"{name}.bias": (outs,)}
    return shapes


def read_curves(weights: str) -> Curves:
    """The weights of Zero-DCE or Zero-DCE++ from a local `.safetensors` or `.pth` file, read once while it stays the
    same.

    Names and shapes must be the published ones, all of them and no other.

    Raises:
        UnfitWeights: no such file, not a file of tensors, or other names or shapes.
    """
    file = Path(weights)
    if not weights or not file.is_file():
        raise UnfitWeights(
            f"no file of Zero-DCE weights at {weights!r}; put one there (.pth or .safetensors), name it in "
            "dataset.enhancement.weights, or choose dataset.enhancement.kind = clahe"
        )
    state = file.stat()
    return _read_curves(file, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=2)
def _read_curves(file: Path, _changed: int, _size: int) -> Curves:
    data = file.read_bytes()
    state = read_tensors(file, data)
    separable = "e_conv1.depth_conv.weight" in state
    expected = published_shapes(separable)
    found = {name: tuple(value.shape) for name, value in state.items()}
    if found != expected:
        wrong = sorted(name for name in found.keys() | expected if found.get(name) != expected.get(name))
        told = "; ".join(
            f"{name}: {found.get(name, 'absent')}, expected {expected.get(name, 'absent')}" for name in wrong[:3]
        )
        kind = "Zero-DCE++" if separable else "Zero-DCE"
        raise UnfitWeights(f"{file}: {len(wrong)} weights differ from {kind}'s: {told}. Use the authors' snapshot")
    return Curves({name: value.float() for name, value in state.items()}, separable, content_hash(data))


def read_tensors(file: Path, data: bytes) -> dict[str, Any]:
    """The tensors of a file by name; pickled code is refused.

    Raises:
        UnfitWeights: it is neither safetensors nor a checkpoint of tensors alone.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        if file.suffix == ".safetensors":
            return load(data)
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise UnfitWeights(f"{file}: not a file of tensors: {str(error).partition('. ')[0]}") from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UnfitWeights(f"{file}: not a table of tensors alone; save the network's state_dict")
    return state
