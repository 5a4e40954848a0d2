"""Security: of four options, name every one that the picture does not show."""

from collections import Counter
from collections.abc import Sequence
from math import comb

import numpy as np

from irgpt_lib.irtd.record import Sample
from irgpt_lib.tasks.released import released_classes
from irgpt_lib.tasks.task import (
    Guess,
    Question,
    Released,
    Task,
    option_rates,
    read_options,
    score_exact,
    shuffled_options,
    write_chosen,
    write_options,
)

OPTIONS = 4
TEXT = "What object does not appear in the picture?\n"
# All that the release offers. Only person, bike and car are ever present, so twelve of the fifteen are always right.
RELEASED_OPTIONS = (
    *("person", "bike", "car", "motor", "bus", "train", "truck", "light", "hydrant", "sign"),
    *("dog", "skateboard", "stroller", "scooter", "other vehicle"),
)


def ask(sample: Sample, rng: np.random.Generator, categories: Sequence[str], scenes: Sequence[str]) -> Question | None:
    """One to three of the options are absent, as in the release."""
    present = sorted({b.category for b in sample.boxes})
    absent = [c for c in categories if c not in present]
    least = max(1, OPTIONS - len(present))
    if sample.kind != "scene" or not present or least > min(OPTIONS - 1, len(absent)):
        return None
    count = int(rng.integers(least, min(OPTIONS - 1, len(absent)) + 1))
    shown = [present[i] for i in rng.choice(len(present), OPTIONS - count, replace=False)]
    missing = [absent[i] for i in rng.choice(len(absent), count, replace=False)]
    options = shuffled_options(rng, shown + missing)
    answer = write_chosen(options, missing)
    return Question("security", TEXT + write_options(options), answer, list(read_options(answer) or ()), options)


def ask_released(sample: Sample, rng: np.random.Generator) -> list[Question]:
    """One drawing of the options: one, two or three of the classes that are there, each number equally often and no
    more than there are, filled up with absent ones.

    All 220 released records about the 100 frames agree with this rule; two of them call a dog absent that FLIR boxes.
    """
    present = sorted(released_classes(sample))
    if not present:
        return []
    count = min(int(rng.integers(1, OPTIONS)), len(present))
    shown = [present[i] for i in rng.choice(len(present), count, replace=False)]
    absent = [name for name in RELEASED_OPTIONS if name not in present]
    missing = [absent[i] for i in rng.choice(len(absent), OPTIONS - len(shown), replace=False)]
    options = shuffled_options(rng, shown + missing)
    answer = write_chosen(options, missing)
    return [Question("security", TEXT + write_options(options), answer, list(read_options(answer) or ()), options)]


def answers_released(text: str, sample: Sample) -> tuple[str, ...]:
    """The offered options that are none of the three classes in the frame; none where the options cannot be read."""
    offered = read_options(text.removeprefix(TEXT)) if text.startswith(TEXT) else None
    options = [option.partition(") ")[2] for option in offered or ()]
    if len(options) != OPTIONS or not set(options) <= set(RELEASED_OPTIONS):
        return ()
    present = released_classes(sample)
    return (write_chosen(options, [name for name in options if name not in present]),)


def blind(train: Sequence[Question]) -> Guess:
    """The most common number of absent options, filled with those that were absent most often when offered."""
    rates = option_rates(train)
    sizes = Counter(len(q.truth) for q in train)
    count = max(sizes, key=lambda k: (sizes[k] / comb(OPTIONS, k), k))

    def guess(question: Question) -> tuple[str, ...]:
        ranked = sorted(question.options, key=lambda o: (-rates.get(o, 0.5), o))
        return read_options(write_chosen(question.options, ranked[:count])) or ()

    return guess


def chance(question: Question, train: Sequence[Question]) -> float:
    """A set of the right size distribution, drawn at random among the options."""
    right = len(question.truth)
    share = sum(len(q.truth) == right for q in train) / len(train)
    return 100.0 * share / comb(len(question.options), right)


SECURITY = Task(
    "security",
    "Sec.",
    "accuracy",
    ask,
    read_options,
    score_exact,
    blind,
    chance,
    (TEXT,),
    Released(ask_released, answers_released),
)
