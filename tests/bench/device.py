"""`python -m tests.bench.device`: what a device makes of both stages on InternVL2-8B's exact shape, as a line of JSON.

The weights are random, for speed does not depend on them: those that a stage trains in float32, the frozen ones in the
type of computation. All else is the study's own: its loop, loss, LoRA and optimiser, images read from JPEG files and
texts tokenised, in batches of which a quarter of the answers are shorter. MFU is the share that training reaches of the
rate of the device's matrix products, measured in the same run, with the floating-point operations of a step as
`dry_run` counts them, recomputation not included. The first steps are not measured.
"""

import argparse
import gc
import itertools
import json
import os
import time
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from typing import Any

import pandas as pd
import torch

from irgpt_lib import params
from irgpt_lib.cli.readme import machine
from irgpt_lib.compat import ensure_torchvision
from irgpt_lib.irtd.captions import CAPTION_PROMPT
from irgpt_lib.irtd.record import FRAME
from irgpt_lib.models.families import Family, ImagePolicy
from irgpt_lib.models.tokenizer import IMAGE
from irgpt_lib.training.base import study_tokenizer
from irgpt_lib.training.cost import Meter, energy_counter
from irgpt_lib.training.dry_run import Counted, ModelShape, Piece, Setting, Stage, count_step, image_of
from irgpt_lib.training.planning import shape_of
from irgpt_lib.training.stages import stage1, stage2, trainable
from irgpt_lib.training.tracking import each_of
from irgpt_lib.training.trainer import OnStep
from tests.bench.data import frames

ensure_torchvision()

from transformers import AutoModelForImageTextToText  # noqa: E402

SEED = 0
NOT_MEASURED = 2
DIFFERENT_FRAMES = 16
# one token of the study's tokenizer
WORD = "yes"
# Of the square matrices whose product is timed, and how many products a timing takes: about half a second in all.
GEMM_SIDE = {"cuda": 8192, "cpu": 1024}
GEMM_PRODUCTS = {"cuda": 20, "cpu": 2}
GEMM_TIMINGS = 15
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Subject:
    """A shape by the profile whose training is run and the name of the model, the tokens of a prompt without its image
    and of the longest answer, and how much longer that is than the mean; `usual_micro` is `Job.micro` where nothing
    else is asked for."""

    profile: str
    model: str
    prompt_tokens: int
    answer_tokens: int
    padding_tokens: int
    usual_micro: int

    def answer_length(self, number: int) -> int:
        """Of the sample with that number, with the answer's end: of four, one is short."""
        return self.answer_tokens - (0 if number % 4 else 4 * self.padding_tokens)

    def piece(self, samples: int) -> Piece:
        mean = self.answer_tokens - self.padding_tokens
        return Piece(samples, 1, self.prompt_tokens, mean, self.padding_tokens)


SUBJECTS = {
    "internvl2-8b": Subject("paper", "InternVL2-8B", 80, 120, 5, usual_micro=8),
    "miniature": Subject("tiny", "", 3, 20, 2, usual_micro=0),
}


@dataclass(frozen=True)
class Job:
    """What is measured: `steps` steps of `batch` samples each, `micro` samples at a time (0: the whole batch)."""

    subject: Subject
    device: torch.device
    precision: str
    batch: int
    steps: int
    micro: int
    checkpointed: bool
    workers: int

    @property
    def samples(self) -> int:
        """With those of the steps that are not measured."""
        return self.batch * (NOT_MEASURED + self.steps)

    def config(self) -> params.Train:
        """The profile's training at this batch, whose images come once."""
        train = params.load("train", profile=self.subject.profile).train
        two = train.stage2.model_copy(update={"batch_size": self.batch, "epochs": 1})
        return train.model_copy(update={"precision": self.precision, "workers": self.workers, "stage2": two})

    def options(self) -> dict[str, Any]:
        return {"seed": SEED, "micro": self.micro, "activation_checkpointing": self.checkpointed}


