"""The benchmark's questions and the rule half of the instruction subset: nine tasks of the samples (section 3.4)."""

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from irgpt_lib import params
from irgpt_lib.irtd.record import Sample
from irgpt_lib.irtd.simulated.dataset import SPLITS
from irgpt_lib.tasks import TASKS, Question, Task, relationship
from irgpt_lib.tasks.balance import BALANCES, balanced

QUESTION_SPLITS = ("instruction", "benchmark")
QUESTION_COLUMNS = [
    *("question_id", "sample_id", "group", "band", "source", "split", "task", "question", "answer"),
    *("frame", "truth", "options", "key"),
]


class Words(NamedTuple):
    """What wrong options are drawn from: all categories and all classes of scenes that the dataset has."""

    categories: tuple[str, ...]
    scenes: tuple[str, ...]


def words_of(samples: Iterable[Sample]) -> Words:
    """All categories and all scenes of these samples, sorted."""
    categories: set[str] = set()
    scenes: set[str] = set()
    for sample in samples:
        categories.update(box.category for box in sample.boxes)
        scenes.update({sample.scene} - {""})
    return Words(tuple(sorted(categories)), tuple(sorted(scenes)))


# Several draws of one sample, so that there is a choice among them where answers are to be balanced.
DRAWS = 4
# More candidates than are wanted, for the same reason, and a bound where a dataset has many more samples.
CANDIDATES_PER_QUESTION = 12


def tasks_of(config: params.Dataset) -> dict[str, Task]:
    """The nine tasks, Relationship over the relations that the section names."""
    return {**TASKS, "relationship": relationship.asking(config.relations)}


def candidates_of(
    task: Task, samples: Sequence[Sample], count: int, words: Words, released: bool, rng: np.random.Generator
) -> tuple[list[Question], list[Sample]]:
    """Questions of one task, some of them of one sample, and the sample of each, in a random order of samples."""
    questions: list[Question] = []
    of: list[Sample] = []
    for i in rng.permutation(len(samples)):
        if len(questions) >= CANDIDATES_PER_QUESTION * count:
            break
        if released:
            found = task.released.ask(samples[i], rng) if task.released else []
        else:
            drawn = (task.ask(samples[i], rng, *words) for _ in range(DRAWS if task.name in BALANCES else 1))
            found = [question for question in drawn if question]
        questions += found
        of += [samples[i]] * len(found)
    return questions, of


def filled_up(taken: Sequence[int], count: int, ids: Sequence[str], rng: np.random.Generator) -> list[int]:
    """`taken` and as many others, drawn at random, as make `count`; at most one a sample, whose id `ids` gives."""
    used = {ids[i] for i in taken}
    filled = list(taken)
    for i in rng.permutation(len(ids)):
        if len(filled) >= count:
            break
        if ids[i] not in used:
            used.add(ids[i])
            filled.append(int(i))
    return filled


def make_questions(
    samples: Sequence[Sample], split: str, count: int, config: params.Dataset, words: Words
) -> pd.DataFrame:
    """Up to `count / 9` questions of each task from the samples of one split, at most one of a task for a sample.

    In the flavour `study` the benchmark's answers are balanced so that a blind guess is at chance (`tasks.balance`),
    and fewer questions come back where the samples do not allow that; instruction questions are chosen likewise and
    then filled up, for a benchmark that is balanced gives nothing away whatever was learned before. In `released` both
    follow the release's own rules and frames.

    Columns: question_id, sample_id, group, band, source, split, task, question, answer (released grammar), frame (of
    the numbers in the answer, empty where it has none), truth and options (JSON), key (what the question itself gives
    away).
    """
    if len({s.sample_id for s in samples}) < len(samples):
        raise ValueError("two samples have one id; every source must name its samples apart")
    own = [s for s in samples if s.split == split]
    released = config.flavour == "released"
    each = count // len(TASKS)
    rows = []
    for number, task in enumerate(tasks_of(config).values()):
        rng = np.random.default_rng([config.seed, SPLITS.index(split), number])
        questions, of = candidates_of(task, own, each, words, released, rng)
        ids = [sample.sample_id for sample in of]
        taken = [] if released else balanced(questions, each, rng, ids)
        if released or split == "instruction":
            taken = filled_up(taken, each, ids, rng)
        rows += [row_of(questions[i], of[i], split) for i in sorted(taken)]
    return pd.DataFrame(rows, columns=QUESTION_COLUMNS)


def row_of(question: Question, sample: Sample, split: str) -> dict[str, str]:
    """One question in the columns of the table."""
    coordinates = question.task in ("grounding", "location")
    return {
        "question_id": f"{sample.sample_id}#{question.task}",
        "sample_id": sample.sample_id,
        "group": sample.group or sample.sample_id,
        "band": sample.band,
        "source": sample.source,
        "split": split,
        "task": question.task,
        "question": question.text,
        "answer": question.answer,
        "frame": (question.frame or "normalised_1000") if coordinates else "",
        "truth": json.dumps(question.truth),
        "options": json.dumps(question.options),
        "key": question.key,
    }


def all_questions(samples: Sequence[Sample], config: params.Dataset, words: Words) -> pd.DataFrame:
    """The instruction questions and the benchmark's.

    A task that has no instruction question gets no benchmark question either: nothing could be tuned on it, and its
    blind prior could not be learned.

    Raises:
        ValueError: no question at all could be made for one of the splits.
    """
    tuning = make_questions(samples, "instruction", config.instruction_questions, config, words)
    asked = make_questions(samples, "benchmark", config.benchmark_questions, config, words)
    asked = asked[asked["task"].isin(tuning["task"].unique())]
    for split, questions in (("instruction", tuning), ("benchmark", asked)):
        if questions.empty:
            groups = len({s.group or s.sample_id for s in samples if s.split == split})
            raise ValueError(
                f"no {split} question could be made: that split has {groups} groups of images; add sources or change "
                "dataset.split_shares"
            )
    return pd.concat([tuning, asked], ignore_index=True)


def as_questions(rows: pd.DataFrame) -> list[Question]:
    """The rows as the tasks know them."""
    return [
        Question(r.task, r.question, r.answer, json.loads(r.truth), tuple(json.loads(r.options)), r.key, r.frame)
        for r in rows.itertuples()
    ]


def blind_table(questions: pd.DataFrame) -> pd.DataFrame:
    """What the benchmark gives away without its images: for each task the number of questions, the score of the blind
    prior learned on the instruction questions, and of chance (accuracy in %, or mean absolute error)."""
    rows = []
    for name, task in TASKS.items():
        own = questions[questions["task"] == name]
        train, test = (as_questions(own[own["split"] == split]) for split in QUESTION_SPLITS)
        if not train or not test:
            continue
        guess = task.blind(train)
        rows.append(
            {
                "task": name,
                "metric": task.metric,
                "questions": len(test),
                "blind": float(np.mean([task.score(guess(q), q.truth) for q in test])),
                "chance": float(np.mean([task.chance(q, train) for q in test])),
            }
        )
    return pd.DataFrame(rows)


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
