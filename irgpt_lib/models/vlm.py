"""The multimodal LLM: vision encoder, projector and language model of the InternVL family (section 4.1).

The miniature is transformers' own `InternVLForConditionalGeneration` with a small config; a real checkpoint in the same
classes loads through the same door. Two facts travel in the config of the miniature, for its files must say them:
`coordinate_steps` (the grid of coordinates that it can write) and `image_mean`, `image_std`.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from irgpt_lib.compat import ensure_torchvision

ensure_torchvision()

from transformers import (  # noqa: E402
    AutoTokenizer,
    InternVLConfig,
    InternVLForConditionalGeneration,
    PreTrainedTokenizerBase,
)

from irgpt_lib.irtd.record import FRAME  # noqa: E402
from irgpt_lib.models.tokenizer import IMAGE, coordinate_ids, coordinates, snap  # noqa: E402
from irgpt_lib.tasks.task import LETTERS  # noqa: E402

PARTS = {
    "vision": "model.vision_tower.",
    "projector": "model.multi_modal_projector.",
    "language": "model.language_model.",
}
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
IGNORED = -100
PLACEHOLDER = "QUESTION"
BASE_NOTE = "base.json"


@dataclass(frozen=True)
class Shape:
    """Sizes of a miniature: pixels and widths; `image_tokens` follows from them."""

    image_px: int
    patch_px: int
    vision_width: int
    vision_layers: int
    language_width: int
    language_layers: int
    heads: int
    coordinate_steps: int
    downsample: float = 0.5

    @property
    def grid(self) -> int:
        return self.image_px // self.patch_px

    @property
    def image_tokens(self) -> int:
        return int(self.grid * self.downsample) ** 2


@dataclass(frozen=True)
class Batch:
    """One padded batch. `labels` are -100 where nothing is to be predicted."""

    input_ids: Int[Tensor, "b t"]
    attention_mask: Int[Tensor, "b t"]
    labels: Int[Tensor, "b t"]

    def to(self, device: torch.device) -> "Batch":
        return Batch(self.input_ids.to(device), self.attention_mask.to(device), self.labels.to(device))


class VisionLanguageModel:
    """A model with its tokenizer, its image size and its coordinate grid."""

    def __init__(self, model: InternVLForConditionalGeneration, tokenizer: PreTrainedTokenizerBase) -> None:
        config = model.config
        self.model = model
        self.tokenizer = tokenizer
        self.image_px = int(np.atleast_1d(config.vision_config.image_size)[0])
        self.image_tokens = int(config.image_seq_length)
        self.coordinate_steps = int(getattr(config, "coordinate_steps", FRAME))
        self.mean = torch.tensor(getattr(config, "image_mean", IMAGENET_MEAN)).view(1, 3, 1, 1)
        self.std = torch.tensor(getattr(config, "image_std", IMAGENET_STD)).view(1, 3, 1, 1)
        self.ordered = coordinate_ids(tokenizer, self.coordinate_steps) if self.coordinate_steps < FRAME else None
        self.image_id = int(config.image_token_id)
        opening = getattr(tokenizer, "start_image_token", "") or ""
        closing = getattr(tokenizer, "end_image_token", "") or ""
        image = tokenizer.convert_ids_to_tokens(self.image_id)
        break_line = "\n" if opening else ""
        message = [
            {
                "role": "user",
                "content": f"{opening}{image * self.image_tokens}{closing}{break_line}{PLACEHOLDER}",
            }
        ]
        template = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        before, _, after = template.partition(PLACEHOLDER)
        self.before = tuple(tokenizer(before, add_special_tokens=False).input_ids)
        self.after = tuple(tokenizer(after, add_special_tokens=False).input_ids)
        end = model.generation_config.eos_token_id
        self.end_id = int(np.atleast_1d(tokenizer.eos_token_id if end is None else end)[0])
        self.text_ids = lru_cache(maxsize=200_000)(self._text_ids)

    def _text_ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(snap(text, self.coordinate_steps), add_special_tokens=False).input_ids)

    def pixel_values(self, images: UInt8[np.ndarray, "n h w *c"]) -> Float[Tensor, "n 3 h w"]:
        """Gray images are repeated over three channels; then `(x / 255 - mean) / std`."""
        x = torch.from_numpy(np.ascontiguousarray(images))
        x = x[..., None].expand(*x.shape, 3) if x.ndim == 3 else x
        return ((x.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std).contiguous()

    def prompt_ids(self, question: str) -> tuple[int, ...]:
        return self.before + self.text_ids(question) + self.after

    def encode(self, questions: Sequence[str], answers: Sequence[str]) -> Batch:
        """Right-padded prompts with their answers; only answers and their end are labelled."""
        prompts = [self.prompt_ids(q) for q in questions]
        replies = [(*self.text_ids(a), self.end_id) for a in answers]
        length = max(len(p) + len(r) for p, r in zip(prompts, replies, strict=True))
        ids = torch.full((len(prompts), length), self.tokenizer.pad_token_id)
        labels = torch.full_like(ids, IGNORED)
        mask = torch.zeros_like(ids)
        for i, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
            both = torch.tensor(prompt + reply)
            ids[i, : len(both)] = both
            mask[i, : len(both)] = 1
            labels[i, len(prompt) : len(both)] = both[len(prompt) :]
        return Batch(ids, mask, labels)

    def encode_prompts(self, questions: Sequence[str]) -> Batch:
        """Left-padded prompts, ready for generation."""
        prompts = [self.prompt_ids(q) for q in questions]
        length = max(map(len, prompts))
        ids = torch.full((len(prompts), length), self.tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for i, prompt in enumerate(prompts):
            ids[i, length - len(prompt) :] = torch.tensor(prompt)
            mask[i, length - len(prompt) :] = 1
        return Batch(ids, mask, torch.full_like(ids, IGNORED))

    @torch.inference_mode()
    def answer(
        self, questions: Sequence[str], images: UInt8[np.ndarray, "n h w *c"], *, max_new_tokens: int
    ) -> list[str]:
        """Greedy answers, as text without special tokens; puts the model in evaluation mode."""
        self.model.eval()
        batch = self.encode_prompts(questions)
        device = next(self.model.parameters()).device
        generated = self.model.generate(
            input_ids=batch.input_ids.to(device),
            attention_mask=batch.attention_mask.to(device),
            pixel_values=self.pixel_values(images).to(device, next(self.model.parameters()).dtype),
            max_new_tokens=max_new_tokens,
            do_sample=False,
        )
        return self.tokenizer.batch_decode(generated[:, batch.input_ids.shape[1] :], skip_special_tokens=True)

    def save(self, folder: Path) -> None:
        """Weights as safetensors, config and tokenizer in the standard files."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def load(weights: str | Path, *, dtype: torch.dtype = torch.float32) -> VisionLanguageModel:
    """A model from a local folder or a hub id, in transformers' native InternVL classes. Remote code is never run.

    Raises:
        OSError: transformers finds no such folder or checkpoint; the message says where it looked.
    """
    model = InternVLForConditionalGeneration.from_pretrained(weights, dtype=dtype, trust_remote_code=False)
    return VisionLanguageModel(model, AutoTokenizer.from_pretrained(weights, trust_remote_code=False))


