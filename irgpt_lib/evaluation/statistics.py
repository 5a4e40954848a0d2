"""How sure one may be of a score: intervals, paired differences, sums over tasks, answer collapse.

Questions about one scene, sequence or identity share their fate, so every interval resamples *groups* and
never single questions (cluster bootstrap: Field and Welsh 2007; for model evaluations: Miller 2024, arXiv
2411.00640). Where several training seeds were run, they are resampled too. Accuracies are percent, errors
keep their own unit.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

ACCURACY_TASKS = ("scene", "recognition", "grounding", "relationship", "reid", "security")
ERROR_TASKS = ("location", "aerial_counting", "pedestrian_counting")
TASKS = ACCURACY_TASKS + ERROR_TASKS
SUMS = {"psum": ACCURACY_TASKS, "nsum": ERROR_TASKS}
COLUMNS = (*ACCURACY_TASKS, "psum", *ERROR_TASKS, "nsum")
LOWER_IS_BETTER = frozenset({*ERROR_TASKS, "nsum"})
DRAWS = 2000
LEVEL = 0.95
DRAWN_AT_ONCE = 4_000_000

Labels = Sequence | np.ndarray | pd.Series


class Interval(NamedTuple):
    """A mean and its confidence limits, all in the unit of the scores."""

    mean: float
    low: float
    high: float


class Difference(NamedTuple):
    """`a - b` on the same questions, its confidence limits and the two-sided p of "there is none"."""

    difference: float
    low: float
    high: float
    p: float


class Collapse(NamedTuple):
    """The most frequent answer, its share (0-1) and the entropy of all answers: 0 one answer, 1 uniform."""

    mode: str
    share: float
    entropy: float


def require(table: pd.DataFrame, columns: Iterable[str], what: str) -> None:
    """Nothing where `table` has all `columns`.

    Raises:
        ValueError: some are missing; the message lists them and those that exist.
    """
    if missing := [name for name in columns if name not in table.columns]:
        raise ValueError(f"{what} lacks the columns {missing}; it has {sorted(map(str, table.columns))}")


def finite(scores: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """The scores themselves.

    Raises:
        ValueError: one is NaN or infinite; the message gives its index.
    """
    if not np.isfinite(scores).all():
        raise ValueError(f"the score at index {np.argwhere(~np.isfinite(scores))[0].tolist()} is not a finite number")
    return scores


def resample_counts(members: int, draws: int, rng: np.random.Generator) -> Int[np.ndarray, "draws members"]:
    """How often each of `members` is drawn when as many are drawn with replacement, `draws` times over."""
    rows = max(1, DRAWN_AT_ONCE // max(members, 1))
    counts = np.empty((draws, members), dtype=np.int64)
    for start in range(0, draws, rows):
        part = min(rows, draws - start)
        picked = rng.integers(members, size=(part, members)) + members * np.arange(part)[:, None]
        counts[start : start + part] = np.bincount(picked.ravel(), minlength=part * members).reshape(part, members)
    return counts


def limits(draws: Float[np.ndarray, " draws"], level: float) -> tuple[float, float]:
    """The central `level` of the draws that exist; NaN twice where none does."""
    drawn = draws[np.isfinite(draws)]
    if not drawn.size:
        return float("nan"), float("nan")
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_interval(
    scores: Float[np.ndarray, " n"], groups: Labels, *, seed: int, draws: int = DRAWS, level: float = LEVEL
) -> Interval:
    """Mean of the scores with a percentile interval of the cluster bootstrap over `groups`.

    No score at all gives three NaN; fewer than two groups give the mean without limits, for nothing can be
    resampled.

    Raises:
        ValueError: a score is not finite, or `groups` has another length than `scores`.
    """
    group, names = pd.factorize(np.asarray(groups, dtype=object))
    if len(group) != len(scores):
        raise ValueError(f"{len(scores)} scores but {len(group)} groups")
    if not len(scores):
        return Interval(float("nan"), float("nan"), float("nan"))
    mean = float(finite(scores).mean())
    if len(names) < 2:
        return Interval(mean, float("nan"), float("nan"))
    weights = resample_counts(len(names), draws, np.random.default_rng(seed))
    sums = np.bincount(group, weights=scores, minlength=len(names))
    return Interval(mean, *limits((weights @ sums) / (weights @ np.bincount(group)), level))


def paired_difference(
    a: Float[np.ndarray, " n"],
    b: Float[np.ndarray, " m"],
    groups: Labels,
    *,
    seed: int,
    draws: int = DRAWS,
    level: float = LEVEL,
) -> Difference:
    """Mean of `a - b` on the same questions: interval by cluster bootstrap, p by sign flips of whole groups.

    Under the null hypothesis the two models may be exchanged group by group, which keeps the test exact for
    any distribution of scores. The smallest p possible is `1 / (draws + 1)`.

    Raises:
        ValueError: the lengths differ or a score is not finite.
    """
    if len(a) != len(b):
        raise ValueError(f"a paired difference needs the same questions: {len(a)} scores against {len(b)}")
    interval = bootstrap_interval(a - b, groups, seed=seed, draws=draws, level=level)
    if not len(a):
        return Difference(*interval, float("nan"))
    group, names = pd.factorize(np.asarray(groups, dtype=object))
    sums = np.bincount(group, weights=a - b, minlength=len(names))
    signs = np.random.default_rng([seed, 1]).choice(np.array([-1.0, 1.0]), size=(draws, len(names)))
    # rounding must not decide whether a flipped total is as large as the observed one
    as_large = np.abs(signs @ sums) >= abs(sums.sum()) - 1e-9 * (1 + np.abs(sums).sum())
    return Difference(*interval, float((1 + as_large.sum()) / (draws + 1)))


def holm(p: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """Holm's step-down adjusted p values (Holm 1979), in the order given; NaN stays and is not counted."""
    adjusted = np.full(len(p), np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * p[order]), 1.0)
    return adjusted


