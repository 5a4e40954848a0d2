"""The built dataset as the commands read it: its folder, samples and tables, with errors that name the file.

Commands import this module when they run: pandas and torch take seconds to load.
"""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from irgpt_lib import artifacts
from irgpt_lib.irtd.conversing import COLUMNS
from irgpt_lib.irtd.dataset_check import DATASET, first_line, part, split_of
from irgpt_lib.irtd.exchange import kept_conversations
from irgpt_lib.irtd.instructions import Conversation
from irgpt_lib.irtd.questions import QUESTION_COLUMNS
from irgpt_lib.irtd.record import Sample
from irgpt_lib.irtd.shards import read_shards, shard_files
from irgpt_lib.irtd.sources import MalformedFile, MissingData
from irgpt_lib.tasks import TASKS


def dataset_folder(given: Path | None) -> Path:
    """The folder that `--dataset` names, else that of the study.

    Raises:
        MissingData: there is none.
    """
    folder = given or artifacts.path(str(DATASET))
    if not folder.is_dir():
        raise MissingData(f"{folder}: no such folder; `dvc repro dataset` builds the study's, --dataset names another")
    return folder


def shards_of(folder: Path, split: str) -> list[Path]:
    """The shards of a dataset, or of one of its splits.

    Raises:
        MissingData: there is none; the message says which splits there are.
    """
    files = shard_files(part(folder, artifacts.SAMPLES))
    chosen = [file for file in files if split in ("", split_of(file))]
    if not chosen:
        raise MissingData(f"{folder}: no split {split}; there are {', '.join(sorted({split_of(f) for f in files}))}")
    return chosen


def sample_ids(folder: Path, split: str) -> list[str]:
    """The ids of a dataset's samples, in the order in which `dataset_samples` gives them."""
    ids: list[str] = []
    for file in shards_of(folder, split):
        with whole(file):
            ids += pq.read_table(file, columns=["sample_id"])["sample_id"].to_pylist()
    return ids


def dataset_samples(folder: Path, split: str) -> Iterator[Sample]:
    """The samples of a dataset with their images, a row group at a time."""
    for file in shards_of(folder, split):
        with whole(file):
            yield from read_shards([file])


def table_of(files: Iterable[Path], columns: list[str]) -> pd.DataFrame:
    """The rows of those Parquet files that exist, one after another."""
    found = []
    for file in files:
        if file.is_file():
            with whole(file):
                found.append(pq.read_table(file, columns=columns).to_pandas())
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=columns)


def questions_about(folder: Path, ids: Collection[str]) -> pd.DataFrame:
    """The dataset's questions about these samples.

    Raises:
        MalformedFile: a table cannot be read, or a question is of no task.
    """
    asked = table_of(sorted(part(folder, artifacts.QUESTIONS).glob("*.parquet")), QUESTION_COLUMNS)
    if unknown := sorted(set(map(str, asked["task"])) - TASKS.keys()):
        raise MalformedFile(f"{folder}: questions of unknown tasks: {', '.join(unknown)}; there are {', '.join(TASKS)}")
    return asked[asked["sample_id"].isin(ids)]


def conversations_about(folder: Path, ids: Collection[str]) -> list[Conversation]:
    """The dataset's conversations about these samples; none where no describer wrote any.

    Raises:
        MalformedFile: the table cannot be read.
    """
    file = part(folder, artifacts.CONVERSATIONS)
    rows = table_of([file], COLUMNS)
    with whole(file):
        return kept_conversations(rows[rows["sample_id"].isin(ids)])


@contextmanager
def whole(file: Path) -> Iterator[None]:
    """What reading a broken table raises, as a foreseen error.

    Raises:
        MalformedFile: the table cannot be read; names the file.
    """
    try:
        yield
    except (ValueError, TypeError, KeyError) as error:
        raise MalformedFile(f"{file}: {first_line(error)}; `irgpt dataset check` tells all that is wrong") from error
