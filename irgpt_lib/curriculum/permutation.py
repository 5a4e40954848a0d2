"""Is the distance of the two domains more than chance? A permutation test for the MMD (Gretton et al., 2012)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from irgpt_lib.curriculum.kernels import Bandwidth, positive_bandwidths
from irgpt_lib.curriculum.mmd import require_comparable, seeded_rows

AT_ONCE = 256


@dataclass(frozen=True)
class PermutationTest:
    """`mmd_squared` (biased) of the rows that took part, and the share of relabellings that reach it.

    `p_value` is `(b + 1) / (B + 1)`, of B `permutations` of which b reach the observed value: within 1/(B+1)..1,
    never 0. `null_95` is the 95 % quantile of MMD² over the permutations.
    """

    mmd_squared: float
    p_value: float
    null_95: float
    permutations: int
    infrared_samples: int
    visible_samples: int


def permutation_test(
    infrared: Float[Tensor, "n d"],
    visible: Float[Tensor, "m d"],
    *,
    bandwidth: Bandwidth,
    seed: int,
    permutations: int = 999,
    sample: int = 1000,
) -> PermutationTest:
    """Whether two domains share a distribution, by shuffling which sample belongs to which.

    At most `sample` rows of each domain take part, drawn with `seed`; the kernel matrix of those is held in
    float64, 8 (2 sample)² bytes, and each permutation is a quadratic form of it. Samples count as independent: among
    frames of one video the p value is too small, so give one frame a sequence.

    Raises:
        ValueError: a domain is unfit (see `projected_distance`), or `permutations` or `sample` is below 1.
    """
    require_comparable(infrared, visible)
    widths = positive_bandwidths(bandwidth)
    if permutations < 1 or sample < 1:
        raise ValueError(f"permutations={permutations} and sample={sample} must be at least 1")
    ours, theirs = (x[seeded_rows(x, sample, seed)].double() for x in (infrared, visible))
    squared = torch.cdist(ours_and := torch.cat([ours, theirs]), ours_and).square()
    kernel = torch.stack([(squared / (-2 * width**2)).exp() for width in widths]).mean(0)
    sides = torch.cat([kernel.new_full((len(ours),), 1 / len(ours)), kernel.new_full((len(theirs),), -1 / len(theirs))])
    observed = float(sides @ kernel @ sides)
    null = _under_permutation(kernel, sides, permutations, torch.Generator().manual_seed(seed))
    # relabellings that only mirror the observed one give the same value up to rounding
    reached = int((null >= observed - 1e-12).sum())
    return PermutationTest(
        observed,
        (reached + 1) / (permutations + 1),
        float(null.quantile(0.95)),
        permutations,
        len(ours),
        len(theirs),
    )


def _under_permutation(
    kernel: Float[Tensor, "k k"], sides: Float[Tensor, " k"], permutations: int, generator: torch.Generator
) -> Float[Tensor, " b"]:
    parts = []
    for start in range(0, permutations, AT_ONCE):
        keys = torch.rand(min(AT_ONCE, permutations - start), len(sides), generator=generator)
        shuffled = sides[keys.argsort(1).to(sides.device)]
        parts.append(((shuffled @ kernel) * shuffled).sum(1))
    return torch.cat(parts)
