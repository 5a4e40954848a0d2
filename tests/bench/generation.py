"""Generation: the study's answers against transformers `generate` one by one, and in batches that are not sorted.

Every call of ours decodes and encodes each image anew and writes a journal of its own; neither peer keeps anything.
"""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from irgpt_lib import artifacts, params
from irgpt_lib.evaluation.answerers.study_model import answer_limits, study_model
from irgpt_lib.evaluation.answerers.table import predictions
from irgpt_lib.irtd.questions import make_questions, words_of
from irgpt_lib.models.images import decode_image
from irgpt_lib.models.vlm import VisionLanguageModel, load_base
from irgpt_lib.tasks import TASKS
from tests.bench.data import some_samples
from tests.bench.measuring import Row, interleaved
from tests.bench.model import remembered, untrained

Asked = tuple[pd.DataFrame, dict[str, bytes]]


def asked_of(count: int) -> Asked:
    """`count` questions, as many of each task, in the order of their images, as a dataset is read; and the images."""
    samples = some_samples({"pretrain": 0, "instruction": 2 * count, "benchmark": 0})
    questions = make_questions(samples, "instruction", count, params.load("dataset").dataset, words_of(samples))
    if len(questions) != count // len(TASKS) * len(TASKS):
        raise RuntimeError(f"{2 * count} scenes gave {len(questions)} questions, not {count}")
    return questions.sort_values("sample_id").reset_index(drop=True), {s.sample_id: s.infrared for s in samples}


def model() -> tuple[VisionLanguageModel, str]:
    """The base model with its name, or an untrained miniature where there is none."""
    trained = artifacts.path(artifacts.BASE).is_dir()
    vlm = load_base(artifacts.path(artifacts.BASE)) if trained else untrained()
    vlm.model.eval()
    return vlm, "the base model" if trained else "an untrained miniature, since artifacts/base is absent"


def plain(vlm: VisionLanguageModel, asked: Asked, size: int) -> list[str]:
    """transformers' `generate` on `size` questions at a time, in the order given, a batch as long as its longest
    answer may be."""
    questions, images = asked
    limits = questions["task"].map(answer_limits(vlm, questions)).tolist()
    answers: list[str] = []
    for start in range(0, len(questions), size):
        rows = questions.iloc[start : start + size]
        batch = vlm.encode_prompts(rows["question"].tolist())
        gray = np.stack([decode_image(images[name], vlm.image_px) for name in rows["sample_id"]])
        with torch.inference_mode():
            generated = vlm.model.generate(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                pixel_values=vlm.pixel_values(gray),
                max_new_tokens=max(limits[start : start + size]),
                do_sample=False,
            )
        new = generated[:, batch.input_ids.shape[1] :]
        cut = [ids[:limit] for ids, limit in zip(new, limits[start : start + size], strict=True)]
        answers += vlm.tokenizer.batch_decode(cut, skip_special_tokens=True)
    return answers


def ours(vlm: VisionLanguageModel, asked: Asked, size: int, scratch: str) -> list[str]:
    """The study's answers, with nothing left from an earlier call."""
    questions, images = asked
    with tempfile.TemporaryDirectory(dir=scratch) as journals:
        answerer = study_model(vlm, "bench", questions, Path(journals), batch_size=size)
        return predictions(answerer, questions, images)["output"].tolist()


def against(name: str, peer: str, peer_size: int, size: int, asked: Asked, repeats: int) -> Row:
    """Ours in batches of `size` against plain `generate` in batches of `peer_size`, on the same questions."""
    vlm, whose = model()
    found: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        mine, theirs = interleaved(
            remembered(found, "ours", lambda: ours(vlm, asked, size, scratch)),
            remembered(found, "peer", lambda: plain(vlm, asked, peer_size)),
            repeats,
        )
    same = sum(a == b for a, b in zip(found["ours"], found["peer"], strict=True))
    note = f"{same} of {len(found['ours'])} answers equal; batches of {size}; {whose}"
    return Row(name, len(asked[0]), "questions", peer, mine, theirs, note)


def one_by_one(count: int, repeats: int) -> Row:
    """Against `generate` for each question alone."""
    size = params.load("evaluate").evaluate.batch_size
    return against("answers, sorted and batched", "generate, one by one", 1, size, asked_of(count), repeats)


def unsorted(count: int, repeats: int) -> Row:
    """Against `generate` in batches of the same size, in the order of the images."""
    size = params.load("evaluate").evaluate.batch_size
    return against("answers, sorted by length", "generate, batched, unsorted", size, size, asked_of(count), repeats)
