"""Captions to a reviewer and back: what a spreadsheet or Label Studio does to them, and what is never applied."""

import csv
import io
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import defusedxml.ElementTree
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from irgpt_lib.irtd.record import Rejected, Sample, png_bytes
from irgpt_lib.irtd.review import (
    COLUMNS,
    KEPT,
    LABELING_CONFIG,
    REVIEWS,
    Decision,
    add_decisions,
    apply_review,
    caption_hash,
    guarded,
    image_name,
    read_csv,
    read_decisions,
    read_label_studio,
    unguarded,
    write_csv,
    write_label_studio,
)
from irgpt_lib.irtd.sources.source import MalformedFile, MissingData

PNG = png_bytes(np.zeros((2, 3), np.uint8))


def sample(name: str = "s/1", caption: str = "A car.") -> Sample:
    return Sample(
        name, "s", "tir", "scene", 3, 2, PNG, caption=caption, caption_path="IV", caption_state="final",
        caption_draft="A red car.", caption_by="model@k + rules", origin="1.png",
    )  # fmt: skip


SAMPLES = [
    sample("s/1"),
    sample("s/2", "=HYPERLINK(1)"),
    sample("../s/3", 'Two "cars",\na bus; naïve ☃.'),
    sample("s/4", ""),
]


def jpeg_bytes() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (3, 2)).save(buffer, format="JPEG")
    return buffer.getvalue()


def exported(folder: Path) -> list[dict[str, str]]:
    write_csv(SAMPLES, folder / "review.csv")
    with (folder / "review.csv").open(encoding="utf-8-sig", newline="") as stream:
        return list(csv.DictReader(stream))


