"""From the loss variation rate α to the weight of a sample's loss in stage 1 (Eq. 5)."""

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

Form = Literal["literal", "normalise_mean", "continuous", "none"]


def sample_weights(alpha: Float[Tensor, " n"], *, form: Form) -> Float[Tensor, " n"]:
    """Weight of each sample, from how its loss changed during the warm-up (Eq. 5); no unit.

    With `z = |α| / median |α|` over the samples on the same side of 0 (a side whose median is 0 has scale 1; where all
    α lie on one side, the other simply has no sample):

    - `literal`: Eq. 5. `1 - σ(z)`, in [0, 0.5) and 0.269 at the median, where α > 0; `1 + σ(z)`, in [1.5, 2]
      and 1.731 at the median, where α <= 0. Hence it jumps from 1.5 to 0.5 at 0, and weights most what
      warming up already improved, although the text speaks of a focus on hard samples.
    - `normalise_mean`: `literal` over its mean, so that the weights do not raise the learning rate.
    - `continuous`: `1 - tanh(±z / 2)`, twice the upper branch on both sides: within [0, 2] and 1 at α = 0.
    - `none`: 1 everywhere.

    The bounds 0, 0.5 (from below) and 2 are reached only by rounding.

    Raises:
        ValueError: there is no sample, an α is not finite, or the form is unknown.
    """
    if form not in get_args(Form):
        raise ValueError(f"unknown form {form!r}: choose one of {', '.join(get_args(Form))}")
    if len(alpha) == 0:
        raise ValueError("no sample to weight: alpha is empty")
    bad = (~alpha.isfinite()).nonzero().flatten()
    if len(bad):
        raise ValueError(f"{len(bad)} values of alpha are not finite, the first is sample {int(bad[0])}")
    if form == "none":
        return torch.ones_like(alpha)

    worse = alpha > 0
    scale = torch.where(worse, _scale(alpha[worse]), _scale(-alpha[~worse]))
    falling = torch.sigmoid(-alpha / scale)  # = 1 - σ(α / scale), without losing its digits near 0
    if form == "continuous":
        return 2 * falling
    literal = torch.where(worse, falling, 1 + falling)
    return literal / literal.mean() if form == "normalise_mean" else literal


def _scale(magnitude: Float[Tensor, " k"]) -> Float[Tensor, ""]:
    one = magnitude.new_ones(())
    if len(magnitude) == 0:
        return one
    median = magnitude.quantile(0.5)
    return torch.where(median > 0, median, one)
