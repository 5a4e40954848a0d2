"""In which order stage 1 sees the samples: the six schedules of Table 4, each a single pass over the data, the classic
cumulative baby step beside them, and the table that training reads."""

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from irgpt_lib import params
from irgpt_lib.curriculum import ranking
from irgpt_lib.curriculum.weights import Form, sample_weights

Schedule = Callable[[Tensor, int, int], Tensor]


def _ascending(rank: Tensor, tiers: int, seed: int) -> Tensor:
    return rank.argsort()


def _descending(rank: Tensor, tiers: int, seed: int) -> Tensor:
    return rank.argsort().flip(0)


def _bidirectional(rank: Tensor, tiers: int, seed: int) -> Tensor:
    easiest_first = rank.argsort()
    # Column 0 runs up and column 1 down; read row by row they alternate, and the first half holds every
    # sample once.
    return torch.stack([easiest_first, easiest_first.flip(0)], dim=1).flatten()[: len(rank)]


def _random(rank: Tensor, tiers: int, seed: int) -> Tensor:
    return torch.cat(_shuffled_tiers(rank, 1, seed))


def _ascending_stratified(rank: Tensor, tiers: int, seed: int) -> Tensor:
    return torch.cat(_shuffled_tiers(rank, tiers, seed))


def _descending_stratified(rank: Tensor, tiers: int, seed: int) -> Tensor:
    return torch.cat(_shuffled_tiers(rank, tiers, seed)[::-1])


SCHEDULES: dict[str, Schedule] = {
    "ascending": _ascending,
    "descending": _descending,
    "bidirectional": _bidirectional,
    "random": _random,
    "descending_stratified": _descending_stratified,
    "ascending_stratified": _ascending_stratified,
}
STRATIFIED = frozenset({"ascending_stratified", "descending_stratified"})


CUMULATIVE = "cumulative"
ORDER_COLUMNS = ("position", "batch", "sample_id", "tier", "weight", "rank")
# A run's seed times this, plus the epoch, seeds the epoch's order.
EPOCHS_A_SEED = 1000


def order(name: str, rank: Int[Tensor, " n"], *, tiers: int, seed: int) -> Int[Tensor, " n"]:
    """The sample index at each of the n positions of one epoch: every sample once, but for `cumulative`.

    `rank` is the global rank, 0 the easiest. By name:

    - `ascending`, `descending`: strictly by rank;
    - `bidirectional`: easiest, hardest, second easiest, second hardest ...;
    - `random`: shuffled with `seed`;
    - `ascending_stratified`: `tiers` equal-count tiers from easy to hard, shuffled inside (the paper's
      method);
    - `descending_stratified`: the same tiers, each in the same inner order, from hard to easy;
    - `cumulative`: the baby step of Bengio et al. (2009) and Cirik et al. (2016) at an equal budget (reading Q13).
      Phase j is as long as tier j and draws from the tiers 0..j with replacement, so that the epoch has n
      positions and as many optimiser steps as `ascending_stratified`, but sees easy samples more often and some
      hard ones never.

    A tier's inner order depends on `seed` (>= 0) and the tier only. `tiers` does not matter to the first
    four.

    Raises:
        ValueError: the schedule is unknown, `rank` is not a permutation, or `tiers` is not within 1..n.
    """
    if name not in SCHEDULES and name != CUMULATIVE:
        raise ValueError(f"unknown schedule {name!r}: choose one of {', '.join([*SCHEDULES, CUMULATIVE])}")
    ranking.check_permutation("rank", rank)
    return _cumulative(rank, tiers, seed) if name == CUMULATIVE else SCHEDULES[name](rank, tiers, seed)


