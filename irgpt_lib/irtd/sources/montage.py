"""Re-identification montages in the released form (section 3.4): two rows of four numbered persons, of whom exactly
one is the person of cell 1.

Which cell holds the answer must be told by nothing but the person. So answers fill a block of identities in shuffled
decks of the seven cells, and the other candidates come from the camera that took the answer: otherwise the odd camera
out would give the answer away.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

ROWS, COLUMNS = 2, 4
CELLS = ROWS * COLUMNS
# The input size of person re-identification, width by height; the aspect is not kept, as is usual there.
CELL_WIDTH, CELL_HEIGHT = 128, 256
ANSWER_CELLS = tuple(range(2, CELLS + 1))
# Cell 1 asks, one cell answers, each other cell shows another person.
OTHERS = CELLS - 2
MIN_IDENTITIES = 1 + OTHERS
# Identities of one block; a block is what a split keeps whole.
BLOCK_IDENTITIES = 20
MONTAGES_PER_IDENTITY = 10
SEED = 0
NUMBER_SCALE = 2


@dataclass(frozen=True)
class Shot:
    """One infrared image of a person; `camera` is empty where the data set does not tell it."""

    identity: str
    camera: str
    file: Path


@dataclass(frozen=True)
class Plan:
    """A montage before any image is opened: the shots of cells 1-8 in order, and the cell (2-8) that shows the
    identity of cell 1."""

    cells: tuple[Shot, ...]
    answer: int


def digest(*parts: str | int) -> int:
    """A number that depends on the parts and on nothing else."""
    return int.from_bytes(hashlib.sha256("|".join(map(str, parts)).encode("utf-8", "backslashreplace")).digest()[:8])


def blocks_of(identities: Sequence[str]) -> list[tuple[str, ...]]:
    """The identities parted by a seeded hash into blocks of 20 to 39; fewer make one block."""
    ranked = sorted(identities, key=lambda identity: (digest(SEED, identity), identity))
    count = max(1, len(ranked) // BLOCK_IDENTITIES)
    return [tuple(sorted(ranked[number::count])) for number in range(count)]


def plan_block(
    shots: Mapping[str, Sequence[Shot]], name: str, per_identity: int = MONTAGES_PER_IDENTITY
) -> Iterator[Plan]:
    """The montages of one block of at least seven identities with at least two shots each.

    Each shot is the query of at most one montage, and an identity of at most `per_identity`, drawn where it has more.
    `name` seeds the draw: equal blocks of one name make equal plans.
    """
    rng = np.random.default_rng([SEED, digest(name)])
    deck: list[int] = []
    for identity in sorted(shots):
        own = shots[identity]
        for number in sorted(rng.permutation(len(own))[:per_identity].tolist()):
            if not deck:
                deck = rng.permutation(ANSWER_CELLS).tolist()
            yield plan_montage(own[number], shots, deck.pop(), rng)


def plan_montage(query: Shot, shots: Mapping[str, Sequence[Shot]], answer: int, rng: np.random.Generator) -> Plan:
    """One query with its seven candidates: another shot of the same identity, and one shot of six other identities from
    the same camera as that, as far as it goes (see `matches`)."""
    others = [identity for identity in sorted(shots) if identity != query.identity]
    match = draw(matches(query, shots, others), rng)
    alike = {identity: [shot for shot in shots[identity] if shot.camera == match.camera] for identity in others}
    shuffled = [others[number] for number in rng.permutation(len(others))]
    chosen = sorted(shuffled, key=lambda identity: not alike[identity])[:OTHERS]
    candidates = [draw(alike[identity] or shots[identity], rng) for identity in chosen]
    # those of other cameras stand last in `chosen`; their cell must not say so
    candidates = [candidates[number] for number in rng.permutation(len(candidates))]
    candidates.insert(answer - 2, match)
    return Plan((query, *candidates), answer)


def matches(query: Shot, shots: Mapping[str, Sequence[Shot]], others: Sequence[str]) -> Sequence[Shot]:
    """The other shots of the query's identity that may be the answer: from another camera than the query's, where one
    of them saw six of the `others`; else from any camera that did; else from another camera; else all."""
    seen = Counter(camera for identity in others for camera in {shot.camera for shot in shots[identity]})
    own = [shot for shot in shots[query.identity] if shot is not query]
    crossing = [shot for shot in own if shot.camera != query.camera]
    wanted = [[shot for shot in kind if seen[shot.camera] >= OTHERS] for kind in (crossing, own)]
    return next(kind for kind in (*wanted, crossing, own) if kind)


def draw(shots: Sequence[Shot], rng: np.random.Generator) -> Shot:
    """One of the shots, each as likely."""
    return shots[int(rng.integers(len(shots)))]


def cell_corners(cell: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a cell (1-8) in pixels of the montage."""
    row, column = divmod(cell - 1, COLUMNS)
    left, top = column * CELL_WIDTH, row * CELL_HEIGHT
    return left, top, left + CELL_WIDTH, top + CELL_HEIGHT


def number_patch(cell: int) -> Image.Image:
    """The cell's number, white on black. The font is the bitmap that Pillow brings, enlarged: an outline font would
    come out differently under another version of its renderer."""
    font = ImageFont.load_default_imagefont()
    left, top, right, bottom = font.getbbox(str(cell))
    small = Image.new("L", (int(right - left) + 4, int(bottom - top) + 2))
    ImageDraw.Draw(small).text((2, 1), str(cell), fill=255, font=font)
    return small.resize((small.width * NUMBER_SCALE, small.height * NUMBER_SCALE), Image.Resampling.NEAREST)


def compose(cells: Sequence[Image.Image], numbered: bool = True) -> UInt8[np.ndarray, "512 512 *channels"]:
    """Eight images in two rows of four, each resized to 128 x 256 pixels, with its number in the upper left corner.

    Gray (`h w`) where all cells are of mode `L`, else RGB (`h w 3`).

    Raises:
        ValueError: there are not eight.
    """
    if len(cells) != CELLS:
        raise ValueError(f"a montage has {CELLS} cells, not {len(cells)}")
    mode = "L" if all(image.mode == "L" for image in cells) else "RGB"
    canvas = Image.new(mode, (COLUMNS * CELL_WIDTH, ROWS * CELL_HEIGHT))
    for cell, image in enumerate(cells, start=1):
        corner = cell_corners(cell)[:2]
        canvas.paste(image.convert(mode).resize((CELL_WIDTH, CELL_HEIGHT), Image.Resampling.BICUBIC), corner)
        if numbered:
            canvas.paste(number_patch(cell).convert(mode), corner)
    return np.asarray(canvas)
