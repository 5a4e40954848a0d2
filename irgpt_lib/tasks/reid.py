"""Re-ID: which of the cells 2-8 of a montage shows the person of cell 1?"""

from collections.abc import Sequence

import numpy as np

from irgpt_lib.irtd.record import Sample
from irgpt_lib.tasks.task import Question, Released, Task, blind_constant, score_exact

CELLS = tuple(str(cell) for cell in range(2, 9))
TEXT = (
    "Which person has the same identity with the person in the upper left corner? "
    "Answer the ordinal numbers and the order will be\n1234\n5678"
)


def ask(sample: Sample, rng: np.random.Generator, categories: Sequence[str], scenes: Sequence[str]) -> Question | None:
    if sample.kind != "montage":
        return None
    answer = str(sample.montage_answer)
    return Question("reid", TEXT, answer, answer)


def ask_released(sample: Sample, rng: np.random.Generator) -> list[Question]:
    """The release asks as the study does."""
    question = ask(sample, rng, (), ())
    return [question] if question else []


def answers_released(text: str, sample: Sample) -> tuple[str, ...]:
    """The cell of the montage, where the sample is one and the text is the task's."""
    return (str(sample.montage_answer),) if text == TEXT and sample.kind == "montage" else ()


def read(text: str) -> str | None:
    answer = text.strip()
    return answer if answer in CELLS else None


def chance(question: Question, train: Sequence[Question]) -> float:
    return 100.0 / len(CELLS)


REID = Task(
    "reid",
    "ReID",
    "accuracy",
    ask,
    read,
    score_exact,
    blind_constant,
    chance,
    (TEXT,),
    Released(ask_released, answers_released),
)
