"""Do the difficulty scores measure difficulty? What a simulated world knows and the paper could not check.

Intervals resample groups (`statistics`). Of few groups they are too short: of simulated 95 % intervals of an AUC, 83 to
87 % held the truth with 8 to 20 groups, 93 % with 40. Read them beside their number of groups.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import kendalltau, spearmanr
from torch import Tensor

from irgpt_lib.evaluation.statistics import DRAWN_AT_ONCE, DRAWS, LEVEL, limits, require, resample_counts

SCORES = ("distance", "clip_loss_before", "clip_loss", "alpha", "weight", "rank")


def auc_intervals(
    scores: pd.DataFrame,
    names: Sequence[str],
    *,
    positive: str,
    within: str = "",
    seed: int,
    draws: int = DRAWS,
    level: float = LEVEL,
) -> pd.DataFrame:
    """ROC AUC of each score for the boolean column `positive`, with percentile intervals of the cluster bootstrap.

    0.5 knows nothing. A score that should be *low* for a positive, such as a weight or a probability of being clean, is
    good well below 0.5. `within` names a column: the AUC is then taken inside each of its values and averaged by
    their numbers of samples, for a montage and a field differ in loss for other reasons. All scores share the draws.
    `scores` also holds `sample_id` and `group`; a sample without a group is one of its own.

    Returns:
        One row a score: `score`, `auc`, `low`, `high`, `positives`, `negatives`, `groups`. Limits are NaN for fewer
        than two groups; everything is NaN where one of the two classes is empty.

    Raises:
        ValueError: there is no sample, a column is missing, a score is not finite, or another entry is missing.
    """
    values, cluster = _checked(scores, [*names], [positive, *filter(None, [within])])
    truth = scores[positive].to_numpy(dtype=bool)
    stratum = pd.factorize(scores[within])[0] if within else np.zeros(len(scores), dtype=np.int64)
    observed = _stratified_auc(truth, values, stratum, np.ones((1, len(scores))))[0]
    drawn = [_stratified_auc(truth, values, stratum, counts) for counts in _resampled(cluster, draws, seed)]
    rows = []
    for column, name in enumerate(names):
        low, high = limits(np.concatenate([part[:, column] for part in drawn]), level) if drawn else (np.nan, np.nan)
        rows.append({"score": name, "auc": observed[column], "low": low, "high": high})
    counted = {"positives": int(truth.sum()), "negatives": int((~truth).sum()), "groups": int(cluster.max() + 1)}
    return pd.DataFrame(rows, columns=["score", "auc", "low", "high"]).assign(**counted)


def correlations(
    scores: pd.DataFrame,
    names: Sequence[str],
    *,
    against: str,
    within: str = "",
    seed: int,
    draws: int = DRAWS,
    level: float = LEVEL,
) -> pd.DataFrame:
    """Spearman's rank correlation of each score with the column `against`, with cluster-bootstrap intervals.

    `against` is, for example, the loss that the base model has on each sample, which the caller measures and adds.
    `within`, `sample_id` and `group` as in `auc_intervals`.

    Returns:
        One row a score: `score`, `rho`, `low`, `high`, `samples`, `groups`.

    Raises:
        ValueError: there is no sample, a column is missing, a score is not finite, or another entry is missing.
    """
    values, cluster = _checked(scores, [*names, against], [*filter(None, [within])])
    stratum = pd.factorize(scores[within])[0] if within else np.zeros(len(scores), dtype=np.int64)
    pairs = [(name, against) for name in names]
    columns = [(i, len(names)) for i in range(len(names))]
    table = _paired(values, columns, pairs, stratum, cluster, _spearman, seed, draws, level)
    return table.rename(columns={"a": "score", "statistic": "rho"}).drop(columns="b")


def agreement(
    rankings: pd.DataFrame, groups: pd.Series, *, seed: int, draws: int = 200, level: float = LEVEL
) -> pd.DataFrame:
    """Kendall's tau-b of every two columns of `rankings`, with cluster-bootstrap intervals: how stable is a ranking?

    A row is a sample, a column the same ranking (or score) under another seed, bandwidth or extractor; `groups` holds
    the group of each row. Resampling repeats rows; tau-b leaves such ties out. Time is O(draws n log n) a pair.

    Returns:
        One row a pair: `a`, `b`, `tau`, `low`, `high`, `samples`, `groups`.

    Raises:
        ValueError: there is no sample, a value is not finite, a group is missing, or the two inputs differ in length.
    """
    if len(groups) != len(rankings):
        raise ValueError(f"{len(rankings)} ranked samples but {len(groups)} groups")
    named = rankings.assign(group=groups.to_numpy(), sample_id=[str(i) for i in range(len(rankings))])
    values, cluster = _checked(named, list(rankings.columns), [])
    pairs = list(combinations(rankings.columns, 2))
    columns = list(combinations(range(values.shape[1]), 2))
    stratum = np.zeros(len(rankings), dtype=np.int64)
    table = _paired(values, columns, pairs, stratum, cluster, _kendall, seed, draws, level)
    return table.rename(columns={"statistic": "tau"})


def _checked(
    scores: pd.DataFrame, names: list[str], also: list[str]
) -> tuple[Float[np.ndarray, "n k"], Int[np.ndarray, " n"]]:
    """The named scores as one array, and the number of each sample's group."""
    require(scores, [*names, *also, "sample_id", "group"], "the table of scores")
    if not len(scores):
        raise ValueError("the table of scores is empty: there is nothing to compare")
    for column in [*also, "group"]:
        missing = scores["sample_id"][scores[column].isna()]
        if len(missing):
            raise ValueError(
                f"{column} of sample {missing.iloc[0]!r} is missing: give every sample one, an empty one for no group"
            )
    values = scores[names].to_numpy(dtype=float)
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise ValueError(f"{names[column]} of sample {scores['sample_id'].iloc[row]!r} is not finite: score it again")
    own = ("sample " + scores["sample_id"].astype(str)).where(scores["group"] == "", "group " + scores["group"])
    return values, pd.factorize(own)[0].astype(np.int64)


