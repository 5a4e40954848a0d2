"""One training step without data: what it holds at its peak and what it computes, counted and not guessed.

The model has its true shape and its tensors have no elements (torch's meta device under `FakeTensorMode`), so that a
step of an 8B model takes seconds and next to no memory. What runs is transformers' own code, peft's, the study's loss
and its optimiser: nothing here repeats in a formula what a layer keeps for its backward pass. Token ids and labels are
real, for where the answers stand decides how many logits there are.

Counted are the bytes of all tensors that live at once, as torch's allocator hands them out. Not counted are what a
kernel needs inside itself, the device's context, communication buffers and what the allocator wastes. Precision follows
the CPU's rules of autocast and attention is the fused kernel, as on a GPU. Where two gradients meet, a tensor without
elements gets their sum beside them, an ordinary one in place of the first: the count may be one such tensor too high.
"""

import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from irgpt_lib import params
from irgpt_lib.compat import ensure_torchvision

ensure_torchvision()

from peft import LoraConfig, get_peft_model
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from irgpt_lib.models.families.family import Family
from irgpt_lib.models.vlm import IGNORED
from irgpt_lib.training.draws import keyed_dropout
from irgpt_lib.training.loss import answer_losses, weighted_loss
from irgpt_lib.training.sharding import checkpointed
from irgpt_lib.training.trainer import CLIPPED_AT

Stage = Literal[1, 2]
FROZEN, TRAINED, OPTIMISER, GRADIENTS = "weights, frozen", "weights, trained", "optimiser", "gradients"
EXCHANGE, COPIES = "gradients for exchange", "weights in bf16 (autocast)"
VISION, PROJECTOR, LANGUAGE = "activations, vision", "activations, projector", "activations, language"
LOSS, BATCH, BACKWARD = "loss and logits", "batch, masks, merging", "backward workspace"
STATES = (FROZEN, TRAINED, OPTIMISER, GRADIENTS)
PARTS = (*STATES, EXCHANGE, COPIES, VISION, PROJECTOR, LANGUAGE, LOSS, BATCH, BACKWARD)
ACTIVATIONS = {"vision": VISION, "projector": PROJECTOR, "language": LANGUAGE}
# The commonest frame of infrared cameras: width and height in pixels.
CAMERA = (640, 512)
# The bounds of the published Qwen2-VL.
PIXELS = (56 * 56, 28 * 28 * 1280)
CPU = torch.device("cpu")
# Ranges longer than any text number the elements of a dropout mask, which no count depends on.
LONG_RANGE = 2**16
aten = torch.ops.aten


@dataclass(frozen=True)
class ModelShape:
    """A model's family and config, and where it is known from. `ordered` are the ids of its coordinates, if it writes
    them as single tokens (see `loss.token_losses`)."""

    name: str
    family: type[Family]
    config: PreTrainedConfig
    source: str
    ordered: Int[Tensor, " k"] | None = None


@dataclass(frozen=True)
class Piece:
    """What passes through the model at a time: samples, tiles an image (InternVL), and the mean tokens of a prompt
    without its image, of an answer with its end, and of the padding up to the longest sample of the batch. `frame` is
    an image's width and height in pixels and `pixels` its least and greatest area as Qwen2-VL reads it."""

    samples: int
    tiles: int
    prompt_tokens: int
    answer_tokens: int
    padding_tokens: int = 0
    frame: tuple[int, int] = CAMERA
    pixels: tuple[int, int] = PIXELS

    @property
    def text_tokens(self) -> int:
        """Of a sample, with its padding; a sample alone has none."""
        return self.prompt_tokens + self.answer_tokens + (self.padding_tokens if self.samples > 1 else 0)


@dataclass(frozen=True)
class Setting:
    """How a step is run: `pieces` a step; `precision` of the recipe; the type that frozen weights are `held` in (the
    loop holds float32); with activation checkpointing of every block or without; on one rank or several. `cast` holds
    all weights in bf16 without autocast, as FSDP2's mixed precision presents them to a layer."""

    pieces: int = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    held: Literal["fp32", "bf16"] = "fp32"
    checkpointed: bool = False
    ranks: int = 1
    smoothing: float = 0.0
    cast: bool = False


