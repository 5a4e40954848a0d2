"""What needs no image: chance, the blind prior and the majority answer, scored as `study` scores a model's answers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from irgpt_lib.evaluation.scoring import largest_counts, score_parsed
from irgpt_lib.evaluation.statistics import COLUMNS, SUMS
from irgpt_lib.irtd.questions import as_questions
from irgpt_lib.tasks import TASKS, Question
from irgpt_lib.tasks.task import LETTERS, Guess, chance_by_draw, write_chosen

FLOORS = ("chance", "blind", "majority")
DRAWN_TASKS = ("grounding", "location", "aerial_counting", "pedestrian_counting")


def majority(train: Sequence[Question]) -> Guess:
    """One answer for every question of a task, whatever the question says.

    With options the letters that were right most often; else the task's blind prior over all questions as if they were
    one: the commonest word or cell, the median count or box, the commonest number of points at their median places.
    """
    if train[0].options:
        letters = Counter(tuple(sorted({option[:3] for option in q.truth})) for q in train)
        best = min(letters, key=lambda chosen: (-letters[chosen], chosen))
        return lambda question: lettered(question, best)
    guess = TASKS[train[0].task].blind([replace(question, key="") for question in train])
    return lambda question: guess(replace(question, key=""))


def lettered(question: Question, letters: Sequence[str]) -> tuple[str, ...]:
    """The options of a question that stand at these letters, each with its letter."""
    chosen = [option for letter, option in zip(LETTERS, question.options, strict=True) if letter in letters]
    return tuple(write_chosen(question.options, [option]) for option in chosen)


def chance_of(question: Question, train: Sequence[Question], largest: int) -> float:
    """The expected score of a random answer: by the task's own rule, and of an answer drawn from the training
    questions where answers are numbers."""
    if question.task not in DRAWN_TASKS:
        return TASKS[question.task].chance(question, train)

    def score(parsed: Any, truth: Any) -> float:
        return score_parsed(replace(question, truth=truth), parsed, largest)

    return chance_by_draw(score)(question, train)


def floors(benchmark: pd.DataFrame, instruction: pd.DataFrame) -> pd.DataFrame:
    """For each benchmark question the expected score of `chance` and the scores of the `blind` prior and of the
    `majority` answer, both learned from the instruction questions; the index is the benchmark's.

    Raises:
        ValueError: a task has benchmark questions and no instruction question to learn from.
    """
    found = pd.DataFrame(np.nan, index=benchmark.index, columns=list(FLOORS))
    for name, rows in benchmark.groupby("task", sort=False):
        train = as_questions(instruction[instruction["task"] == name])
        if not train:
            raise ValueError(
                f"{len(rows)} benchmark questions of {name}, but none in the instruction split to learn a prior from; "
                "change dataset.split_shares or drop the source"
            )
        asked = as_questions(rows)
        largest = largest_counts(asked).get(str(name), 1)
        score = partial(score_parsed, largest=largest)
        blind, constant = TASKS[str(name)].blind(train), majority(train)
        found.loc[rows.index, "chance"] = [chance_of(q, train, largest) for q in asked]
        found.loc[rows.index, "blind"] = [score(q, blind(q)) for q in asked]
        found.loc[rows.index, "majority"] = [score(q, constant(q)) for q in asked]
    return found


def floor_rows(tasks: Sequence[str] | pd.Series, found: pd.DataFrame) -> pd.DataFrame:
    """The three floors as rows of Table 2: index `chance`, `blind`, `majority`, the 11 columns of the paper.

    `tasks` names the task of each row of `found`, which is what `floors` gives. A task that was not asked is NaN, and
    `psum` and `nsum` add those that were.

    Raises:
        ValueError: `tasks` does not name as many as `found` has rows.
    """
    if len(tasks) != len(found):
        raise ValueError(f"{len(tasks)} tasks but {len(found)} rows of floors")
    means = found[list(FLOORS)].groupby(np.asarray(tasks, dtype=object)).mean().T
    for total, members in SUMS.items():
        means[total] = means[[task for task in members if task in means]].sum(axis=1, min_count=1)
    return means.reindex(columns=list(COLUMNS)).rename_axis(index="row", columns=None)
