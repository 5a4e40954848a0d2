"""Grounding: the bounding box of the one object that the text describes, scored as accuracy at IoU 0.5 (Q20)."""

import re
from collections.abc import Sequence

import numpy as np

from irgpt_lib.irtd.record import Box, Sample, frame_1000
from irgpt_lib.tasks.task import Guess, Question, Task, chance_by_draw

ASK = "Detect the bounding box of the "
OPEN, CLOSE = "The target bounding box is <box>[[", "]]</box>."
NUMBER = r"\s*(\d{1,4})\s*"
BOX = re.compile(r"<box>\s*\[\[" + ",".join([NUMBER] * 4) + r"\]\]\s*</box>")
PLACES = {"left": (0.0, 1 / 3), "center": (1 / 3, 2 / 3), "right": (2 / 3, 1.0)}
IOU_THRESHOLD = 0.5
Corners = Sequence[float]


def describe(sample: Sample) -> list[tuple[str, Box]]:
    """Every text that fits exactly one box: its category where that is unique, else category and third of the image."""
    found = []
    for category in sorted({b.category for b in sample.boxes}):
        boxes = [b for b in sample.boxes if b.category == category]
        if len(boxes) == 1:
            found.append((category, boxes[0]))
            continue
        for place, (low, high) in PLACES.items():
            there = [b for b in boxes if low <= b.centre[0] / sample.width < high]
            if len(there) == 1:
                found.append((f"{category} located at the {place} of the image", there[0]))
    return found


def ask(sample: Sample, rng: np.random.Generator, categories: Sequence[str], scenes: Sequence[str]) -> Question | None:
    targets = describe(sample) if sample.kind == "scene" else []
    if not targets:
        return None
    text, box = targets[int(rng.integers(len(targets)))]
    w, h = sample.width, sample.height
    truth = [frame_1000(box.x1, w), frame_1000(box.y1, h), frame_1000(box.x2, w), frame_1000(box.y2, h)]
    if truth[0] >= truth[2] or truth[1] >= truth[3]:
        return None  # thinner than a thousandth of the image: the text frame cannot hold it
    answer = OPEN + ", ".join(map(str, truth)) + CLOSE
    return Question("grounding", f"{ASK}{text}.", answer, truth, key=text)


def read(text: str) -> list[int] | None:
    """The corners of the only box in the text; two boxes are no answer, for the question has one target."""
    found = BOX.findall(text)
    if len(found) != 1:
        return None
    x1, y1, x2, y2 = (int(n) for n in found[0])
    return [x1, y1, x2, y2] if x1 < x2 and y1 < y2 else None


def iou(a: Corners, b: Corners) -> float:
    """Intersection over union of two boxes `x1 y1 x2 y2` of positive area, 0-1."""
    w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h
    return w * h / union


def score(parsed: Corners | None, truth: Corners) -> float:
    return 100.0 if parsed is not None and iou(parsed, truth) >= IOU_THRESHOLD else 0.0


def blind(train: Sequence[Question]) -> Guess:
    """The median box, for the described category where that was seen and overall where not."""
    overall = np.median([q.truth for q in train], axis=0).tolist()
    groups: dict[str, list[Corners]] = {}
    for question in train:
        groups.setdefault(question.key, []).append(question.truth)
    by_key = {key: np.median(boxes, axis=0).tolist() for key, boxes in groups.items()}
    return lambda question: by_key.get(question.key, overall)


GROUNDING = Task("grounding", "Gro.", "accuracy", ask, read, score, blind, chance_by_draw(score), (ASK, OPEN, CLOSE))
