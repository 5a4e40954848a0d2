"""Which answers fail, whether the model knew, and what it takes for what.

Nothing is picked by hand: the worst and the most confidently wrong answers follow from scores and probabilities, and
showcase answers are drawn from a seed.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from irgpt_lib.evaluation.difficulty_checks import auc_intervals
from irgpt_lib.evaluation.parsing import offered, read_answer
from irgpt_lib.evaluation.statistics import DRAWS, LEVEL, require
from irgpt_lib.irtd.questions import as_questions
from irgpt_lib.tasks import TASKS, Question

GOOD, BAD = "good", "bad"
NO_ANSWER = "no answer"
CHOSEN = ("recognition", "scene")
ANSWERED = ["question_id", "task", "group", "score", "blind"]
CONFUSION_COLUMNS = ["task", "truth", "given", "count", "offered", "truths", "share", "share_offered"]
SURENESS_COLUMNS = ["task", "answers", "wrong", "when_right", "when_wrong", "auc", "low", "high"]


def is_wrong(predictions: pd.DataFrame) -> pd.Series:
    """Whether each answer is wrong: an accuracy below 100, an error above the blind prior's mean error in the task."""
    accuracy, blind = against(predictions)
    return predictions["score"].lt(100) & accuracy | predictions["score"].gt(blind) & ~accuracy


def is_good(predictions: pd.DataFrame) -> pd.Series:
    """Whether each answer is good: an accuracy of 100, an error of at most half the blind prior's mean in the task."""
    accuracy, blind = against(predictions)
    return predictions["score"].ge(100) & accuracy | predictions["score"].le(blind / 2) & ~accuracy


