"""`params.yaml`, typed: `common`, changed by the profile, changed by the variant; nothing else states a value.

`python -m irgpt_lib.params base` writes what the section `base` comes to under the current profile to
`artifacts/profile/base.json`. The stage `base` depends on that file and not on the profile's name, so that profiles
with the same base, such as `tiny` and `real`, share its weights.

`load("features", "difficulty")` returns those sections and no others, so that a notebook cannot use a value that DVC
does not watch for it. Every key is known here; an unknown one is an error that lists what exists.
"""

import os
import sys
from collections.abc import Mapping
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML

from irgpt_lib import artifacts

PROFILE_VARIABLE = "IRGPT_PROFILE"
RUNS_VARIABLE = "IRGPT_RUNS"
VARIANT_SECTIONS = ("model", "train")
# `dvc repro` runs the first; `make grid` runs the second, whose answers a clone brings along.
VARIANT_BLOCKS = ("variants", "grid")
# The paper's first principle of the dataset (section 3.1): no generated infrared.
AUTHENTIC_PROFILES = ("paper",)

Positive = Field(gt=0)
Share = Field(ge=0, le=1)
Masking = Literal["random", "infmae"]


class ParamsError(ValueError):
    """`params.yaml` holds something that the study does not know, or lacks something that it needs."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def table(self) -> dict[str, Any]:
        """Dotted key to value, for showing a section in a notebook."""
        return dict(_flat(self.model_dump()))


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in tree.items():
        rows += _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
    return rows


class MiniatureShape(Section):
    """Sizes of the miniature InternVL."""

    image_px: int = Field(ge=64)
    patch_px: int = Positive
    vision_width: int = Positive
    vision_layers: int = Positive
    language_width: int = Positive
    language_layers: int = Positive
    heads: int = Positive
    coordinate_steps: int = Field(gt=0, le=1000)


class BaseRecipe(Section):
    """How the miniature is pre-trained on visible renders."""

    dense_steps: int = Positive
    language_steps: int = Positive
    fit_steps: int = Positive
    joint_steps: int = Positive
    batch_size: int = Positive
    dense_lr: float = Positive
    language_lr: float = Positive
    fit_lr: float = Positive
    joint_lr: float = Positive
    vision_lr_share: float = Positive
    fit_weight: float
    dense_weight: float
    smoothing: float = Field(ge=0)


class Base(Section):
    """The model that the study starts from: made here (`miniature`), or a checkpoint in transformers' InternVL classes
    (`pretrained`: `weights` is a local folder or a hub id)."""

    kind: Literal["miniature", "pretrained"]
    weights: str
    seed: int
    threads: int = Positive
    scenes: int = Positive
    evaluation_scenes: int = Positive
    mix: dict[str, float]
    shape: MiniatureShape
    recipe: BaseRecipe


class SimulatedSource(Section):
    """The embedded world: how many scenes, how large, what share of captions is swapped on purpose."""

    size_px: int = Field(ge=64)
    scenes: dict[Literal["pretrain", "instruction", "benchmark"], int]
    mix: dict[str, float]
    bands: dict[Literal["nir", "swir", "tir"], float]
    paired_share: float = Share
    swapped_caption_share: float = Share


class NearDuplicates(Section):
    """How many of the 64 bits of a perceptual hash may differ for one of two images to be dropped, and for both to
    share a split. A camera that stands still takes frames a few bits apart that show different people."""

    drop_distance: int = Field(ge=0, le=16)
    group_distance: int = Field(ge=0, le=16)


class Enhancement(Section):
    """How a night's visible image is made readable before it is described; `weights` are Zero-DCE's."""

    kind: Literal["clahe", "zero_dce", "none"]
    weights: str


class Describer(Section):
    """Who describes visible images (path IV): no one, an OpenAI-compatible server, or a transformers model.

    `adapt` says who rewrites a draft for infrared: rules, or the model, whose text is held to the rules.
    `key_variable` names the environment variable that holds the server's key. `conversations` is how many samples of
    the instruction split get each of LLaVA's three prompt kinds.
    """

    kind: Literal["none", "server", "local"]
    model: str
    url: str
    key_variable: str
    concurrency: int = Positive
    per_minute: int = Positive
    max_tokens: int = Positive
    adapt: Literal["rules", "model"]
    conversations: int = Field(ge=0)


class Dataset(Section):
    """Sources, splits, captions and questions; `sources` names entries of the registry, or `simulated`.

    `keep_every` overrides a source's own frame rate (VTUAV: 100 keeps one frame in a hundred). `flavour` is `study`
    (balanced answers) or `released` (the release's own choices); `relations` are those that Relationship asks about.
    """

    sources: list[str]
    authentic_only: bool
    raw_root: str
    workers: int = Positive
    shard_records: int = Positive
    keep_every: dict[str, int]
    near_duplicates: NearDuplicates
    enhancement: Enhancement
    describer: Describer
    flavour: Literal["study", "released"]
    relations: list[Literal["left", "right", "front", "behind", "near", "far"]] = Field(min_length=1)
    seed: int
    split_shares: dict[Literal["pretrain", "instruction", "benchmark"], float]
    instruction_questions: int = Positive
    benchmark_questions: int = Positive
    max_rejected_share: float = Share
    simulated: SimulatedSource


class Extractor(Section):
    """The masked autoencoder (transformers' ViTMAE): `weights` is a folder or hub id, or empty to build this shape."""

    weights: str
    image_px: int = Positive
    patch_px: int = Positive
    width: int = Positive
    layers: int = Positive
    heads: int = Positive
    decoder_width: int = Positive
    decoder_layers: int = Positive


class OtherExtractor(Section):
    """What a further extractor has of its own."""

    seed: int
    masking: Masking


class Features(Section):
    """Masked pre-training of the extractor on infrared and gray visible images (reading Q4).

    Each of `others` is trained beside it, with a seed and a masking rule of its own, to see how stable the ranking is.
    """

    extractor: Extractor
    mask_ratio: float = Field(gt=0, lt=1)
    masking: Masking
    epochs: int = Field(ge=0)
    batch_size: int = Positive
    lr: float = Positive
    weight_decay: float
    seed: int
    others: list[OtherExtractor]
    threads: int = Positive


class Clip(Section):
    """Lesson 2's CLIP: an open_clip model name with `pretrained` weights, or the miniature of this shape (`name`
    empty), which is first pre-trained on simulated visible scenes and their captions."""

    name: str
    pretrained: str
    image_px: int = Positive
    patch_px: int = Positive
    width: int = Positive
    layers: int = Positive
    text_width: int = Positive
    text_layers: int = Positive
    embedding: int = Positive
    context: int = Positive
    pretrain_scenes: int = Field(ge=0)
    pretrain_epochs: int = Field(ge=0)
    pretrain_batch_size: int = Positive
    pretrain_lr: float = Positive


class Explorer(Section):
    """How many samples bring their pictures into the page of the explorer, and how large these are."""

    pictures: int = Field(ge=0)
    thumbnail_px: int = Positive


class Difficulty(Section):
    """Both lessons and how they become one ranking (section 4.2; readings Q1-Q12)."""

    sign: Literal["figure", "printed"]
    bandwidth_sample: int = Positive
    precision: Literal["exact", "fast"]
    permutations: int = Positive
    memory_mb: int = Positive
    clip: Clip
    warm_up_epochs: int = Positive
    warm_up_lr: float = Positive
    batch_size: int = Positive
    bank: int = Positive
    combine: Literal["borda", "lambda", "z_sum", "max", "lexicographic"]
    lesson1_weight: float = Share
    explorer: Explorer
    seed: int
    threads: int = Positive


class Model(Section):
    """The model that is trained: with neither `weights` nor `shape`, the study's base.

    `weights` is a local folder or hub id of that kind, `encoder` a contrastive encoder for a PandaGPT-type model, and
    `shape` builds an untrained miniature from `seed`. Tiles (InternVL) or pixels (Qwen2-VL) bound what it sees.
    """

    kind: Literal["internvl", "qwen2_vl", "llava", "pandagpt"]
    weights: str
    encoder: str
    seed: int
    shape: MiniatureShape | None
    max_tiles: int = Positive
    min_pixels: int = Positive
    max_pixels: int = Positive


class Stage1(Section):
    """Incremental pre-training: vision encoder and projector through a frozen language model, by the curriculum.

    `lesson1` and `lesson2` are the switches of Table 3: a lesson in use, turned round, or left out.
    """

    epochs: int = Field(ge=0)
    batch_size: int = Positive
    vision_lr: float = Positive
    projector_lr: float = Positive
    weight_decay: float
    warm_up: float = Share
    scheduler: Literal["cosine", "constant_with_warmup"]
    schedule: Literal[
        "ascending",
        "descending",
        "bidirectional",
        "random",
        "descending_stratified",
        "ascending_stratified",
        "cumulative",
    ]
    lesson1: Literal["use", "anti", "none"]
    lesson2: Literal["use", "anti", "none"]
    tiers: int = Positive
    weights: Literal["literal", "normalise_mean", "continuous", "none"]


class Lora(Section):
    rank: int = Positive
    alpha: int = Positive
    dropout: float = Share


class Stage2(Section):
    """Instruction tuning: the whole projector and LoRA on the language model."""

    epochs: int = Field(ge=0)
    batch_size: int = Positive
    lr: float = Positive
    weight_decay: float
    warm_up: float = Share
    features_mb: int = Field(ge=0)
    lora: Lora


class Train(Section):
    stage1: Stage1
    stage2: Stage2
    smoothing: float = Field(ge=0)
    augment: Literal["none", "tone"]
    micro: int = Field(ge=0)
    save_every: int = Positive
    parallel: Literal["replicate", "shard"]
    activation_checkpointing: bool
    ranks: int = Positive
    tracker: Literal["none", "dvclive", "tensorboard", "wandb", "mlflow"]
    tracker_network: bool
    precision: Literal["fp32", "bf16"]
    workers: int = Field(ge=0)
    threads: int = Positive


class Evaluate(Section):
    """`questions` a task are answered at most (the first ones), zero-shot, fine-tuned and with shuffled images."""

    questions: int = Positive
    batch_size: int = Positive
    threads: int = Positive


class Ablations(Section):
    """Bootstrap draws, confidence level and seed of the intervals; the seed does not touch training."""

    draws: int = Positive
    level: float = Field(gt=0, lt=1)
    seed: int


class Tables(Section):
    draws: int = Positive
    level: float = Field(gt=0, lt=1)
    seed: int


class Failures(Section):
    """Cards a task of the worst answers; `probes` asks about absent objects, at least two; bootstrap of the rates."""

    cards: int = Positive
    probes: int = Field(ge=2)
    batch_size: int = Positive
    draws: int = Positive
    level: float = Field(gt=0, lt=1)
    seed: int
    threads: int = Positive


class Robustness(Section):
    """`questions` a task are asked again at most, with options rotated and with images shown in other ways."""

    questions: int = Positive
    batch_size: int = Positive
    draws: int = Positive
    level: float = Field(gt=0, lt=1)
    seed: int
    threads: int = Positive


class Checks(Section):
    """Do the scores measure difficulty? Shares of captions swapped on purpose, on at most `noise_samples` samples;
    further seeds of the warm-up; steps of the bandwidth to each side; numbers of random features that stand in for the
    kernel; `batch_size` of the base model."""

    noise_shares: list[Annotated[float, Share]] = Field(min_length=1)
    noise_samples: int = Positive
    warm_up_seeds: list[int]
    bandwidth_steps: int = Field(ge=1)
    random_features: list[Annotated[int, Field(ge=2, multiple_of=2)]]
    draws: int = Positive
    level: float = Field(gt=0, lt=1)
    seed: int
    batch_size: int = Positive
    threads: int = Positive


SECTIONS: dict[str, type[Section]] = {
    "base": Base,
    "dataset": Dataset,
    "features": Features,
    "difficulty": Difficulty,
    "model": Model,
    "train": Train,
    "evaluate": Evaluate,
    "ablations": Ablations,
    "tables": Tables,
    "checks": Checks,
    "failures": Failures,
    "robustness": Robustness,
}
TOP_LEVEL = ("profile", "seeds", "common", "profiles", "variants", "grid")


class Loaded:
    """The named sections as attributes, and the profile and variant that they belong to."""

    def __init__(self, profile: str, variant: str, sections: dict[str, Section]) -> None:
        self.profile = profile
        self.variant = variant
        self._sections = sections

    def __getattr__(self, name: str) -> Any:
        sections = self.__dict__.get("_sections", {})
        if name not in sections:
            raise AttributeError(f"section {name!r} was not loaded; this notebook loaded {', '.join(sections)}")
        return sections[name]

    def rows(self) -> list[dict[str, Any]]:
        """One row a value: section.key and value, for showing what a run used."""
        found = [(f"{name}.{key}", value) for name, s in self._sections.items() for key, value in s.table().items()]
        return [{"parameter": key, "value": value} for key, value in found]


def read(file: Path | None = None) -> dict[str, Any]:
    """`params.yaml` as plain containers, its top level checked.

    Raises:
        ParamsError: a top-level key is unknown or missing, or a profile or variant has an unknown section.
    """
    file = file or artifacts.root() / "params.yaml"
    tree = deepcopy(_parsed(file.read_text(encoding="utf-8")))
    _require_keys(f"{file.name}", tree, TOP_LEVEL, complete=True)
    _require_keys(f"{file.name}: common", tree["common"], tuple(SECTIONS), complete=True)
    for block in ("profiles", *VARIANT_BLOCKS):
        _require_keys(f"{file.name}: {block}", tree[block], tuple(tree[block] or ()))
    for name, profile in tree["profiles"].items():
        _require_keys(f"{file.name}: profiles.{name}", profile, tuple(SECTIONS), complete=True)
    for block in VARIANT_BLOCKS:
        for name, variant in tree[block].items():
            _require_keys(f"{file.name}: {block}.{name}", variant, VARIANT_SECTIONS)
    if twice := sorted(tree["variants"].keys() & tree["grid"].keys()):
        raise ParamsError(f"{file.name}: {twice[0]!r} stands in variants and in grid; take it out of one of them")
    return tree


@lru_cache(maxsize=8)
def _parsed(text: str) -> Any:
    return YAML(typ="safe").load(text)


def _require_keys(where: str, tree: Any, known: tuple[str, ...], *, complete: bool = False) -> None:
    if not isinstance(tree, Mapping):
        may_hold = f"; it may hold {', '.join(known)}" if known else ""
        raise ParamsError(f"{where}: {tree!r} where a mapping is needed{may_hold}")
    if unknown := sorted(tree.keys() - set(known)):
        raise ParamsError(f"{where}: unknown {', '.join(map(repr, unknown))}; there are {', '.join(known)}")
    if complete and (missing := [key for key in known if key not in tree]):
        raise ParamsError(f"{where}: missing {', '.join(missing)} (write `{missing[0]}: {{}}` where nothing changes)")


def merged(below: Any, above: Any) -> Any:
    """`above` laid over `below`: mappings join key by key, everything else is replaced."""
    if not isinstance(below, Mapping) or not isinstance(above, Mapping):
        return above
    return {
        **below,
        **{key: merged(below[key], value) if key in below else value for key, value in above.items()},
    }


def current_profile(given: str = "", tree: Mapping[str, Any] | None = None) -> str:
    """The profile given, else that of the variable `IRGPT_PROFILE`, else that of `params.yaml`.

    Raises:
        ParamsError: there is no such profile; lists those that exist.
    """
    tree = tree or read()
    profile = given or os.environ.get(PROFILE_VARIABLE) or tree["profile"]
    if profile not in tree["profiles"]:
        raise ParamsError(f"unknown profile {profile!r}; params.yaml has {', '.join(tree['profiles'])}")
    return profile


def load(*sections: str, profile: str = "", variant: str = "") -> Loaded:
    """The named sections, frozen and checked: `common`, then the profile's changes, then the variant's.

    Raises:
        ParamsError: an unknown section, profile, variant or key, or a value of the wrong type or range.
    """
    tree = read()
    profile = current_profile(profile, tree)
    if unknown := [s for s in sections if s not in SECTIONS]:
        raise ParamsError(f"unknown section {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    known = tree["variants"] | tree["grid"]
    if variant and variant not in known:
        raise ParamsError(f"unknown variant {variant!r}; params.yaml has {', '.join(known)}")
    changes = known[variant] if variant else {}
    loaded = {}
    for name in sections:
        values = merged(tree["common"][name], tree["profiles"][profile][name])
        try:
            loaded[name] = SECTIONS[name].model_validate(merged(values, changes.get(name, {})))
        except ValidationError as error:
            raise ParamsError(_readable(name, profile, variant, error)) from None
    if profile in AUTHENTIC_PROFILES and "dataset" in loaded and not loaded["dataset"].authentic_only:
        raise ParamsError(
            f"params.yaml (profile {profile}): dataset.authentic_only is false, but nothing simulated or generated may "
            "enter this profile; use another one for such data"
        )
    return Loaded(profile, variant, loaded)


def _readable(section: str, profile: str, variant: str, error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        place = [str(part) for part in problem["loc"]]
        message = problem["msg"]
        if problem["type"] == "extra_forbidden":
            message = f"unknown parameter; there are {', '.join(_fields_at(SECTIONS[section], place[:-1]))}"
        elif problem["type"] == "missing":
            message = "missing"
        lines.append(f"  {'.'.join([section, *place])}: {message}")
    where = f"profile {profile}" + (f", variant {variant}" if variant else "")
    return f"params.yaml ({where}):\n" + "\n".join(lines)


def _fields_at(model: type[Section], place: list[str]) -> list[str]:
    for part in place:
        model = model.model_fields[part].annotation
    return list(model.model_fields)


def runs(block: Literal["variants", "grid"] = "variants") -> list[tuple[str, int]]:
    """Every (variant, seed) of a block of `params.yaml`, in its order: what `train` and `evaluate` are run for, or the
    rows that `irgpt_lib.grid` runs.

    The variable `IRGPT_RUNS`, for example `cl-0,none-0`, keeps only the runs that it names: the tests execute the
    notebooks for one run only.

    Raises:
        ParamsError: the variable names a run that does not exist; lists those that do.
    """
    tree = read()
    every = {name: {f"{v}-{seed}": (v, seed) for v in tree[name] for seed in tree["seeds"]} for name in VARIANT_BLOCKS}
    known = every["variants"] | every["grid"]
    kept = os.environ.get(RUNS_VARIABLE, "").split(",") if os.environ.get(RUNS_VARIABLE) else list(known)
    if unknown := [name for name in kept if name not in known]:
        raise ParamsError(f"{RUNS_VARIABLE} names the run {unknown[0]!r}; there are {', '.join(known)}")
    return [run for name, run in every[block].items() if name in kept]


def shown_run() -> tuple[str, int]:
    """The (variant, seed) whose answers are looked at one by one: the paper's method, the first seed."""
    return "cl", read()["seeds"][0]


def main(*sections: str) -> int:
    """Write each named section, as the current profile states it, to `artifacts/profile/<section>.json`."""
    try:
        loaded = load(*sections)
    except ParamsError as error:
        print(error, file=sys.stderr)
        return 2
    for name in sections:
        artifacts.write_json(f"profile/{name}.json", getattr(loaded, name).model_dump())
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
