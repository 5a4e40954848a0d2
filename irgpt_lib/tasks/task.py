"""What a task of the benchmark is: how it asks, how its answer is written, read and scored (section 3.4)."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from irgpt_lib.irtd.record import Sample

LETTERS = ("(A)", "(B)", "(C)", "(D)")
OPTION = re.compile(r"\(([A-D])\) ([^()]+?)(?= \([A-D]\)|$)")


@dataclass(frozen=True)
class Question:
    """One question about one sample. `answer` is written in the released grammar; `truth` is what the answer is
    scored against, in a form that JSON can hold; `key` is what the question itself gives away (the category asked for,
    say), which is all that a blind guess may use. `frame` is the frame of the numbers in the answer, `pixel_xyxy` or
    `normalised_1000`; empty means 0-1000, the frame of every question that the study asks."""

    task: str
    text: str
    answer: str
    truth: Any
    options: tuple[str, ...] = ()
    key: str = ""
    frame: str = ""


Guess = Callable[[Question], Any]


@dataclass(frozen=True)
class Released:
    """How the released instruction set puts one task: its wording to the letter, and the rule behind its answers as
    far as the released records show it.

    `ask(sample, rng)` gives the questions that the release could ask of a sample and whose answer the rule settles;
    where the release draws options, one drawing. `answers(text, sample)` gives every answer that the rule admits to a
    released question: one where the boxes settle it, several where the text does not say which object is meant, none
    where the text is no released question about this sample. `frame` is the frame of the numbers in its answers.
    """

    ask: Callable[[Sample, np.random.Generator], list[Question]]
    answers: Callable[[str, Sample], tuple[str, ...]]
    frame: str = ""

    def answer(self, text: str, sample: Sample) -> str | None:
        """The only answer that the rule admits, `None` where there is none or more than one."""
        admitted = self.answers(text, sample)
        return admitted[0] if len(admitted) == 1 else None


@dataclass(frozen=True)
class Task:
    """One of the nine tasks.

    `ask(sample, rng, categories, scenes)` gives a question or None where the sample cannot carry one.
    `read(text)` gives the parsed answer or None where the text has no answer in it; it never raises.
    `score(parsed, truth)` is 0-100 (accuracy) or an absolute error (`mae`); None counts as the worst sensible one.
    `blind(train)` learns a guess from questions alone, without images.
    `chance(question, train)` is the expected score of a random answer.
    `phrases` are the fixed pieces of its language, which a small tokenizer may hold as one token each.
    `released` is the task as the release puts it, `None` where it holds no such question (Scene).
    """

    name: str
    column: str
    metric: Literal["accuracy", "mae"]
    ask: Callable[[Sample, np.random.Generator, Sequence[str], Sequence[str]], Question | None]
    read: Callable[[str], Any]
    score: Callable[[Any, Any], float]
    blind: Callable[[Sequence[Question]], Guess]
    chance: Callable[[Question, Sequence[Question]], float]
    phrases: tuple[str, ...] = field(default=())
    released: Released | None = None

    @property
    def higher_is_better(self) -> bool:
        return self.metric == "accuracy"


def shuffled_options(rng: np.random.Generator, options: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(options[i]) for i in rng.permutation(len(options)))


def write_options(options: Sequence[str]) -> str:
    """`(A) car (B) dog (C) boat (D) truck`, as the release writes them."""
    return " ".join(f"{letter} {option}" for letter, option in zip(LETTERS, options, strict=True))


def write_chosen(options: Sequence[str], chosen: Sequence[str]) -> str:
    """The chosen ones of the options, each with its letter."""
    pairs = zip(LETTERS, options, strict=True)
    return " ".join(f"{letter} {option}" for letter, option in pairs if option in chosen)


def read_options(text: str) -> tuple[str, ...] | None:
    """Every `(X) option` of an answer that holds nothing else, in its order."""
    found = OPTION.findall(text.strip())
    chosen = tuple(f"({letter}) {option}" for letter, option in found)
    return chosen if chosen and " ".join(chosen) == text.strip() else None


def score_exact(parsed: Any, truth: Any) -> float:
    """100 where both are equal, else 0; lists and tuples count as one."""
    as_list = list(parsed) if isinstance(parsed, tuple) else parsed
    return 100.0 if parsed is not None and as_list == truth else 0.0


def score_error(parsed: float | None, truth: float) -> float:
    """The absolute error; an answer that cannot be read counts as 0 predicted (reading Q22)."""
    return abs((0.0 if parsed is None else parsed) - truth)


def most_common(values: Sequence[Any]) -> Any:
    """The mode; of several, the one that sorts first."""
    counts = Counter(map(repr, values))
    top = min(counts, key=lambda r: (-counts[r], r))
    return next(v for v in values if repr(v) == top)


def blind_constant(train: Sequence[Question]) -> Guess:
    """The most common answer, for each key where that key was seen and overall where not."""
    overall = most_common([q.truth for q in train])
    groups: dict[str, list[Any]] = {}
    for question in train:
        groups.setdefault(question.key, []).append(question.truth)
    by_key = {key: most_common(truths) for key, truths in groups.items()}
    return lambda question: by_key.get(question.key, overall)


def blind_median(train: Sequence[Question]) -> Guess:
    """The median answer, which is the constant of least absolute error."""
    middle = float(np.median([q.truth for q in train]))
    return lambda question: middle


def option_rates(train: Sequence[Question]) -> dict[str, float]:
    """How often an option is right when it is offered, in the training questions."""
    offered, right = Counter(), Counter()
    for question in train:
        offered.update(question.options)
        right.update(o for o in question.options if any(t.endswith(f") {o}") for t in question.truth))
    return {option: right[option] / offered[option] for option in offered}


def chance_by_draw(
    score: Callable[[Any, Any], float], draws: int = 200
) -> Callable[[Question, Sequence[Question]], float]:
    """The mean score of answers drawn from the training questions of the task: the first `draws` of them."""
    return lambda question, train: float(np.mean([score(q.truth, question.truth) for q in train[:draws]]))