@dataclass
class Clock:
    """An `on_step` that keeps the moment of each step."""

    moments: list[float] = field(default_factory=list)

    def __call__(self, row: dict[str, float]) -> None:
        self.moments.append(time.perf_counter())

    def measured(self) -> list[float]:
        """Seconds of each step after the first ones."""
        kept = self.moments[NOT_MEASURED - 1 :]
        return [after - before for before, after in itertools.pairwise(kept)]


def shape_for(subject: Subject) -> ModelShape:
    """The exact shape, whose image token is that of the study's tokenizer: an id changes no size."""
    loaded = params.load("base", "model", profile=subject.profile)
    shape = shape_of(loaded.base, loaded.model, subject.model)
    tokenizer = study_tokenizer(_coordinate_steps(shape))
    shape.config.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE)
    return shape


def _coordinate_steps(shape: ModelShape) -> int:
    return int(getattr(shape.config, "coordinate_steps", FRAME))


def random_model(shape: ModelShape, stage: Stage, job: Job) -> Family:
    """A model of that shape on the device, made there, whose prompts have the subject's length."""
    with torch.device(job.device):
        model = AutoModelForImageTextToText.from_config(shape.config, dtype=TYPES[job.precision])
    tokenizer = study_tokenizer(_coordinate_steps(shape))
    policy = ImagePolicy(max_tiles=1, min_pixels=1, max_pixels=1)
    shortest = shape.family(model, tokenizer, policy)
    missing = job.subject.prompt_tokens - len(shortest.prompt_ids(CAPTION_PROMPT, 0))
    tokenizer.chat_template = WORD * missing + tokenizer.chat_template
    vlm = shape.family(model, tokenizer, policy)
    vlm.begin_stage1()
    wanted = trainable(model) if stage == 1 else set(vlm.names("projector"))
    for name, parameter in model.named_parameters():
        if name in wanted:
            parameter.data = parameter.data.float()
    return vlm


