"""How much of a ranking is the data's own, and how much hangs on a bandwidth, a seed or an extractor?

Each function changes one ingredient and leaves the others as the section `difficulty` states them; `agreement_table`
says with Kendall's τ how much of the order is left.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd
import torch
from scipy.stats import kendalltau
from torch import Tensor

from irgpt_lib import params
from irgpt_lib.curriculum import mmd, ranking
from irgpt_lib.evaluation.difficulty_checks import agreement
from irgpt_lib.evaluation.statistics import LEVEL, require
from irgpt_lib.models.clip import ClipReader, lesson2

AGREEMENT = ["score", "changed", "tau", "low", "high", "groups", "rank_tau", "same_tenth"]
LESSONS = ("distance", "clip_loss")


def distances(
    features: Mapping[str, Tensor],
    others: Mapping[str, Tensor],
    sample_ids: Sequence[str],
    config: params.Difficulty,
    *,
    steps: int,
) -> pd.DataFrame:
    """Lesson 1 of every infrared sample under other bandwidths and other extractors; a column each, rows by id.

    `features` holds `infrared` (n d) and `visible` (m d); `others` the same under `infrared.<name>` and
    `visible.<name>` for each further extractor. Bandwidths are √2 apart, `steps` of them to each side of the median
    heuristic's; another extractor has a median of its own.

    Raises:
        ValueError: there are as many ids as infrared features in none of the sets, or as `mmd.projected_distance`.
    """
    if len(sample_ids) != len(features["infrared"]):
        raise ValueError(f"{len(sample_ids)} samples, but features of {len(features['infrared'])}: extract them again")
    own = features["infrared"], features["visible"]
    options = {"sign": config.sign, "precision": config.precision, "memory_mb": config.memory_mb}
    found = {}
    factors = mmd.bandwidth_ladder(1.0, steps=steps)
    middle = _median(*own, config)
    ladder = mmd.distance_by_bandwidth(*own, bandwidths=[middle * factor for factor in factors], **options)
    for factor, lesson in zip(factors, ladder, strict=True):
        if factor != 1:
            found[f"bandwidth x{factor:.2f}"] = lesson.distance
    for name in sorted(key.partition(".")[2] for key in others if key.startswith("infrared.")):
        pair = others[f"infrared.{name}"], others[f"visible.{name}"]
        found[f"extractor {name}"] = mmd.projected_distance(*pair, bandwidth=_median(*pair, config), **options).distance
    return pd.DataFrame({name: values.numpy(force=True) for name, values in found.items()}, index=list(sample_ids))


def losses(
    reader: ClipReader, rows: pd.DataFrame, config: params.Difficulty, seeds: Sequence[int]
) -> dict[str, pd.DataFrame]:
    """Lesson 2 under other seeds of the warm-up and of the bank: `clip_loss` (l', in nats) and `alpha` (Eq. 4), each
    with a column a seed and rows by id.

    `rows` holds `sample_id`, `infrared` (encoded images), `caption` and `group`. Each run starts from a copy of
    `reader`, which is left as it was.

    Raises:
        ValueError: a column is missing, or as `models.clip.lesson2`.
    """
    require(rows, ["sample_id", "infrared", "caption", "group"], "the table of samples")
    gray = reader.decode(rows["infrared"])
    found = {}
    for seed in seeds:
        fresh = replace(reader, model=copy.deepcopy(reader.model))
        found[f"warm-up seed {seed}"] = lesson2(
            fresh,
            gray,
            rows["caption"].tolist(),
            rows["group"].tolist(),
            bank=config.bank,
            epochs=config.warm_up_epochs,
            batch_size=min(config.batch_size, len(rows)),
            lr=config.warm_up_lr,
            seed=seed,
        )
    index = rows["sample_id"].tolist()
    return {
        "clip_loss": pd.DataFrame({name: one.after.numpy() for name, one in found.items()}, index=index),
        "alpha": pd.DataFrame({name: one.alpha.numpy() for name, one in found.items()}, index=index),
    }


def agreement_table(
    scores: pd.DataFrame,
    changed: Mapping[str, pd.DataFrame],
    config: params.Difficulty,
    *,
    seed: int,
    draws: int,
    level: float = LEVEL,
) -> pd.DataFrame:
    """Kendall's τ-b of each changed score with the study's own, and what the change does to the ranking and its tenths.

    `scores` holds `sample_id`, `group`, `distance`, `clip_loss`, `rank` and the columns that `changed` names; each of
    its tables has a column a change and rows by id, as `distances` and `losses` return them. Intervals resample groups,
    not seeds. The joint ranking changes less than the one lesson in it that changed.

    Returns:
        One row a change: `score`, `changed`, `tau`, `low`, `high`, `groups`; and for a score that the ranking is made
        of `rank_tau`, and `same_tenth`, the share of samples (0-1) that stay in their tenth of the ranking.

    Raises:
        ValueError: a column is missing, or a sample has no changed score.
    """
    require(scores, ["sample_id", "group", "distance", "clip_loss", "rank", *changed], "the table of scores")
    parts = []
    for score, table in changed.items():
        if missing := sorted(set(scores["sample_id"]) - set(table.index)):
            raise ValueError(f"{len(missing)} samples have no changed {score}, the first is {missing[0]!r}")
        for name, values in table.loc[scores["sample_id"]].items():
            pair = pd.DataFrame({"own": scores[score].to_numpy(), "changed": values.to_numpy()})
            tau = agreement(pair, scores["group"], seed=seed, draws=draws, level=level).iloc[0]
            rank = _rank(scores.assign(**{score: values.to_numpy()}), config) if score in LESSONS else None
            parts.append([score, name, *tau[["tau", "low", "high", "groups"]], *_rank_agreement(scores["rank"], rank)])
    return pd.DataFrame(parts, columns=AGREEMENT)


def _rank_agreement(own: pd.Series, other: pd.Series | None) -> tuple[float, float]:
    if other is None:
        return math.nan, math.nan
    own = own.reset_index(drop=True)
    same = (10 * own // len(own) == 10 * other // len(own)).mean()
    return float(kendalltau(own, other).statistic), float(same)


def _median(infrared: Tensor, visible: Tensor, config: params.Difficulty) -> float:
    return mmd.median_bandwidth(infrared, visible, seed=config.seed, sample=config.bandwidth_sample)


def _rank(scores: pd.DataFrame, config: params.Difficulty) -> pd.Series:
    first, second = (torch.tensor(scores[name].to_numpy(dtype=float, copy=True)) for name in ("distance", "clip_loss"))
    rank = ranking.combine(
        first,
        second,
        method=config.combine,
        weight=config.lesson1_weight,
        sample_ids=scores["sample_id"].tolist(),
    )
    return pd.Series(rank.numpy())
