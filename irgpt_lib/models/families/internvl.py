"""InternVL in transformers' native classes: checkpoints of InternVL2.5 and 3 named `-hf`, InternVL2 as
`irgpt models convert-internvl2` writes it, and the study's miniature."""

import numpy as np

from irgpt_lib.compat import ensure_torchvision

ensure_torchvision()

from transformers import InternVLForConditionalGeneration, PreTrainedTokenizerBase  # noqa: E402

from irgpt_lib.models.families.family import Family, ImagePolicy  # noqa: E402
from irgpt_lib.models.families.pixels import Tiles, tiled  # noqa: E402
from irgpt_lib.models.vlm import IMAGENET_MEAN, IMAGENET_STD, Shape, build_miniature  # noqa: E402


class InternVL(Family):
    """Tiles of one size, a quarter of a tile's patches as tokens (256 of 448 px), coordinates in thousandths."""

    kind = "internvl"
    model_class = InternVLForConditionalGeneration
    grammar = ("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>")
    mean, std = IMAGENET_MEAN, IMAGENET_STD

    @classmethod
    def build(cls, shape: Shape, tokenizer: PreTrainedTokenizerBase, seed: int, policy: ImagePolicy) -> Family:
        return cls(build_miniature(shape, tokenizer, seed).model, tokenizer, policy)

    @property
    def image_px(self) -> int:
        return int(np.atleast_1d(self.model.config.vision_config.image_size)[0])

    def read(self, data: bytes) -> Tiles:
        return tiled(data, self.image_px, self.policy.max_tiles)

    def image_tokens(self, tiles: Tiles) -> int:
        return len(tiles) * int(self.model.config.image_seq_length)

    def image_block(self) -> str:
        opening = getattr(self.tokenizer, "start_image_token", "") or ""
        closing = getattr(self.tokenizer, "end_image_token", "") or ""
        return f"{opening}{self.image_token}{closing}" + ("\n" if opening else "")

    def unread(self) -> tuple[str, ...]:
        return ("model.vision_tower.embeddings.mask_token",)  # for masked pre-training only