def mode_share(outputs: Labels, *, options: int | None = None) -> Collapse:
    """Has a model collapsed onto one answer? (Section 5.2: anti-CL on ReID.)

    `options` is the number of answers there are to choose from, whose logarithm normalises the entropy;
    without it, the number of different answers seen, so that two answers in equal parts then give 1.

    Raises:
        ValueError: `options` is smaller than the number of different answers.
    """
    counts = Counter(str(output) for output in outputs)
    if not counts:
        return Collapse("", float("nan"), float("nan"))
    options = len(counts) if options is None else options
    if options < len(counts):
        raise ValueError(f"{len(counts)} different answers were given but `options` is {options}")
    # ties go to the answer that sorts first, so that equal outputs in another order give an equal result
    mode, most = min(counts.items(), key=lambda item: (-item[1], item[0]))
    share = np.array(list(counts.values())) / counts.total()
    entropy = float(-(share * np.log(share)).sum() / np.log(options)) if options > 1 else 0.0
    return Collapse(mode, most / counts.total(), abs(entropy))


def collapse(predictions: pd.DataFrame, *, by: Sequence[str] = ()) -> pd.DataFrame:
    """`mode_share` of every task, beside the share that the commonest true answer has.

    Returns the columns `by`, `task`, `questions`, `mode`, `share`, `entropy`, `truth_share`; shares and
    entropy in 0-1.
    """
    require(predictions, [*by, "task", "output", "truth"], "the table of predictions")
    rows = []
    for key, part in predictions.groupby([*by, "task"], sort=True, observed=True):
        options = len(set(map(str, part.truth)) | set(map(str, part.output)))
        answers = mode_share(part.output, options=options)
        rows.append((*key, len(part), *answers, mode_share(part.truth).share))
    return pd.DataFrame(rows, columns=[*by, "task", "questions", "mode", "share", "entropy", "truth_share"])


def task_means(predictions: pd.DataFrame, *, by: Sequence[str] = ()) -> pd.DataFrame:
    """Plain means of every task, in the paper's column order, for each value of the columns `by`.

    Returns the columns `by`, `task`, `questions`, `groups`, `score`, `chance`, `blind`, `parsed`: accuracies
    in percent or absolute errors, `parsed` a share of 0-1. A task without any question has the count 0 and
    NaN elsewhere.
    """
    require(predictions, [*by, "task", "group", "score", "chance", "blind", "parsed"], "the table of predictions")
    known_tasks(predictions.task)
    parts = predictions.groupby(list(by), sort=True, observed=True) if by else [((), predictions)]
    rows = []
    for key, part in parts:
        for task in TASKS:
            asked = part[part.task == task]
            means = [float(asked[name].astype(float).mean()) for name in ("score", "chance", "blind", "parsed")]
            rows.append((*key, task, len(asked), asked["group"].nunique(), *means))
    columns = [*by, "task", "questions", "groups", "score", "chance", "blind", "parsed"]
    return pd.DataFrame(rows, columns=columns)


