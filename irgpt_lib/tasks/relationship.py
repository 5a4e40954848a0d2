"""Relationship: does the stated relation between two objects hold?"""

from collections.abc import Callable, Iterator, Sequence
from math import hypot

import numpy as np

from irgpt_lib.irtd.record import Box, Sample
from irgpt_lib.tasks.released import released_boxes, released_classes
from irgpt_lib.tasks.task import Question, Released, Task, blind_constant, score_exact

RELATION = " on the left side of the "
LEAST_GAP = 0.15
# Each relation as the release words it, in the order of its list.
RELATIONS = {
    "left": " on the left side of the ",
    "right": " on the right side of the ",
    "front": " in front of the ",
    "behind": " behind the ",
    "near": " near to the ",
    "far": " far from the ",
}
NEAR, FAR = 0.25, 0.5
# Within these distances from its threshold a relation is not asked, for there a person would hesitate.
DEAD_ZONES = {"left": LEAST_GAP, "right": LEAST_GAP, "front": 0.05, "behind": 0.05, "near": 0.05, "far": 0.05}
ORDINALS = ("first", "second", "third", "fourth", "fifth")


def pairs_apart(sample: Sample) -> list[tuple[Box, Box]]:
    """Pairs (left, right) of objects of two categories that occur once each, well apart from left to right."""
    single = sorted(single_objects(sample), key=lambda b: b.centre[0])
    found = [(a, b) for i, a in enumerate(single) for b in single[i + 1 :]]
    return [(a, b) for a, b in found if b.centre[0] - a.centre[0] > LEAST_GAP * sample.width]


def single_objects(sample: Sample) -> list[Box]:
    """The objects that their category names without doubt, in the order of the sample's boxes."""
    names = [b.category for b in sample.boxes]
    return [b for b in sample.boxes if names.count(b.category) == 1]


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


def distance(a: Box, b: Box) -> float:
    """Between the centres, in pixels."""
    return hypot(a.centre[0] - b.centre[0], a.centre[1] - b.centre[1])


def margin(relation: str, subject: Box, reference: Box, width: int, height: int) -> float:
    """By how much a relation holds, as a share of the image; negative where it does not hold.

    `left`, `right`: centres from left to right. `front`, `behind`: whose bottom edge is lower stands in front, which
    is evidence of depth where both stand on one ground. `near`, `far`: centres closer than a quarter, farther than
    half of the image's width (the cuts of the release).
    """
    measures: dict[str, Callable[[], float]] = {
        "left": lambda: (reference.centre[0] - subject.centre[0]) / width,
        "right": lambda: (subject.centre[0] - reference.centre[0]) / width,
        "front": lambda: (subject.y2 - reference.y2) / height,
        "behind": lambda: (reference.y2 - subject.y2) / height,
        "near": lambda: NEAR - distance(subject, reference) / width,
        "far": lambda: distance(subject, reference) / width - FAR,
    }
    return measures[relation]()


def holds(relation: str, subject: Box, reference: Box, sample: Sample) -> bool | None:
    """Whether a relation of `RELATIONS` holds, `None` within its dead zone."""
    by = margin(relation, subject, reference, sample.width, sample.height)
    return None if abs(by) <= DEAD_ZONES[relation] else by > 0


def relation_questions(sample: Sample, relations: Sequence[str]) -> list[Question]:
    """Every question about two objects of the sample, each the only one of its category, whose answer is clear."""
    if sample.kind != "scene":
        return []
    objects = single_objects(sample)
    questions = []
    for relation in relations:
        for subject, reference in ((a, b) for a in objects for b in objects if a is not b):
            truth = holds(relation, subject, reference, sample)
            if truth is None:
                continue
            text = f"Is there a {subject.category}{RELATIONS[relation]}{reference.category}?"
            answer, key = "yes" if truth else "no", f"{relation}|{subject.category}|{reference.category}"
            questions.append(Question("relationship", text, answer, answer, key=key))
    return questions


