"""Resumption in full, at miniature size: `python tests/resume_matrix.py [--kills 200]`.

First every cell of both stages x save points 1-12 x 0 and 2 data workers x 1 and 2 ranks, augmentation and LoRA's
dropout on: the checkpoint of the last step (weights, optimiser, scheduler, log) must have the bytes of the unbroken
run. Then both stages one after the other, killed with SIGKILL at random moments and started again until done.
"test_resume.py" and "test_ranks.py" run a small sample of it.
"""

import argparse
import multiprocessing
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch
from miniature import captioned, fresh
from safetensors.torch import save_file

from irgpt_lib import artifacts, params
from irgpt_lib.curriculum import schedule
from irgpt_lib.training import checkpoint, distributed, stages
from irgpt_lib.training.trainer import Saving

STEPS = 12
# Four tiers of seven in batches of three: each tier ends in a batch of one, of which a second rank gets nothing.
CAPTIONS, TIERS, BATCH = 28, 4, 3
QUESTIONS = 34
ASKED = [f"Where is number {i}?" for i in range(QUESTIONS)]
ANSWERS = [f"({31 * i % 1000}, {17 * i % 1000})" if i % 2 else f"There are {i}." for i in range(QUESTIONS)]


@lru_cache(maxsize=1)
def config() -> params.Train:
    train = params.load("train", profile="smoke").train
    lora = train.stage2.lora.model_copy(update={"dropout": 0.1})
    one = train.stage1.model_copy(update={"batch_size": BATCH, "tiers": TIERS, "epochs": 1, "warm_up": 0.2})
    two = train.stage2.model_copy(update={"batch_size": BATCH, "epochs": 1, "warm_up": 0.2, "lora": lora})
    return train.model_copy(update={"stage1": one, "stage2": two})


def order() -> pd.DataFrame:
    scores = pd.DataFrame(
        {
            "sample_id": captioned(CAPTIONS)["sample_id"].to_numpy(),
            "rank": [5 * i % CAPTIONS for i in range(CAPTIONS)],
            "alpha": np.linspace(-1, 1, CAPTIONS),
        }
    )
    return schedule.from_params(scores, config().stage1, params.load("difficulty").difficulty, seed=0)


def train(
    stage: int, vlm: Any, *, workers: int = 0, folder: Path | None = None, every: int = 1, **other: Any
) -> pd.DataFrame:
    """Twelve steps of one stage; the state of the global generators must not matter, so it is made a new one."""
    torch.manual_seed(random.SystemRandom().getrandbits(32))
    options = {"seed": 0, "augment": "tone", "saving": None if folder is None else Saving(folder, every)} | other
    chosen = config().model_copy(update={"workers": workers})
    if stage == 1:
        return stages.stage1(vlm, captioned(CAPTIONS), order(), chosen, **options)
    images = captioned(QUESTIONS)["infrared"].tolist()
    return stages.stage2(vlm, images, ASKED, ANSWERS, chosen, **options)[1]


def files_of(folder: Path, step: int) -> dict[str, bytes]:
    """The bytes of one checkpoint."""
    (found,) = folder.glob(f"*/step-{step:08d}")
    return {file.name: file.read_bytes() for file in sorted(found.iterdir())}


def cells(stage: int, workers: int, points: list[int], scratch: Path, parallel: str = "replicate") -> list[int]:
    """The save points from which a resumed run ends in other bytes than the unbroken one; none is right."""
    ranks = distributed.ranks()
    unbroken = scratch / f"unbroken-{stage}-{workers}"
    with mock.patch.object(checkpoint, "KEPT", STEPS):
        train(stage, fresh(), workers=workers, folder=unbroken, parallel=parallel)
    wrong = []
    for point in points:
        folder = scratch / f"resumed-{stage}-{workers}-{point}"
        if ranks.first:
            (kept,) = unbroken.glob(f"*/step-{point:08d}")
            shutil.copytree(kept, folder / kept.parent.name / kept.name)
        vlm = fresh()
        train(stage, vlm, workers=workers, folder=folder, every=STEPS, parallel=parallel)
        mine = int(checkpoint.digest(vlm.model.state_dict().values())[:15], 16)
        equal = ranks.told(mine) == mine
        if ranks.first:
            equal = equal and files_of(folder, STEPS) == files_of(unbroken, STEPS)
        if ranks.summed(torch.tensor([0.0 if equal else 1.0])).item():
            wrong.append(point)
    return wrong


