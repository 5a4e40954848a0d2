"""What the release's scripts compute, oddities included; on its own records the truth is perfect and exchanged answers
are blind."""

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from asked import questions

from irgpt_lib.evaluation import scoring
from irgpt_lib.evaluation.release_scoring import (
    blind_level,
    exchanged,
    greedy_distances,
    release_table,
    released_questions,
)
from irgpt_lib.irtd.record import RecordError
from irgpt_lib.irtd.release import ReleasedRecord, read_release
from irgpt_lib.tasks import TASKS

REAL = Path(__file__).parents[2] / "shared" / "data" / "irtd_json_sft"


@cache
def real() -> pd.DataFrame:
    if not REAL.is_dir():
        pytest.skip("needs the released questions in ../shared/data")
    return released_questions(read_release(REAL)[0])


def one(task: str, answers: list[str], outputs: list[str | None]) -> pd.Series:
    """The row of one task."""
    return release_table(pd.DataFrame({"task": task, "answer": answers}), outputs).set_index("task").loc[task]


def test_a_string_must_be_equal_to_the_last_blank():
    row = one("recognition", ["(A) car"] * 4, ["(A) car", "(A) car ", "A", None])
    assert row["score"] == 25


def test_grounding_is_recall_so_that_extra_boxes_are_free_and_no_box_is_a_crash():
    box = "The target bounding box is <box>[[0, 0, 100, 100]]</box>."
    row = one("grounding", [box] * 4, [box + " [[500, 500, 900, 900]]", "[0, 0, 50, 100]", "[0, 0, 49, 100]", "none"])
    assert (row["score"], row["crashes"], row["unscored"]) == (50, 1, 0)


def test_location_averages_matches_within_five_and_leaves_the_rest_out():
    truth = "<pos>[(100, 100), (200, 200)]</pos>"
    row = one("location", [truth] * 3, ["(103, 104), (900, 900)", "(107, 100)", ""])
    assert (row["score"], row["unscored"]) == (5, 2)
    assert greedy_distances([(2, 0), (4, 0)], [(1, 0), (2, 0)]) == [1, 2]
    assert greedy_distances([(0, 0)], [(0, 0), (1, 0)]) == [0]


def test_counts_that_cannot_be_read_are_dropped_which_rewards_refusing_and_study_does_not():
    table = questions(8)
    table = table[table["task"] == "aerial_counting"].reset_index(drop=True)
    guess = ["<num>20</num>"] * len(table)
    errors = (table["truth"].astype(int) - 20).abs()
    refusing = [g if error < errors.max() else "I cannot count them." for g, error in zip(guess, errors, strict=True)]
    honest, evasive = (one("aerial_counting", table["answer"].tolist(), o) for o in (guess, refusing))
    assert honest["score"] == errors.mean()
    assert honest["rmse"] == pytest.approx((errors**2).mean() ** 0.5)
    assert evasive["score"] < honest["score"]
    assert evasive["unscored"] == (errors == errors.max()).sum()
    study = [scoring.scored(table, outputs)["score"].mean() for outputs in (guess, refusing)]
    assert study[1] >= study[0]


def test_nothing_to_average_is_no_score_and_no_sum():
    table = release_table(pd.DataFrame({"task": ["location"], "answer": ["(1, 1)"]}), ["?"]).set_index("task")
    assert table["score"].isna().all()
    with pytest.raises(ValueError, match="1 questions but 2 outputs"):
        release_table(pd.DataFrame({"task": ["reid"], "answer": ["5"]}), ["5", "5"])


def test_all_nine_tasks_are_perfect_on_their_truth():
    table = release_table(questions(3), questions(3)["answer"].tolist()).set_index("task")
    assert list(table.index) == [*TASKS, "psum", "nsum"]
    assert table["score"].tolist() == [100] * 6 + [0] * 3 + [600, 0]


def test_exchanged_answers_stay_in_their_task():
    asked = questions(6)
    given = exchanged(asked["task"].tolist(), asked["answer"].tolist(), np.random.default_rng(0))
    assert given != asked["answer"].tolist()
    for _, rows in asked.groupby("task").indices.items():
        assert sorted(given[i] for i in rows) == sorted(asked["answer"].iloc[rows])


def test_the_released_truth_as_prediction_is_perfect_in_both_flavours():
    table = release_table(real(), real()["answer"].tolist()).set_index("task")
    study = scoring.study_table(scoring.scored(real(), real()["answer"].tolist()), draws=2).set_index("task")
    assert set(table.index) == {*TASKS, "psum", "nsum"} - {"scene"}
    for name in table.index.drop(["psum", "nsum"]):
        best = 100.0 if TASKS[name].higher_is_better else 0.0
        assert table.loc[name, ["score", "unscored", "crashes"]].tolist() == [best, 0, 0]
        assert study.loc[name, ["score", "score_lenient", "unread"]].tolist() == [best, best, 0]


def test_exchanged_released_answers_score_the_blind_level():
    level = blind_level(real(), np.random.default_rng(0))
    given = exchanged(real()["task"].tolist(), real()["answer"].tolist(), np.random.default_rng(1))
    found = release_table(real(), given).set_index("task")["score"]
    for name, row in level.iterrows():
        assert abs(found[name] - row["level"]) <= 4 * row["spread"], name
    # a string is met by an equal one as often as its share squared has it
    for name in ("recognition", "relationship", "reid", "security"):
        share = real().loc[real()["task"] == name, "answer"].value_counts(normalize=True)
        expected = 100 * (share**2).sum()
        assert abs(level.loc[name, "level"] - expected) <= 4 * level.loc[name, "spread"] / 20**0.5, name


def test_the_released_location_error_does_not_tell_blind_answers_from_good_ones():
    given = exchanged(real()["task"].tolist(), real()["answer"].tolist(), np.random.default_rng(1))
    row = release_table(real(), given).set_index("task").loc["location"]
    assert row["score"] <= 5
    assert row["unscored"] / row["questions"] > 0.9
    study = scoring.scored(real(), given)
    assert study.loc[study["task"] == "location", "score"].mean() > 200


def test_released_questions_have_ids_options_and_frames():
    table = real()
    assert table["question_id"].is_unique
    assert set(table["frame"]) == {"", "pixel_xyxy", "normalised_1000"}
    row = table[table["question_id"] == "Recognition.json#0"].iloc[0]
    assert row["options"].count(",") == 3


def test_a_released_answer_outside_its_grammar_is_named():
    bad = ReleasedRecord("reid", "7", "a.jpg", "Which?", "nine", "ReID.json", 7)
    with pytest.raises(RecordError, match="unreadable truth: ReID.json, record 7: 'nine'"):
        released_questions([bad])
