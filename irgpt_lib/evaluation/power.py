"""The power of the study as run: which effect it would have found, and how many seeds and questions another would need.

The test is that of `seeds`. The variance components are those that the study measured, pooled over the contrasts of a
column, since two or three seeds say little about the spread of one contrast. Power counts in that a study with few
seeds sees their spread only roughly: it is averaged over what the spread may turn out to be (a chi-square with
`seeds - 1` degrees of freedom), for normal deviations.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import optimize, stats

from irgpt_lib.evaluation.seeds import Components, Runs, components, effect_deviations, two_way_errors
from irgpt_lib.evaluation.statistics import COLUMNS, LOWER_IS_BETTER

ALPHA = 0.05
POWER = 0.80
MOST_SEEDS = 100
MOST_TIMES = 1000.0
MIDPOINTS = (np.arange(400) + 0.5) / 400


class Design(NamedTuple):
    """How much is run: `seeds` of each variant, and `times` as many groups of questions as the study's `groups`."""

    seeds: int
    groups: int
    times: float = 1.0


class Threshold(NamedTuple):
    """A design's test of "no effect": the standard deviation of the estimate, and equally likely critical values."""

    deviation: float
    critical: Float[np.ndarray, " k"]


def threshold(measured: Components, design: Design, *, alpha: float = ALPHA) -> Threshold:
    """The two-sided test at level `alpha` that a design will make.

    More groups divide the variance of the questions and of both, more seeds that of the seeds and of both. One seed
    cannot show the noise of training, and its test leaves that out.
    """
    groups = design.groups * design.times
    both = 0.0 if np.isnan(measured.both) else measured.both / design.times
    group = measured.group / design.times
    by_group = group + both / design.seeds
    if design.seeds < 2:
        deviation = float(np.sqrt(by_group))
        return Threshold(deviation, deviation * np.atleast_1d(stats.t.ppf(1 - alpha / 2, groups - 1)))
    by_seed = (measured.seed + both) / design.seeds
    ratios = stats.chi2.ppf(MIDPOINTS, design.seeds - 1) / (design.seeds - 1)
    errors, dof = two_way_errors(by_seed * ratios, by_group, both / design.seeds, seeds=design.seeds, groups=groups)
    return Threshold(float(np.sqrt(by_seed + group)), errors * stats.t.ppf(1 - alpha / 2, dof))


def power(effect: float | int, test: Threshold) -> float:
    """How often (0-1) a true `effect` is found, in either direction."""
    if test.deviation == 0:
        return float(effect != 0)
    found = stats.norm.cdf((abs(effect) - test.critical) / test.deviation)
    return float((found + stats.norm.cdf((-abs(effect) - test.critical) / test.deviation)).mean())


def minimal_effect(test: Threshold, *, wanted: float = POWER) -> float:
    """The smallest effect, in the column's unit, that is found with the power `wanted`."""
    if not test.deviation > 0:
        return test.deviation
    certain = float(test.critical.max() + 5 * test.deviation)
    return float(optimize.brentq(lambda effect: power(effect, test) - wanted, 0.0, certain))


def seeds_needed(effect: float, measured: Components, groups: int, *, wanted: float = POWER) -> float:
    """How many seeds, at least 2, find `effect` on the same questions; infinite where `MOST_SEEDS` do not, because the
    questions are too few. NaN where the seeds' spread is not known."""
    if np.isnan(measured.seed):
        return float("nan")
    enough = (s for s in range(2, MOST_SEEDS + 1) if power(effect, threshold(measured, Design(s, groups))) >= wanted)
    return float(next(enough, np.inf))


def times_needed(effect: float, measured: Components, design: Design, *, wanted: float = POWER) -> float:
    """How many times the questions, at least 1, find `effect` with the same seeds; infinite where `MOST_TIMES` do not,
    because the seeds differ too much."""

    def short(times: float) -> float:
        return power(effect, threshold(measured, design._replace(times=times))) - wanted

    if short(design.times) >= 0:
        return design.times
    return float(optimize.brentq(short, design.times, MOST_TIMES)) if short(MOST_TIMES) >= 0 else float("inf")


def pooled(measured: Sequence[Components]) -> Components:
    """The mean of each component over contrasts, with what chance made negative set to 0 at the end."""
    seed, group, both = (float(np.mean(values)) for values in zip(*measured, strict=True))
    return Components(*(value if np.isnan(value) else max(value, 0.0) for value in (seed, group, both)))


def power_table(
    runs: Runs, pairs: Iterable[tuple[str, str]], *, settings: Sequence[str], effect: float | int = 3.0
) -> pd.DataFrame:
    """The power of the study as run, a row a setting and column.

    Columns `setting`, `column`, `contrasts` (pooled), `seeds`, `groups`, `questions`, `seed_sd`, `group_sd`, `both_sd`
    (square roots of the components, in the column's unit), `found` (the minimal detectable effect at 80 % power), and
    for a true `effect` in points of accuracy: `power` (0-1), `seeds_needed` on the same questions, `questions_needed`
    with the same seeds; infinite where no number is enough. These three are NaN for errors, whose unit is not points,
    and `seed_sd`, `both_sd`, `seeds_needed` for one seed. Contrasts that were not run are left out.
    """
    pairs = list(pairs)
    rows = []
    for setting in settings:
        ran = [(a, b) for a, b in pairs if {(a, setting), (b, setting)} <= runs.scores.keys()]
        found = [effect_deviations(runs, {(a, setting): 1, (b, setting): -1}) for a, b in ran]
        for column in COLUMNS:
            if own := [deviations[column] for deviations in found if column in deviations]:
                seeds, groups = min(d.parts.shape[0] for d in own), min(d.parts.shape[1] for d in own)
                parts = [components(d.parts) for d in own if len(d.parts) == seeds]
                row = {"setting": setting, "column": column, "contrasts": len(parts)}
                asked = min(d.questions for d in own)
                rows.append(row | about_column(pooled(parts), Design(seeds, groups), asked, column, float(effect)))
    return pd.DataFrame(rows)


def about_column(measured: Components, design: Design, questions: int, column: str, effect: float) -> dict[str, float]:
    """The part of `power_table` that depends on the variance components."""
    row = {"seeds": design.seeds, "groups": design.groups, "questions": questions}
    row |= {f"{name}_sd": float(np.sqrt(value)) for name, value in measured._asdict().items()}
    row |= {"found": minimal_effect(threshold(measured, design))}
    if column in LOWER_IS_BETTER:
        return row | dict.fromkeys(("power", "seeds_needed", "questions_needed"), float("nan"))
    times = times_needed(effect, measured, design)
    return row | {
        "power": power(effect, threshold(measured, design)),
        "seeds_needed": seeds_needed(effect, measured, design.groups),
        "questions_needed": float(np.ceil(questions * times)),
    }
