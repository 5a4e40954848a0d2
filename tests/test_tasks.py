"""The nine tasks: what is asked can be answered, an answer reads back, and only a right one scores as one."""

import json
import time
from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from irgpt_lib.irtd.record import Box, Sample
from irgpt_lib.irtd.simulated import world
from irgpt_lib.irtd.simulated.sprites import CATEGORIES
from irgpt_lib.tasks import TASKS, Question, grounding, location, relationship, security
from irgpt_lib.tasks.task import (
    most_common,
    option_rates,
    read_options,
    score_error,
    score_exact,
    write_chosen,
    write_options,
)

MIX = {"scene": 0.3, "pair": 0.3, "aerial": 0.1, "crowd": 0.1, "montage": 0.2}
ACCURACY = [name for name, task in TASKS.items() if task.metric == "accuracy"]
COUNTING = ["aerial_counting", "pedestrian_counting"]
GARBAGE = [
    "",
    " \n\t",
    "\x00",
    "?",
    "🔥🔥🔥",
    "nicht sicher",
    "I cannot see it.",
    "((((",
    "<box>[[",
    "[]",
    "NaN",
    "-1",
    "٣",
]
GARBAGE += ["a" * 100_000, "(A) " * 20_000, "<num>" * 20_000, "9" * 100_000, "<num>" + "9" * 50 + "</num>"]


@cache
def scenes() -> list[Sample]:
    return [sample for truths, _ in world.generate(400, seed=11, size=64, mix=MIX) for sample in truths]


@cache
def questions(name: str) -> list[Question]:
    rng = np.random.default_rng(0)
    asked = (TASKS[name].ask(s, rng, sorted(CATEGORIES), sorted(world.SCENES)) for s in scenes())
    return [question for question in asked if question is not None]


def halves(name: str) -> tuple[list[Question], list[Question]]:
    return questions(name)[::2], questions(name)[1::2]


def best(name: str) -> float:
    return 100.0 if name in ACCURACY else 0.0


def scene(*boxes: Box, width: int = 100) -> Sample:
    return Sample("s", "s", "tir", "scene", width, 100, b"", boxes=boxes, scene="street")


def box(category: str, x: float, y: float = 50.0, half: float = 5.0) -> Box:
    return Box(category, x - half, y - half, x + half, y + half)


def ask(name: str, sample: Sample, seed: int = 0) -> Question | None:
    return TASKS[name].ask(sample, np.random.default_rng(seed), list(CATEGORIES), list(world.SCENES))


def test_the_tasks_are_the_papers_nine_in_the_order_of_its_table_2():
    columns = ["Scene", "Rec.", "Gro.", "Rel.", "ReID", "Sec.", "Loc.", "A.C.", "P.C."]
    assert [task.column for task in TASKS.values()] == columns
    assert list(TASKS)[:6] == ACCURACY, "the first six make psum, the last three nsum"
    assert all(task.name == name for name, task in TASKS.items())


@pytest.mark.parametrize("name", TASKS)
def test_the_simulated_world_carries_every_task(name):
    assert len(questions(name)) >= 30


@pytest.mark.parametrize("name", TASKS)
def test_the_written_answer_reads_back_and_scores_perfectly(name):
    task = TASKS[name]
    for q in questions(name):
        assert q.task == name
        assert task.score(task.read(q.answer), q.truth) == best(name), q


@pytest.mark.parametrize("name", TASKS)
def test_a_question_survives_json(name):
    """The dataset keeps the truth as JSON, which knows neither tuples nor NumPy's numbers."""
    task = TASKS[name]
    for q in questions(name)[:50]:
        assert json.loads(json.dumps(q.truth)) == q.truth
        assert task.score(task.read(q.answer), json.loads(json.dumps(q.truth))) == best(name)


@pytest.mark.parametrize("name", TASKS)
def test_the_same_random_state_asks_the_same(name):
    assert [ask(name, s, 5) for s in scenes()[:30]] == [ask(name, s, 5) for s in scenes()[:30]]


@pytest.mark.parametrize("name", TASKS)
def test_the_text_of_a_question_begins_with_a_phrase_of_its_task(name):
    phrases = TASKS[name].phrases
    assert phrases and all(q.text.startswith(phrases[0]) for q in questions(name))


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda text: f"{text[:12]!r} x {len(text)}")
@pytest.mark.parametrize("name", TASKS)
def test_garbage_never_raises_and_counts_as_the_worst_sensible_answer(name, garbage):
    task = TASKS[name]
    parsed = task.read(garbage)
    assert parsed is None
    for q in questions(name)[:5]:
        worst = {"accuracy": 0.0, "mae": float(q.truth) if name in COUNTING else 500.0}[task.metric]
        assert task.score(parsed, q.truth) == worst


