"""What the released questions about FLIR frames share: three classes, their names, and the orders of objects.

Location, Grounding, Relationship and Security of the release were made by rules from the FLIR ADAS boxes. The rules in
the `released` halves of those modules were found by comparing every released record about 100 frames with the boxes of
these frames, and tested on the remaining records through the box centres that Location releases for every frame.
"""

from collections.abc import Iterable
from dataclasses import replace

from irgpt_lib.irtd.record import Box, Sample
from irgpt_lib.tasks.task import Question

# The release knows no other class of a frame; a dog, which FLIR annotates too, is nowhere in it.
CLASSES = ("person", "bike", "car")
SPELLED = {"bicycle": "bike"}


def released_boxes(sample: Sample) -> list[Box]:
    """The boxes of the three classes, named as the release names them, by their left edge in pixels."""
    named = (replace(box, category=SPELLED.get(box.category, box.category)) for box in sample.boxes)
    return sorted((box for box in named if box.category in CLASSES), key=lambda b: (b.x1, b.y1))


def released_classes(sample: Sample) -> dict[str, list[Box]]:
    """The boxes of each class that is present, in the order of `CLASSES`, each from left to right by centre."""
    boxes = sorted(released_boxes(sample), key=lambda b: b.centre)
    grouped = {name: [box for box in boxes if box.category == name] for name in CLASSES}
    return {name: group for name, group in grouped.items() if group}


def answers_to(text: str, questions: Iterable[Question]) -> tuple[str, ...]:
    """The different answers of the questions with this text, in their order."""
    return tuple(dict.fromkeys(question.answer for question in questions if question.text == text))
