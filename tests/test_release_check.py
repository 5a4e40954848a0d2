"""The check of the release: what agrees, what differs and why, which answers cannot be read, where the images lie."""

import json

import pytest
from faulty_files import flir_folder, gray_png, put, released
from typer.testing import CliRunner

from irgpt_lib.cli import app
from irgpt_lib.irtd.record import Box, Sample
from irgpt_lib.irtd.release import ReleasedRecord, read_release
from irgpt_lib.irtd.release_check import (
    ImageIndex,
    compare,
    compare_all,
    coverage,
    dataset_folders,
    dataset_of,
    frames_folder,
    frames_of,
    full_report,
    locate_images,
    report_lines,
    unreadable,
    write_manifest,
)

HEAD = "image_name,class_id,xmin,xmax,ymin,ymax\n"
FOLDER = "/mnt/disk/Data4MLLM"
FRAME = f"{FOLDER}/63-FLIR_ADAS/training/PreviewData/FLIR_00101.jpeg"
CARS = "<ref>car</ref> at <pos>[{}]</pos>"
ALL_CARS = " Locate all car from left to right."


def record(task: str, question: str, answer: str, image: str = FRAME, index: int = 0) -> ReleasedRecord:
    return ReleasedRecord(task, "1", image, question, answer, f"{task}.json", index)


def frame(*boxes: tuple) -> Sample:
    made = tuple(Box(name, *map(float, corners)) for name, *corners in boxes)
    return Sample("s", "s", "tir", "scene", 640, 512, b"", boxes=made)


TWO_CARS = frame(("car", 54, 246, 74, 266), ("car", 246, 246, 266, 266))


@pytest.mark.parametrize(
    ("answer", "verdict", "explanation"),
    [
        ("(100, 500), (400, 500)", "agrees", ""),
        ("(101, 499), (400, 500)", "agrees", ""),
        ("(102, 500), (400, 500)", "differs", "other points"),
        ("(400, 500), (100, 500)", "differs", "tie: the same points in another order"),
        ("(100, 500)", "differs", "box dropped by the release"),
        ("(100, 500), (400, 500), (9, 9)", "differs", "box that the frame lacks"),
        ("somewhere", "differs", "the released answer cannot be read"),
    ],
)
def test_location_agrees_within_one_and_a_difference_is_explained(answer, verdict, explanation):
    found = compare(record("location", ALL_CARS, CARS.format(answer)), TWO_CARS)
    assert (found.verdict, found.explanation) == (verdict, explanation)


@pytest.mark.parametrize(
    ("question", "corners", "verdict", "explanation"),
    [
        ("car located to the right of the car", "246, 246, 266, 266", "agrees", ""),
        ("car located to the right of the car", "247, 245, 266, 266", "agrees", ""),
        ("car located to the right of the car", "54, 246, 74, 266", "differs", "another box of the frame"),
        ("car located at the left of the image", "54, 246, 74, 266", "differs", "another box of the frame"),
        ("car located to the right of the car", "1, 2, 3, 4", "differs", "a box that the frame lacks"),
        ("car located to the right of the car", "3, 2, 1, 4", "differs", "the released answer cannot be read"),
    ],
)
def test_grounding_agrees_within_a_pixel(question, corners, verdict, explanation):
    answer = f"The target bounding box is <box>[[{corners}]]</box>."
    found = compare(record("grounding", f"Detect the bounding box of the {question}.", answer), TWO_CARS)
    assert (found.verdict, found.explanation[: len(explanation)]) == (verdict, explanation)


