"""transformers' Trainer, with two changes: the batches come in a given order, and each sample's loss has its weight."""

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from irgpt_lib.compat import ensure_torchvision

ensure_torchvision()

from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from irgpt_lib.models.images import decode_image
from irgpt_lib.models.vlm import VisionLanguageModel
from irgpt_lib.training.loss import token_losses, weighted_loss


class TextImages(Dataset):
    """One infrared image with one text exchange and one weight an item; images are decoded when they are asked for."""

    def __init__(
        self,
        images: Sequence[bytes],
        questions: Sequence[str],
        answers: Sequence[str],
        weights: Sequence[float],
        image_px: int,
    ) -> None:
        lengths = {len(images), len(questions), len(answers), len(weights)}
        if len(lengths) != 1:
            raise ValueError(f"images, questions, answers and weights differ in number: {sorted(lengths)}")
        self.images, self.questions, self.answers, self.weights = images, questions, answers, weights
        self.image_px = image_px

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            "image": decode_image(self.images[index], self.image_px),
            "question": self.questions[index],
            "answer": self.answers[index],
            "weight": self.weights[index],
        }


@dataclass(frozen=True)
class Collator:
    """Items to the tensors that the model takes, and `sample_weight`."""

    vlm: VisionLanguageModel

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = self.vlm.encode([i["question"] for i in items], [i["answer"] for i in items])
        return {
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask,
            "labels": batch.labels,
            "pixel_values": self.vlm.pixel_values(np.stack([i["image"] for i in items])),
            "sample_weight": torch.tensor([i["weight"] for i in items], dtype=torch.float32),
        }


class Progress(TrainerCallback):
    """One moving line in the terminal; it leaves the notebook quiet."""

    def __init__(self, label: str) -> None:
        self.label = label

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.bar = tqdm(total=state.max_steps, desc=self.label, mininterval=2.0)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.bar.update(1)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.bar.close()


class CurriculumTrainer(Trainer):
    """Trains on `batches`, lists of item indices, one after the other, with the weighted loss of Eq. 6.

    `frozen` modules stay in evaluation mode. `history` gets one row a step: the mean loss of the batch before and
    after weighting.
    """

    # The loss is already divided by the batch; the Trainer divides by the accumulation steps itself.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        *args: Any,
        batches: Sequence[Sequence[int]],
        vlm: VisionLanguageModel,
        smoothing: float,
        frozen: Sequence[nn.Module] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.batches, self.vlm, self.smoothing, self.frozen = batches, vlm, smoothing, frozen
        self.history: list[dict[str, float]] = []

    def get_train_dataloader(self) -> DataLoader:
        loader = DataLoader(
            self.train_dataset,
            batch_sampler=list(self.batches),
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
        )
        return self.accelerator.prepare(loader)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, torch.Tensor], return_outputs: bool = False, **_: Any
    ) -> Any:
        for module in self.frozen:
            module.eval()
        weights, labels = inputs.pop("sample_weight"), inputs.pop("labels")
        outputs = model(**inputs)
        ordered = self.vlm.ordered if self.smoothing else None
        ordered = ordered if ordered is None else ordered.to(labels.device)
        smoothing = self.smoothing if ordered is not None else 0.0
        losses = token_losses(outputs.logits, labels, ordered=ordered, smoothing=smoothing)
        loss = weighted_loss(losses, weights.to(losses.device))
        plain, weighted = losses.mean().item(), loss.item()
        if not math.isfinite(weighted):
            raise FloatingPointError(
                f"the loss is {weighted} at step {len(self.history) + 1}; lower the learning rates in params.yaml"
            )
        self.history.append({"step": len(self.history) + 1, "loss": plain, "weighted_loss": weighted})
        return (loss, outputs) if return_outputs else loss


def fit(
    vlm: VisionLanguageModel,
    model: nn.Module,
    data: TextImages,
    batches: Sequence[Sequence[int]],
    groups: Sequence[tuple[Sequence[nn.Parameter], float]],
    *,
    scheduler: str,
    warm_up: float,
    weight_decay: float,
    smoothing: float,
    precision: str,
    workers: int,
    seed: int,
    label: str,
    frozen: Sequence[nn.Module] = (),
) -> pd.DataFrame:
    """One pass over `batches` with AdamW; `groups` gives each parameter group its peak learning rate.

    `warm_up` is a share of the steps, 0-1. Without batches nothing is trained.

    Returns:
        One row a step: `step` (from 1), `loss` (mean over the batch), `weighted_loss`.

    Raises:
        FloatingPointError: the loss is no longer finite.
    """
    if not batches:  # with no steps to take, the Trainer would fall back to three epochs
        return pd.DataFrame(columns=["step", "loss", "weighted_loss"])
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            output_dir=scratch,
            max_steps=len(batches),
            lr_scheduler_type=scheduler,
            # the first of n warm-up steps has rate 0, so that one forced step would waste a whole batch
            warmup_steps=round(warm_up * len(batches)),
            max_grad_norm=1.0,
            bf16=precision == "bf16",
            use_cpu=not torch.cuda.is_available(),
            seed=seed,
            data_seed=seed,
            save_strategy="no",
            report_to=[],
            logging_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_num_workers=workers,
            dataloader_pin_memory=torch.cuda.is_available(),
        )
        optimiser = torch.optim.AdamW(
            [{"params": list(p), "lr": lr} for p, lr in groups], weight_decay=weight_decay, betas=(0.9, 0.98)
        )
        trainer = CurriculumTrainer(
            model=model,
            args=arguments,
            train_dataset=data,
            data_collator=Collator(vlm),
            optimizers=(optimiser, None),
            callbacks=[Progress(label)],
            batches=batches,
            vlm=vlm,
            smoothing=smoothing,
            frozen=frozen,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return pd.DataFrame(trainer.history)
