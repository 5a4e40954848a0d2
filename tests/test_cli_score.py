"""`irgpt score`: a prediction file becomes a table and a JSON file, or one clear message."""

import json
from pathlib import Path

import pytest
import typer
from asked import questions
from typer.testing import CliRunner

from irgpt_lib.cli.score import score
from irgpt_lib.tasks import TASKS

REAL = Path(__file__).parents[2] / "shared" / "data" / "irtd_json_sft"
APP = typer.Typer()
APP.command()(score)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A study's questions and the truth as predictions."""
    (tmp_path / "dvc.yaml").touch()
    tables = tmp_path / "artifacts" / "dataset" / "questions"
    tables.mkdir(parents=True)
    for split in ("benchmark", "instruction"):
        questions(6, split=split).to_parquet(tables / f"{split}.parquet", index=False)
    predict(tmp_path / "p.jsonl", questions(6))
    return tmp_path


def predict(file: Path, table) -> None:
    rows = [{"question_id": i, "output": a} for i, a in zip(table["question_id"], table["answer"], strict=True)]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def call(folder: Path, *words: object, predictions: str = "p.jsonl"):
    return CliRunner().invoke(APP, ["--predictions", str(folder / predictions), *map(str, words)])


def asking(folder: Path) -> tuple[str, Path]:
    return "--questions", folder / "artifacts" / "dataset" / "questions"


def failed(result, message: str) -> bool:
    one_line = result.stderr.startswith("irgpt: ") and result.stderr.count("\n") == 1
    return result.exit_code == 2 and message in result.stderr and one_line


def test_the_truth_scores_perfectly_on_the_study_s_own_questions(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.delenv("IRGPT_ARTIFACTS", raising=False)
    result = call(folder)
    assert result.exit_code == 0, result.output
    assert "| psum " in result.stdout
    assert "majority" in result.stdout
    report = json.loads((folder / "p.study.json").read_text(encoding="utf-8"))
    assert report["scores"]["psum"]["score"] == 600
    assert report["scores"]["nsum"]["score_lenient"] == 0
    assert report["scores"]["psum"]["low"] is None
    assert report["scores"]["reid"]["chance"] == pytest.approx(100 / 7)
    assert report["details"]["grounding"]["iou"] == 1
    assert (report["questions"], report["answered"], report["where"]) == (54, 54, {})


def test_equal_predictions_give_equal_bytes(folder):
    for name in ("a.json", "b.json"):
        assert call(folder, *asking(folder), "--out", folder / "new" / name).exit_code == 0
    assert (folder / "new" / "a.json").read_bytes() == (folder / "new" / "b.json").read_bytes()


def test_the_release_flavour_and_json(folder):
    result = call(folder, *asking(folder), "--flavour", "release", "--json")
    assert json.loads(result.stdout) == json.loads((folder / "p.release.json").read_text(encoding="utf-8"))
    assert json.loads(result.stdout)["scores"]["location"]["unscored"] == 0


def test_a_missing_answer_fails_and_names_itself_until_it_is_allowed_and_then_is_a_refusal(folder):
    predict(folder / "p.jsonl", questions(6).iloc[1:])
    assert failed(call(folder, *asking(folder)), "1 x missing answer (whole file benchmark/0#scene)")
    assert not (folder / "p.study.json").exists()
    result = call(folder, *asking(folder), "--max-faults", 0.02)
    assert result.exit_code == 0
    assert "1 x missing answer" in result.stdout
    report = json.loads((folder / "p.study.json").read_text(encoding="utf-8"))
    assert report["scores"]["scene"]["score"] == pytest.approx(500 / 6)
    assert report["faults_named"][0]["detail"] == "benchmark/0#scene"


def test_some_tasks_alone(folder):
    own = questions(6)
    predict(folder / "p.jsonl", own[own["task"] == "reid"])
    assert call(folder, *asking(folder), "--tasks", "reid").exit_code == 0
    report = json.loads((folder / "p.study.json").read_text(encoding="utf-8"))
    assert report["scores"].keys() == {"reid", "psum"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--flavour", "best"], "--flavour is one of study, release"),
        (["--tasks", "zebra"], "--tasks zebra: the tasks are scene, recognition"),
        (["--split", "pretrain"], "no question of split pretrain"),
        (["--where", "setting"], "--where setting: write COLUMN=VALUE"),
        (["--where", "question_id=none"], "54 x missing answer"),
        (["--id-field", "id"], "no row has both id and output"),
        (["--questions", "nowhere"], "nowhere: no such questions; name another"),
    ],
)
def test_what_cannot_be_done_is_one_message(folder, words, message):
    assert failed(call(folder, *asking(folder), *words), message)


def test_questions_that_cannot_be_used_are_one_message(folder):
    assert failed(call(folder, "--questions", folder), "neither Parquet tables of questions nor the release's JSON")
    table = questions(1)
    for name, bad, message in [
        ("twice", [*range(9), 0], "1 question ids occur twice, first benchmark/0#scene"),
        ("odd", None, "questions of unknown tasks zebra"),
        ("broken", None, "Expecting value"),
    ]:
        rows = table.iloc[bad] if bad else table.assign(**{"task" if name == "odd" else "truth": "zebra"})
        rows.to_parquet(folder / f"{name}.parquet", index=False)
        assert failed(call(folder, "--questions", folder / f"{name}.parquet"), message)


def test_the_predictions_are_not_overwritten(folder):
    before = (folder / "p.jsonl").read_bytes()
    assert failed(call(folder, *asking(folder), "--out", folder / "p.jsonl"), "would overwrite the predictions")
    assert (folder / "p.jsonl").read_bytes() == before


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the released questions in ../shared/data")
@pytest.mark.parametrize("flavour", ["study", "release"])
def test_the_released_records_can_be_answered_and_scored(tmp_path, flavour):
    from irgpt_lib.evaluation.release_scoring import released_questions
    from irgpt_lib.irtd.release import read_release

    predict(tmp_path / "p.jsonl", released_questions(read_release(REAL)[0]))
    result = call(tmp_path, "--questions", REAL, "--flavour", flavour)
    assert result.exit_code == 0, result.output
    scores = json.loads((tmp_path / f"p.{flavour}.json").read_text(encoding="utf-8"))["scores"]
    assert scores.keys() == {*TASKS, "psum", "nsum"} - {"scene"}
    assert (scores["psum"]["score"], scores["nsum"]["score"]) == (500, 0)
