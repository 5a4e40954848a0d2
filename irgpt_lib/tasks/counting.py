"""Aerial and pedestrian counting: how many are there? Scored as a mean absolute error."""

import re
from collections.abc import Callable, Sequence

import numpy as np

from irgpt_lib.irtd.record import Sample
from irgpt_lib.tasks.released import answers_to
from irgpt_lib.tasks.task import Question, Released, Task, blind_median, chance_by_draw, score_error

OPEN, CLOSE = "<num>", "</num>"
NUMBER = re.compile(r"<num>\s*(\d{1,6})\s*</num>")
AERIAL_TEXT = "Calculate the number of cars in the picture."
PEDESTRIAN_TEXT = "Calculate the number of pedestrians in the picture."


def count(sample: Sample, category: str, task: str, text: str) -> Question:
    number = sum(thing.category == category for thing in (*sample.boxes, *sample.points))
    return Question(task, text, f"{OPEN}{number}{CLOSE}", number)


def ask_aerial(
    sample: Sample, rng: np.random.Generator, categories: Sequence[str], scenes: Sequence[str]
) -> Question | None:
    """Only images from above whose every car is annotated."""
    if sample.kind != "aerial" or sample.counted != "car":
        return None
    return count(sample, "car", "aerial_counting", AERIAL_TEXT)


def ask_pedestrian(
    sample: Sample, rng: np.random.Generator, categories: Sequence[str], scenes: Sequence[str]
) -> Question | None:
    """Only images whose every person is annotated."""
    if sample.counted != "person":
        return None
    return count(sample, "person", "pedestrian_counting", PEDESTRIAN_TEXT)


def released(ask: Callable[..., Question | None]) -> Released:
    """The release asks as the study does."""

    def ask_released(sample: Sample, rng: np.random.Generator | None = None) -> list[Question]:
        question = ask(sample, rng or np.random.default_rng(0), (), ())
        return [question] if question else []

    return Released(ask_released, lambda text, sample: answers_to(text, ask_released(sample)))


def read(text: str) -> int | None:
    found = NUMBER.findall(text)
    return int(found[0]) if len(found) == 1 else None


AERIAL_COUNTING = Task(
    "aerial_counting", "A.C.", "mae", ask_aerial, read, score_error, blind_median, chance_by_draw(score_error),
    (AERIAL_TEXT, OPEN, CLOSE), released(ask_aerial),
)  # fmt: skip
PEDESTRIAN_COUNTING = Task(
    "pedestrian_counting", "P.C.", "mae", ask_pedestrian, read, score_error, blind_median, chance_by_draw(score_error),
    (PEDESTRIAN_TEXT, OPEN, CLOSE), released(ask_pedestrian),
)  # fmt: skip
