"""`irgpt train run` hands its words to the launcher."""

import pytest
from typer.testing import CliRunner

from irgpt_lib import params
from irgpt_lib.cli import app
from irgpt_lib.training import launch


def call(*words):
    return CliRunner().invoke(app, ["train", "run", *words])


@pytest.mark.parametrize("code", [0, 1, 2])
def test_every_word_and_the_exit_code_are_passed_on(monkeypatch, code):
    heard = []
    monkeypatch.setattr(launch, "main", lambda *words: heard.append(words) or code)
    words = ("--variant", "cl", "--seed", "0", "--ranks", "2", "--parallel=shard", "-x", "--json", "--slurm")
    assert call(*words).exit_code == code
    assert heard[0][-len(words) :] == words


def test_what_is_not_given_is_as_the_notebook_trains_it(monkeypatch):
    heard = []
    monkeypatch.setattr(launch, "main", lambda *words: heard.append(words) or 0)
    assert call("--variant", "cl", "--seed", "1", "--micro", "4").exit_code == 0
    run, _ = launch.parsed(heard[0])
    t = params.load("train", variant="cl").train
    assert (run.features_mb, run.save_every, run.ranks) == (t.stage2.features_mb, t.save_every, t.ranks)
    assert (run.micro, run.seed) == (4, 1) and t.stage2.features_mb > 0


def test_the_launcher_s_own_script_is_printed():
    result = call("--variant", "cl", "--seed", "3", "--nodes", "2", "--ranks", "8", "--profile", "smoke", "--slurm")
    assert result.exit_code == 0 and "#SBATCH --nodes=2" in result.stdout
    assert "--variant cl --seed 3 --profile smoke" in result.stdout


def test_help_is_the_launcher_s():
    result = call("--help")
    assert result.exit_code == 0 and "--activation-checkpointing" in result.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--variant", "cl"), "required: --seed"),
        (("--variant", "cls", "--seed", "0"), "unknown variant 'cls'"),
        (("--variant", "cl", "--seed", "0", "--nodes", "2"), "nodes start together"),
    ],
)
def test_a_wrong_command_leaves_with_two(words, message):
    result = call(*words)
    assert result.exit_code == 2 and message in result.stderr


def test_a_missing_artifact_is_one_message(tmp_path, monkeypatch):
    monkeypatch.setenv("IRGPT_ARTIFACTS", str(tmp_path))
    result = call("--variant", "cl", "--seed", "0", "--profile", "smoke")
    assert result.exit_code == 2 and "orders/cl-0.parquet" in result.stderr
    assert result.stderr.startswith("irgpt: ") and result.stderr.count("\n") == 1