def test_flaws_of_the_release_are_told_though_the_rule_reproduces_them():
    left = record(
        "grounding",
        "Detect the bounding box of the car located to the left of the car.",
        "The target bounding box is <box>[[246, 246, 266, 266]]</box>.",
    )
    dog = record(
        "security",
        "What object does not appear in the picture?\n(A) car (B) dog (C) bus (D) sign",
        "(B) dog (C) bus (D) sign",
    )
    asked = "Is there a car on the left side of the the first person from left to right?"
    between = frame(("car", 0, 0, 9, 9), ("person", 50, 0, 59, 9), ("car", 90, 0, 99, 9))
    found = [
        compare(left, TWO_CARS),
        compare(dog, frame(("car", 0, 0, 9, 9), ("dog", 20, 0, 29, 9))),
        compare(record("relationship", asked, "no"), between),
    ]
    assert [c.verdict for c in found] == ["agrees", "agrees", "open"]
    assert [c.flaw[:20] for c in found] == ["boxes the reference,", "calls absent what is", "the answer depends o"]


def test_a_question_about_what_the_boxes_lack_is_explained():
    found = compare(record("location", " Locate all bike from left to right.", CARS.format("(1, 2)")), TWO_CARS)
    assert (found.admitted, found.explanation) == ((), "the release asks about what the boxes lack")


def test_only_records_about_the_frames_of_flir_are_compared():
    other = record(
        "aerial_counting", "Calculate the number of cars in the picture.", "<num>2</num>", "/4-VEDAI/FLIR_00101.jpg"
    )
    absent = record("location", ALL_CARS, CARS.format("(1, 2)"), FRAME.replace("101", "102"))
    here = record("location", ALL_CARS, CARS.format("(100, 500), (400, 500)"))
    assert [c.verdict for c in compare_all([other, absent, here], {"FLIR_00101": TWO_CARS})] == ["agrees"]


def test_answers_that_no_parser_reads_are_listed():
    good = record("reid", "?", "7")
    bad = [record("reid", "?", "9", index=1), record("aerial_counting", "?", "many"), record("security", "?", "no")]
    assert [(u.task, u.answer) for u in unreadable([good, *bad])] == [(b.task, b.answer) for b in bad]


def test_the_data_set_is_the_numbered_folder_of_the_released_path():
    assert dataset_of(record("reid", "?", "2", f"{FOLDER}/53-LLCM/train/0001.jpg")) == "53-LLCM"
    assert dataset_of(record("reid", "?", "2", "/somewhere/0001.jpg")) == ""


def test_images_are_found_by_data_set_and_the_end_of_their_path(tmp_path):
    for name in ("LLCM/train/0001.jpg", "LLCM/valid/0001.jpg", "6-LSOTB-TIR/a/x_001/7.png", "6-LSOTB-TIR/b/7.png"):
        put(tmp_path / name, gray_png())
    paths = ["53-LLCM/train/0001.jpg", "53-LLCM/valid/0001.jpg", "6-LSOTB-TIR/Data/a/x_001/7.jpg"]
    paths += ["6-LSOTB-TIR/Data/y/7.jpg", "53-LLCM/train/0002.jpg", "4-VEDAI/1.jpg", "54-RegDB/../../1.jpg"]
    records = [record("reid", "?", "2", f"{FOLDER}/{path}", i) for i, path in enumerate(paths)]
    folders = dataset_folders(tmp_path, {dataset_of(r) for r in records})
    located = list(locate_images(records, folders))
    assert [item.file and item.file.relative_to(tmp_path).as_posix() for item in located] == [
        "LLCM/train/0001.jpg",
        "LLCM/valid/0001.jpg",
        "6-LSOTB-TIR/a/x_001/7.png",
        *[None] * 4,
    ]
    assert [item.why[:20] for item in located[3:]] == [
        "2 images end alike, ",
        "no image of that nam",
        *["no folder of that da"] * 2,
    ]
    assert coverage(located)["53-LLCM"] == {"records": 3, "records_found": 2, "images": 3, "images_found": 2}
    assert write_manifest(located, tmp_path / "m.jsonl") == 3
    rows = [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()]
    assert [(row["dataset"], row["index"]) for row in rows] == [("53-LLCM", 0), ("53-LLCM", 1), ("6-LSOTB-TIR", 2)]
    assert rows[0]["image"] == (tmp_path / "LLCM/train/0001.jpg").as_posix()