@pytest.mark.parametrize("name", TASKS)
@settings(max_examples=100, deadline=None, database=None)
@given(st.text(alphabet=st.sampled_from("()[]<>/boxnumps ABCD0123456789,.-\n٣é"), max_size=80))
def test_no_text_makes_reading_or_scoring_fail(name, text):
    task = TASKS[name]
    score = task.score(task.read(text), questions(name)[0].truth)
    assert 0 <= score <= (100 if name in ACCURACY else 1_000_000)


@pytest.mark.parametrize("name", ACCURACY)
def test_the_right_answer_beside_another_one_is_no_right_answer(name):
    task = TASKS[name]
    for q, other in zip(questions(name)[:40], questions(name)[1:], strict=False):
        if q.answer != other.answer:
            assert task.score(task.read(f"{q.answer} {other.answer}"), q.truth) == 0


@pytest.mark.parametrize("name", TASKS)
def test_space_around_an_answer_does_not_matter(name):
    task = TASKS[name]
    for q in questions(name)[:20]:
        assert task.score(task.read(f" {q.answer}\n"), q.truth) == best(name)


@pytest.mark.parametrize("name", TASKS)
def test_reading_takes_less_than_a_millisecond(name):
    task = TASKS[name]
    texts = [q.answer for q in questions(name)[:50]] + ["a" * 300, "(A) car " * 40, "<num>1" * 50, "<pos>[(1, 2)" * 20]

    def seconds(text: str) -> float:
        start = time.perf_counter()
        task.read(text)
        return time.perf_counter() - start

    assert max(min(seconds(text) for _ in range(5)) for text in texts) < 1e-3


@pytest.mark.parametrize("name", TASKS)
def test_a_blind_guess_never_looks_at_the_answer_of_the_asked_question(name):
    train, asked = halves(name)
    guess = TASKS[name].blind(train)
    for q in asked:
        assert guess(q) == guess(replace(q, truth="hidden", answer="hidden"))


@pytest.mark.parametrize("name", TASKS)
def test_a_blind_guess_is_an_answer_and_no_better_than_the_right_one(name):
    train, asked = halves(name)
    task = TASKS[name]
    guess = task.blind(train)
    scores = [task.score(guess(q), q.truth) for q in asked]
    assert 0 <= np.mean(scores) <= 95 if name in ACCURACY else np.mean(scores) > 0


@pytest.mark.parametrize("name", TASKS)
def test_a_blind_guess_can_answer_what_training_never_asked(name):
    train, asked = halves(name)
    novel = replace(asked[0], key="zebra", options=("(A)", "zebra", "yak", "gnu") if asked[0].options else ())
    assert np.isfinite(TASKS[name].score(TASKS[name].blind(train)(novel), asked[0].truth))


@pytest.mark.parametrize(
    "name, expected", [("scene", 25.0), ("recognition", 25.0), ("relationship", 50.0), ("reid", 100 / 7)]
)
def test_chance_of_a_closed_question_is_one_over_its_answers(name, expected):
    train, asked = halves(name)
    assert TASKS[name].chance(asked[0], train) == pytest.approx(expected)


@pytest.mark.parametrize("name", TASKS)
def test_chance_lies_between_the_worst_and_the_best_score(name):
    train, asked = halves(name)
    chances = [TASKS[name].chance(q, train) for q in asked[:20]]
    assert all(0 <= c < 100 for c in chances) if name in ACCURACY else all(0 < c <= 500 for c in chances)


def within_noise(counts: Counter, answers: int) -> bool:
    """Every one of `answers` equally likely outcomes occurs within four standard deviations of its expected number."""
    n, p = sum(counts.values()), 1 / answers
    return len(counts) == answers and all(abs(c - n * p) < 4 * np.sqrt(n * p * (1 - p)) for c in counts.values())


@pytest.mark.parametrize("name", ["scene", "recognition"])
def test_the_right_letter_is_each_of_four_equally_often(name):
    assert within_noise(Counter(q.answer[:3] for q in questions(name)), 4)


def test_each_letter_is_absent_equally_often_in_security():
    letters = Counter(text[:3] for q in questions("security") for text in q.truth)
    assert within_noise(letters, 4)


def test_yes_and_no_are_equally_frequent():
    assert within_noise(Counter(q.answer for q in questions("relationship")), 2)


def test_the_cells_of_a_montage_are_equally_frequent():
    assert within_noise(Counter(q.answer for q in questions("reid")), 7)


@pytest.mark.parametrize("name", ["scene", "recognition", "security"])
def test_four_different_options_of_which_the_image_decides(name):
    for q in questions(name):
        assert len(set(q.options)) == 4 and q.text.endswith(write_options(q.options))
        assert 1 <= len(q.truth) <= (3 if name == "security" else 1)


