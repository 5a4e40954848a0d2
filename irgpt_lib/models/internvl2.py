"""InternVL2 checkpoints in their original layout, rewritten into transformers' native InternVL classes (section 5.1).

The release of InternVL2 loads through code that it ships itself. Its parts exist natively: InternViT is
`InternVLVisionModel`, the projector `mlp1` is `InternVLMultiModalProjector`, and InternLM2 is Llama whose projections
of queries, keys and values lie packed in one matrix `wqkv`, one key-value group after the other. So nothing is
computed: every native tensor is a block of rows of one original tensor. `plan` says which, `convert` writes it.

Accepted are the releases on InternLM2: InternVL2-2B and 8B (InternViT-300M) and 26B (InternViT-6B). Refused are 1B
(Qwen2), 4B (Phi-3), 40B and 76B (Llama): they have other tokenizers and templates. Two things differ from the
original. Beyond `max_position_embeddings` it keeps the rotary base of the longest text that it has seen, transformers
takes that of the present one. And stochastic depth of the vision encoder, for training only, has no native counterpart.
"""

import hashlib
import json
import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from irgpt_lib.artifacts import atomic
from irgpt_lib.compat import ensure_torchvision

ensure_torchvision()

from transformers import (  # noqa: E402
    GenerationConfig,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    PreTrainedTokenizerFast,
)

from irgpt_lib.models.internvl2_tokenizer import (  # noqa: E402
    END_OF_TURN,
    IMAGE,
    TOKENIZER_FILES,
    UnknownLayout,
    build_tokenizer,
    read_object,
)
from irgpt_lib.models.vlm import IMAGENET_MEAN, IMAGENET_STD  # noqa: E402

MANIFEST = "conversion.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 2_000_000_000
LANGUAGE_MODEL = "InternLM2ForCausalLM"
OTHER_LANGUAGE_MODELS = {
    "Qwen2ForCausalLM": "as in InternVL2-1B",
    "Phi3ForCausalLM": "as in InternVL2-4B",
    "LlamaForCausalLM": "as in InternVL2-40B and InternVL2-Llama3-76B",
}
# With another value the native classes would compute something else, or not at all.
NEEDED = {
    "select_layer": -1,
    "ps_version": "v2",
    "template": "internlm2-chat",
    "use_backbone_lora": 0,
    "use_llm_lora": 0,
    "dynamic_image_size": True,
    "use_thumbnail": True,
    "llm_config.hidden_act": "silu",
    "llm_config.tie_word_embeddings": False,
    "vision_config.hidden_act": "gelu",
    "vision_config.num_channels": 3,
}
NEEDED_WHERE_STATED = {
    "pad2square": False,
    "quantization_config": None,
    "llm_config.quantization_config": None,
    "llm_config.rope_pos_id_version": "default",
    "llm_config.attention_dropout": 0.0,
}
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
NAMED = 6


