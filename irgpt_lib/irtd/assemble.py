"""Sources to a dataset: samples with captions and splits, questions, and an account of every record (sections 3.1-3.4).

`gather` reads every source into shards, `plan` decides from their index alone which samples stay and in which split,
`write` streams them into the dataset's own shards. Images are in memory a row group at a time. Splits go by group
(scene, sequence, identity, near-duplicates), never by sample or question, so that no content stands in two of them.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from irgpt_lib import params
from irgpt_lib.irtd.build import Job, build
from irgpt_lib.irtd.near_duplicates import (
    FLAT_HASH,
    NEAR_DUPLICATE,
    as_integers,
    leak_columns,
    merge_groups,
    near_duplicates,
    representatives,
)
from irgpt_lib.irtd.principles import alignment_faults
from irgpt_lib.irtd.questions import QUESTION_SPLITS, Words
from irgpt_lib.irtd.record import Rejected, Sample, from_table
from irgpt_lib.irtd.shards import SplitWriter, read_shards, shard_files, without_images, write_shard
from irgpt_lib.irtd.simulated.dataset import SIMULATED, SPLITS, simulated_samples
from irgpt_lib.irtd.sources.reading import default_root, known_source
from irgpt_lib.irtd.sources.registry import refuse_synthetic
from irgpt_lib.irtd.sources.source import MissingData, Source
from irgpt_lib.irtd.sources.storing import rejected_file

INDEX = ["sample_id", "source", "group", "split", "authentic", "perceptual_hash"]
DUPLICATE_ID = "duplicate id"
SHOWN_EACH = 2


class TooManyRejected(ValueError):
    """More raw records were rejected than `dataset.max_rejected_share` allows; the message counts the reasons."""


@dataclass(frozen=True)
class Gathered:
    """What the sources hold: shards in the order of `dataset.sources`, a row of `INDEX` a sample, what was rejected."""

    shards: tuple[Path, ...]
    index: pd.DataFrame
    rejected: list[Rejected]


@dataclass(frozen=True)
class Plan:
    """What becomes of each sample (columns keep, group and split, in the order of the index), and what is dropped."""

    fate: pd.DataFrame
    dropped: list[Rejected]


@dataclass(frozen=True)
class Written:
    """The dataset as it was written.

    `overview` has one row a sample (what the notebook counts), `asked` the samples of the question splits without their
    images, `shown` a few of each source, kind and band with them, `leak_columns` what the leak test compares,
    `disagreements` the samples whose caption contradicts their labels.
    """

    overview: pd.DataFrame
    asked: list[Sample]
    shown: list[Sample]
    leak_columns: pd.DataFrame
    disagreements: pd.DataFrame
    words: Words


def gather(config: params.Dataset, raw_root: Path, scratch: Path) -> Gathered:
    """Read all sources that the section `dataset` names into `scratch/<source>/`, going on where a killed run stopped.

    Raises:
        NotAuthentic: `dataset.authentic_only`, and a source is simulated or registered as not authentic.
        UnknownName: a source that neither the registry nor this function knows.
        MissingData: raw folders are absent; says of each what belongs there and where it comes from.
        MalformedFile: a whole annotation file cannot be used.
        TooManyRejected: see `check_rejected`.
    """
    if config.authentic_only:
        refuse_synthetic(config.sources)
    raw = {name: raw_source(name, config) for name in config.sources if name != SIMULATED}
    absent = [
        str(source.missing(root, "no such folder"))
        for source in raw.values()
        if not (root := default_root(source, raw_root)).is_dir()
    ]
    if absent:
        cure = "" if len(absent) == 1 else "\nGet them, or take them out of dataset.sources in params.yaml."
        raise MissingData("\n".join(absent) + cure)
    shards: list[Path] = []
    for name in config.sources:
        folder = scratch / name
        if name == SIMULATED:
            write_shard(simulated_samples(config.simulated, config.seed), folder / "shard-000000.parquet")
        else:
            root = default_root(raw[name], raw_root)
            build(Job(raw[name], raw[name].format, root, folder, config.shard_records, config.workers))
        shards += shard_files(folder)
    index = pa.concat_tables([pq.read_table(file, columns=INDEX).replace_schema_metadata(None) for file in shards])
    rejected = [bad for file in shards for bad in rejected_beside(file)]
    gathered = Gathered(tuple(shards), index.to_pandas(), rejected)
    check_rejected(rejected, int((gathered.index["source"] != SIMULATED).sum()), config.max_rejected_share)
    return gathered


def rejected_beside(shard: Path) -> list[Rejected]:
    """The records that were rejected while this shard was read; simulated shards have none."""
    file = rejected_file(shard)
    return [Rejected(**row) for row in pq.read_table(file).to_pylist()] if file.is_file() else []


def raw_source(name: str, config: params.Dataset) -> Source:
    """The registered source, at the frame rate that `dataset.keep_every` asks for it."""
    source = known_source(name)
    return replace(source, keep_every=config.keep_every.get(name, source.keep_every))


def plan(gathered: Gathered, config: params.Dataset) -> Plan:
    """Which samples stay, and their split.

    An id that came before is dropped, and so is an authentic image whose hash lies within `drop_distance` bits of one
    that came before, of whatever source. Groups that hashes within `group_distance` connect become one before the
    splits are drawn. A simulated sample keeps the split that it was made for.
    """
    index = gathered.index
    repeated = index.duplicated("sample_id").to_numpy()
    groups = index["group"].where(index["group"] != "", index["sample_id"]).tolist()
    hashes = as_integers(index["perceptual_hash"].where(index["authentic"], FLAT_HASH))
    groups = merge_groups(groups, near_duplicates(hashes, config.near_duplicates.group_distance).sample_pairs())
    first = representatives(near_duplicates(hashes, config.near_duplicates.drop_distance), [""] * len(index))
    drawn = splits_of(groups, config.split_shares, config.seed)
    splits = np.where(index["source"] == SIMULATED, index["split"], drawn)
    fate = pd.DataFrame({"keep": first & ~repeated, "group": groups, "split": splits})
    dropped = [
        Rejected(row.source, "", row.sample_id, DUPLICATE_ID if again else NEAR_DUPLICATE, f"group {row.group}")
        for row, again, kept in zip(index.itertuples(), repeated, fate["keep"], strict=True)
        if not kept
    ]
    return Plan(fate, dropped)


def planned_samples(gathered: Gathered, decided: Plan) -> Iterator[Sample]:
    """The samples that stay, with their images, group and split, in the order of the shards."""
    for sample, fate in zip(read_shards(gathered.shards), decided.fate.itertuples(), strict=True):
        if fate.keep:
            yield replace(sample, group=fate.group, split=fate.split)


def write(samples: Iterator[Sample], folder: Path) -> Written:
    """Stream samples into `folder/<split>-00000.parquet` and so on; keep what the notebook and the questions need."""
    rows, asked, contradictions = [], [], []
    shown: dict[tuple[str, str, str], list[Sample]] = {}
    categories: set[str] = set()
    scenes: set[str] = set()

    def passing(writer: SplitWriter) -> Iterator[Sample]:
        for sample in samples:
            writer.add(sample)
            rows.append(overview_row(sample))
            if faults := alignment_faults(sample):
                told = (sample.sample_id, sample.source, sample.caption_path, rows[-1][-1], "; ".join(faults))
                contradictions.append(told)
            alike = shown.setdefault((sample.source, sample.kind, sample.band), [])
            if len(alike) < SHOWN_EACH:
                alike.append(sample)
            categories.update(box.category for box in sample.boxes)
            scenes.update({sample.scene} - {""})
            if sample.split in QUESTION_SPLITS:
                asked.append(without_images(sample))
            yield sample

    with SplitWriter(folder) as writer:
        columns = leak_columns(passing(writer))
    return Written(
        pd.DataFrame(rows, columns=OVERVIEW),
        asked,
        [sample for key in sorted(shown) for sample in shown[key]],
        columns,
        pd.DataFrame(contradictions, columns=DISAGREEMENT),
        Words(tuple(sorted(categories)), tuple(sorted(scenes))),
    )


def with_images(folder: Path, sample_ids: Collection[str]) -> list[Sample]:
    """Those samples of a dataset's folder, with their images, in the order of its shards."""
    wanted = pc.field("sample_id").isin(list(sample_ids))
    found = (pq.read_table(file, filters=wanted) for file in shard_files(folder))
    return [sample for table in found for sample in from_table(table)]


