"""One pass over a given order of batches with the weighted loss of Eq. 6, on one process or many.

transformers' Trainer is not used. Its resumption restores generator states, which drifts as soon as an augmentation
draws from them (workers draw ahead of the step that is saved); it stores the optimiser as a pickle; and on several
ranks it hands each rank a whole batch of its own, so one step would mix tiers. This loop is what remains when order,
randomness and checkpoints are taken out of it.
"""

import math
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from irgpt_lib.compat import ensure_torchvision

ensure_torchvision()

from transformers import get_scheduler

from irgpt_lib.models.families.family import Family
from irgpt_lib.training.checkpoint import Checkpoints, Progress, digest, put_back, state_tensors
from irgpt_lib.training.distributed import Ranks, ranks, share_of
from irgpt_lib.training.draws import Augment, Draw, DropoutKeys, draws_of, jitter_tone, keyed_dropout
from irgpt_lib.training.features import (
    Distinct,
    RememberedTower,
    distinct,
    remembered_tower,
    tower_outputs,
    worth_remembering,
)
from irgpt_lib.training.loss import answer_losses, weighted_loss
from irgpt_lib.training.sharding import Parallel, checkpointed, sharded, whole

COLUMNS = ["step", "loss", "weighted_loss", "gradient_norm", "tier"]
CLIPPED_AT = 1.0
# What a recipe says of the means only: a training may go on with others.
MEANS = ("label", "workers", "parallel", "activation_checkpointing")
BLANK = np.zeros((1, 1, 1), np.uint8)
# Told of each step: the row of the history and, where the step was made by this process, its samples and rates.
OnStep = Callable[[dict[str, float]], None]
ALIKE = "start every rank with the same command on the same files"


class TextImages(Dataset):
    """One infrared image with one text exchange and one weight an item; images are decoded when they are asked for.

    `keys` names the sample of each item, on which its randomness hangs; without them an item's number is its name.
    """

    def __init__(
        self,
        images: Sequence[bytes],
        questions: Sequence[str],
        answers: Sequence[str],
        weights: Sequence[float],
        vlm: Family,
        keys: Sequence[str] | None = None,
    ) -> None:
        keys = [str(i) for i in range(len(images))] if keys is None else keys
        lengths = {len(images), len(questions), len(answers), len(weights), len(keys)}
        if len(lengths) != 1:
            raise ValueError(f"images, questions, answers, weights and keys differ in number: {sorted(lengths)}")
        self.images, self.questions, self.answers, self.weights = images, questions, answers, weights
        self.vlm, self.keys = vlm, keys

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.vlm.read(self.images[index]), **self.text(index)}

    def text(self, index: int) -> dict[str, Any]:
        """The item without its image."""
        return {"question": self.questions[index], "answer": self.answers[index], "weight": self.weights[index]}

    def digest(self) -> str:
        """SHA-256 of all that an item may return."""
        weights = np.asarray(self.weights, dtype=np.float64).tobytes()
        seen = f"{self.vlm.kind} {self.vlm.policy}"
        return digest([seen, *self.images, *self.questions, *self.answers, *self.keys, weights])


@dataclass(frozen=True)
class Collator:
    """Items to the tensors that the model takes, and `sample_weight`."""

    vlm: Family

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        texts = [i["question"] for i in items], [i["answer"] for i in items]
        weights = torch.tensor([i["weight"] for i in items], dtype=torch.float32)
        return self.vlm.inputs(*texts, [i["image"] for i in items]) | {"sample_weight": weights}


@dataclass(frozen=True)
class Drawn(Dataset):
    """The data as training meets it: asked for a `Draw`, not for a number. Where the vision tower's outputs are
    remembered, `shown` numbers the image of each item and no image is decoded."""

    data: TextImages
    augment: Augment
    shown: Sequence[int] | None

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        if self.shown is not None:
            return self.data.text(draw.index) | {"image": BLANK, "shown": self.shown[draw.index], "key": draw.key}
        item = self.data[draw.index]
        if self.augment == "tone":
            item["image"] = jitter_tone(item["image"], draw.key)
        return item | {"shown": 0, "key": draw.key}


@dataclass(frozen=True)
class DrawnCollator(Collator):
    """`Collator`, and `key`, the key of each sample's draw, and `shown`."""

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        numbers = {name: torch.tensor([i[name] for i in items]) for name in ("key", "shown")}
        return super().__call__(items) | numbers