def _resampled(cluster: Int[np.ndarray, " n"], draws: int, seed: int) -> Iterator[Int[np.ndarray, "part n"]]:
    """How often each sample is drawn when its groups are, a few draws at a time; nothing for fewer than two groups."""
    members = int(cluster.max()) + 1
    rng, rows = np.random.default_rng(seed), max(1, DRAWN_AT_ONCE // len(cluster))
    for start in range(0, draws if members > 1 else 0, rows):
        yield resample_counts(members, min(rows, draws - start), rng)[:, cluster]


def _stratified_auc(
    positive: Bool[np.ndarray, " n"],
    values: Float[np.ndarray, "n k"],
    stratum: Int[np.ndarray, " n"],
    weights: np.ndarray,
) -> Float[np.ndarray, "draws k"]:
    """The AUC of each column under each row of weights, inside the strata and averaged by their sizes."""
    total = np.zeros((len(weights), values.shape[1]))
    counted = np.zeros_like(total)
    for number in np.unique(stratum):
        inside = stratum == number
        for column in range(values.shape[1]):
            auc = _weighted_auc(positive[inside], values[inside, column], weights[:, inside])
            known = np.isfinite(auc)
            total[known, column] += inside.sum() * auc[known]
            counted[known, column] += inside.sum()
    with np.errstate(invalid="ignore"):
        return total / counted


def _weighted_auc(
    positive: Bool[np.ndarray, " n"], score: Float[np.ndarray, " n"], weights: np.ndarray
) -> Float[np.ndarray, " draws"]:
    """P(positive scores higher) + P(equal) / 2 among weighted samples; NaN where a class has no weight."""
    order = score.argsort(kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=-np.inf))
    ordered, truth = weights[:, order].astype(float), positive[order]
    above = np.add.reduceat(ordered * truth, starts, axis=1)
    other = np.add.reduceat(ordered * ~truth, starts, axis=1)
    below = other.cumsum(1) - other / 2
    with np.errstate(invalid="ignore"):
        return (above * below).sum(1) / (above.sum(1) * other.sum(1))


