"""Sources to a dataset: samples with captions and splits, questions, and an account of every record (sections 3.1-3.4).

Splits go by group (scene, sequence, identity), never by sample or question, so that no content stands in two of them.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from irgpt_lib import params
from irgpt_lib.irtd.captions import with_rule_caption
from irgpt_lib.irtd.record import Rejected, Sample, png_bytes
from irgpt_lib.irtd.simulated import world
from irgpt_lib.irtd.simulated.describe import describe
from irgpt_lib.irtd.sources.reading import default_root, known_source, read_source
from irgpt_lib.tasks import TASKS

SPLITS = ("pretrain", "instruction", "benchmark")
QUESTION_SPLITS = ("instruction", "benchmark")
SIMULATED = "simulated"


class TooManyRejected(ValueError):
    """More raw records were rejected than `dataset.max_rejected_share` allows; the message counts the reasons."""


def collect(config: params.Dataset, raw_root: Path) -> tuple[list[Sample], list[Rejected]]:
    """All samples of the sources that the section `dataset` names, with captions and splits, and what was rejected.

    Raises:
        UnknownName: a source that neither the registry nor this function knows.
        MissingData: a raw folder is absent; says what belongs there and where it comes from.
        TooManyRejected: see `check_rejected`.
    """
    samples: list[Sample] = []
    rejected: list[Rejected] = []
    for name in config.sources:
        if name == SIMULATED:
            samples += simulated_samples(config.simulated, config.seed)
            continue
        accepted, bad = read_source(name, default_root(known_source(name), raw_root))
        captioned = [with_rule_caption(sample) for sample in accepted]
        samples += with_split(captioned, config.split_shares, config.seed)
        rejected += bad
    raw = sum(sample.source != SIMULATED for sample in samples)
    check_rejected(rejected, raw, config.max_rejected_share)
    return samples, rejected


def simulated_samples(config: params.SimulatedSource, seed: int) -> list[Sample]:
    """The embedded world's samples of all three splits, with images and captions, some of these swapped.

    Each scene is seen in one band, drawn by `config.bands`; a share `paired_share` keeps its visible pair. In the
    pretraining split `swapped_caption_share` of the captions belong to another scene of the same kind, and
    `caption_from` says which: that is how the study knows what a noise detector should find.
    """
    made: list[Sample] = []
    bands, shares = list(config.bands), np.array(list(config.bands.values()))
    for number, split in enumerate(SPLITS):
        rng = np.random.default_rng([seed, number])
        own: list[Sample] = []
        for truths, renders in world.generate(
            config.scenes[split], seed=10 * seed + number, size=config.size_px, mix=config.mix
        ):
            drawn = rng.choice(bands, size=len(truths), p=shares / shares.sum())
            paired = rng.random(len(truths)) < config.paired_share
            for i, truth in enumerate(truths):
                infrared = png_bytes(getattr(renders, drawn[i])[i])
                visible = png_bytes(renders.visible[i]) if paired[i] else b""
                own.append(
                    replace(
                        truth,
                        band=str(drawn[i]),
                        split=split,
                        infrared=infrared,
                        visible=visible,
                        caption=describe(truth),
                        caption_path=SIMULATED,
                        caption_state="final",
                        caption_by=SIMULATED,
                    )
                )
        made += swap_captions(own, config.swapped_caption_share, rng) if split == "pretrain" else own
    return made


def swap_captions(samples: Sequence[Sample], share: float, rng: np.random.Generator) -> list[Sample]:
    """`share` of the samples of each kind pass their captions round among themselves."""
    swapped = list(samples)
    for kind in sorted({s.kind for s in samples}):
        members = [i for i, s in enumerate(samples) if s.kind == kind]
        chosen = rng.permutation(members)[: round(share * len(members))]
        if len(chosen) < 2:
            continue
        for i, source in zip(chosen, np.roll(chosen, 1), strict=True):
            other = samples[source]
            swapped[i] = replace(samples[i], caption=other.caption, caption_from=other.sample_id)
    return swapped


def with_split(samples: Iterable[Sample], shares: dict[str, float], seed: int) -> list[Sample]:
    """A split for each sample, drawn from the hash of its group: the same whatever else is in the dataset.

    A sample without a group is its own. Sources whose annotations carry no question still serve pretraining.
    """
    edges = np.cumsum([shares[split] for split in SPLITS]) / sum(shares.values())
    placed = []
    for sample in samples:
        digest = hashlib.sha256(f"{seed}|{sample.group or sample.sample_id}".encode()).digest()
        position = int.from_bytes(digest[:8], "big") / 2**64
        split = SPLITS[min(int(np.searchsorted(edges, position, side="right")), len(SPLITS) - 1)]
        placed.append(replace(sample, split=split))
    return placed


def check_rejected(rejected: Sequence[Rejected], accepted: int, max_share: float) -> None:
    """Stop where too much of the raw data is bad.

    Raises:
        TooManyRejected: the share of rejected records is above `max_share`.
    """
    total = accepted + len(rejected)
    if total and len(rejected) / total > max_share:
        reasons = ", ".join(f"{n} x {reason}" for reason, n in Counter(r.reason for r in rejected).most_common(6))
        first = rejected[0]
        raise TooManyRejected(
            f"{len(rejected)} of {total} raw records were rejected, more than "
            f"dataset.max_rejected_share = {max_share}: {reasons}. The first: {first.source}, {first.file}, "
            f"{first.record}: {first.detail}. "
            "Mend the files or raise the share in params.yaml."
        )


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


def gallery(samples: Sequence[Sample], count: int) -> pd.DataFrame:
    """`count` samples, evenly spread over sources, bands and kinds, with what a picture of them needs."""
    kinds: dict[tuple[str, str, str], list[Sample]] = {}
    for sample in samples:
        kinds.setdefault((sample.source, sample.kind, sample.band), []).append(sample)
    groups = [kinds[key] for key in sorted(kinds)]
    drawn = np.random.default_rng(0).permutation(len(groups))[:count]
    shown = [groups[i][0] for i in drawn] + [group[1] for group in groups if len(group) > 1]
    names = ("infrared", "visible", "caption", "boxes", "band", "sample_id")
    rows = [{name: getattr(sample, name) for name in names} for sample in shown[:count]]
    return pd.DataFrame(rows)


def table1_column(found: dict[str, object]) -> list[str]:
    """This dataset in the rows of the paper's Table 1, from its account."""
    questions = found["questions"]
    benchmark = questions["benchmark"]
    authentic = "yes" if found["authentic"] == found["samples"] else "no, simulated"
    return [
        str(found["splits"].get("pretrain", 0)),
        str(sum(questions["instruction"].values())),
        str(sum(benchmark.values())),
        str(len(found["sources"])),
        str(len(benchmark)),
        "yes",
        authentic,
        "not measured",
    ]


