"""Which answers are shown as failures, whether the model knew, and what is taken for what."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from irgpt_lib.evaluation import failures as way

BOOTSTRAP = {"seed": 0, "draws": 50}


def answered(scores, task="scene", **columns):
    count = len(scores)
    table = {
        "question_id": [f"q{i}" for i in range(count)],
        "sample_id": [f"s{i}" for i in range(count)],
        "group": [f"g{i // 2}" for i in range(count)],
        "task": task,
        "score": [float(score) for score in scores],
        "blind": 50.0,
        "confidence": [-0.1 * i for i in range(count)],
        "truth_confidence": [-5.0 + i for i in range(count)],
    }
    return pd.DataFrame(table | columns)


def asked(task, options, right, output):
    """A row of answers; `right` lists the true options."""
    answer = " ".join(f"({'ABCD'[options.index(one)]}) {one}" for one in sorted(right, key=options.index))
    return {
        "task": task,
        "question": "What?\n" + " ".join(f"({'ABCD'[i]}) {one}" for i, one in enumerate(options)),
        "answer": answer,
        "truth": json.dumps([f"({'ABCD'[options.index(one)]}) {one}" for one in sorted(right, key=options.index)]),
        "options": json.dumps(options),
        "key": "",
        "output": output,
    }


def cell(found, truth, given):
    return found[(found["truth"] == truth) & (found["given"] == given)].iloc[0]


# what is wrong, what is shown


def test_an_error_is_wrong_where_guessing_without_the_image_errs_less():
    errors = answered([0, 40, 50, 51], "location", blind=[0.0, 0.0, 100.0, 100.0])
    assert way.is_wrong(errors).tolist() == [False, False, False, True]
    assert way.is_good(answered([0, 25, 26, 60], "location")).tolist() == [True, True, False, False]
    assert way.is_wrong(answered([100, 0])).tolist() == [False, True]
    assert way.is_good(answered([100, 0])).tolist() == [True, False]


def test_the_worst_have_the_least_likely_truth_and_the_confident_the_likeliest_answer():
    table = answered([0, 0, 100, 0, 0], truth_confidence=[-1.0, -9.0, -99.0, -3.0, -2.0])
    found = way.failures(table, 2)
    assert found["question_id"].tolist() == ["q1", "q3", "q0"]
    assert found["worst"].tolist() == [1, 2, 0]
    assert found["confident"].tolist() == [2, 0, 1]


def test_the_worst_errors_are_the_largest():
    found = way.failures(answered([60, 300, 70, 10], "location"), 2)
    assert found[found["worst"] > 0]["question_id"].tolist() == ["q1", "q2"]
    assert found[found["confident"] > 0].sort_values("confident")["question_id"].tolist() == ["q0", "q1"]


def test_failures_do_not_hang_on_the_order_of_rows():
    table = pd.concat([answered([0] * 6, confidence=-1.0), answered([60] * 6, "location", truth_confidence=-1.0)])
    table = table.assign(question_id=[f"q{i}" for i in range(12)])
    mixed = table.sample(frac=1, random_state=1)
    one, other = (way.failures(rows, 3).sort_values("question_id", ignore_index=True) for rows in (table, mixed))
    pd.testing.assert_frame_equal(one, other)


def test_a_model_without_failures_has_none():
    found = way.failures(answered([100, 100]), 2)
    assert found.empty
    assert {"worst", "confident", "question_id"} <= set(found)


def test_what_was_not_answered_can_be_worst_but_not_confident():
    found = way.failures(answered([0, 0], confidence=[math.nan, -1.0]), 2)
    assert found["worst"].tolist() == [1, 2]
    assert found["confident"].tolist() == [0, 1]


def test_showcase_answers_are_drawn_and_one_task_does_not_move_another():
    scene, reid = answered([100, 0] * 20), answered([100, 0] * 20, "reid")
    both = pd.concat([scene, reid.assign(question_id=[f"r{i}" for i in range(40)])], ignore_index=True)
    found = way.showcase(both, seed=3)
    assert found[["task", "kind"]].to_numpy().tolist() == [
        ["scene", "good"],
        ["scene", "bad"],
        ["reid", "good"],
        ["reid", "bad"],
    ]
    assert found["score"].tolist() == [100, 0, 100, 0]
    assert found["share"].tolist() == [0.5] * 4
    one_kind = way.showcase(both.assign(score=[100.0] * 40 + [100.0, 0.0] * 20), seed=3)
    assert one_kind["question_id"].tolist()[1:] == found["question_id"].tolist()[2:]
    drawn = {way.showcase(both, seed=seed)["question_id"].iloc[0] for seed in range(20)}
    assert len(drawn) > 5


def test_sureness_tells_whether_a_model_knows_when_it_is_wrong():
    knows = answered([100, 100, 100, 0, 0, 0])
    found = way.sureness(knows, **BOOTSTRAP).iloc[0]
    assert (found["auc"], found["wrong"], found["answers"]) == (1.0, 3, 6)
    assert found["when_right"] == pytest.approx(math.exp(-0.1))
    assert found["when_wrong"] == pytest.approx(math.exp(-0.4))
    turned = way.sureness(knows.assign(confidence=-knows["confidence"]), **BOOTSTRAP).iloc[0]
    assert turned["auc"] == 0.0
    flawless = way.sureness(answered([100, 100]), **BOOTSTRAP).iloc[0]
    assert np.isnan(flawless["auc"]) and np.isnan(flawless["when_wrong"])
    assert way.sureness(knows.assign(confidence=np.nan), **BOOTSTRAP).empty


# confusion


def test_a_confusion_is_counted_by_truth_and_by_what_was_offered():
    first, second = ["car", "dog", "boat", "bus"], ["car", "bus", "boat", "fox"]
    rows = [
        asked("recognition", first, ["car"], "(A) car"),
        asked("recognition", first, ["car"], "The answer is (B)."),
        asked("recognition", second, ["car"], "(B) bus"),
        asked("recognition", second, ["car"], "no idea"),
        asked("reid", [], [], "3") | {"truth": '"3"'},
    ]
    found = way.confusion(pd.DataFrame(rows))
    assert set(found["task"]) == {"recognition"}
    assert cell(found, "car", "dog")[["count", "offered", "truths"]].tolist() == [1, 2, 4]
    assert cell(found, "car", "dog")["share_offered"] == 0.5
    assert cell(found, "car", "bus")[["count", "offered", "share"]].tolist() == [1, 4, 0.25]
    assert cell(found, "car", "no answer")[["count", "offered"]].tolist() == [1, 4]
    assert cell(found, "car", "fox")["count"] == 0
    assert found.groupby(["task", "truth"])["share"].sum().tolist() == [1.0]


def test_a_letter_before_another_option_is_no_answer():
    found = way.confusion(pd.DataFrame([asked("scene", ["sea", "city", "road", "park"], ["sea"], "(B) sea")]))
    assert cell(found, "sea", "no answer")["count"] == 1


def test_security_confuses_what_is_shown_with_what_is_absent():
    options = ["car", "dog", "boat", "bus"]
    rows = [asked("security", options, ["dog", "bus"], "(A) car (D) bus"), asked("security", options, ["dog"], None)]
    found = way.confusion(pd.DataFrame(rows))
    assert cell(found, "car shown", "absent")["count"] == 1
    assert cell(found, "car shown", "no answer")["count"] == 1
    assert cell(found, "dog absent", "shown")["count"] == 1
    assert cell(found, "dog absent", "no answer")["count"] == 1
    assert cell(found, "bus absent", "absent")[["count", "truths"]].tolist() == [1, 1]
    assert cell(found, "bus shown", "no answer")["count"] == 1