@dataclass(frozen=True)
class Recipe:
    """How one pass is trained; `label` names it to the user.

    `warm_up` is a share of the steps (0-1). `smoothing` is that of `loss.token_losses`. A rank passes `micro` samples
    through the model at a time (0: its whole share of a batch), which changes the result by rounding only. `workers`
    load data and change nothing. If they fit into `features_mb` MB on the device, the outputs of a frozen vision tower
    are computed once for each image, on one rank and without augmentation; this too changes rounding only. So does
    `parallel`: each of several ranks holds the whole model, or with `shard` its part of it. `activation_checkpointing`
    computes each transformer block twice to keep less in between, and changes nothing.
    """

    label: str
    scheduler: str
    warm_up: float
    weight_decay: float
    smoothing: float
    precision: str
    workers: int
    seed: int
    augment: Augment = "none"
    micro: int = 0
    features_mb: int = 0
    parallel: Parallel = "replicate"
    activation_checkpointing: bool = False


@dataclass(frozen=True)
class Saving:
    """Where checkpoints go, and after how many steps each; the last step always leaves one."""

    folder: Path
    every: int

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"a checkpoint every {self.every} steps: it must be 1 or more")


class SampleLosses(nn.Module):
    """The bracket of Eq. 6 for each sample of a batch; logits are made for answer tokens only."""

    def __init__(self, vlm: Family, smoothing: float) -> None:
        super().__init__()
        self.model = vlm.model
        self.smoothing = smoothing if vlm.ordered is not None else 0.0
        self.ordered = vlm.ordered if self.smoothing else None

    def forward(self, inputs: dict[str, Tensor], labels: Tensor) -> Float[Tensor, " b"]:
        hidden = self.model.model(**inputs, use_cache=False).last_hidden_state
        ordered = None if self.ordered is None else self.ordered.to(labels.device)
        head = self.model.get_output_embeddings()
        return answer_losses(hidden, head, labels, ordered=ordered, smoothing=self.smoothing)


def fit(
    vlm: Family,
    data: TextImages,
    batches: Sequence[Sequence[int]],
    groups: Sequence[tuple[Sequence[str], float]],
    recipe: Recipe,
    *,
    tiers: Sequence[int] | None = None,
    frozen: Sequence[nn.Module] = (),
    saving: Saving | None = None,
    on_step: OnStep | None = None,
) -> pd.DataFrame:
    """Train `vlm.model` on `batches`, lists of item indices, one after the other, with AdamW.

    `groups` gives parameters, by their names in `vlm.model`, a peak learning rate; they must be those that require a
    gradient. `frozen` modules stay in evaluation mode. `tiers` holds the tier of each batch, for the history and the
    progress line. Without batches nothing is trained.

    With `saving` the same call goes on where a killed one stopped and ends in the same weights, bitwise on the CPU with
    as many ranks; with another number of ranks, or another `parallel`, they agree up to rounding. Where the model is
    shared out, `vlm.model` waits whole in the host's memory and gets the trained weights at the end, on every rank.

    `on_step` is told of each step, on the first rank only: first, without `samples` and rates, of those that a killed
    call had made.

    Returns:
        One row a step: `step` (from 1), `loss` (mean over the batch), `weighted_loss` (Eq. 6), `gradient_norm` (before
        it is clipped at 1), `tier` (-1 without `tiers`).

    Raises:
        FloatingPointError: the loss or the gradient is no longer finite; no weight has taken that step.
        ValueError: `groups` are not the parameters that require a gradient, or `tiers` not one a batch.
        RuntimeError: another process trains into the same folder.
    """
    if not batches:
        return pd.DataFrame(columns=COLUMNS)
    tiers = [-1] * len(batches) if tiers is None else tiers
    if len(tiers) != len(batches):
        raise ValueError(f"{len(tiers)} tiers for {len(batches)} batches")
    with keyed_dropout(vlm.model) as keys:
        run = _Pass(vlm, data, batches, tiers, groups, recipe, keys, on_step)
        checkpoints = None if saving is None else Checkpoints(saving.folder, run.settings(), recipe.label)
        with checkpoints.locked() if checkpoints and run.ranks.first else nullcontext():
            return run.to_the_end(frozen, checkpoints, saving.every if saving else 0)