def _paired(
    values: Float[np.ndarray, "n k"],
    columns: list[tuple[int, int]],
    pairs: list[tuple[str, str]],
    stratum: Int[np.ndarray, " n"],
    cluster: Int[np.ndarray, " n"],
    statistic: Callable[[np.ndarray, np.ndarray], float],
    seed: int,
    draws: int,
    level: float,
) -> pd.DataFrame:
    """A rank statistic of pairs of columns, each with its interval; all pairs share the draws."""
    drawn: list[list[float]] = [[] for _ in columns]
    for counts in _resampled(cluster, draws, seed):
        for count in counts:
            rows = np.repeat(np.arange(len(values)), count)
            for found, (i, j) in zip(drawn, columns, strict=True):
                found.append(_within(values[rows, i], values[rows, j], stratum[rows], statistic))
    table = []
    for found, (i, j), (a, b) in zip(drawn, columns, pairs, strict=True):
        low, high = limits(np.array(found, dtype=float), level)
        observed = _within(values[:, i], values[:, j], stratum, statistic)
        table.append({"a": a, "b": b, "statistic": observed, "low": low, "high": high})
    facts = {"samples": len(values), "groups": int(cluster.max()) + 1}
    return pd.DataFrame(table, columns=["a", "b", "statistic", "low", "high"]).assign(**facts)


def _within(x: np.ndarray, y: np.ndarray, stratum: np.ndarray, statistic: Callable[..., float]) -> float:
    """The statistic inside each stratum that has one, averaged by size; NaN where none has."""
    total = counted = 0.0
    for number in np.unique(stratum):
        inside = stratum == number
        if np.ptp(x[inside]) == 0 or np.ptp(y[inside]) == 0:
            continue  # constant: no correlation
        total += inside.sum() * statistic(x[inside], y[inside])
        counted += inside.sum()
    return total / counted if counted else float("nan")


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    return float(spearmanr(x, y).statistic)


def _kendall(x: np.ndarray, y: np.ndarray) -> float:
    return float(kendalltau(x, y).statistic)


def projected_points(
    features: dict[str, Float[Tensor, "_ d"]],
    samples: pd.DataFrame,
    distance: Float[Tensor, " n"],
    most: int = 2000,
) -> pd.DataFrame:
    """Infrared and visible features on their first two joint principal components, at most `most` of each domain.

    Columns x, y, band (`visible` for the visible domain) and distance (NaN for visible images).
    """
    keep = {name: spread(len(x), most) for name, x in features.items()}
    joint = torch.cat([features["infrared"][keep["infrared"]], features["visible"][keep["visible"]]]).double()
    _, _, axes = torch.linalg.svd(joint - joint.mean(0), full_matrices=False)
    # A component's sign is arbitrary; the largest entry is made positive, so that equal features give equal pictures.
    signs = axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    plane = ((joint - joint.mean(0)) @ (axes * signs)[:2].T).numpy()
    visible = len(keep["visible"])
    bands = [*samples["band"].to_numpy()[keep["infrared"]], *["visible"] * visible]
    distances = np.concatenate([distance.numpy()[keep["infrared"]], np.full(visible, np.nan)])
    return pd.DataFrame({"x": plane[:, 0], "y": plane[:, 1], "band": bands, "distance": distances})


def one_a_group(groups: pd.Series) -> Bool[np.ndarray, " n"]:
    """True for the first sample of each group, and for every sample in none (an empty group)."""
    return ((groups == "") | ~groups.duplicated()).to_numpy(dtype=bool, copy=True)


def spread(count: int, most: int) -> np.ndarray:
    """At most `most` indices, evenly spread over `count`."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def summary(scores: pd.DataFrame, mmd: float, bandwidth: float, p_value: float) -> dict[str, object]:
    """The numbers that other stages quote, rounded to four digits."""
    return {
        "samples": len(scores),
        "mmd": round(mmd, 4),
        "mmd_p_value": round(p_value, 4),
        "bandwidth": round(bandwidth, 4),
        "mean_weight": round(float(scores["weight"].mean()), 4),
        "alpha_positive": round(float((scores["alpha"] > 0).mean()), 4),
    }
