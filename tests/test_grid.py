"""Rows of the grid are run several at a time, kept with what they were made from, and stand only beside their like."""

import json
from pathlib import Path

import pandas as pd
import pytest
from ruamel.yaml import YAML

from irgpt_lib import artifacts, grid, params
from irgpt_lib.evaluation import gathering

FILE = Path(__file__).parents[1] / "params.yaml"
COST = {"wall_s": 1.0, "cpu_s": 1.0, "peak_mb": 1}


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study of two variants and two rows with two seeds, its inputs made, in a folder of its own."""
    tree = YAML(typ="safe").load(FILE.read_text(encoding="utf-8"))
    tree["seeds"] = [0, 1]
    tree["variants"] = {name: tree["variants"][name] for name in ("none", "cl")}
    tree["grid"] = {name: tree["grid"][name] for name in ("l1", "l2")}
    (tmp_path / "dvc.yaml").touch()
    with (tmp_path / "params.yaml").open("w", encoding="utf-8") as stream:
        YAML(typ="safe").dump(tree, stream)
    monkeypatch.chdir(tmp_path)
    for name in ("IRGPT_ARTIFACTS", params.RUNS_VARIABLE, params.PROFILE_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    for name in ("base/model.bin", "dataset/questions/a.parquet", "dataset/samples/a.parquet"):
        artifacts.write_text(name, name)
    for run in [*params.runs(), *params.runs("grid")]:
        artifacts.write_text(artifacts.order_name(*run), f"order of {run}")
    for run in params.runs():
        artifacts.write_table(f"evaluate/{artifacts.run_name(*run)}/predictions.parquet", answers(0.0))
    return tmp_path


def answers(score, question="Which?"):
    rows = {"question_id": ["a", "b"], "setting": "fine_tuned", "question": question, "truth": ["1", "2"]}
    return pd.DataFrame(rows | {"score": [score, score]})


@pytest.fixture
def executed(monkeypatch):
    """In place of the notebooks: what they would leave, and a list of what was executed."""
    told: list[tuple[str, str]] = []

    def execute(*words, artifacts_root):
        notebook, _, variant, seed = (word.rpartition("=")[2] for word in words)
        run = f"{variant}-{seed}"
        told.append((notebook, run))
        assert (artifacts_root / f"orders/{run}.parquet").read_text().startswith("order of")
        for folder in (f"train/{run}", f"evaluate/{run}", "costs"):
            (artifacts_root / folder).mkdir(parents=True, exist_ok=True)
        (artifacts_root / f"costs/{notebook}-{run}.json").write_text(json.dumps(COST))
        if notebook == "05_train":
            (artifacts_root / f"train/{run}/history.csv").write_text("step,loss\n0,1.5\n")
        else:
            answers(50.0).to_parquet(artifacts_root / f"evaluate/{run}/predictions.parquet")

    monkeypatch.setattr(grid, "_execute", execute)
    return told


def test_each_row_is_trained_and_evaluated_and_joins_the_studys_runs(study, executed):
    assert grid.main("jobs=2") == 0
    rows = ["l1-0", "l1-1", "l2-0", "l2-1"]
    assert sorted(executed) == sorted((notebook, run) for run in rows for notebook in artifacts.EACH_RUN)
    found = gathering.all_predictions()
    assert found.left_out.empty and len(found.predictions) == 2 * (4 + 4)
    means = found.predictions.groupby("variant")["score"].mean().to_dict()
    assert means == {"none": 0.0, "cl": 0.0, "l1": 50.0, "l2": 50.0}
    assert (study / "artifacts/grid/l2-1/history.csv").read_text() == "step,loss\n0,1.5\n"
    assert not list((study / "artifacts/cache/grid").iterdir()), "the scratch trees are gone"
    assert (study / "artifacts/base/model.bin").is_file(), "and what they linked to is not"


def test_every_table_has_its_first_seed_before_any_has_its_second(study, executed):
    assert grid.main("jobs=1") == 0
    assert [run for notebook, run in executed if notebook == "05_train"] == ["l1-0", "l2-0", "l1-1", "l2-1"]


def test_a_row_that_is_there_is_not_run_again_until_what_it_was_made_from_changes(study, executed):
    grid.main("jobs=1")
    executed.clear()
    assert grid.main("jobs=1") == 0 and not executed
    artifacts.write_text(artifacts.order_name("l2", 1), "order of another schedule")
    assert grid.main("jobs=1") == 0 and executed == [(notebook, "l2-1") for notebook in artifacts.EACH_RUN]
    executed.clear()
    artifacts.write_text("dataset/samples/a.parquet", "other samples")
    assert grid.main("only=l1-0") == 0 and executed == [(notebook, "l1-0") for notebook in artifacts.EACH_RUN]


def test_a_row_that_fails_is_named_and_the_others_are_kept(study, executed, monkeypatch, capsys):
    works = grid._execute

    def fails(*words, artifacts_root):
        if "variant=l1" in words and "seed=0" in words:
            raise grid.RowFailed("05_train ended with code 1:\nOut of patience")
        works(*words, artifacts_root=artifacts_root)

    monkeypatch.setattr(grid, "_execute", fails)
    assert grid.main("jobs=2") == 1
    assert "l1-0: 05_train ended with code 1:\nOut of patience" in capsys.readouterr().err
    left = gathering.all_predictions().left_out
    assert left.to_numpy().tolist() == [["l1-0", "not run: `make grid` runs it"]]


def test_a_notebook_that_fails_says_its_last_lines(study):
    (study / "notebooks").mkdir()
    with pytest.raises(grid.RowFailed, match=r"05_train x=1 ended with code 2:\nno notebook '05_train'"):
        grid._execute("05_train", "x=1", artifacts_root=study)


def rewritten(study, change):
    file = study / "artifacts/grid/l1-0/record.json"
    record = json.loads(file.read_text())
    change(record)
    file.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda record: record["settings"].update(profile="smoke"), "run under the profile smoke"),
        (lambda record: record["settings"]["train"]["stage1"].update(tiers=3), "run with other params"),
        (lambda record: record.update(asked="0"), "asked other questions"),
    ],
)
def test_a_row_of_other_data_or_params_is_left_out_and_says_why(study, executed, change, reason):
    grid.main("jobs=1")
    rewritten(study, change)
    found = gathering.all_predictions()
    assert found.left_out["run"].tolist() == ["l1-0"] and found.left_out["reason"][0].startswith(reason)
    assert len(found.predictions) == 2 * (4 + 3)


def test_truths_count_among_what_was_asked():
    assert gathering.asked_hash(answers(0.0)) == gathering.asked_hash(answers(9.0).iloc[::-1])
    assert gathering.asked_hash(answers(0.0)) != gathering.asked_hash(answers(0.0).assign(truth=["1", "3"]))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["only=cl-0"], "no row 'cl-0' in the grid; there are l1-0, l1-1, l2-0, l2-1"),
        (["jobs=many"], "invalid literal"),
        (["profile=huge"], "huge"),
        (["fast"], "unknown 'fast'"),
    ],
)
def test_a_wrong_command_is_one_message(study, words, told, capsys):
    assert grid.main(*words) == 2
    assert told in capsys.readouterr().err
