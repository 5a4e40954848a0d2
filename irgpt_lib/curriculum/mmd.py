"""Lesson 1: how far an infrared sample lies from the visible domain (Eq. 1-3 of the paper).

The kernel is Gaussian, `k(x, y) = exp(-|x - y|² / 2σ²)`, and its feature map φ is never formed: every inner
product with a domain's centre is a mean of kernel values. Time is O((n + m)² d); memory is one block of the
kernel matrix.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Sign = Literal["figure", "printed"]
Bandwidth = float | int | Sequence[float | int]

# Wider blocks leave the caches of a CPU without making a GPU faster.
LARGEST_BLOCK = 2048
# A block, its exponential and the reduction's copy live at the same time.
BUFFERS = 3


@dataclass(frozen=True, eq=False)
class Lesson1:
    """What Lesson 1 knows of the two domains and of each infrared sample; RKHS lengths, without unit.

    `mmd` is the distance of the two centres and `mmd_squared` its square (Eq. 1, biased V-statistic).
    `projection` is each infrared sample's displacement from its own centre along the direction to the visible
    centre (positive: towards visible). `distance` is Eq. 3; a greater one is a harder sample.
    """

    mmd: float
    mmd_squared: float
    distance: Float[Tensor, " n"]
    projection: Float[Tensor, " n"]
    bandwidth: Bandwidth


def median_bandwidth(
    infrared: Float[Tensor, "n d"], visible: Float[Tensor, "m d"], *, seed: int, sample: int = 1000
) -> float:
    """Bandwidth σ by the median heuristic, `σ² = median(|x - y|²) / 2`, over pairs of the pooled domains.

    At most `sample` pooled rows, drawn with `seed`, take part. At the median distance the kernel is 1/e. σ
    has the unit of the features.

    Raises:
        ValueError: features are missing, not finite, or so alike that the median distance is 0.
    """
    infrared, visible = _comparable(infrared, visible)
    pooled = torch.cat([infrared, visible]).double()
    if sample < 2 or len(pooled) < 2:
        raise ValueError(f"a median distance needs 2 rows: sample={sample}, rows given={len(pooled)}")
    chosen = torch.randperm(len(pooled), generator=torch.Generator().manual_seed(seed))[:sample]
    squared = torch.pdist(pooled[chosen.to(pooled.device)]).square()
    median = float(np.median(squared.numpy(force=True)))
    if median == 0:
        raise ValueError(
            f"at least half of the pairs among {len(chosen)} sampled rows are identical, so the median "
            "distance is 0: check that the feature extractor has learned something, or give a bandwidth"
        )
    return math.sqrt(median / 2)


def kernel_sums(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"] | None = None,
    *,
    bandwidth: Bandwidth,
    memory_mb: float | int = 64,
) -> Float[Tensor, " n"]:
    """`sum_j k(x_i, y_j)` for each row of `x`, exact and streamed in blocks; in float64.

    Without `y`, the sums are over `x` itself, and each pair of blocks is computed once. A list of bandwidths
    means the mean of their kernels. Kernel values have the precision of `x`, their sums are float64.
    `memory_mb` (MiB) bounds the blocks, not the inputs; it changes the result only by rounding.

    Raises:
        ValueError: a bandwidth or `memory_mb` is not positive.
    """
    widths = _positive_bandwidths(bandwidth)
    narrowest = min(widths)
    rates = [(narrowest / width) ** 2 for width in widths]
    scale = 1 / (math.sqrt(2) * narrowest)
    rows = x * scale
    columns = rows if y is None else y * scale
    side = _block_side(memory_mb, rows.element_size())
    sums = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
    for i in range(0, len(rows), side):
        for j in range(i if y is None else 0, len(columns), side):
            on_diagonal = y is None and i == j
            block = _kernel_block(rows[i : i + side], columns[j : j + side], rates, on_diagonal)
            sums[i : i + side] += block.sum(1, dtype=torch.float64)
            if y is None and not on_diagonal:
                sums[j : j + side] += block.sum(0, dtype=torch.float64)
    return sums


def projected_distance(
    infrared: Float[Tensor, "n d"],
    visible: Float[Tensor, "m d"],
    *,
    bandwidth: Bandwidth,
    sign: Sign = "figure",
    memory_mb: float | int = 64,
) -> Lesson1:
    """Distance of every infrared sample to the visible centre along the line of the two centres (Eq. 1-3).

    With `f_i = mean_j k(x_i, v_j) - mean_j k(x_i, x_j)`, the projection is `(f_i - mean f) / MMD`. Under
    `sign="figure"` the distance is `MMD - projection`, as Fig. 5 draws it: samples near the visible domain
    are easy. `sign="printed"` is `MMD + projection`, Eq. 3 as printed, which calls the same samples hard.
    Either way the mean distance is the MMD. Displacement at a right angle to that line does not count
    (section 4.2.1 calls the score an approximation). `d` is the features' width; any scale, since
    `bandwidth` shares their unit.

    Raises:
        ValueError: a domain is empty, not finite or constant; the widths differ; the domains coincide.
    """
    if sign not in get_args(Sign):
        raise ValueError(f"unknown sign {sign!r}: choose one of {', '.join(get_args(Sign))}")
    infrared, visible = _comparable(infrared, visible)
    # The kernel ignores translation; short vectors lose fewer digits in |x|² + |y|² - 2x·y.
    pooled_mean = (infrared.double().sum(0) + visible.double().sum(0)) / (len(infrared) + len(visible))
    infrared = infrared - pooled_mean.to(infrared.dtype)
    visible = visible - pooled_mean.to(visible.dtype)

    to_infrared = kernel_sums(infrared, bandwidth=bandwidth, memory_mb=memory_mb) / len(infrared)
    to_visible = kernel_sums(infrared, visible, bandwidth=bandwidth, memory_mb=memory_mb) / len(visible)
    among_visible = kernel_sums(visible, bandwidth=bandwidth, memory_mb=memory_mb).mean() / len(visible)

    mmd_squared = float(to_infrared.mean() + among_visible - 2 * to_visible.mean())
    if mmd_squared <= 10 * torch.finfo(infrared.dtype).eps:
        raise ValueError(
            f"MMD² is {mmd_squared:.3g}, zero to the precision of {infrared.dtype}: the infrared and visible "
            "features are the same set, so no direction leads from one to the other; check that two "
            "different domains were given and that the bandwidth fits their scale"
        )
    mmd = math.sqrt(mmd_squared)
    towards_visible = to_visible - to_infrared
    projection = (towards_visible - towards_visible.mean()) / mmd
    distance = mmd - projection if sign == "figure" else mmd + projection
    return Lesson1(mmd, mmd_squared, distance, projection, bandwidth)


def _kernel_block(
    rows: Float[Tensor, "p d"], columns: Float[Tensor, "q d"], rates: list[float], on_diagonal: bool
) -> Float[Tensor, "p q"]:
    exponent = rows @ columns.T
    exponent.mul_(2).sub_(rows.square().sum(1)[:, None]).sub_(columns.square().sum(1)).clamp_(max=0)
    if on_diagonal:
        exponent.fill_diagonal_(0)
    if len(rates) == 1:
        return exponent.exp_()
    total = torch.zeros_like(exponent)
    for rate in rates:
        total += (exponent * rate).exp_()
    return total.div_(len(rates))


def _block_side(memory_mb: float | int, element_size: int) -> int:
    if not memory_mb > 0:
        raise ValueError(f"memory_mb must be positive, not {memory_mb}")
    return max(1, min(LARGEST_BLOCK, math.isqrt(int(memory_mb * 2**20 / (BUFFERS * element_size)))))


def _positive_bandwidths(bandwidth: Bandwidth) -> list[float]:
    widths = [float(width) for width in (bandwidth if isinstance(bandwidth, Sequence) else [bandwidth])]
    if not widths or not all(math.isfinite(width) and width > 0 for width in widths):
        raise ValueError(f"a bandwidth must be positive and finite, not {bandwidth}")
    return widths


def _comparable(infrared: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    """Both domains in one dtype of at least float32, or an error that names the domain and the row."""
    if infrared.shape[1] != visible.shape[1]:
        raise ValueError(
            f"infrared features have {infrared.shape[1]} dimensions and visible ones {visible.shape[1]}: "
            "take both from the same extractor"
        )
    dtype = torch.promote_types(torch.promote_types(infrared.dtype, visible.dtype), torch.float32)
    infrared, visible = infrared.to(dtype), visible.to(dtype)
    for name, features in (("infrared", infrared), ("visible", visible)):
        if features.numel() == 0:
            raise ValueError(f"the {name} domain is empty: shape {tuple(features.shape)}")
        bad = (~features.isfinite().all(1)).nonzero().flatten()
        if len(bad):
            raise ValueError(
                f"{len(bad)} of {len(features)} {name} rows hold NaN or infinity, the first is row "
                f"{int(bad[0])}: extract these features again"
            )
        if len(features) > 1 and (features == features[0]).all():
            raise ValueError(
                f"all {len(features)} {name} rows are the same vector, so nothing can be ranked: "
                "check the feature extractor"
            )
    return infrared, visible
