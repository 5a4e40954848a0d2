"""The two stages of section 4.1: which parameters each trains, in which order it reads the data, what it leaves.

Stage 1, incremental pre-training, trains the vision encoder and the projector through the frozen language model, by
the curriculum. Stage 2, instruction tuning, trains the whole projector and LoRA on the language model.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from irgpt_lib import params
from irgpt_lib.compat import ensure_torchvision

ensure_torchvision()

from peft import LoraConfig, PeftModel, get_peft_model

from irgpt_lib.irtd.captions import CAPTION_PROMPT
from irgpt_lib.models.vlm import PARTS, VisionLanguageModel, parameters_of
from irgpt_lib.training.trainer import TextImages, fit

# The vision encoder has projections of the same names: a bare list of them would put LoRA there too.
LANGUAGE_LINEAR = r".*language_model\..*\.(q|k|v|o|gate|up|down)_proj"
PROJECTOR = "multi_modal_projector"
HISTORY = ["step", "loss", "weighted_loss", "tier", "stage"]
STAGE1_FILE, ADAPTER_FOLDER = "stage1.safetensors", "adapter"


def trainable(model: torch.nn.Module) -> set[str]:
    """The names of the parameters that take a gradient."""
    return {name for name, p in model.named_parameters() if p.requires_grad}


def stage1(
    vlm: VisionLanguageModel,
    samples: pd.DataFrame,
    order: pd.DataFrame,
    config: params.Train,
    *,
    seed: int,
) -> pd.DataFrame:
    """Train vision encoder and projector on captions in the given order; changes `vlm` in place.

    `samples` is indexed by sample_id and holds `infrared` and `caption`. An empty order trains nothing.

    Returns:
        One row a step: step, loss, weighted_loss, tier (of its first sample), stage.
    """
    if order.empty:
        return pd.DataFrame(columns=HISTORY)
    model = vlm.model
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith((PARTS["vision"], PARTS["projector"])))
    rows = samples.loc[order["sample_id"]]
    prompts, weights = [CAPTION_PROMPT] * len(rows), order["weight"].tolist()
    data = TextImages(rows["infrared"].tolist(), prompts, rows["caption"].tolist(), weights, vlm.image_px)
    one = config.stage1
    batches = [group.to_numpy() for _, group in order.groupby("batch", sort=True)["position"]]
    history = fit(
        vlm,
        model,
        data,
        [b.tolist() for b in batches],
        [
            (parameters_of(model, "vision"), one.vision_lr),
            (parameters_of(model, "projector"), one.projector_lr),
        ],
        scheduler=one.scheduler,
        warm_up=one.warm_up,
        weight_decay=one.weight_decay,
        smoothing=config.smoothing,
        precision=config.precision,
        workers=config.workers,
        seed=seed,
        label="stage 1",
        frozen=[model.model.language_model],
    )
    first = order.groupby("batch", sort=True)["tier"].first().to_numpy()
    return history.assign(tier=first, stage="stage 1")


def stage2(
    vlm: VisionLanguageModel,
    images: Sequence[bytes],
    questions: Sequence[str],
    answers: Sequence[str],
    config: params.Train,
    *,
    seed: int,
) -> tuple[PeftModel, pd.DataFrame]:
    """Instruction tuning, in a random order drawn from `seed`: projector in full and LoRA on the language model only.

    Returns:
        The adapted model, and one row a step: step, loss, weighted_loss, stage.
    """
    two = config.stage2
    torch.manual_seed(seed)
    lora = LoraConfig(
        r=two.lora.rank,
        lora_alpha=two.lora.alpha,
        lora_dropout=two.lora.dropout,
        target_modules=LANGUAGE_LINEAR,
        modules_to_save=[PROJECTOR],
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(vlm.model, lora)
    batches = []
    for epoch in range(two.epochs):
        order = np.random.default_rng([seed, epoch]).permutation(len(images))
        batches += [order[i : i + two.batch_size].tolist() for i in range(0, len(order), two.batch_size)]
    history = fit(
        vlm,
        model,
        TextImages(images, questions, answers, [1.0] * len(images), vlm.image_px),
        batches,
        [([p for p in model.parameters() if p.requires_grad], two.lr)],
        scheduler="cosine",
        warm_up=two.warm_up,
        weight_decay=two.weight_decay,
        smoothing=config.smoothing,
        precision=config.precision,
        workers=config.workers,
        seed=seed,
        label="stage 2",
        frozen=[vlm.model.model.vision_tower],
    )
    return model, history.assign(stage="stage 2")


def stage1_state(vlm: VisionLanguageModel) -> dict[str, torch.Tensor]:
    """A copy of vision encoder and projector, which is all that stage 1 changes."""
    state = vlm.model.state_dict()
    prefixes = (PARTS["vision"], PARTS["projector"])
    return {name: t.detach().cpu().clone() for name, t in state.items() if name.startswith(prefixes)}


def joined_history(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """The losses of both stages, one under the other; stage 2 has no tiers and gets tier -1."""
    parts = [part for part in (first, second.assign(tier=-1)) if len(part)]
    return pd.concat(parts, ignore_index=True)[HISTORY]


def save_run(folder: Path, first: dict[str, torch.Tensor], adapted: PeftModel) -> None:
    """The files that evaluation reads: stage 1's weights and stage 2's adapter with its projector."""
    save_file(first, folder / STAGE1_FILE)
    config = adapted.peft_config["default"]
    base = Path(config.base_model_name_or_path or "")
    # where the base lay on this machine is no fact of the run, and would make equal runs differ in their bytes
    config.base_model_name_or_path = base.name if base.is_dir() else config.base_model_name_or_path
    adapted.save_pretrained(folder / ADAPTER_FOLDER, save_embedding_layers=False)  # LoRA touches none
    (folder / ADAPTER_FOLDER / "README.md").unlink()  # peft's empty model card, which repeats the path


def load_stage1(vlm: VisionLanguageModel, folder: Path) -> None:
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


def load_adapter(vlm: VisionLanguageModel, folder: Path) -> VisionLanguageModel:
    """The same model with stage 2's adapter merged into its weights, for evaluation; `vlm` itself is changed."""
    adapted = PeftModel.from_pretrained(vlm.model, folder / ADAPTER_FOLDER)
    return VisionLanguageModel(adapted.merge_and_unload(), vlm.tokenizer)
