"""Whether the folder of a built dataset holds what it says: schema, every image and box, ids, splits, leaks between
splits, answers, checksums."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from irgpt_lib import artifacts
from irgpt_lib.irtd.card import CARD, CROISSANT, TABLES, file_sha256
from irgpt_lib.irtd.near_duplicates import FLAT_HASH, leak_columns, leaks
from irgpt_lib.irtd.questions import QUESTION_COLUMNS, QUESTION_SPLITS
from irgpt_lib.irtd.record import (
    BANDS,
    CAPTION_STATES,
    KINDS,
    SCHEMA,
    CaptionPath,
    RecordError,
    Rejected,
    Sample,
    check,
    from_table,
)
from irgpt_lib.irtd.shards import IMAGES, shard_files
from irgpt_lib.irtd.sources.files import inside, read_text
from irgpt_lib.tasks import TASKS

DATASET = Path("dataset")
COUNTED = ("split", "source", "band", "caption_path")
VOCABULARY = {"band": BANDS, "kind": KINDS, "caption_path": get_args(CaptionPath), "caption_state": CAPTION_STATES}
HASH = re.compile("(?:[0-9a-f]{16})?")


@dataclass(frozen=True)
class Checked:
    """What a dataset holds and what is wrong with it.

    `counts` are of the samples that can be read, by split, source, band and caption path; `questions` by
    `<split>/<task>`. A fault has file, record, reason and detail; a sound dataset has none.
    """

    samples: int
    counts: Mapping[str, Mapping[str, int]]
    questions: Mapping[str, int]
    faults: tuple[Rejected, ...]


def check_folder(
    folder: Path, distance: int, progress: Callable[[Iterator[Sample]], Iterable[Sample]] = iter
) -> Checked:
    """Check every file of the dataset in `folder`; what is wrong is a fault and hides nothing else.

    Two images whose perceptual hashes differ by at most `distance` bits (0-16) need one split. `progress` is wrapped
    around the stream of samples.

    Raises:
        FileNotFoundError: there is no shard of samples.
        ValueError: `distance` is not 0-16.
    """
    faults: list[Rejected] = []
    counts, columns = checked_samples(folder, faults, progress)
    questions = checked_questions(folder, faults)
    for leak in leaks(columns, distance, questions):
        detail = f"{leak.content} in {', '.join(leak.splits)}"
        faults.append(fault(", ".join(leak.splits), ", ".join(leak.examples), f"leak of {leak.kind}", detail))
    faults += description_faults(folder)
    asked = questions.groupby(["split", "task"]).size()
    return Checked(
        samples=len(columns),
        counts={name: dict(sorted(count.items())) for name, count in counts.items()},
        questions={f"{split}/{task}": int(number) for (split, task), number in asked.items()},
        faults=tuple(faults),
    )


def part(folder: Path, name: str) -> Path:
    """What `artifacts` calls `dataset/<name>`, in another folder of a dataset."""
    return folder / Path(name).relative_to(DATASET)


def split_of(file: Path) -> str:
    """`benchmark` of `benchmark-00000.parquet` and of `benchmark.parquet`."""
    return file.stem.partition("-")[0]


def first_line(error: Exception) -> str:
    """The first line of an error's message, or the error itself where it says nothing."""
    return (str(error) or repr(error)).splitlines()[0]


def fault(file: str, record: str, reason: str, detail: str = "") -> Rejected:
    return Rejected("dataset", file, record, reason, detail)


def checked_samples(
    folder: Path, faults: list[Rejected], progress: Callable[[Iterator[Sample]], Iterable[Sample]]
) -> tuple[dict[str, Counter[str]], pd.DataFrame]:
    """What the samples count to and the columns of the leak test; what is wrong with them is added to `faults`.

    A sample that can be read and not used stays in the leak test, all but its perceptual hash.
    """
    counts: dict[str, Counter[str]] = {name: Counter() for name in COUNTED}

    def passing() -> Iterator[Sample]:
        for file in shard_files(part(folder, artifacts.SAMPLES)):
            for sample in rows_of(file, faults):
                for name, count in counts.items():
                    count[getattr(sample, name)] += 1
                if wrong := sample_fault(sample, split_of(file)):
                    faults.append(fault(file.name, sample.sample_id, *wrong))
                yield replace(sample, perceptual_hash=FLAT_HASH) if wrong else sample

    columns = leak_columns(progress(passing()))
    for name, count in columns["sample_id"].value_counts().items():
        if count > 1:
            faults.append(fault("samples", str(name), "duplicate id", f"{count} samples"))
    return counts, columns


def rows_of(file: Path, faults: list[Rejected]) -> Iterator[Sample]:
    """The samples of one shard as far as it fits the schema; else `faults` grows by what does not."""
    try:
        with pq.ParquetFile(file) as shard:
            found = {column.name: column.type for column in shard.schema_arrow}
            other = [
                f"{c.name} is {found.get(c.name, 'absent')}, not {c.type}"
                for c in SCHEMA
                if found.get(c.name) != c.type
            ]
            if other:
                faults.append(fault(file.name, "all", "other schema", "; ".join(other)))
                return
            for group in range(shard.num_row_groups):
                table = shard.read_row_group(group, columns=SCHEMA.names)
                # an absent image is an empty one, which the check of the sample judges
                if empty := [place for place in empty_cells(table) if place not in IMAGES]:
                    faults.append(fault(file.name, f"row group {group}", "empty cells", ", ".join(empty)))
                else:
                    yield from from_table(known_words(table, file, faults))
    except (OSError, ValueError, pa.ArrowException) as error:
        faults.append(fault(file.name, "all", "unreadable table", first_line(error)))