def against(predictions: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """For each answer whether its score is an accuracy, and the mean score of the blind prior in its task."""
    require(predictions, ANSWERED, "the table of predictions")
    accuracy = predictions["task"].map({name: task.higher_is_better for name, task in TASKS.items()}).astype(bool)
    return accuracy, predictions.groupby("task")["blind"].transform("mean")


def failures(answered: pd.DataFrame, each: int) -> pd.DataFrame:
    """For each task the `each` worst and the `each` most confidently wrong of the wrong answers.

    `answered` is what `confidence.with_confidence` returns; `is_wrong` says what is wrong. Worst first: the largest
    error, and where all are equally wrong the truth that the model thought least likely. Most confident first: the
    highest mean token log-probability of the answer given. Ties go by question id. An answer that is both comes once;
    where a task has two answers to choose from, the two orders are nearly one.

    Returns:
        The columns of `answered` with `worst` and `confident`, the places in the two orders (from 1; 0 for an answer
        that is not among the first `each`); the worst ones first.
    """
    require(answered, [*ANSWERED, "confidence", "truth_confidence"], "the table of answers")
    parts = [answered.head(0).assign(worst=0, confident=0)]
    for name, own in answered[is_wrong(answered)].groupby("task", sort=False):
        up = TASKS[str(name)].higher_is_better
        worst = own.sort_values(["score", "truth_confidence", "question_id"], ascending=[up, True, True]).head(each)
        sure = own.dropna(subset="confidence").sort_values(["confidence", "question_id"], ascending=[False, True])
        places = {
            kind: dict(zip(rows.index, range(1, each + 1), strict=False))
            for kind, rows in (("worst", worst), ("confident", sure.head(each)))
        }
        chosen = own.loc[list(dict.fromkeys([*places["worst"], *places["confident"]]))]
        parts.append(chosen.assign(**{kind: [of.get(i, 0) for i in chosen.index] for kind, of in places.items()}))
    return pd.concat(parts, ignore_index=True)


def showcase(answered: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """For each task one good and one bad answer (`is_good`, `is_wrong`), each drawn with equal chances from `seed`.

    A task without one of them lacks that row.

    Returns:
        The columns of `answered` with `kind` (`good`, `bad`) and `share` (0-1), that of such answers in the task.
    """
    rng, rows = np.random.default_rng(seed), []
    kinds = ((GOOD, is_good(answered)), (BAD, is_wrong(answered)))
    for name in [task for task in TASKS if task in set(answered["task"])]:
        own = answered["task"] == name
        for kind, such in kinds:
            pool = answered[own & such].sort_values("question_id")
            # drawn even where there is none, so that one task's answers do not move another's draw
            place = rng.random()
            if len(pool):
                row = pool.iloc[int(place * len(pool))]
                rows.append({**row.to_dict(), "kind": kind, "share": len(pool) / int(own.sum())})
    return pd.DataFrame(rows, columns=[*answered.columns, "kind", "share"])


def sureness(answered: pd.DataFrame, *, seed: int, draws: int = DRAWS, level: float = LEVEL) -> pd.DataFrame:
    """Whether the model knows when it is wrong (`is_wrong`): its confidence in such answers and in the others.

    Answers without a confidence are left out.

    Returns:
        One row a task: `task`, `answers`, `wrong`, `when_right`, `when_wrong` (geometric mean probability of a token,
        0-1), `auc` (ROC AUC of the confidence for a right answer; 0.5 knows nothing; NaN where all are right or all
        wrong) with its cluster-bootstrap limits `low`, `high`.
    """
    require(answered, [*ANSWERED, "sample_id", "confidence"], "the table of answers")
    known = answered[answered["confidence"].notna()].assign(right=lambda table: ~is_wrong(table))
    rows = []
    for name, own in known.groupby("task", sort=False):
        means = [float(np.exp(own["confidence"][own["right"] == right].mean())) for right in (True, False)]
        found = auc_intervals(own, ["confidence"], positive="right", seed=seed, draws=draws, level=level).iloc[0]
        rows.append([name, len(own), int((~own["right"]).sum()), *means, *found[["auc", "low", "high"]]])
    return pd.DataFrame(rows, columns=SURENESS_COLUMNS)


def confusion(answered: pd.DataFrame) -> pd.DataFrame:
    """What is taken for what in Recognition, Scene and Security, in long form, every combination that could occur.

    Recognition and Scene: the true option against the one that was chosen. Security: each option, `car shown` or
    `car absent`, against whether the answer called it shown or absent. Answers are read leniently; what cannot be
    read is `no answer`. Wrong options are drawn anew for each question, so a category can only be mistaken for one
    that stands beside it: `offered` counts the questions of that truth in which `given` could be chosen, and
    `share_offered` is the rate that compares.

    Returns:
        Columns `task`, `truth`, `given`, `count`, `offered`, `truths` (questions, or options, of that truth), `share`
        (of `truths`, sums to 1 over `given`) and `share_offered` (of `offered`; NaN where it never was).
    """
    require(answered, ["task", "question", "answer", "truth", "options", "key", "output"], "the table of answers")
    table = answered[answered["task"].isin([*CHOSEN, "security"])]
    pairs, chances = [], []
    for question, text in zip(as_questions(table.assign(frame="")), table["output"], strict=True):
        parsed = read_answer(question, None if pd.isna(text) else text, "lenient")
        # a letter before another option's word says two things
        parsed = parsed if parsed is not None and offered(question, parsed) else None
        own = security_pairs(question, parsed) if question.task == "security" else chosen_pair(question, parsed)
        for truth, given, could in own:
            pairs.append((question.task, truth, given))
            chances += [(question.task, truth, one) for one in (*could, NO_ANSWER)]
    index = ["task", "truth", "given"]
    counts = pd.DataFrame(pairs, columns=index).value_counts()
    possible = pd.DataFrame(chances, columns=index).value_counts().rename("offered")
    found = possible.to_frame().join(counts.rename("count")).fillna({"count": 0}).astype({"count": int})
    found["truths"] = found.groupby(level=["task", "truth"])["count"].transform("sum")
    found["share"] = found["count"] / found["truths"]
    found["share_offered"] = found["count"] / found["offered"]
    return found.reset_index().sort_values(index, ignore_index=True)[CONFUSION_COLUMNS]


def chosen_pair(question: Question, parsed: Sequence[str] | None) -> list[tuple[str, str, tuple[str, ...]]]:
    """The right option, the chosen one, and all that could be chosen; several choices are no answer."""
    right = option_of(question.truth)
    given = option_of(parsed) if parsed is not None and len(parsed) == 1 else NO_ANSWER
    return [(right, given, question.options)]


def option_of(chosen: Sequence[str]) -> str:
    """`car` of `["(A) car"]`."""
    return chosen[0].partition(") ")[2]


def security_pairs(question: Question, parsed: Sequence[str] | None) -> list[tuple[str, str, tuple[str, ...]]]:
    """For each option its true state, the state that the answer gives it, and the two that it could have."""
    missing = [option.partition(") ")[2] for option in question.truth]
    named = None if parsed is None else [option.partition(") ")[2] for option in parsed]
    states = ("shown", "absent")
    return [
        (
            f"{option} {states[option in missing]}",
            NO_ANSWER if named is None else states[option in named],
            states,
        )
        for option in question.options
    ]
