"""Captions of simulated scenes, written from their facts in words that hold for infrared: no colour, every object with
its place. They stand for what a describer of the visible image would say (path IV)."""

from irgpt_lib.irtd.captions import CAPTION_PROMPT
from irgpt_lib.irtd.record import Sample, frame_1000
from irgpt_lib.irtd.simulated.sprites import ATTRIBUTES

SIDES = (") on the left", ") on the right")
QUARTERS = (" upper left, ", " upper right, ", " lower left, ", " lower right.")
AT = " at ("
AERIAL = "An aerial view with "
CROWD = "A crowd of "
CROPS = "Eight crops of people: "
SAME = "; the person of crop 1 is in crop "
PLAIN = "plain"


def noun(count: int, singular: str) -> str:
    return f" {singular}" if count == 1 else f" {singular}s"


def describe(sample: Sample) -> str:
    """The caption of a simulated sample, in the frame 0-1000.

    Raises:
        ValueError: the sample's kind has no caption form.
    """
    if sample.kind == "scene":
        return describe_scene(sample)
    if sample.kind == "montage":
        cells = ", ".join(attributes(box.identity) for box in sample.boxes)
        return f"{CROPS}{cells}{SAME}{sample.montage_answer}."
    if sample.kind in ("aerial", "crowd"):
        opening, thing = (AERIAL, "car") if sample.kind == "aerial" else (CROWD, "pedestrian")
        count = len(sample.boxes)
        quarters = "".join(f"{n}{text}" for n, text in zip(quarter_counts(sample), QUARTERS, strict=True))
        return f"{opening}{count}{noun(count, thing)}; {quarters}"
    raise ValueError(f"no caption form for kind {sample.kind!r}")


def describe_scene(sample: Sample) -> str:
    count = len(sample.boxes)
    text = f"A {sample.scene} with {count}{noun(count, 'object')}"
    for box in sample.boxes:
        x, y = frame_1000(box.centre[0], sample.width), frame_1000(box.centre[1], sample.height)
        text += f"; {box.category}{AT}{x}, {y}{SIDES[box.centre[0] >= sample.width / 2]}"
    return text + "."


def attributes(identity: str) -> str:
    """`hat and bag` from the identity `0-3-hat-bag`; `plain` where there is none."""
    return " and ".join(identity.split("-")[2:]) or PLAIN


def quarter_counts(sample: Sample) -> list[int]:
    """How many boxes have their centre in the upper left, upper right, lower left and lower right quarter."""
    counts = [0, 0, 0, 0]
    for box in sample.boxes:
        x, y = box.centre
        counts[(x >= sample.width / 2) + 2 * (y >= sample.height / 2)] += 1
    return counts


def phrases() -> list[str]:
    """The fixed pieces of these captions, for the tokenizer of the miniature."""
    subsets = ["-".join(["0", "0", *(a for i, a in enumerate(ATTRIBUTES) if code >> i & 1)]) for code in range(8)]
    nouns = [noun(n, thing) for thing in ("object", "car", "pedestrian") for n in (1, 2)]
    return [AERIAL, CROWD, CROPS, SAME, AT, CAPTION_PROMPT, *SIDES, *QUARTERS, *nouns, *map(attributes, subsets)]
