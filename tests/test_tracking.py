import ast
import importlib.util
import json
import os
from pathlib import Path

import pytest

from irgpt_lib.training import tracking
from irgpt_lib.training.tracking import MissingTracker, Run, Tracker, each_of, tracked


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Kept:
    """A back end that keeps what it gets, and fails while `broken`."""

    rows_at_once = 2

    def __init__(self):
        self.rows, self.calls, self.flushed, self.closed, self.broken = [], 0, 0, 0, False

    def write(self, rows):
        self.calls += 1
        if self.broken:
            raise ConnectionError("no server")
        assert len(rows) <= self.rows_at_once
        self.rows += rows

    def flush(self):
        self.flushed += 1

    def close(self):
        self.closed += 1


@pytest.fixture
def kept():
    return Kept()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def tracker(kept, clock):
    return Tracker(lambda: kept, "tracker x", every_s=5.0, clock=clock)


def row(step, **more):
    return {"step": step, "loss": 1.0 / step, "tier": 0, "samples": 32, **more}


def run_through(tracker, clock, steps, seconds=2.0):
    for step in steps:
        clock.now += seconds
        tracker(row(step))


def test_rows_are_gathered_and_handed_on_in_order(tracker, kept, clock):
    run_through(tracker, clock, [1, 2])
    assert kept.rows == [], "before the interval nothing is written"
    run_through(tracker, clock, [3])
    assert [step for step, _ in kept.rows] == [1, 2, 3] and kept.calls == 2 and kept.flushed == 1
    run_through(tracker, clock, [4])
    assert tracker.missing == [4]
    tracker.close()
    assert [step for step, _ in kept.rows] == [1, 2, 3, 4] and tracker.missing == [] and kept.closed == 1


def test_samples_a_second_come_from_the_time_between_two_rows(tracker, kept, clock):
    run_through(tracker, clock, [1, 2], seconds=4.0)
    tracker.close()
    (_, first), (_, second) = kept.rows
    assert first == {"loss": 1.0, "tier": 0.0}, "before the first row lies the set-up, not a step"
    assert second == {"loss": 0.5, "tier": 0.0, "samples_per_s": 8.0}


def test_repeated_rows_of_a_resumed_training_have_no_rate(tracker, kept, clock):
    for step in (1, 2):
        tracker({"step": step, "loss": 1.0})
    run_through(tracker, clock, [3], seconds=4.0)
    tracker.close()
    assert [values.get("samples_per_s") for _, values in kept.rows] == [None, None, 8.0]


def test_a_failing_tracker_is_told_once_tried_again_and_loses_nothing(tracker, kept, clock, capsys):
    kept.broken = True
    run_through(tracker, clock, range(1, 31))
    said = capsys.readouterr().err
    assert said.count("no server") == 1 and "training goes on" in said
    assert kept.calls == 1, "not at every row: a server that does not answer would stall the training"
    kept.broken = False
    clock.now += tracking.RETRY_S
    run_through(tracker, clock, [31])
    assert [step for step, _ in kept.rows] == list(range(1, 32)) and tracker.missing == []
    tracker.close()
    assert capsys.readouterr().err == ""


def test_the_waits_between_tries_double(tracker, kept, clock):
    kept.broken = True
    run_through(tracker, clock, range(1, 4 + 60 + 120), seconds=1.0)
    assert kept.calls == 2
    run_through(tracker, clock, range(200, 200 + 10), seconds=1.0)
    assert kept.calls == 3


def test_what_never_arrives_is_counted_at_the_end(tracker, kept, clock, capsys):
    run_through(tracker, clock, range(1, 4))
    kept.broken = True
    run_through(tracker, clock, range(4, 10))
    tracker.close()
    said = capsys.readouterr().err
    assert "6 of 9 steps are missing there, 4 to 9 (ConnectionError: no server)" in said
    assert "history holds them all" in said and kept.closed == 1


def test_a_tracker_that_cannot_be_opened_does_not_break_the_run(clock, capsys):
    def refuse():
        raise PermissionError("no key")

    tracker = Tracker(refuse, "tracker x", clock=clock)
    run_through(tracker, clock, range(1, 10))
    tracker.close()
    assert capsys.readouterr().err.count("no key") == 2, "once when it fails, once in the account at the end"


def test_a_failing_end_is_told(tracker, kept, clock, capsys):
    def fail():
        raise OSError("disk full")

    kept.close = fail
    run_through(tracker, clock, [1])
    tracker.close()
    assert "disk full" in capsys.readouterr().err