def known_tasks(tasks: Labels) -> None:
    """Nothing where every task is one of the nine.

    Raises:
        ValueError: some are not; the message lists them and the nine.
    """
    if unknown := sorted(set(map(str, tasks)) - set(TASKS)):
        raise ValueError(f"unknown tasks {unknown}; the tasks are {', '.join(TASKS)}")


def strata(group: Int[np.ndarray, " n"], task: Int[np.ndarray, " n"], groups: int) -> Int[np.ndarray, " groups"]:
    """The stratum of every group: tasks that share a group belong together, others are resampled apart.

    Drawing a shared group once for all of its tasks keeps their correlation in psum and nsum; keeping
    unrelated tasks apart keeps the number of groups that each of them has.
    """
    nodes = groups + len(TASKS)
    links = coo_array((np.ones(len(group)), (group, groups + task)), shape=(nodes, nodes))
    return connected_components(links, directed=False)[1][:groups].astype(np.int64)


class TaskDraws(NamedTuple):
    """Observed means of the nine tasks and their resampled twins; NaN where a task has no question."""

    means: Float[np.ndarray, " 9"]
    draws: Float[np.ndarray, "draws 9"]
    questions: Int[np.ndarray, " 9"]
    groups: Int[np.ndarray, " 9"]


def task_draws(
    scores: Float[np.ndarray, "seeds n"], tasks: Labels, groups: Labels, *, seed: int, draws: int = DRAWS
) -> TaskDraws:
    """Joint cluster bootstrap of all task means: seeds, and groups within `strata`, drawn with replacement.

    Resampling S seeds understates their variance by the factor (S - 1) / S; with one seed, training noise is
    not in the interval at all.

    Raises:
        ValueError: a score is not finite or a task is unknown.
    """
    known_tasks(tasks)
    finite(scores)
    rng = np.random.default_rng(seed)
    task = np.array([TASKS.index(str(name)) for name in tasks], dtype=np.int64)
    group, names = pd.factorize(np.asarray(groups, dtype=object))
    cell = group * len(TASKS) + task
    asked = np.bincount(cell, minlength=len(names) * len(TASKS)).reshape(len(names), len(TASKS))
    sums = np.stack([np.bincount(cell, weights=row, minlength=asked.size).reshape(asked.shape) for row in scores], 1)

    weights = np.zeros((draws, len(names)))
    stratum = strata(group, task, len(names))
    for label in np.unique(stratum):
        members = np.flatnonzero(stratum == label)
        weights[:, members] = resample_counts(len(members), draws, rng)
    seed_weights = resample_counts(len(scores), draws, rng) / len(scores)
    drawn = (weights @ sums.reshape(len(names), -1)).reshape(draws, len(scores), len(TASKS))
    with np.errstate(invalid="ignore", divide="ignore"):
        means = sums.sum((0, 1)) / (len(scores) * asked.sum(0))
        resampled = np.einsum("ds,dst->dt", seed_weights, drawn) / (weights @ asked)
    reachable = (asked > 0).sum(0)
    resampled[:, reachable < 2] = np.nan
    return TaskDraws(means, resampled, asked.sum(0), reachable)


def columns_of(draws: TaskDraws, level: float) -> Iterator[dict]:
    """One row for each of the 11 columns of Table 2.

    The keys are `column`, `mean`, `low`, `high`, `p`, `questions`, `groups`, `tasks`. psum and nsum add the
    tasks that have questions; `tasks` says how many. p is two-sided against zero, from the same draws as the
    interval, so the two never contradict each other.
    """
    for column in COLUMNS:
        members = [TASKS.index(task) for task in SUMS.get(column, (column,)) if draws.questions[TASKS.index(task)]]
        # a member with a single group has a mean but no draws: the sum then has no limits either
        resampled = draws.draws[:, members].sum(1) if members else np.full(len(draws.draws), np.nan)
        low, high = limits(resampled, level)
        yield {
            "column": column,
            "mean": float(draws.means[members].sum()) if members else float("nan"),
            "low": low,
            "high": high,
            "p": against_zero(resampled),
            "questions": int(draws.questions[members].sum()),
            "groups": int(draws.groups[members].sum()),
            "tasks": len(members),
        }


def against_zero(draws: Float[np.ndarray, " draws"]) -> float:
    """Two-sided bootstrap p of "the true value is 0": twice the smaller tail, at least `2 / (draws + 1)`."""
    drawn = draws[np.isfinite(draws)]
    if not drawn.size:
        return float("nan")
    tail = min((drawn <= 0).sum(), (drawn >= 0).sum())
    return float(min(1.0, 2 * (1 + tail) / (drawn.size + 1)))


