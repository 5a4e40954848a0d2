"""One ranking from two lessons, and its tiers (section 4.2.3). A greater score is a harder sample."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from scipy.stats import rankdata
from torch import Tensor

Method = Literal["borda", "lambda", "z_sum", "max", "lexicographic"]
Use = Literal["use", "anti", "none"]
WEIGHTED: tuple[Method, ...] = ("lambda", "z_sum")


def ranks(score: Float[Tensor, " n"], tie_break: Tensor | None = None) -> Int[Tensor, " n"]:
    """Rank of each sample, 0 for the lowest score to n - 1; every rank occurs once.

    Equal scores are ordered by `tie_break` (n values, lower first), where given, then by index.

    Raises:
        ValueError: a score or tie-break is NaN, or their lengths differ.
    """
    keys = [score] if tie_break is None else [tie_break, score]
    if any(len(key) != len(score) for key in keys):
        raise ValueError(f"{len(score)} scores, but {len(keys[0])} tie-breaks: give one a sample")
    if any(bool(key.isnan().any()) for key in keys):
        raise ValueError("a score or tie-break is NaN, which has no rank: score that sample again")
    order = torch.arange(len(score), device=score.device)
    for key in keys:
        order = order[key[order].argsort(stable=True)]
    return order.argsort()


def combine(
    lesson1: Float[Tensor, " n"],
    lesson2: Float[Tensor, " n"],
    *,
    method: Method = "borda",
    weight: float | int = 0.5,
    sample_ids: Sequence[str],
) -> Int[Tensor, " n"]:
    """Global rank of each sample, 0 the easiest, from its two difficulty scores.

    Each lesson first becomes ranks, equal scores sharing the mean of theirs. Then

    - `borda`: mean of the two ranks;
    - `lambda`: `weight * rank1 + (1 - weight) * rank2`, so 1 is Lesson 1 alone and 0 is Lesson 2 alone;
    - `z_sum`: the same sum of the standardised scores instead of the ranks;
    - `max`: the greater of the two ranks;
    - `lexicographic`: Lesson 1, and Lesson 2 only among equal scores of it.

    Ties go by Lesson 2's rank, then by sample id, so the order of the rows does not matter (but for
    rounding under `z_sum`). Negate a lesson's scores for its anti-curriculum.

    Raises:
        ValueError: lengths differ, an id repeats, a score is not finite, the weight is outside 0..1 or given
            to a method that has none, a lesson is constant under `z_sum`, or the method is unknown.
    """
    if method not in get_args(Method):
        raise ValueError(f"unknown method {method!r}: choose one of {', '.join(get_args(Method))}")
    if not 0 <= weight <= 1:
        raise ValueError(f"weight must be within 0 and 1, not {weight}")
    if method not in WEIGHTED and weight != 0.5:
        raise ValueError(f"method {method!r} takes no weight, but got {weight}: use {' or '.join(WEIGHTED)}")
    _check_scores(lesson1, lesson2, sample_ids)

    first, second = _shared_ranks(lesson1), _shared_ranks(lesson2)
    if method in ("borda", "lambda"):
        score = weight * first + (1 - weight) * second
    elif method == "z_sum":
        z1, z2 = _standardised("lesson 1", lesson1), _standardised("lesson 2", lesson2)
        score = weight * z1 + (1 - weight) * z2
    elif method == "max":
        score = torch.maximum(first, second)
    else:
        score = first
    by_id = sorted(range(len(sample_ids)), key=sample_ids.__getitem__)
    id_rank = torch.tensor(by_id, dtype=torch.int64).argsort()
    return ranks(score, ranks(second, id_rank)).to(lesson1.device)


def rank_by_lessons(
    lesson1: Float[Tensor, " n"],
    lesson2: Float[Tensor, " n"],
    *,
    use1: Use,
    use2: Use,
    method: Method = "borda",
    weight: float | int = 0.5,
    sample_ids: Sequence[str],
) -> Int[Tensor, " n"]:
    """Global rank, 0 first, under the lesson switches of Table 3: each lesson in `use`, as its `anti`, or `none`.

    `anti` turns a lesson round, so that its hardest sample comes first. With both lessons this is `combine` by `method`
    and `weight`; with one it is that lesson's order alone, ties by id. Anti-L1 with anti-L2, row 2 of Table 3, is the
    reverse of both in use, but for ties.

    Raises:
        ValueError: both lessons are `none` (that is the schedule `random`), a switch is unknown, or as `combine`.
    """
    if unknown := {use1, use2} - set(get_args(Use)):
        raise ValueError(f"unknown switch {min(unknown)!r} of a lesson: choose one of {', '.join(get_args(Use))}")
    if use1 == use2 == "none":
        raise ValueError("without either lesson there is nothing to rank by: take the schedule random instead")
    first, second = (-score if use == "anti" else score for score, use in ((lesson1, use1), (lesson2, use2)))
    if use1 != "none" and use2 != "none":
        return combine(first, second, method=method, weight=weight, sample_ids=sample_ids)
    only = second if use1 == "none" else first
    return combine(only, only, sample_ids=sample_ids)


def tiers(rank: Int[Tensor, " n"], m: int) -> Int[Tensor, " n"]:
    """Tier of each sample, 0 the easiest: `m` runs of neighbouring ranks whose sizes differ by at most 1.

    Raises:
        ValueError: `m` is not within 1..n, or `rank` is not a permutation of 0..n-1.
    """
    check_permutation("rank", rank)
    if not 1 <= m <= len(rank):
        raise ValueError(f"{len(rank)} samples cannot fill {m} tiers: choose 1 to {len(rank)}")
    return rank * m // len(rank)


def check_permutation(name: str, values: Int[Tensor, " n"]) -> None:
    """Nothing, if `values` holds each of 0..n-1 once.

    Raises:
        ValueError: it does not; the message starts with `name`.
    """
    expected = torch.arange(len(values), dtype=values.dtype, device=values.device)
    if not torch.equal(values.sort().values, expected):
        raise ValueError(f"{name} must hold each of 0..{len(values) - 1} exactly once")


def _check_scores(lesson1: Tensor, lesson2: Tensor, sample_ids: Sequence[str]) -> None:
    if not len(lesson1) == len(lesson2) == len(sample_ids):
        raise ValueError(
            f"{len(lesson1)} scores of lesson 1, {len(lesson2)} of lesson 2 and {len(sample_ids)} ids: "
            "score the same samples in both lessons"
        )
    repeated = [name for name, count in Counter(sample_ids).items() if count > 1]
    if repeated:
        raise ValueError(f"{len(repeated)} sample ids repeat, the first is {repeated[0]!r}")
    for name, scores in (("lesson 1", lesson1), ("lesson 2", lesson2)):
        bad = (~scores.isfinite()).nonzero().flatten()
        if len(bad):
            first = sample_ids[int(bad[0])]
            raise ValueError(f"{name}: {len(bad)} scores are not finite, the first is of {first!r}: score again")


def _shared_ranks(scores: Tensor) -> Tensor:
    return torch.from_numpy(rankdata(scores.numpy(force=True), method="average")) - 1


def _standardised(name: str, scores: Tensor) -> Tensor:
    scores = scores.double().cpu()
    deviation = scores.std(correction=0)
    if deviation == 0:
        raise ValueError(f"{name} gives every sample the same score, which z_sum cannot standardise: use borda")
    return (scores - scores.mean()) / deviation
