"""Generation: the study's answers against transformers `generate` one by one, and in batches that are not sorted.

Every call of ours decodes and encodes each image anew and writes a journal of its own; neither peer keeps anything.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch

from irgpt_lib import params
from irgpt_lib.evaluation.answerers.study_model import answer_limits, study_model
from irgpt_lib.evaluation.answerers.table import predictions
from irgpt_lib.irtd.questions import make_questions, words_of
from irgpt_lib.models.families import Family
from irgpt_lib.models.families.family import GREEDY
from irgpt_lib.models.families.pixels import size_of
from irgpt_lib.tasks import TASKS
from tests.bench.data import some_samples
from tests.bench.measuring import Row, interleaved
from tests.bench.model import starting

Asked = tuple[pd.DataFrame, dict[str, bytes]]


def asked_of(count: int) -> Asked:
    """`count` questions, as many of each task, in the order of their images, as a dataset is read; and the images."""
    samples = some_samples({"pretrain": 0, "instruction": 2 * count, "benchmark": 0})
    questions = make_questions(samples, "instruction", count, params.load("dataset").dataset, words_of(samples))
    if len(questions) != count // len(TASKS) * len(TASKS):
        raise RuntimeError(f"{2 * count} scenes gave {len(questions)} questions, not {count}")
    return questions.sort_values("sample_id").reset_index(drop=True), {s.sample_id: s.infrared for s in samples}


def plain(vlm: Family, asked: Asked, size: int) -> list[str]:
    """transformers' `generate` on `size` questions at a time, in the order given, a batch as long as its longest
    answer may be."""
    questions, images = asked
    limits = questions["task"].map(answer_limits(vlm, questions)).tolist()
    answers: list[str] = []
    for start in range(0, len(questions), size):
        rows, most = questions.iloc[start : start + size], limits[start : start + size]
        files = [images[name] for name in rows["sample_id"]]
        tiles = [vlm.read(file) for file in files]
        batch = vlm.encode_prompts(rows["question"].tolist(), [vlm.image_tokens(one) for one in tiles])
        inputs = vlm.text_inputs(batch) | vlm.image_inputs(tiles)
        with torch.inference_mode():
            generated = vlm.model.generate(**inputs, **GREEDY, max_new_tokens=max(most), pad_token_id=vlm.pad_id)
        new = generated[:, batch.input_ids.shape[1] :].tolist()
        texts = [vlm.decode(ids[:limit]) for ids, limit in zip(new, most, strict=True)]
        answers += [vlm.in_study_grammar(text, size_of(file)) for text, file in zip(texts, files, strict=True)]
    return answers


def ours(vlm: Family, asked: Asked, size: int, scratch: str) -> list[str]:
    """The study's answers, with nothing left from an earlier call."""
    questions, images = asked
    with tempfile.TemporaryDirectory(dir=scratch) as journals:
        answerer = study_model(vlm, "bench", questions, Path(journals), batch_size=size)
        return predictions(answerer, questions, images)["output"].tolist()


def remembered(found: dict[str, list[str]], name: str, work: Callable[[], list[str]]) -> Callable[[], None]:
    """The work, its result kept under the name."""

    def call() -> None:
        found[name] = work()

    return call


def against(name: str, peer: str, peer_size: int, size: int, asked: Asked, repeats: int) -> Row:
    """Ours in batches of `size` against plain `generate` in batches of `peer_size`, on the same questions."""
    vlm, whose = starting()
    vlm.model.eval()
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
