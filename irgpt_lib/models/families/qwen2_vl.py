"""Qwen2-VL: any image size, rotary positions in rows and columns, a merger of 2 x 2 patches as projector."""

import re
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from irgpt_lib.compat import ensure_torchvision

ensure_torchvision()

from transformers import (  # noqa: E402
    PreTrainedTokenizerBase,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
)

from irgpt_lib.models.families.family import (  # noqa: E402
    LANGUAGE,
    WITHIN_MINIATURES,
    Family,
    ImagePolicy,
    finish,
    text_config,
)
from irgpt_lib.models.families.frame import Size  # noqa: E402
from irgpt_lib.models.families.pixels import Tiles, patched  # noqa: E402
from irgpt_lib.models.tokenizer import IMAGE  # noqa: E402
from irgpt_lib.models.vlm import Batch, Shape  # noqa: E402

VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
REF_START, REF_END = "<|object_ref_start|>", "<|object_ref_end|>"
BOX_START, BOX_END = "<|box_start|>", "<|box_end|>"
BOX = re.compile(
    re.escape(BOX_START) + r"\(\s*(\d+)\s*,\s*(\d+)\s*\)\s*,\s*\(\s*(\d+)\s*,\s*(\d+)\s*\)" + re.escape(BOX_END)
)
NO_TOKEN = -1


class Qwen2VL(Family):
    """One token for each 28 x 28 pixels (644 x 504 of a 640 x 512 frame: 414), coordinates in thousandths."""

    kind = "qwen2_vl"
    model_class = Qwen2VLForConditionalGeneration
    parts = {
        "vision": ("model.visual.patch_embed", "model.visual.blocks"),
        "projector": ("model.visual.merger",),
        "language": LANGUAGE,
    }
    trained_in_full = ("visual.merger",)
    grammar = (REF_START, REF_END, BOX_START, BOX_END)

    def __init__(
        self, model: Qwen2VLForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, policy: ImagePolicy
    ) -> None:
        super().__init__(model, tokenizer, policy)
        vision = model.config.vision_config
        self.patch_px, self.merged = int(vision.patch_size), int(vision.spatial_merge_size)
        self.frames = int(vision.temporal_patch_size)
        self._processor = Qwen2VLImageProcessor()

    @classmethod
    def build(cls, shape: Shape, tokenizer: PreTrainedTokenizerBase, seed: int, policy: ImagePolicy) -> Family:
        torch.manual_seed(seed)
        vision = WITHIN_MINIATURES | {
            "embed_dim": shape.vision_width,
            "hidden_size": shape.language_width,
            "depth": shape.vision_layers,
            "num_heads": shape.heads,
            "mlp_ratio": 3,
            "patch_size": shape.patch_px,
            "spatial_merge_size": round(1 / shape.downsample),
        }
        text = text_config("qwen2_vl_text", shape, tokenizer)
        frequencies = shape.language_width // shape.heads // 2
        spatial = (frequencies - frequencies // 4) // 2
        text["rope_parameters"] = {
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "mrope_section": [frequencies - 2 * spatial, spatial, spatial],
        }
        config = Qwen2VLConfig(
            vision_config=vision,
            text_config=text,
            image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
            video_token_id=NO_TOKEN,
            vision_start_token_id=NO_TOKEN,
            vision_end_token_id=NO_TOKEN,
            tie_word_embeddings=True,
        )
        model = Qwen2VLForConditionalGeneration(config)
        finish(model, shape, tokenizer)
        return cls(model, tokenizer, policy)

    def read(self, data: bytes) -> Tiles:
        return patched(data, self.patch_px * self.merged, self.policy.min_pixels, self.policy.max_pixels)

    def image_tokens(self, tiles: Tiles) -> int:
        rows, columns = self._grid(tiles)
        return rows * columns // self.merged**2

    def _grid(self, tiles: Tiles) -> tuple[int, int]:
        """Rows and columns of patches."""
        return tiles.shape[1] // self.patch_px, tiles.shape[2] // self.patch_px

    def image_block(self) -> str:
        return self.image_token if self.own_tokenizer else f"{VISION_START}{self.image_token}{VISION_END}"

    def image_inputs(self, images: Sequence[Tiles]) -> dict[str, Tensor]:
        """`pixel_values`, the patches of all images under one another, and `image_grid_thw`, the grid of each."""
        sizes = (self.patch_px, self.merged, self.frames)
        patches = [self._processor.patchify(self.normalised(np.asarray(image)), *sizes)[0][0] for image in images]
        grids = [(1, *self._grid(image)) for image in images]
        return {"pixel_values": torch.cat(patches), "image_grid_thw": torch.tensor(grids)}

    def text_inputs(self, batch: Batch) -> dict[str, Tensor]:
        kinds = (batch.input_ids == self.image_id).int()  # 1 is an image, whose tokens get rows and columns
        return super().text_inputs(batch) | {"mm_token_type_ids": kinds}

    def in_study_grammar(self, answer: str, size: Size) -> str:
        boxed = BOX.sub(r"<box>[[\1, \2, \3, \4]]</box>", answer)
        return boxed.replace(REF_START, "<ref>").replace(REF_END, "</ref>")