def saved(folder: Path, rows: list[dict[str, str]], delimiter: str = ",", columns: tuple[str, ...] = COLUMNS) -> Path:
    file = folder / "back.csv"
    with file.open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.DictWriter(stream, columns, delimiter=delimiter, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return file


def filled(
    row: dict[str, str], verdict: str, new: str = "", reviewer: str = "ann", comment: str = ""
) -> dict[str, str]:
    return row | {"verdict": verdict, "new_caption": new, "reviewer": reviewer, "comment": comment}


def decision(verdict: str, caption: str = "", reviewer: str = "ann", **change: str) -> Decision:
    about = {
        "sample_id": "s/1",
        "comment": "",
        "caption_hash": caption_hash("A car."),
        "file": "f.csv",
        "record": "line 2",
    }
    return Decision(verdict=verdict, caption=caption, reviewer=reviewer, **(about | change))


def reasons(items: list[Sample | Rejected]) -> list[str]:
    return [item.reason for item in items if isinstance(item, Rejected)]


# Spreadsheet


def test_the_sheet_is_what_a_spreadsheet_opens_without_harm(tmp_path):
    rows = exported(tmp_path)
    assert (tmp_path / "review.csv").read_bytes().startswith(b"\xef\xbb\xbfsample_id,image,")
    assert [row["sample_id"] for row in rows] == ["s/1", "s/2", "../s/3"]
    assert [row["caption"] for row in rows] == ["A car.", "'=HYPERLINK(1)", SAMPLES[2].caption]
    assert tuple(rows[0]) == COLUMNS
    assert rows[0]["draft"] == "A red car."


def test_images_lie_beside_the_sheet_as_they_are_and_inside_the_folder(tmp_path):
    rows = exported(tmp_path)
    for row in rows:
        assert (tmp_path / row["image"]).read_bytes() == PNG
        assert (tmp_path / row["image"]).resolve().parent == (tmp_path / "images").resolve()
    assert image_name(replace(SAMPLES[0], infrared=jpeg_bytes())).endswith(".jpg")
    assert image_name(sample("a/b")) != image_name(sample("a_b"))


@given(st.text(max_size=8) | st.text("'=+-@\t\ra", max_size=5))
def test_guarding_a_cell_is_undone_and_leaves_no_formula(cell):
    assert unguarded(guarded(cell)) == cell
    assert not guarded(cell).startswith(("=", "+", "-", "@", "\t", "\r"))


@pytest.mark.parametrize("cell", ["1234567890123456", "12e4567890123456", "1.5", "12e"])
def test_a_hash_of_digits_alone_is_no_number_to_a_spreadsheet(cell):
    assert guarded(cell) == f"'{cell}" and unguarded(f"'{cell}") == cell
    assert guarded("12f4567890123456") == "12f4567890123456"


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_filled_sheet_comes_back_in_any_column_order_and_with_any_separator(delimiter, tmp_path):
    one, two, three = exported(tmp_path)
    rows = [
        filled(one, "Accept "),
        filled(two, "edit", "'=A bus.  Parked."),
        filled(three, "reject", comment="blurred"),
    ]
    decisions, problems = read_csv(saved(tmp_path, rows, delimiter, tuple(reversed(COLUMNS))))
    assert problems == []
    assert [(d.sample_id, d.verdict, d.caption, d.comment) for d in decisions] == [
        ("s/1", "accept", "", ""),
        ("s/2", "edit", "=A bus. Parked.", ""),
        ("../s/3", "reject", "", "blurred"),
    ]
    done = list(apply_review(SAMPLES, decisions))
    assert [(s.caption, s.caption_state, s.caption_path) for s in done] == [
        ("A car.", "reviewed", "IV"),
        ("=A bus. Parked.", "reviewed", "IV"),
        ("", "", "none"),
        ("", "final", "IV"),
    ]
    assert [s.caption_by for s in done] == ["model@k + rules", "model@k + rules + ann", "", "model@k + rules"]
    assert done[2].facts == {"review": "rejected", "reviewed_by": "ann", "review_comment": "blurred"}
    assert done[2].caption_draft == "A red car."


def test_rows_that_nobody_filled_in_are_still_open(tmp_path):
    assert read_csv(saved(tmp_path, exported(tmp_path))) == ([], [])


def test_a_reviewer_of_the_whole_sheet_stands_where_a_row_names_none(tmp_path):
    rows = [filled(row, "accept", reviewer=name) for row, name in zip(exported(tmp_path), ("", "bob", ""), strict=True)]
    assert [d.reviewer for d in read_csv(saved(tmp_path, rows), reviewer="ann")[0]] == ["ann", "bob", "ann"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"verdict": "maybe"}, "unknown verdict"),
        ({"verdict": "", "new_caption": "A bus."}, "unknown verdict"),
        ({"verdict": "edit"}, "edit without a new caption"),
        ({"verdict": "edit", "new_caption": " A  car. "}, "edit without a new caption"),
        ({"verdict": "accept", "new_caption": "A bus."}, "new caption without an edit"),
        ({"reviewer": " "}, "no reviewer"),
        ({"caption_hash": ""}, "no caption hash"),
        ({"verdict": "edit", "new_caption": "A b\x07us."}, "unusable caption"),
        ({"verdict": "edit", "new_caption": "A" * 9000}, "unusable caption"),
    ],
)
def test_a_row_that_decides_nothing_is_reported_with_its_line_and_its_neighbour_is_read(change, reason, tmp_path):
    one, two, _ = exported(tmp_path)
    decisions, problems = read_csv(saved(tmp_path, [filled(one, "accept") | change, filled(two, "accept")]))
    assert [d.sample_id for d in decisions] == ["s/2"]
    assert [(p.file, p.record, p.reason) for p in problems] == [("back.csv", "line 2", reason)]


def test_a_row_with_a_cell_too_many_is_reported_and_one_too_short_is_open(tmp_path):
    exported(tmp_path)
    file = tmp_path / "review.csv"
    lines = file.read_text(encoding="utf-8-sig").splitlines()
    file.write_text("\n".join([lines[0], lines[1] + ",accept,too,many", "s/2,images/x.png"]), encoding="utf-8")
    assert [p.reason for p in read_csv(file)[1]] == ["malformed line"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "lacks the columns sample_id, .*; it has none"),
        (
            b"sample_id,verdict\n",
            "lacks the columns new_caption, reviewer, comment, caption_hash; it has sample_id, verdict",
        ),
        ("sample_id,verdict,näme\n".encode("latin-1"), "not UTF-8 at byte"),
        (("sample_id,verdict," + ",".join(COLUMNS)).encode(), "has the columns sample_id, verdict twice"),
        (",".join(COLUMNS).encode() + b'\n"' + b"x" * 200_000, "field larger than field limit"),
    ],
)
def test_a_sheet_that_is_none_is_refused_whole(content, message, tmp_path):
    file = tmp_path / "bad.csv"
    file.write_bytes(content)
    with pytest.raises(MalformedFile, match=message):
        read_csv(file)


# Label Studio