OVERVIEW = [
    *("sample_id", "source", "band", "kind", "split", "authentic", "paired"),
    *("caption_path", "route_reason", "caption_state", "words", "swapped"),
]
DISAGREEMENT = ["sample_id", "source", "caption_path", "swapped", "disagreement"]


def overview_row(sample: Sample) -> tuple[object, ...]:
    """One sample in the columns of `OVERVIEW`; `words` is the length of its caption."""
    return (
        *(sample.sample_id, sample.source, sample.band, sample.kind, sample.split, sample.authentic),
        bool(sample.visible),
        *(sample.caption_path, sample.facts.get("route_reason", sample.caption_by), sample.caption_state),
        len(sample.caption.split()),
        sample.caption_from not in ("", sample.sample_id),
    )


def splits_of(groups: Sequence[str], shares: dict[str, float], seed: int) -> list[str]:
    """A split for each group, drawn from the hash of its name: the same whatever else is in the dataset.

    Sources whose annotations carry no question still serve pretraining.
    """
    edges = np.cumsum([shares[split] for split in SPLITS]) / sum(shares.values())
    drawn: dict[str, str] = {}
    for group in groups:
        if group not in drawn:
            digest = hashlib.sha256(f"{seed}|{group}".encode()).digest()
            position = int.from_bytes(digest[:8], "big") / 2**64
            drawn[group] = SPLITS[min(int(np.searchsorted(edges, position, side="right")), len(SPLITS) - 1)]
    return [drawn[group] for group in groups]


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
