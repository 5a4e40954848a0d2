"""Where each result of the study lies, and how it is written so that a killed run leaves nothing half made.

Names hang from `artifacts/` beside `dvc.yaml`, found upwards from the working folder, so a notebook, Papermill and
a DVC experiment in a temporary copy all find their own. The variable `IRGPT_ARTIFACTS` moves the whole tree.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.torch import load_file, save_file
from torch import Tensor

SAMPLES = "dataset/samples"
QUESTIONS = "dataset/questions"
CONVERSATIONS = "dataset/conversations/instruction.parquet"
REJECTED = "dataset/rejected.parquet"
ACCOUNT = "dataset/account.json"
FEATURES = "features/features.safetensors"
OTHER_FEATURES = "features/others.safetensors"
EXTRACTOR = "features/extractor"
SCORES = "difficulty/scores.parquet"
EXPLORER = "difficulty/explorer.html"
BASE = "base"
SUMMARY = "summary.json"
GRID = "grid"
# What an interrupted run goes on from and what a repeat need not compute again; DVC does not know it.
CACHE = "cache"

# The notebooks in reading order; those of EACH_RUN are executed for every variant and seed, those of SHOWN_RUN for one.
SINGLE_RUN = ("00_base", "01_dataset", "02_features", "03_difficulty", "04_curriculum")
EACH_RUN = ("05_train", "06_evaluate")
ALL_RUNS = ("07_ablations", "08_tables", "09_checks")
SHOWN_RUN = ("10_failures", "11_robustness")


def root() -> Path:
    """The study's folder: the nearest one, upwards, that holds `dvc.yaml`.

    Raises:
        FileNotFoundError: neither the working folder nor any above it holds one.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").exists():
            return folder
    raise FileNotFoundError(f"no dvc.yaml in {here} or above it; start from the study's folder")


def path(name: str) -> Path:
    """`artifacts/<name>` as an absolute path, its parent made."""
    file = Path(os.environ.get("IRGPT_ARTIFACTS") or root() / "artifacts").absolute() / name
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def order_name(variant: str, seed: int) -> str:
    """Where the order of stage 1 of one run lies."""
    return f"orders/{run_name(variant, seed)}.parquet"


def grid_name(variant: str, seed: int) -> str:
    """Where the answers of one row of the grid lie."""
    return f"{GRID}/{run_name(variant, seed)}"


def run_name(variant: str, seed: int) -> str:
    """The folder and file stem of one training run, for example `cl-0`."""
    return f"{variant}-{seed}"


@contextmanager
def atomic(target: Path) -> Iterator[Path]:
    """A path to write to; it takes the place of `target`, file or folder, only when the block ends without error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        part = scratch / target.name
        yield part
        if not part.exists():
            raise FileNotFoundError(f"nothing was written for {target}; write to the path that `atomic` gives")
        if target.exists() and (part.is_dir() or target.is_dir()):
            # A folder cannot be replaced in one step; deleting it first would leave a long gap without old or new.
            os.replace(target, scratch / f"{target.name}.old")
        os.replace(part, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_json(name: str, content: Any) -> None:
    """Sorted keys and a final newline, so that equal results have equal bytes."""
    with atomic(path(name)) as part:
        part.write_text(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(name: str) -> Any:
    return json.loads(path(name).read_text(encoding="utf-8"))


def write_table(name: str, table: pd.DataFrame | pa.Table) -> None:
    """One Parquet file, without pandas' own metadata."""
    if isinstance(table, pd.DataFrame):
        table = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None)
    with atomic(path(name)) as part:
        pq.write_table(table, part, compression="zstd")


def read_table(name: str, columns: list[str] | None = None) -> pd.DataFrame:
    return pq.read_table(path(name), columns=columns).to_pandas()


def write_csv(name: str, table: pd.DataFrame) -> None:
    """Rounded to six significant digits: a curve is for reading and for DVC's plots."""
    with atomic(path(name)) as part:
        table.to_csv(part, index=False, float_format="%.6g", lineterminator="\n")


def write_text(name: str, text: str) -> None:
    with atomic(path(name)) as part:
        part.write_text(text, encoding="utf-8")


def write_bytes(name: str, data: bytes) -> None:
    with atomic(path(name)) as part:
        part.write_bytes(data)


def write_tensors(name: str, tensors: dict[str, Tensor]) -> None:
    """A safetensors file without metadata."""
    with atomic(path(name)) as part:
        save_file({key: value.contiguous() for key, value in tensors.items()}, part)


def read_tensors(name: str) -> dict[str, Tensor]:
    return load_file(path(name))
