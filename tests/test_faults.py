"""Whole-stage faults: notebook 01 on a raw folder that is broken, absent or misnamed, and a run that is killed.

Every test runs the real notebook on a copy of the study, with raw frames that this file makes.
"""

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from faulty_files import put
from ruamel.yaml import YAML

from irgpt_lib import run
from irgpt_lib.irtd.record import png_bytes
from irgpt_lib.irtd.shards import read_shards, shard_files

ROOT = Path(__file__).parents[1]
# Noise does not compress: the table of samples is large enough to be killed while it is written.
WIDTH, HEIGHT = 640, 512
SOUND = 16
# Frames of one hundred are one video, which no two splits share: a hundred apart, each is its own.
STEMS = tuple(f"FLIR_{100 * number:05}" for number in range(SOUND))
PATIENCE_S = 60
HEAD = "image_name,class_id,xmin,xmax,ymin,ymax\n"
FAULTS = ("FLIR_09001", "FLIR_09002", "FLIR_09003")
ABSENT = "FLIR_09004"
SHARE_OF_FAULTS = 4 / 20


def raw_folder(root: Path) -> None:
    """20 records in FLIR's format: 16 sound frames, a truncated one, a box outside, an unknown class, and rows whose
    image is absent."""
    rng = np.random.default_rng(0)
    frames = [png_bytes(rng.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)) for _ in range(SOUND + len(FAULTS))]
    rows = [f"{stem}.jpeg,1,10,30,20,60\n{stem}.jpeg,3,100,160,50,90\n" for stem in STEMS]
    truncated, outside, unknown = FAULTS
    frames[SOUND] = frames[SOUND][:2000]
    rows += [f"{stem}.jpeg,1,10,30,20,60\n" for stem in (truncated, ABSENT)]
    rows += [f"{outside}.jpeg,1,10,{WIDTH + 50},20,60\n", f"{unknown}.jpeg,99,10,30,20,60\n"]
    for stem, frame in zip((*STEMS, *FAULTS), frames, strict=True):
        put(root / "infrared" / f"{stem}.png", frame)
    put(root / "boxes.csv", HEAD + "".join(rows))


def make_study(folder: Path, **changes: object) -> Path:
    """A copy of the study whose section `dataset` has these changes."""
    (folder / "notebooks").mkdir(parents=True)
    shutil.copy(ROOT / "dvc.yaml", folder)
    shutil.copy(ROOT / "notebooks" / "01_dataset.ipynb", folder / "notebooks")
    put(folder / "data" / "reviews.csv", (ROOT / "data" / "reviews.csv").read_bytes())
    yaml = YAML()
    params = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["common"]["dataset"].update({"sources": ["flir_roadscene"]} | changes)
    with io.StringIO() as text:
        yaml.dump(params, text)
        (folder / "params.yaml").write_text(text.getvalue(), encoding="utf-8")
    return folder