def save_base(vlm: VisionLanguageModel | None, weights: str, folder: Path) -> None:
    """The folder that later stages start from: the model's own files, or a note that names a checkpoint elsewhere."""
    folder.mkdir(parents=True, exist_ok=True)
    if vlm is not None:
        vlm.save(folder)
    note = {"weights": weights or "."}
    (folder / BASE_NOTE).write_text(json.dumps(note) + "\n", encoding="utf-8")


def load_base(folder: Path, *, dtype: torch.dtype = torch.float32) -> VisionLanguageModel:
    """The model that `save_base` left, wherever its weights lie.

    Raises:
        FileNotFoundError: the folder holds no base; names the stage that makes it.
    """
    note = folder / BASE_NOTE
    if not note.is_file():
        raise FileNotFoundError(f"no base model in {folder}; `dvc repro base` makes it")
    weights = json.loads(note.read_text(encoding="utf-8"))["weights"]
    return load(folder if weights == "." else weights, dtype=dtype)


def build_miniature(shape: Shape, tokenizer: PreTrainedTokenizerBase, seed: int) -> VisionLanguageModel:
    """A randomly initialised InternVL of that shape whose first guesses suit a small model.

    transformers starts position embeddings at zero and layer scale at 0.1, with which a model this small does not
    leave chance; here positions start as 2-D sinusoids and layer scale at 1. Coordinates and counts start on smooth
    curves, and an option token such as `(A) car` as the sum of its letter and its word.
    """
    torch.manual_seed(seed)
    token = tokenizer.convert_tokens_to_ids
    text = {
        "model_type": "qwen2",
        "hidden_size": shape.language_width,
        "num_hidden_layers": shape.language_layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "intermediate_size": 3 * shape.language_width,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "initializer_range": 0.05,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    vision = {
        "model_type": "internvl_vision",
        "hidden_size": shape.vision_width,
        "num_hidden_layers": shape.vision_layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": 3 * shape.vision_width,
        "image_size": [shape.image_px, shape.image_px],
        "patch_size": [shape.patch_px, shape.patch_px],
        "layer_scale_init_value": 1.0,
        "attention_bias": True,
        "initializer_range": 0.05,
        "use_qk_norm": False,
    }
    config = InternVLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=token(IMAGE),
        image_seq_length=shape.image_tokens,
        downsample_ratio=shape.downsample,
        tie_word_embeddings=True,
    )
    config.coordinate_steps = shape.coordinate_steps
    config.image_mean = config.image_std = [0.5, 0.5, 0.5]
    config.pad_token_id, config.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    model = InternVLForConditionalGeneration(config)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    with torch.no_grad():
        start_positions(model.model.vision_tower.embeddings.position_embeddings, shape.grid)
        start_embeddings(model.get_input_embeddings(), tokenizer, shape.coordinate_steps)
    return VisionLanguageModel(model, tokenizer)


