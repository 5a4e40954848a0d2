"""Recognition and Scene: four options, one of them right."""

from collections.abc import Sequence

import numpy as np

from irgpt_lib.irtd.record import Sample
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
RECOGNITION_TEXT = "What is the object in the picture?\n"
SCENE_TEXT = "What is the scene in the picture?\n"
# What the release offers, with its spelling. The second row is never right, which gives those options away.
RELEASED_RIGHT = (
    *("person", "fox", "deer", "car", "badger", "dog", "coyote", "boat", "airplane", "cat", "helicopter"),
    *("elephant", "bird", "cow", "hog", "lion", "roo", "sheep", "rabbit", "horse", "motobike", "rat", "hippo"),
    *("raccoon", "leopard", "buffalo", "bear", "giraffe", "bus", "tricycle", "rhino", "chicken", "truck"),
)
RELEASED_NEVER_RIGHT = (
    *("hedgehog", "hyenas", "crocodile", "bat", "monkey", "seal", "goose", "tank", "drone", "ericius"),
    *("squirrel", "snake", "duck", "penguin"),
)


def choice(task: str, text: str, right: str, wrong: Sequence[str], rng: np.random.Generator) -> Question | None:
    """A question with the right option among three wrong ones, or None where there are fewer than three."""
    if len(wrong) < OPTIONS - 1:
        return None
    drawn = rng.choice(len(wrong), OPTIONS - 1, replace=False)
    options = shuffled_options(rng, [right, *(wrong[i] for i in drawn)])
    answer = write_chosen(options, [right])
    return Question(task, text + write_options(options), answer, [answer], options)


def ask_recognition(
    sample: Sample, rng: np.random.Generator, categories: Sequence[str], scenes: Sequence[str]
) -> Question | None:
    """The category of the largest object, among categories that the image does not show."""
    if sample.kind not in ("scene", "object") or not sample.boxes:
        return None
    right = max(sample.boxes, key=lambda b: b.area).category
    present = {b.category for b in sample.boxes}
    return choice("recognition", RECOGNITION_TEXT, right, [c for c in categories if c not in present], rng)


def ask_scene(
    sample: Sample, rng: np.random.Generator, categories: Sequence[str], scenes: Sequence[str]
) -> Question | None:
    """The class of the scene, among the other classes."""
    if not sample.scene:
        return None
    return choice("scene", SCENE_TEXT, sample.scene, [s for s in scenes if s != sample.scene], rng)


def ask_recognition_released(sample: Sample, rng: np.random.Generator) -> list[Question]:
    """The study's question over the release's 47 options, where the largest object is one of its 33 classes. How the
    release draws the wrong ones could not be found out; here all are equally likely."""
    if not sample.boxes or max(sample.boxes, key=lambda b: b.area).category not in RELEASED_RIGHT:
        return []
    question = ask_recognition(sample, rng, RELEASED_RIGHT + RELEASED_NEVER_RIGHT, ())
    return [question] if question else []


def recognition_answers_released(text: str, sample: Sample) -> tuple[str, ...]:
    """The offered option that names the largest object; none where no option or another kind of text does."""
    offered = read_options(text.removeprefix(RECOGNITION_TEXT)) if text.startswith(RECOGNITION_TEXT) else None
    if not offered or not sample.boxes:
        return ()
    right = max(sample.boxes, key=lambda b: b.area).category
    return tuple(option for option in offered if option.partition(") ")[2] == right)


def blind(train: Sequence[Question]) -> Guess:
    """The offered option that was right most often in training when it was offered."""
    rates = option_rates(train)

    def guess(question: Question) -> tuple[str, ...]:
        best = max(question.options, key=lambda o: (rates.get(o, 1 / OPTIONS), o))
        return (write_chosen(question.options, [best]),)

    return guess


def chance(question: Question, train: Sequence[Question]) -> float:
    return 100.0 / len(question.options)


RECOGNITION = Task(
    "recognition",
    "Rec.",
    "accuracy",
    ask_recognition,
    read_options,
    score_exact,
    blind,
    chance,
    (RECOGNITION_TEXT,),
    Released(ask_recognition_released, recognition_answers_released),
)
SCENE = Task("scene", "Scene", "accuracy", ask_scene, read_options, score_exact, blind, chance, (SCENE_TEXT,))