def sums(
    predictions: pd.DataFrame, *, seed: int, draws: int = DRAWS, level: float = LEVEL
) -> dict[str, tuple[Interval, int]]:
    """psum and nsum of one run in one setting, each with its interval and the number of tasks in it.

    Raises:
        ValueError: a question occurs twice, so that more than one run or setting was given.
    """
    require(predictions, ["question_id", "task", "group", "score"], "the table of predictions")
    if predictions.question_id.duplicated().any():
        raise ValueError("`sums` takes one run in one setting; select `variant`, `seed`, `setting` first")
    scores = predictions.score.to_numpy(dtype=float)[None]
    drawn = task_draws(scores, predictions.task, predictions["group"], seed=seed, draws=draws)
    rows = {row["column"]: row for row in columns_of(drawn, level)}
    return {name: (Interval(*(rows[name][k] for k in Interval._fields)), rows[name]["tasks"]) for name in SUMS}


def score_matrix(predictions: pd.DataFrame, variant: str, setting: str) -> pd.DataFrame:
    """Scores of one variant in one setting: a row a seed, a column a question, both sorted.

    Raises:
        ValueError: the variant was not run in that setting, a question occurs twice, or a seed lacks
            questions.
    """
    part = predictions[(predictions.variant == variant) & (predictions.setting == setting)]
    if part.empty:
        ran = sorted({f"{v} ({s})" for v, s in zip(predictions.variant, predictions.setting, strict=True)})
        raise ValueError(f"no predictions of {variant} ({setting}); there are {', '.join(ran) or 'none'}")
    if part.duplicated(["seed", "question_id"]).any():
        raise ValueError(f"{variant} ({setting}): a question occurs twice in one seed")
    matrix = part.pivot(index="seed", columns="question_id", values="score").sort_index().sort_index(axis=1)
    if matrix.isna().any(axis=None):
        seed, question = matrix.stack(future_stack=True).pipe(lambda cells: cells[cells.isna()].index[0])
        raise ValueError(f"{variant} ({setting}), seed {seed}: question {question} has no score; evaluate it again")
    return matrix.astype(float)


def question_frame(predictions: pd.DataFrame) -> pd.DataFrame:
    """One row a question, indexed by `question_id`: its `task`, `group`, `chance` and `blind`.

    Raises:
        ValueError: two runs disagree on one of them.
    """
    facts = ["task", "group", "chance", "blind"]
    questions = predictions.drop_duplicates(["question_id", *facts])
    if questions.question_id.duplicated().any():
        question = questions.question_id[questions.question_id.duplicated()].iloc[0]
        raise ValueError(f"question {question}: the runs disagree on its task, group, chance or blind score")
    return questions.set_index("question_id")[facts].sort_index()


PREDICTION_COLUMNS = (
    "variant",
    "seed",
    "setting",
    "question_id",
    "task",
    "group",
    "score",
    "chance",
    "blind",
)


def summarise(predictions: pd.DataFrame, *, seed: int, draws: int = DRAWS, level: float = LEVEL) -> pd.DataFrame:
    """Every variant, setting and column of Table 2 with its interval: what tables and figures show.

    `predictions` holds all runs, one under the other, with the columns `variant` and `seed` added. The rows
    `chance` and `blind` (setting `baseline`) come from the columns of these names. Returns the columns
    `variant`, `setting`, `column`, `mean`, `low`, `high`, `seed_sd` (over seeds, NaN for one), `seeds`,
    `questions`, `groups`, `tasks`.
    """
    require(predictions, PREDICTION_COLUMNS, "the table of predictions")
    questions = question_frame(predictions)
    measured = {
        (variant, setting): score_matrix(predictions, variant, setting)
        for variant, setting in sorted(set(zip(predictions.variant, predictions.setting, strict=True)))
    }
    for name in ("chance", "blind"):
        measured[name, "baseline"] = questions[[name]].T.astype(float)
    rows = []
    for (variant, setting), scores in measured.items():
        about = questions.loc[scores.columns]
        drawn = task_draws(scores.to_numpy(), about.task, about["group"], seed=seed, draws=draws)
        deviation = seed_deviations(scores, about.task)
        for row in columns_of(drawn, level):
            extra = {"seed_sd": deviation[row["column"]], "seeds": len(scores)}
            rows.append({"variant": variant, "setting": setting, **row, **extra})
    order = [
        "variant",
        "setting",
        "column",
        "mean",
        "low",
        "high",
        "seed_sd",
        "seeds",
        "questions",
        "groups",
        "tasks",
    ]
    return pd.DataFrame(rows, columns=order)


