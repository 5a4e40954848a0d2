"""Two-level uncertainty: a score is uncertain because other questions, and other seeds of training, would change it.

An effect is a sum of runs with coefficients, for example `cl - random` or the difference of two such differences. Its
score of one question under one seed is paired over everything that the runs share. The variance of its mean is
clustered both ways (Cameron, Gelbach and Miller 2011): over seeds, over groups of questions (scene, sequence or
identity), less what both count. The interval is Student's t with Satterthwaite's degrees of freedom, of which the seeds
bring `seeds - 1`, so that two or three seeds that differ give a wide one. Resampling so few seeds, as
`statistics.task_draws` does, understates their variance by a third for three. With one seed an effect holds for the
trained models at hand, and the noise of training is not in its interval.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy import stats

from irgpt_lib.evaluation.statistics import (
    COLUMNS,
    LEVEL,
    PREDICTION_COLUMNS,
    SUMS,
    TASKS,
    finite,
    holm,
    known_tasks,
    question_frame,
    require,
    score_matrix,
)

Run = tuple[str, str]
Effect = Mapping[Run, float | int]
BASELINE = "baseline"
BASELINES = ("chance", "blind", "majority")
ESTIMATE_COLUMNS = ["column", "difference", "low", "high", "p", "error", "dof", "seed_sd"]
ESTIMATE_COLUMNS += ["seeds", "questions", "groups", "tasks"]


@dataclass(frozen=True)
class Runs:
    """All answers at hand: for each (variant, setting) the scores, a row a seed and a column a question; and for each
    question its `task` and `group`. Baselines are runs of the setting `baseline` and belong to every seed."""

    scores: Mapping[Run, pd.DataFrame]
    questions: pd.DataFrame


class Deviations(NamedTuple):
    """What each group adds, under each seed, to the deviation of one column's score from its mean; the sum over groups
    is that seed's deviation."""

    mean: float
    parts: Float[np.ndarray, "seeds groups"]
    questions: int
    tasks: int


class Components(NamedTuple):
    """Variances of a column's score: of one seed's own shift, of the questions asked, and of both together within one
    seed. `seed` and `both` are NaN for one seed, whose `group` then holds all that can be seen."""

    seed: float
    group: float
    both: float


def gathered(predictions: pd.DataFrame) -> Runs:
    """The runs of a table of predictions with the columns `variant` and `seed`, and its baselines.

    Raises:
        ValueError: a column is missing, a question occurs twice in a seed, or a seed lacks questions.
    """
    require(predictions, PREDICTION_COLUMNS, "the table of predictions")
    questions = question_frame(predictions)
    named = sorted(set(zip(predictions.variant, predictions.setting, strict=True)))
    scores = {run: score_matrix(predictions, *run) for run in named}
    facts = predictions.drop_duplicates("question_id").set_index("question_id").loc[questions.index]
    for name in (name for name in BASELINES if name in predictions):
        scores[name, BASELINE] = facts[[name]].T.astype(float)
    return Runs(scores, questions[["task", "group"]])


def effect_scores(runs: Runs, effect: Effect) -> pd.DataFrame:
    """The effect's score of each question (column) under each seed (row) that its runs share.

    Raises:
        ValueError: a run does not exist, the runs share no seed, or they answered different questions.
    """
    if absent := [run for run in effect if run not in runs.scores]:
        there = ", ".join(f"{variant} ({setting})" for variant, setting in sorted(runs.scores))
        raise ValueError(f"no predictions of {absent[0][0]} ({absent[0][1]}); there are {there or 'none'}")
    parts = {run: runs.scores[run] for run in effect}
    columns = next(iter(parts.values())).columns
    for (variant, setting), part in parts.items():
        if not part.columns.equals(columns):
            odd = part.columns.symmetric_difference(columns)
            raise ValueError(f"{variant} ({setting}) differs in {len(odd)} questions, for example {odd[0]}")
    seeds = shared_seeds(parts)
    total = sum(
        coefficient * (parts[run].to_numpy() if run[1] == BASELINE else parts[run].loc[seeds].to_numpy())
        for run, coefficient in effect.items()
    )
    return pd.DataFrame(np.broadcast_to(total, (len(seeds), len(columns))), index=seeds, columns=columns)


def shared_seeds(parts: Mapping[Run, pd.DataFrame]) -> list:
    """The seeds of all runs but the baselines, which have none of their own; one of theirs where nothing else is."""
    indices = [part.index for (_, setting), part in parts.items() if setting != BASELINE]
    if not indices:
        return [0]
    shared = set(indices[0]).intersection(*indices[1:])
    if not shared:
        raise ValueError(f"{', '.join(f'{v} ({s})' for v, s in parts)} share no seed; run them with the same ones")
    return sorted(shared)


