"""In which order stage 1 sees the samples: the six schedules of Table 4, each a single pass over the data."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from irgpt_lib.curriculum import ranking

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


def order(name: str, rank: Int[Tensor, " n"], *, tiers: int, seed: int) -> Int[Tensor, " n"]:
    """The sample index at each position of the pass, every sample exactly once.

    `rank` is the global rank, 0 the easiest. By name:

    - `ascending`, `descending`: strictly by rank;
    - `bidirectional`: easiest, hardest, second easiest, second hardest ...;
    - `random`: shuffled with `seed`;
    - `ascending_stratified`: `tiers` equal-count tiers from easy to hard, shuffled inside (the paper's
      method);
    - `descending_stratified`: the same tiers, each in the same inner order, from hard to easy.

    A tier's inner order depends on `seed` (>= 0) and the tier only. `tiers` does not matter to the first
    four.

    Raises:
        ValueError: the schedule is unknown, `rank` is not a permutation, or `tiers` is not within 1..n.
    """
    if name not in SCHEDULES:
        raise ValueError(f"unknown schedule {name!r}: choose one of {', '.join(SCHEDULES)}")
    ranking.check_permutation("rank", rank)
    return SCHEDULES[name](rank, tiers, seed)


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


def _shuffled_tiers(rank: Tensor, tiers: int, seed: int) -> list[Tensor]:
    tier = ranking.tiers(rank, tiers)
    easiest_first = rank.argsort()
    members = easiest_first.split(torch.bincount(tier, minlength=tiers).tolist())
    return [samples[_permutation(len(samples), seed, i).to(rank.device)] for i, samples in enumerate(members)]


def _permutation(n: int, seed: int, tier: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng([seed, tier]).permutation(n))
