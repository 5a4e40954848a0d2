"""The shell around models that answer the benchmark, and the benchmark written for other kits."""

import json
import threading
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import typer
from miniature import captioned, scenes, talkative, talkative_base
from test_assemble import CONFIG
from test_describing import ChatServer
from typer.testing import CliRunner

from irgpt_lib.artifacts import write_tensors
from irgpt_lib.cli import benchmark, predict
from irgpt_lib.evaluation.prediction_file import read_answers
from irgpt_lib.irtd.questions import make_questions, words_of
from irgpt_lib.irtd.shards import write_shard
from irgpt_lib.models.vlm import save_base
from irgpt_lib.tasks import TASKS
from irgpt_lib.training.stages import stage1_state

APP = typer.Typer()
APP.command("predict")(predict.predict)
APP.add_typer(benchmark.app, name="benchmark")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study's artifacts: a small dataset, a base, and a run that has been through stage 1 only."""
    root = tmp_path_factory.mktemp("artifacts")
    images = captioned(64)["infrared"]
    samples = [replace(s, split="benchmark", band="nir", infrared=images[s.sample_id]) for s in scenes()[0]]
    write_shard(samples, root / "dataset" / "samples" / "benchmark-00000.parquet")
    asked = make_questions(samples, "benchmark", 54, CONFIG, words_of(samples))
    (root / "dataset" / "questions").mkdir()
    asked.to_parquet(root / "dataset" / "questions" / "benchmark.parquet")
    save_base(talkative_base(), "", root / "base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IRGPT_ARTIFACTS", str(root))
        write_tensors("train/cl-0/stage1.safetensors", {k: v * 1.5 for k, v in stage1_state(talkative()).items()})
    return root


