"""Relationship: does the stated relation between two objects hold?"""

from collections.abc import Sequence

import numpy as np

from irgpt_lib.irtd.record import Box, Sample
from irgpt_lib.tasks.task import Question, Task, blind_constant, score_exact

RELATION = " on the left side of the "
LEAST_GAP = 0.15


def pairs_apart(sample: Sample) -> list[tuple[Box, Box]]:
    """Pairs (left, right) of objects of two categories that occur once each, well apart from left to right."""
    names = [b.category for b in sample.boxes]
    single = sorted((b for b in sample.boxes if names.count(b.category) == 1), key=lambda b: b.centre[0])
    found = [(a, b) for i, a in enumerate(single) for b in single[i + 1 :]]
    return [(a, b) for a, b in found if b.centre[0] - a.centre[0] > LEAST_GAP * sample.width]


def ask(sample: Sample, rng: np.random.Generator, categories: Sequence[str], scenes: Sequence[str]) -> Question | None:
    """`Is there a X on the left side of the Y?`, true and false equally often. Only the left side is asked: over
    both sides the answer is an exclusive or of order and wording, which a miniature does not learn."""
    pairs = pairs_apart(sample) if sample.kind == "scene" else []
    if not pairs:
        return None
    left, right = pairs[int(rng.integers(len(pairs)))]
    holds = bool(rng.random() < 0.5)
    subject, reference = (left, right) if holds else (right, left)
    text = f"Is there a {subject.category}{RELATION}{reference.category}?"
    answer = "yes" if holds else "no"
    return Question("relationship", text, answer, answer, key=f"{subject.category}|{reference.category}")


def read(text: str) -> str | None:
    answer = text.strip().lower().rstrip(".")
    return answer if answer in ("yes", "no") else None


def chance(question: Question, train: Sequence[Question]) -> float:
    return 50.0


RELATIONSHIP = Task(
    "relationship",
    "Rel.",
    "accuracy",
    ask,
    read,
    score_exact,
    blind_constant,
    chance,
    ("Is there a ", RELATION),
)
