"""A miniature InternVL2 checkpoint in its original layout, and what the original computes from it.

Both are written from the description of the architecture alone. Names and shapes are spelled out here; InternViT,
`mlp1` and InternLM2 are plain torch in double precision on the original tensors; text pieces are joined one pair at a
time. Nothing here knows the converter.
"""

import json
import math
import re
from functools import cache
from itertools import pairwise
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from transformers.convert_slow_tokenizer import import_protobuf

CORPUS = (
    "the infrared image shows a person beside the car. a person walks on the road near the bicycle. "
    "the thermal camera sees the warm engine of the car, the dog and the people on the road. "
    "there are 3 cars and 12 persons in the image. where is the person? (A) left (B) right\n"
) * 2
MERGES = 90
SPARE = 2  # reserved pieces that carry no token
RESERVED = ("<|plugin|>", "<|interpreter|>", "<|action_end|>", "<|action_start|>", "<|im_end|>", "<|im_start|>")
APPENDED = ("<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>")
UNKNOWN, CONTROL, NORMAL, USER_DEFINED, BYTE = 2, 3, 1, 4, 6

# The released InternVL2-8B, as far as its config.json fixes the tensors and what is computed with them.
RELEASED_8B = {
    "architectures": ["InternVLChatModel"],
    "downsample_ratio": 0.5,
    "dynamic_image_size": True,
    "force_image_size": 448,
    "max_dynamic_patch": 12,
    "min_dynamic_patch": 1,
    "model_type": "internvl_chat",
    "ps_version": "v2",
    "select_layer": -1,
    "template": "internlm2-chat",
    "use_backbone_lora": 0,
    "use_llm_lora": 0,
    "use_thumbnail": True,
    "llm_config": {
        "architectures": ["InternLM2ForCausalLM"],
        "bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": 4096,
        "initializer_range": 0.02,
        "intermediate_size": 14336,
        "max_position_embeddings": 32768,
        "model_type": "internlm2",
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "pad_token_id": 2,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {"factor": 2.0, "type": "dynamic"},
        "rope_theta": 1000000,
        "tie_word_embeddings": False,
        "vocab_size": 92553,
    },
    "vision_config": {
        "architectures": ["InternVisionModel"],
        "attention_dropout": 0.0,
        "drop_path_rate": 0.0,
        "dropout": 0.0,
        "hidden_act": "gelu",
        "hidden_size": 1024,
        "image_size": 448,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": 4096,
        "layer_norm_eps": 1e-06,
        "model_type": "intern_vit_6b",
        "norm_type": "layer_norm",
        "num_attention_heads": 16,
        "num_channels": 3,
        "num_hidden_layers": 24,
        "patch_size": 14,
        "qk_normalization": False,
        "qkv_bias": True,
    },
}
SMALL_LANGUAGE = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "max_position_embeddings": 64,
    "rope_theta": 10000,
}
SMALL_VISION = {
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "image_size": 32,
    "patch_size": 8,
}
LARGER_VISION = {"norm_type": "rms_norm", "qk_normalization": True, "qkv_bias": False}  # as InternViT-6B has it


def small_config(vocabulary: int, language: dict | None = None, vision: dict | None = None) -> dict:
    """The released config with small sizes, and what `language` and `vision` change."""
    config = json.loads(json.dumps(RELEASED_8B))
    config["force_image_size"] = SMALL_VISION["image_size"]
    config["llm_config"] |= {**SMALL_LANGUAGE, "vocab_size": vocabulary, **(language or {})}
    config["vision_config"] |= {**SMALL_VISION, **(vision or {})}
    return config


