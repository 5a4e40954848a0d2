"""Options moved on: the questions stay true, one letter for everything is found out, and silence gains nothing."""

import json

import numpy as np
import pytest
from asked import CHOICE, questions
from hypothesis import given, settings
from hypothesis import strategies as st

from irgpt_lib.evaluation.rotation import ROTATED_TASKS, consistency, rotated, rotation_answers
from irgpt_lib.irtd.questions import as_questions
from irgpt_lib.tasks import TASKS

ASKED = questions(5)
TURNED = rotated(ASKED)


def shares(outputs) -> dict[str, dict[str, float]]:
    return consistency(rotation_answers(TURNED, outputs)).set_index("task").to_dict("index")


def test_each_question_with_options_comes_in_four_orders_and_stays_true():
    assert set(TURNED["task"]) == set(ROTATED_TASKS) == set(CHOICE)
    assert len(TURNED) == 4 * 5 * 3
    assert TURNED["question_id"].is_unique
    for question, row in zip(as_questions(TURNED), TURNED.to_dict("records"), strict=True):
        assert TASKS[question.task].score(TASKS[question.task].read(question.answer), question.truth) == 100
        assert question.text.endswith(" ".join(f"({c}) {o}" for c, o in zip("ABCD", question.options, strict=True)))
        first = ASKED[ASKED["question_id"] == row["rotation_of"]].iloc[0]
        before = json.loads(first["options"])
        assert list(question.options) == before[row["rotation"] :] + before[: row["rotation"]]
        named = {o.partition(") ")[2] for o in question.truth}
        assert named == {o.partition(") ")[2] for o in json.loads(first["truth"])}


def test_rotation_0_is_the_question_itself():
    same = TURNED[TURNED["rotation"] == 0].reset_index(drop=True)
    first = ASKED[ASKED["task"].isin(CHOICE)].reset_index(drop=True)
    kept = [c for c in ASKED.columns if c != "question_id"]
    assert same[kept].equals(first[kept])
    assert same["rotation_of"].equals(first["question_id"])


def test_the_truth_is_right_in_every_order():
    for row in shares(TURNED["answer"].tolist()).values():
        assert [row[k] for k in ("plain", "rotated", "circular", "consistent", "one_letter", "unread")] == [
            *(100, 100, 100, 100, 0, 0)
        ]


def test_one_letter_for_everything_is_right_in_a_quarter_and_in_no_question():
    row = shares(["(B)"] * len(TURNED))["recognition"]
    assert (row["rotated"], row["circular"], row["consistent"], row["one_letter"]) == (25, 0, 0, 100)


def test_a_firm_wrong_answer_is_consistent():
    outputs = []
    for question in as_questions(TURNED):
        wrong = sorted(o for o in question.options if not any(t.endswith(f") {o}") for t in question.truth))
        outputs.append(wrong[0])
    row = shares(outputs)["scene"]
    assert (row["rotated"], row["consistent"], row["one_letter"]) == (0, 100, 0)


def test_a_letter_before_another_options_word_is_no_choice():
    outputs = []
    for question in as_questions(TURNED):
        place = next(
            i for i, option in enumerate(question.options) if any(t.endswith(f") {option}") for t in question.truth)
        )
        outputs.append(f"({'BCDA'[place]}) {question.options[place]}")
    row = shares(outputs)["scene"]
    assert (row["rotated"], row["consistent"], row["unread"]) == (0, 0, 100)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.booleans(), min_size=60, max_size=60))
def test_refusing_improves_no_share(seed, silent):
    rng = np.random.default_rng(seed)
    letters = [f"({c})" for c in rng.choice(list("ABCD"), len(TURNED))]
    outputs = [a if rng.random() < 0.7 else b for a, b in zip(TURNED["answer"], letters, strict=True)]
    before = shares(outputs)
    after = shares([None if no else output for no, output in zip(silent, outputs, strict=True)])
    for task, row in before.items():
        for name in ("plain", "rotated", "circular", "consistent"):
            assert after[task][name] <= row[name] + 1e-9
        for name in ("one_letter", "unread"):
            assert after[task][name] >= row[name] - 1e-9


def test_a_question_that_does_not_end_with_its_options_is_named():
    odd = ASKED[ASKED["task"] == "scene"].head(1).assign(question="What is it?")
    with pytest.raises(ValueError, match="question benchmark/0#scene does not end with its options"):
        rotated(odd)
    with pytest.raises(ValueError, match="60 rotated questions but 1 outputs"):
        rotation_answers(TURNED, ["(A)"])
    assert rotated(ASKED[ASKED["task"] == "reid"]).empty