def test_an_interruption_is_not_swallowed(clock):
    def interrupt():
        raise KeyboardInterrupt

    tracker = Tracker(interrupt, "tracker x", every_s=0.0, clock=clock)
    with pytest.raises(KeyboardInterrupt):
        tracker(row(1))


def test_without_rows_no_tracker_is_opened():
    def refuse():
        raise AssertionError

    Tracker(refuse, "tracker x").close()


def test_several_listeners_hear_each_row_in_order():
    heard = []
    tell = each_of(lambda row: heard.append(("a", row["step"])), None, lambda row: heard.append(("b", row["step"])))
    tell(row(1))
    tell(row(2))
    assert heard == [("a", 1), ("b", 1), ("a", 2), ("b", 2)]


def test_none_is_no_tracker(tmp_path):
    with tracked("none", tmp_path, "cl-0", "stage 1") as on_step:
        assert on_step is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["dvclive", "tensorboard", "wandb", "mlflow"])
def test_a_missing_package_stops_the_run_before_it_starts(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with (
        pytest.raises(MissingTracker, match=rf"pip install .*\[{kind}\]'`.*train.tracker.*none"),
        tracked(kind, tmp_path, "cl-0", "stage 1"),
    ):
        pass


def test_the_trackers_are_imported_only_when_asked_for():
    taken = [node for node in ast.parse(Path(tracking.__file__).read_text()).body if "Import" in type(node).__name__]
    names = {(node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).split(".")[0] for node in taken}
    assert "tqdm" in names and not names & {"dvclive", "tensorboard", "torch", "wandb", "mlflow"}


def logged(kind, folder, **options):
    """The folder of a run of three steps, of which a first try had logged one more."""
    pytest.importorskip(kind)
    settings = {"stage1.vision_lr": 5e-4, "weights": "literal", "relations": ["left"]}
    for steps in ([9], [1, 2, 3]):
        with tracked(kind, folder, "cl-0", "stage 1", settings=settings, **options) as on_step:
            for step in steps:
                on_step(row(step))
            assert on_step.missing
        assert on_step.missing == []
    return folder / kind / "cl-0" / "stage-1"


@pytest.mark.filterwarnings("default")
def test_dvclive_writes_tables_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_STUDIO_TOKEN", "secret")
    monkeypatch.setenv("DVC_STUDIO_REPO_URL", "nowhere")
    monkeypatch.delenv("DVC_STUDIO_OFFLINE", raising=False)
    monkeypatch.chdir(tmp_path)
    folder = logged("dvclive", tmp_path)
    lines = (folder / "plots/metrics/loss.tsv").read_text().splitlines()
    assert [line.split("\t") for line in lines[1:]] == [["1", "1.0"], ["2", "0.5"], ["3", str(1 / 3)]]
    assert json.loads((folder / "metrics.json").read_text())["step"] == 3
    assert not (tmp_path / "dvc.yaml").exists() and "DVC_STUDIO_OFFLINE" not in os.environ


@pytest.mark.filterwarnings("default")
def test_dvclive_sends_nothing_unless_asked(tmp_path, monkeypatch):
    pytest.importorskip("dvclive")
    monkeypatch.setenv("DVC_STUDIO_TOKEN", "secret")
    monkeypatch.setenv("DVC_STUDIO_REPO_URL", "nowhere")
    monkeypatch.chdir(tmp_path)
    sent = []
    monkeypatch.setattr("dvclive.live.post_to_studio", lambda live, event, *_: sent.append(event))
    tracking.DVCLive(Run("cl-0", "stage 1", tmp_path / "quiet"))
    assert sent == []
    tracking.DVCLive(Run("cl-0", "stage 1", tmp_path / "asked", network=True))
    assert sent == ["start"]


@pytest.mark.filterwarnings("default")
def test_tensorboard_writes_events(tmp_path):
    folder = logged("tensorboard", tmp_path)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    assert {"loss", "tier", "samples_per_s"} <= set(events.Tags()["scalars"])
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]


@pytest.mark.filterwarnings("default")
def test_wandb_stays_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "http://localhost:9")
    folder = logged("wandb", tmp_path)
    (run,) = (folder / "wandb").glob("offline-run-*")
    assert list(run.glob("*.wandb"))


@pytest.mark.filterwarnings("default")
def test_mlflow_writes_a_database_in_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:9")
    pytest.importorskip("sqlalchemy")
    logged("mlflow", tmp_path)
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow/mlflow.db'}")
    newest, earlier = client.search_runs([client.get_experiment_by_name("irgpt").experiment_id])
    assert newest.info.run_name == earlier.info.run_name == "cl-0 stage 1"
    history = client.get_metric_history(newest.info.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert newest.data.params["weights"] == "literal" and newest.info.status == "FINISHED"
