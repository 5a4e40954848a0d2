"""The `release` scoring: what the four scripts of the official release compute, oddities included (readings Q20-Q23).

It was written from a description of what the scripts do, not from their text, and exists so that a number can be
compared with theirs. It is no sound measure, and `irgpt_lib.evaluation.scoring` departs from it in each of these:

- Recognition (here for every task with options, yes or no, or a cell): equality of strings, to the last blank.
- Detection: called mAP@0.5, but the recall at IoU 0.5 of each sample, averaged; boxes that are not there cost nothing.
  An answer without a box ends the script. Here it counts 0 and is told in `crashes`.
- Location: in the order of the true points each takes the nearest predicted one that is left, where that is within 5
  thousandths. The mean distance of these matches, averaged over the samples that have any, can never exceed 5, however
  wrong the answers are; `unscored` tells how many samples are left out.
- Counting: answers that cannot be read are left out of the mean, so that refusing hard images lowers the error.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from math import hypot
from typing import NamedTuple

import numpy as np
import pandas as pd

from irgpt_lib.evaluation.statistics import SUMS
from irgpt_lib.irtd.questions import QUESTION_COLUMNS
from irgpt_lib.irtd.record import RecordError
from irgpt_lib.irtd.release import SOURCE, ReleasedRecord
from irgpt_lib.tasks import TASKS
from irgpt_lib.tasks.grounding import IOU_THRESHOLD, iou
from irgpt_lib.tasks.task import read_options

MATCHED_WITHIN = 5.0
BOXES = re.compile(r"\[\s*([0-9]{1,5})\s*,\s*([0-9]{1,5})\s*,\s*([0-9]{1,5})\s*,\s*([0-9]{1,5})\s*\]")
POINTS = re.compile(r"\(\s*([0-9]{1,5})\s*,\s*([0-9]{1,5})\s*\)")
COUNT = re.compile(r"<num>\s*([0-9]{1,9})\s*</num>")
RELEASE_COLUMNS = ["task", "metric", "questions", "score", "rmse", "unscored", "crashes"]
EXCHANGES = 20


class Score(NamedTuple):
    """One script's result over a task: its mean (%, or an error), RMSE where it counts, answers left out of the mean,
    and answers that end the original script."""

    score: float
    rmse: float = float("nan")
    unscored: int = 0
    crashes: int = 0


def mean(values: Sequence[float]) -> float:
    """The mean; NaN of nothing."""
    return float(np.mean(values)) if len(values) else float("nan")


def exact_match(outputs: Sequence[str], answers: Sequence[str]) -> Score:
    """The share of equal strings, in %."""
    return Score(100.0 * mean([a == b for a, b in zip(outputs, answers, strict=True)]))


def boxes_in(text: str) -> list[list[int]]:
    """Every box `[x1, y1, x2, y2]` of positive area in a text."""
    corners = ([int(number) for number in found] for found in BOXES.findall(text))
    return [box for box in corners if box[0] < box[2] and box[1] < box[3]]


def box_recall(outputs: Sequence[str], answers: Sequence[str]) -> Score:
    """The mean over samples of the share of true boxes that some predicted box covers at IoU 0.5, in %."""
    recalls, crashes = [], 0
    for output, answer in zip(outputs, answers, strict=True):
        predicted, true = boxes_in(output), boxes_in(answer)
        crashes += not predicted
        recalls.append(mean([any(iou(p, t) >= IOU_THRESHOLD for p in predicted) for t in true]))
    return Score(100.0 * mean(recalls), crashes=crashes)


def points_in(text: str) -> list[tuple[int, int]]:
    """Every point `(x, y)` in a text."""
    return [(int(x), int(y)) for x, y in POINTS.findall(text)]


def greedy_distances(predicted: Sequence[tuple[int, int]], true: Sequence[tuple[int, int]]) -> list[float]:
    """Euclidean distances of the true points, in their order, to the nearest predicted one that no earlier one took,
    where that is within `MATCHED_WITHIN`."""
    left, found = list(predicted), []
    for x, y in true:
        if not left:
            break
        nearest = min(left, key=lambda p: hypot(p[0] - x, p[1] - y))
        distance = hypot(nearest[0] - x, nearest[1] - y)
        if distance <= MATCHED_WITHIN:
            found.append(distance)
            left.remove(nearest)
    return found


def matched_distance(outputs: Sequence[str], answers: Sequence[str]) -> Score:
    """The mean distance of matched points, averaged over the samples that have a match."""
    pairs = zip(outputs, answers, strict=True)
    distances = [greedy_distances(points_in(output), points_in(answer)) for output, answer in pairs]
    scored = [mean(own) for own in distances if own]
    return Score(mean(scored), unscored=len(distances) - len(scored))


def count_error(outputs: Sequence[str], answers: Sequence[str]) -> Score:
    """Mean absolute error and RMSE over the answers that can be read."""
    pairs = [(COUNT.search(output), COUNT.search(answer)) for output, answer in zip(outputs, answers, strict=True)]
    errors = [abs(int(output[1]) - int(answer[1])) for output, answer in pairs if output and answer]
    return Score(mean(errors), mean([error**2 for error in errors]) ** 0.5, len(pairs) - len(errors))


SCRIPTS: dict[str, Callable[[Sequence[str], Sequence[str]], Score]] = {
    **dict.fromkeys(TASKS, exact_match),
    "grounding": box_recall,
    "location": matched_distance,
    "aerial_counting": count_error,
    "pedestrian_counting": count_error,
}
METRICS = {
    exact_match: "exact match, %",
    box_recall: "recall at IoU 0.5, %",
    matched_distance: "MAE of matches within 5",
    count_error: "MAE of readable counts",
}


def release_table(questions: pd.DataFrame, outputs: Sequence[str | None]) -> pd.DataFrame:
    """One row a task that was asked, in the paper's order, then `psum` and `nsum` over these tasks.

    `questions` needs the columns `task` and `answer` (the truth in the released grammar); `outputs` has one text a
    row, None for a missing answer, which is scored as an empty one. Columns `task`, `metric`, `questions`, `score`,
    `rmse`, `unscored`, `crashes`; a score is NaN where no answer of the task is scored, and with it the sum.

    Raises:
        ValueError: there are not as many outputs as questions.
    """
    if len(outputs) != len(questions):
        raise ValueError(f"{len(questions)} questions but {len(outputs)} outputs")
    texts = pd.DataFrame({"task": list(questions["task"]), "answer": list(questions["answer"])})
    texts["output"] = [output or "" for output in outputs]
    rows = []
    for name, script in SCRIPTS.items():
        own = texts[texts["task"] == name]
        if len(own):
            result = script(own["output"].tolist(), own["answer"].tolist())
            rows.append({"task": name, "metric": METRICS[script], "questions": len(own), **result._asdict()})
    for total, members in SUMS.items():
        own = [row for row in rows if row["task"] in members]
        if own:
            added = {key: sum(row[key] for row in own) for key in ("questions", "score", "unscored", "crashes")}
            rows.append({"task": total, "metric": f"sum of {len(own)}", **added})
    return pd.DataFrame(rows, columns=RELEASE_COLUMNS)


def exchanged(tasks: Sequence[str], answers: Sequence[str], rng: np.random.Generator) -> list[str]:
    """The answers in a random order within their task."""
    given = np.array(answers, dtype=object)
    for rows in pd.Series(list(tasks)).groupby(list(tasks), sort=True).indices.values():
        given[rows] = given[rng.permutation(rows)]
    return given.tolist()


def blind_level(questions: pd.DataFrame, rng: np.random.Generator, exchanges: int = EXCHANGES) -> pd.DataFrame:
    """What the true answers score when they go to other questions of their task: as much as can be had by knowing how
    answers are distributed and nothing of the image or the question.

    Index task, `psum` and `nsum`; columns `level` and `spread`, the mean and the standard deviation (n - 1) of the
    `release` score over `exchanges` random orders.
    """
    tasks, answers = questions["task"].tolist(), questions["answer"].tolist()
    tables = [release_table(questions, exchanged(tasks, answers, rng)) for _ in range(exchanges)]
    scores = pd.concat([table.set_index("task")["score"] for table in tables], axis=1)
    return pd.DataFrame({"level": scores.mean(axis=1), "spread": scores.std(axis=1, ddof=1)})


def released_questions(records: Iterable[ReleasedRecord]) -> pd.DataFrame:
    """Released records in the columns of the question table (`irgpt_lib.irtd.questions`).

    `question_id` is file and place, `Recognition.json#12`; `group` is the image; `split` is `release`, for the release
    has no benchmark; `band` is empty, for it does not say; `key` is empty.

    Raises:
        RecordError: `unreadable truth` where an answer is not in the grammar of its task, which names the record.
    """
    rows = []
    for record in records:
        truth = TASKS[record.task].read(record.answer)
        if truth is None:
            raise RecordError("unreadable truth", f"{record.file}, record {record.index}: {record.answer!r:.80}")
        offered = read_options(record.question.partition("\n")[2]) or ()
        rows.append(
            {
                "question_id": f"{record.file}#{record.index}",
                "sample_id": record.image,
                "group": record.image,
                "band": "",
                "source": SOURCE,
                "split": "release",
                "task": record.task,
                "question": record.question,
                "answer": record.answer,
                "frame": record.box_frame,
                "truth": json.dumps(truth),
                "options": json.dumps([option.partition(") ")[2] for option in offered]),
                "key": "",
            }
        )
    return pd.DataFrame(rows, columns=QUESTION_COLUMNS)