def test_no_wrong_option_of_recognition_is_in_the_image():
    for s in scenes():
        if q := ask("recognition", s):
            present = {b.category for b in s.boxes}
            right = max(s.boxes, key=lambda b: b.area).category
            assert present & set(q.options) == {right} and q.answer.endswith(f") {right}")


def test_the_answer_of_security_is_every_option_that_is_not_in_the_image():
    for s in scenes():
        if q := ask("security", s):
            present = {b.category for b in s.boxes}
            assert q.answer == write_chosen(q.options, [o for o in q.options if o not in present])


def test_security_needs_the_whole_set():
    q = next(q for q in questions("security") if len(q.truth) == 3)
    assert TASKS["security"].score(read_options(" ".join(q.truth[:2])), q.truth) == 0


def test_security_guesses_blindly_by_how_often_an_option_was_absent():
    def asked(*absent: str) -> Question:
        options = ("car", "dog", "boat", "person")
        return Question("security", "", "", list(read_options(write_chosen(options, absent)) or ()), options)

    train = [asked("dog"), asked("dog"), asked("boat")]
    assert option_rates(train) == {"car": 0, "dog": 2 / 3, "boat": 1 / 3, "person": 0}
    assert security.blind(train)(asked("car")) == ("(B) dog",)
    assert security.chance(asked("car"), train) == 25.0, "all of one absent, which may be any of four"


def test_an_option_within_the_name_of_another_is_not_taken_for_it():
    options = ("car", "race car", "boat", "dog")
    assert write_chosen(options, ["car"]) == "(A) car"
    assert option_rates([Question("recognition", "", "", ["(B) race car"], options)])["car"] == 0


@pytest.mark.parametrize(
    "text, expected",
    [
        ("(A) car", ("(A) car",)),
        ("(A) car (D) parking lot", ("(A) car", "(D) parking lot")),
        ("(E) car", None),
        ("A car", None),
        ("(A)", None),
        ("It is (A) car", None),
        ("(A) car (B", None),
    ],
)
def test_options_are_read_strictly(text, expected):
    assert read_options(text) == expected


@pytest.mark.parametrize("text, expected", [("<num>7</num>", 7), ("There are <num> 12 </num> cars", 12), ("7", None)])
def test_a_count_is_read_from_its_tags(text, expected):
    assert TASKS["aerial_counting"].read(text) == expected


@pytest.mark.parametrize(
    "text", ["<num>7</num><num>8</num>", "<num>7.5</num>", "<num>-7</num>", "<num></num>", "<num>7"]
)
def test_two_counts_or_no_whole_number_are_no_count(text):
    assert TASKS["aerial_counting"].read(text) is None


def test_the_counting_error_is_absolute_and_an_unread_answer_counts_as_zero():
    assert [score_error(7, 10), score_error(13, 10), score_error(None, 10)] == [3, 3, 10]


@pytest.mark.parametrize(
    "name, category, kind", [("aerial_counting", "car", "aerial"), ("pedestrian_counting", "person", "crowd")]
)
def test_counting_is_asked_only_where_every_instance_is_annotated(name, category, kind):
    one = replace(scene(box(category, 20), box(category, 60)), kind=kind, counted=category)
    q = ask(name, one)
    assert q is not None and (q.truth, q.answer) == (2, "<num>2</num>")
    assert ask(name, replace(one, counted="")) is None


@pytest.mark.parametrize("text, expected", [("yes", "yes"), (" No.\n", "no"), ("yes and no", None), ("maybe", None)])
def test_yes_and_no_are_read_with_little_tolerance(text, expected):
    assert TASKS["relationship"].read(text) == expected


def test_a_relation_is_true_exactly_where_it_is_claimed():
    s = scene(box("car", 20), box("dog", 80))
    asked = {q.text: q.answer for q in (ask("relationship", s, seed) for seed in range(20)) if q}
    assert asked == {
        "Is there a car on the left side of the dog?": "yes",
        "Is there a dog on the left side of the car?": "no",
    }


@pytest.mark.parametrize(
    "boxes", [(box("car", 40), box("dog", 54)), (box("car", 20), box("car", 80)), (box("car", 20),)],
    ids=["too close", "of one category", "alone"],
)  # fmt: skip
def test_no_relation_is_asked_that_the_image_does_not_decide(boxes):
    assert relationship.pairs_apart(scene(*boxes)) == []
    assert ask("relationship", scene(*boxes)) is None


@pytest.mark.parametrize(
    "text, expected", [("5", "5"), (" 8\n", "8"), ("1", None), ("9", None), ("cell 5", None), ("２", None)]
)
def test_a_cell_is_one_digit_of_2_to_8(text, expected):
    assert TASKS["reid"].read(text) == expected


def test_two_boxes_are_no_answer():
    q = questions("grounding")[0]
    assert grounding.read(q.answer) == q.truth
    assert grounding.read(q.answer + q.answer) is None
    assert grounding.score(grounding.read(q.answer + q.answer), q.truth) == 0


