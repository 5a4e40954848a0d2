"""The grid: rows of Tables 2-4 and controls beyond the study's own variants, several at a time.

    python -m irgpt_lib.grid [profile=tiny] [jobs=2] [only=l1-0,l2-0]

Each row is what `dvc repro` would do for a variant: notebooks 05 and 06, in a scratch tree that sees base, dataset and
orders. Its answers, losses and record go to `artifacts/grid/<variant>-<seed>`. A row is skipped where its record says
that it was made from these very params and inputs, so that a killed command goes on; delete its folder to run it
anyway, for example after a change of the code. `make grid` runs this and tells DVC.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path

from tqdm import tqdm

from irgpt_lib import artifacts, params
from irgpt_lib.evaluation import gathering

SCRATCH = f"{artifacts.CACHE}/grid"
SEEN = (artifacts.BASE, "dataset", "orders")
LAST_LINES = 12


class RowFailed(RuntimeError):
    """A notebook of a row ended with an error."""


def main(*words: str) -> int:
    """0 when every row is there, 1 when one failed, 2 when the command or the params are wrong."""
    try:
        given = dict(word.split("=", 1) for word in words)
    except ValueError:
        given = {word: "" for word in words}
    if unknown := sorted(given.keys() - {"profile", "jobs", "only"}):
        print(f"unknown {unknown[0]!r}; there are profile=, jobs= and only=", file=sys.stderr)
        return 2
    try:
        profile = params.load("train", profile=given.get("profile", "")).profile
        rows = _chosen(given.get("only", ""))
        jobs = int(given.get("jobs", "") or _jobs(profile))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    waiting = [row for row in rows if not is_current(profile, *row)]
    print(f"grid: {len(rows)} rows, {len(rows) - len(waiting)} of them there, {jobs} at a time")
    return run_rows(profile, waiting, jobs)


def _chosen(only: str) -> list[tuple[str, int]]:
    """The rows to run, seed by seed, so that every table has its first seed before any has its second."""
    rows = {artifacts.run_name(*row): row for row in params.runs("grid")}
    names = only.split(",") if only else list(rows)
    if unknown := [name for name in names if name not in rows]:
        raise params.ParamsError(f"no row {unknown[0]!r} in the grid; there are {', '.join(rows)}")
    seeds = params.read()["seeds"]
    return sorted((rows[name] for name in names), key=lambda row: seeds.index(row[1]))


def _jobs(profile: str) -> int:
    """As many as the processor has cores for; on a GPU one after the other."""
    import torch

    threads = params.load("train", profile=profile).train.threads
    return 1 if torch.cuda.is_available() else max(1, (os.cpu_count() or 1) // threads)


def run_rows(profile: str, rows: list[tuple[str, int]], jobs: int) -> int:
    """0 when all were run; a row that fails stops none of the others and is named at the end."""
    failed = []
    with ThreadPoolExecutor(jobs) as pool, tqdm(total=len(rows), desc="grid", unit="row") as bar:
        begun = {pool.submit(partial(run_row, profile), *row): row for row in rows}
        for done in as_completed(begun):
            bar.update()
            if error := done.exception():
                failed.append(f"{artifacts.run_name(*begun[done])}: {error}")
    for line in failed:
        print(line, file=sys.stderr)
    return 1 if failed else 0


def run_row(profile: str, variant: str, seed: int) -> None:
    """Train, evaluate and keep one row.

    Raises:
        RowFailed: a notebook failed; the message has the last lines that it wrote.
    """
    run = artifacts.run_name(variant, seed)
    inputs = input_hash(variant, seed)
    scratch = artifacts.path(f"{SCRATCH}/{run}")
    scratch.mkdir(exist_ok=True)
    for name in SEEN:
        link = scratch / name
        if not link.is_symlink():
            link.symlink_to(artifacts.path(name), target_is_directory=True)
    for notebook in artifacts.EACH_RUN:
        _execute(notebook, f"profile={profile}", f"variant={variant}", f"seed={seed}", artifacts_root=scratch)
    gathering.keep(scratch, profile, variant, seed, inputs)
    shutil.rmtree(scratch)


def _execute(*words: str, artifacts_root: Path) -> None:
    command = [sys.executable, "-m", "irgpt_lib.run", *words]
    environment = os.environ | {"IRGPT_ARTIFACTS": str(artifacts_root), "TQDM_DISABLE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        told = "\n".join((done.stdout + done.stderr).splitlines()[-LAST_LINES:])
        raise RowFailed(f"{' '.join(words)} ended with code {done.returncode}:\n{told}")


def is_current(profile: str, variant: str, seed: int) -> bool:
    """Whether a row was made from these params, this base, these questions and this order."""
    file = artifacts.path(artifacts.grid_name(variant, seed)) / gathering.RECORD
    if not file.is_file():
        return False
    record = json.loads(file.read_text(encoding="utf-8"))
    now = (gathering.settings_of(profile, variant), input_hash(variant, seed))
    return (record["settings"], record["inputs"]) == now


def input_hash(variant: str, seed: int) -> str:
    """SHA-256 over the bytes of the order, the questions, the samples and the base's weights."""
    digest = hashlib.sha256()
    files = [artifacts.path(artifacts.order_name(variant, seed))]
    for name in (artifacts.QUESTIONS, artifacts.SAMPLES, artifacts.BASE):
        files += sorted(file for file in artifacts.path(name).rglob("*") if file.is_file())
    for file in files:
        digest.update(f"{file.name} {file.stat().st_size}\n".encode())
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
