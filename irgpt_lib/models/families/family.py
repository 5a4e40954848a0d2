"""What the study must know of a family of multimodal LLMs to train it in two stages and to ask it (section 4.1).

A family states which parameters are vision encoder, projector and language model, how it is asked, how many tokens an
image takes, how an image is prepared, and in which frame it writes coordinates. Training, stages and evaluation need no
more than the methods of `Family`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from irgpt_lib.compat import ensure_torchvision

ensure_torchvision()

from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase  # noqa: E402
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD  # noqa: E402

from irgpt_lib.irtd.record import FRAME  # noqa: E402
from irgpt_lib.models.families.frame import THOUSANDTHS, Frame, Size  # noqa: E402
from irgpt_lib.models.families.pixels import Tiles  # noqa: E402
from irgpt_lib.models.tokenizer import ANSWER, coordinate_ids, snap  # noqa: E402
from irgpt_lib.models.vlm import IGNORED, PLACEHOLDER, Batch, Shape, start_embeddings  # noqa: E402

Part = Literal["vision", "projector", "language"]
LANGUAGE = ("model.language_model", "lm_head")
# The attention and feed-forward matrices of Llama and Qwen2. CLIP and InternViT have q_proj, k_proj and v_proj too: a
# bare list of names would put LoRA there.
LANGUAGE_LINEAR = r".*language_model\..*\.(q|k|v|o|gate|up|down)_proj"
# Published checkpoints come with settings for chats; a penalty on repetition would punish repeated coordinates.
GREEDY = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "temperature": 1.0, "top_p": 1.0, "top_k": 50}
# Buffers that earlier versions of transformers stored, and later ones compute.
COMPUTED = (".position_ids", ".inv_freq")
WITHIN_MINIATURES = {"initializer_range": 0.05}


class UnfitCheckpoint(ValueError):
    """A checkpoint that is not what params.yaml says it is; using it would give another model."""


@dataclass(frozen=True)
class ImagePolicy:
    """How much of an image a model may see, which decides what a comparison costs.

    InternVL reads `max_tiles` tiles and a thumbnail (1: one square; a 640 x 512 frame is then 1 tile, with 12 it is
    13). Qwen2-VL reads any size with an area of `min_pixels` to `max_pixels`. LLaVA-1.5 and PandaGPT read one square.
    """

    max_tiles: int
    min_pixels: int
    max_pixels: int

    def __post_init__(self) -> None:
        if self.max_tiles < 1 or not 0 < self.min_pixels <= self.max_pixels:
            raise ValueError(f"{self}: at least one tile, and 0 < min_pixels <= max_pixels, are needed")


class Family(ABC):
    """A model of one family with its tokenizer and its image policy.

    Facts of a class: `kind` as params.yaml names it; `parts`, the modules of each part; `stage1_parts`, those that
    stage 1 trains; `lora_targets`, the pattern of the matrices that get LoRA in stage 2, and `trained_in_full`, the
    modules that stage 2 trains as they are; `grammar`, special tokens that belong to an answer's text; `frame`, in
    which the published checkpoints write coordinates (tuned on the study's questions, all write thousandths).
    """

    kind: ClassVar[str]
    model_class: ClassVar[type[PreTrainedModel]]
    parts: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "vision": ("model.vision_tower",),
        "projector": ("model.multi_modal_projector",),
        "language": LANGUAGE,
    }
    stage1_parts: ClassVar[tuple[Part, ...]] = ("vision", "projector")
    lora_targets: ClassVar[str] = LANGUAGE_LINEAR
    trained_in_full: ClassVar[tuple[str, ...]] = ("multi_modal_projector",)
    grammar: ClassVar[tuple[str, ...]] = ()
    frame: ClassVar[Frame] = THOUSANDTHS
    mean: ClassVar[Sequence[float]] = OPENAI_CLIP_MEAN
    std: ClassVar[Sequence[float]] = OPENAI_CLIP_STD

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, policy: ImagePolicy) -> None:
        config = model.config
        self.model, self.tokenizer, self.policy = model, tokenizer, policy
        self.image_id = int(config.image_token_id)
        self.image_token = tokenizer.convert_ids_to_tokens(self.image_id)
        if tokenizer.convert_tokens_to_ids(self.image_token or "") != self.image_id:
            raise UnfitCheckpoint(f"token {self.image_id}, the image of {self.kind}'s config, is not in the tokenizer")
        self.coordinate_steps = int(getattr(config, "coordinate_steps", FRAME))
        self.ordered = coordinate_ids(tokenizer, self.coordinate_steps) if self.coordinate_steps < FRAME else None
        end = model.generation_config.eos_token_id
        self.end_id = int(np.atleast_1d(tokenizer.eos_token_id if end is None else end)[0])
        # padding is masked, so that any token will do
        self.pad_id = self.end_id if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
        special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        special |= set(tokenizer.all_special_ids)
        self.control_ids = {i for i in special if tokenizer.convert_ids_to_tokens(i) not in self.grammar}
        self._mean = torch.tensor(getattr(config, "image_mean", self.mean)).view(1, 3, 1, 1)
        self._std = torch.tensor(getattr(config, "image_std", self.std)).view(1, 3, 1, 1)
        self._before, _, self._after = self.template().partition(PLACEHOLDER)
        self.text_ids = lru_cache(maxsize=200_000)(self._text_ids)
        self._prompt = lru_cache(maxsize=200_000)(self._prompt_of)

    @classmethod
    @abstractmethod
    def build(cls, shape: Shape, tokenizer: PreTrainedTokenizerBase, seed: int, policy: ImagePolicy) -> "Family":
        """A miniature of the family with random weights; its tokenizer is the study's."""

    @abstractmethod
    def read(self, data: bytes) -> Tiles:
        """An encoded image as this family looks at it: gray levels of its tiles, `tiles x height x width`."""

    @abstractmethod
    def image_tokens(self, tiles: Tiles) -> int:
        """How many tokens of a prompt that image takes."""

    def image_block(self) -> str:
        """What stands before the question, with the image token once."""
        return self.image_token

    def template(self) -> str:
        """A whole prompt with `PLACEHOLDER` for the question; here that of the tokenizer's chat template."""
        message = [{"role": "user", "content": f"{self.image_block()}{PLACEHOLDER}"}]
        return self.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)

    def image_inputs(self, images: Sequence[Tiles]) -> dict[str, Tensor]:
        """The model's image arguments: here `pixel_values` of all tiles, `tiles 3 h w`, normalised."""
        return {"pixel_values": self.normalised(np.concatenate(list(images)))}

    def in_study_grammar(self, answer: str, size: Size) -> str:
        """An answer in the family's own grammar and frame, as the tasks read it; other text stays as it is. `size` is
        the image's width and height in pixels."""
        return answer

    def unread(self) -> tuple[str, ...]:
        """Prefixes of parameters that take no part in an answer, and so get no gradient."""
        return ()

    @property
    def own_tokenizer(self) -> bool:
        """Whether the tokenizer is the study's, in which each word of a foreign template would cost many tokens."""
        return ANSWER in self.tokenizer.get_vocab()

    def normalised(self, tiles: Tiles) -> Float[Tensor, "t 3 h w"]:
        """`(x / 255 - mean) / std`, gray repeated over three channels, false colours as they are."""
        x = torch.from_numpy(np.ascontiguousarray(tiles)).float() / 255
        return ((x[:, None] if x.ndim == 3 else x.movedim(-1, 1)) - self._mean) / self._std

    def _text_ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(snap(text, self.coordinate_steps), add_special_tokens=False).input_ids)

    def _prompt_of(self, question: str) -> tuple[int, ...]:
        text = f"{self._before}{snap(question, self.coordinate_steps)}{self._after}"
        ids = tuple(self.tokenizer(text, add_special_tokens=self._adds_start(text)).input_ids)
        if ids.count(self.image_id) != 1:
            raise ValueError(f"the question holds the image token {self.image_token}: {question!r}")
        return ids

    def _adds_start(self, text: str) -> bool:
        """Whether tokenising must add the token that opens a text: chat templates bring it along."""
        return False

    def prompt_ids(self, question: str, image_tokens: int) -> tuple[int, ...]:
        """The prompt of a question about an image that takes so many tokens.

        Raises:
            ValueError: the question holds the image token.
        """
        ids = self._prompt(question)
        at = ids.index(self.image_id)
        return (*ids[:at], *[self.image_id] * image_tokens, *ids[at + 1 :])

    def encode(self, questions: Sequence[str], answers: Sequence[str], image_tokens: Sequence[int]) -> Batch:
        """Right-padded prompts with their answers; only answers and their end are labelled."""
        prompts = [self.prompt_ids(q, n) for q, n in zip(questions, image_tokens, strict=True)]
        replies = [(*self.text_ids(a), self.end_id) for a in answers]
        rows = [(*prompt, *reply) for prompt, reply in zip(prompts, replies, strict=True)]
        ids, mask = self._padded(rows, "right")
        labels = torch.full_like(ids, IGNORED)
        for i, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
            labels[i, len(prompt) : len(row)] = ids[i, len(prompt) : len(row)]
        return Batch(ids, mask, labels)

    def encode_prompts(self, questions: Sequence[str], image_tokens: Sequence[int]) -> Batch:
        """Left-padded prompts, ready for generation."""
        rows = [self.prompt_ids(q, n) for q, n in zip(questions, image_tokens, strict=True)]
        ids, mask = self._padded(rows, "left")
        return Batch(ids, mask, torch.full_like(ids, IGNORED))

    def _padded(self, rows: Sequence[tuple[int, ...]], side: Literal["left", "right"]) -> tuple[Tensor, Tensor]:
        tensors = [torch.tensor(row) for row in rows]
        ids = nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=self.pad_id, padding_side=side)
        ones = [torch.ones_like(row) for row in tensors]
        return ids, nn.utils.rnn.pad_sequence(ones, batch_first=True, padding_side=side)

    def inputs(self, questions: Sequence[str], answers: Sequence[str], images: Sequence[Tiles]) -> dict[str, Tensor]:
        """All that a training step needs of a batch: the model's arguments, and `labels`."""
        batch = self.encode(questions, answers, [self.image_tokens(i) for i in images])
        return self.text_inputs(batch) | {"labels": batch.labels} | self.image_inputs(images)

    def text_inputs(self, batch: Batch) -> dict[str, Tensor]:
        """The model's text arguments."""
        return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}

    @torch.inference_mode()
    def answer(self, questions: Sequence[str], images: Sequence[Tiles], *, max_new_tokens: int) -> list[str]:
        """Greedy answers as text without control tokens; puts the model in evaluation mode."""
        self.model.eval()
        batch = self.encode_prompts(questions, [self.image_tokens(i) for i in images])
        first = next(self.model.parameters())
        arguments = self.text_inputs(batch) | self.image_inputs(images)
        placed = {name: value.to(first.device) for name, value in arguments.items()}
        placed["pixel_values"] = placed["pixel_values"].to(first.dtype)
        generated = self.model.generate(**placed, **GREEDY, max_new_tokens=max_new_tokens, pad_token_id=self.pad_id)
        return [self.decode(row) for row in generated[:, batch.input_ids.shape[1] :].tolist()]

    def decode(self, ids: Sequence[int]) -> str:
        """Text without control tokens. Grammar tokens stay: InternVL's `<box>` is a special token of its tokenizer,
        and without it no box could be read."""
        return self.tokenizer.decode([i for i in ids if i not in self.control_ids], skip_special_tokens=False)

    def names(self, *parts: Part) -> list[str]:
        """The parameters of the parts, in the model's order.

        Raises:
            KeyError: a part that does not exist.
        """
        prefixes = tuple(f"{module}." for part in parts for module in self.parts[part])
        return [name for name, _ in self.model.named_parameters() if name.startswith(prefixes)]

    def modules(self, *parts: Part) -> list[nn.Module]:
        """The modules of the parts."""
        return [self.model.get_submodule(module) for part in parts for module in self.parts[part]]

    def frozen(self, stage: Literal[1, 2]) -> list[nn.Module]:
        """The modules that stay in evaluation mode: in stage 1 all that it does not train, in stage 2 the vision
        encoder (the language model is at work there, with its adapter)."""
        still = [part for part in self.parts if part not in self.stage1_parts] if stage == 1 else ["vision"]
        return self.modules(*still)

    def begin_stage1(self) -> dict[str, list[str]]:
        """Require gradients of what stage 1 trains, and of nothing else.

        Returns:
            The trained parameters of vision encoder and projector, by part, each with a learning rate of its own.
        """
        kept = {part: self.names(part) if part in self.stage1_parts else [] for part in ("vision", "projector")}
        trained = {part: [n for n in names if not n.startswith(self.unread())] for part, names in kept.items()}
        chosen = {name for names in trained.values() for name in names}
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in chosen)
        return trained

    def with_model(self, model: PreTrainedModel) -> "Family":
        """The same family around other weights, for example those with an adapter merged in."""
        return type(self)(model, self.tokenizer, self.policy)

    def save(self, folder: Path) -> None:
        """Weights as safetensors, config and tokenizer in the standard files."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def facts(self) -> dict[str, Any]:
        """What a table of models shows: kind, parameters of each part, policy and coordinate frame."""
        sizes = {name: p.numel() for name, p in self.model.named_parameters()}
        counted = {part: sum(sizes[name] for name in self.names(part)) for part in self.parts}
        return {"kind": self.kind, **counted, "policy": self.policy, "frame": self.frame.kind}


def read_weights(model_class: Any, weights: str | Path, dtype: torch.dtype, *, exact: bool) -> Any:
    """A model of a transformers class, each of its tensors from the checkpoint's safetensors; with `exact` the
    checkpoint holds no other. Remote code is never run.

    Raises:
        OSError: transformers finds no such folder or checkpoint, or no safetensors in it.
        UnfitCheckpoint: tensors are missing, of another size, or too many.
    """
    model, told = model_class.from_pretrained(
        weights,
        dtype=dtype,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are told below, by name
    )
    odd = {
        "lacks": told["missing_keys"],
        "has in other sizes": [name for name, *_ in told["mismatched_keys"]],
        "also holds": [name for name in told["unexpected_keys"] if exact and not name.endswith(COMPUTED)],
    }
    for what, names in odd.items():
        if names:
            some = ", ".join(sorted(names)[:3])
            raise UnfitCheckpoint(f"{weights} {what} {some} ({len(names)} tensors): no {type(model).__name__}")
    return model


def read_tokenizer(weights: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer beside a checkpoint.

    Raises:
        UnfitCheckpoint: there is none that transformers can build.
    """
    try:
        return AutoTokenizer.from_pretrained(weights, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UnfitCheckpoint(f"{weights}: no tokenizer (tokenizer.json, tokenizer_config.json): {reason}") from error


def text_config(model_type: str, shape: Shape, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """A miniature's language model, in the names that Llama and Qwen2 share."""
    return WITHIN_MINIATURES | {
        "model_type": model_type,
        "hidden_size": shape.language_width,
        "num_hidden_layers": shape.language_layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "intermediate_size": 3 * shape.language_width,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def clip_config(shape: Shape, layers: int) -> dict[str, Any]:
    """A miniature's CLIP vision encoder."""
    return WITHIN_MINIATURES | {
        "model_type": "clip_vision_model",
        "hidden_size": shape.vision_width,
        "num_hidden_layers": layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": 3 * shape.vision_width,
        "projection_dim": shape.vision_width,
        "image_size": shape.image_px,
        "patch_size": shape.patch_px,
    }


def finish(model: PreTrainedModel, shape: Shape, tokenizer: PreTrainedTokenizerBase) -> None:
    """What every miniature's files must say, and first embeddings in which near numbers are alike."""
    model.config.coordinate_steps = shape.coordinate_steps
    model.config.image_mean = model.config.image_std = [0.5, 0.5, 0.5]
    for config in (model.config, model.generation_config):
        config.pad_token_id, config.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    with torch.no_grad():
        start_embeddings(model.get_input_embeddings(), tokenizer, shape.coordinate_steps)
