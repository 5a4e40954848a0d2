"""The benchmark's questions and the rule half of the instruction subset: nine tasks of the samples (section 3.4)."""

import json
from collections.abc import Sequence

import numpy as np
import pandas as pd

from irgpt_lib import params
from irgpt_lib.irtd.record import Sample
from irgpt_lib.irtd.simulated.dataset import SPLITS
from irgpt_lib.tasks import TASKS

QUESTION_SPLITS = ("instruction", "benchmark")
QUESTION_COLUMNS = [
    *("question_id", "sample_id", "group", "band", "source", "split", "task", "question", "answer"),
    *("truth", "options", "key"),
]


def make_questions(samples: Sequence[Sample], split: str, count: int, seed: int) -> pd.DataFrame:
    """Up to `count / 9` questions of each task from the samples of one split, at most one of a task for a sample.

    Columns: question_id, sample_id, group, band, source, split, task, question, answer (released grammar, frame
    0-1000), truth and options (JSON), key (what the question itself gives away).
    """
    if len({s.sample_id for s in samples}) < len(samples):
        raise ValueError("two samples have one id; every source must name its samples apart")
    own = [s for s in samples if s.split == split]
    categories = sorted({b.category for s in samples for b in s.boxes})
    scenes = sorted({s.scene for s in samples if s.scene})
    rows = []
    for number, (name, task) in enumerate(TASKS.items()):
        rng = np.random.default_rng([seed, SPLITS.index(split), number])
        asked = 0
        for i in rng.permutation(len(own)):
            if asked == count // len(TASKS):
                break
            question = task.ask(own[i], rng, categories, scenes)
            if question is None:
                continue
            asked += 1
            rows.append(
                {
                    "question_id": f"{own[i].sample_id}#{name}",
                    "sample_id": own[i].sample_id,
                    "group": own[i].group or own[i].sample_id,
                    "band": own[i].band,
                    "source": own[i].source,
                    "split": split,
                    "task": name,
                    "question": question.text,
                    "answer": question.answer,
                    "truth": json.dumps(question.truth),
                    "options": json.dumps(question.options),
                    "key": question.key,
                }
            )
    return pd.DataFrame(rows, columns=QUESTION_COLUMNS)


def all_questions(samples: Sequence[Sample], config: params.Dataset) -> pd.DataFrame:
    """The instruction questions and the benchmark's.

    A task that has no instruction question gets no benchmark question either: nothing could be tuned on it, and its
    blind prior could not be learned.

    Raises:
        ValueError: no question at all could be made for one of the splits.
    """
    tuning = make_questions(samples, "instruction", config.instruction_questions, config.seed)
    asked = make_questions(samples, "benchmark", config.benchmark_questions, config.seed)
    asked = asked[asked["task"].isin(tuning["task"].unique())]
    for split, questions in (("instruction", tuning), ("benchmark", asked)):
        if questions.empty:
            groups = len({s.group or s.sample_id for s in samples if s.split == split})
            raise ValueError(
                f"no {split} question could be made: that split has {groups} groups of images; add sources or change "
                "dataset.split_shares"
            )
    return pd.concat([tuning, asked], ignore_index=True)


def question_gallery(samples: Sequence[Sample], questions: pd.DataFrame, each: int) -> pd.DataFrame:
    """The first `each` questions of every task with their images, in the columns that a picture of samples needs; the
    caption is the question and its true answer."""
    by_id = {s.sample_id: s for s in samples}
    rows = []
    for question in questions.groupby("task", sort=False).head(each).itertuples():
        sample = by_id[question.sample_id]
        text = f"{question.task}: {question.question} -> {question.answer}".replace("\n", " ")
        boxes = () if sample.kind in ("aerial", "crowd", "montage") else sample.boxes
        rows.append(
            {
                "infrared": sample.infrared,
                "visible": sample.visible,
                "caption": text,
                "boxes": boxes,
                "band": sample.band,
                "sample_id": sample.sample_id,
            }
        )
    return pd.DataFrame(rows)
