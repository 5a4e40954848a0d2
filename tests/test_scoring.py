"""The study's scoring: the truth is perfect, and no refusal or unreadable text ever improves a number."""

import math
from functools import cache

import numpy as np
import pytest
from asked import COUNTING, answer_of, questions
from hypothesis import given, settings
from hypothesis import strategies as st

from irgpt_lib.evaluation import scoring
from irgpt_lib.evaluation.parsing import read_answer
from irgpt_lib.evaluation.scoring import answer_class, details, largest_counts, score_parsed, top_share, variety
from irgpt_lib.evaluation.statistics import LOWER_IS_BETTER
from irgpt_lib.irtd.questions import as_questions
from irgpt_lib.tasks import TASKS, Question

EACH = 6
UNREADABLE = st.one_of(
    st.sampled_from([None, "", "?", "I'm sorry, I cannot tell. No. (A) 5", "<num>", "((((", "\ud800", "x" * 5000]),
    st.text(st.characters(exclude_categories=["L", "N"]), max_size=20),
)
# Of these a smaller number is better; of every other measure a larger one is.
LOWER = {"rmse", "unread", "unread_lenient", "top_share"}


@cache
def asked():
    return questions(EACH)


def wrong_answers(seed: int, garbled: float) -> list[str]:
    """An answer of the task for every question, mostly that of no question, some in a loose form."""
    rng = np.random.default_rng(seed)
    answers = [answer_of(task, rng)[0] for task in asked()["task"]]
    mixed = [true if rng.random() < 0.4 else other for true, other in zip(asked()["answer"], answers, strict=True)]
    over = [f"<num>{int(rng.integers(0, 5000))}</num>" if t in COUNTING and rng.random() < 0.3 else a
            for t, a in zip(asked()["task"], mixed, strict=True)]  # fmt: skip
    return [f"The answer is {a}" if rng.random() < garbled else a for a in over]


def measures(outputs) -> dict[tuple[str, str], float]:
    """Every number that the study reports, by task and name, so signed that more is better."""
    scored = scoring.scored(asked(), outputs)
    found = {}
    for row in scoring.study_table(scored, draws=2).to_dict("records"):
        better = -1.0 if row["task"] in LOWER_IS_BETTER else 1.0
        for name in ("score", "score_lenient", "unread", "unread_lenient", "variety", "top_share"):
            sign = better if name.startswith("score") else -1.0 if name in LOWER else 1.0
            found[row["task"], name] = sign * row[name]
    for row in scoring.detail_table(scored).itertuples():
        found[row.task, row.measure] = row.value * (-1.0 if row.measure in LOWER else 1.0)
    return found


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([0.0, 0.5]),
    st.sets(st.integers(0, 9 * EACH - 1)),
    st.lists(UNREADABLE, min_size=1, max_size=4),
)
def test_refusing_or_garbling_any_subset_of_answers_improves_nothing(seed, garbled, chosen, unreadable):
    outputs = wrong_answers(seed, garbled)
    worse = [unreadable[i % len(unreadable)] if i in chosen else good for i, good in enumerate(outputs)]
    before, after = measures(outputs), measures(worse)
    assert before.keys() == after.keys()
    assert {task for task, _ in before} == {*TASKS, "psum", "nsum"}
    for name, value in before.items():
        assert math.isnan(value) or after[name] <= value + 1e-9, name


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.text(max_size=60), st.sampled_from(["strict", "lenient"]))
def test_no_answer_whatever_scores_worse_than_silence(seed, text, mode):
    everything = as_questions(asked())
    largest = largest_counts(everything)
    for question, output in zip(everything, wrong_answers(seed, 0.2), strict=True):
        limit = largest.get(question.task, 1)
        silent, nothing = score_parsed(question, None, limit), details(question, None, limit)
        for given_text in (output, text):
            parsed = read_answer(question, given_text, mode)
            own = score_parsed(question, parsed, limit)
            assert own <= silent if question.task in LOWER_IS_BETTER else own >= silent
            for name, value in details(question, parsed, limit).items():
                assert value <= nothing[name] if name == "squared_error" else value >= nothing[name]


def test_the_truth_scores_a_hundred_and_no_error_in_both_modes():
    table = scoring.study_table(scoring.scored(asked(), asked()["answer"].tolist()), draws=20).set_index("task")
    for name, task in TASKS.items():
        best = 100.0 if task.higher_is_better else 0.0
        assert table.loc[name, ["score", "low", "high", "score_lenient"]].tolist() == [best] * 4
        assert table.loc[name, ["unread", "unread_lenient", "variety"]].tolist() == [0, 0, 1]
    assert table.loc[["psum", "nsum"], "score"].tolist() == [600, 0]
    assert table.loc["psum", "questions"] == 6 * EACH
    perfect = scoring.detail_table(scoring.scored(asked(), asked()["answer"].tolist()))
    assert set(perfect["value"]) == {0.0, 1.0, 100.0}