@dataclass(frozen=True)
class Counted:
    """One step: bytes at the peak, in all and by what they are for (`PARTS`); bytes of the states; floating-point
    operations of a sample, forward and backward, a multiplication and an addition being two."""

    peak: int
    at_peak: dict[str, int]
    states: dict[str, int]
    flops: int


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make, until they are freed, by what is being done; and the
    floating-point operations of products, convolutions and attention."""

    def __init__(self, fake: FakeTensorMode) -> None:
        super().__init__()
        self.fake = fake
        self.now: Counter[str] = Counter()
        self.flops, self.peak, self.at_peak = 0, 0, {}
        self._total = 0
        self._known: dict[int, tuple[str, int, weakref.ref]] = {}
        self._doing = [BATCH]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:  # asked more often than anything is computed
            return func(*args)
        if func is aten.index.Tensor:
            args = (args[0], _numbered(args[1]))
        with self.fake if _long_range(func, args) else nullcontext():
            out = func(*args, **(kwargs or {}))
        self.flops += _flops(func._overloadpacket, args, kwargs or {}, out)
        label = COPIES if func is aten._to_copy.default and self._is_weight(args[0]) else self._doing[-1]
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self.add(tensor, label)
        return out

    def _is_weight(self, tensor: Tensor) -> bool:
        label = self._known.get(tensor.untyped_storage()._cdata, ("",))[0]
        return label in (FROZEN, TRAINED)

    def add(self, tensor: Tensor, label: str) -> None:
        """Count the tensor's storage, unless it is counted already."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        gone = weakref.ref(storage, lambda _: self._gone(key))
        self._known[key] = (label, storage.nbytes(), gone)
        self.now[label] += storage.nbytes()
        self._total += storage.nbytes()
        if self._total > self.peak:
            self.peak, self.at_peak = self._total, dict(self.now)

    def _gone(self, key: int) -> None:
        label, size, _ = self._known.pop(key)
        self.now[label] -= size
        self._total -= size

    def relabel(self, tensor: Tensor, label: str) -> None:
        """The tensor's storage turns out to be for something else."""
        key = tensor.untyped_storage()._cdata
        before, size, gone = self._known[key]
        self._known[key] = (label, size, gone)
        self.now[before] -= size
        self.now[label] += size

    @contextmanager
    def doing(self, label: str) -> Iterator[None]:
        """Within the block new tensors are for `label`."""
        self._doing.append(label)
        try:
            yield
        finally:
            self._doing.pop()

    def watch(self, module: nn.Module, label: str) -> None:
        """What the module's forward pass makes is for `label`."""
        module.register_forward_pre_hook(lambda *_: self._doing.append(label))
        module.register_forward_hook(lambda *_: self._doing.pop() and None)

    def start_again(self) -> None:
        """Forget the peak so far; what lives, lives on."""
        self.peak, self.at_peak = self._total, dict(self.now)


def _numbered(indices: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Masks as the numbers that they select, which a tensor without elements cannot work out from a mask."""
    numbered: list[Tensor | None] = []
    for index in indices:
        real_mask = isinstance(index, Tensor) and index.dtype == torch.bool and not isinstance(index, FakeTensor)
        numbered += index.nonzero(as_tuple=True) if real_mask else [index]
    return numbered


def _long_range(func: Any, args: Sequence[Any]) -> bool:
    return func is aten.arange.default and args[0] > LONG_RANGE


def _flops(operation: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> int:
    """torch's own formulas; it has none for the CPU's fused attention, which takes what the GPU's takes."""
    if operation is aten._scaled_dot_product_flash_attention_for_cpu:
        return sdpa_flop_count(*(tensor.shape for tensor in args[:3]))
    if operation is aten._scaled_dot_product_flash_attention_for_cpu_backward:
        return sdpa_backward_flop_count(*(tensor.shape for tensor in args[:4]))
    formula = flop_registry.get(operation)
    return formula(*args, **kwargs, out_val=out) if formula else 0


def model_of(shape: ModelShape) -> PreTrainedModel:
    """The model on the meta device: parameters with shapes and without elements."""
    with torch.device("meta"):
        return shape.family.model_class(shape.config)


def family_around(shape: ModelShape, model: PreTrainedModel) -> Family:
    """The family's knowledge of parts and stages, without a tokenizer: nothing of it hangs on text."""
    family = object.__new__(shape.family)
    family.model = model
    return family


def prepare(shape: ModelShape, stage: Stage, lora: params.Lora) -> tuple[PreTrainedModel, Family]:
    """The model on the meta device as a stage trains it: what requires a gradient, LoRA in stage 2, evaluation mode of
    frozen modules."""
    model = model_of(shape)
    family = family_around(shape, model)
    if stage == 1:
        family.begin_stage1()
    else:
        config = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=family.lora_targets,
            modules_to_save=list(family.trained_in_full),
            task_type="CAUSAL_LM",
        )
        get_peft_model(model, config)
    model.train()
    for module in family.frozen(stage):
        module.eval()
    return model, family


