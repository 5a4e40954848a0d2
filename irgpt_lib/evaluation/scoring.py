"""The `study` scoring of the nine tasks: strict and lenient side by side, and nothing to gain by not answering.

An answer that is missing or cannot be read costs as much as the worst one that can be read, in every measure here. So
replacing any subset of the answers by refusals or by unreadable text never improves a measure:

- accuracy, IoU, precision, recall, F1, agreement in number: 0;
- Location: 500 thousandths, which is also the most that any point costs (`tasks.location.score`);
- counting: `max(t, L - t)` for the truth `t` and the largest true count `L` of the task in the benchmark, which is the
  largest error of any answer from 0 to L. Answers above L count as L. Reading Q22, by which a failure counts as 0
  predicted, would reward a model that refuses instead of overcounting by more than the truth; where all answers can
  be read and none exceeds L, both agree with the plain mean absolute error;
- `variety`: an unreadable answer counts as one more of the most frequent answer.

Average precision (Q20: the paper's "mAP@0.5") is not among the measures. Without confidences it depends on the order of
tied detections, and a detection left out raises precision. Accuracy at IoU 0.5 is what it comes to with one box a
question.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from irgpt_lib.evaluation.parsing import read_answer
from irgpt_lib.evaluation.statistics import DRAWS, LEVEL, SUMS, bootstrap_interval
from irgpt_lib.irtd.questions import as_questions
from irgpt_lib.irtd.sources.assembly import printable
from irgpt_lib.tasks import TASKS, Question
from irgpt_lib.tasks.grounding import iou

COUNTING = ("aerial_counting", "pedestrian_counting")
IOU_THRESHOLDS = np.arange(50, 100, 5) / 100
# A twentieth of the image's side: how close a located point must be to count as found.
FOUND_WITHIN = 50.0
CELLS_ACROSS = 10
DETAILS = ("iou", "accuracy_50_95", "precision", "recall", "f1", "number", "squared_error", "exact")
KEPT = ("question_id", "sample_id", "group", "band", "task", "question", "truth")
STUDY_COLUMNS = [
    *("task", "metric", "questions", "score", "low", "high", "score_lenient", "unread", "unread_lenient"),
    *("variety", "variety_truth", "top_share", "top_share_truth"),
]


def largest_counts(questions: Iterable[Question]) -> dict[str, int]:
    """For each counting task the largest true count among the questions, at least 1."""
    largest: dict[str, int] = {}
    for question in questions:
        if question.task in COUNTING:
            largest[question.task] = max(1, int(question.truth), largest.get(question.task, 1))
    return largest


def score_parsed(question: Question, parsed: Any, largest: int = 1) -> float:
    """What a parsed answer, or None, scores: 0-100 in an accuracy task, else an error of which lower is better.

    `largest` is the task's of `largest_counts`; tasks that do not count ignore it.
    """
    if question.task not in COUNTING:
        return float(TASKS[question.task].score(parsed, question.truth))
    if parsed is None:
        return float(max(question.truth, largest - question.truth))
    return float(abs(min(parsed, largest) - question.truth))


def details(question: Question, parsed: Any, largest: int = 1) -> dict[str, float]:
    """Further measures of one answer, empty for a task that has none.

    grounding: `iou` (0-1), `accuracy_50_95` (%: the mean over the IoU thresholds 0.50, 0.55 to 0.95).
    location: `precision`, `recall`, `f1` (0-1) of points within 50 thousandths of their match, `number` (0-1: the
    smaller by the larger number of points). counting: `squared_error`, whose mean is the square of the RMSE; `exact`
    (%).
    """
    if question.task == "grounding":
        overlap = 0.0 if parsed is None else iou(parsed, question.truth)
        return {"iou": overlap, "accuracy_50_95": 100.0 * float((overlap >= IOU_THRESHOLDS).mean())}
    if question.task == "location":
        return found_points(parsed, question.truth)
    if question.task in COUNTING:
        error = score_parsed(question, parsed, largest)
        return {"squared_error": error**2, "exact": 100.0 * (parsed == question.truth)}
    return {}


def found_points(parsed: Sequence[Sequence[float]] | None, truth: Sequence[Sequence[float]]) -> dict[str, float]:
    """How many points are within `FOUND_WITHIN` (Euclidean) of a point of their own, over the matching that finds the
    most of them; all zero where there is no answer."""
    if not parsed:
        return dict.fromkeys(("precision", "recall", "f1", "number"), 0.0)
    apart = np.hypot(*np.moveaxis(np.asarray(parsed, float)[:, None] - np.asarray(truth, float)[None], 2, 0))
    near = apart <= FOUND_WITHIN
    found = int(near[linear_sum_assignment(near, maximize=True)].sum())
    return {
        "precision": found / len(parsed),
        "recall": found / len(truth),
        "f1": 2 * found / (len(parsed) + len(truth)),
        "number": min(len(parsed), len(truth)) / max(len(parsed), len(truth)),
    }


def answer_class(task: str, parsed: Any) -> str:
    """What an answer comes down to where collapse is looked for; empty for no answer.

    The letters of chosen options, a yes or no, a cell, a count; for a box the cell of a 10 x 10 grid that holds its
    centre, for points their number and the cell of their mean.
    """
    if parsed is None:
        return ""
    if task in ("scene", "recognition", "security"):
        return "".join(sorted({option[:3] for option in parsed}))
    if task == "grounding":
        return grid_cell((parsed[0] + parsed[2]) / 2, (parsed[1] + parsed[3]) / 2)
    if task == "location":
        x, y = np.mean(parsed, axis=0)
        return f"{len(parsed)} at {grid_cell(float(x), float(y))}"
    return str(parsed)


def grid_cell(x: float, y: float) -> str:
    """The cell of a point in thousandths; points outside the image belong to a cell at its border."""
    column, row = (min(max(int(v * CELLS_ACROSS // 1000), 0), CELLS_ACROSS - 1) for v in (x, y))
    return f"{column},{row}"


def class_counts(classes: Iterable[str]) -> list[int]:
    """How often each class of answer was given; the unreadable ones (empty) count as the most frequent class."""
    counts = Counter(classes)
    unread = counts.pop("", 0)
    found = sorted(counts.values(), reverse=True) or [0]
    return [found[0] + unread, *found[1:]]


def entropy(counts: Sequence[int]) -> float:
    """Shannon entropy in nats of a distribution given by counts, at least one of them positive."""
    share = np.array([count for count in counts if count]) / sum(counts)
    return abs(float(-(share * np.log(share)).sum()))


def variety(given: Sequence[str], true: Sequence[str]) -> float:
    """How varied the answers are beside the truth: the ratio of their entropies, at most 1; NaN where the truth itself
    does not vary or there is no answer.

    0 is collapse onto one answer (section 5.2: anti-CL on Re-ID); 1 is as varied as the truth, which guessing is too.
    An unreadable answer joins the most frequent class. That moves weight towards the largest class only, and entropy
    is Schur-concave, so refusals never raise variety.
    """
    if not len(given) or not (own := entropy(class_counts(true))):
        return float("nan")
    return min(1.0, entropy(class_counts(given)) / own)


def top_share(classes: Sequence[str]) -> float:
    """The share (0-1) of the most frequent class, unreadable answers included in it; NaN for none."""
    return class_counts(classes)[0] / len(classes) if len(classes) else float("nan")


def scored(questions: pd.DataFrame, outputs: Sequence[str | None], setting: str = "") -> pd.DataFrame:
    """One row a question: what was asked, the output and how it scored.

    `questions` is a table of `irgpt_lib.irtd.questions`; `outputs` has one text a row, None for a missing answer.
    Columns: question_id, sample_id, group, band, task, question, truth (JSON), setting, output (empty where missing,
    half characters escaped); `parsed` and `parsed_lenient` (whether the answer could be read), `score` and
    `score_lenient` (see `score_parsed`),
    `answer_class` of the lenient reading and `truth_class`, and the measures of `details`, lenient, NaN in other tasks.

    Raises:
        ValueError: there are not as many outputs as questions.
    """
    if len(outputs) != len(questions):
        raise ValueError(f"{len(questions)} questions but {len(outputs)} outputs")
    asked = as_questions(questions)
    largest = largest_counts(asked)
    kept = questions[list(KEPT)].to_dict("records")
    rows = [
        row | {"setting": setting} | scored_answer(question, output, largest.get(question.task, 1))
        for row, question, output in zip(kept, asked, outputs, strict=True)
    ]
    return pd.DataFrame(rows)


def scored_answer(question: Question, output: str | None, largest: int) -> dict[str, Any]:
    """The part of `scored` that depends on the output."""
    strict, lenient = (read_answer(question, output, mode) for mode in ("strict", "lenient"))
    return {
        "output": printable(output or ""),
        "parsed": strict is not None,
        "score": score_parsed(question, strict, largest),
        "parsed_lenient": lenient is not None,
        "score_lenient": score_parsed(question, lenient, largest),
        "answer_class": answer_class(question.task, lenient),
        "truth_class": answer_class(question.task, question.truth),
        **details(question, lenient, largest),
    }


def study_table(predictions: pd.DataFrame, *, seed: int = 0, draws: int = DRAWS, level: float = LEVEL) -> pd.DataFrame:
    """One row a task that was asked, in the paper's order, then `psum` and `nsum` over these tasks.

    `predictions` is what `scored` gives, of one run in one setting. Columns `task`, `metric` (accuracy or mae),
    `questions`, `score` (strict) with the limits `low` and `high` of its bootstrap interval over groups,
    `score_lenient`, `unread` and `unread_lenient` (parse failures, 0-1), `variety`, `variety_truth` (entropy of the
    true classes in nats), `top_share`, `top_share_truth`; NaN where a sum has none.
    """
    rows: list[dict[str, Any]] = []
    for name, task in TASKS.items():
        own = predictions[predictions["task"] == name]
        if own.empty:
            continue
        scores = own["score"].to_numpy(float)
        interval = bootstrap_interval(scores, own["group"].tolist(), seed=seed, draws=draws, level=level)
        given, true = own["answer_class"].tolist(), own["truth_class"].tolist()
        rows.append(
            {
                "task": name,
                "metric": task.metric,
                "questions": len(own),
                "score": interval.mean,
                "low": interval.low,
                "high": interval.high,
                "score_lenient": float(own["score_lenient"].mean()),
                "unread": float(1 - own["parsed"].mean()),
                "unread_lenient": float(1 - own["parsed_lenient"].mean()),
                "variety": variety(given, true),
                "variety_truth": entropy(class_counts(true)),
                "top_share": top_share(given),
                "top_share_truth": top_share(true),
            }
        )
    table = pd.DataFrame(rows, columns=STUDY_COLUMNS)
    return pd.concat([table, sum_rows(table)], ignore_index=True)


def sum_rows(table: pd.DataFrame) -> pd.DataFrame:
    """`psum` and `nsum` over those of their tasks that `table` has; a sum without any is left out."""
    rows = []
    for name, tasks in SUMS.items():
        own = table[table["task"].isin(tasks)]
        if len(own):
            scores = {column: float(own[column].sum()) for column in ("score", "score_lenient")}
            asked = {"questions": int(own["questions"].sum()), "metric": f"sum of {len(own)}"}
            rows.append({"task": name, **asked, **scores})
    return pd.DataFrame(rows, columns=table.columns).astype(table.dtypes.to_dict())


def detail_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """The means of `details` in long form: columns `task`, `measure`, `value`; `rmse` in place of `squared_error`."""
    rows = []
    for task, own in predictions.groupby("task", sort=False):
        for measure in [c for c in DETAILS if c in own and own[c].notna().any()]:
            mean = float(own[measure].mean())
            name, value = ("rmse", mean**0.5) if measure == "squared_error" else (measure, mean)
            rows.append({"task": task, "measure": name, "value": value})
    return pd.DataFrame(rows, columns=["task", "measure", "value"])