def answered(task: dict, verdict: str, new: str | None = None, by: object = 3, **more: object) -> dict:
    result = [{"from_name": "verdict", "to_name": "image", "type": "choices", "value": {"choices": [verdict]}}]
    if new is not None:
        result.append({"from_name": "new_caption", "to_name": "image", "type": "textarea", "value": {"text": [new]}})
    return task | {"annotations": [{"id": 7, "completed_by": by, "was_cancelled": False, "result": result} | more]}


def tasks(folder: Path) -> list[dict]:
    write_label_studio(SAMPLES, folder / "review", folder)
    return json.loads((folder / "review" / "tasks.json").read_text(encoding="utf-8"))


def returned(folder: Path, content: object) -> Path:
    file = folder / "export.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return file


def test_tasks_name_images_that_label_studio_can_serve(tmp_path):
    made = tasks(tmp_path)
    assert [task["data"]["sample_id"] for task in made] == ["s/1", "s/2", "../s/3"]
    address = made[0]["data"]["image"]
    assert address.startswith("/data/local-files/?d=review/images/s_1-")
    assert (tmp_path / address.partition("?d=")[2]).read_bytes() == PNG
    assert made[1]["data"]["caption"] == "=HYPERLINK(1)"
    with pytest.raises(ValueError, match="must lie under the document root"):
        write_label_studio(SAMPLES, tmp_path, tmp_path / "review")


def test_the_labeling_config_shows_what_the_tasks_hold_and_asks_what_the_import_reads(tmp_path):
    root = defusedxml.ElementTree.fromstring(LABELING_CONFIG)
    shown = {element.get("value")[1:] for element in root.iter() if (element.get("value") or "").startswith("$")}
    assert shown <= set(tasks(tmp_path)[0]["data"])
    names = {element.get("name") for element in root.iter() if element.get("toName") == "image"}
    assert names == {"new_caption", "verdict", "comment"}
    assert [c.get("value") for c in root.iter("Choice")] == ["accept", "edit", "reject"]


def test_an_export_comes_back(tmp_path):
    one, two, three = tasks(tmp_path)
    skipped = answered(two, "reject", was_cancelled=True)
    done = [answered(one, "edit", "A bus.", by={"id": 4, "email": "ann@x"}), skipped, answered(three, "accept", "")]
    decisions, problems = read_label_studio(returned(tmp_path, done))
    assert problems == []
    assert [(d.sample_id, d.verdict, d.caption, d.reviewer) for d in decisions] == [
        ("s/1", "edit", "A bus.", "ann@x"),
        ("../s/3", "accept", "", "annotator 3"),
    ]
    unnamed = returned(tmp_path, [answered(one, "accept", by=None)])
    assert [d.reviewer for d in read_label_studio(unnamed, reviewer="cleo")[0]] == ["cleo"]
    prefilled = answered(one, "accept", "A car.")
    assert read_label_studio(returned(tmp_path, [prefilled]))[0][0].verdict == "accept"
    assert read_label_studio(returned(tmp_path, [one | {"annotations": []}])) == ([], [])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda task: 3, "malformed record"),
        (lambda task: {"image": "x", "verdict": "accept"}, "malformed record"),
        (lambda task: task | {"annotations": [5]}, "malformed record"),
        (lambda task: answered(task | {"data": {}}, "accept"), "malformed record"),
        (lambda task: answered(task, "accept", result=None), "malformed record"),
        (lambda task: answered(task, "accept", result=[4]), "malformed record"),
        (
            lambda task: answered(task, "accept", result=[{"from_name": "verdict", "value": {"choices": [1]}}]),
            "malformed record",
        ),
        (lambda task: answered(task, "accept", result=[]), "unknown verdict"),
        (lambda task: answered(task, "accept", by=None), "no reviewer"),
        (
            lambda task: answered(
                task, "edit", result=[{"from_name": "new_caption", "value": {"text": ["A bus.", "A van."]}}]
            ),
            "several captions",
        ),
    ],
)
def test_an_annotation_that_decides_nothing_is_reported_and_its_neighbour_is_read(spoil, reason, tmp_path):
    one, two, _ = tasks(tmp_path)
    decisions, problems = read_label_studio(returned(tmp_path, [spoil(one), answered(two, "accept")]))
    assert [d.sample_id for d in decisions] == ["s/2"]
    assert [(p.record.split(" annotation")[0], p.reason) for p in problems] == [("task 0", reason)]


@pytest.mark.parametrize("content", ["", "[1", "{}", "[" * 100_000, "\ufeff3"])
def test_an_export_that_is_none_is_refused_whole(content, tmp_path):
    with pytest.raises(MalformedFile, match="export the project as JSON"):
        read_label_studio(returned(tmp_path, content))


