"""The model: a step of stage 1 against the plain Trainer, batched answers against one at a time."""

import tempfile
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch

from irgpt_lib import artifacts, params
from irgpt_lib.compat import ensure_torchvision
from irgpt_lib.curriculum.schedule import batches
from irgpt_lib.evaluation.answering import SPARE_TOKENS, answer_all, decoded
from irgpt_lib.irtd.captions import CAPTION_PROMPT
from irgpt_lib.irtd.questions import make_questions, words_of
from irgpt_lib.irtd.record import Sample
from irgpt_lib.models.vlm import PARTS, VisionLanguageModel, load_base, parameters_of
from irgpt_lib.tasks import TASKS
from irgpt_lib.training.base import new_model, plan_of
from irgpt_lib.training.stages import stage1
from irgpt_lib.training.trainer import Collator, TextImages
from tests.bench.data import some_samples
from tests.bench.measuring import Row, interleaved

ensure_torchvision()

from transformers import PrinterCallback, Trainer, TrainingArguments  # noqa: E402


def untrained() -> VisionLanguageModel:
    """The miniature of the profile's shape."""
    plan = plan_of(params.load("base").base)
    return new_model(plan.shape, plan.seed)


def order_of(samples: list[Sample], batch_size: int) -> pd.DataFrame:
    """Every sample once, in the order given, with weights that alternate between 0.5 and 1.5."""
    members = torch.arange(len(samples))
    grouped = batches(members, torch.zeros_like(members), batch_size)
    rows = [(number, samples[i].sample_id) for number, batch in enumerate(grouped) for i in batch]
    table = pd.DataFrame(rows, columns=["batch", "sample_id"])
    weights = [0.5 + position % 2 for position in range(len(rows))]
    return table.assign(position=range(len(rows)), tier=0, weight=weights)


class WithoutWeights(Collator):
    """The same tensors, less the weight, which a plain Trainer would hand to the model."""

    def __call__(self, items: list[dict]) -> dict[str, torch.Tensor]:
        batch = super().__call__(items)
        del batch["sample_weight"]
        return batch


def plain_training(vlm: VisionLanguageModel, samples: list[Sample], config: params.Train, steps: int) -> None:
    """transformers' own Trainer on the same samples: shuffled, unweighted, the model's own loss."""
    one = config.stage1
    for name, parameter in vlm.model.named_parameters():
        parameter.requires_grad_(name.startswith((PARTS["vision"], PARTS["projector"])))
    prompts, captions = [CAPTION_PROMPT] * len(samples), [s.caption for s in samples]
    data = TextImages([s.infrared for s in samples], prompts, captions, [1.0] * len(samples), vlm)
    groups = (("vision", one.vision_lr), ("projector", one.projector_lr))
    optimiser = torch.optim.AdamW(
        [{"params": parameters_of(vlm.model, part), "lr": rate} for part, rate in groups],
        weight_decay=one.weight_decay,
        betas=(0.9, 0.98),
    )
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            output_dir=scratch,
            max_steps=steps,
            per_device_train_batch_size=one.batch_size,
            lr_scheduler_type=one.scheduler,
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
            model=vlm.model,
            args=arguments,
            train_dataset=data,
            data_collator=WithoutWeights(vlm),
            optimizers=(optimiser, None),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()


def training_step(steps: int, repeats: int) -> Row:
    """`steps` steps of stage 1 by this study's trainer and by the plain one, on one core, in float32."""
    config = params.load("train").train.model_copy(update={"workers": 0, "precision": "fp32"})
    size = config.stage1.batch_size
    samples = some_samples({"pretrain": steps * size, "instruction": 0, "benchmark": 0})
    table = pd.DataFrame(
        {"infrared": [s.infrared for s in samples], "caption": [s.caption for s in samples]},
        index=[s.sample_id for s in samples],
    )
    order, vlm, twin = order_of(samples, size), untrained(), untrained()
    mine, theirs = interleaved(
        lambda: stage1(vlm, table, order, config, seed=0),
        lambda: plain_training(twin, samples, config, steps),
        repeats,
    )
    note = f"what order, weights and smoothed coordinates cost; batch {size}, set-up included"
    return Row("steps of stage 1", steps, "steps", "transformers Trainer", mine, theirs, note)


def one_by_one(vlm: VisionLanguageModel, questions: pd.DataFrame, images: dict) -> list[str]:
    """`generate` for each question alone, with the same limit on its answer as in a batch."""
    limits = questions.groupby("task")["answer"].agg(lambda answers: max(len(vlm.text_ids(a)) for a in answers))
    answers = []
    for row in questions.itertuples():
        batch = vlm.encode_prompts([row.question])
        with torch.inference_mode():
            generated = vlm.model.generate(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                pixel_values=vlm.pixel_values(np.stack([images[row.sample_id]])),
                max_new_tokens=int(limits[row.task]) + SPARE_TOKENS,
                do_sample=False,
            )
        new = generated[:, batch.input_ids.shape[1] :]
        answers += vlm.tokenizer.batch_decode(new, skip_special_tokens=True)
    return answers


def remembered(found: dict[str, list[str]], name: str, work: Callable[[], list[str]]) -> Callable[[], None]:
    """The work, its result kept under the name."""

    def call() -> None:
        found[name] = work()

    return call


def answering(count: int, repeats: int) -> Row:
    """`count` questions of nine tasks answered in batches, and the same ones one at a time."""
    trained = artifacts.path(artifacts.BASE).is_dir()
    vlm = load_base(artifacts.path(artifacts.BASE)) if trained else untrained()
    vlm.model.eval()
    samples = some_samples({"pretrain": 0, "instruction": 2 * count, "benchmark": 0})
    config = params.load("dataset").dataset
    questions = make_questions(samples, "instruction", count, config, words_of(samples))
    if len(questions) != count // len(TASKS) * len(TASKS):
        raise RuntimeError(f"{2 * count} scenes gave {len(questions)} questions, not {count}")
    images = decoded(pd.DataFrame([vars(s) for s in samples]), vlm)
    shown, size = questions["sample_id"].tolist(), params.load("evaluate").evaluate.batch_size
    found: dict[str, list[str]] = {}
    mine, theirs = interleaved(
        remembered(found, "ours", lambda: answer_all(vlm, questions, images, shown, batch_size=size, label="batched")),
        remembered(found, "peer", lambda: one_by_one(vlm, questions, images)),
        repeats,
    )
    same = sum(a == b for a, b in zip(found["ours"], found["peer"], strict=True))
    model = "the base model" if trained else "an untrained miniature, since artifacts/base is absent"
    note = f"{same} of {len(questions)} answers equal; {model}"
    name = "benchmark questions answered in batches"
    return Row(name, len(questions), "questions", "transformers generate, one by one", mine, theirs, note)
