"""Location: the centres of all objects of one category, from left to right, scored as a mean absolute error (Q21)."""

import re
from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from irgpt_lib.irtd.record import FRAME, Box, Sample, frame_1000
from irgpt_lib.tasks.released import answers_to, released_classes
from irgpt_lib.tasks.task import Guess, Question, Released, Task, chance_by_draw

ASK, ORDER = "Locate all ", " from left to right."
# The released text has a blank between the image token's line break and its first word.
RELEASED_ASK = " Locate all "
OPEN_REF, OPEN, CLOSE = "<ref>", "</ref> at <pos>[(", ")]</pos>"
POSITIONS = re.compile(r"<pos>\s*\[([^\[\]<]*)\]\s*</pos>")
POINT = re.compile(r"\(\s*(\d{1,4})\s*,\s*(\d{1,4})\s*\)")
WORST_ERROR = FRAME / 2
MOST_POINTS = 40
RELEASED_FRAME = "normalised_1000"
Points = Sequence[Sequence[float]]


def ask(sample: Sample, rng: np.random.Generator, categories: Sequence[str], scenes: Sequence[str]) -> Question | None:
    present = sorted({b.category for b in sample.boxes})
    if sample.kind != "scene" or not present:
        return None
    category = present[int(rng.integers(len(present)))]
    boxes = sorted((b for b in sample.boxes if b.category == category), key=lambda b: b.centre)
    return None if len(boxes) > MOST_POINTS else locate(f"{ASK}{category}{ORDER}", category, boxes, sample)


def locate(text: str, category: str, boxes: Sequence[Box], sample: Sample, frame: str = "") -> Question:
    """The question with the centres of `boxes`, in their order and in the frame 0-1000, as its answer."""
    truth = [[frame_1000(b.centre[0], sample.width), frame_1000(b.centre[1], sample.height)] for b in boxes]
    points = ", ".join(f"({x}, {y})" for x, y in truth)
    answer = f"{OPEN_REF}{category}</ref> at <pos>[{points}]</pos>"
    return Question("location", text, answer, truth, key=category, frame=frame)


def ask_released(sample: Sample, rng: np.random.Generator | None = None) -> list[Question]:
    """One question a class that is present, however many its objects: ` Locate all car from left to right.`

    All 187 released records about the 100 frames agree to the last digit: centres in thousandths of width and height,
    halves rounded to the even number, from left to right.
    """
    classes = released_classes(sample).items()
    return [locate(f"{RELEASED_ASK}{name}{ORDER}", name, boxes, sample, RELEASED_FRAME) for name, boxes in classes]


def answers_released(text: str, sample: Sample) -> tuple[str, ...]:
    return answers_to(text, ask_released(sample))


def read(text: str) -> list[list[int]] | None:
    lists = POSITIONS.findall(text)
    points = [[int(x), int(y)] for x, y in POINT.findall(lists[0])] if len(lists) == 1 else []
    return points[: 4 * MOST_POINTS] or None


def score(parsed: Points | None, truth: Points) -> float:
    """Mean absolute coordinate error, 0-500, over the best one-to-one matching (Hungarian algorithm). The mean
    is over the longer of the two lists: a point that one side lacks counts as the worst error, 500, so that leaving
    points out does not pay, and neither does adding points that are not there."""
    if not parsed:
        return WORST_ERROR
    p, t = np.asarray(parsed, float), np.asarray(truth, float)
    cost = np.minimum(np.abs(p[:, None] - t[None]).mean(2), WORST_ERROR)
    rows, columns = linear_sum_assignment(cost)
    unmatched = max(len(p), len(t)) - len(rows)
    return float((cost[rows, columns].sum() + unmatched * WORST_ERROR) / max(len(p), len(t)))


def blind(train: Sequence[Question]) -> Guess:
    """As many points as the category most often has, each at the median of its place in the row."""
    groups: dict[str, list[Points]] = {}
    for question in train:
        groups.setdefault(question.key, []).append(question.truth)
        groups.setdefault("", []).append(question.truth)
    by_key = {key: median_points(points) for key, points in groups.items()}
    return lambda question: by_key.get(question.key, by_key[""])


def median_points(truths: Sequence[Points]) -> list[list[float]]:
    sizes = [len(points) for points in truths]
    count = max(sorted(set(sizes)), key=sizes.count)
    return np.median([points for points in truths if len(points) == count], axis=0).tolist()


LOCATION = Task(
    "location",
    "Loc.",
    "mae",
    ask,
    read,
    score,
    blind,
    chance_by_draw(score),
    (ASK, ORDER, OPEN_REF, OPEN, "), (", CLOSE),
    Released(ask_released, answers_released, RELEASED_FRAME),
)