# The study's own table


def contents(decisions: list[Decision]) -> list[tuple[str, str, str, str]]:
    return [(d.sample_id, d.reviewer, d.verdict, d.caption) for d in decisions]


def test_decisions_are_kept_sorted_and_come_back_whatever_they_hold(tmp_path):
    file = tmp_path / "data" / "reviews.csv"
    odd = decision("edit", '=SUM(1), "naïve" ☃; 3', comment="-1")
    given = [decision("reject", sample_id="s/2"), odd, decision("edit", odd.caption, reviewer="abe")]
    assert add_decisions(file, given) == (given, [])
    back = read_decisions(file)
    assert contents(back) == contents([given[2], given[1], given[0]])
    assert [(d.file, d.record) for d in back] == [("reviews.csv", f"line {n}") for n in (2, 3, 4)]
    assert replace(back[1], file="f.csv", record="line 2") == odd
    assert file.read_bytes().startswith(",".join(KEPT).encode() + b"\ns/1,edit,\"'=SUM(1)")
    assert list(file.parent.iterdir()) == [file]


def test_the_same_decisions_add_nothing_a_second_time(tmp_path):
    file = tmp_path / "reviews.csv"
    given = [decision("accept"), decision("accept"), decision("accept", reviewer="bob")]
    assert len(add_decisions(file, given)[0]) == 2
    before = file.read_bytes()
    assert add_decisions(file, [replace(one, file="g.csv", record="line 9") for one in given]) == ([], [])
    assert file.read_bytes() == before


def test_another_reviewer_who_decides_otherwise_is_told_and_not_added_and_the_rest_is(tmp_path):
    file = tmp_path / "reviews.csv"
    add_decisions(file, [decision("edit", "A bus.")])
    later = decision("accept", reviewer="bob", file="bob.csv", record="line 7")
    added, problems = add_decisions(file, [later, decision("accept", sample_id="s/2", reviewer="bob")])
    assert contents(added) == [("s/2", "bob", "accept", "")]
    (bad,) = problems
    assert (bad.file, bad.record, bad.reason) == ("bob.csv", "line 7: s/1", "conflicting decisions")
    assert bad.detail == "bob: accept; decided before: ann: edit A bus."
    assert contents(read_decisions(file)) == [("s/1", "ann", "edit", "A bus."), ("s/2", "bob", "accept", "")]
    other_caption = decision("reject", reviewer="bob", caption_hash="0" * 16)
    assert add_decisions(file, [other_caption]) == ([other_caption], [])


def test_two_reviewers_of_one_import_who_disagree_leave_the_first_and_one_who_disagrees_with_himself_none(tmp_path):
    file = tmp_path / "reviews.csv"
    twice = [decision("accept", sample_id="s/2"), decision("reject", sample_id="s/2")]
    added, problems = add_decisions(file, [decision("accept"), decision("reject", reviewer="bob"), *twice])
    assert contents(added) == contents(read_decisions(file)) == [("s/1", "ann", "accept", "")]
    assert [p.record for p in problems] == ["line 2: s/1", "line 2: s/2", "line 2: s/2"]
    assert problems[-1].detail == "ann decided it in 2 ways at once; leave one"


def test_a_reviewer_may_think_again_unless_another_has_decided_too(tmp_path):
    file = tmp_path / "reviews.csv"
    add_decisions(file, [decision("accept")])
    again = decision("reject", comment="no car")
    assert add_decisions(file, [again]) == ([again], [])
    assert contents(read_decisions(file)) == [("s/1", "ann", "reject", "")]
    add_decisions(file, [decision("reject", reviewer="bob")])
    assert [p.reason for p in add_decisions(file, [decision("accept")])[1]] == ["conflicting decisions"]
    assert len(read_decisions(file)) == 2


@pytest.mark.parametrize(
    ("second", "kept"),
    [
        (("accept", ""), ("edit", "A bus.")),
        (("edit", "A car."), ("accept", "")),
        (("edit", "A van."), ("edit", "A van.")),
        (("reject", ""), ("reject", "")),
    ],
)
def test_a_decision_about_an_edited_caption_still_fits_when_the_dataset_is_built_again(second, kept, tmp_path):
    file = tmp_path / "reviews.csv"
    add_decisions(file, [decision("edit", "A bus.")])
    verdict, caption = second
    about_the_edit = decision(verdict, caption, caption_hash=caption_hash("A bus."))
    assert add_decisions(file, [about_the_edit])[1] == []
    (back,) = read_decisions(file)
    assert (back.verdict, back.caption, back.caption_hash) == (*kept, caption_hash("A car."))
    assert reasons(list(apply_review([sample()], [back]))) == []