@contextmanager
def inside(study: Path):
    """The working folder and environment of a run of this study; its artifacts lie beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(study)
        # a run sets these for its kernel; named here, they are put back afterwards
        for name, value in run._FIXED_ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.setenv("MPLBACKEND", "agg")
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("IRGPT_ARTIFACTS", str(study / "results"))
        patch.delenv("IRGPT_PROFILE", raising=False)
        yield


def run_dataset(study: Path) -> int:
    with inside(study):
        return run.main("01_dataset", "profile=smoke")


def kernels_of(process: psutil.Process) -> list[psutil.Process]:
    """The notebook kernels among its children, whatever else these are."""
    found = []
    for child in process.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "ipykernel_launcher" in child.cmdline():
                found.append(child)
    return found


def kill_while_writing(study: Path) -> int:
    """Start the run, SIGKILL it and its kernel as soon as it sets about writing the first table; its exit status."""
    command = [sys.executable, "-m", "irgpt_lib.run", "01_dataset", "profile=smoke"]
    dataset, log = study / "results" / "dataset", (study / "log").open("wb")
    scratch = {"TMPDIR": str(study)}  # what the killed run leaves there goes with the study
    with inside(study), log, subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | scratch) as runner:
        family = psutil.Process(runner.pid)
        deadline, kernels = time.monotonic() + PATIENCE_S, []
        while not dataset.is_dir():  # made just before the first table is written
            assert runner.poll() is None, (study / "log").read_text()
            assert time.monotonic() < deadline, "the run did not begin to write"
            kernels = kernels or kernels_of(family)
            time.sleep(0.001)
        for process in (*kernels, family):
            process.kill()
        psutil.wait_procs(kernels, timeout=PATIENCE_S)
        return runner.wait()


@pytest.fixture(scope="module")
def killed_then_run(tmp_path_factory):
    """A study of which the first run was killed and the second one ran to its end: exit statuses, artifacts, and
    the names of what the killed run had left in place."""
    study = make_study(tmp_path_factory.mktemp("killed") / "study", max_rejected_share=SHARE_OF_FAULTS)
    raw_folder(study / "data" / "raw" / "flir_roadscene")
    killed = kill_while_writing(study)
    dataset = study / "results" / "dataset"
    left = [file.name for file in dataset.iterdir() if not file.name.startswith(".")]
    readable = {name: pq.read_table(dataset / name).num_rows for name in left}
    executed = (study / "results" / "executed" / "01_dataset.ipynb").exists()
    return {"killed": killed, "left": readable, "executed": executed, "status": run_dataset(study), "dataset": dataset}


def test_a_killed_run_leaves_no_half_table_and_no_executed_notebook(killed_then_run):
    assert killed_then_run["killed"] == -signal.SIGKILL
    assert not killed_then_run["executed"]
    assert set(killed_then_run["left"]) <= {"samples", "questions", "rejected.parquet"}
    assert killed_then_run["left"].get("samples", SOUND) == SOUND


def test_the_run_after_a_killed_one_is_complete(killed_then_run):
    assert killed_then_run["status"] == 0
    samples = list(read_shards(shard_files(killed_then_run["dataset"] / "samples")))
    assert sorted(s.sample_id for s in samples) == [f"flir_roadscene/{stem}" for stem in STEMS]
    assert all(s.authentic and len(s.boxes) == 2 and s.caption for s in samples)


def test_bad_records_up_to_the_allowed_share_are_set_aside_each_with_its_reason(killed_then_run):
    rejected = pq.read_table(killed_then_run["dataset"] / "rejected.parquet").to_pylist()
    reasons = ("unreadable image", "box outside image", "unknown class", "missing image")
    assert {row["record"]: row["reason"] for row in rejected} == dict(zip((*FAULTS, ABSENT), reasons, strict=True))
    details = {row["reason"]: row["detail"] for row in rejected}
    assert "class_id '99'; known: 1 person" in details["unknown class"]
    assert {row["file"] for row in rejected} == {"boxes.csv", *(f"infrared/{stem}.png" for stem in FAULTS)}


def test_above_the_allowed_share_the_stage_stops_with_the_counts_and_writes_nothing(tmp_path, capfd):
    study = make_study(tmp_path / "study", max_rejected_share=0.19)
    raw_folder(study / "data" / "raw" / "flir_roadscene")
    assert run_dataset(study) == 1
    told = capfd.readouterr().err
    assert "4 of 20 raw records were rejected, more than dataset.max_rejected_share = 0.19" in told
    assert "1 x unreadable image" in told and "1 x missing image" in told
    assert not (study / "results" / "dataset").exists()
    assert not (study / "results" / "executed" / "01_dataset.ipynb").exists()
    assert (study / "results" / "failed" / "01_dataset.ipynb").is_file()


def test_an_absent_raw_folder_is_named_with_what_belongs_there_its_terms_and_its_home(tmp_path, capfd):
    study = make_study(tmp_path / "study")
    assert run_dataset(study) == 1
    told = capfd.readouterr().err
    assert f"flir_roadscene: {study / 'data' / 'raw' / 'flir_roadscene'}: no such folder" in told
    assert "Expected: boxes.csv, frames in infrared/" in told
    assert "Get it from https://" in told and "Terms: FLIR research terms" in told
    assert not (study / "results" / "dataset").exists()


def test_a_source_that_does_not_exist_is_refused_with_those_that_do(tmp_path, capfd):
    study = make_study(tmp_path / "study", sources=["nothing"])
    assert run_dataset(study) == 1
    told = capfd.readouterr().err
    assert "no source is named 'nothing'; known: flir_roadscene, hit_uav" in told
    assert not (study / "results" / "dataset").exists()
