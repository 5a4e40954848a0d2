"""What a training will need before anything is downloaded: memory of a GPU, steps, hours and disk.

Memory and floating-point operations are counted on a step without data (`dry_run`), on the shape of a published model,
of a local folder's config, or of a miniature: what `starting.starting_model` would give. Where a formula is used, its
docstring gives it.

The layouts: `replicated`, as the study's loop has it (each GPU holds the whole model and the optimiser, and a share of
every batch), and `FSDP2` (`sharding.sharded`: a part of every weight, each block whole while it computes), each with
and without activation checkpointing. What a plan takes for granted is in `Plan.assumes`, what it does not know in
`LIMITS`.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from irgpt_lib import params
from irgpt_lib.compat import ensure_torchvision

ensure_torchvision()

from transformers import AutoConfig, CLIPVisionConfig, PreTrainedConfig

from irgpt_lib.curriculum.schedule import phases
from irgpt_lib.irtd.record import png_bytes
from irgpt_lib.models import families
from irgpt_lib.models.families import ImagePolicy, PandaGPT
from irgpt_lib.models.families.pixels import tiled
from irgpt_lib.models.vlm import Shape
from irgpt_lib.training.base import study_tokenizer
from irgpt_lib.training.checkpoint import KEPT
from irgpt_lib.training.dry_run import (
    CAMERA,
    PIXELS,
    STATES,
    Counted,
    ModelShape,
    Piece,
    Setting,
    Stage,
    count_step,
    family_around,
    image_of,
    model_of,
    prepare,
)
from irgpt_lib.training.sharding import blocks

Layout = Literal["replicated", "replicated, checkpointed", "FSDP2", "FSDP2, checkpointed"]
PUBLISHED = Path(__file__).with_name("published_shapes.json")
BYTES = {"fp32": 4, "bf16": 2}
# Parameter, first and second moment, each in float32.
OF_A_CHECKPOINT = 3 * BYTES["fp32"]
# The rest is for the device's context, the kernels' own memory, communication and what the allocator wastes.
USABLE = 0.9
# FSDP2 gathers the next layer while one computes, and reduces one layer's gradients while the next are made.
AT_ONCE = 2
SHARDED, GATHERED, UNREDUCED = "weights and states, sharded", "weights, gathered", "gradients, not yet reduced"
OF_SHARDS = (SHARDED, GATHERED, UNREDUCED)
LIMITS = (
    f"memory: bytes of live tensors; {100 * (1 - USABLE):.0f} % of the GPU are left for its context, kernels, "
    "communication and fragmentation, which are not counted (an assumption)",
    "every sample has the mean number of tokens, all batches are padded alike, and autocast follows the CPU's rules",
    "FSDP2: the shards and what is gathered are calculated, the rest is counted",
    "hours: steps of training only, every GPU as fast as one; no loading, evaluation or checkpoints",
)


class Unplannable(ValueError):
    """What was asked for cannot be planned; the message says what is missing."""


@dataclass(frozen=True)
class Load:
    """What a sample is: tiles an image, and tokens of text (see `dry_run.Piece`); `source` says how the tokens are
    known. `frame` and `pixels` are those of an image."""

    tiles: int
    prompt_tokens: int
    answer_tokens: int
    padding_tokens: int
    source: str
    frame: tuple[int, int] = CAMERA
    pixels: tuple[int, int] = PIXELS

    def piece(self, samples: int) -> Piece:
        texts = (self.prompt_tokens, self.answer_tokens, self.padding_tokens)
        return Piece(samples, self.tiles, *texts, self.frame, self.pixels)


@dataclass(frozen=True)
class Machine:
    """`gpus` GPUs of `memory_gib` GiB each; a rank passes `micro` samples at a time (0: its share of a batch; None: as
    params.yaml says)."""

    gpus: int
    memory_gib: float = 80.0
    micro: int | None = None
    held: Literal["fp32", "bf16"] = "fp32"

    def __post_init__(self) -> None:
        if self.gpus < 1:
            raise Unplannable(f"{self.gpus} GPUs: a plan needs at least one")
        if self.memory_gib <= 0 or (self.micro or 0) < 0:
            raise Unplannable(f"{self.memory_gib} GiB a GPU and {self.micro} samples at a time: neither may be below 0")


@dataclass(frozen=True)
class Speed:
    """How fast one GPU trains: samples a second of stage 1 and stage 2 as measured, or the peak of its matrix products
    in TFLOP/s and the share of it that training reaches."""

    rates: tuple[float, float] | None = None
    tflops: float = 0.0
    mfu: float = 0.0

    def __post_init__(self) -> None:
        if self.rates is not None and (self.tflops or self.mfu):
            raise Unplannable("give a measured rate, or TFLOP/s and the share of them that is reached, not both")
        if self.rates is not None and min(self.rates) <= 0:
            raise Unplannable(f"rates of {self.rates} samples a second: they must be above 0")
        if bool(self.tflops) != bool(self.mfu) or self.tflops < 0 or not 0 <= self.mfu <= 1:
            raise Unplannable(f"{self.tflops} TFLOP/s at a share of {self.mfu}: the first above 0, the second in 0-1")

    def samples_per_second(self, stage: Stage, flops: int) -> float | None:
        """Of one GPU; None where the speed is not known."""
        if self.rates is not None:
            return self.rates[stage - 1]
        return self.tflops * 1e12 * self.mfu / flops if self.tflops else None

    def told(self) -> str:
        if self.rates is not None:
            first, second = self.rates
            return f"the given rates of one GPU, {first:g} and {second:g} samples a second, for every layout"
        if self.tflops:
            return f"counted FLOPs, recomputation included, at {self.mfu:g} of {self.tflops:g} TFLOP/s a GPU"
        return "not estimated: no measured rate, and no TFLOP/s with the share of them that is reached"


@dataclass(frozen=True)
class Column:
    """One layout: bytes at the peak by part and in all, share of the GPU's memory, whether it fits, TFLOP of a sample,
    samples a second of one GPU, and hours of the stage (None where no speed is known)."""

    parts: dict[str, int]
    total: int
    share: float
    fits: bool
    tflop_per_sample: float
    samples_per_second: float | None
    hours: float | None


@dataclass(frozen=True)
class StagePlan:
    """One stage. `samples` are those seen over all epochs; `tokens` count image and text, padding included;
    `checkpoint_bytes` is one checkpoint, `disk_bytes` what is on disk at most, with the stage's result."""

    trained: int
    epochs: int
    batch_size: int
    samples_at_a_time: int
    pieces: int
    samples: int
    steps: int
    tokens_per_sample: int
    tokens: int
    states: dict[str, int]
    layouts: dict[Layout, Column]
    checkpoint_bytes: int
    result_bytes: int
    disk_bytes: int


