"""The released questions: strict where the file is well formed, tolerant and candid where it is not."""

import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from faulty_files import put, released

from irgpt_lib.irtd.release import Repair, decode_loose, read_release, write_parquet
from irgpt_lib.irtd.sources import MissingData

REAL = Path(__file__).parents[2] / "shared" / "data" / "irtd_json_sft"


def test_a_record_is_parsed_and_its_frame_is_that_of_its_task(tmp_path):
    put(tmp_path / "Location.json", json.dumps([released("<image>\n Locate all car from left to right.")]))
    (record,), rejected, repairs = read_release(tmp_path)
    assert (record.task, record.box_frame, record.index) == ("location", "normalised_1000", 0)
    assert record.question == " Locate all car from left to right."
    assert (record.image_name, record.source_index) == ("FLIR_1.jpeg", 63)
    assert (rejected, repairs) == ([], [])


def test_a_list_without_brackets_and_with_a_comma_at_its_end_is_read_and_told(tmp_path):
    put(tmp_path / "Detection.json", f"{json.dumps(released(id='1'))},\n{json.dumps(released(id='2'))},\n")
    records, rejected, repairs = read_release(tmp_path)
    assert [(r.record_id, r.task, r.box_frame) for r in records] == [
        ("1", "grounding", "pixel_xyxy"),
        ("2", "grounding", "pixel_xyxy"),
    ]
    assert rejected == []
    assert repairs == [
        Repair("Detection.json", f"{what}", 1)
        for what in ("missing closing bracket", "missing opening bracket", "trailing comma")
    ]


@pytest.mark.parametrize(
    ("text", "values", "repairs"),
    [
        ('[{"a": 1} {"a": 2}]', [1, 2], {"missing comma": 1}),
        ('[{"a": 1},, {"a": 2}]', [1, 2], {"superfluous comma": 1}),
        ('[{"a": 1},]', [1], {"trailing comma": 1}),
        ('[{"a": 1}', [1], {"missing closing bracket": 1}),
        ("", [], {"missing closing bracket": 1, "missing opening bracket": 1}),
    ],
)
def test_each_repair_is_counted(text, values, repairs):
    pieces, found = decode_loose(text)
    assert ([piece.value["a"] for piece in pieces], found) == (values, repairs)


def test_a_damaged_object_is_rejected_and_its_neighbours_are_read(tmp_path):
    whole = [json.dumps(released(id=str(i)), indent=2) for i in range(3)]
    damaged = whole[1].replace('"image":', '"image"')
    put(tmp_path / "Security.json", f"[\n{whole[0]},\n{damaged},\n{whole[2]}\n]")
    records, rejected, _ = read_release(tmp_path)
    assert [record.record_id for record in records][0] == "0"
    assert [record.record_id for record in records][-1] == "2"
    assert {item.reason for item in rejected} <= {"not JSON", "malformed record"}
    assert rejected[0].reason == "not JSON"


@pytest.mark.parametrize(
    "bad",
    [
        "a text",
        {"id": "1"},
        released(conversations=[]),
        released(conversations=[{"from": "gpt", "value": "x"}, {"from": "human", "value": "y"}]),
        released(conversations=[*released()["conversations"], "more"]),
        released(conversations=None),
        released(image=[]),
        released(image=["a", "b"]),
        released(id=None),
        released(id=True),
        released(answer=" "),
    ],
)
def test_a_record_of_another_shape_is_rejected_by_number(bad, tmp_path):
    put(tmp_path / "ReID.json", json.dumps([released(), bad]))
    records, rejected, _ = read_release(tmp_path)
    assert len(records) == 1
    assert [(item.file, item.record, item.reason) for item in rejected] == [
        ("ReID.json", "record 1", "malformed record")
    ]


def test_files_of_no_task_or_not_utf8_are_rejected_whole(tmp_path):
    put(tmp_path / "Recognition.json", json.dumps([released()]))
    put(tmp_path / "Guess.json", "[]")
    put(tmp_path / "Scene.json", b"[\xff]")
    records, rejected, _ = read_release(tmp_path)
    assert [record.task for record in records] == ["recognition"]
    assert [(item.file, item.reason) for item in rejected] == [
        ("Guess.json", "unknown task file"),
        ("Scene.json", "not UTF-8"),
    ]


def test_deep_nesting_is_rejected_and_not_followed(tmp_path):
    put(tmp_path / "Scene.json", "[" * 200_000)
    records, rejected, _ = read_release(tmp_path)
    assert records == []
    assert rejected


def test_a_folder_without_task_files_says_which_are_expected(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(MissingData, match="Recognition.json, Detection.json"):
            read_release(folder)


def test_the_table_has_a_row_a_record(tmp_path):
    put(tmp_path / "Location.json", json.dumps([released(id=4), released(id="5", image="/no/number.jpg")]))
    records, _, _ = read_release(tmp_path)
    write_parquet(records, tmp_path / "release.parquet")
    rows = pq.read_table(tmp_path / "release.parquet").to_pylist()
    assert [(row["record_id"], row["index"], row["source_index"]) for row in rows] == [
        ("4", 0, 63),
        ("5", 1, None),
    ]
    assert {row["box_frame"] for row in rows} == {"normalised_1000"}


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the released questions in ../shared/data")
def test_every_real_record_is_read_and_only_detection_needs_repair():
    records, rejected, repairs = read_release(REAL)
    assert rejected == []
    assert {repair.file for repair in repairs} == {"Detection.json"}
    assert Counter(record.task for record in records) == {
        "aerial_counting": 120,
        "grounding": 152,
        "location": 307,
        "pedestrian_counting": 120,
        "recognition": 120,
        "reid": 120,
        "relationship": 189,
        "security": 220,
    }