def original_shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """Every tensor of the original layout."""
    vit, llm = config["vision_config"], config["llm_config"]
    d, f, p = vit["hidden_size"], vit["intermediate_size"], vit["patch_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "vision_model.embeddings.class_embedding": (1, 1, d),
        "vision_model.embeddings.position_embedding": (1, (vit["image_size"] // p) ** 2 + 1, d),
        "vision_model.embeddings.patch_embedding.weight": (d, 3, p, p),
        "vision_model.embeddings.patch_embedding.bias": (d,),
    }
    for i in range(vit["num_hidden_layers"]):
        at = f"vision_model.encoder.layers.{i}."
        shapes |= {f"{at}ls1": (d,), f"{at}ls2": (d,), f"{at}norm1.weight": (d,), f"{at}norm2.weight": (d,)}
        if vit["norm_type"] == "layer_norm":
            shapes |= {f"{at}norm1.bias": (d,), f"{at}norm2.bias": (d,)}
        shapes |= {f"{at}attn.qkv.weight": (3 * d, d), f"{at}attn.proj.weight": (d, d), f"{at}attn.proj.bias": (d,)}
        if vit["qkv_bias"]:
            shapes[f"{at}attn.qkv.bias"] = (3 * d,)
        if vit["qk_normalization"]:
            shapes |= {f"{at}attn.q_norm.weight": (d,), f"{at}attn.k_norm.weight": (d,)}
        shapes |= {f"{at}mlp.fc1.weight": (f, d), f"{at}mlp.fc1.bias": (f,)}
        shapes |= {f"{at}mlp.fc2.weight": (d, f), f"{at}mlp.fc2.bias": (d,)}
    h, m, v = llm["hidden_size"], llm["intermediate_size"], llm["vocab_size"]
    shapes |= {"mlp1.0.weight": (4 * d,), "mlp1.0.bias": (4 * d,), "mlp1.1.weight": (h, 4 * d), "mlp1.1.bias": (h,)}
    shapes |= {"mlp1.3.weight": (h, h), "mlp1.3.bias": (h,)}
    shapes |= {"language_model.model.tok_embeddings.weight": (v, h), "language_model.model.norm.weight": (h,)}
    packed = h + 2 * llm["num_key_value_heads"] * (h // llm["num_attention_heads"])
    for i in range(llm["num_hidden_layers"]):
        at = f"language_model.model.layers.{i}."
        shapes |= {f"{at}attention.wqkv.weight": (packed, h), f"{at}attention.wo.weight": (h, h)}
        if llm["bias"]:
            shapes |= {f"{at}attention.wqkv.bias": (packed,), f"{at}attention.wo.bias": (h,)}
        shapes |= {f"{at}feed_forward.w1.weight": (m, h), f"{at}feed_forward.w3.weight": (m, h)}
        shapes |= {f"{at}feed_forward.w2.weight": (h, m)}
        shapes |= {f"{at}attention_norm.weight": (h,), f"{at}ffn_norm.weight": (h,)}
    return shapes | {"language_model.output.weight": (v, h)}


def original_tensors(config: dict, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Random weights: no two rows are alike, and norms are not 1, so that nothing can be exchanged unseen."""
    draw = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in original_shapes(config).items():
        scale = 1 / math.sqrt(shape[-1]) if len(shape) == 2 else 0.3
        tensors[name] = torch.randn(shape, generator=draw) * scale
        if len(shape) == 1 and not name.endswith("bias"):
            tensors[name] += 1
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}


def write_original(
    folder: Path,
    *,
    language: dict | None = None,
    vision: dict | None = None,
    files: int = 3,
    dtype: torch.dtype = torch.float32,
    prefix: bool = False,
) -> dict:
    """A whole checkpoint of the original layout in `files` weight files; returns its config.

    `prefix`: the tokenizer puts a space before the text.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = piece_model(prefix=prefix)
    pieces = len(model.pieces)
    config = small_config(pieces + len(APPENDED), language, vision)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.model").write_bytes(model.SerializeToString())
    special = ["<unk>", "<s>", "</s>"]
    added = dict(enumerate(special)) | {pieces - len(RESERVED) + i: token for i, token in enumerate(RESERVED)}
    added |= {pieces + i: token for i, token in enumerate(APPENDED)}
    settings = {"added_tokens_decoder": {str(i): {"content": t, "special": True} for i, t in added.items()}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"tokenizer_class": "InternLM2Tokenizer"}))
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]})
    )
    write_weights(folder, original_tensors(config, dtype=dtype), files)
    return config


