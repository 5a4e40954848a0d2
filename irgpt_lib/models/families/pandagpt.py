"""A model of PandaGPT's type: a frozen contrastive encoder, one linear projection, an LLM with LoRA.

PandaGPT itself joins ImageBind and Vicuna in classes that transformers does not have. Here CLIP's vision encoder with
its projection stands in for ImageBind: both give one vector an image, and that is all that the language model sees.
"""

import re
from pathlib import Path
from typing import Any, no_type_check

import torch
from jaxtyping import Float
from torch import Tensor, nn

from irgpt_lib.compat import ensure_torchvision

ensure_torchvision()

from transformers import (  # noqa: E402
    AddedToken,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    CLIPVisionModelWithProjection,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling  # noqa: E402

from irgpt_lib.models.families.family import (  # noqa: E402
    Family,
    ImagePolicy,
    UnfitCheckpoint,
    clip_config,
    finish,
    read_tokenizer,
    read_weights,
    text_config,
)
from irgpt_lib.models.families.pixels import Tiles, cropped  # noqa: E402
from irgpt_lib.models.tokenizer import IMAGE  # noqa: E402
from irgpt_lib.models.vlm import PLACEHOLDER, Shape, start_positions  # noqa: E402


@no_type_check  # transformers lets a config take more keywords than it has fields
class PandaGPTConfig(LlavaConfig):
    """LLaVA's config under a name of its own; `vision_config.projection_dim` is the width of the image's vector."""

    model_type = "pandagpt"


class PandaGPTModel(LlavaModel):
    """LLaVA's model with CLIP's image vector in place of its patches."""

    config: PandaGPTConfig

    def __init__(self, config: PandaGPTConfig) -> None:
        super(LlavaModel, self).__init__(config)  # without the parts that it does not share
        vision, width = config.vision_config, config.text_config.hidden_size
        self.vision_tower = CLIPVisionModelWithProjection._from_config(vision)
        self.multi_modal_projector = nn.Linear(vision.projection_dim, width)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    def get_image_features(self, pixel_values: Float[Tensor, "b 3 h w"], **_: Any) -> BaseModelOutputWithPooling:
        """One projected token an image, as a list of `1 x width`."""
        vectors = self.vision_tower(pixel_values=pixel_values).image_embeds
        return BaseModelOutputWithPooling(pooler_output=list(self.multi_modal_projector(vectors)[:, None]))


class PandaGPTForConditionalGeneration(LlavaForConditionalGeneration):
    config: PandaGPTConfig

    def __init__(self, config: PandaGPTConfig) -> None:
        super(LlavaForConditionalGeneration, self).__init__(config)
        self.model = PandaGPTModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()


# so that a saved folder says what it is to whoever asks for its tokenizer
AutoConfig.register(PandaGPTConfig.model_type, PandaGPTConfig)


class PandaGPT(Family):
    """One token an image. The encoder is frozen in both stages, so stage 1 trains the projection alone, as LLaVA's
    first stage does (reading Q31); the paper itself takes this model through instruction tuning only (checklist 34).

    It was never taught coordinates (reading Q24), so that what it learns is the study's frame.
    """

    kind = "pandagpt"
    model_class = PandaGPTForConditionalGeneration
    stage1_parts = ("projector",)

    @classmethod
    def build(cls, shape: Shape, tokenizer: PreTrainedTokenizerBase, seed: int, policy: ImagePolicy) -> Family:
        torch.manual_seed(seed)
        config = PandaGPTConfig(
            vision_config=clip_config(shape, shape.vision_layers),
            text_config=text_config("llama", shape, tokenizer),
            image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
            image_seq_length=1,
            tie_word_embeddings=True,
        )
        model = PandaGPTForConditionalGeneration(config)
        finish(model, shape, tokenizer)
        with torch.no_grad():
            clip = model.model.vision_tower.vision_model
            start_positions(clip.embeddings.position_embedding.weight[None], shape.grid)
        return cls(model, tokenizer, policy)

    @classmethod
    def compose(
        cls, encoder: str | Path, language: str | Path, policy: ImagePolicy, *, seed: int, dtype: torch.dtype
    ) -> Family:
        """A CLIP and a language model, each from a folder or a hub id, with a projection that is yet to be trained.

        Raises:
            OSError: transformers finds one of them not, or no safetensors in it.
            UnfitCheckpoint: one of them is incomplete, or the language model is not built as Llama is.
        """
        clip = read_weights(CLIPVisionModelWithProjection, encoder, dtype, exact=False)
        llm = read_weights(AutoModelForCausalLM, language, dtype, exact=False)
        inner = llm.base_model
        if not any(re.fullmatch(cls.lora_targets, f"language_model.{name}") for name, _ in inner.named_modules()):
            raise UnfitCheckpoint(f"{language}: no matrix has a name that fits {cls.lora_targets}")
        tokenizer = read_tokenizer(language)
        tokenizer.add_tokens([AddedToken(IMAGE, special=True)])
        if len(tokenizer) > llm.get_input_embeddings().num_embeddings:
            llm.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        config = PandaGPTConfig(
            vision_config=clip.config,
            text_config=llm.config,
            image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
            image_seq_length=1,
            tie_word_embeddings=llm.config.tie_word_embeddings,
        )
        with torch.device("meta"):
            model = PandaGPTForConditionalGeneration(config)
        torch.manual_seed(seed)
        projection = nn.Linear(clip.config.projection_dim, llm.config.hidden_size)
        model.model.vision_tower, model.model.language_model, model.lm_head = clip, inner, llm.lm_head
        model.model.multi_modal_projector = projection.to(dtype)
        model.generation_config = llm.generation_config
        return cls(model, tokenizer, policy)

    @property
    def image_px(self) -> int:
        return int(self.model.config.vision_config.image_size)

    def read(self, data: bytes) -> Tiles:
        return cropped(data, self.image_px)

    def image_tokens(self, tiles: Tiles) -> int:
        return 1

    def template(self) -> str:
        if self.own_tokenizer:
            return super().template()
        return f"### Human: <Img>{self.image_token}</Img> {PLACEHOLDER}\n### Assistant:"

    def _adds_start(self, text: str) -> bool:
        return not self.own_tokenizer