def start_positions(embeddings: Float[Tensor, "1 p d"], grid: int) -> None:
    """Write 2-D sinusoids of half amplitude over the patch positions; position 0 belongs to the class token."""
    quarter = embeddings.shape[2] // 4
    frequency = 0.5 * 1.12 ** torch.arange(quarter)
    y, x = torch.meshgrid(torch.arange(grid) / grid, torch.arange(grid) / grid, indexing="ij")
    waves = [2 * math.pi * axis.reshape(-1, 1) * frequency for axis in (x, y)]
    embeddings[0, 1:] = 0.5 * torch.cat([f(wave) for wave in waves for f in (torch.sin, torch.cos)], dim=1)


def start_embeddings(embeddings: nn.Embedding, tokenizer: PreTrainedTokenizerBase, steps: int) -> None:
    """Start numbers on smooth curves and option tokens as the sum of their parts."""
    weight, width = embeddings.weight, embeddings.weight.shape[1]
    vocabulary = tokenizer.get_vocab()
    for letter in LETTERS:
        for token, i in vocabulary.items():
            noun = token.removeprefix(f"{letter} ")
            if noun != token and noun in vocabulary:
                weight[i] = 0.8 * (weight[vocabulary[letter]] + weight[vocabulary[noun]])
    scales = [[str(n) for n in coordinates(steps)], [str(n) for n in range(31)]]
    for scale in scales:
        position = torch.linspace(0, 1, len(scale))[:, None]
        frequency = 0.5 * (torch.arange(width // 2) // 4 + 1.0)
        phase = 2 * math.pi * torch.rand(width // 2)
        angle = math.pi * position * frequency + phase
        curve = torch.cat([torch.cos(angle), torch.sin(angle)], dim=1) / frequency.repeat(2) ** 0.7
        ids = torch.tensor([vocabulary[n] for n in scale])
        weight[ids] = 0.3 * weight[ids] + curve / curve.std() * weight.std()


def parameters_of(model: nn.Module, *parts: str) -> list[nn.Parameter]:
    """The parameters of the named parts, of `vision`, `projector` and `language`.

    Raises:
        KeyError: a part that does not exist.
    """
    prefixes = tuple(PARTS[part] for part in parts)
    return [p for name, p in model.named_parameters() if name.startswith(prefixes)]


def image_features(
    model: InternVLForConditionalGeneration, pixels: Float[Tensor, "b 3 h w"]
) -> Float[Tensor, "b tokens width"]:
    """Projected image tokens as the language model receives them."""
    features = model.model.get_image_features(pixel_values=pixels)
    features = getattr(features, "pooler_output", features)
    features = features[0] if isinstance(features, (tuple, list)) else features
    return features.reshape(len(pixels), -1, features.shape[-1])
