"""LLaVA-1.5: CLIP's last layer but one, each patch a token, a projector of two layers, Vicuna."""

import re

import torch

from irgpt_lib.compat import ensure_torchvision

ensure_torchvision()

from transformers import (  # noqa: E402
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerBase,
)

from irgpt_lib.models.families.family import Family, ImagePolicy, clip_config, finish, text_config  # noqa: E402
from irgpt_lib.models.families.frame import Frame, Size  # noqa: E402
from irgpt_lib.models.families.pixels import Tiles, padded  # noqa: E402
from irgpt_lib.models.tokenizer import IMAGE  # noqa: E402
from irgpt_lib.models.vlm import PLACEHOLDER, Shape, start_positions  # noqa: E402

VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
)
SHARE = r"\s*([01]?\.\d+|[01])\s*"
BOX = re.compile(r"(?<!\[)\[" + ",".join([SHARE] * 4) + r"\](?!\])")
LUMA = (0.299, 0.587, 0.114)


class Llava(Family):
    """One square of 576 tokens (336 px), padded with the mean gray, coordinates as shares of the padded square.

    The checkpoints' own processor crops the middle instead, and so loses a fifth of a 640 x 512 frame; the model was
    trained on padded squares, and its coordinates refer to them.
    """

    kind = "llava"
    model_class = LlavaForConditionalGeneration
    frame = Frame("padded_unit", 2)

    @classmethod
    def build(cls, shape: Shape, tokenizer: PreTrainedTokenizerBase, seed: int, policy: ImagePolicy) -> Family:
        """`shape.vision_layers` of CLIP's layers are read; as in LLaVA-1.5 it has one more, which is not."""
        torch.manual_seed(seed)
        config = LlavaConfig(
            vision_config=clip_config(shape, shape.vision_layers + 1),
            text_config=text_config("llama", shape, tokenizer),
            image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
            image_seq_length=shape.grid**2,
            tie_word_embeddings=True,
        )
        model = LlavaForConditionalGeneration(config)
        finish(model, shape, tokenizer)
        with torch.no_grad():
            start_positions(model.model.vision_tower.embeddings.position_embedding.weight[None], shape.grid)
        return cls(model, tokenizer, policy)

    @property
    def image_px(self) -> int:
        return int(self.model.config.vision_config.image_size)

    def read(self, data: bytes) -> Tiles:
        gray = sum(share * float(mean) for share, mean in zip(LUMA, self._mean.flatten(), strict=True))
        return padded(data, self.image_px, round(255 * gray))

    def image_tokens(self, tiles: Tiles) -> int:
        class_token = self.model.config.vision_feature_select_strategy == "full"
        return (tiles.shape[1] // int(self.model.config.vision_config.patch_size)) ** 2 + class_token

    def template(self) -> str:
        if self.own_tokenizer:
            return super().template()
        return f"{VICUNA}USER: {self.image_token}\n{PLACEHOLDER} ASSISTANT:"

    def _adds_start(self, text: str) -> bool:
        return not self.own_tokenizer

    def unread(self) -> tuple[str, ...]:
        """CLIP's layers behind the one that is read, and the norm after the last."""
        config = self.model.config
        count = config.vision_config.num_hidden_layers
        layers = torch.atleast_1d(torch.tensor(config.vision_feature_layer))
        # the outputs of the embeddings and of each layer, counted from 0
        last = int((layers % (count + 1)).max())
        behind = [f"model.vision_tower.encoder.layers.{i}." for i in range(last, count)]
        return (*behind, "model.vision_tower.post_layernorm.")

    def in_study_grammar(self, answer: str, size: Size) -> str:
        def box(match: re.Match[str]) -> str:
            corners = self.frame.to_study([float(v) for v in match.groups()], size)
            return f"<box>[[{', '.join(map(str, corners))}]]</box>"

        return BOX.sub(box, answer)
