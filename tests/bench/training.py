"""Training: both stages against transformers' plain Trainer with peft, and what weights and order cost.

Both sides get the same starting weights, samples, batch size, learning rates, image decoding and collation, in float32
on one thread, set-up included. The peer shuffles, weights nothing and uses the model's own loss. Rows use the study's
base, dataset and scores where `dvc repro` has made them, otherwise an untrained miniature on simulated scenes.
"""

import copy
import tempfile
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from multiprocessing import get_context

import numpy as np
import pandas as pd
import torch
from torch import nn

from irgpt_lib import artifacts, params
from irgpt_lib.compat import ensure_torchvision
from irgpt_lib.curriculum.schedule import check_order, from_params
from irgpt_lib.irtd.captions import CAPTION_PROMPT
from irgpt_lib.irtd.questions import make_questions, words_of
from irgpt_lib.models.families import Family
from irgpt_lib.training.stages import stage1, stage2
from irgpt_lib.training.trainer import Collator, TextImages
from tests.bench.data import some_samples
from tests.bench.measuring import Row, interleaved, peak_extra_mb, rate, timed
from tests.bench.model import starting

ensure_torchvision()

from peft import LoraConfig, get_peft_model  # noqa: E402
from transformers import PrinterCallback, Trainer, TrainingArguments  # noqa: E402

PEER = "transformers Trainer with peft"
SEED = 0
ORDERS_TIMED = 9
# In the study's stage 2, 4760 questions show 2832 images.
IMAGES_A_QUESTION = 2832 / 4760


@dataclass(frozen=True)
class Material:
    """What both sides train on. `ranked` holds the scores that orders are made from, `samples` infrared and caption by
    sample_id, `tuning` the columns infrared, question and answer; `origin` says where they come from, for the note."""

    samples: pd.DataFrame
    ranked: pd.DataFrame
    tuning: pd.DataFrame
    origin: str


@lru_cache
def config(epochs: int = 1) -> params.Train:
    """The section `train` on one thread's terms: no workers, float32; with so many epochs of stage 2."""
    train = params.load("train").train
    two = train.stage2.model_copy(update={"epochs": epochs})
    return train.model_copy(update={"workers": 0, "precision": "fp32", "stage2": two})


@lru_cache
def ranked_by() -> params.Difficulty:
    return params.load("difficulty").difficulty


def model() -> Family:
    """A copy of the starting model that one side may change."""
    vlm, _ = starting()
    return vlm.with_model(copy.deepcopy(vlm.model))


@lru_cache
def material(steps: int) -> Material:
    """Samples for `steps` steps of stage 1, drawn at random, and questions for at most as many of stage 2, in which
    images come as often as in the study.

    Raises:
        ValueError: `steps` do not fill the tiers with whole batches, so that the order would have more steps.
    """
    if steps % config().stage1.tiers:
        raise ValueError(f"{steps} steps over {config().stage1.tiers} tiers: take a multiple, one batch or more a tier")
    size, asked = steps * config().stage1.batch_size, steps * config().stage2.batch_size
    made = all(artifacts.path(name).exists() for name in (artifacts.SAMPLES, artifacts.QUESTIONS, artifacts.SCORES))
    found, whose = (_of_the_study if made else _simulated)(size, asked), starting()[1]
    return replace(found, origin=f"{found.origin}, {whose}")


def _of_the_study(size: int, asked: int) -> Material:
    columns = ["sample_id", "infrared", "caption"]
    samples = artifacts.read_table(artifacts.SAMPLES, columns=columns).set_index("sample_id")
    ranked = artifacts.read_table(artifacts.SCORES).sample(size, random_state=SEED)
    ranked["rank"] = np.argsort(np.argsort(ranked["rank"].to_numpy()))  # of the drawn ones among themselves
    questions = artifacts.read_table(artifacts.QUESTIONS)
    questions = questions[questions["split"] == "instruction"]
    tuning = _with_images(questions, samples, asked)
    return Material(samples.loc[ranked["sample_id"]], ranked, tuning, "the study's data")