def known_words(table: pa.Table, file: Path, faults: list[Rejected]) -> pa.Table:
    """The rows of a table of samples whose band, kind, caption path and state exist; of others `faults` grows."""
    for name, words in VOCABULARY.items():
        known = pc.is_in(table[name], pa.array(words))
        strange = table.select(["sample_id", name]).filter(pc.invert(known))
        for row in strange.to_pylist():
            detail = f"{row[name]!r:.40}; known: {', '.join(filter(None, words))}"
            faults.append(fault(file.name, row["sample_id"], f"unknown {name.replace('_', ' ')}", detail))
        table = table.filter(known)
    return table


def empty_cells(table: pa.Table) -> list[str]:
    """The columns, and parts of columns as `boxes.x1`, in which a cell is null."""

    def within(name: str, cells: pa.Array) -> Iterator[str]:
        if cells.null_count:
            yield name
        elif pa.types.is_list(cells.type):
            yield from within(name, cells.flatten())
        elif pa.types.is_struct(cells.type):
            for field in cells.type:
                yield from within(f"{name}.{field.name}", cells.field(field.name))

    return [place for name in table.column_names for place in within(name, table[name].combine_chunks())]


def sample_fault(sample: Sample, split: str) -> tuple[str, str] | None:
    """Reason and detail where a sample of the shards of `split` cannot be used."""
    try:
        check(sample)
    except RecordError as error:
        return error.reason, error.detail
    if sample.split != split:
        return "other split", f"its split is {sample.split!r}, it lies with {split}"
    if not HASH.fullmatch(sample.perceptual_hash):
        return "no perceptual hash", f"{sample.perceptual_hash!r:.40} is not 16 hexadecimal digits"
    return None


def checked_questions(folder: Path, faults: list[Rejected]) -> pd.DataFrame:
    """The questions that can be read; what is wrong with any is added to `faults`."""
    tables = [pd.DataFrame(columns=QUESTION_COLUMNS)]
    for split in QUESTION_SPLITS:
        file = part(folder, artifacts.QUESTIONS) / f"{split}.parquet"
        try:
            table = pq.read_table(file, columns=QUESTION_COLUMNS)
        except (OSError, ValueError, pa.ArrowException) as error:
            faults.append(fault(file.name, "all", "unreadable table", first_line(error)))
            continue
        if empty := empty_cells(table):
            faults.append(fault(file.name, "all", "empty cells", ", ".join(empty)))
            continue
        rows = table.to_pandas()
        for row in rows.itertuples():
            if wrong := question_fault(row):
                faults.append(fault(file.name, str(row.question_id), *wrong))
        for name, count in rows["question_id"].value_counts().items():
            if count > 1:
                faults.append(fault(file.name, str(name), "duplicate id", f"{count} questions"))
        tables.append(rows)
    return pd.concat(tables, ignore_index=True)


def question_fault(row: Any) -> tuple[str, str] | None:
    """Reason and detail where the answer of a question cannot be read by its task, or is not scored as perfect."""
    task = TASKS.get(row.task)
    if task is None:
        return "unknown task", f"{row.task!r:.40}; known: {', '.join(TASKS)}"
    try:
        truth, parsed = json.loads(row.truth), task.read(row.answer)
        score = None if parsed is None else task.score(parsed, truth)
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        return "unusable truth", f"{row.truth!r:.80}: {first_line(error)}"
    if score is None:
        return "unreadable answer", f"{row.task}: {row.answer!r:.80}"
    if score != (100.0 if task.higher_is_better else 0.0):
        return "wrong answer", f"{row.task}: {row.answer!r:.80} scores {score:g} against {row.truth:.80}"
    return None


def description_faults(folder: Path) -> list[Rejected]:
    """Card or Croissant that are absent, and tables that are not those which Croissant names by their SHA-256."""
    faults = [fault(name, "all", "missing file") for name in (CARD, CROISSANT) if not (folder / name).is_file()]
    if not (folder / CROISSANT).is_file():
        return faults
    try:
        parts = json.loads(read_text(folder / CROISSANT))["distribution"]
        stated = {entry["contentUrl"]: entry["sha256"] for entry in parts if "sha256" in entry}
        files = {name: inside(folder, name) for name in stated}
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        return [*faults, fault(CROISSANT, "all", "no Croissant description of files", first_line(error))]
    for name, file in files.items():
        if not file.is_file():
            faults.append(fault(name, "all", "missing file", f"{CROISSANT} names it"))
        elif file_sha256(file) != stated[name]:
            faults.append(fault(name, "all", "other checksum", f"{CROISSANT} states {stated[name]!s:.64}"))
    tables = [file for table in TABLES for file in (folder / table).glob("*.parquet")]
    unnamed = sorted({file.relative_to(folder).as_posix() for file in tables} - files.keys())
    return faults + [fault(name, "all", "file not described", f"{CROISSANT} does not name it") for name in unnamed]