class _Pass:
    """The state of one `fit`."""

    def __init__(
        self,
        vlm: Family,
        data: TextImages,
        batches: Sequence[Sequence[int]],
        tiers: Sequence[int],
        groups: Sequence[tuple[Sequence[str], float]],
        recipe: Recipe,
        keys: DropoutKeys,
        on_step: OnStep | None,
    ) -> None:
        self.vlm, self.data, self.tiers, self.recipe, self.keys = vlm, data, [int(t) for t in tiers], recipe, keys
        self.groups = groups
        self.ranks: Ranks = ranks()
        self.on_step = on_step if self.ranks.first else None
        self.draws = draws_of(batches, data.keys, recipe.seed)
        self.shared_out = recipe.parallel == "shard" and self.ranks.count > 1
        self.module = self._placed(SampleLosses(vlm, recipe.smoothing))
        self.trained = _trained(self.module.model, groups)
        named = dict(self.trained)
        self.optimiser = torch.optim.AdamW(
            [{"params": [named[name] for name in names], "lr": lr} for names, lr in groups],
            weight_decay=recipe.weight_decay,
            betas=(0.9, 0.98),
            fused=True,
        )
        # the first of n warm-up steps has rate 0, so that one forced step would waste a whole batch
        warm_up = round(recipe.warm_up * len(batches))
        self.scheduler = get_scheduler(recipe.scheduler, self.optimiser, warm_up, len(batches))
        self.history: list[dict[str, float]] = []
        self.saved_at = 0
        self.tower: RememberedTower | None = None
        self.distinct = self._distinct()

    def _placed(self, module: SampleLosses) -> SampleLosses:
        if self.shared_out:
            return sharded(module, self.ranks, self.recipe.precision, shared=[self.keys])
        return module.to(self.ranks.device)

    def _distinct(self) -> Distinct | None:
        """The images whose features are computed once; None where each is computed as it is met."""
        images, meetings = self.data.images, sum(map(len, self.draws))
        alone = self.ranks.count == 1 and self.recipe.augment == "none"
        worth = alone and worth_remembering(self.vlm, images, meetings, self.recipe.features_mb)
        return distinct(images) if worth else None

    def settings(self) -> dict[str, Any]:
        """All that the result depends on, by name; call it before the first step."""
        recipe = {name: value for name, value in asdict(self.recipe).items() if name not in MEANS}
        order = [f"{draw.index}/{draw.visit}" for batch in self.draws for draw in (*batch, Draw(-1, 0, 0))]
        return recipe | {
            "data": self.data.digest(),
            "order": digest(order),
            "tiers": digest(map(str, self.tiers)),
            "starting weights": digest(self.vlm.model.state_dict().values()),
            "learning rates": [[lr, len(names), digest(names)] for names, lr in self.groups],
        }

    def to_the_end(self, frozen: Sequence[nn.Module], checkpoints: Checkpoints | None, every: int) -> pd.DataFrame:
        if checkpoints is not None:
            self._resume(checkpoints)
        names = {module: name for name, module in self.vlm.model.named_modules()}
        self.module.train()
        for module in frozen:
            self.module.model.get_submodule(names[module]).eval()
        with checkpointed(self.module) if self.recipe.activation_checkpointing else nullcontext():
            history = self._with_features(checkpoints, every)
        if self.shared_out:
            self._bring_back()
        return history

    @torch.no_grad()
    def _bring_back(self) -> None:
        for (_, original), (_, trained) in zip(_trained(self.vlm.model, self.groups), self.trained, strict=True):
            original.copy_(whole(trained))

    def _with_features(self, checkpoints: Checkpoints | None, every: int) -> pd.DataFrame:
        if self.distinct is None or len(self.history) == len(self.draws):
            return self._steps(checkpoints, every)
        with self._autocast():
            outputs = tower_outputs(self.vlm, self.distinct.images)
        with remembered_tower(self.vlm, outputs) as self.tower:
            return self._steps(checkpoints, every)

    def _steps(self, checkpoints: Checkpoints | None, every: int) -> pd.DataFrame:
        start, steps = len(self.history), len(self.draws)
        done = sum(map(len, self.draws[:start]))
        loader, total = iter(self._loader(start)), sum(map(len, self.draws))
        # an explicit False would overrule TQDM_DISABLE
        quiet = {} if self.ranks.first else {"disable": True}
        for row in self.history:
            self._tell(row)
        with tqdm(total=total, initial=done, desc=self.recipe.label, unit=" samples", mininterval=2.0, **quiet) as bar:
            for step in range(start, steps):
                rates = self.scheduler.get_last_lr()
                row = self._step(step, loader)
                self.history.append(row)
                tier = f"tier {self.tiers[step]}, " if self.tiers[step] >= 0 else ""
                shown = f"step {step + 1}/{steps}, {tier}loss {row['loss']:.3f}"
                bar.set_postfix_str(shown, refresh=False)
                bar.update(len(self.draws[step]))
                if checkpoints is not None and ((step + 1) % every == 0 or step + 1 == steps):
                    self._save(checkpoints)
                names = ["learning_rate", *(f"learning_rate_{number}" for number in range(2, len(rates) + 1))]
                self._tell(row | {"samples": len(self.draws[step])} | dict(zip(names, rates, strict=True)))
        return pd.DataFrame(self.history, columns=COLUMNS)

    def _tell(self, row: dict[str, float]) -> None:
        if self.on_step is not None:
            self.on_step(dict(row))

    def _parts(self, step: int) -> list[list[Draw]]:
        return share_of(self.draws[step], self.ranks.rank, self.ranks.count, self.recipe.micro)

    def _loader(self, start: int) -> DataLoader:
        # a rank without a member of its own passes the batch's first one at weight 0: the others wait for its gradient
        parts = [part or self.draws[s][:1] for s in range(start, len(self.draws)) for part in self._parts(s)]
        return DataLoader(
            Drawn(self.data, self.recipe.augment, self.distinct and self.distinct.shown),
            batch_sampler=parts,
            collate_fn=DrawnCollator(self.vlm),
            num_workers=self.recipe.workers,
            # the tokenizer's memory of texts cannot be sent to a process that starts empty
            multiprocessing_context="fork" if self.recipe.workers else None,
            pin_memory=self.ranks.device.type == "cuda",
            generator=torch.Generator(),  # else it would draw from the global one
        )

    def _step(self, step: int, loader: Iterator[dict[str, Tensor]]) -> dict[str, float]:
        parts, size = self._parts(step), len(self.draws[step])
        totals = torch.zeros(2, dtype=torch.float64, device=self.ranks.device)
        for part in parts:
            losses, weights = self._losses(next(loader))
            # the mean over the whole batch, whatever part of it this is
            (weighted_loss(losses, weights) * (len(part) / size)).backward()
            both = torch.stack([losses.detach(), losses.detach() * weights]).double()
            totals += both[:, : len(part)].sum(1) / size
        parameters = [parameter for _, parameter in self.trained]
        if not self.shared_out:
            self.ranks.sum_gradients(parameters)
        norm = whole(nn.utils.clip_grad_norm_(parameters, CLIPPED_AT))
        loss, weighted, norm = (*self.ranks.summed(totals).tolist(), norm.item())
        self._guard(step, loss=loss, weighted_loss=weighted, gradient_norm=norm)
        self.optimiser.step()
        self.scheduler.step()
        self.optimiser.zero_grad(set_to_none=True)
        row = {"step": step + 1, "loss": loss, "weighted_loss": weighted, "gradient_norm": norm}
        return row | {"tier": self.tiers[step]}

    def _losses(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        inputs = {name: value.to(self.ranks.device, non_blocking=True) for name, value in batch.items()}
        self.keys.now, shown = inputs.pop("key"), inputs.pop("shown")
        if self.tower is not None:
            self.tower.now = shown
        labels, weights = inputs.pop("labels"), inputs.pop("sample_weight")
        with self._autocast():
            losses = self.module(inputs, labels)
        return losses, weights.to(losses.dtype)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16")

    def _guard(self, step: int, **values: float) -> None:
        for name, value in values.items():
            if not math.isfinite(value):
                kept = f" (the checkpoint of step {self.saved_at} is kept)" if self.saved_at else ""
                what = name.replace("_", " ")
                raise FloatingPointError(
                    f"{self.recipe.label}: the {what} is {value} at step {step + 1}; lower the learning rates in "
                    f"params.yaml{kept}"
                )

    def _save(self, checkpoints: Checkpoints) -> None:
        tensors = state_tensors(self.trained, self.optimiser)
        if self.ranks.first:
            checkpoints.save(Progress(len(self.history), dict(tensors), self.scheduler.state_dict(), self.history))
        elif self.shared_out:
            deque(tensors, maxlen=0)
        self.saved_at = len(self.history)

    def _resume(self, checkpoints: Checkpoints) -> None:
        mine = int(checkpoints.folder.name[:15], 16)
        if self.ranks.told(mine) != mine:
            raise RuntimeError(f"rank {self.ranks.rank} has other settings, data or weights than rank 0: {ALIKE}")
        step = self.ranks.told(checkpoints.newest() if self.ranks.first else 0)
        if step == 0:
            return
        progress = checkpoints.load(step)
        put_back(progress.tensors, self.trained, self.optimiser)
        self.scheduler.load_state_dict(progress.scheduler)
        for group, rate in zip(self.optimiser.param_groups, self.scheduler.get_last_lr(), strict=True):
            group["lr"] = rate
        self.history, self.saved_at = progress.history, step
        if self.ranks.first:
            text = f"{self.recipe.label}: goes on after step {step} of {len(self.draws)} from {checkpoints.folder}"
            tqdm.write(text, file=sys.stderr)


def _trained(model: nn.Module, groups: Sequence[tuple[Sequence[str], float]]) -> list[tuple[str, nn.Parameter]]:
    """Every parameter that requires a gradient, by name, in the model's order."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    given = sorted(name for names, _ in groups for name in names)
    if odd := sorted(set(given) ^ {name for name, _ in trained}) or (len(given) - len(trained)) * ["named twice"]:
        raise ValueError(f"the parameters given and those that require a gradient differ: {odd[:3]}")
    return trained