def _simulated(size: int, asked: int) -> Material:
    """Ranked in the order in which they were drawn, which says nothing of their difficulty."""
    found = some_samples({"pretrain": size, "instruction": 2 * asked, "benchmark": 0})
    rows = [{"sample_id": s.sample_id, "infrared": s.infrared, "caption": s.caption} for s in found]
    samples = pd.DataFrame(rows).set_index("sample_id")
    rank = np.arange(size)
    ranked = pd.DataFrame({"sample_id": samples.index[:size], "rank": rank, "alpha": np.linspace(-1, 1, size)})
    questions = make_questions(found, "instruction", asked, params.load("dataset").dataset, words_of(found))
    tuning = _with_images(questions, samples, asked)
    return Material(samples.iloc[:size], ranked, tuning, "simulated scenes")


def _with_images(questions: pd.DataFrame, samples: pd.DataFrame, asked: int) -> pd.DataFrame:
    """At most `asked` questions, on as many images as the study would show for them."""
    shown = questions["sample_id"].drop_duplicates().head(round(asked * IMAGES_A_QUESTION))
    kept = questions[questions["sample_id"].isin(shown)].head(asked).reset_index(drop=True)
    return kept.assign(infrared=samples["infrared"].loc[kept["sample_id"]].to_numpy())


class WithoutWeights(Collator):
    """The same tensors, less the weight, which a plain Trainer would hand to the model."""

    def __call__(self, items: list[dict]) -> dict[str, torch.Tensor]:
        batch = super().__call__(items)
        del batch["sample_weight"]
        return batch


def our_stage1(steps: int, *, curriculum: bool = True) -> None:
    """Stage 1 by the study's trainer: the order is made, checked and followed with its weights, or (`curriculum` false)
    the samples come in a random order, all alike."""
    order = curriculum_order(steps) if curriculum else plain_order(steps)
    stage1(model(), material(steps).samples, order, config(), seed=SEED)


def curriculum_order(steps: int) -> pd.DataFrame:
    order = from_params(material(steps).ranked, config().stage1, ranked_by(), seed=SEED)
    check_order(order, material(steps).samples.index)
    return order


def plain_order(steps: int) -> pd.DataFrame:
    ids = np.random.default_rng(SEED).permutation(material(steps).samples.index.to_numpy())
    place = np.arange(len(ids))
    batch = place // config().stage1.batch_size
    return pd.DataFrame({"position": place, "batch": batch, "sample_id": ids, "tier": 0, "weight": 1.0})


def tokens(order: pd.DataFrame, samples: pd.DataFrame) -> int:
    """All that pass through the language model, padding included."""
    vlm, _ = starting()
    batches = (samples.loc[members] for _, members in order.groupby("batch")["sample_id"])
    return sum(_tokens_of(vlm, rows) for rows in batches)


def _tokens_of(vlm: Family, rows: pd.DataFrame) -> int:
    tiles = [vlm.read(image) for image in rows["infrared"]]
    return vlm.inputs([CAPTION_PROMPT] * len(rows), rows["caption"].tolist(), tiles)["input_ids"].numel()


def our_stage2(steps: int, *, features_mb: int, epochs: int) -> None:
    """Stage 2 by the study's trainer, `steps` in each epoch."""
    rows = material(steps).tuning
    columns = (rows[name].tolist() for name in ("infrared", "question", "answer"))
    stage2(model(), *columns, config(epochs), seed=SEED, features_mb=features_mb)


def plain_stage1(steps: int) -> None:
    """The Trainer on the same captions: vision encoder and projector, each with its rate."""
    vlm, one, data = model(), config().stage1, material(steps).samples
    rates, named = {"vision": one.vision_lr, "projector": one.projector_lr}, dict(vlm.model.named_parameters())
    groups = [
        {"params": [named[name] for name in names], "lr": rates[part]} for part, names in vlm.begin_stage1().items()
    ]
    texts = [CAPTION_PROMPT] * len(data), data["caption"].tolist()
    _plainly(vlm, vlm.model, groups, data["infrared"].tolist(), *texts, one, one.scheduler, 1)


