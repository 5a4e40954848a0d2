"""A training that was stopped goes on as if it had not been. `resume_matrix.py` runs every cell and many kills."""

import json
import shutil
import signal
import subprocess
import sys
import time
from functools import lru_cache

import pytest
import torch
from miniature import captioned, changed, fresh, weights_of
from resume_matrix import CAPTIONS, STEPS, both_stages, cells, config, files_of, order, run, servers, train
from safetensors.torch import load_file

from irgpt_lib.models.vlm import PARTS
from irgpt_lib.training import stages
from irgpt_lib.training.checkpoint import STATE, TENSORS
from irgpt_lib.training.trainer import Saving

HOLDS_THE_LOCK = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The folder of a stage 1 that ended, with the checkpoints of its last two save points, 8 and 12."""
    folder = tmp_path_factory.mktemp("stopped")
    train(1, fresh(), folder=folder, every=4)
    return folder


@lru_cache(maxsize=1)
def unbroken():
    """Weights and history of stage 1 without any checkpoint."""
    vlm = fresh()
    history = train(1, vlm)
    return weights_of(vlm.model), history


def copied(stopped, tmp_path):
    return shutil.copytree(stopped, tmp_path / "copy")


def step_folder(folder, step):
    (found,) = folder.glob(f"*/step-{step:08d}")
    return found


def resumed(folder):
    """Stage 1 again in `folder`, and whether it ends as the unbroken one."""
    vlm = fresh()
    history = train(1, vlm, folder=folder, every=4)
    weights, expected = unbroken()
    return not changed(vlm.model, weights) and history.equals(expected)


@pytest.mark.parametrize(
    ("stage", "workers", "points"), [(1, 0, [1, 6, 12]), (1, 2, [5]), (2, 0, [2, 11]), (2, 2, [7])]
)
def test_a_resumed_run_ends_in_the_bytes_of_the_unbroken_one(stage, workers, points, tmp_path):
    assert cells(stage, workers, points, tmp_path) == []


def test_checkpoints_change_nothing(stopped):
    weights, _ = unbroken()
    found = load_file(step_folder(stopped, STEPS) / TENSORS)
    saved = {name.removeprefix("model/"): value for name, value in found.items() if name.startswith("model/")}
    prefixes = PARTS["vision"], PARTS["projector"]
    assert saved.keys() == {name for name in weights if name.startswith(prefixes)}
    assert all(torch.equal(value, weights[name]) for name, value in saved.items())


def test_two_checkpoints_are_kept_in_two_plain_formats(stopped):
    found = sorted(stopped.glob("*/step-*"))
    assert [folder.name for folder in found] == ["step-00000008", "step-00000012"]
    for folder in found:
        assert sorted(file.name for file in folder.iterdir()) == [STATE, TENSORS]
        state = json.loads((folder / STATE).read_text())
        assert state["step"] == len(state["history"]) == state["scheduler"]["last_epoch"]


def killed_once(folder, seen):
    """Start both stages; SIGKILL as soon as the pattern `seen` is in `folder`."""
    process = servers().Process(target=both_stages, args=(folder, 0, 2, folder.with_suffix(".log")))
    process.start()
    while not list(folder.glob(seen)):
        assert process.is_alive(), folder.with_suffix(".log").read_text()
        time.sleep(0.005)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_a_process_killed_in_either_stage_goes_on(tmp_path):
    folder, vlm = tmp_path / "run", fresh()
    for stage in (1, 2):
        killed_once(folder, f"stage{stage}/*/step-00000004")
    assert run(folder, 2, 3)
    said = folder.with_suffix(".log").read_text()
    assert "stage 1: goes on after step" in said and "stage 2: goes on after step" in said
    first, second = train(1, vlm), train(2, vlm)
    expected = stages.joined_history(first, second).to_csv()
    assert (folder / "result/history.csv").read_text() == expected
    found = load_file(folder / "result/weights.safetensors")
    assert all(torch.equal(found[name], value) for name, value in weights_of(vlm.model).items())


FAULTS = {
    "a byte of the tensors": lambda folder: flip(folder / TENSORS),
    "a cut file": lambda folder: (folder / TENSORS).write_bytes((folder / TENSORS).read_bytes()[:-9]),
    "a cut state": lambda folder: (folder / STATE).write_bytes((folder / STATE).read_bytes()[:99]),
    "another loss": lambda folder: (folder / STATE).write_text((folder / STATE).read_text().replace("loss", "lost", 1)),
    "no tensors": lambda folder: (folder / TENSORS).unlink(),
    "no object": lambda folder: (folder / STATE).write_text("[]"),
}


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_newest_checkpoint_falls_back_and_says_so(stopped, fault, tmp_path, capsys):
    folder = copied(stopped, tmp_path)
    FAULTS[fault](step_folder(folder, 12))
    assert resumed(folder)
    said = capsys.readouterr().err
    assert "step-00000012 is damaged" in said and "goes on after step 8 of 12" in said
    assert files_of(folder, STEPS) == files_of(stopped, STEPS)


def test_if_all_are_damaged_training_starts_anew_and_says_so(stopped, tmp_path, capsys):
    folder = copied(stopped, tmp_path)
    for step in (8, 12):
        flip(step_folder(folder, step) / STATE)
    assert resumed(folder)
    said = capsys.readouterr().err
    assert said.count("is damaged") == 2 and "goes on" not in said


def test_a_finished_training_is_not_repeated(stopped, tmp_path, capsys):
    assert resumed(copied(stopped, tmp_path))
    assert "goes on after step 12 of 12" in capsys.readouterr().err


def change_rate(chosen, rows, table):
    return chosen.model_copy(update={"stage1": chosen.stage1.model_copy(update={"vision_lr": 1e-4})}), rows, table


def change_caption(chosen, rows, table):
    return chosen, rows.assign(caption=["A car.", *rows["caption"][1:]]), table


def change_order(chosen, rows, table):
    return chosen, rows, table.assign(sample_id=table["sample_id"].to_numpy()[[2, 1, 0, *range(3, CAPTIONS)]])


def change_weight(chosen, rows, table):
    return chosen, rows, table.assign(weight=table["weight"] * 2)


OTHERS = {change_rate: "learning rates", change_caption: "data", change_order: "data", change_weight: "data"}


@pytest.mark.parametrize("change", OTHERS, ids=lambda change: change.__name__)
def test_a_checkpoint_of_other_settings_is_left_aside_and_named(stopped, change, tmp_path, capsys):
    folder, anew, fresh_start = copied(stopped, tmp_path), fresh(), fresh()
    chosen, rows, table = change(config(), captioned(CAPTIONS), order())
    stages.stage1(anew, rows, table, chosen, seed=0, augment="tone", saving=Saving(folder, 4))
    said = capsys.readouterr().err
    assert f"step-00000012 was made with another {OTHERS[change]} and is not used" in said and "goes on" not in said
    stages.stage1(fresh_start, rows, table, chosen, seed=0, augment="tone")
    assert not changed(anew.model, weights_of(fresh_start.model))
    assert len(list(folder.glob("*/step-00000012"))) == 2


def test_other_starting_weights_and_other_seeds_are_other_trainings(stopped, tmp_path, capsys):
    folder, vlm = copied(stopped, tmp_path), fresh()
    with torch.no_grad():
        vlm.model.lm_head.weight[0, 0] += 1
    stages.stage1(vlm, captioned(CAPTIONS), order(), config(), seed=1, augment="none", saving=Saving(folder, 12))
    assert "another augment, seed, starting weights and is not used" in capsys.readouterr().err


def test_what_a_killed_process_left_half_written_is_swept(stopped, tmp_path):
    folder = copied(stopped, tmp_path)
    left = step_folder(folder, 12).with_name(".step-00000013.abc")
    left.mkdir()
    (left / "part").write_bytes(b"half")
    assert resumed(folder) and not left.exists()


def test_a_second_process_in_the_same_folder_is_refused(tmp_path):
    command = [sys.executable, "-c", HOLDS_THE_LOCK, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(RuntimeError, match="another process trains into .*; end it"):
            train(1, fresh(), folder=tmp_path)
        other.stdin.close()


def test_a_checkpoint_needs_a_positive_number_of_steps(tmp_path):
    with pytest.raises(ValueError, match="every 0 steps"):
        Saving(tmp_path, 0)