def column_deviations(
    scores: Float[np.ndarray, "seeds n"], tasks: Sequence[str], groups: Sequence
) -> dict[str, Deviations]:
    """`Deviations` of each of the 11 columns of Table 2 that has a question; psum and nsum add the tasks that have.

    Raises:
        ValueError: a score is not finite or a task is unknown.
    """
    known_tasks(tasks)
    finite(scores)
    task = np.array([TASKS.index(str(name)) for name in tasks], dtype=np.int64)
    group, names = pd.factorize(np.asarray(groups, dtype=object))
    by_task = {
        name: task_deviations(scores[:, task == index], group[task == index], len(names))
        for index, name in enumerate(TASKS)
        if (task == index).any()
    }
    found = {}
    for column in COLUMNS:
        members = [by_task[name] for name in SUMS.get(column, (column,)) if name in by_task]
        if members:
            met = np.any([member.reached for member in members], axis=0)
            parts = sum(member.parts for member in members)[:, met]
            mean, asked = sum(m.mean for m in members), sum(m.questions for m in members)
            found[column] = Deviations(float(mean), parts, asked, len(members))
    return found


class TaskDeviations(NamedTuple):
    """`Deviations` of one task over all groups, and which of these it has questions of."""

    mean: float
    parts: Float[np.ndarray, "seeds groups"]
    reached: np.ndarray
    questions: int


def task_deviations(scores: Float[np.ndarray, "seeds n"], group: Int[np.ndarray, " n"], groups: int) -> TaskDeviations:
    asked = np.bincount(group, minlength=groups)
    sums = np.stack([np.bincount(group, weights=row, minlength=groups) for row in scores])
    mean = float(scores.mean())
    return TaskDeviations(mean, (sums - mean * asked) / len(group), asked > 0, len(group))


class Spread(NamedTuple):
    """Variances of a mean over seeds and groups as clustered by seeds, by groups and by both; NaN where one of the two
    has a single member."""

    seed: float
    group: float
    both: float


def spread(parts: Float[np.ndarray, "seeds groups"]) -> Spread:
    seeds, groups = parts.shape
    if groups < 2:
        return Spread(float("nan"), float("nan"), float("nan"))
    by_group = parts.mean(0)
    over_groups = float(groups * by_group.var(ddof=1))
    if seeds < 2:
        return Spread(float("nan"), over_groups, float("nan"))
    by_seed = parts.sum(1)
    left = parts - by_group - (by_seed[:, None] - by_seed.mean()) / groups
    both = float((left**2).sum() / ((seeds - 1) * (groups - 1)) * groups / seeds)
    return Spread(float(by_seed.var(ddof=1) / seeds), over_groups, both)


def components(parts: Float[np.ndarray, "seeds groups"]) -> Components:
    """The three variance components behind `spread`, as they come out: chance can make `seed` and `group` negative."""
    seeds = len(parts)
    by_seed, by_group, both = spread(parts)
    if seeds < 2:
        return Components(float("nan"), by_group, float("nan"))
    return Components(seeds * (by_seed - both), by_group - both, seeds * both)


class Error(NamedTuple):
    """Standard error of a mean and its degrees of freedom."""

    error: float
    dof: float


