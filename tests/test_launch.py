"""A run started outside its notebook, and the notebook's calls afterwards."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from miniature import ONE_TILE, captioned, fresh_base
from resume_matrix import ANSWERS, ASKED, CAPTIONS, on_ranks, order

from irgpt_lib import artifacts, params
from irgpt_lib.models import families
from irgpt_lib.models.vlm import save_base
from irgpt_lib.training import launch, stages, trainer

RUN = launch.Run("cl", 0, "smoke", augment="tone", parallel="shard", activation_checkpointing=True, save_every=1)
TUNED = 12
BATCHES = 3


def make_study(folder):
    """What notebook 05_train reads, at miniature size."""
    save_base(fresh_base(), "", folder / artifacts.BASE)
    rows = captioned(CAPTIONS)
    artifacts.write_table(artifacts.SAMPLES, rows)
    table = order()
    artifacts.write_table(artifacts.order_name("cl", 0), table[table["batch"] < BATCHES])
    ids = rows["sample_id"].tolist()[:TUNED]
    asked = {"sample_id": ids, "question": ASKED[:TUNED], "answer": ANSWERS[:TUNED], "split": "instruction"}
    other = {"sample_id": ids[:1], "question": ["Not asked?"], "answer": ["no"], "split": "benchmark"}
    artifacts.write_table(artifacts.QUESTIONS, pd.concat([pd.DataFrame(asked), pd.DataFrame(other)]))


def as_rank(folder):
    os.environ["IRGPT_ARTIFACTS"] = str(folder)
    launch.train(launch.parsed(launch.words(RUN))[0])


@pytest.fixture
def study(tmp_path, monkeypatch):
    folder = tmp_path / "artifacts"
    monkeypatch.setenv("IRGPT_ARTIFACTS", str(folder))
    threads = torch.get_num_threads()
    make_study(folder)
    yield folder
    torch.set_num_threads(threads)


def in_the_notebook(run):
    """Its calls: the losses of both stages."""
    config = params.load("train", profile=run.profile, variant=run.variant).train
    vlm = families.load("internvl", artifacts.path(artifacts.BASE), ONE_TILE)
    samples = artifacts.read_table(artifacts.SAMPLES).set_index("sample_id")
    table = artifacts.read_table(artifacts.order_name(run.variant, run.seed))
    first = stages.stage1(vlm, samples, table, config, seed=run.seed, **run.options(1))
    _, second = stages.stage2(vlm, *launch.tuning(samples), config, seed=run.seed, **run.options(2))
    return stages.joined_history(first, second)


def test_after_a_launch_on_two_ranks_the_notebook_has_its_results_at_once(study, monkeypatch, capsys):
    on_ranks(2, as_rank, study)
    monkeypatch.setattr(trainer.TextImages, "__getitem__", lambda *_: pytest.fail("a step was trained again"))
    history = in_the_notebook(RUN)
    said = capsys.readouterr().err
    steps = {stage: len(rows) for stage, rows in history.groupby("stage")}
    assert steps == {"stage 1": BATCHES, "stage 2": 1}
    for stage, number in steps.items():
        assert f"{stage}: goes on after step {number} of {number}" in said


def test_one_process_trains_what_the_notebook_trains(study, capsys):
    alone = launch.train(RUN)
    assert in_the_notebook(RUN).equals(alone)
    assert "goes on after step 1 of 1" in capsys.readouterr().err


RUNS = [
    launch.Run("cl", 0),
    RUN,
    launch.Run("anti_cl", 3, "paper", "none", 2, 64, "replicate", False, 7),
]


@pytest.mark.parametrize("run", RUNS)
def test_the_words_of_a_run_are_the_run(run):
    assert launch.parsed(launch.words(run)) == (run, False)


def test_who_starts_the_processes_keeps_the_places_to_itself():
    run = launch.Run("cl", 0, ranks=4)
    assert launch.parsed(launch.words(run))[0] == launch.Run("cl", 0)
    assert launch.command(run)[1:7] == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4", "-m"]
    assert launch.parsed(["--variant", "cl", "--seed", "0", "--ranks", "4"])[0] == run


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--variant", "cl"], "--seed"),
        (["--variant", "cl", "--seed", "0", "--parallel", "zero"], "'replicate', 'shard'"),
        (["--variant", "cl", "--seed", "0", "--ranks", "0"], "both must be 1 or more"),
    ],
)
def test_wrong_arguments_are_told(given, said, capsys):
    with pytest.raises(SystemExit) as left:
        launch.main(*given)
    assert left.value.code == 2 and said in capsys.readouterr().err


def test_an_unknown_variant_is_told_with_those_that_exist(capsys):
    assert launch.main("--variant", "best", "--seed", "0") == 2
    assert "unknown variant 'best'; params.yaml has none, anti_cl, random, cl" in capsys.readouterr().err


def test_several_nodes_need_their_own_launcher(capsys):
    assert launch.main("--variant", "cl", "--seed", "0", "--nodes", "2") == 2
    assert "--slurm" in capsys.readouterr().err


TELLS = "import sys; sys.stderr.write('\\rstep 1\\rstep 2\\n'); sys.exit(int(sys.argv[1]))"


@pytest.mark.parametrize("code", [0, 3])
def test_what_the_processes_say_is_passed_on_and_a_failure_is_an_error(code, monkeypatch, capsys):
    monkeypatch.setattr(launch, "command", lambda run: [sys.executable, "-c", TELLS, str(code)])
    assert launch.main("--variant", "cl", "--seed", "0", "--ranks", "2") == (1 if code else 0)
    said = capsys.readouterr().err
    assert said.startswith("\rstep 1\rstep 2\n")
    assert ("ended with code 3" in said) == bool(code)


def test_the_slurm_script_starts_torchrun_on_every_node(tmp_path, capsys):
    words = ["--variant", "cl", "--seed", "1", "--profile", "paper", "--parallel", "shard", "--nodes", "2"]
    assert launch.main(*words, "--ranks", "8", "--slurm") == 0
    script = capsys.readouterr().out
    assert {"#SBATCH --nodes=2", "#SBATCH --gpus-per-node=8"} <= set(script.splitlines())
    for name, body in {"scontrol": "printf 'one\\ntwo\\n'", "srun": 'printf "%s\\n" "$@"'}.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    names = {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_ID": "77", "SLURM_NNODES": "2"}
    environment = os.environ | names | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    told = subprocess.run(["bash"], input=script, env=environment, capture_output=True, text=True, check=True)
    given = told.stdout.splitlines()
    assert Path(given[1]) == Path(sys.executable) and given[2:4] == ["-m", "torch.distributed.run"]
    assert given[given.index("--rdzv-endpoint") + 1] == "one:20077" and given[given.index("--nnodes") + 1] == "2"
    assert launch.parsed(given[given.index(launch.MODULE) + 1 :])[0] == launch.Run("cl", 1, "paper", parallel="shard")
