"""Which patches a masked autoencoder sees while it is trained.

Both rules give ViTMAE's `noise`: of each image, the patches with the lowest values are shown to the encoder.
"""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from irgpt_lib.params import Masking


def masking_noise(
    gray: UInt8[np.ndarray, "n h w"],
    masking: Masking,
    *,
    patch_px: int,
    mask_ratio: float,
    rng: np.random.Generator,
) -> Float[Tensor, "n p"]:
    """A whole number for each patch, in rows and columns, no two of an image alike; the lowest are shown.

    `random` is MAE's own rule: any patches. `infmae` is the information-aware masking of InfMAE (Liu et al., ECCV
    2024, arXiv 2402.00407, the masking part of its method section): an image's patches are sorted by gray level,
    brightest first, and those at a fixed interval are shown, every fourth with InfMAE's default. So all gray levels of
    an image are seen in equal shares. Four readings are ours:

    - The gray level is the patch's own mean. InfMAE takes the mean over the channels of its embedding, whose sign and
      size are those of random weights at first.
    - The interval follows from `mask_ratio`, `1 / (1 - mask_ratio)`; where it is not whole, or patches are left over,
      the ranks `floor(i p / k)` of the k patches shown are as even as whole numbers allow.
    - The brightest patch is always shown: the ranks start at 0.
    - Equal patches, which saturated and black areas are full of, go in a random order. Nothing else is random.

    Raises:
        ValueError: the patches do not fill the image, or all or none of them would be shown.
    """
    side = _patches_a_side(gray.shape[1], gray.shape[2], patch_px)
    patches = side * side
    shown = shown_patches(patches, mask_ratio)
    if masking == "random":
        noise = rng.permuted(np.tile(np.arange(patches), (len(gray), 1)), axis=1)
    else:
        # Whole sums: equal patches are equal to the last bit, on every machine.
        level = gray.reshape(len(gray), side, patch_px, side, patch_px).sum((2, 4), dtype=np.int64)
        level = level.reshape(len(gray), patches)
        brightest_first = np.lexsort((rng.random(level.shape), -level), axis=1)
        chosen = brightest_first[:, np.arange(shown) * patches // shown]
        noise = np.tile(np.arange(patches, 2 * patches), (len(gray), 1))
        np.put_along_axis(noise, chosen, chosen, axis=1)
    return torch.from_numpy(noise).float()


def shown_patches(patches: int, mask_ratio: float) -> int:
    """How many of an image's patches the encoder sees, rounded down as ViTMAE does.

    Raises:
        ValueError: it is all or none of them.
    """
    shown = int(patches * (1 - mask_ratio))
    if not 0 < shown < patches:
        raise ValueError(
            f"with mask_ratio {mask_ratio}, {shown} of an image's {patches} patches are shown and there is nothing to "
            f"{'learn' if shown else 'learn from'}; change features.mask_ratio"
        )
    return shown


def _patches_a_side(height: int, width: int, patch_px: int) -> int:
    if height != width or height % patch_px:
        raise ValueError(f"images of {height} x {width} pixels are not a square of whole patches of {patch_px} pixels")
    return height // patch_px