def seed_deviations(scores: pd.DataFrame, tasks: pd.Series) -> dict[str, float]:
    """Standard deviation over seeds (n - 1) of each column of Table 2; NaN for one seed or an absent task."""
    means = scores.T.groupby(tasks).mean().T
    totals = {c: means[[t for t in SUMS.get(c, (c,)) if t in means]] for c in COLUMNS}
    return {c: float(part.sum(axis=1).std(ddof=1)) if part.shape[1] else float("nan") for c, part in totals.items()}


def contrasts(
    predictions: pd.DataFrame,
    pairs: Sequence[tuple[str, str]],
    *,
    settings: Sequence[str] = ("zero_shot", "fine_tuned"),
    seed: int,
    draws: int = DRAWS,
    level: float = LEVEL,
) -> pd.DataFrame:
    """Paired differences `a - b` of two variants on the same questions and the same seeds, for every column.

    `p_holm` corrects over the nine tasks of a contrast, and over its two sums apart. Returns the columns `a`,
    `b`, `setting`, `column`, `difference`, `low`, `high`, `p`, `p_holm`, `seeds`, `questions`, `groups`,
    `tasks`.

    Raises:
        ValueError: a variant was not run in a setting, or the two share no seed or not all questions.
    """
    require(predictions, PREDICTION_COLUMNS, "the table of predictions")
    questions = question_frame(predictions)
    parts = [
        contrast(predictions, questions, a, b, setting, seed=seed, draws=draws, level=level)
        for setting in settings
        for a, b in pairs
    ]
    order = ["a", "b", "setting", "column", "difference", "low", "high", "p", "p_holm"]
    order += ["seeds", "questions", "groups", "tasks"]
    return pd.concat(parts, ignore_index=True)[order] if parts else pd.DataFrame(columns=order)


def contrast(
    predictions: pd.DataFrame,
    questions: pd.DataFrame,
    a: str,
    b: str,
    setting: str,
    *,
    seed: int,
    draws: int,
    level: float,
) -> pd.DataFrame:
    """The rows of `contrasts` for one pair of variants in one setting."""
    left, right = (score_matrix(predictions, variant, setting) for variant in (a, b))
    shared = left.index.intersection(right.index)
    if shared.empty:
        seeds = f"{list(left.index)} and {list(right.index)}"
        raise ValueError(f"{a} and {b} ({setting}) share no seed ({seeds}); run both with one")
    if not left.columns.equals(right.columns):
        odd = left.columns.symmetric_difference(right.columns)
        raise ValueError(f"{a} and {b} ({setting}) differ in {len(odd)} questions, for example {odd[0]}")
    difference = (left.loc[shared] - right.loc[shared]).to_numpy()
    about = questions.loc[left.columns]
    drawn = task_draws(difference, about.task, about["group"], seed=seed, draws=draws)
    rows = pd.DataFrame(columns_of(drawn, level)).rename(columns={"mean": "difference"})
    is_sum = rows.column.isin(list(SUMS)).to_numpy()
    corrected = np.empty(len(rows))
    for family in (is_sum, ~is_sum):
        corrected[family] = holm(rows.p.to_numpy(dtype=float)[family])
    return rows.assign(a=a, b=b, setting=setting, p_holm=corrected, seeds=len(shared))


def against_blind(predictions: pd.DataFrame, *, seed: int, draws: int = DRAWS, level: float = LEVEL) -> pd.DataFrame:
    """For each variant, seed and setting: in how many tasks the model beats the blind prior on the same questions.

    Columns `variant`, `seed`, `setting`, `better` (tasks whose interval of the paired difference to `blind`
    lies wholly on the better side), `worse` (wholly on the other side), `tasks` (how many were asked).
    """
    require(predictions, [*PREDICTION_COLUMNS, "blind"], "the table of predictions")
    rows = []
    for (variant, run, setting), part in predictions.groupby(["variant", "seed", "setting"], sort=False):
        better = worse = tasks = 0
        for task, own in part.groupby("task", sort=False):
            found = paired_difference(
                own["score"].to_numpy(float),
                own["blind"].to_numpy(float),
                own["group"].tolist(),
                seed=seed,
                draws=draws,
                level=level,
            )
            low, high = (-found.high, -found.low) if task in LOWER_IS_BETTER else (found.low, found.high)
            better, worse, tasks = better + (low > 0), worse + (high < 0), tasks + 1
        rows.append(
            {
                "variant": variant,
                "seed": run,
                "setting": setting,
                "better": better,
                "worse": worse,
                "tasks": tasks,
            }
        )
    return pd.DataFrame(rows)