@dataclass(frozen=True)
class Plan:
    """`parameters` of each part, and of the LoRA of stage 2; `assumes`, what the counts rest on, in sentences."""

    profile: str
    variant: str
    model: str
    source: str
    parameters: dict[str, int]
    load: Load
    machine: Machine
    speed: str
    runs: int
    stages: dict[str, StagePlan]
    assumes: Sequence[str]
    limits: Sequence[str] = LIMITS

    def record(self) -> dict[str, Any]:
        """The whole plan as plain containers."""
        return asdict(self)


@cache
def published() -> dict[str, Any]:
    """Shapes of published models, with sources, and what else is taken from publications."""
    return json.loads(PUBLISHED.read_text(encoding="utf-8"))


def shape_of(base: params.Base, config: params.Model, named: str = "") -> ModelShape:
    """The model that `starting.starting_model` would give, or the one `named`: a published one's name or hub id, or a
    local folder.

    Raises:
        Unplannable: nothing is known of its shape, or it is not of the family that params.yaml names.
    """
    if named:
        return _known(named)
    if config.encoder:
        return _composed(config)
    if not config.weights and config.shape is not None:
        return _miniature(config.kind, config.shape, config.seed, "model.shape of params.yaml, untrained")
    if config.weights or base.kind == "pretrained":
        found = _known(config.weights or base.weights)
    else:
        found = _miniature("internvl", base.shape, base.seed, "base.shape of params.yaml")
    if found.family.kind != config.kind:
        raise Unplannable(f"model.kind of params.yaml is {config.kind}, but {found.name} is {found.family.kind}")
    return found