def batches(order: Int[Tensor, " n"], tier: Int[Tensor, " n"], batch_size: int) -> list[list[int]]:
    """`order` cut into batches of `batch_size` sample indices, none of which spans two tiers.

    `tier[i]` is the tier of sample i; the last batch of a tier may be short. For schedules outside
    `STRATIFIED` give zeros, since their batches have no boundary to keep.

    Raises:
        ValueError: `order` is not a permutation, `batch_size` is not positive, or `order` returns to a tier
            that it had left.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be positive, not {batch_size}")
    ranking.check_permutation("order", order)
    visited, lengths = torch.unique_consecutive(tier[order], return_counts=True)
    if len(visited.unique()) < len(visited):
        raise ValueError(
            f"the order enters {len(visited.unique())} tiers {len(visited)} times, so it does not run tier "
            "by tier: for a schedule that is not stratified give zeros as tier"
        )
    return [
        batch.tolist()
        for one_tier in order.split(lengths.tolist())
        for batch in one_tier.split(batch_size)
        if len(batch)
    ]


def phases(name: str, rank: Int[Tensor, " n"], *, tiers: int) -> Int[Tensor, " n"]:
    """The phase of each position of one epoch under schedule `name`, from 0; no batch may span two phases.

    A stratified or cumulative schedule has one phase a tier, in the order in which it meets them; the others have one.
    """
    if name not in STRATIFIED and name != CUMULATIVE:
        return torch.zeros_like(rank)
    sizes = torch.bincount(ranking.tiers(rank, tiers), minlength=tiers)
    sizes = sizes.flip(0) if name == "descending_stratified" else sizes
    return torch.arange(tiers, device=rank.device).repeat_interleave(sizes)


def order_table(
    scores: pd.DataFrame,
    *,
    schedule: str,
    tiers: int,
    weights: Form,
    batch_size: int,
    epochs: int,
    seed: int,
    lesson1: ranking.Use = "use",
    lesson2: ranking.Use = "use",
    method: ranking.Method = "borda",
    lesson_weight: float | int = 0.5,
) -> pd.DataFrame:
    """The order of stage 1 for one variant and seed, one row a step position: all that training needs to know of it.

    `scores` holds `sample_id`, `rank` (0 the easiest) and `alpha` (Eq. 4); with a lesson switched (Table 3) also
    `distance` and `clip_loss`, from which `method` and `lesson_weight` then make the rank anew. Each epoch repeats the
    schedule with an order of its own, drawn from `seed`; no batch spans two tiers of a stratified schedule.

    Returns:
        `position` (from 0), `batch` (from 0, never falling), `sample_id`, `tier` of the sample (0 the easiest; of the
        `tiers` even where the schedule has none), `weight` (Eq. 5, by `weights`) and `rank`. Empty for no epoch.

    Raises:
        ValueError: an id repeats, a score is missing or not finite, `tiers` exceeds the samples, or an option is
            unknown.
    """
    rank = _rank_of(scores, lesson1, lesson2, method, lesson_weight)
    alpha = torch.tensor(scores["alpha"].to_numpy(dtype=float, copy=True))
    weight, tier = sample_weights(alpha, form=weights), ranking.tiers(rank, tiers)
    phase = phases(schedule, rank, tiers=tiers)
    one_epoch = batches(torch.arange(len(rank)), phase, batch_size)
    batch = np.repeat(np.arange(len(one_epoch)), [len(members) for members in one_epoch])
    seeds = [EPOCHS_A_SEED * seed + epoch for epoch in range(epochs)]
    passes = [order(schedule, rank, tiers=tiers, seed=one).numpy() for one in seeds]
    index = np.concatenate([np.empty(0, dtype=int), *passes])
    return pd.DataFrame(
        {
            "position": np.arange(len(index)),
            "batch": np.concatenate([np.empty(0, dtype=int), *(batch + e * len(one_epoch) for e in range(epochs))]),
            "sample_id": scores["sample_id"].to_numpy()[index],
            "tier": tier.numpy()[index],
            "weight": weight.numpy()[index].astype(np.float32),
            "rank": rank.numpy()[index],
        },
        columns=list(ORDER_COLUMNS),
    )


def from_params(
    scores: pd.DataFrame, stage1: params.Stage1, ranked_by: params.Difficulty, *, seed: int
) -> pd.DataFrame:
    """`order_table` under the section `train.stage1`; the section `difficulty` joins the lessons where one is switched.

    Raises:
        ValueError: as for `order_table`.
    """
    return order_table(
        scores,
        schedule=stage1.schedule,
        tiers=stage1.tiers,
        weights=stage1.weights,
        batch_size=stage1.batch_size,
        epochs=stage1.epochs,
        seed=seed,
        lesson1=stage1.lesson1,
        lesson2=stage1.lesson2,
        method=ranked_by.combine,
        lesson_weight=ranked_by.lesson1_weight,
    )


def check_order(table: pd.DataFrame, sample_ids: Iterable[str]) -> None:
    """Nothing, if training can follow the table: what a reader asks of an order that another stage wrote.

    Raises:
        ValueError: a column is missing, positions are not 0..k-1, a batch number falls or skips, a weight is negative
            or not finite, or a sample is not among `sample_ids`.
    """
    if missing := set(ORDER_COLUMNS) - set(table.columns):
        raise ValueError(f"the order lacks the columns {sorted(missing)}: write it with order_table")
    if table["position"].tolist() != list(range(len(table))):
        raise ValueError("the order's positions are not 0, 1, 2 ...: rows are missing, doubled or out of place")
    batch = table["batch"].to_numpy()
    if (batch[:1] != 0).any() or not np.isin(np.diff(batch), [0, 1]).all():
        raise ValueError("the order's batches are not numbered 0, 1, 2 ... in the order of the rows")
    weight = table["weight"].to_numpy()
    if not (np.isfinite(weight) & (weight >= 0)).all():
        raise ValueError("a weight of the order is negative or not finite: score its sample again")
    if unknown := sorted(set(table["sample_id"]) - set(sample_ids)):
        raise ValueError(f"the order holds {len(unknown)} samples that are not at hand, the first is {unknown[0]!r}")


def _rank_of(
    scores: pd.DataFrame, lesson1: ranking.Use, lesson2: ranking.Use, method: ranking.Method, weight: float | int
) -> Tensor:
    """The stored rank where both lessons are in use, else one made anew."""
    repeated = scores["sample_id"][scores["sample_id"].duplicated()]
    if len(repeated):
        raise ValueError(f"{len(repeated)} sample ids repeat, the first is {repeated.iloc[0]!r}")
    if lesson1 == lesson2 == "use":
        return torch.tensor(scores["rank"].to_numpy(dtype=np.int64, copy=True))
    distance, loss = (torch.tensor(scores[c].to_numpy(dtype=float, copy=True)) for c in ("distance", "clip_loss"))
    return ranking.rank_by_lessons(
        distance,
        loss,
        use1=lesson1,
        use2=lesson2,
        method=method,
        weight=weight,
        sample_ids=scores["sample_id"].tolist(),
    )


def _cumulative(rank: Tensor, tiers: int, seed: int) -> Tensor:
    easiest_first = rank.argsort()
    sizes = torch.bincount(ranking.tiers(rank, tiers), minlength=tiers).tolist()
    drawn, known = [], 0
    for phase, size in enumerate(sizes):
        known += size
        drawn.append(np.random.default_rng([seed, phase]).integers(known, size=size))
    return easiest_first[torch.from_numpy(np.concatenate(drawn)).to(rank.device)]


def _shuffled_tiers(rank: Tensor, tiers: int, seed: int) -> list[Tensor]:
    tier = ranking.tiers(rank, tiers)
    easiest_first = rank.argsort()
    members = easiest_first.split(torch.bincount(tier, minlength=tiers).tolist())
    return [samples[_permutation(len(samples), seed, i).to(rank.device)] for i, samples in enumerate(members)]


def _permutation(n: int, seed: int, tier: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng([seed, tier]).permutation(n))