def write_weights(folder: Path, tensors: dict[str, Tensor], files: int) -> None:
    """One file, or several with their index."""
    if files == 1:
        save_file(tensors, folder / "model.safetensors")
        return
    names = sorted(tensors)
    step = -(-len(names) // files)
    parts = {f"model-{i + 1:05}-of-{files:05}.safetensors": names[i * step : (i + 1) * step] for i in range(files)}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in parts.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def read_original(folder: Path) -> dict[str, Tensor]:
    tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as stored:
            tensors |= {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    return tensors


class Original:
    """What InternVLChatModel computes, in double precision, from the tensors of its own layout."""

    def __init__(self, config: dict, tensors: dict[str, Tensor]) -> None:
        self.config = config
        self.tensors = {name: tensor.double() for name, tensor in tensors.items()}

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.tensors[f"{name}.weight"], self.tensors.get(f"{name}.bias"))

    def rms(self, name: str, x: Tensor, eps: float) -> Tensor:
        return self.tensors[f"{name}.weight"] * x / torch.sqrt(x.square().mean(-1, keepdim=True) + eps)

    def vision_norm(self, name: str, x: Tensor) -> Tensor:
        eps = self.config["vision_config"]["layer_norm_eps"]
        if self.config["vision_config"]["norm_type"] == "rms_norm":
            return self.rms(name, x, eps)
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + eps)
        return scaled * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]

    def vision_attention(self, at: str, x: Tensor) -> Tensor:
        vit = self.config["vision_config"]
        q, k, v = self.linear(f"{at}.qkv", x).chunk(3, dim=-1)
        if vit["qk_normalization"]:
            q, k = (self.rms(f"{at}.{n}_norm", y, vit["layer_norm_eps"]) for n, y in (("q", q), ("k", k)))
        width = vit["hidden_size"] // vit["num_attention_heads"]
        heads = []
        for i in range(vit["num_attention_heads"]):
            part = slice(i * width, (i + 1) * width)
            scores = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(width)
            heads.append(scores.softmax(-1) @ v[..., part])
        return self.linear(f"{at}.proj", torch.cat(heads, -1))

    def image_tokens(self, pixels: Tensor) -> Tensor:
        """Images `(n, 3, h, w)`, normalised → `(n, tokens, width of the language model)`."""
        vit = self.config["vision_config"]
        patches = F.conv2d(
            pixels.double(),
            self.tensors["vision_model.embeddings.patch_embedding.weight"],
            self.tensors["vision_model.embeddings.patch_embedding.bias"],
            stride=vit["patch_size"],
        )
        first = self.tensors["vision_model.embeddings.class_embedding"].expand(len(pixels), 1, -1)
        x = torch.cat([first, patches.flatten(2).transpose(1, 2)], 1)
        x = x + self.tensors["vision_model.embeddings.position_embedding"]
        for i in range(vit["num_hidden_layers"]):
            at = f"vision_model.encoder.layers.{i}"
            x = x + self.tensors[f"{at}.ls1"] * self.vision_attention(f"{at}.attn", self.vision_norm(f"{at}.norm1", x))
            hidden = F.gelu(self.linear(f"{at}.mlp.fc1", self.vision_norm(f"{at}.norm2", x)))
            x = x + self.tensors[f"{at}.ls2"] * self.linear(f"{at}.mlp.fc2", hidden)
        x = fold_two_by_two(x[:, 1:], vit["image_size"] // vit["patch_size"])
        x = F.layer_norm(x, x.shape[-1:], self.tensors["mlp1.0.weight"], self.tensors["mlp1.0.bias"], 1e-5)
        return self.linear("mlp1.3", F.gelu(self.linear("mlp1.1", x)))

    def attention(self, at: str, x: Tensor) -> Tensor:
        """InternLM2: every key-value group's block of `wqkv` holds its queries, then its key, then its value."""
        llm = self.config["llm_config"]
        groups, heads = llm["num_key_value_heads"], llm["num_attention_heads"]
        width, shared = llm["hidden_size"] // heads, heads // groups
        packed = self.linear(f"{at}.wqkv", x)
        turn = rotation(llm, x.shape[1])
        ahead = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        outputs = []
        for group in range(groups):
            block = packed[..., group * (shared + 2) * width : (group + 1) * (shared + 2) * width]
            vectors = block.split(width, dim=-1)
            key, value = rotated(vectors[shared], turn), vectors[shared + 1]
            for query in vectors[:shared]:
                scores = rotated(query, turn) @ key.transpose(1, 2) / math.sqrt(width)
                outputs.append(scores.masked_fill(ahead, -math.inf).softmax(-1) @ value)
        return self.linear(f"{at}.wo", torch.cat(outputs, -1))

    def logits(self, ids: Tensor, pixels: Tensor | None = None, image_id: int = -1) -> Tensor:
        """Ids `(n, t)` → logits `(n, t, vocabulary)`; image tokens stand where `image_id` is."""
        llm = self.config["llm_config"]
        x = self.tensors["language_model.model.tok_embeddings.weight"][ids].clone()
        if pixels is not None:
            x[ids == image_id] = self.image_tokens(pixels).flatten(0, 1)
        for i in range(llm["num_hidden_layers"]):
            at = f"language_model.model.layers.{i}"
            x = x + self.attention(f"{at}.attention", self.rms(f"{at}.attention_norm", x, llm["rms_norm_eps"]))
            y = self.rms(f"{at}.ffn_norm", x, llm["rms_norm_eps"])
            gate = F.silu(self.linear(f"{at}.feed_forward.w1", y))
            x = x + self.linear(f"{at}.feed_forward.w2", gate * self.linear(f"{at}.feed_forward.w3", y))
        x = self.rms("language_model.model.norm", x, llm["rms_norm_eps"])
        return self.linear("language_model.output", x)


def fold_two_by_two(x: Tensor, side: int) -> Tensor:
    """Patches `(n, side², d)` → squares of 2 × 2 `(n, side² / 4, 4d)`: row by row, within a square too."""
    grid = x.reshape(len(x), side, side, -1)
    squares = [
        torch.cat([grid[:, r, c], grid[:, r, c + 1], grid[:, r + 1, c], grid[:, r + 1, c + 1]], -1)
        for r in range(0, side, 2)
        for c in range(0, side, 2)
    ]
    return torch.stack(squares, 1)


def rotation(llm: dict, length: int) -> Tensor:
    """Angles `(length, head width / 2)`. Dynamic scaling raises the base once the text is longer than the limit."""
    width, base = llm["hidden_size"] // llm["num_attention_heads"], llm["rope_theta"]
    scaling, limit = llm["rope_scaling"], llm["max_position_embeddings"]
    if scaling and length > limit:
        base *= (scaling["factor"] * length / limit - (scaling["factor"] - 1)) ** (width / (width - 2))
    frequency = base ** (-torch.arange(0, width, 2, dtype=torch.double) / width)
    return torch.arange(length, dtype=torch.double)[:, None] * frequency


def rotated(x: Tensor, angle: Tensor) -> Tensor:
    """Channel `i` and channel `i + width / 2` are a point in the plane, turned by `angle[:, i]`."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)


def piece_model(*, prefix: bool = False):
    """A SentencePiece model as InternLM2 has it: bytes, joined pieces by falling score, characters, reserved pieces.

    The last joined piece is a control piece, which text never becomes.
    """
    model = import_protobuf().ModelProto()
    for name, kind in (("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)):
        model.pieces.add(piece=name, score=0, type=kind)
    for byte in range(256):
        model.pieces.add(piece=f"<0x{byte:02X}>", score=0, type=BYTE)
    joined, characters = learned()
    for rank, name in enumerate([*joined, *characters]):
        model.pieces.add(piece=name, score=-rank, type=CONTROL if name == joined[-1] else NORMAL)
    for i in range(SPARE + len(RESERVED)):
        model.pieces.add(piece=f"[UNUSED_TOKEN_{i}]", score=0, type=USER_DEFINED)
    model.trainer_spec.model_type = 2
    model.trainer_spec.byte_fallback = True
    model.trainer_spec.vocab_size = len(model.pieces)
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = prefix
    model.normalizer_spec.remove_extra_whitespaces = False
    model.normalizer_spec.escape_whitespaces = True
    return model


@cache
def learned() -> tuple[list[str], list[str]]:
    """Byte-pair encoding learned from the corpus: joined pieces in order, then single characters."""
    words = [list(word) for word in re.findall(r"▁?[^▁]+", CORPUS.replace(" ", "▁").replace("\n", "▁"))]
    joined: list[str] = []
    while len(joined) < MERGES:
        counts: dict[tuple[str, str], int] = {}
        for word in words:
            for pair in pairwise(word):
                counts[pair] = counts.get(pair, 0) + 1
        best = max(counts, key=lambda pair: (counts[pair], pair))
        if "".join(best) not in joined:
            joined.append("".join(best))
        words = [joined_once(word, "".join(best)) for word in words]
    return joined, sorted({character for word in words for piece in word for character in piece})


def joined_once(symbols: list[str], piece: str) -> list[str]:
    """Neighbours that make `piece` become one, from the left."""
    done: list[str] = []
    for symbol in symbols:
        if done and done[-1] + symbol == piece:
            done[-1] = piece
        else:
            done.append(symbol)
    return done


def piece_ids(model, text: str) -> list[int]:
    """SentencePiece's encoding: the best-scored neighbours are joined, from the left; the rest falls back to bytes."""
    names = [piece.piece for piece in model.pieces]
    scores = {piece.piece: piece.score for piece in model.pieces if piece.type == NORMAL}
    own = [piece.piece for piece in model.pieces if piece.type == USER_DEFINED]
    text = ("▁" if model.normalizer_spec.add_dummy_prefix and text else "") + text.replace(" ", "▁")
    ids: list[int] = []
    for part in re.split(f"({'|'.join(map(re.escape, own))})", text):
        symbols = [part] if part in own else list(part)
        while True:
            pairs = [(-scores[a + b], i) for i, (a, b) in enumerate(pairwise(symbols)) if a + b in scores]
            if not pairs:
                break
            at = min(pairs)[1]
            symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
        for symbol in symbols:
            known = [symbol] if symbol in scores or symbol in own else [f"<0x{b:02X}>" for b in symbol.encode()]
            ids += [names.index(name) for name in known]
    return ids