@pytest.fixture(autouse=True)
def here(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IRGPT_ARTIFACTS", str(study))


def call(*words: object):
    return CliRunner().invoke(APP, [str(word) for word in words])


def failed(result, message: str) -> bool:
    told = result.stderr.splitlines()
    return result.exit_code == 2 and told[-1].startswith("irgpt: ") and message in told[-1]


def test_the_base_and_a_run_answer_every_question_and_are_asked_once(study, tmp_path):
    out = tmp_path / "base.parquet"
    result = call("predict", out, "--run", "base", "--limit", 2, "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 0 and report["questions"] == 2 * len(TASKS) and report["faults"] == {}
    table = pq.read_table(out).to_pandas()
    assert table.groupby("task").size().tolist() == [2] * len(TASKS) and table["model"].str.startswith("base@").all()
    (journal,) = (study / "cache" / "answers").glob("base@*/journal.jsonl")
    before = journal.read_bytes()
    assert call("predict", tmp_path / "again.parquet", "--run", "base", "--limit", 2).exit_code == 0
    assert journal.read_bytes() == before and (tmp_path / "again.parquet").read_bytes() == out.read_bytes()
    run = tmp_path / "run.jsonl"
    words = ("--run", "cl-0", "--setting", "zero_shot", "--limit", 2, "--journals", tmp_path / "journals")
    assert call("predict", run, *words).exit_code == 0
    rows = [json.loads(line) for line in run.read_text().splitlines()]
    assert len(rows) == 18 and rows[0]["model"].startswith("cl-0_zero_shot@")
    assert [row["output"] for row in rows] != table["output"].tolist(), "stage 1 changed the model"


def test_shuffled_questions_get_other_images(tmp_path):
    out = tmp_path / "out.parquet"
    words = ("--run", "base", "--shuffled", "--tasks", "reid", "--journals", tmp_path / "journals")
    assert call("predict", out, *words).exit_code == 0
    table = pq.read_table(out).to_pandas()
    assert set(table["task"]) == {"reid"} and (table["shown"] != table["sample_id"]).all()


def test_a_server_answers_and_what_it_refuses_is_told(tmp_path):
    with ChatServer() as chat:
        thread = threading.Thread(target=chat.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        out = tmp_path / "out.jsonl"
        words = ("--server", chat.url, "--model", "m", "--tasks", "pedestrian_counting", "--limit", 1)
        words += ("--journals", tmp_path / "journals")
        chat.faults = {"Calculate the number of pedestrians in the picture.": [400]}
        result = call("predict", out, *words)
        assert result.exit_code == 1 and "1 x refused with status 400" in result.stdout
        assert json.loads(out.read_text())["output"] is None
        result = call("predict", out, *words)
        chat.shutdown()
        thread.join()
    assert result.exit_code == 0 and json.loads(out.read_text())["output"].startswith("About Calculate")
    assert call("predict", out, *words).exit_code == 0, "all is known, and the server need not run"


def test_a_file_of_answers_becomes_a_prediction_file(study, tmp_path):
    asked = pd.read_parquet(study / "dataset" / "questions" / "benchmark.parquet")
    file, out = tmp_path / "elsewhere.csv", tmp_path / "out.parquet"
    asked[["question_id", "answer"]].rename(columns={"answer": "output"}).to_csv(file, index=False)
    assert call("predict", out, "--answers", file).exit_code == 0
    given = read_answers(out, asked["question_id"].tolist())
    assert given.outputs == dict(zip(asked["question_id"], asked["answer"], strict=True)) and not given.faults


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("out.txt", "--run", "base"), "must end with one of .parquet, .jsonl"),
        (("out.jsonl",), "name one model"),
        (("out.jsonl", "--run", "base", "--weights", "x"), "name one model"),
        (("out.jsonl", "--run", "cl-9"), "cl-9: no such run; `dvc repro train`"),
        (("out.jsonl", "--run", "base", "--setting", "tuned"), "--setting is one of"),
        (("out.jsonl", "--run", "base", "--tasks", "poetry"), "poetry"),
        (("out.jsonl", "--run", "base", "--dataset", "nowhere"), "nowhere: no such folder"),
        (("out.jsonl", "--weights", "no/such-folder"), "Remote code is never run"),
        (("out.jsonl", "--server", "http://127.0.0.1:9/v1"), "--server needs --model"),
        (("out.jsonl", "--server", "127.0.0.1:9", "--model", "m"), "is no address"),
        (("out.jsonl", "--server", "http://h/v1", "--model", "m", "--key-variable", "NO_SUCH_KEY"), "NO_SUCH_KEY"),
        (("out.jsonl", "--answers", "nowhere.jsonl"), "nowhere.jsonl"),
    ],
)
def test_what_cannot_be_is_one_message(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert failed(call("predict", *words, "--journals", tmp_path / "journals"), message)
    assert not (tmp_path / words[0]).exists()


def test_a_run_that_does_not_fit_params_is_one_message(study, tmp_path):
    (study / "train" / "gone-0").mkdir()
    assert failed(call("predict", tmp_path / "out.jsonl", "--run", "gone-0"), "unknown variant 'gone'")


def test_a_server_that_is_away_is_one_message(tmp_path):
    words = ("--server", "http://127.0.0.1:9/v1", "--model", "m", "--retries", 0, "--journals", tmp_path)
    assert failed(call("predict", tmp_path / "out.jsonl", *words), "no connection")
    assert not (tmp_path / "out.jsonl").exists()


def test_the_benchmark_is_exported_for_both_kits(study, tmp_path):
    result = call("benchmark", "export", "--kit", "lmms-eval", tmp_path / "a", "--limit", 2, "--max-tokens", 77)
    assert result.exit_code == 0 and "--include_path" in result.stdout
    assert "max_new_tokens: 77" in (tmp_path / "a" / "_irtd_default_yaml").read_text()
    assert pq.read_metadata(tmp_path / "a" / "data" / "reid.parquet").num_rows == 2
    result = call("benchmark", "export", "--kit", "vlmevalkit", tmp_path / "b", "--limit", 2, "--json")
    assert json.loads(result.stdout)["questions"]["IRTD_openended"] == 18
    assert failed(call("benchmark", "export", "--kit", "other", tmp_path / "c"), "--kit is one of")
    assert failed(call("benchmark", "export", "--kit", "lmms-eval", tmp_path / "a"), "is not empty")


def test_a_question_without_its_image_is_named(study, tmp_path):
    asked = pd.read_parquet(study / "dataset" / "questions" / "benchmark.parquet")
    (tmp_path / "questions").mkdir()
    (tmp_path / "samples").symlink_to(study / "dataset" / "samples")
    asked.assign(sample_id="gone").to_parquet(tmp_path / "questions" / "benchmark.parquet")
    result = call("benchmark", "export", "--kit", "vlmevalkit", tmp_path / "out", "--dataset", tmp_path)
    assert failed(result, "1 samples of questions are not in split benchmark, the first gone")
