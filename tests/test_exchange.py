"""The released JSON forms: what is written can be read back, and a bad record says why it cannot."""

import json
from pathlib import Path

import pandas as pd
import pytest
from faulty_files import gray_png, put
from test_shards import sample

from irgpt_lib.irtd import exchange
from irgpt_lib.irtd.record import Rejected, Sample
from irgpt_lib.irtd.release import read_release
from irgpt_lib.irtd.sources import MalformedFile, MissingData

LIKE = Sample("", "mine", "tir", "scene", 0, 0, b"")
COLUMNS = ["question_id", "sample_id", "task", "question", "answer"]
ASKED = [
    ("s/0#scene", "s/0", "scene", "What is the scene in the picture?\n(A) sea (B) wood (C) town (D) sky", "(A) sea"),
    ("s/0#location", "s/0", "location", "Locate all car", "<ref>car</ref> at <pos>[(150, 400)]</pos>"),
    ("s/1#reid", "s/1", "reid", "Which person?", "7"),
]  # fmt: skip
QUESTIONS = pd.DataFrame(ASKED, columns=COLUMNS)
SAMPLES = [
    sample(0, scene="sea", caption="A sea scene.", caption_state="final"),
    sample(1, caption="The image contains 1 car."),
]


def test_llava_files_are_read_by_the_reader_of_the_release(tmp_path):
    written = exchange.write_llava(SAMPLES, QUESTIONS, tmp_path)
    assert written == {"Captions": 2, "Location": 1, "ReID": 1, "Scene": 1}
    (tmp_path / "Captions.json").rename(tmp_path.parent / "captions.json")
    records, rejected, repairs = read_release(tmp_path)
    assert (rejected, repairs) == ([], [])
    back = {(r.record_id, r.task, r.question, r.answer) for r in records}
    assert back == {(name, task, question, answer) for name, _, task, question, answer in ASKED}
    for record in records:
        assert (tmp_path / record.image).read_bytes() in {s.infrared for s in SAMPLES}


def test_captions_come_with_the_prompt_of_stage_1(tmp_path):
    exchange.write_llava(SAMPLES, QUESTIONS, tmp_path)
    first = json.loads((tmp_path / "Captions.json").read_text())[0]
    assert first["conversations"][0]["value"] == "<image>\nDescribe this picture in detail."
    assert first["conversations"][1]["value"] == "A sea scene."


def test_a_question_without_its_sample_is_an_error_that_names_it(tmp_path):
    with pytest.raises(ValueError, match="1 samples with questions are not in the dataset, the first 's/1'"):
        exchange.write_llava(SAMPLES[:1], QUESTIONS, tmp_path)


def test_the_readmes_schema_comes_back_with_its_questions(tmp_path):
    assert exchange.write_readme(SAMPLES, QUESTIONS, tmp_path) == 2
    (first, asked), (second, other) = exchange.read_readme(tmp_path, LIKE)
    assert (first.sample_id, first.caption, first.scene) == ("s/0", "A sea scene.", "sea")
    assert first.boxes == SAMPLES[0].boxes and first.infrared == SAMPLES[0].infrared
    assert asked == tuple((q, a) for _, _, _, q, a in ASKED[:2]) and other == (("Which person?", "7"),)
    assert second.band == "tir" and second.source == "mine"


def test_the_frame_of_the_boxes_is_written_in_every_record(tmp_path):
    exchange.write_readme(SAMPLES, QUESTIONS, tmp_path)
    lines = (tmp_path / exchange.README_FILE).read_text().splitlines()
    assert {json.loads(line)["box_frame"] for line in lines} == {"pixel_xyxy"}


GOOD = {"image": "a.png", "description": "A car.", "bounding_boxes": [{"category": "Car", "bbox": [1, 2, 11, 22]}]}
FAULTS = [
    ("{", "not JSON"),
    ([], "malformed record"),
    (GOOD | {"image": "../a.png"}, "unsafe path"),
    (GOOD | {"image": "/etc/a.png"}, "unsafe path"),
    (GOOD | {"image": "b.png"}, "missing file"),
    (GOOD | {"description": 7}, "malformed record"),
    (GOOD | {"box_frame": "normalised"}, "unknown frame"),
    (GOOD | {"bounding_boxes": {}}, "malformed record"),
    (GOOD | {"bounding_boxes": [{"category": "car", "bbox": [1, 2, 3]}]}, "malformed record"),
    (GOOD | {"bounding_boxes": [{"category": "car", "bbox": [11, 2, 1, 22]}]}, "degenerate box"),
    (GOOD | {"bounding_boxes": [{"category": "car", "bbox": [1, 2, 500, 22]}]}, "box outside image"),
    (GOOD | {"qa_pairs": [{"question": "How many?"}]}, "malformed record"),
    (GOOD | {"band": "uv"}, "unknown band"),
]


@pytest.mark.parametrize("fault, reason", FAULTS)
def test_a_bad_record_is_rejected_and_the_next_is_read(tmp_path: Path, fault: object, reason: str):
    put(tmp_path / "a.png", gray_png())
    lines = [fault if isinstance(fault, str) else json.dumps(fault), "", json.dumps(GOOD)]
    put(tmp_path / exchange.README_FILE, "\n".join(lines))
    bad, good = exchange.read_readme(tmp_path, LIKE)
    assert isinstance(bad, Rejected) and (bad.record, bad.reason) == ("line 1", reason) and bad.detail
    assert good[0].boxes[0].category == "car" and good[0].sample_id == "mine/a"


def test_a_file_that_is_absent_or_not_utf8_is_named(tmp_path):
    with pytest.raises(MissingData, match="annotations.jsonl: no such file"):
        list(exchange.read_readme(tmp_path, LIKE))
    put(tmp_path / exchange.README_FILE, b"\xff\xfe")
    with pytest.raises(MalformedFile, match="line 1 is not UTF-8"):
        list(exchange.read_readme(tmp_path, LIKE))