def test_an_exact_name_wins_over_another_suffix_and_a_missing_root_has_no_folders(tmp_path):
    put(tmp_path / "a" / "1.jpg", gray_png())
    put(tmp_path / "a" / "1.png", gray_png())
    assert ImageIndex(tmp_path).find("/x/a/1.png")[0] == tmp_path / "a" / "1.png"
    assert ImageIndex(tmp_path).find("/x/a/1.bmp")[0] is None
    assert dataset_folders(tmp_path / "absent", ["53-LLCM"]) == {}


def test_frames_come_without_pixels_and_broken_ones_are_told(tmp_path):
    root = flir_folder(
        tmp_path, HEAD + "FLIR_00101.jpeg,3,1,11,2,12\nFLIR_00102.jpeg,3,9,nan,2,12\n", ("FLIR_00101", "FLIR_00102")
    )
    put(root / "crop_infrared" / "FLIR_00101.png", gray_png())
    frames, rejected = frames_of(root)
    assert list(frames) == ["FLIR_00101"]
    assert frames["FLIR_00101"].infrared == b""
    assert [(item.record, item.reason) for item in rejected] == [("FLIR_00102", "degenerate box")]
    assert frames_folder(root) == root / "infrared"
    assert frames_folder(root / "infrared") == root / "infrared"


def test_the_report_counts_and_its_lines_name_what_differs(tmp_path):
    right = record("location", ALL_CARS, CARS.format("(100, 500), (400, 500)"))
    wrong = record("location", ALL_CARS, CARS.format("(100, 500)"), index=1)
    compared = compare_all([right, wrong], {"FLIR_00101": TWO_CARS})
    report = full_report([right, wrong], compared, list(locate_images([right], {})))
    assert report["tasks"] == {"location": {"agrees": 1, "open": 0, "differs": 1}}
    assert report["explanations"] == {"box dropped by the release": 1}
    assert json.loads(json.dumps(report))["differing"][0]["index"] == 1
    lines = "\n".join(report_lines(report))
    assert "50.0 % of 2 settled" in lines
    assert "location.json 1 (FLIR_00101.jpeg)" in lines


def check(*words: object):
    return CliRunner().invoke(app, ["release", "check", *map(str, words)])


def test_the_command_checks_and_writes_the_manifest(tmp_path):
    root = flir_folder(tmp_path / "flir", HEAD + "FLIR_00101.jpeg,3,1,11,2,12\n")
    asked = released(f"<image>\n{ALL_CARS}", CARS.format("(150, 233)"), image=[FRAME])
    put(tmp_path / "release" / "Location.json", json.dumps([asked, "no record"]))
    manifest = tmp_path / "manifest.jsonl"
    result = check(tmp_path / "release", "--flir", root, "--manifest", manifest, "--json")
    report = json.loads(result.stdout)
    assert (result.exit_code, report["tasks"]) == (0, {"location": {"agrees": 1, "open": 0, "differs": 0}})
    assert report["manifest"] == {"file": str(manifest), "records": 1}
    assert json.loads(manifest.read_text())["image"] == (root / "infrared" / "FLIR_00101.png").as_posix()
    assert "100.0 % of 1 settled" in check(tmp_path / "release", "--flir", root).stdout
    assert "0 of them about frames" in check(tmp_path / "release", "--images", tmp_path).stdout


def test_absent_folders_are_one_message(tmp_path):
    put(tmp_path / "Location.json", json.dumps([released()]))
    for words in ((tmp_path / "absent",), (tmp_path, "--flir", tmp_path / "absent")):
        result = check(*words)
        assert result.exit_code == 2
        assert "no such folder" in result.stderr


def test_a_damaged_release_is_still_checked(tmp_path):
    put(tmp_path / "Location.json", json.dumps(released(ALL_CARS, "?", image=["\\u0000/63-FLIR_ADAS/x.jpeg"])) + ",")
    records, *_ = read_release(tmp_path)
    assert len(unreadable(records)) == 1
    assert check(tmp_path).exit_code == 0