QUESTION_COLUMNS = [
    *("question_id", "sample_id", "group", "band", "source", "split", "task", "question", "answer"),
    *("truth", "options", "key"),
]


def leaks(samples: Sequence[Sample]) -> list[str]:
    """The groups that stand in more than one split; empty in a sound dataset."""
    splits: dict[str, set[str]] = {}
    for sample in samples:
        splits.setdefault(sample.group or sample.sample_id, set()).add(sample.split)
    return sorted(group for group, found in splits.items() if len(found) > 1)


def account(samples: Sequence[Sample], rejected: Sequence[Rejected], questions: pd.DataFrame) -> dict[str, object]:
    """The counts that the notebook shows and the tables' headings need."""
    return {
        "samples": len(samples),
        "authentic": sum(s.authentic for s in samples),
        "simulated": sum(not s.authentic for s in samples),
        "sources": dict(sorted(Counter(s.source for s in samples).items())),
        "splits": dict(sorted(Counter(s.split for s in samples).items())),
        "bands": dict(sorted(Counter(s.band for s in samples).items())),
        "paired": sum(bool(s.visible) for s in samples),
        "captioned": sum(bool(s.caption) for s in samples),
        "swapped_captions": sum(s.caption_from not in ("", s.sample_id) for s in samples),
        "questions": {
            split: dict(sorted(Counter(questions.loc[questions["split"] == split, "task"]).items()))
            for split in QUESTION_SPLITS
        },
        "rejected": dict(sorted(Counter(r.reason for r in rejected).items())),
    }


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
