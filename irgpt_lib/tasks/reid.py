"""Re-ID: which of the cells 2-8 of a montage shows the person of cell 1?"""

from collections.abc import Sequence

import numpy as np

from irgpt_lib.irtd.record import Sample
from irgpt_lib.tasks.task import Question, Task, blind_constant, score_exact

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


def read(text: str) -> str | None:
    answer = text.strip()
    return answer if answer in CELLS else None


def chance(question: Question, train: Sequence[Question]) -> float:
    return 100.0 / len(CELLS)


REID = Task("reid", "ReID", "accuracy", ask, read, score_exact, blind_constant, chance, (TEXT,))
