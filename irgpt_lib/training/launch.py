"""Both stages of one run outside its notebook: on the GPUs of one machine or of many.

    python -m irgpt_lib.training.launch --variant cl --seed 0 --ranks 8 --parallel shard
    torchrun --standalone --nproc-per-node 8 -m irgpt_lib.training.launch --variant cl --seed 0 --parallel shard
    torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint FIRST_NODE:29500 --rdzv-id irgpt \
        -m irgpt_lib.training.launch --variant cl --seed 0 --parallel shard
    python -m irgpt_lib.training.launch --variant cl --seed 0 --parallel shard --nodes 2 --ranks 8 --slurm > cl-0.sbatch

The second line is what the first one starts; the third is given on each of two machines, the script of the fourth to
`sbatch`. All read params and artifacts, which every machine must see, and leave checkpoints in `cache/checkpoints`.
The same command again goes on from them, on as many ranks or on others. Notebook 05_train with the same options does so
too: after the last step it has weights and losses at once, and narrates.
"""

import argparse
import io
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd
import torch
from accelerate import PartialState

from irgpt_lib import artifacts, params
from irgpt_lib.curriculum import schedule
from irgpt_lib.training import stages
from irgpt_lib.training.draws import Augment
from irgpt_lib.training.sharding import Parallel
from irgpt_lib.training.starting import starting_model
from irgpt_lib.training.trainer import Saving

MODULE = "irgpt_lib.training.launch"
CHOICES = {"augment": get_args(Augment), "parallel": get_args(Parallel)}
# What the launcher needs to know, and the processes that it starts do not.
PLACES = ("ranks", "nodes")
SLURM = """#!/bin/bash
#SBATCH --job-name=irgpt-{name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={ranks}
#SBATCH --cpus-per-task={cpus}
#SBATCH --output=irgpt-{name}-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
# Submit it from the study's folder, which every node must see. A job that was stopped goes on when it runs again.
set -euo pipefail
mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
export OMP_NUM_THREADS=1
srun --kill-on-bad-exit=1 {python} -m torch.distributed.run \\
  --nnodes "$SLURM_NNODES" --nproc-per-node {ranks} --rdzv-id "$SLURM_JOB_ID" \\
  --rdzv-backend c10d --rdzv-endpoint "${{hosts[0]}}:$((20000 + SLURM_JOB_ID % 10000))" \\
  {command}
"""


class RankFailed(RuntimeError):
    """A process that `start` started did not come to its end."""


@dataclass(frozen=True)
class Run:
    """One run by variant and seed, and how it is trained: see `trainer.Recipe`. A checkpoint is left after each
    `save_every` steps. `ranks` processes work on each of `nodes` machines."""

    variant: str
    seed: int
    profile: str = ""
    augment: Augment = "none"
    micro: int = 0
    features_mb: int = 0
    parallel: Parallel = "replicate"
    activation_checkpointing: bool = False
    save_every: int = 50
    ranks: int = 1
    nodes: int = 1

    def __post_init__(self) -> None:
        if self.ranks < 1 or self.nodes < 1:
            raise ValueError(f"{self.ranks} ranks on each of {self.nodes} nodes: both must be 1 or more")

    def folder(self, stage: Literal[1, 2]) -> Path:
        """Where the checkpoints of a stage lie."""
        name = artifacts.run_name(self.variant, self.seed)
        return artifacts.path(f"{artifacts.CACHE}/checkpoints/{name}/stage{stage}")

    def options(self, stage: Literal[1, 2]) -> dict[str, Any]:
        """The options of `stages.stage1` or `stages.stage2`; who gives others than the launcher trains anew."""
        names = ["augment", "micro", "parallel", "activation_checkpointing", *(["features_mb"] if stage == 2 else [])]
        return {name: getattr(self, name) for name in names} | {"saving": Saving(self.folder(stage), self.save_every)}


def tuning(samples: pd.DataFrame) -> tuple[list[bytes], list[str], list[str]]:
    """What stage 2 reads: images, questions and answers of the instruction split. `samples` is indexed by sample_id and
    holds `infrared`."""
    questions = artifacts.read_table(artifacts.QUESTIONS)
    chosen = questions[questions["split"] == "instruction"]
    pictures = samples["infrared"].loc[chosen["sample_id"]].tolist()
    return pictures, chosen["question"].tolist(), chosen["answer"].tolist()


