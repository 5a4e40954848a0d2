"""Lesson 1: how far an infrared sample lies from the visible domain (Eq. 1-3 of the paper).

The kernel is Gaussian, `k(x, y) = exp(-|x - y|² / 2σ²)`, and its feature map φ is never formed: every inner
product with a domain's centre is a mean of kernel values, which `kernels` streams. Time is O((n + m)² d).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.stats import kendalltau, spearmanr
from torch import Tensor
from torch.distributed import ProcessGroup

from irgpt_lib.curriculum.kernels import (
    CHUNK,
    Bandwidth,
    Points,
    Precision,
    Streaming,
    kernel_sums,
    positive_bandwidths,
    prepare,
    rates,
    streamed_sums,
)

Sign = Literal["figure", "printed"]


@dataclass(frozen=True, eq=False)
class Lesson1:
    """What Lesson 1 knows of the two domains and of each infrared sample; RKHS lengths, without unit.

    `mmd` is the distance of the two centres and `mmd_squared` its square (Eq. 1, biased V-statistic).
    `projection` is each infrared sample's displacement from its own centre along the direction to the visible
    centre (positive: towards visible). `distance` is Eq. 3; a greater one is a harder sample. `to_infrared` and
    `to_visible` are each sample's mean kernel value with either domain, 0-1 (Eq. 2); `among_visible` is the mean
    over all pairs of visible samples.
    """

    mmd: float
    mmd_squared: float
    distance: Float[Tensor, " n"]
    projection: Float[Tensor, " n"]
    bandwidth: Bandwidth
    to_infrared: Float[Tensor, " n"]
    to_visible: Float[Tensor, " n"]
    among_visible: float


@dataclass(frozen=True)
class BandSummary:
    """One band: its number of samples, their distances (mean and quartiles), its own MMD to the visible domain.

    `mmd_squared` is the biased statistic of Eq. 1, which grows as a band shrinks; `mmd_squared_unbiased` leaves out
    each sample's kernel with itself, so that bands of unequal size compare. The latter may be negative, and is NaN
    where a side has one sample.
    """

    band: str
    samples: int
    mean: float
    quartile_1: float
    median: float
    quartile_3: float
    mmd_squared: float
    mmd_squared_unbiased: float


@dataclass(frozen=True)
class RankAgreement:
    """Rank correlations (-1 to 1) of a Lesson 1 with the exact one over `samples` of its samples."""

    spearman: float
    kendall: float
    samples: int


def median_bandwidth(
    infrared: Float[Tensor, "n d"], visible: Float[Tensor, "m d"], *, seed: int, sample: int = 1000
) -> float:
    """Bandwidth σ by the median heuristic, `σ² = median(|x - y|²) / 2`, over pairs of the pooled domains.

    At most `sample` pooled rows, drawn with `seed`, take part. At the median distance the kernel is 1/e. σ
    has the unit of the features.

    Raises:
        ValueError: features are missing, not finite, or so alike that the median distance is 0.
    """
    require_comparable(infrared, visible)
    total = len(infrared) + len(visible)
    if sample < 2:
        raise ValueError(f"a median distance needs 2 rows: sample={sample}, rows given={total}")
    chosen = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:sample].to(infrared.device)
    ours = chosen < len(infrared)
    rows = torch.cat([infrared[chosen[ours]].double(), visible[chosen[~ours] - len(infrared)].double()])
    median = float(np.median(torch.pdist(rows).square().numpy(force=True)))
    if median == 0:
        raise ValueError(
            f"at least half of the pairs among {len(chosen)} sampled rows are identical, so the median "
            "distance is 0: check that the feature extractor has learned something, or give a bandwidth"
        )
    return math.sqrt(median / 2)


def bandwidth_ladder(middle: float | int, *, steps: int = 2) -> list[float]:
    """`2 * steps + 1` bandwidths around `middle`, each √2 times the next, widest first: one exponential serves all.

    Raises:
        ValueError: `steps` is negative.
    """
    if steps < 0:
        raise ValueError(f"a ladder cannot have {steps} steps to each side: give 0 or more")
    return [middle * 2 ** (step / 2) for step in range(steps, -steps - 1, -1)]


def projected_distance(
    infrared: Float[Tensor, "n d"],
    visible: Float[Tensor, "m d"],
    *,
    bandwidth: Bandwidth,
    sign: Sign = "figure",
    precision: Precision = "exact",
    memory_mb: float | int = 64,
    checkpoint: Path | None = None,
    group: ProcessGroup | None = None,
) -> Lesson1:
    """Distance of every infrared sample to the visible centre along the line of the two centres (Eq. 1-3).

    With `f_i = mean_j k(x_i, v_j) - mean_j k(x_i, x_j)`, the projection is `(f_i - mean f) / MMD`. Under
    `sign="figure"` the distance is `MMD - projection`, as Fig. 5 draws it: samples near the visible domain
    are easy. `sign="printed"` is `MMD + projection`, Eq. 3 as printed, which calls the same samples hard.
    Either way the mean distance is the MMD. Displacement at a right angle to that line does not count
    (section 4.2.1 calls the score an approximation). `d` is the features' width; any scale, since
    `bandwidth` shares their unit. A single infrared sample has the MMD for its distance.

    For `precision`, `memory_mb`, `checkpoint`, `group` and a list of bandwidths see `kernels.kernel_sums`.

    Raises:
        ValueError: a domain is empty, not finite or constant; the widths differ; the domains coincide.
    """
    _require_sign(sign)
    widths = positive_bandwidths(bandwidth)
    *means, zeros = _kernel_means(infrared, visible, widths, precision, Streaming(memory_mb, checkpoint, group))
    return lesson_of(*(mean.mean(0) for mean in means), bandwidth, sign, sum(zeros) / len(zeros))


def distance_by_bandwidth(
    infrared: Float[Tensor, "n d"],
    visible: Float[Tensor, "m d"],
    *,
    bandwidths: Sequence[float | int],
    sign: Sign = "figure",
    precision: Precision = "exact",
    memory_mb: float | int = 64,
) -> list[Lesson1]:
    """`projected_distance` at each bandwidth by itself, widest first, all from one pass over the pairs.

    Raises:
        ValueError: as for `projected_distance`, at any bandwidth.
    """
    _require_sign(sign)
    widths = positive_bandwidths(bandwidths)
    *means, zeros = _kernel_means(infrared, visible, widths, precision, Streaming(memory_mb))
    return [lesson_of(*parts, width, sign, zero) for *parts, width, zero in zip(*means, widths, zeros, strict=True)]


def lesson_of(
    to_infrared: Float[Tensor, " n"],
    to_visible: Float[Tensor, " n"],
    among_visible: Float[Tensor, ""],
    bandwidth: Bandwidth,
    sign: Sign,
    zero: float,
) -> Lesson1:
    """Lesson 1 from the kernel means; an MMD² up to `zero` is rounding.

    Raises:
        ValueError: the MMD² is not above `zero`, or not finite.
    """
    mmd_squared = float(to_infrared.mean() + among_visible - 2 * to_visible.mean())
    if not math.isfinite(mmd_squared):
        raise ValueError(f"MMD² is {mmd_squared}: the bandwidth {bandwidth} is not in the unit of the features")
    if mmd_squared <= zero:
        raise ValueError(
            f"MMD² is {mmd_squared:.3g}, zero to a precision of {zero:.1g}: the infrared and visible "
            "features are the same set, so no direction leads from one to the other; check that two "
            "different domains were given, that the bandwidth fits their scale, and try `precision: exact`"
        )
    mmd = math.sqrt(mmd_squared)
    towards_visible = to_visible - to_infrared
    projection = (towards_visible - towards_visible.mean()) / mmd
    distance = mmd - projection if sign == "figure" else mmd + projection
    return Lesson1(mmd, mmd_squared, distance, projection, bandwidth, to_infrared, to_visible, float(among_visible))


def summarise_bands(
    infrared: Float[Tensor, "n d"],
    lesson: Lesson1,
    bands: Sequence[str],
    *,
    visible_samples: int,
    precision: Precision = "exact",
    memory_mb: float | int = 64,
) -> list[BandSummary]:
    """How far each band lies from the visible domain, bands in alphabetical order; one band's pairs at a time.

    `bands` names the band of each infrared sample, `lesson` is their Lesson 1, against `visible_samples` samples.

    Raises:
        ValueError: features, scores and bands differ in number, or there is no visible sample.
    """
    if not len(infrared) == len(lesson.distance) == len(bands):
        counts = f"{len(infrared)} features, {len(lesson.distance)} scores and {len(bands)} bands"
        raise ValueError(f"{counts}: give one of each a sample")
    if visible_samples < 1:
        raise ValueError(f"{visible_samples} visible samples: give the number that `lesson` was computed with")
    among_unbiased = _without_self(lesson.among_visible, visible_samples)
    names = np.asarray(bands)
    summaries = []
    for band in sorted(set(bands)):
        index = torch.from_numpy(np.flatnonzero(names == band)).to(infrared.device)
        sums = kernel_sums(infrared[index], bandwidth=lesson.bandwidth, precision=precision, memory_mb=memory_mb)
        among = float(sums.mean()) / len(index)
        across = 2 * float(lesson.to_visible[index].mean())
        distances = lesson.distance[index].numpy(force=True)
        summaries.append(
            BandSummary(
                band,
                len(index),
                float(distances.mean()),
                *(float(q) for q in np.quantile(distances, (0.25, 0.5, 0.75))),
                among + lesson.among_visible - across,
                _without_self(among, len(index)) + among_unbiased - across,
            )
        )
    return summaries


def rank_agreement(
    infrared: Float[Tensor, "n d"],
    visible: Float[Tensor, "m d"],
    lesson: Lesson1,
    *,
    seed: int,
    sample: int = 1000,
    memory_mb: float | int = 64,
) -> RankAgreement:
    """How well `lesson`, fast or approximate, ranks at most `sample` seeded infrared samples.

    These are scored exactly, each against both whole domains, which costs `sample` (n + m) kernel values.

    Raises:
        ValueError: fewer than 2 samples, or another number of them than `lesson` scored.
    """
    if len(infrared) != len(lesson.projection) or min(sample, len(infrared)) < 2:
        raise ValueError(
            f"{len(infrared)} samples, {len(lesson.projection)} scores, sample={sample}: a rank correlation needs "
            "one score a sample, and 2 of them"
        )
    chosen = seeded_rows(infrared, sample, seed)
    options = {"bandwidth": lesson.bandwidth, "memory_mb": memory_mb}
    exact = kernel_sums(infrared[chosen], visible, **options) / len(visible)
    exact -= kernel_sums(infrared[chosen], infrared, **options) / len(infrared)
    pair = exact.numpy(force=True), lesson.projection[chosen].numpy(force=True)
    return RankAgreement(float(spearmanr(*pair).statistic), float(kendalltau(*pair).statistic), len(chosen))


def seeded_rows(features: Float[Tensor, "n d"], sample: int, seed: int) -> Int[Tensor, " s"]:
    """At most `sample` distinct row indices, drawn with `seed`, ascending; on the device of `features`."""
    drawn = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))[:sample]
    return drawn.sort().values.to(features.device)


def require_comparable(infrared: Tensor, visible: Tensor) -> None:
    """Refuse domains that no kernel can compare.

    Raises:
        ValueError: the widths differ, or a domain is empty, not finite or constant; names the domain and the row.
    """
    if infrared.shape[1] != visible.shape[1]:
        raise ValueError(
            f"infrared features have {infrared.shape[1]} dimensions and visible ones {visible.shape[1]}: "
            "take both from the same extractor"
        )
    for name, features in (("infrared", infrared), ("visible", visible)):
        if features.numel() == 0:
            raise ValueError(f"the {name} domain is empty: shape {tuple(features.shape)}")
        finite = torch.cat([part.isfinite().all(1) for part in features.split(CHUNK)])
        bad = (~finite).nonzero().flatten()
        if len(bad):
            raise ValueError(
                f"{len(bad)} of {len(features)} {name} rows hold NaN or infinity, the first is row "
                f"{int(bad[0])}: extract these features again"
            )
        if len(features) > 1 and all(bool((part == features[0]).all()) for part in features.split(CHUNK)):
            raise ValueError(
                f"all {len(features)} {name} rows are the same vector, so nothing can be ranked: "
                "check the feature extractor"
            )


def _kernel_means(
    infrared: Tensor, visible: Tensor, widths: list[float], precision: Precision, streaming: Streaming
) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b n"], Float[Tensor, " b"], list[float]]:
    require_comparable(infrared, visible)
    ours, theirs = prepare([infrared, visible], widths, precision)
    steps = rates(widths)
    to_infrared = streamed_sums(ours, None, steps, streaming) / len(ours)
    to_visible = streamed_sums(ours, theirs, steps, streaming) / len(theirs)
    among_visible = streamed_sums(theirs, None, steps, streaming).mean(1) / len(theirs)
    return to_infrared, to_visible, among_visible, _zeros(ours, theirs, steps)


def _zeros(ours: Points, theirs: Points, steps: list[float]) -> list[float]:
    """What rounding alone can make of the MMD² of two equal domains, at each rate."""
    epsilon = torch.finfo(ours.rows.dtype).eps
    # Rounding moves a mean kernel value by about one epsilon; that of bfloat16 errs both ways and averages out to its
    # square over pairs.
    steady = epsilon**2 if ours.rows.dtype == torch.bfloat16 else 10 * epsilon
    # It does not over the pairs of a sample with its own copy in the other domain: a product of a row x with itself is
    # off by up to 3 epsilon |x|², and can only lose.
    square = -float(torch.cat([ours.minus_squares, theirs.minus_squares]).mean())
    own = 1 / len(ours) + 1 / len(theirs)
    return [steady + own * (1 - 2 ** (-3 * epsilon * square * step)) for step in steps]


def _without_self(mean: float, count: int) -> float:
    return (mean * count - 1) / (count - 1) if count > 1 else math.nan


def _require_sign(sign: str) -> None:
    if sign not in get_args(Sign):
        raise ValueError(f"unknown sign {sign!r}: choose one of {', '.join(get_args(Sign))}")