def trained(vlm: Family, stage: Stage, job: Job, told: OnStep) -> pd.DataFrame:
    """The history of one stage, run as the study runs it, with all weights 1 and one tier."""
    images = list(itertools.islice(itertools.cycle(list(frames(DIFFERENT_FRAMES))), job.samples))
    answers = [WORD * (job.subject.answer_length(number) - 1) for number in range(job.samples)]
    if stage == 2:
        questions = [CAPTION_PROMPT] * job.samples
        return stage2(vlm, images, questions, answers, job.config(), on_step=told, **job.options())[1]
    ids = [str(number) for number in range(job.samples)]
    place = pd.RangeIndex(job.samples)
    order = pd.DataFrame(
        {"position": place, "batch": place // job.batch, "sample_id": ids, "tier": 0, "weight": 1.0}, index=place
    )
    samples = pd.DataFrame({"infrared": images, "caption": answers}, index=ids)
    return stage1(vlm, samples, order, job.config(), on_step=told, **job.options())


def counted(shape: ModelShape, stage: Stage, job: Job, *, checkpointed: bool) -> Counted:
    """The same step without data: its operations and its peak."""
    size = min(job.micro, job.batch) or job.batch
    setting = Setting(
        pieces=-(-job.batch // size),
        precision=job.precision,
        held=job.precision,
        checkpointed=checkpointed,
        smoothing=job.config().smoothing,
    )
    return count_step(shape, stage, job.config().stage2.lora, job.subject.piece(size), setting)


def gemm_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of square matrix products, the median of some timings after one that does not
    count."""
    side, products = GEMM_SIDE[device.type], GEMM_PRODUCTS[device.type]
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(1 + GEMM_TIMINGS):
        _wait(device)
        began = time.perf_counter()
        for _ in range(products):
            torch.mm(left, right)
        _wait(device)
        seconds.append(time.perf_counter() - began)
    return products * 2 * side**3 / median(seconds[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def stage_record(shape: ModelShape, stage: Stage, job: Job, gemm: float) -> dict[str, Any]:
    """Rates, MFU and memory of one stage. `peak_cuda_mb` is what the allocator had handed out at once, the model
    included, None without a GPU; `counted_peak_mb` is the planner's."""
    plain = counted(shape, stage, job, checkpointed=False)
    planned = counted(shape, stage, job, checkpointed=True) if job.checkpointed else plain
    clock, meter = Clock(), Meter(job.device, counter=energy_counter(job.device))
    vlm = random_model(shape, stage, job)
    history = trained(vlm, stage, job, each_of(clock, meter))
    cost, seconds = meter.record(), clock.measured()
    rate = job.batch * len(seconds) / sum(seconds)
    tokens = image_of(shape, job.subject.piece(1))[0] + job.subject.prompt_tokens + job.subject.answer_tokens
    return {
        "steps": len(seconds),
        "step_s": {"median": median(seconds), "least": min(seconds), "greatest": max(seconds)},
        "samples_per_s": rate,
        "tokens_per_sample": tokens,
        "tokens_per_s": rate * tokens,
        "tflop_per_sample": plain.flops / 1e12,
        "mfu": rate * plain.flops / gemm,
        "peak_cuda_mb": cost["peak_cuda_mb"],
        "peak_rss_mb": cost["peak_rss_mb"],
        "counted_peak_mb": planned.peak / 1e6,
        "energy_wh": cost["energy_wh"],
        "losses": [history["loss"].iloc[0], history["loss"].iloc[-1]],
    }


def measured(name: str, job: Job) -> dict[str, Any]:
    """Both stages, one after the other, and the rate of the device that they are held against."""
    torch.manual_seed(SEED)
    gemm, stages = gemm_rate(job.device, TYPES[job.precision]), {}
    for stage in (1, 2):
        stages[f"stage {stage}"] = stage_record(shape_for(job.subject), stage, job, gemm)
        gc.collect()
        if job.device.type == "cuda":
            torch.cuda.empty_cache()
    settings = asdict(replace(job, device=job.device.type))
    return {"shape": name, "machine": machine(), "gemm_tflops": gemm / 1e12, "stages": stages} | settings


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.device", description=__doc__.partition("\n")[0])
    parser.add_argument("--shape", choices=SUBJECTS, default="internvl2-8b")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="a GPU where there is one")
    parser.add_argument("--precision", choices=TYPES, help="bf16 on a GPU, fp32 on the CPU")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=10, help=f"measured ones, after {NOT_MEASURED} others")
    parser.add_argument("--micro", type=int, help="samples at a time, 0: the whole batch; 8 for internvl2-8b")
    parser.add_argument("--workers", type=int, help="processes that read images; the profile's on a GPU, 0 on the CPU")
    parser.add_argument("--checkpointed", action="store_true", help="each block computed twice, for less memory")
    chosen = parser.parse_args()
    if min(chosen.batch, chosen.steps) < 1 or min(chosen.micro or 0, chosen.workers or 0) < 0:
        parser.error("--batch and --steps must be 1 or more, --micro and --workers 0 or more")
    if chosen.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the study's loop takes a GPU where it sees one
    on_gpu = torch.cuda.is_available()
    if chosen.device == "cuda" and not on_gpu:
        parser.error("torch sees no GPU; --device cpu measures without")
    subject = SUBJECTS[chosen.shape]
    own = params.load("train", profile=subject.profile).train.workers if on_gpu else 0
    job = Job(
        subject=subject,
        device=torch.device("cuda" if on_gpu else "cpu"),
        precision=chosen.precision or ("bf16" if on_gpu else "fp32"),
        batch=chosen.batch,
        steps=chosen.steps,
        micro=subject.usual_micro if chosen.micro is None else chosen.micro,
        checkpointed=chosen.checkpointed,
        workers=own if chosen.workers is None else chosen.workers,
    )
    print(json.dumps(measured(chosen.shape, job)))


if __name__ == "__main__":
    main()