def test_a_table_that_is_absent_is_told_and_not_taken_for_an_empty_one(tmp_path):
    with pytest.raises(MissingData, match="no such file; restore it"):
        read_decisions(tmp_path / "reviews.csv")
    assert add_decisions(tmp_path / "reviews.csv", []) == ([], [])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("s/1,accept,,ann,,\n", "line 2: no caption hash"),
        ("s/1,,,ann,,0123456789abcdef\n", "line 2: unknown verdict"),
        ("s/1,accept,A bus.,ann,,0123456789abcdef\n", "line 2: new caption without an edit"),
        ("s/1,accept,,ann,,0123456789abcdef,more\n", "line 2: malformed line: 1 cells more"),
        ("<<<<<<< ours\ns/1,accept,,ann,,0123456789abcdef\n", "lines that hold no decision: 1: line 2"),
    ],
)
def test_a_line_that_holds_no_decision_stops_the_reading_and_nothing_is_overwritten(lines, message, tmp_path):
    file = tmp_path / "reviews.csv"
    file.write_text(",".join(KEPT) + "\n" + lines, encoding="utf-8")
    before = file.read_bytes()
    for attempt in (lambda: read_decisions(file), lambda: add_decisions(file, [decision("accept")])):
        with pytest.raises(MalformedFile, match=message):
            attempt()
    assert file.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"sample_id,verdict\n", "näme\n".encode("latin-1")])
def test_a_table_without_its_columns_is_refused(content, tmp_path):
    (tmp_path / "reviews.csv").write_bytes(content)
    with pytest.raises(MalformedFile, match=r"reviews\.csv: (lacks the columns|not UTF-8)"):
        read_decisions(tmp_path / "reviews.csv")


def test_the_committed_table_can_be_read():
    read_decisions(Path(__file__).parents[1] / REVIEWS)


# Decisions to samples


def test_reviewers_who_agree_are_named_together():
    (done,) = apply_review([sample()], [decision("accept"), decision("accept", reviewer="bob", comment="sharp")])
    assert done.facts == {"review": "accepted", "reviewed_by": "ann, bob", "review_comment": "sharp"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([decision("accept"), decision("reject", reviewer="bob")], {"conflicting decisions": 2}),
        ([decision("edit", "A bus."), decision("edit", "A van.", reviewer="bob")], {"conflicting decisions": 2}),
        ([decision("edit", "A bus."), decision("edit", "A van.")], {"conflicting decisions": 2}),
        ([decision("accept", caption_hash="0" * 16)], {"stale decision": 1}),
        ([decision("accept", sample_id="s/9")], {"unknown sample": 1}),
    ],
)
def test_what_does_not_fit_is_reported_and_the_sample_stays_as_it_was(given, expected):
    items = list(apply_review([sample()], given))
    assert Counter(reasons(items)) == expected
    assert [item for item in items if isinstance(item, Sample)] == [sample()]
    assert all(item.file == "f.csv" for item in items if isinstance(item, Rejected))


def test_a_decision_given_twice_is_applied_once_and_said():
    items = list(apply_review([sample()], [decision("accept"), decision("accept")]))
    assert reasons(items) == ["duplicate decision"]
    assert items[-1].caption_state == "reviewed"


def test_a_stale_decision_does_not_hinder_a_current_one():
    items = list(
        apply_review([sample()], [decision("reject", caption_hash="0" * 16), decision("accept", reviewer="bob")])
    )
    assert reasons(items) == ["stale decision"]
    assert items[-1].facts["reviewed_by"] == "bob"


def test_a_rejected_caption_can_send_its_sample_to_quarantine():
    (gone,) = apply_review([sample()], [decision("reject", comment="no car")], rejected="quarantine")
    assert gone == Rejected("s", "1.png", "s/1", "caption rejected in review", "ann: no car")


@pytest.mark.parametrize("given", [decision("accept"), decision("edit", "A bus."), decision("reject")])
def test_applying_decisions_again_changes_nothing(given):
    once = list(apply_review([sample()], [given]))
    assert list(apply_review(once, [given])) == once