@dataclass(frozen=True)
class Layout:
    """Sizes from which the names and shapes of all tensors follow."""

    image_px: int
    patch_px: int
    vision_width: int
    vision_heads: int
    vision_layers: int
    vision_hidden: int
    vision_norm_bias: bool
    vision_qkv_bias: bool
    vision_qk_norm: bool
    fold: int  # side of the square of patches that becomes one image token
    width: int
    layers: int
    heads: int
    groups: int  # key-value heads
    hidden: int
    vocabulary: int
    bias: bool

    @property
    def grid(self) -> int:
        return self.image_px // self.patch_px

    @property
    def image_tokens(self) -> int:
        return (self.grid // self.fold) ** 2

    @property
    def head_width(self) -> int:
        return self.width // self.heads


@dataclass(frozen=True)
class Rows:
    """The first dimension read as `groups` equal blocks; rows `start` to `stop` of every block."""

    groups: int
    start: int
    stop: int


@dataclass(frozen=True)
class Origin:
    """A native tensor `name` and the original tensor that it is, or whose `rows` it is."""

    name: str
    source: str
    source_shape: tuple[int, ...]
    rows: Rows | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        if self.rows is None:
            return self.source_shape
        return (self.rows.groups * (self.rows.stop - self.rows.start), *self.source_shape[1:])

    def take(self, tensor: Tensor) -> Tensor:
        """The native tensor, contiguous and in memory of its own."""
        if self.rows is None:
            return tensor.contiguous()
        blocks = tensor.unflatten(0, (self.rows.groups, -1))
        return blocks[:, self.rows.start : self.rows.stop].flatten(0, 1).clone(memory_format=torch.contiguous_format)


@dataclass(frozen=True)
class Stored:
    """Where an original tensor lies: file name, shape and safetensors' name of its type."""

    file: str
    shape: tuple[int, ...]
    dtype: str


def read_layout(config: dict[str, Any]) -> Layout:
    """The sizes of an original checkpoint from its `config.json`.

    Raises:
        UnknownLayout: it is another architecture, lacks a setting, or has one that the native classes do not compute.
    """
    if config.get("architectures") != ["InternVLChatModel"]:
        raise UnknownLayout(
            f"architectures is {config.get('architectures')}, not [InternVLChatModel]; a checkpoint whose name ends in "
            "-hf is native already and needs no conversion"
        )
    check_settings(config)
    layout = Layout(
        image_px=whole(config, "vision_config.image_size"),
        patch_px=whole(config, "vision_config.patch_size"),
        vision_width=whole(config, "vision_config.hidden_size"),
        vision_heads=whole(config, "vision_config.num_attention_heads"),
        vision_layers=whole(config, "vision_config.num_hidden_layers"),
        vision_hidden=whole(config, "vision_config.intermediate_size"),
        vision_norm_bias=setting(config, "vision_config.norm_type") == "layer_norm",
        vision_qkv_bias=flag(config, "vision_config.qkv_bias"),
        vision_qk_norm=flag(config, "vision_config.qk_normalization"),
        fold=max(1, round(1 / number(config, "downsample_ratio"))),
        width=whole(config, "llm_config.hidden_size"),
        layers=whole(config, "llm_config.num_hidden_layers"),
        heads=whole(config, "llm_config.num_attention_heads"),
        groups=whole(config, "llm_config.num_key_value_heads"),
        hidden=whole(config, "llm_config.intermediate_size"),
        vocabulary=whole(config, "llm_config.vocab_size"),
        bias=flag(config, "llm_config.bias"),
    )
    check_sizes(layout, config)
    return layout


def setting(config: dict[str, Any], key: str) -> Any:
    """`config[a][b]` for the key `a.b`.

    Raises:
        UnknownLayout: it is not there. The release states every setting; what its code would assume is not guessed.
    """
    value: Any = config
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            raise UnknownLayout(f"config.json: {key} is missing; take config.json from the original release")
        value = value[part]
    return value


def whole(config: dict[str, Any], key: str) -> int:
    """A setting that is a whole number above 0.

    Raises:
        UnknownLayout: it is missing or something else.
    """
    value = setting(config, key)
    if type(value) is not int or value < 1:
        raise UnknownLayout(f"config.json: {key} is {value!r}, not a whole number above 0")
    return value


def number(config: dict[str, Any], key: str) -> float:
    """A setting that is a number above 0.

    Raises:
        UnknownLayout: it is missing or something else.
    """
    value = setting(config, key)
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise UnknownLayout(f"config.json: {key} is {value!r}, not a number above 0")
    return float(value)


def flag(config: dict[str, Any], key: str) -> bool:
    """A setting that is true or false.

    Raises:
        UnknownLayout: it is missing or something else.
    """
    value = setting(config, key)
    if type(value) is not bool:
        raise UnknownLayout(f"config.json: {key} is {value!r}, neither true nor false")
    return value


def check_settings(config: dict[str, Any]) -> None:
    """
    Raises:
        UnknownLayout: a setting with which the native classes would compute something else.
    """
    language = setting(config, "llm_config.architectures")
    if language != [LANGUAGE_MODEL]:
        release = OTHER_LANGUAGE_MODELS.get(str(language).strip("[']"), "as in no release known here")
        raise UnknownLayout(
            f"the language model is {language}, {release}; only {LANGUAGE_MODEL} is converted, as in InternVL2-2B, 8B "
            "and 26B. Take one of these, or a native -hf checkpoint of InternVL2.5 or InternVL3"
        )
    stated = {key: expected for key, expected in NEEDED_WHERE_STATED.items() if has_setting(config, key)}
    for key, expected in {**NEEDED, **stated}.items():
        if (value := setting(config, key)) != expected:
            raise UnknownLayout(f"config.json: {key} is {value!r}; only {expected!r} can be converted")
    norm = setting(config, "vision_config.norm_type")
    if norm not in ("layer_norm", "rms_norm"):
        raise UnknownLayout(f"config.json: vision_config.norm_type is {norm!r}; layer_norm and rms_norm are known")
    if setting(config, "vision_config.qk_normalization") and setting(config, "vision_config.layer_norm_eps") != 1e-6:
        raise UnknownLayout("config.json: vision_config.layer_norm_eps must be 1e-6 where qk_normalization is true")
    rope_parameters(config)


def has_setting(config: dict[str, Any], key: str) -> bool:
    section, _, name = key.rpartition(".")
    return name in (setting(config, section) if section else config)


def check_sizes(layout: Layout, config: dict[str, Any]) -> None:
    """
    Raises:
        UnknownLayout: sizes that do not divide as the layout needs it, or an image size other than that of training.
    """
    forced, ratio = setting(config, "force_image_size"), number(config, "downsample_ratio")
    rules = {
        f"force_image_size {forced} is not vision_config.image_size {layout.image_px}": forced == layout.image_px,
        f"downsample_ratio {ratio} is not one over a whole number": math.isclose(ratio * layout.fold, 1),
        f"image_size {layout.image_px} is no multiple of {layout.patch_px} × {layout.fold} pixels": (
            layout.image_px % (layout.patch_px * layout.fold) == 0
        ),
        f"{layout.vision_width} channels do not divide into {layout.vision_heads} vision heads": (
            layout.vision_width % layout.vision_heads == 0
        ),
        f"{layout.width} channels do not divide into {layout.heads} heads": layout.width % layout.heads == 0,
        f"{layout.heads} heads do not divide into {layout.groups} groups": layout.heads % layout.groups == 0,
    }
    if broken := [rule for rule, holds in rules.items() if not holds]:
        raise UnknownLayout(f"config.json: {'; '.join(broken)}")


def rope_parameters(config: dict[str, Any]) -> dict[str, Any]:
    """Rotary embedding in transformers' form. Dynamic scaling has no effect up to `max_position_embeddings`.

    Raises:
        UnknownLayout: scaling of another kind than `dynamic`.
    """
    theta, scaling = number(config, "llm_config.rope_theta"), setting(config, "llm_config.rope_scaling")
    if scaling is None:
        return {"rope_type": "default", "rope_theta": theta}
    if not isinstance(scaling, dict) or scaling.keys() != {"type", "factor"} or scaling["type"] != "dynamic":
        raise UnknownLayout(f"config.json: llm_config.rope_scaling is {scaling}; only null and type dynamic are known")
    factor = number(config, "llm_config.rope_scaling.factor")
    if factor < 1:
        raise UnknownLayout(f"config.json: llm_config.rope_scaling.factor is {factor}; it must be at least 1")
    return {"rope_type": "dynamic", "rope_theta": theta, "factor": factor}


def plan(layout: Layout) -> list[Origin]:
    """Every tensor of the native model with its origin, in the order of the original layout."""
    return [*vision_plan(layout), *projector_plan(layout), *language_plan(layout)]


def vision_plan(layout: Layout) -> Iterator[Origin]:
    """InternViT. `attn.qkv` holds queries, keys and values one after the other, all heads each."""
    old, new = "vision_model.embeddings", "model.vision_tower.embeddings"
    width, patch = layout.vision_width, layout.patch_px
    yield Origin(f"{new}.cls_token", f"{old}.class_embedding", (1, 1, width))
    yield Origin(f"{new}.position_embeddings", f"{old}.position_embedding", (1, layout.grid**2 + 1, width))
    yield Origin(f"{new}.patch_embeddings.projection.weight", f"{old}.patch_embedding.weight", (width, 3, patch, patch))
    yield Origin(f"{new}.patch_embeddings.projection.bias", f"{old}.patch_embedding.bias", (width,))
    old, new = "vision_model.encoder.layers", "model.vision_tower.encoder.layer"
    for i in range(layout.vision_layers):
        yield from vision_layer_plan(layout, f"{old}.{i}", f"{new}.{i}")


def vision_layer_plan(layout: Layout, old: str, new: str) -> Iterator[Origin]:
    """One block of InternViT, from the prefix `old` to `new`."""
    width, hidden = layout.vision_width, layout.vision_hidden
    yield Origin(f"{new}.lambda_1", f"{old}.ls1", (width,))
    yield Origin(f"{new}.lambda_2", f"{old}.ls2", (width,))
    for kind, shape in linear(3 * width, width, layout.vision_qkv_bias):
        for k, part in enumerate("qkv"):
            rows = Rows(1, k * width, (k + 1) * width)
            yield Origin(f"{new}.attention.{part}_proj.{kind}", f"{old}.attn.qkv.{kind}", shape, rows)
    if layout.vision_qk_norm:
        yield Origin(f"{new}.attention.q_norm.weight", f"{old}.attn.q_norm.weight", (width,))
        yield Origin(f"{new}.attention.k_norm.weight", f"{old}.attn.k_norm.weight", (width,))
    yield from renamed(f"{new}.attention.projection_layer", f"{old}.attn.proj", linear(width, width, True))
    yield from renamed(f"{new}.mlp.fc1", f"{old}.mlp.fc1", linear(hidden, width, True))
    yield from renamed(f"{new}.mlp.fc2", f"{old}.mlp.fc2", linear(width, hidden, True))
    norm = {"weight": (width,), "bias": (width,)} if layout.vision_norm_bias else {"weight": (width,)}
    yield from renamed(f"{new}.layernorm_before", f"{old}.norm1", norm.items())
    yield from renamed(f"{new}.layernorm_after", f"{old}.norm2", norm.items())


def projector_plan(layout: Layout) -> Iterator[Origin]:
    """`mlp1` is normalisation, linear, GELU, linear: its items 0, 1 and 3 have weights."""
    new, folded = "model.multi_modal_projector", layout.vision_width * layout.fold**2
    yield from renamed(f"{new}.layer_norm", "mlp1.0", {"weight": (folded,), "bias": (folded,)}.items())
    yield from renamed(f"{new}.linear_1", "mlp1.1", linear(layout.width, folded, True))
    yield from renamed(f"{new}.linear_2", "mlp1.3", linear(layout.width, layout.width, True))


def language_plan(layout: Layout) -> Iterator[Origin]:
    """InternLM2 as Llama. The block of a key-value group in `wqkv` holds its queries, its key and its value."""
    old, new, width = "language_model.model", "model.language_model", layout.width
    yield Origin(f"{new}.embed_tokens.weight", f"{old}.tok_embeddings.weight", (layout.vocabulary, width))
    for i in range(layout.layers):
        yield from language_layer_plan(layout, f"{old}.layers.{i}", f"{new}.layers.{i}")
    yield Origin(f"{new}.norm.weight", f"{old}.norm.weight", (width,))
    yield Origin("lm_head.weight", "language_model.output.weight", (layout.vocabulary, width))


def language_layer_plan(layout: Layout, old: str, new: str) -> Iterator[Origin]:
    """One block of InternLM2, from the prefix `old` to `new`."""
    width, head, queries = layout.width, layout.head_width, layout.width // layout.groups
    for kind, shape in linear(layout.groups * (queries + 2 * head), width, layout.bias):
        bounds = {"q": (0, queries), "k": (queries, queries + head), "v": (queries + head, queries + 2 * head)}
        for part, (start, stop) in bounds.items():
            rows = Rows(layout.groups, start, stop)
            yield Origin(f"{new}.self_attn.{part}_proj.{kind}", f"{old}.attention.wqkv.{kind}", shape, rows)
    yield from renamed(f"{new}.self_attn.o_proj", f"{old}.attention.wo", linear(width, width, layout.bias))
    yield from renamed(f"{new}.mlp.gate_proj", f"{old}.feed_forward.w1", linear(layout.hidden, width, False))
    yield from renamed(f"{new}.mlp.up_proj", f"{old}.feed_forward.w3", linear(layout.hidden, width, False))
    yield from renamed(f"{new}.mlp.down_proj", f"{old}.feed_forward.w2", linear(width, layout.hidden, False))
    yield Origin(f"{new}.input_layernorm.weight", f"{old}.attention_norm.weight", (width,))
    yield Origin(f"{new}.post_attention_layernorm.weight", f"{old}.ffn_norm.weight", (width,))


def linear(out: int, into: int, bias: bool) -> list[tuple[str, tuple[int, ...]]]:
    """Parameters of a linear layer with their shapes."""
    return [("weight", (out, into)), *([("bias", (out,))] if bias else [])]


def renamed(new: str, old: str, parameters: Iterable[tuple[str, tuple[int, ...]]]) -> Iterator[Origin]:
    """The parameters of one module, `(kind, shape)` each, under their new name."""
    for kind, shape in parameters:
        yield Origin(f"{new}.{kind}", f"{old}.{kind}", shape)


def native_config(
    config: dict[str, Any], layout: Layout, tokenizer: PreTrainedTokenizerFast, dtype: str
) -> InternVLConfig:
    """transformers' config of the same model; `dtype` by torch's name, for example `bfloat16`."""
    vision = {
        "model_type": "internvl_vision",
        "image_size": [layout.image_px, layout.image_px],
        "patch_size": [layout.patch_px, layout.patch_px],
        "hidden_size": layout.vision_width,
        "num_hidden_layers": layout.vision_layers,
        "num_attention_heads": layout.vision_heads,
        "intermediate_size": layout.vision_hidden,
        "attention_bias": layout.vision_qkv_bias,
        "use_qk_norm": layout.vision_qk_norm,
        "norm_type": setting(config, "vision_config.norm_type"),
        "layer_norm_eps": number(config, "vision_config.layer_norm_eps"),
        "layer_scale_init_value": number(config, "vision_config.initializer_factor"),
        "initializer_range": number(config, "vision_config.initializer_range"),
        "attention_dropout": setting(config, "vision_config.attention_dropout"),
        "projection_dropout": setting(config, "vision_config.dropout"),
        "use_mean_pooling": True,  # names the absence of a last normalisation
    }
    text = {
        "model_type": "llama",
        "vocab_size": layout.vocabulary,
        "hidden_size": layout.width,
        "num_hidden_layers": layout.layers,
        "num_attention_heads": layout.heads,
        "num_key_value_heads": layout.groups,
        "head_dim": layout.head_width,
        "intermediate_size": layout.hidden,
        "attention_bias": layout.bias,
        "rms_norm_eps": number(config, "llm_config.rms_norm_eps"),
        "initializer_range": number(config, "llm_config.initializer_range"),
        "max_position_embeddings": whole(config, "llm_config.max_position_embeddings"),
        "rope_parameters": rope_parameters(config),
        "tie_word_embeddings": False,
        **{f"{name}_token_id": setting(config, f"llm_config.{name}_token_id") for name in ("bos", "eos", "pad")},
    }
    return InternVLConfig(
        architectures=["InternVLForConditionalGeneration"],
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=layout.image_tokens,
        downsample_ratio=number(config, "downsample_ratio"),
        tie_word_embeddings=False,
        dtype=dtype,
    )


def check_native(config: InternVLConfig, origins: list[Origin]) -> None:
    """The plan names every tensor of the native model with its shape, by the installed transformers itself.

    Raises:
        UnknownLayout: it does not.
    """
    with torch.device("meta"):
        model = InternVLForConditionalGeneration(config)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    planned = {origin.name: origin.shape for origin in origins}
    if wrong := {name for name in wanted | planned if wanted.get(name) != planned.get(name)}:
        raise UnknownLayout(
            f"transformers {transformers.__version__} stores InternVL otherwise than this converter: {listed(wrong)}"
        )


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """The tensors of a checkpoint by name; only headers are read.

    Raises:
        FileNotFoundError: a file is missing, or there are only pickled weights.
        UnknownLayout: a file is damaged, or index and files disagree.
    """
    index = weight_index(folder)
    stored: dict[str, Stored] = {}
    for name in sorted(set(index.values())) if index else [WEIGHTS]:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is missing, and {INDEX} names it; fetch it from the release")
        for key, found in read_header(folder / name).items():
            if key in stored:
                raise UnknownLayout(f"{key} is in {stored[key].file} and again in {name}")
            stored[key] = found
    if index:
        wrong = {key for key in index | stored if key not in stored or index.get(key) != stored[key].file}
        if wrong:
            raise UnknownLayout(f"{INDEX} and the files beside it disagree about {listed(wrong)}")
    return stored


def weight_index(folder: Path) -> dict[str, str]:
    """Tensor → file by the index, empty where one file holds all.

    Raises:
        FileNotFoundError: there are no safetensors weights.
        UnknownLayout: the index is no index, or names a file outside the folder.
    """
    if (folder / INDEX).is_file():
        index = read_object(folder / INDEX).get("weight_map")
        if not isinstance(index, dict) or not index:
            raise UnknownLayout(f"{INDEX}: holds no weight_map")
        if strange := {str(name) for name in index.values() if Path(str(name)).name != name}:
            raise UnknownLayout(f"{INDEX}: names files outside its folder: {listed(strange)}")
        return index
    if (folder / WEIGHTS).is_file():
        return {}
    if pickled := sorted(file.name for file in folder.glob("*.bin")):
        raise FileNotFoundError(
            f"{folder}: only pickled weights ({listed(set(pickled))}), and unpickling can run any code; fetch the "
            "*.safetensors files and their index of the same release"
        )
    raise FileNotFoundError(f"{folder}: neither {INDEX} nor {WEIGHTS}; fetch the release's *.safetensors files")


def read_header(file: Path) -> dict[str, Stored]:
    """
    Raises:
        UnknownLayout: the file is cut short or no safetensors file.
    """
    try:
        with safe_open(file, framework="pt") as tensors:
            slices = {key: tensors.get_slice(key) for key in tensors.keys()}  # noqa: SIM118
            return {k: Stored(file.name, tuple(s.get_shape()), s.get_dtype()) for k, s in slices.items()}
    except SafetensorError as error:
        raise UnknownLayout(f"{file.name}: damaged or no safetensors file ({error}); fetch it again") from error


def check_tensors(origins: list[Origin], stored: dict[str, Stored]) -> str:
    """safetensors' name of the one type that all tensors have.

    Raises:
        UnknownLayout: tensors are missing, unknown, of another shape, quantised, or of mixed types.
    """
    wanted = {origin.source: origin.source_shape for origin in origins}
    if missing := wanted.keys() - stored.keys():
        raise UnknownLayout(f"tensors are missing: {listed(missing)}")
    if unknown := stored.keys() - wanted.keys():
        raise UnknownLayout(f"unknown tensors: {listed(unknown)}")
    if wrong := [name for name, shape in wanted.items() if stored[name].shape != shape]:
        told = {f"{name} is {list(stored[name].shape)}, not {list(wanted[name])}" for name in wrong}
        raise UnknownLayout(f"shapes that config.json does not give: {listed(told)}")
    types = {found.dtype for found in stored.values()}
    if len(types) != 1 or not types <= DTYPES.keys():
        raise UnknownLayout(f"tensors of type {', '.join(sorted(types))}; all must have one of {', '.join(DTYPES)}")
    return types.pop()


def listed(names: Collection[str]) -> str:
    """The first few names in order, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - NAMED} more" if len(ordered) > NAMED else ""
    return f"{', '.join(ordered[:NAMED])}{more}"


def in_shards(origins: list[Origin], stored: dict[str, Stored], limit: int) -> list[list[Origin]]:
    """The plan cut into files of at most `limit` bytes, a larger tensor alone; one source file after the other."""
    item = DTYPES[next(iter(stored.values())).dtype].itemsize
    shards: list[list[Origin]] = []
    room = 0
    for origin in sorted(origins, key=lambda origin: stored[origin.source].file):
        size = item * math.prod(origin.shape)
        if not shards or size > room:
            shards.append([])
            room = limit
        shards[-1].append(origin)
        room -= size
    return shards


@dataclass(frozen=True)
class Checkpoint:
    """An original checkpoint, read and found to be one that can be converted; its weights are still on disk."""

    folder: Path
    config: dict[str, Any]
    layout: Layout
    origins: list[Origin]
    stored: dict[str, Stored]
    native: InternVLConfig
    tokenizer: PreTrainedTokenizerFast


def read_checkpoint(folder: Path) -> Checkpoint:
    """Everything but the weights themselves.

    Raises:
        FileNotFoundError: a file is missing, or the weights are pickled.
        UnknownLayout: the checkpoint is not what this converter knows; names the file and what is wrong.
    """
    try:
        config = read_object(folder / "config.json")
        layout = read_layout(config)
        origins = plan(layout)
        stored = stored_tensors(folder)
        dtype = check_tensors(origins, stored)
        check_preprocessing(folder)
        tokenizer = build_tokenizer(folder, layout.vocabulary)
        check_token_ids(config, tokenizer)
        native = native_config(config, layout, tokenizer, str(DTYPES[dtype]).removeprefix("torch."))
        check_native(native, origins)
    except UnknownLayout as error:
        raise UnknownLayout(f"{folder}: {error}") from error
    return Checkpoint(folder, config, layout, origins, stored, native, tokenizer)


def convert(source: Path, target: Path, *, shard_bytes: int = SHARD_BYTES) -> dict[str, Any]:
    """Write the native form of the checkpoint in `source` to `target`, which appears only when it is complete.

    At most one shard and one tensor are in memory. Nothing in `source` is run or unpickled.

    Returns:
        The manifest, also in `target`: for every tensor its file, origin, shape, type and SHA-256, and for every
        source file its size and SHA-256.

    Raises:
        FileExistsError: `target` exists.
        FileNotFoundError: a file of the checkpoint is missing, or the weights are pickled.
        UnknownLayout: the checkpoint is not what this converter knows; names the file and what is wrong.
    """
    if target.exists():
        raise FileExistsError(f"{target} exists; name another folder, or remove it first")
    checkpoint = read_checkpoint(source)
    with atomic(target) as folder:
        folder.mkdir()
        tensors = write_weights(checkpoint, folder, shard_bytes)
        write_settings(checkpoint, folder)
        read = {"config.json", *TOKENIZER_FILES, *(found.file for found in checkpoint.stored.values())}
        manifest = {
            "form": 1,
            "transformers": transformers.__version__,
            "source": {name: fingerprint(source / name) for name in sorted(read)},
            "tensors": tensors,
        }
        write_object(folder / MANIFEST, manifest)
    return manifest


def write_weights(checkpoint: Checkpoint, folder: Path, shard_bytes: int) -> dict[str, dict[str, Any]]:
    """Write the shards and their index; returns the manifest's entry of every tensor."""
    shards = in_shards(checkpoint.origins, checkpoint.stored, shard_bytes)
    names = [WEIGHTS] if len(shards) == 1 else [shard_name(i, len(shards)) for i in range(len(shards))]
    entries: dict[str, dict[str, Any]] = {}
    with tqdm(total=len(checkpoint.origins), unit=" tensors", desc=checkpoint.folder.name, disable=None) as bar:
        for name, shard in zip(names, shards, strict=True):
            tensors: dict[str, Tensor] = {}
            for origin in shard:
                found = checkpoint.stored[origin.source]
                with safe_open(checkpoint.folder / found.file, framework="pt") as original:
                    tensors[origin.name] = origin.take(original.get_tensor(origin.source))
                entries[origin.name] = entry(origin, found, name, tensors[origin.name])
                bar.update()
            save_file(tensors, folder / name, metadata={"format": "pt"})
    if len(shards) > 1:
        size = sum(DTYPES[item["dtype"]].itemsize * math.prod(item["shape"]) for item in entries.values())
        weight_map = {name: item["file"] for name, item in entries.items()}
        write_object(folder / INDEX, {"metadata": {"total_size": size}, "weight_map": weight_map})
    return entries


def write_settings(checkpoint: Checkpoint, folder: Path) -> None:
    """Write what transformers reads beside the weights: config, generation, tokenizer and image processor."""
    checkpoint.native.save_pretrained(folder)
    processor(checkpoint).save_pretrained(folder)
    generation = GenerationConfig(
        bos_token_id=checkpoint.tokenizer.bos_token_id,
        eos_token_id=checkpoint.tokenizer.convert_tokens_to_ids(END_OF_TURN),
        pad_token_id=checkpoint.tokenizer.pad_token_id,
    )
    generation.save_pretrained(folder)


def write_object(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def shard_name(number: int, count: int) -> str:
    return f"model-{number + 1:05}-of-{count:05}.safetensors"


def entry(origin: Origin, found: Stored, file: str, tensor: Tensor) -> dict[str, Any]:
    """One tensor in the manifest. `rows` is null where the whole original tensor was taken."""
    return {
        "file": file,
        "source_file": found.file,
        "source": origin.source,
        "source_shape": list(found.shape),
        "rows": asdict(origin.rows) if origin.rows else None,
        "shape": list(tensor.shape),
        "dtype": found.dtype,
        "sha256": digest(tensor),
    }


def digest(tensor: Tensor) -> str:
    """SHA-256 of a tensor's bytes, as safetensors stores them."""
    return hashlib.sha256(tensor.contiguous().view(-1).view(torch.uint8).numpy()).hexdigest()


def fingerprint(file: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file, to be held against what the release's page states."""
    with file.open("rb") as stream:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def check_preprocessing(folder: Path) -> None:
    """The original's own loading code always normalises by ImageNet's figures; its file must not say otherwise.

    Raises:
        UnknownLayout: it does.
    """
    file = folder / "preprocessor_config.json"
    if not file.is_file():
        return
    content = read_object(file)
    for key, expected in (("image_mean", IMAGENET_MEAN), ("image_std", IMAGENET_STD)):
        if content.get(key, expected) != expected:
            raise UnknownLayout(f"{file.name}: {key} is {content[key]}; only {expected} can be converted")


def check_token_ids(config: dict[str, Any], tokenizer: PreTrainedTokenizerFast) -> None:
    """
    Raises:
        UnknownLayout: config and tokenizer disagree about the tokens that begin, end or pad a text.
    """
    for name in ("bos", "eos", "pad"):
        stated, known = setting(config, f"llm_config.{name}_token_id"), getattr(tokenizer, f"{name}_token_id")
        if stated != known:
            raise UnknownLayout(f"llm_config.{name}_token_id is {stated}, the tokenizer's {known}")


def processor(checkpoint: Checkpoint) -> InternVLProcessor:
    """Tokenizer and image processor as one: tiles of `image_px`, as many as the release allows, plus a thumbnail."""
    config, side = checkpoint.config, checkpoint.layout.image_px
    pixels = {"size": {"height": side, "width": side}, "image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD}
    images = GotOcr2ImageProcessor(
        **pixels,
        crop_to_patches=True,
        min_patches=whole(config, "min_dynamic_patch"),
        max_patches=whole(config, "max_dynamic_patch"),
    )
    return InternVLProcessor(
        image_processor=images,
        tokenizer=checkpoint.tokenizer,
        video_processor=InternVLVideoProcessor(**pixels),
        image_seq_length=checkpoint.layout.image_tokens,
        chat_template=checkpoint.tokenizer.chat_template,
    )