def test_silence_is_the_worst_of_everything():
    scored = scoring.scored(asked(), [None] * len(asked()), "zero_shot")
    table = scoring.study_table(scored, draws=20).set_index("task")
    assert table.loc["psum", "score"] == 0
    assert table.loc["location", "score_lenient"] == 500
    assert (table["unread"].dropna() == 1).all()
    assert (table["variety"].dropna() == 0).all()
    assert set(scored["setting"]) == {"zero_shot"}
    assert set(scored["output"]) == {""}


def test_an_answer_in_a_loose_form_counts_in_the_lenient_column_alone():
    outputs = [f"Sure! {answer}" if task == "aerial_counting" else answer
               for task, answer in zip(asked()["task"], asked()["answer"], strict=True)]  # fmt: skip
    outputs = [output.replace("<num>", "").replace("</num>", " cars.") for output in outputs]
    table = scoring.study_table(scoring.scored(asked(), outputs), draws=2).set_index("task")
    assert table.loc["aerial_counting", ["unread", "unread_lenient", "score_lenient"]].tolist() == [1, 0, 0]
    assert table.loc["aerial_counting", "score"] > 0


def count_of(truth: int) -> Question:
    return Question("aerial_counting", "", "", truth)


@pytest.mark.parametrize(
    ("truth", "parsed", "error"), [(5, 5, 0), (5, 9, 4), (5, 900, 35), (5, None, 35), (38, None, 38), (38, 0, 38)]
)
def test_a_count_errs_at_most_as_far_as_the_range_of_true_counts_allows(truth, parsed, error):
    assert score_parsed(count_of(truth), parsed, largest=40) == error


def test_a_refused_count_costs_even_where_every_count_is_zero():
    assert largest_counts([count_of(0)]) == {"aerial_counting": 1}
    assert score_parsed(count_of(0), None, 1) == 1
    assert largest_counts([count_of(3), count_of(70), Question("reid", "", "", "5")]) == {"aerial_counting": 70}


def test_found_points_are_within_a_twentieth_and_matched_once():
    question = Question("location", "", "", [[100, 100], [500, 500]])
    found = details(question, [[100, 150], [101, 100], [900, 900]])
    assert found == pytest.approx({"precision": 1 / 3, "recall": 0.5, "f1": 0.4, "number": 2 / 3})
    assert details(question, [[130, 141], [500, 451]])["f1"] == 0.5


def test_a_box_is_measured_at_ten_thresholds():
    found = details(Question("grounding", "", "", [0, 0, 100, 100]), [0, 0, 100, 72])
    assert found == pytest.approx({"iou": 0.72, "accuracy_50_95": 50.0})
    assert details(Question("grounding", "", "", [0, 0, 100, 100]), None) == {"iou": 0, "accuracy_50_95": 0}


def test_variety_is_zero_for_one_answer_and_one_for_the_truth_in_another_order():
    truth = ["2", "3", "4", "5"]
    assert variety(["7"] * 4, truth) == 0
    assert variety(truth[::-1], truth) == 1
    assert variety(["2", "2", "3", "3"], truth) == pytest.approx(0.5)
    assert variety(["2", "", "3", ""], truth) == pytest.approx(variety(["2", "2", "2", "3"], truth))
    assert variety([""] * 4, truth) == 0
    assert math.isnan(variety(["2", "3"], ["5", "5"]))
    assert math.isnan(variety([], []))
    assert top_share(["2", "", "3", ""]) == 0.75
    assert math.isnan(top_share([]))


@pytest.mark.parametrize(
    ("task", "parsed", "found"),
    [
        ("security", ("(B) dog", "(A) car"), "(A)(B)"),
        ("relationship", "no", "no"),
        ("grounding", [0, 0, 300, 1000], "1,5"),
        ("grounding", [1000, 1000, 9000, 9000], "9,9"),
        ("location", [[100, 100], [300, 500]], "2 at 2,3"),
        ("aerial_counting", 7, "7"),
        ("scene", None, ""),
    ],
)
def test_an_answer_comes_down_to_its_class(task, parsed, found):
    assert answer_class(task, parsed) == found


def test_half_a_character_can_be_kept_in_a_table():
    scored = scoring.scored(asked().head(1), ["\ud800 (A) car"])
    assert scored["output"].tolist() == ["\\ud800 (A) car"]


def test_what_is_scored_keeps_the_facts_of_the_question():
    scored = scoring.scored(asked().head(2), ["(A) x", None])
    assert scored[list(scoring.KEPT)].equals(asked().head(2)[list(scoring.KEPT)])
    with pytest.raises(ValueError, match="2 questions but 1 outputs"):
        scoring.scored(asked().head(2), [""])


def test_sums_add_the_tasks_that_were_asked():
    part = asked()[asked()["task"].isin(["reid", "location"])]
    table = scoring.study_table(scoring.scored(part, part["answer"].tolist()), draws=2).set_index("task")
    assert table["metric"].to_dict() == {"reid": "accuracy", "location": "mae", "psum": "sum of 1", "nsum": "sum of 1"}
    assert list(scoring.detail_table(scoring.scored(part, part["answer"].tolist()))["task"].unique()) == ["location"]