def image_of(shape: ModelShape, piece: Piece) -> tuple[int, dict[str, tuple[int, ...]], list[int] | None]:
    """Tokens that an image takes, the size of the model's image argument, and Qwen2-VL's grid of an image's patches.

    Raises:
        ValueError: several tiles for a family that reads one.
    """
    config, vision = shape.config, shape.config.vision_config
    if shape.family.kind != "internvl" and piece.tiles != 1:
        raise ValueError(f"{piece.tiles} tiles: {shape.name} ({shape.family.kind}) reads an image as one")
    if shape.family.kind == "qwen2_vl":
        side = vision.patch_size * vision.spatial_merge_size
        height, width = smart_resize(*piece.frame[::-1], side, *piece.pixels)
        rows, columns = height // vision.patch_size, width // vision.patch_size
        values = 3 * vision.temporal_patch_size * vision.patch_size**2
        sizes = {"pixel_values": (piece.samples * rows * columns, values)}
        return rows * columns // vision.spatial_merge_size**2, sizes, [1, rows, columns]
    size = vision.image_size
    height, width = size if isinstance(size, list | tuple) else (size, size)
    sizes = {"pixel_values": (piece.samples * piece.tiles, 3, int(height), int(width))}
    return piece.tiles * int(config.image_seq_length), sizes, None


def count_step(shape: ModelShape, stage: Stage, lora: params.Lora, piece: Piece, setting: Setting) -> Counted:
    """The second of two steps, which finds the optimiser's states in place.

    Raises:
        ValueError: several tiles for a family that reads one.
    """
    image = image_of(shape, piece)
    model, family = prepare(shape, stage, lora)
    return _Step(shape, model, family, piece, setting, image).count()