@pytest.mark.parametrize(
    "text", ["<box>[[1, 2, 3]]</box>", "<box>[[5, 1, 5, 9]]</box>", "<box>[[9, 1, 5, 9]]</box>", "[[1, 2, 3, 4]]"]
)
def test_a_box_without_four_corners_area_or_tags_is_no_answer(text):
    assert grounding.read(text) is None


def test_the_grounding_truth_is_in_thousandths_of_width_and_height():
    s = replace(scene(Box("car", 10.0, 20.0, 40.0, 60.0), width=200), height=100)
    q = ask("grounding", s)
    assert q is not None and q.truth == [50, 200, 200, 600]
    assert q.answer == "The target bounding box is <box>[[50, 200, 200, 600]]</box>."


def test_iou_of_boxes_that_are_equal_half_covered_and_apart():
    a = [0, 0, 10, 10]
    assert [grounding.iou(a, a), grounding.iou(a, [0, 0, 10, 5]), grounding.iou(a, [10, 0, 20, 10])] == [1, 0.5, 0]
    assert [grounding.score(p, a) for p in (a, [0, 0, 10, 5], [0, 0, 10, 4], None)] == [100, 100, 0, 0]


def test_a_described_box_is_the_only_one_that_fits():
    assert grounding.describe(scene(box("car", 20), box("dog", 50))) == [
        ("car", box("car", 20)),
        ("dog", box("dog", 50)),
    ]
    texts = [text for text, _ in grounding.describe(scene(box("car", 10), box("car", 20), box("car", 90)))]
    assert texts == ["car located at the right of the image"], "two stand on the left"


def test_a_location_names_every_object_of_the_category_from_left_to_right():
    q = ask("location", scene(box("dog", 80), box("dog", 20, 30)))
    assert q is not None and q.truth == [[200, 300], [800, 500]]
    assert q.answer == "<ref>dog</ref> at <pos>[(200, 300), (800, 500)]</pos>"


def test_the_location_error_is_the_mean_over_matched_coordinates():
    assert location.score([[100, 100]], [[110, 130]]) == 20
    assert location.score([[100, 100], [500, 500]], [[500, 500], [110, 130]]) == 10, "in any order"
    assert location.score([[0, 0]], [[1000, 1000]]) == 500, "no point is worse than a missing one"
    assert location.score(None, [[1, 1]]) == location.score([], [[1, 1]]) == 500


POINT = st.tuples(st.integers(0, 1000), st.integers(0, 1000))
POINTS = st.lists(POINT, min_size=1, max_size=6)


@settings(max_examples=80, deadline=None, database=None)
@given(POINTS, POINTS, st.data())
def test_leaving_a_point_out_of_a_list_that_is_not_too_long_never_pays(answer, truth, data):
    answer = answer[: len(truth)]
    left_out = data.draw(st.integers(0, len(answer) - 1))
    fewer = answer[:left_out] + answer[left_out + 1 :]
    assert location.score(fewer, truth) >= location.score(answer, truth) - 1e-9


@settings(max_examples=80, deadline=None, database=None)
@given(POINTS, st.lists(POINT, min_size=1, max_size=10))
def test_adding_points_to_the_right_answer_never_pays(truth, more):
    assert location.score(truth, truth) == 0
    assert location.score(truth + more, truth) > 0


@settings(max_examples=80, deadline=None, database=None)
@given(POINTS, POINTS, st.randoms())
def test_the_location_error_depends_on_neither_order_and_stays_within_its_range(answer, truth, random):
    shuffled = random.sample(answer, len(answer))
    assert location.score(shuffled, truth) == pytest.approx(location.score(answer, truth))
    assert 0 <= location.score(answer, truth) <= 500


@pytest.mark.parametrize(
    "text", ["<pos>[]</pos>", "<pos>[(1)]</pos>", "(1, 2)", "<pos>[(1, 2)]</pos> <pos>[(3, 4)]</pos>"]
)
def test_no_list_or_two_lists_of_points_are_no_answer(text):
    assert location.read(text) is None


def test_a_blind_location_has_the_most_common_number_of_points_at_their_medians():
    truths = [[[10, 10]], [[100, 0], [300, 40]], [[200, 20], [500, 60]]]
    assert location.median_points(truths) == [[150, 10], [400, 50]]


def test_the_mode_is_the_first_of_several_in_order():
    assert most_common(["no", "yes", "yes", "no"]) == "no"
    assert most_common([["(B) x"], ["(A) y"], ["(B) x"]]) == ["(B) x"]


def test_lists_and_tuples_of_options_count_as_one():
    assert score_exact(("(A) car",), ["(A) car"]) == 100
    assert score_exact(("(A) car", "(B) dog"), ["(B) dog", "(A) car"]) == 0
    assert score_exact(None, None) == 0
