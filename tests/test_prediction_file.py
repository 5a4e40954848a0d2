"""Answers from a file: every form gives the same ones, and whatever is wrong is counted and named."""

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from irgpt_lib.evaluation.prediction_file import read_answers, within
from irgpt_lib.irtd.sources import MalformedFile, MissingData

IDS = ["a", "b", "c"]
ROWS = [{"question_id": "a", "output": "(A) car, so\n"}, {"question_id": "b", "output": "5"}]
ROWS += [{"question_id": "c", "output": "日本"}]


def lines(folder: Path, *rows: object) -> Path:
    file = folder / "p.jsonl"
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return file


def written(folder: Path, suffix: str) -> Path:
    file = folder / f"p{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), file)
    elif suffix in (".csv", ".tsv"):
        with file.open("w", encoding="utf-8", newline="") as text:
            writer = csv.DictWriter(text, ["question_id", "output"], delimiter="\t" if suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(ROWS)
    else:
        return lines(folder, *ROWS)
    return file


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_every_form_gives_the_same_answers(tmp_path, suffix):
    answers = read_answers(written(tmp_path, suffix), IDS)
    assert answers.outputs == {row["question_id"]: row["output"] for row in ROWS}
    assert answers.faults == ()
    within(answers, 3, 0.0)


def test_every_fault_is_counted_and_named(tmp_path):
    file = lines(
        tmp_path, ROWS[0], ROWS[0], "{broken", "", "[1]", {"output": "x"}, {"question_id": "b", "output": ["5"]},
        {"question_id": "zebra", "output": "5"}, {"question_id": "b", "output": 5}, {"question_id": "b", "output": "6"},
        {"question_id": "b", "output": "5"},
    )  # fmt: skip
    answers = read_answers(file, IDS)
    assert answers.outputs == {"a": "(A) car, so\n"}
    assert answers.counts() == {
        "malformed row": 4,
        "unknown question": 1,
        "repeated answer": 1,
        "contradicting answers": 2,
        "missing answer": 1,
    }
    assert [f.record for f in answers.faults if f.reason == "malformed row"] == ["line 3", "line 5", "line 6", "line 7"]
    assert [f.detail for f in answers.faults if f.reason == "missing answer"] == ["c"]
    with pytest.raises(MalformedFile, match=r"9 faults in 3 questions, more than a share of 0.5: 4 x malformed row"):
        within(answers, 3, 0.5)
    within(answers, 3, 3.0)


def test_a_null_output_is_a_missing_answer_and_an_empty_one_is_an_answer(tmp_path):
    rows = [{"question_id": "a", "output": None}, {"question_id": "b", "output": ""}, {"question_id": "c", "output": 7}]
    answers = read_answers(lines(tmp_path, *rows), IDS)
    assert answers.outputs == {"b": "", "c": "7"}
    assert [(f.reason, f.detail) for f in answers.faults] == [("missing answer", "a")]


def test_rows_of_another_setting_are_passed_over(tmp_path):
    rows = [row | {"setting": setting, "output": setting} for row in ROWS for setting in ("zero_shot", "fine_tuned")]
    answers = read_answers(lines(tmp_path, *rows), IDS, where={"setting": "fine_tuned"})
    assert set(answers.outputs.values()) == {"fine_tuned"}
    assert answers.faults == ()


def test_other_field_names_can_be_given_and_wrong_ones_are_told(tmp_path):
    file = lines(tmp_path, {"id": 1, "text": "yes"})
    assert read_answers(file, ["1"], id_field="id", output_field="text").outputs == {"1": "yes"}
    with pytest.raises(MalformedFile, match="no row has both question_id and output; the fields are id, text"):
        read_answers(file, ["1"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.jsonl", b'{"question_id": "\xff"}', "not UTF-8 at byte 17"),
        ("p.parquet", b"PAR1 and no more", "write it again"),
        ("p.csv", b"question_id,output\na," + b"x" * 200_000, "field larger than field limit"),
        ("p.xlsx", b"", "must end with one of .jsonl, .ndjson, .csv, .tsv, .parquet"),
        ("p.jsonl", b"", "the fields are none"),
    ],
)
def test_a_file_that_cannot_be_read_says_so(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MalformedFile, match=message):
        read_answers(tmp_path / name, IDS)


def test_an_absent_file_says_so(tmp_path):
    with pytest.raises(MissingData, match="no such file"):
        read_answers(tmp_path / "p.jsonl", IDS)


def test_half_a_character_in_a_name_can_be_told(tmp_path):
    answers = read_answers(lines(tmp_path, '{"question_id": "\\ud800", "output": "\\ud800"}'), [])
    assert answers.faults[0].detail == "\\ud800"