class _Step:
    def __init__(
        self,
        shape: ModelShape,
        model: PreTrainedModel,
        family: Family,
        piece: Piece,
        setting: Setting,
        image: tuple[int, dict[str, tuple[int, ...]], list[int] | None],
    ) -> None:
        self.shape, self.model, self.piece, self.setting = shape, model, piece, setting
        self.image_tokens, self.sizes, self.grid = image
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.live = LiveBytes(self.fake)
        self._without_elements()
        self.trained = [p for p in model.parameters() if p.requires_grad]
        for parameter in model.parameters():
            self.live.add(parameter, TRAINED if parameter.requires_grad else FROZEN)
        for parameter in self.trained:
            parameter.register_post_accumulate_grad_hook(lambda p: self.live.relabel(p.grad, GRADIENTS))
        for part, label in ACTIVATIONS.items():
            for module in family.modules(part):
                if module is not model.get_output_embeddings():
                    self.live.watch(module, label)
        self.optimiser = torch.optim.AdamW(self.trained, fused=True)

    def _type_of(self, tensor: Tensor) -> torch.dtype:
        if not tensor.is_floating_point() or not isinstance(tensor, nn.Parameter):
            return tensor.dtype
        low = self.setting.cast or (self.setting.held == "bf16" and not tensor.requires_grad)
        return torch.bfloat16 if low else torch.float32

    def _without_elements(self) -> None:
        """Every parameter and buffer of the meta device becomes a tensor that claims to lie on the CPU, since there is
        no autocast on the meta device. Shared ones stay shared."""
        made: dict[int, Tensor] = {}

        def stand_in(tensor: Tensor) -> Tensor:
            if id(tensor) not in made:
                fake = FakeTensor(self.fake, tensor.detach().to(self._type_of(tensor)), CPU)
                is_parameter = isinstance(tensor, nn.Parameter)
                made[id(tensor)] = nn.Parameter(fake, tensor.requires_grad) if is_parameter else fake
            return made[id(tensor)]

        keep = list(self.model.parameters())  # so that no id is given twice
        for module in self.model.modules():
            for held in (module._parameters, module._buffers):
                held.update({name: stand_in(tensor) for name, tensor in held.items() if tensor is not None})
        del keep

    def _empty(self, *size: int, dtype: torch.dtype) -> Tensor:
        with self.fake:
            return torch.empty(size, dtype=dtype)

    def _batch(self) -> tuple[dict[str, Tensor], Tensor]:
        """The model's arguments and the labels; of several samples one at least is padded, as in nearly every real
        batch, so that attention gets a mask."""
        samples, start = self.piece.samples, self.image_tokens + self.piece.prompt_tokens
        length = self.image_tokens + self.piece.text_tokens
        ids = torch.zeros(samples, length, dtype=torch.long)
        ids[:, : self.image_tokens] = self.shape.config.image_token_id
        ids[:, self.image_tokens :] = 1 if self.shape.config.image_token_id != 1 else 2
        labels = torch.full_like(ids, IGNORED)
        labels[:, start : start + self.piece.answer_tokens] = 1
        mask = torch.ones_like(ids)
        if samples > 1:
            mask[-1, -1] = 0
            # without elements the square masks that follow from it take no memory; Qwen2-VL numbers its elements
            mask = mask if self.grid is not None else self._empty(samples, length, dtype=torch.long)
        images = {name: self._empty(*size, dtype=torch.float32) for name, size in self.sizes.items()}
        inputs = {"input_ids": ids, "attention_mask": mask} | images
        if self.grid is not None:
            kinds = (ids == self.shape.config.image_token_id).int()
            inputs |= {"image_grid_thw": torch.tensor([self.grid] * samples), "mm_token_type_ids": kinds}
        return inputs, labels

    def _losses(self) -> Float[Tensor, " b"]:
        inputs, labels = self._batch()
        low = self.setting.precision == "bf16" and not self.setting.cast
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            hidden = self.model.model(**inputs, use_cache=False).last_hidden_state
            smoothing = self.setting.smoothing if self.shape.ordered is not None else 0.0
            ordered = self.shape.ordered if smoothing else None
            with self.live.doing(LOSS):
                head = self.model.get_output_embeddings()
                return answer_losses(hidden, head, labels, ordered=ordered, smoothing=smoothing)

    def _piece(self) -> None:
        losses = self._losses()
        weights = torch.ones(len(losses), dtype=losses.dtype)
        with self.live.doing(BACKWARD):
            weighted_loss(losses, weights).backward()

    def _update(self) -> None:
        with self.live.doing(EXCHANGE):
            if self.setting.ranks > 1:
                flat = torch.cat([parameter.grad.flatten() for parameter in self.trained])
                del flat
        with self.live.doing(OPTIMISER):
            nn.utils.clip_grad_norm_(self.trained, CLIPPED_AT)
            self.optimiser.step()
            self.optimiser.zero_grad(set_to_none=True)

    def count(self) -> Counted:
        lean = checkpointed(self.model) if self.setting.checkpointed else nullcontext()
        with keyed_dropout(self.model) as keys, lean, self.live:
            keys.now = self._empty(self.piece.samples, dtype=torch.int64)
            with self.live.doing(GRADIENTS):
                for parameter in self.trained:
                    parameter.grad = torch.zeros_like(parameter)
            self._update()
            self.live.start_again()
            for _ in range(min(self.setting.pieces, 2)):
                self.live.flops = 0
                self._piece()
            states = {part: self.live.now[part] for part in STATES}
            flops = self.live.flops // self.piece.samples
            self._update()
        at_peak = {part: self.live.at_peak[part] for part in PARTS if self.live.at_peak.get(part)}
        return Counted(self.live.peak, at_peak, states, flops)