def two_way_errors(
    by_seed: Float[np.ndarray, " k"], by_group: float, by_both: float, *, seeds: int, groups: float
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Standard errors and degrees of freedom for each variance clustered by seeds, beside those of `Spread`.

    The variance is that by seeds and by groups less that by both, and never less than that by groups alone. The degrees
    of freedom are Satterthwaite's, `seeds - 1` for what differs between seeds and `groups - 1` for the rest.
    """
    variance = np.maximum(by_seed + max(by_group - by_both, 0.0), by_group)
    with np.errstate(invalid="ignore", divide="ignore"):
        dof = variance**2 / (by_seed**2 / (seeds - 1) + (variance - by_seed) ** 2 / (groups - 1))
    return np.sqrt(variance), np.where(variance > 0, dof, groups - 1)


def two_way_error(found: Spread, seeds: int, groups: int) -> Error:
    """`two_way_errors` of one effect; with one seed its error by groups alone."""
    if seeds < 2 or groups < 2:
        return Error(float(np.sqrt(found.group)), float(max(groups - 1, 1)))
    errors, dof = two_way_errors(np.array([found.seed]), found.group, found.both, seeds=seeds, groups=groups)
    return Error(float(errors[0]), float(dof[0]))


def estimate(found: Deviations, *, level: float = LEVEL) -> dict[str, float | int]:
    """One column's effect with its two-level interval and the p of "it is zero", two-sided, of the same t."""
    seeds, groups = found.parts.shape
    error, dof = two_way_error(spread(found.parts), seeds, groups)
    half = error * stats.t.ppf((1 + level) / 2, dof)
    if error > 0:
        p = float(2 * stats.t.sf(abs(found.mean) / error, dof))
    else:
        p = float("nan") if np.isnan(error) else float(found.mean == 0)
    return {
        "difference": found.mean,
        "low": float(found.mean - half),
        "high": float(found.mean + half),
        "p": p,
        "error": error,
        "dof": dof,
        "seed_sd": float(found.parts.sum(1).std(ddof=1)) if seeds > 1 else float("nan"),
        "seeds": seeds,
        "questions": found.questions,
        "groups": groups,
        "tasks": found.tasks,
    }


def effect_deviations(runs: Runs, effect: Effect) -> dict[str, Deviations]:
    """`column_deviations` of an effect.

    Raises:
        ValueError: as `effect_scores`.
    """
    scores = effect_scores(runs, effect)
    about = runs.questions.loc[scores.columns]
    return column_deviations(scores.to_numpy(dtype=float), about.task.tolist(), about["group"].tolist())


def estimates(runs: Runs, effect: Effect, *, level: float = LEVEL) -> pd.DataFrame:
    """An effect in each of the 11 columns of Table 2: `column`, `difference`, `low`, `high`, `p`, `error` (standard),
    `dof`, `seed_sd` (of the effect between seeds), `seeds`, `questions`, `groups`, `tasks`; NaN for absent tasks.

    Raises:
        ValueError: as `effect_scores`.
    """
    found = effect_deviations(runs, effect)
    rows = [
        {"column": column} | (estimate(found[column], level=level) if column in found else {}) for column in COLUMNS
    ]
    table = pd.DataFrame(rows, columns=ESTIMATE_COLUMNS)
    counts = ["seeds", "questions", "groups", "tasks"]
    return table.astype({name: float for name in ESTIMATE_COLUMNS[1:8]}).assign(
        **{name: table[name].fillna(0).astype(int) for name in counts}
    )


def means(runs: Runs, *, level: float = LEVEL) -> pd.DataFrame:
    """Every run's own score in every column with its two-level interval: the columns of `statistics.summarise`."""
    parts = [
        estimates(runs, {(variant, setting): 1}, level=level).assign(variant=variant, setting=setting)
        for variant, setting in runs.scores
    ]
    order = ["variant", "setting", "column", "mean", "low", "high", "seed_sd", "seeds", "questions", "groups", "tasks"]
    return pd.concat(parts, ignore_index=True).rename(columns={"difference": "mean"})[order]


def comparisons(
    runs: Runs, pairs: Iterable[tuple[str, str]], *, settings: Sequence[str], level: float = LEVEL
) -> pd.DataFrame:
    """`a - b` for each pair of variants in each setting in which both were run: the columns `a`, `b`, `setting` and
    those of `estimates`; p is not corrected yet (`corrected`)."""
    parts = [
        estimates(runs, {(a, setting): 1, (b, setting): -1}, level=level).assign(a=a, b=b, setting=setting)
        for a, b in pairs
        for setting in settings
        if (a, setting) in runs.scores and (b, setting) in runs.scores
    ]
    order = ["a", "b", "setting", *ESTIMATE_COLUMNS]
    return pd.concat(parts, ignore_index=True)[order] if parts else pd.DataFrame(columns=order)


def corrected(table: pd.DataFrame) -> pd.DataFrame:
    """The table with `p_holm`: Holm's correction over all of its rows for single tasks, and over those for sums apart.

    Give it one ablation table at a time: the rows that are read together are the family.
    """
    require(table, ["column", "p"], "the table of effects")
    is_sum = table.column.isin(list(SUMS)).to_numpy(dtype=bool)
    p_holm = np.full(len(table), np.nan)
    for family in (is_sum, ~is_sum):
        p_holm[family] = holm(table.p.to_numpy(dtype=float)[family])
    return table.assign(p_holm=p_holm)


def stage_effects(runs: Runs, variant: str, reference: str, *, level: float = LEVEL) -> pd.DataFrame:
    """What each stage does, apart: the columns `effect` and `about`, those of `estimates`, and `p_holm` over them all.

    `stage 1`: the variants' difference before instruction tuning. `after stage 2`: the same after it. `kept`: the
    second less the first, below zero in an accuracy where tuning washes out what stage 1 brought. `stage 2`: what
    tuning does to each of the two.

    Raises:
        ValueError: one of the two was not run in both settings.
    """
    before, after = "zero_shot", "fine_tuned"
    difference = {s: {(variant, s): 1, (reference, s): -1} for s in (before, after)}
    kept = difference[after] | {run: -c for run, c in difference[before].items()}
    pair = f"{variant} - {reference}"
    effects: list[tuple[str, str, Effect]] = [
        ("stage 1", pair, difference[before]),
        ("after stage 2", pair, difference[after]),
        ("kept", pair, kept),
        *[("stage 2", name, {(name, after): 1, (name, before): -1}) for name in (variant, reference)],
    ]
    parts = [estimates(runs, effect, level=level).assign(effect=name, about=about) for name, about, effect in effects]
    return corrected(pd.concat(parts, ignore_index=True)[["effect", "about", *ESTIMATE_COLUMNS]])