def asking(relations: Sequence[str]) -> Task:
    """The task over some of the six relations (`left`, `right`, `front`, `behind`, `near`, `far`; see `margin` and
    `DEAD_ZONES` for when they hold); over `left` alone it is `RELATIONSHIP`.

    A question's relation is drawn first, then its answer among those that the sample offers. Left, right, front and
    behind so come out even, since two objects that change places change the answer; near and far follow the images
    until `balance.balanced` chooses among them.

    Raises:
        ValueError: no relation, an unknown one or one twice.
    """
    unknown = [name for name in relations if name not in RELATIONS]
    if unknown or not relations or len(set(relations)) < len(relations):
        raise ValueError(f"relations {list(relations)}: name some of {', '.join(RELATIONS)}, each once")
    if tuple(relations) == ("left",):
        return RELATIONSHIP

    def ask_some(
        sample: Sample, rng: np.random.Generator, categories: Sequence[str], scenes: Sequence[str]
    ) -> Question | None:
        questions = relation_questions(sample, relations)
        for part in (lambda q: q.key.partition("|")[0], lambda q: q.answer):
            offered = sorted({part(question) for question in questions})
            if not offered:
                return None
            drawn = offered[int(rng.integers(len(offered)))]
            questions = [question for question in questions if part(question) == drawn]
        return questions[int(rng.integers(len(questions)))]

    phrases = ("Is there a ", *(RELATIONS[name] for name in relations))
    return Task(
        "relationship",
        "Rel.",
        "accuracy",
        ask_some,
        read,
        score_exact,
        blind_constant,
        chance,
        phrases,
        RELATIONSHIP.released,
    )


def ordinal(index: int) -> str:
    """`first` to `fifth`, then `6th` and also `22th`, as the release counts; `index` is from 0."""
    return ORDINALS[index] if index < len(ORDINALS) else f"{index + 1}th"


def released_holds(relation: str, subject: Box, reference: Box) -> bool:
    """Whether the release takes a relation between two boxes for true; its cuts are pixels of a 640 x 512 frame.

    Left and right: by centre. Near: centres less than 160 pixels apart; far: more than 320. By the centres that
    Location releases, 1,582 of the 1,583 questions that these four settle in all 7,859 frames agree.

    In front of: the subject's centre is *higher* in the image, so farther off as a rule; behind: it is not. Of the
    questions that this settles, all agree in the 100 frames, but 72 % of 893 in all: the true rule sees something more.
    Bottom and top edges, heights and areas do worse in the 100 frames.
    """
    (x, y), (x_reference, y_reference) = subject.centre, reference.centre
    held = {
        "left": x < x_reference,
        "right": x > x_reference,
        "front": y < y_reference,
        "behind": y >= y_reference,
        "near": distance(subject, reference) < 160,
        "far": distance(subject, reference) > 320,
    }
    return held[relation]


def released_cases(sample: Sample) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Key, text and admitted answers of every question that the release could ask of a frame.

    `Is there a X on the left side of the the first Y from left to right?` joins cars with one other class; X is the one
    of the two whose leftmost box begins farther left. Its answer is that of *one* X, which the text does not name, so
    that both answers are admitted where the objects of X differ.
    """
    classes, edge = released_classes(sample), [box.category for box in released_boxes(sample)]
    for other in ("person", "bike"):
        if other not in classes or "car" not in classes:
            continue
        subject, reference = sorted((other, "car"), key=edge.index)
        for index, box in enumerate(classes[reference]):
            for relation, words in RELATIONS.items():
                text = f"Is there a {subject}{words}the {ordinal(index)} {reference} from left to right?"
                held = {released_holds(relation, thing, box) for thing in classes[subject]}
                yield (
                    f"{relation}|{subject}|{reference}",
                    text,
                    tuple("yes" if truth else "no" for truth in sorted(held, reverse=True)),
                )


def ask_released(sample: Sample, rng: np.random.Generator | None = None) -> list[Question]:
    """The questions of `released_cases` to which one answer is admitted; the release drew one question a frame, without
    regard to that."""
    return [
        Question("relationship", text, answers[0], answers[0], key=key)
        for key, text, answers in released_cases(sample)
        if len(answers) == 1
    ]


def answers_released(text: str, sample: Sample) -> tuple[str, ...]:
    """See `released_cases`."""
    return next((answers for _, asked, answers in released_cases(sample) if asked == text), ())


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
    Released(ask_released, answers_released),
)
