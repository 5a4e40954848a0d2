"""The bench of a device: InternVL2-8B's shape without its weights, and a whole run at the smallest size."""

import itertools
import json
import sys
from dataclasses import replace

import pytest
import torch

from irgpt_lib.irtd.captions import CAPTION_PROMPT
from irgpt_lib.training.dry_run import Counted
from irgpt_lib.training.stages import trainable
from tests.bench import device
from tests.bench.data import frames
from tests.bench.device import SUBJECTS, Clock, Job, random_model, shape_for

CPU = torch.device("cpu")
SMALL = Job(SUBJECTS["miniature"], CPU, "fp32", batch=4, steps=2, micro=0, checkpointed=False, workers=0)
LARGE = replace(SMALL, subject=SUBJECTS["internvl2-8b"], device=torch.device("meta"), precision="bf16")


def inputs(vlm, subject, numbers):
    answers = [device.WORD * (subject.answer_length(number) - 1) for number in numbers]
    tiles = [vlm.read(frame) for frame in frames(len(numbers))]
    return vlm.inputs([CAPTION_PROMPT] * len(numbers), answers, tiles)


@pytest.mark.parametrize("job", [SMALL, LARGE])
def test_texts_have_the_lengths_that_are_counted(job):
    shape = shape_for(job.subject)
    vlm, subject = random_model(shape, 1, job), job.subject
    batch = inputs(vlm, subject, range(8))
    images, sizes, _ = device.image_of(shape, subject.piece(8))
    assert batch["input_ids"].shape == (8, images + subject.prompt_tokens + subject.answer_tokens)
    assert batch["pixel_values"].shape == sizes["pixel_values"]
    answers = (batch["labels"] != -100).sum(1)
    assert answers.max() == subject.answer_tokens
    assert answers.float().mean() == subject.piece(8).answer_tokens
    assert subject.piece(8).text_tokens == subject.prompt_tokens + subject.answer_tokens


@pytest.mark.parametrize("stage", [1, 2])
def test_8b_is_exact_and_trains_in_float32_what_the_stage_trains(stage):
    vlm = random_model(shape_for(LARGE.subject), stage, LARGE)
    assert sum(p.numel() for p in vlm.model.parameters()) == pytest.approx(8.08e9, rel=0.01)
    assert vlm.model.config.vision_config.image_size == [448, 448]
    trained = trainable(vlm.model) if stage == 1 else set(vlm.names("projector"))
    assert {n for n, p in vlm.model.named_parameters() if p.dtype == torch.float32} == trained
    assert vlm.model.lm_head.weight.dtype == torch.bfloat16


def test_the_first_steps_are_not_measured(monkeypatch):
    moments = iter([0.0, 50.0, 53.0, 55.0])
    monkeypatch.setattr(device.time, "perf_counter", lambda: next(moments))
    clock = Clock()
    for _ in range(4):
        clock({})
    assert clock.measured() == [3.0, 2.0]


def test_the_rate_of_products(monkeypatch):
    ticks = itertools.count(step=0.5)
    monkeypatch.setattr(device, "GEMM_SIDE", {"cpu": 8})
    monkeypatch.setattr(device.time, "perf_counter", lambda: next(ticks))
    assert device.gemm_rate(CPU, torch.float32) == device.GEMM_PRODUCTS["cpu"] * 2 * 8**3 / 0.5


def asked(monkeypatch, *words):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(sys, "argv", ["bench", "--shape", "miniature", *words])
    device.main()


def test_a_whole_run_is_one_line_of_json(monkeypatch, capsys):
    asked_for = []

    def count_step(shape, stage, lora, piece, setting):
        asked_for.append((stage, piece.samples, setting.pieces, setting.held))
        peak, flops = (10**6, 10**12) if setting.checkpointed else (10**7, 10**9)
        return Counted(peak, {}, {}, stage * flops)

    monkeypatch.setattr(device, "count_step", count_step)
    monkeypatch.setattr(device, "DIFFERENT_FRAMES", 2)
    asked(monkeypatch, "--device", "cpu", "--batch", "4", "--steps", "2", "--micro", "2", "--checkpointed")
    (line,) = capsys.readouterr().out.splitlines()
    record = json.loads(line)
    assert (record["device"], record["precision"], record["micro"]) == ("cpu", "fp32", 2)
    assert set(asked_for) == {(1, 2, 2, "fp32"), (2, 2, 2, "fp32")}
    for number, stage in enumerate((record["stages"][name] for name in ("stage 1", "stage 2")), start=1):
        assert stage["steps"] == 2
        assert stage["tokens_per_s"] == pytest.approx(39 * stage["samples_per_s"])
        assert stage["mfu"] == pytest.approx(number * stage["samples_per_s"] / record["gemm_tflops"] / 1e3)
        assert (stage["counted_peak_mb"], stage["peak_cuda_mb"]) == (1.0, None)
        assert stage["losses"][1] < stage["losses"][0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", "0"], "must be 1 or more"),
        (["--micro", "-1"], "0 or more"),
        (["--device", "cuda"], "torch sees no GPU"),
    ],
)
def test_what_cannot_be_measured_is_refused(monkeypatch, capsys, words, message):
    with pytest.raises(SystemExit):
        asked(monkeypatch, *words)
    assert message in capsys.readouterr().err
