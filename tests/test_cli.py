"""The shell: what it prints, what it writes, and that a foreseen error is one message and code 2."""

import json
import subprocess
import sys

import pytest
from faulty_files import coco_folder, gray_png, put, released
from typer.testing import CliRunner

from irgpt_lib.cli import app
from irgpt_lib.irtd.record import read_samples
from irgpt_lib.irtd.sources import SOURCES


def call(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_list_shows_every_source_by_index_as_lines_and_as_json(tmp_path):
    lines, as_json = call("sources", "--raw", tmp_path), call("sources", "list", "--raw", tmp_path, "--json")
    header, first, *_, last = lines.stdout.splitlines()
    assert header.split() == ["index", "name", "band", "format", "access", "present", "complete", "readable"]
    assert first.split() == ["1", "llvip", "tir", "llvip", "form", "no", "no", "no"]
    assert last.split()[:2] == ["-", "hit_uav"]
    rows = json.loads(as_json.stdout)
    assert sorted(row["name"] for row in rows) == sorted(SOURCES)
    vtuav = next(row for row in rows if row["name"] == "vtuav")
    assert (vtuav["keep_every"], vtuav["present"], vtuav["route"]) == (100, False, "IV")
    assert call("sources", "list", "--raw", tmp_path).stdout == lines.stdout


def test_show_tells_everything_with_doubts():
    result = call("sources", "show", "vt821")
    assert "doubt: The release calls it tracking with 821 sequences; it is salient object detection" in result.stdout
    assert "whole: images 2463" in result.stdout
    assert json.loads(call("sources", "show", "kaist", "--json").stdout)["keep_every"] == 20


def test_check_without_a_name_tells_of_all_and_fails_only_for_what_is_present_and_broken(tmp_path):
    result = call("sources", "check", "--raw", tmp_path)
    assert result.exit_code == 0
    assert "kaist: absent, complete: no, not readable, 0 images" in result.stdout
    coco_folder(tmp_path / "hit_uav", [])
    rows = json.loads(call("sources", "check", "--raw", tmp_path, "--json").stdout)
    found = next(row for row in rows if row["source"] == "hit_uav")
    assert (found["present"], found["readable"], found["complete"]) == (True, True, False)
    put(tmp_path / "hit_uav" / "annotations" / "val.json", "{")
    broken = call("sources", "check", "--raw", tmp_path)
    assert (broken.exit_code, "hit_uav: present and not readable" in broken.stderr) == (2, True)


def test_get_by_hand_tells_what_to_do_and_leaves_with_two(tmp_path):
    result = call("sources", "get", "llcm", "--raw", tmp_path)
    assert (result.exit_code, result.stderr) == (2, "")
    assert f"Put it into {tmp_path / 'llcm'}" in result.stdout
    assert call("sources", "get", "elpv", "--raw", tmp_path).exit_code == 0


def test_read_writes_samples_and_tells_what_was_rejected(tmp_path):
    root = coco_folder(tmp_path / "raw", [], ("a.png", "b.png"))
    put(root / "val" / "b.png", b"")
    out = tmp_path / "out.parquet"
    result = call("sources", "read", "--format", "coco", "--root", root, "--band", "swir", "--out", out, "--json")
    report = json.loads(result.stdout)
    assert (result.exit_code, report["samples"], report["rejected"]) == (0, 1, {"empty image": 1})
    assert report["rejected_file"] == str(tmp_path / "out.rejected.parquet")
    assert [(s.sample_id, s.band) for s in read_samples(out)] == [("raw/a", "swir")]


def test_read_in_lines_names_the_counts(tmp_path):
    root = coco_folder(tmp_path / "raw", [{"image_id": 0, "category_id": 1, "bbox": [0, 0, 5, 5]}])
    result = call("sources", "read", "--source", "hit_uav", "--root", root, "--out", tmp_path / "out.parquet")
    assert "1 samples of hit_uav (tir, aerial), 1 boxes, 1 captions, 0 without annotation" in result.stdout


def test_check_of_a_folder_reports_and_passes(tmp_path):
    root = coco_folder(tmp_path / "raw", [])
    result = call("sources", "check", "--format", "coco", "--root", root, "--json")
    report = json.loads(result.stdout)
    assert (result.exit_code, report["readable"], report["images"]) == (0, True, 1)


def test_release_read_writes_the_table_and_tells_repairs(tmp_path):
    put(tmp_path / "Detection.json", json.dumps(released()) + ",")
    result = call("release", "read", tmp_path, "--out", tmp_path / "release.parquet")
    assert result.exit_code == 0
    assert "repaired Detection.json: 1 x trailing comma" in result.stdout
    assert (tmp_path / "release.parquet").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("sources", "check", "nothing"), "known: flir_roadscene, hit_uav"),
        (("sources", "show", "nothing"), "known: flir_roadscene, hit_uav"),
        (("sources", "get", "nothing"), "known: flir_roadscene, hit_uav"),
        (("sources", "check", "cdfag"), "--format flir_csv|"),
        (("sources", "get", "hit_uav", "--raw", "{tmp}/a-file/raw"), "a-file"),
        (
            ("sources", "check", "llvip", "--root", "{tmp}/absent"),
            "no such folder. Expected: infrared/ and visible/",
        ),
        (("sources", "check", "--format", "coco"), "give a source"),
        (
            ("sources", "read", "--format", "nothing", "--root", "{tmp}", "--out", "{tmp}/o.parquet"),
            "known: flir_csv",
        ),
        (
            ("sources", "read", "--format", "coco", "--root", "{tmp}", "--out", "{tmp}/o.parquet"),
            "no annotations/",
        ),
        (
            ("sources", "read", "--source", "llvip", "--format", "coco", "--out", "{tmp}/o.parquet"),
            "it comes as llvip",
        ),
        (
            (
                "sources",
                "read",
                "--format",
                "coco",
                "--root",
                "{tmp}",
                "--band",
                "uv",
                "--out",
                "{tmp}/o.parquet",
            ),
            "--band is one of nir, swir, tir",
        ),
        (("release", "read", "{tmp}/absent", "--out", "{tmp}/o.parquet"), "no such folder"),
        (("release", "read", "{tmp}", "--out", "{tmp}/o.parquet"), "no task file in it"),
    ],
)
def test_a_foreseen_error_is_one_message_on_stderr_and_code_2(words, message, tmp_path):
    put(tmp_path / "a-file", "")
    result = call(*(word.replace("{tmp}", str(tmp_path)) for word in words))
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.startswith("irgpt: ")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "o.parquet").exists()


def test_a_folder_of_which_nothing_can_be_used_is_an_error(tmp_path):
    root = coco_folder(tmp_path / "raw", [])
    put(root / "val" / "a.png", gray_png()[:30])
    result = call("sources", "read", "--format", "coco", "--root", root, "--out", tmp_path / "o.parquet")
    assert (result.exit_code, "no record could be used" in result.stderr) == (2, True)


def test_the_command_starts_without_loading_what_takes_seconds():
    slow = ("torch", "transformers", "pandas", "peft", "irgpt_lib.irtd.sources.formats")
    code = f"import sys, irgpt_lib.cli; print([m for m in {slow} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout == "[]\n"


def test_every_command_is_registered():
    words = call("--help").stdout.split()
    for command in ("benchmark", "dataset", "models", "predict", "readme", "release", "score", "sources", "train"):
        assert command in words
        assert call(command, "--help").exit_code == 0
