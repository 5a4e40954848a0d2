"""The two stages of section 4.1: which parameters each trains, in which order it reads the data, what it leaves.

Stage 1, incremental pre-training, trains the vision encoder and the projector through the frozen language model, by
the curriculum. Stage 2, instruction tuning, trains the whole projector and LoRA on the language model.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from irgpt_lib import params
from irgpt_lib.compat import ensure_torchvision

ensure_torchvision()

from peft import LoraConfig, PeftModel, get_peft_model

from irgpt_lib.irtd.captions import CAPTION_PROMPT
from irgpt_lib.models.families.family import Family
from irgpt_lib.training.draws import Augment
from irgpt_lib.training.sharding import Parallel
from irgpt_lib.training.trainer import COLUMNS, OnStep, Recipe, Saving, TextImages, fit

HISTORY = [*COLUMNS, "stage"]
STAGE1_FILE, ADAPTER_FOLDER = "stage1.safetensors", "adapter"


def trainable(model: torch.nn.Module) -> set[str]:
    """The names of the parameters that take a gradient."""
    return {name for name, p in model.named_parameters() if p.requires_grad}


def stage1(
    vlm: Family,
    samples: pd.DataFrame,
    order: pd.DataFrame,
    config: params.Train,
    *,
    seed: int,
    augment: Augment = "none",
    micro: int = 0,
    parallel: Parallel = "replicate",
    activation_checkpointing: bool = False,
    saving: Saving | None = None,
    on_step: OnStep | None = None,
) -> pd.DataFrame:
    """Train vision encoder and projector on captions in the given order; changes `vlm` in place.

    `samples` is indexed by sample_id and holds `infrared` and `caption`. The language model only passes gradients on:
    it stays in evaluation mode and its own weights get none. An empty order trains nothing. For the other options see
    `trainer`.

    Returns:
        One row a step: step, loss, weighted_loss, gradient_norm, tier (of its first sample), stage.
    """
    if order.empty:
        return pd.DataFrame(columns=HISTORY)
    one = config.stage1
    rates = {"vision": one.vision_lr, "projector": one.projector_lr}
    trained = vlm.begin_stage1()
    rows = samples.loc[order["sample_id"]]
    data = TextImages(
        rows["infrared"].tolist(),
        [CAPTION_PROMPT] * len(rows),
        rows["caption"].tolist(),
        order["weight"].tolist(),
        vlm,
        order["sample_id"].tolist(),
    )
    grouped = order.groupby("batch", sort=True)
    history = fit(
        vlm,
        data,
        [members.tolist() for _, members in grouped["position"]],
        [(sorted(names), rates[part]) for part, names in trained.items() if names],
        Recipe(
            label="stage 1",
            scheduler=one.scheduler,
            augment=augment,
            micro=micro,
            parallel=parallel,
            activation_checkpointing=activation_checkpointing,
            **_shared(one, config, seed),
        ),
        tiers=grouped["tier"].first().tolist(),
        frozen=vlm.frozen(1),
        saving=saving,
        on_step=on_step,
    )
    return history.assign(stage="stage 1")


def stage2(
    vlm: Family,
    images: Sequence[bytes],
    questions: Sequence[str],
    answers: Sequence[str],
    config: params.Train,
    *,
    seed: int,
    augment: Augment = "none",
    micro: int = 0,
    features_mb: int = 0,
    parallel: Parallel = "replicate",
    activation_checkpointing: bool = False,
    saving: Saving | None = None,
    on_step: OnStep | None = None,
) -> tuple[PeftModel, pd.DataFrame]:
    """Instruction tuning, in a random order drawn from `seed`: projector in full and LoRA on the language model only.

    For the options see `trainer`.

    Returns:
        The adapted model, and one row a step: step, loss, weighted_loss, gradient_norm, tier (-1), stage.
    """
    two = config.stage2
    lora = LoraConfig(
        r=two.lora.rank,
        lora_alpha=two.lora.alpha,
        lora_dropout=two.lora.dropout,
        target_modules=vlm.lora_targets,
        modules_to_save=list(vlm.trained_in_full),
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # peft draws LoRA's A from the global generator
        model = get_peft_model(vlm.model, lora)
    batches = []
    for epoch in range(two.epochs):
        order = np.random.default_rng([seed, epoch]).permutation(len(images))
        batches += [order[i : i + two.batch_size].tolist() for i in range(0, len(order), two.batch_size)]
    history = fit(
        vlm,
        TextImages(images, questions, answers, [1.0] * len(images), vlm),
        batches,
        [(sorted(trainable(vlm.model)), two.lr)],
        Recipe(
            label="stage 2",
            scheduler="cosine",
            augment=augment,
            micro=micro,
            features_mb=features_mb,
            parallel=parallel,
            activation_checkpointing=activation_checkpointing,
            **_shared(two, config, seed),
        ),
        frozen=vlm.frozen(2),
        saving=saving,
        on_step=on_step,
    )
    return model, history.assign(stage="stage 2")


def _shared(stage: params.Stage1 | params.Stage2, config: params.Train, seed: int) -> dict[str, Any]:
    """What the recipes of both stages take from params."""
    return {
        "warm_up": stage.warm_up,
        "weight_decay": stage.weight_decay,
        "smoothing": config.smoothing,
        "precision": config.precision,
        "workers": config.workers,
        "seed": seed,
    }


def stage1_state(vlm: Family) -> dict[str, torch.Tensor]:
    """A copy of vision encoder and projector, which is all that stage 1 changes."""
    state = vlm.model.state_dict()
    return {name: state[name].detach().cpu().clone() for name in vlm.names(*vlm.stage1_parts)}


def joined_history(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """The losses of both stages, one under the other; stage 2 has no tiers and has tier -1."""
    parts = [part for part in (first, second) if len(part)]
    return pd.concat(parts, ignore_index=True)[HISTORY]


def by_tier(history: pd.DataFrame) -> pd.DataFrame:
    """One row a tier of stage 1, easiest first: `steps`, mean, first and last `loss` (nats), mean `weighted loss`, mean
    and greatest `gradient norm` before clipping."""
    return history.groupby("tier").agg(
        **{
            "steps": ("loss", "size"),
            "loss": ("loss", "mean"),
            "first loss": ("loss", "first"),
            "last loss": ("loss", "last"),
            "weighted loss": ("weighted_loss", "mean"),
            "gradient norm": ("gradient_norm", "mean"),
            "greatest gradient norm": ("gradient_norm", "max"),
        }
    )


def save_run(folder: Path, first: dict[str, torch.Tensor], adapted: PeftModel) -> None:
    """The files that evaluation reads: stage 1's weights and stage 2's adapter with its projector."""
    save_file(first, folder / STAGE1_FILE)
    config = adapted.peft_config["default"]
    base = Path(config.base_model_name_or_path or "")
    # where the base lay on this machine is no fact of the run, and would make equal runs differ in their bytes
    config.base_model_name_or_path = base.name if base.is_dir() else config.base_model_name_or_path
    adapted.save_pretrained(folder / ADAPTER_FOLDER, save_embedding_layers=False)  # LoRA touches none
    (folder / ADAPTER_FOLDER / "README.md").unlink()  # peft's empty model card, which repeats the path


def load_stage1(vlm: Family, folder: Path) -> None:
    """Put the stage-1 weights of `save_run` into the base model.

    Raises:
        KeyError: the file holds a tensor that stage 1 does not train in this model, or lacks one that it does.
        RuntimeError: a tensor has another shape.
    """
    file = folder / STAGE1_FILE
    state, expected = load_file(file), stage1_state(vlm).keys()
    if odd := sorted(state.keys() ^ expected):
        raise KeyError(f"{file} does not fit this base model: missing or unknown {odd[:3]}; run `dvc repro train`")
    vlm.model.load_state_dict(state, strict=False)


def load_adapter(vlm: Family, folder: Path) -> Family:
    """The same model with stage 2's adapter merged into its weights, for evaluation; `vlm` itself is changed."""
    adapted = PeftModel.from_pretrained(vlm.model, folder / ADAPTER_FOLDER)
    return vlm.with_model(adapted.merge_and_unload())
