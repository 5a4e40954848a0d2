"""The frames in which families write coordinates, and the study's own: thousandths of width and height (reading Q24).

InternVL and Qwen2-VL write the study's frame. LLaVA-1.5 writes shares, with two decimals, of the square to which it
pads an image (haotian-liu/LLaVA#606). Pixels of the image are the frame of the released Grounding boxes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from irgpt_lib.irtd.record import FRAME

Size = tuple[int, int]


@dataclass(frozen=True)
class Frame:
    """`thousandths` (0-1000) or `unit` (0-1) of width and height, `padded_unit` (0-1) of the square around a centred
    image, or `pixels`; `decimals` of a number are written."""

    kind: Literal["thousandths", "unit", "padded_unit", "pixels"]
    decimals: int

    def from_study(self, corners: Sequence[float], size: Size) -> tuple[float, ...]:
        """A point or box, `x, y` or `x1, y1, x2, y2` in thousandths, in this frame; `size` is the image's width and
        height in pixels."""
        scale, offset = self._scale(size), self._offset(size)
        own = [v / FRAME * size[i % 2] * scale[i % 2] + offset[i % 2] for i, v in enumerate(corners)]
        return tuple(round(v, self.decimals) for v in own)

    def to_study(self, corners: Sequence[float], size: Size) -> tuple[int, ...]:
        """A point or box of this frame in whole thousandths; what lies outside of the image moves to its border."""
        scale, offset = self._scale(size), self._offset(size)
        shares = [(v - offset[i % 2]) / scale[i % 2] / size[i % 2] for i, v in enumerate(corners)]
        return tuple(min(max(round(FRAME * share), 0), FRAME) for share in shares)

    def _scale(self, size: Size) -> tuple[float, float]:
        """Units of this frame a pixel, across and down."""
        width, height = size
        whole = {"thousandths": FRAME, "unit": 1, "padded_unit": 1}
        if self.kind == "pixels":
            return 1.0, 1.0
        if self.kind == "padded_unit":
            width = height = max(size)
        return whole[self.kind] / width, whole[self.kind] / height

    def _offset(self, size: Size) -> tuple[float, float]:
        """Where the image's corner lies in this frame."""
        if self.kind != "padded_unit":
            return 0.0, 0.0
        left, top = padding(size)
        return left / max(size), top / max(size)


def padding(size: Size) -> tuple[int, int]:
    """Pixels left of and above an image of that width and height in the middle of the smallest square around it."""
    side = max(size)
    return (side - size[0]) // 2, (side - size[1]) // 2


THOUSANDTHS = Frame("thousandths", 0)
