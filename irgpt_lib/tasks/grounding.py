"""Grounding: the bounding box of the one object that the text describes, scored as accuracy at IoU 0.5 (Q20)."""

import re
from collections.abc import Sequence

import numpy as np

from irgpt_lib.irtd.record import Box, Sample, frame_1000
from irgpt_lib.tasks.released import CLASSES, answers_to, released_boxes
from irgpt_lib.tasks.task import Guess, Question, Released, Task, chance_by_draw

ASK = "Detect the bounding box of the "
OPEN, CLOSE = "The target bounding box is <box>[[", "]]</box>."
NUMBER = r"\s*(\d{1,4})\s*"
BOX = re.compile(r"<box>\s*\[\[" + ",".join([NUMBER] * 4) + r"\]\]\s*</box>")
PLACES = {"left": (0.0, 1 / 3), "center": (1 / 3, 2 / 3), "right": (2 / 3, 1.0)}
IOU_THRESHOLD = 0.5
RELEASED_FRAME = "pixel_xyxy"
RELEASED_MOST_BOXES = 5
# An object is "nearest" where it leads the next one of its class by both. The released records leave room for a ratio
# of 1.197-1.202 and for 115-130 square pixels of a 640 x 512 frame.
LEAD_RATIO, LEAD_PIXELS = 1.2, 120.0
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


def released_place(box: Box, sample: Sample) -> str:
    """The cell of a 3 x 3 grid that holds the centre: `left`, `center`, `bottom right`; the middle row is not said."""
    x, y = 3 * box.centre[0] / sample.width, 3 * box.centre[1] / sample.height
    row = "top " if y < 1 else "bottom " if y > 2 else ""
    return row + ("left" if x < 1 else "right" if x > 2 else "center")


def released_nearest(boxes: Sequence[Box]) -> Box | None:
    """The largest box of the first class (person, bike, car) whose largest leads its second by `LEAD_RATIO` and
    `LEAD_PIXELS`."""
    for name in CLASSES:
        group = sorted((b for b in boxes if b.category == name), key=lambda b: -b.area)
        if len(group) < 2:
            continue
        first, second = group[0].area, group[1].area
        if first >= LEAD_RATIO * second and first - second >= LEAD_PIXELS:
            return group[0]
    return None


def ask_released(sample: Sample, rng: np.random.Generator | None = None) -> list[Question]:
    """What the release asks of a frame of one to five objects; of a fuller one it asks nothing.

    - Two objects side by side: `the A located to the left of the B.` or `the B located to the right of the A.`, where
      A is the left one. The answer is B's box both times: every released answer to `to the left` boxes the object
      that it is *not* asked for.
    - Three to five, one clearly the largest of its class: `the nearest X located at the PLACE.`
    - Else: `the X located at the PLACE of the image.`, X the first of person, bike and car that is there and the
      leftmost of its class, whether or not others of the class lie there too.

    All 32 released records about the 100 frames agree. `PLACE` is a third of width and height; the answer is in pixels.
    """
    boxes = released_boxes(sample)
    if not 1 <= len(boxes) <= RELEASED_MOST_BOXES:
        return []
    if len(boxes) == 2 and boxes[0].x2 < boxes[1].x1:
        left, right = boxes
        texts = (
            f"{left.category} located to the left of the {right.category}",
            f"{right.category} located to the right of the {left.category}",
        )
        return [released_question(text, right) for text in texts]
    near = released_nearest(boxes) if len(boxes) > 2 else None
    if near:
        return [released_question(f"nearest {near.category} located at the {released_place(near, sample)}", near)]
    first = min(boxes, key=lambda b: CLASSES.index(b.category))
    return [released_question(f"{first.category} located at the {released_place(first, sample)} of the image", first)]


def released_question(text: str, box: Box) -> Question:
    """The question for one box, its corners in whole pixels."""
    truth = [round(corner) for corner in (box.x1, box.y1, box.x2, box.y2)]
    answer = OPEN + ", ".join(map(str, truth)) + CLOSE
    return Question("grounding", f"{ASK}{text}.", answer, truth, key=text, frame=RELEASED_FRAME)


def answers_released(text: str, sample: Sample) -> tuple[str, ...]:
    return answers_to(text, ask_released(sample))


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


GROUNDING = Task(
    "grounding",
    "Gro.",
    "accuracy",
    ask,
    read,
    score,
    blind,
    chance_by_draw(score),
    (ASK, OPEN, CLOSE),
    Released(ask_released, answers_released, RELEASED_FRAME),
)