def plain_stage2(steps: int, *, epochs: int) -> None:
    """The Trainer with peft's LoRA and the whole projector on the same questions."""
    vlm, two, rows = model(), config(epochs).stage2, material(steps).tuning
    lora = LoraConfig(
        r=two.lora.rank,
        lora_alpha=two.lora.alpha,
        lora_dropout=two.lora.dropout,
        target_modules=vlm.lora_targets,
        modules_to_save=list(vlm.trained_in_full),
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(vlm.model, lora)
    groups = [{"params": [p for p in adapted.parameters() if p.requires_grad], "lr": two.lr}]
    columns = (rows[name].tolist() for name in ("infrared", "question", "answer"))
    _plainly(vlm, adapted, groups, *columns, two, "cosine", two.epochs)


def _plainly(
    vlm: Family,
    trained: nn.Module,
    groups: list[dict],
    images: list[bytes],
    questions: list[str],
    answers: list[str],
    stage: params.Stage1 | params.Stage2,
    scheduler: str,
    epochs: int,
) -> None:
    data = TextImages(images, questions, answers, [1.0] * len(images), vlm)
    # the implementation that TrainingArguments choose by default
    optimiser = torch.optim.AdamW(groups, weight_decay=stage.weight_decay, betas=(0.9, 0.98), fused=True)
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            output_dir=scratch,
            num_train_epochs=epochs,
            per_device_train_batch_size=stage.batch_size,
            lr_scheduler_type=scheduler,
            warmup_steps=1,
            max_grad_norm=1.0,
            use_cpu=True,
            save_strategy="no",
            report_to=[],
            logging_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        )
        trainer = Trainer(
            model=trained,
            args=arguments,
            train_dataset=data,
            data_collator=WithoutWeights(vlm),
            optimizers=(optimiser, None),
        )
        trainer.remove_callback(PrinterCallback)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of transformers to itself
            trainer.train()


def first_stage(steps: int, repeats: int, *, memory: bool) -> Row:
    """Stage 1, ours with order, weights and smoothed coordinates."""
    count = len(material(steps).samples)
    return _row("stage 1", count, steps, our_stage1, plain_stage1, repeats, memory)


def second_stage(steps: int, repeats: int, *, memory: bool, features_mb: int, epochs: int = 1) -> Row:
    """Stage 2; with `features_mb` each image goes through the frozen vision encoder once, however many epochs."""
    how = f"image features once, up to {features_mb} MB" if features_mb else "image features at every meeting"
    ours = partial(our_stage2, features_mb=features_mb, epochs=epochs)
    theirs = partial(plain_stage2, epochs=epochs)
    count = epochs * len(material(steps).tuning)
    over = f"{epochs} epochs" if epochs > 1 else "one epoch"
    return _row(f"stage 2 over {over}, {how}", count, steps, ours, theirs, repeats, memory)


def _row(
    name: str,
    count: int,
    steps: int,
    ours: Callable[[int], None],
    theirs: Callable[[int], None],
    repeats: int,
    memory: bool,
) -> Row:
    mine, others = interleaved(lambda: ours(steps), lambda: theirs(steps), repeats)
    rates = f"{rate(count, mine):.0f} against {rate(count, others):.0f} samples per CPU-second"
    note = f"{rates}; {material(steps).origin}"
    if memory:
        peaks = f"{_fresh_peak(ours, steps):.0f} against {_fresh_peak(theirs, steps):.0f} MB"
        note += f"; peak above the loaded model {peaks}"
    return Row(name, count, "samples", PEER, mine, others, note)


def curriculum_cost(steps: int, repeats: int) -> Row:
    """Stage 1 with the curriculum against stage 1 without.

    The difference of two trainings is lost in their noise, so the note gives its parts: making and checking the order
    as a share of the training, and the tokens, since batches of like captions need other padding.
    """
    mine, others = interleaved(lambda: our_stage1(steps), lambda: our_stage1(steps, curriculum=False), repeats)
    data = material(steps)
    making = np.median([timed(lambda: curriculum_order(steps)).cpu_s for _ in range(ORDERS_TIMED)])
    share = making / np.median([timing.cpu_s for timing in others])
    more = tokens(curriculum_order(steps), data.samples) / tokens(plain_order(steps), data.samples) - 1
    note = f"making and checking the order {share:+.2%}, tokens {more:+.2%}; {data.origin}"
    name = "stage 1 with order and weights"
    return Row(name, len(data.samples), "samples", "ours, random and unweighted", mine, others, note)


def _fresh_peak(work: Callable[[int], None], steps: int) -> float:
    """Of a process of its own: memory that an earlier training has left with the allocator would hide the rise."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_peak, work, steps).result()


def _peak(work: Callable[[int], None], steps: int) -> float:
    torch.set_num_threads(1)
    material(steps)
    return peak_extra_mb(lambda: work(steps))