def train(run: Run) -> pd.DataFrame:
    """Both stages in this process, alone or as one of those that a launcher started. It leaves checkpoints only.
    The processes of one machine share out `train.threads`.

    Returns:
        The losses of both stages, as `stages.joined_history`.

    Raises:
        ParamsError: there is no such profile or variant.
        FileNotFoundError: an artifact is missing.
    """
    loaded = params.load("model", "train", profile=run.profile, variant=run.variant)
    config = loaded.train
    torch.set_num_threads(max(1, config.threads // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    order = artifacts.read_table(artifacts.order_name(run.variant, run.seed))
    columns = ["sample_id", "infrared", "caption"]
    samples = artifacts.read_table(artifacts.SAMPLES, columns=columns).set_index("sample_id")
    schedule.check_order(order, samples.index)
    vlm = starting_model(loaded.model, artifacts.path(artifacts.BASE))
    first = stages.stage1(vlm, samples, order, config, seed=run.seed, **run.options(1))
    _, second = stages.stage2(vlm, *tuning(samples), config, seed=run.seed, **run.options(2))
    return stages.joined_history(first, second)


def start(run: Run) -> None:
    """`train` in `run.ranks` processes of this machine, one a GPU where there are any; what they say goes to stderr as
    it comes.

    Raises:
        RankFailed: one of them failed.
    """
    environment = {"OMP_NUM_THREADS": "1"} | os.environ
    with subprocess.Popen(command(run), stderr=subprocess.PIPE, env=environment) as process:
        try:
            # without translation of line ends: a moving line of progress stays one
            with io.TextIOWrapper(process.stderr, encoding="utf-8", errors="replace", newline="") as lines:
                for line in lines:
                    sys.stderr.write(line)
                    sys.stderr.flush()
        except BaseException:
            process.terminate()  # torchrun then ends the ranks
            raise
    if process.returncode:
        raise RankFailed(
            f"training on {run.ranks} ranks ended with code {process.returncode}, for the reason above; once that is "
            "cured, the same command goes on from the last checkpoint"
        )


def command(run: Run) -> list[str]:
    """The words that start `run.ranks` processes on this machine."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(run.ranks)]
    return [*launcher, "-m", MODULE, *words(run)]


def slurm_script(run: Run) -> str:
    """A script for `sbatch` that trains on `run.nodes` nodes with `run.ranks` GPUs each."""
    config = params.load("train", profile=run.profile, variant=run.variant).train
    return SLURM.format(
        name=artifacts.run_name(run.variant, run.seed),
        nodes=run.nodes,
        ranks=run.ranks,
        cpus=max(config.threads, run.ranks * (1 + config.workers)),
        python=shlex.quote(sys.executable),
        command=shlex.join(["-m", MODULE, *words(run)]),
    )


def words(run: Run) -> list[str]:
    """The arguments that make the same run in each process: all that are not as they would be anyway."""
    found = []
    for field in fields(run):
        value = getattr(run, field.name)
        if field.name not in PLACES and value != field.default:
            found += [_flag(field.name)] if value is True else [_flag(field.name), str(value)]
    return found


def parsed(given: Sequence[str]) -> tuple[Run, bool]:
    """The run that arguments name, and whether they ask for its SLURM script; exits with code 2 if they are wrong."""
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=(__doc__ or "").splitlines()[0])
    for field in fields(Run):
        flag = _flag(field.name)
        if field.type is bool:
            parser.add_argument(flag, action="store_true")
        elif field.default is MISSING:
            parser.add_argument(flag, type=field.type, required=True)
        else:
            parser.add_argument(flag, type=type(field.default), default=field.default, choices=CHOICES.get(field.name))
    parser.add_argument("--slurm", action="store_true", help="print a script for sbatch instead of training")
    values = vars(parser.parse_args(given))
    slurm = values.pop("slurm")
    try:
        return Run(**values), slurm
    except ValueError as error:
        parser.error(str(error))


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def main(*given: str) -> int:
    """0 after the last step, 1 when a rank failed, 2 when the command or the params are wrong."""
    run, slurm = parsed(given)
    try:
        if slurm:
            print(slurm_script(run), end="")
        elif "RANK" in os.environ or run.ranks == run.nodes == 1:
            train(run)
            PartialState().destroy_process_group()
        elif run.nodes > 1:
            print("nodes start together: give --slurm, or torchrun's own line on each of them", file=sys.stderr)
            return 2
        else:
            start(run)
    except params.ParamsError as error:
        print(error, file=sys.stderr)
        return 2
    except RankFailed as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
