"""What stands under artifacts/ is always whole: the new result, or the old one, never a part."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from irgpt_lib import artifacts

ROOT = Path(__file__).parents[1]


def put(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def content(folder: Path) -> dict[str, str]:
    return {str(f.relative_to(folder)): f.read_text(encoding="utf-8") for f in folder.rglob("*") if f.is_file()}


@pytest.fixture(autouse=True)
def tree(tmp_path, monkeypatch):
    monkeypatch.setenv("IRGPT_ARTIFACTS", str(tmp_path / "artifacts"))
    return tmp_path / "artifacts"


def test_a_block_that_ends_replaces_the_file(tmp_path):
    target = put(tmp_path / "result.txt", "old")
    with artifacts.atomic(target) as part:
        part.write_text("new")
        assert target.read_text() == "old", "nothing changes before the block ends"
    assert content(tmp_path) == {"result.txt": "new"}


def test_a_block_that_raises_leaves_the_old_file_and_no_scratch(tmp_path):
    target = put(tmp_path / "result.txt", "old")
    with pytest.raises(ZeroDivisionError), artifacts.atomic(target) as part:
        part.write_text("half")
        raise ZeroDivisionError
    assert content(tmp_path) == {"result.txt": "old"}


def test_a_block_that_raises_leaves_no_new_file(tmp_path):
    with pytest.raises(ZeroDivisionError), artifacts.atomic(tmp_path / "new" / "result.txt") as part:
        part.write_text("half")
        raise ZeroDivisionError
    assert content(tmp_path) == {}


def test_a_block_that_writes_nothing_is_an_error_that_names_the_file_and_keeps_the_old_one(tmp_path):
    target = put(tmp_path / "result.txt", "old")
    with pytest.raises(FileNotFoundError, match=r"nothing was written for .*result\.txt"), artifacts.atomic(target):
        pass
    assert content(tmp_path) == {"result.txt": "old"}


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    put(tmp_path / "model" / "old.txt", "old")
    with artifacts.atomic(tmp_path / "model") as part:
        put(part / "deep" / "new.txt", "new")
    assert content(tmp_path) == {"model/deep/new.txt": "new"}


def test_a_folder_whose_block_raises_stays_as_it_was(tmp_path):
    put(tmp_path / "model" / "old.txt", "old")
    with pytest.raises(ZeroDivisionError), artifacts.atomic(tmp_path / "model") as part:
        put(part / "new.txt", "half")
        raise ZeroDivisionError
    assert content(tmp_path) == {"model/old.txt": "old"}


def test_a_file_may_take_the_place_of_a_folder_and_the_other_way_round(tmp_path):
    target = put(tmp_path / "thing", "file")
    with artifacts.atomic(target) as part:
        put(part / "inner.txt", "folder")
    assert content(tmp_path) == {"thing/inner.txt": "folder"}
    with artifacts.atomic(target) as part:
        part.write_text("file again")
    assert content(tmp_path) == {"thing": "file again"}


def test_a_killed_writer_leaves_the_old_result_or_none(tmp_path):
    """One process dies inside four blocks: a file and a folder, each with an old result and without."""
    put(tmp_path / "old.txt", "old")
    put(tmp_path / "old" / "weights.txt", "old")
    writer = """
import os, pathlib, signal
from contextlib import ExitStack
from irgpt_lib import artifacts
with ExitStack() as stack:
    for name in ("old.txt", "new.txt", "old", "new"):
        part = stack.enter_context(artifacts.atomic(pathlib.Path(name).absolute()))
        file = part if name.endswith("txt") else part / "weights.txt"
        file.parent.mkdir(exist_ok=True)
        file.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    ended = subprocess.run([sys.executable, "-c", writer], cwd=tmp_path, env=env)
    assert ended.returncode == -signal.SIGKILL
    assert not (tmp_path / "new.txt").exists() and not (tmp_path / "new").exists()
    assert (tmp_path / "old.txt").read_text() == "old"
    assert content(tmp_path / "old") == {"weights.txt": "old"}


def test_json_of_equal_content_has_equal_bytes(tree):
    artifacts.write_json("a.json", {"b": 1, "a": "λ"})
    artifacts.write_json("b.json", {"a": "λ", "b": 1})
    assert (tree / "a.json").read_bytes() == (tree / "b.json").read_bytes()
    assert (tree / "a.json").read_text(encoding="utf-8") == '{\n "a": "λ",\n "b": 1\n}\n'
    assert artifacts.read_json("a.json") == {"a": "λ", "b": 1}


def test_a_table_comes_back_with_its_columns_in_order_and_without_an_index(tree):
    table = pd.DataFrame({"b": [2.5, 0.5], "a": ["x", "y"]}, index=[7, 3])
    artifacts.write_table("deep/t.parquet", table)
    pd.testing.assert_frame_equal(artifacts.read_table("deep/t.parquet"), table.reset_index(drop=True))
    assert list(artifacts.read_table("deep/t.parquet", ["a"])) == ["a"]


def test_equal_tables_have_equal_bytes(tree):
    for name in ("one", "two"):
        artifacts.write_table(name, pd.DataFrame({"a": [1, 2, 3]}))
    assert (tree / "one").read_bytes() == (tree / "two").read_bytes()


def test_a_csv_keeps_six_digits_and_plain_newlines(tree):
    artifacts.write_csv("c.csv", pd.DataFrame({"step": [1], "loss": [1 / 3]}))
    assert (tree / "c.csv").read_bytes() == b"step,loss\n1,0.333333\n"


def test_tensors_come_back_exactly_also_from_a_view(tree):
    grid = torch.arange(6.0).reshape(2, 3)
    artifacts.write_tensors("t.safetensors", {"turned": grid.T})
    assert torch.equal(artifacts.read_tensors("t.safetensors")["turned"], grid.T)


def test_the_study_is_found_upwards_from_the_working_folder(tmp_path, monkeypatch):
    put(tmp_path / "study" / "dvc.yaml", "stages: {}\n")
    deep = tmp_path / "study" / "notebooks" / "deep"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    monkeypatch.delenv("IRGPT_ARTIFACTS")
    assert artifacts.root() == tmp_path / "study"
    assert artifacts.path(artifacts.SCORES) == tmp_path / "study" / "artifacts" / "difficulty" / "scores.parquet"


def test_outside_a_study_the_error_says_where_it_looked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=rf"no dvc\.yaml in {tmp_path}"):
        artifacts.root()
