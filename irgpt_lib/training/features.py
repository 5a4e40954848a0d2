"""What a frozen vision tower says of each image, computed once for all questions and epochs that show it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from irgpt_lib.compat import ensure_torchvision

ensure_torchvision()

from transformers.modeling_outputs import BaseModelOutputWithPooling

from irgpt_lib.models.families.family import Family

# Whatever the batches of training are, so that a resumed run computes the same bits.
IMAGES_AT_ONCE = 32


@dataclass(frozen=True)
class Distinct:
    """The different images of a data set, and for each item which of them it shows."""

    images: list[bytes]
    shown: list[int]


def distinct(images: Sequence[bytes]) -> Distinct:
    """Equal bytes are one image; they are numbered as they first come."""
    number: dict[bytes, int] = {}
    shown = [number.setdefault(image, len(number)) for image in images]
    return Distinct(list(number), shown)


def worth_remembering(vlm: Family, images: Sequence[bytes], meetings: int, limit_mb: int) -> bool:
    """Whether some image is met more than once in `meetings`, and the outputs for all stay below `limit_mb` MB.

    Only for models with a `vision_tower` that is frozen and whose last layer the projector reads.
    """
    config, tower = vlm.model.config, getattr(vlm.model.model, "vision_tower", None)
    last_layer = getattr(config, "vision_feature_layer", None) == -1
    if limit_mb == 0 or vlm.policy.max_tiles > 1 or tower is None or not last_layer:
        return False
    if any(parameter.requires_grad for parameter in tower.parameters()):
        return False
    vision, count = config.vision_config, len(set(images))
    patches = 1 + (vision.image_size[0] // vision.patch_size[0]) ** 2
    return count < meetings and count * patches * vision.hidden_size * 4 <= limit_mb * 1e6


class RememberedTower(nn.Module):
    """Stands in a tower's place and gives the outputs of the images `now`; the pixels that it gets are ignored."""

    now: Int[Tensor, " b"]

    def __init__(self, outputs: Float[Tensor, "n p c"]) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, pixel_values: Tensor, **_: object) -> BaseModelOutputWithPooling:
        return BaseModelOutputWithPooling(last_hidden_state=self.outputs[self.now])


@contextmanager
def remembered_tower(vlm: Family, outputs: Float[Tensor, "n p c"]) -> Iterator[RememberedTower]:
    """Within the block the model's vision tower is one that remembers `outputs`."""
    inner = vlm.model.model
    tower = inner.vision_tower
    inner.vision_tower = RememberedTower(outputs)
    try:
        yield inner.vision_tower
    finally:
        inner.vision_tower = tower


@torch.no_grad()
def tower_outputs(vlm: Family, images: Sequence[bytes]) -> Float[Tensor, "n p c"]:
    """The last layer of the vision tower, class token included, in evaluation mode, on the model's device."""
    tower = vlm.model.model.vision_tower.eval()
    device = next(tower.parameters()).device
    outputs = []
    for start in range(0, len(images), IMAGES_AT_ONCE):
        tiles = [vlm.read(image) for image in images[start : start + IMAGES_AT_ONCE]]
        pixels = vlm.image_inputs(tiles)["pixel_values"]
        outputs.append(tower(pixel_values=pixels.to(device, tower.dtype)).last_hidden_state)
    return torch.cat(outputs)
