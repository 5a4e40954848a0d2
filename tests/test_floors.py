"""What needs no image, scored as models are."""

import numpy as np
import pytest
from asked import COUNTING, questions

from irgpt_lib.evaluation.floors import FLOORS, floor_rows, floors, majority
from irgpt_lib.evaluation.statistics import COLUMNS
from irgpt_lib.irtd.questions import as_questions
from irgpt_lib.tasks import TASKS, Question

BENCHMARK, INSTRUCTION = questions(12), questions(30, split="instruction")


def test_every_task_has_a_row_of_each_floor_between_worst_and_best():
    found = floors(BENCHMARK, INSTRUCTION)
    rows = floor_rows(BENCHMARK["task"].tolist(), found)
    assert list(rows.index) == list(FLOORS)
    assert list(rows.columns) == list(COLUMNS)
    assert rows.notna().all(axis=None)
    assert rows["psum"].tolist() == pytest.approx(rows[list(COLUMNS[:6])].sum(axis=1).tolist())
    assert rows.loc["chance", ["scene", "reid", "relationship"]].tolist() == pytest.approx([25, 100 / 7, 50])
    for name in COUNTING:
        own = BENCHMARK[BENCHMARK["task"] == name]["truth"].astype(int)
        assert (rows[name] <= np.maximum(own, own.max() - own).mean()).all()


def test_a_task_that_was_not_asked_is_absent_from_the_sums():
    part = BENCHMARK[BENCHMARK["task"] == "reid"]
    rows = floor_rows(part["task"], floors(part, INSTRUCTION))
    assert rows["scene"].isna().all()
    assert rows["psum"].tolist() == rows["reid"].tolist()
    assert rows["nsum"].isna().all()
    with pytest.raises(ValueError, match="1 tasks but 12 rows"):
        floor_rows(["reid"], floors(part, INSTRUCTION))


def test_a_task_without_instruction_questions_is_named():
    with pytest.raises(ValueError, match="12 benchmark questions of reid, but none in the instruction split"):
        floors(BENCHMARK, INSTRUCTION[INSTRUCTION["task"] != "reid"])


def test_the_majority_is_the_commonest_letter_whatever_is_offered():
    options = ("car", "dog", "bus", "person")
    train = [Question("scene", "", "", [f"({letter}) {name}"], options) for letter, name in
             [("B", "dog"), ("B", "car"), ("A", "car")]]  # fmt: skip
    guess = majority(train)
    assert guess(Question("scene", "", "", [], ("a", "b", "c", "d"))) == ("(B) b",)
    sets = [Question("security", "", "", ["(A) car", "(C) bus"], options)]
    assert majority(sets)(Question("security", "", "", [], ("a", "b", "c", "d"))) == ("(A) a", "(C) c")


def test_the_majority_does_not_look_at_what_the_question_gives_away():
    train = [Question("relationship", "", "", t, key=k) for k, t in [("a", "yes"), ("b", "no"), ("b", "no")]]
    assert majority(train)(Question("relationship", "", "", "yes", key="a")) == "no"
    assert TASKS["relationship"].blind(train)(Question("relationship", "", "", "yes", key="a")) == "yes"
    counts = [Question("aerial_counting", "", "", n) for n in (1, 3, 50)]
    assert majority(counts)(counts[0]) == 3


def test_majority_answers_have_the_form_that_is_scored():
    for name in TASKS:
        train = as_questions(INSTRUCTION[INSTRUCTION["task"] == name])
        TASKS[name].score(majority(train)(train[0]), train[0].truth)