def _known(wanted: str) -> ModelShape:
    """A published model or that of a local folder."""
    for name, entry in published()["models"].items():
        if wanted in (name, *entry["weights"]):
            family = families.FAMILIES[entry["kind"]]
            config = family.model_class.config_class(**entry["config"])
            return ModelShape(name, family, config, entry["source"])
    if (Path(wanted) / "config.json").is_file():
        return _local(Path(wanted))
    known = ", ".join(published()["models"])
    raise Unplannable(f"the shape of {wanted!r} is not known: name {known}, or a local folder with a config.json")


def _miniature(kind: str, sizes: params.MiniatureShape, seed: int, source: str) -> ModelShape:
    shape, tokenizer = Shape(**sizes.model_dump()), study_tokenizer(sizes.coordinate_steps)
    made = families.build(kind, shape, tokenizer, seed, ImagePolicy(1, *PIXELS))
    return ModelShape(f"miniature of {kind}", type(made), made.model.config, source, made.ordered)


def _composed(config: params.Model) -> ModelShape:
    """A PandaGPT-type model of a CLIP and a language model, each from the config of a local folder."""
    folders = {"encoder": Path(config.encoder), "weights": Path(config.weights)}
    for name, folder in folders.items():
        if not (folder / "config.json").is_file():
            raise Unplannable(f"model.{name} is {str(folder)!r}: a plan needs a local folder with a config.json")
    try:
        clip = CLIPVisionConfig.from_pretrained(folders["encoder"])
        llm = AutoConfig.from_pretrained(folders["weights"], trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise Unplannable(f"model.encoder or model.weights: {str(error).splitlines()[0]}") from error
    made = PandaGPT.model_class.config_class(
        vision_config=clip,
        text_config=llm,
        image_token_index=llm.vocab_size - 1,
        image_seq_length=1,
        tie_word_embeddings=llm.tie_word_embeddings,
    )
    name = " and ".join(folder.name for folder in folders.values())
    return ModelShape(name, PandaGPT, made, "the folders' config.json, one projection between them")


def _local(folder: Path) -> ModelShape:
    file = folder / "config.json"
    try:
        found, _ = PreTrainedConfig.get_config_dict(folder)
    except (OSError, ValueError) as error:
        raise Unplannable(f"{file} cannot be read as a config: {str(error).splitlines()[0]}") from error
    for family in families.FAMILIES.values():
        config = family.model_class.config_class
        if found.get("model_type") == config.model_type:
            return ModelShape(str(folder), family, config.from_dict(found), str(file))
    cure = f"there are {', '.join(families.FAMILIES)}; `irgpt models convert-internvl2` rewrites InternVL2's own layout"
    raise Unplannable(f"{file}: model_type {found.get('model_type')!r} is of no family; {cure}")


def samples_of(profile: str, dataset: params.Dataset) -> tuple[int | None, int, str]:
    """Samples of stage 1 (None where only the raw data tell) and questions of stage 2 in one epoch, and how they are
    known."""
    second = dataset.instruction_questions
    if dataset.sources == ["simulated"]:
        first, known = dataset.simulated.scenes["pretrain"], "dataset.simulated.scenes.pretrain"
    elif profile in params.AUTHENTIC_PROFILES:
        counted = published()["pretraining_samples"]
        first, known = counted["count"], counted["source"]
    else:
        return None, second, ""
    return first, second, f"stage 1 sees as many samples as {known} says, stage 2 dataset.instruction_questions at most"


def stage1_steps(samples: int, config: params.Stage1) -> int:
    """Optimiser steps: each tier's samples in batches, the last of a tier perhaps short, as `schedule.batches` cuts
    them; every epoch the same.

    Raises:
        Unplannable: fewer samples than tiers.
    """
    if samples < config.tiers:
        raise Unplannable(f"{samples} samples in {config.tiers} tiers: there must be one a tier")
    tier = phases(config.schedule, torch.arange(samples), tiers=config.tiers)
    return config.epochs * sum(-(-size // config.batch_size) for size in torch.bincount(tier).tolist())


def plan(
    profile: str,
    machine: Machine,
    speed: Speed,
    *,
    variant: str = "",
    model: str = "",
    samples: tuple[int | None, int | None] = (None, None),
    tiles: int | None = None,
    texts: tuple[int | None, int | None, int | None] = (None, None, None),
    told: Callable[[str], None] = lambda _: None,
) -> Plan:
    """The plan of a profile's training, of one variant if it is given; `told` hears what is being counted.

    `samples` overrides the samples of stage 1 and stage 2 in one epoch, `tiles` those of an image (InternVL), `texts`
    the tokens of prompt, answer and padding.

    Raises:
        ParamsError: there is no such profile or variant.
        Unplannable: the model's shape or the number of samples is not known, or does not go together.
    """
    loaded = params.load("base", "dataset", "model", "train", profile=profile, variant=variant)
    shape = shape_of(loaded.base, loaded.model, model)
    load = _load_of(shape, loaded, tiles, texts)
    first, second, known = samples_of(loaded.profile, loaded.dataset)
    first, second = (own if given is None else given for given, own in zip(samples, (first, second), strict=True))
    if first is None or min(first, second) < 1:
        raise Unplannable(
            f"profile {loaded.profile}: {first} samples of stage 1 and {second} of stage 2; say how many with "
            "--samples and --questions"
        )
    train = loaded.train
    stages: dict[str, StagePlan] = {}
    for stage, one, count in ((1, train.stage1, first), (2, train.stage2, second)):
        if one.epochs:
            steps = stage1_steps(count, one) if stage == 1 else one.epochs * -(-count // one.batch_size)
            made = _Stage(shape, stage, train, load, machine, speed, told)
            stages[f"stage {stage}"] = made.plan(one.epochs * count, steps)
    given = "the samples of an epoch are as given" if None not in samples else known
    return Plan(
        profile=loaded.profile,
        variant=loaded.variant,
        model=shape.name,
        source=shape.source,
        parameters=parameters_of(shape, train.stage2.lora),
        load=load,
        machine=machine,
        speed=speed.told(),
        runs=len(params.runs()),
        stages=stages,
        assumes=[given, *_assumed(shape, loaded, load, tiles), *_trained_as(train, machine)],
    )


def _load_of(
    shape: ModelShape,
    loaded: params.Loaded,
    tiles: int | None,
    texts: tuple[int | None, int | None, int | None],
) -> Load:
    usual = published()["texts"]["miniature" if shape.ordered is not None else "published"]
    names = ("prompt_tokens", "answer_tokens", "padding_tokens")
    tokens = [usual[name] if given is None else given for given, name in zip(texts, names, strict=True)]
    side, model = loaded.dataset.simulated.size_px, loaded.model
    frame = (side, side) if loaded.dataset.sources == ["simulated"] else CAMERA
    tiles = tiles_of(shape, model.max_tiles, frame) if tiles is None else tiles
    if min(tiles, *tokens[:2]) < 1 or tokens[2] < 0:
        raise Unplannable(f"{tiles} tiles, {tokens[0]} and {tokens[1]} tokens, {tokens[2]} of padding: too few")
    source = usual["source"] if None in texts else "as given"
    load = Load(tiles, *tokens, source, frame, (model.min_pixels, model.max_pixels))
    try:
        image_of(shape, load.piece(1))
    except ValueError as error:
        raise Unplannable(str(error)) from error
    return load


def tiles_of(shape: ModelShape, max_tiles: int, frame: tuple[int, int]) -> int:
    """Tiles that an image of `frame`, width and height in pixels, becomes."""
    if shape.family.kind != "internvl":
        return 1
    blank = png_bytes(np.zeros(frame[::-1], dtype=np.uint8))
    side = int(np.atleast_1d(shape.config.vision_config.image_size)[0])
    return len(tiled(blank, side, max_tiles))


def _assumed(shape: ModelShape, loaded: params.Loaded, load: Load, tiles: int | None) -> list[str]:
    """What the counts take for granted about images."""
    simulated = loaded.dataset.sources == ["simulated"]
    known = "dataset.simulated.size_px" if simulated else "the commonest infrared frame, an assumption"
    said = [f"an image is {load.frame[0]} x {load.frame[1]} pixels ({known})"]
    if shape.family.kind == "internvl":
        why = f"model.max_tiles is {loaded.model.max_tiles}" if tiles is None else "as given"
        said += [f"it becomes {load.tiles} tile{'s' * (load.tiles > 1)} ({why})"]
    if shape.family.kind == "qwen2_vl":
        least, most = load.pixels
        said += [f"it is read at {least:,} to {most:,} pixels of area (model.min_pixels, model.max_pixels)"]
    return said


def _trained_as(train: params.Train, machine: Machine) -> list[str]:
    """Which of the layouts params.yaml asks for, and what of it no layout has."""
    sharded = train.parallel == "shard" and machine.gpus > 1
    layout = ("FSDP2" if sharded else "replicated") + (", checkpointed" if train.activation_checkpointing else "")
    said = [f"params.yaml trains in the layout `{layout}`"]
    if train.stage2.features_mb:
        said += ["stage 2 computes every image at every step; what train.stage2.features_mb saves is not counted"]
    return said


def parameters_of(shape: ModelShape, lora: params.Lora) -> dict[str, int]:
    """How many parameters vision encoder, projector, language model, the whole model and stage 2's LoRA have."""
    model = model_of(shape)
    family = family_around(shape, model)
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    counted = {part: sum(sizes[name] for name in family.names(part)) for part in family.parts}
    adapted, _ = prepare(shape, 2, lora)
    added = sum(p.numel() for name, p in adapted.named_parameters() if ".lora_" in name)
    return counted | {"all": sum(sizes.values()), "LoRA": added}


class _Stage:
    def __init__(
        self,
        shape: ModelShape,
        stage: Stage,
        train: params.Train,
        load: Load,
        machine: Machine,
        speed: Speed,
        told: Callable[[str], None],
    ) -> None:
        self.shape, self.stage, self.machine, self.speed, self.told = shape, stage, machine, speed, told
        self.one = train.stage1 if stage == 1 else train.stage2
        self.lora = train.stage2.lora
        share = -(-self.one.batch_size // machine.gpus)
        micro = train.micro if machine.micro is None else machine.micro
        size = min(micro, share) if micro else share
        self.pieces = -(-share // size)
        self.piece = load.piece(size)
        self.setting = Setting(
            pieces=self.pieces,
            precision=train.precision,
            held=machine.held,
            ranks=machine.gpus,
            smoothing=train.smoothing,
        )
        self.model, self.family = prepare(shape, stage, self.lora)
        self.parameters = list(self.model.parameters())
        self.trained = sum(p.numel() for p in self.parameters if p.requires_grad)

    def plan(self, samples: int, steps: int) -> StagePlan:
        plain, lean = self._count(self.setting), self._count(replace(self.setting, checkpointed=True))
        columns: dict[Layout, Column] = {
            "replicated": self._column(plain.at_peak, plain, samples),
            "replicated, checkpointed": self._column(lean.at_peak, lean, samples),
        }
        if self.machine.gpus > 1:
            alone = replace(self.setting, cast=self.setting.precision == "bf16", ranks=1)
            whole, part = self._count(alone), self._count(replace(alone, checkpointed=True))
            columns["FSDP2"] = self._column(self.sharded(whole), whole, samples)
            columns["FSDP2, checkpointed"] = self._column(self.sharded(part), part, samples)
        tokens = image_of(self.shape, self.piece)[0] + self.piece.text_tokens
        checkpoint, result = OF_A_CHECKPOINT * self.trained, BYTES["fp32"] * self._result()
        return StagePlan(
            trained=self.trained,
            epochs=self.one.epochs,
            batch_size=self.one.batch_size,
            samples_at_a_time=self.piece.samples,
            pieces=self.pieces,
            samples=samples,
            steps=steps,
            tokens_per_sample=tokens,
            tokens=samples * tokens,
            states=plain.states,
            layouts=columns,
            checkpoint_bytes=checkpoint,
            result_bytes=result,
            # the oldest goes when the newest is whole
            disk_bytes=(KEPT + 1) * checkpoint + result,
        )

    def _count(self, setting: Setting) -> Counted:
        kind = "checkpointed" if setting.checkpointed else "without checkpointing"
        layout = "FSDP2" if setting.ranks < self.machine.gpus else "replicated"
        self.told(f"stage {self.stage}, {layout}, {kind}: counting one step")
        return count_step(self.shape, self.stage, self.lora, self.piece, setting)

    def _column(self, parts: dict[str, int], counted: Counted, samples: int) -> Column:
        total, memory = sum(parts.values()), self.machine.memory_gib * 2**30
        rate = self.speed.samples_per_second(self.stage, counted.flops)
        return Column(
            parts=parts,
            total=total,
            share=total / memory,
            fits=total <= USABLE * memory,
            tflop_per_sample=counted.flops / 1e12,
            samples_per_second=rate,
            hours=None if rate is None else samples / (rate * self.machine.gpus) / 3600,
        )

    def sharded(self, counted: Counted) -> dict[str, int]:
        """Bytes a GPU of `fully_shard` (torch's FSDP2, arXiv 2304.11277 for the scheme) on N GPUs.

        With P parameters of which T are trained, c bytes an element in computation, r parameters outside of all
        blocks, and at most l parameters (t of them trained) in a block:

        - sharded: (bytes of the weights as held + 12 T) / N: gradient and two moments in float32;
        - gathered: c (r + 2 l): the outermost group stays whole between forward and backward, and the next block is
          fetched while one computes;
        - not yet reduced: 4 * 2 t, for gradients are summed in float32;
        - the rest as counted with all weights in the type of computation, since no copies of them are kept.
        """
        gpus, element = self.machine.gpus, BYTES[self.setting.precision]
        weights = sum(p.numel() * BYTES["fp32" if p.requires_grad else self.machine.held] for p in self.parameters)
        inside = [list(layer.parameters()) for layer in blocks(self.model)]
        within = {id(p) for layer in inside for p in layer}
        root = sum(p.numel() for p in self.parameters if id(p) not in within)
        largest = max(sum(p.numel() for p in layer) for layer in inside)
        largest_trained = max(sum(p.numel() for p in layer if p.requires_grad) for layer in inside)
        rest = {part: size for part, size in counted.at_peak.items() if part not in STATES}
        return {
            SHARDED: (weights + 3 * BYTES["fp32"] * self.trained) // gpus,
            GATHERED: element * (root + AT_ONCE * largest),
            UNREDUCED: BYTES["fp32"] * AT_ONCE * largest_trained,
        } | rest

    def _result(self) -> int:
        """Parameters that the stage leaves behind: of stage 1 vision encoder (unless frozen) and projector in full, of
        stage 2 what it trains."""
        if self.stage == 2:
            return self.trained
        names = set(self.family.names(*self.family.stage1_parts))
        return sum(p.numel() for name, p in self.model.named_parameters() if name in names)