def on_ranks(count: int, work: Callable[..., None], *arguments: Any) -> None:
    """`work(*arguments)` in `count` processes that torchrun might have started.

    Raises:
        RuntimeError: one of them failed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [servers().Process(target=_as_rank, args=(rank, count, port, work, arguments)) for rank in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise RuntimeError(f"exit codes of the ranks: {[process.exitcode for process in processes]}")


def _as_rank(rank: int, count: int, port: int, work: Callable[..., None], arguments: tuple) -> None:
    where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in where.items()})
    torch.set_num_threads(1)
    work(*arguments)
    torch.distributed.destroy_process_group()


@lru_cache(maxsize=1)
def servers() -> Any:
    """Processes that begin with everything imported, forked from one that has done nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["resume_matrix"])
    return context


def matrix_of_ranks(points: list[int], workers: list[int], parallel: str, scratch: Path, report: Path) -> None:
    """One line a stage and number of workers into `report`, by the first rank."""
    ranks = distributed.ranks()
    for stage in (1, 2):
        for number in workers:
            wrong = cells(stage, number, points, scratch, parallel)
            if ranks.first:
                line = f"stage {stage}, {number} workers, {ranks.count} ranks, {parallel}: "
                line += f"{len(points) - len(wrong)} of {len(points)} save points end in equal bytes"
                first, now = (files_of(scratch / f"unbroken-{stage}-{n}", STEPS) for n in (workers[0], number))
                line += "" if now == first else f"; unequal: {number} to {workers[0]} workers"
                with report.open("a") as file:
                    file.write(line + (f"; unequal: {wrong}\n" if wrong else "\n"))


def both_stages(folder: Path, workers: int, every: int, log: Path) -> None:
    """What a training notebook does, in a process of its own that may be killed at any moment."""
    with log.open("ab") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    torch.set_num_threads(1)
    vlm = fresh()
    first = train(1, vlm, workers=workers, folder=folder / "stage1", every=every)
    second = train(2, vlm, workers=workers, folder=folder / "stage2", every=every)
    with artifacts.atomic(folder / "result") as part:
        part.mkdir()
        stages.joined_history(first, second).to_csv(part / "history.csv")
        save_file({name: p.detach() for name, p in vlm.model.named_parameters()}, part / "weights.safetensors")


def run(folder: Path, workers: int, every: int, *, killed_after: float | None = None) -> bool:
    """Start both stages in a process; whether it came to its end. `killed_after` seconds it gets SIGKILL."""
    log = folder.with_suffix(".log")
    process = servers().Process(target=both_stages, args=(folder, workers, every, log))
    process.start()
    process.join(killed_after)
    if process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    if process.exitcode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"exit code {process.exitcode}:\n{log.read_text()}")
    return process.exitcode == 0


def killed_often(kills: int, scratch: Path, seed: int) -> dict[str, int]:
    """Runs that are killed at random moments of a whole run's duration, and end in the unbroken run's result."""
    rng = random.Random(seed)
    run(scratch / "warm", 0, STEPS)
    whole, began = scratch / "whole", time.perf_counter()
    run(whole, 0, STEPS)
    duration = time.perf_counter() - began
    expected = {file.name: file.read_bytes() for file in (whole / "result").iterdir()}
    counts = {"kills": 0, "runs": 0, "unequal": 0, "went on": 0, "damaged": 0}
    while counts["kills"] < kills:
        folder = scratch / f"run-{counts['runs']}"
        done = False
        while not done:
            patience = rng.uniform(0, duration) if counts["kills"] < kills else None
            done = run(folder, rng.choice([0, 2]), rng.randint(1, 5), killed_after=patience)
            counts["kills"] += not done
        said = folder.with_suffix(".log").read_text()
        found = {file.name: file.read_bytes() for file in (folder / "result").iterdir()}
        counts["runs"] += 1
        counts["unequal"] += found != expected
        counts["went on"] += said.count("goes on after")
        counts["damaged"] += said.count("is damaged")
        shutil.rmtree(folder)
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, nargs="+", default=list(range(1, STEPS + 1)))
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--ranks", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--parallel", choices=["replicate", "shard"], default="replicate")
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        report = scratch / "report.txt"
        report.touch()
        for count in given.ranks:
            (scratch / str(count)).mkdir()
            folder = scratch / str(count)
            on_ranks(count, matrix_of_ranks, given.points, given.workers, given.parallel, folder, report)
        told = report.read_text()
        print(told, end="")
        counts = killed_often(given.kills, scratch, given.seed) if given.kills else {}
        if counts:
            print(", ".join(f"{name}: {count}" for name, count in counts.items()))
    return int("unequal:" in told or bool(counts.get("unequal") or counts.get("damaged")))


if __name__ == "__main__":
    # the functions that other processes run must have a module's name, not `__main__`'s
    import resume_matrix

    sys.exit(resume_matrix.main())
