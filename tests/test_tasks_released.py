"""The tasks as the release puts them: its wording to the letter, its rules, its faults; and the six relations."""

from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from irgpt_lib.irtd.record import Box, Sample
from irgpt_lib.irtd.release import ReleasedRecord, read_release
from irgpt_lib.irtd.release_check import compare_all, frames_of
from irgpt_lib.tasks import TASKS, grounding, relationship, security
from irgpt_lib.tasks.relationship import RELATIONS, RELATIONSHIP, asking, holds, ordinal, relation_questions
from irgpt_lib.tasks.task import read_options

REAL = Path(__file__).parents[2] / "shared" / "data"
RELATION_TEXT = "Is there a car on the left side of the the first person from left to right?"


def box(category: str, x: float, y: float = 200.0, width: float = 20.0, height: float = 20.0) -> Box:
    return Box(category, x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def frame(*boxes: Box, kind: str = "scene", width: int = 640, height: int = 512) -> Sample:
    return Sample("s", "s", "tir", kind, width, height, b"", boxes=boxes)


def texts(task: str, sample: Sample, seed: int = 0) -> list[str]:
    return [question.text for question in TASKS[task].released.ask(sample, np.random.default_rng(seed))]


def answers(task: str, sample: Sample, text: str = "") -> tuple[str, ...]:
    return TASKS[task].released.answers(text or texts(task, sample)[0], sample)


@cache
def real_records() -> list[ReleasedRecord]:
    if not (REAL / "irtd_json_sft").is_dir():
        pytest.skip("needs the released questions in ../shared/data")
    return read_release(REAL / "irtd_json_sft")[0]


def test_location_asks_for_every_class_with_the_released_blank_and_name():
    sample = frame(box("bicycle", 320, 256), box("car", 500, 256), box("car", 100, 128), box("dog", 50, 50))
    assert texts("location", sample) == [" Locate all bike from left to right.", " Locate all car from left to right."]
    assert answers("location", sample) == ("<ref>bike</ref> at <pos>[(500, 500)]</pos>",)
    (cars,) = answers("location", sample, " Locate all car from left to right.")
    assert cars == "<ref>car</ref> at <pos>[(156, 250), (781, 500)]</pos>"


def test_location_rounds_halves_to_the_even_number():
    # 296 / 640 is exactly 462.5 thousandths
    assert answers("location", frame(box("car", 296, 256)))[0].endswith("[(462, 500)]</pos>")


@pytest.mark.parametrize(
    ("boxes", "asked"),
    [
        ((box("car", 100),), "car located at the left of the image"),
        ((box("car", 320), box("dog", 20)), "car located at the center of the image"),
        ((box("person", 600, 500),), "person located at the bottom right of the image"),
        ((box("car", 320, 20),), "car located at the top center of the image"),
        ((box("car", 100, width=60), box("car", 120)), "car located at the left of the image"),
        ((box("car", 100, width=60), box("person", 120)), "person located at the left of the image"),
        ((box("car", 100), box("car", 300, width=60), box("person", 500)), "nearest car located at the center"),
        ((box("car", 100), box("car", 300, width=23), box("car", 500)), "car located at the left of the image"),
        ((box("person", 9), box("person", 99, width=40), box("car", 200), box("car", 300, width=90)), "nearest person"),
    ],
)
def test_grounding_asks_by_the_released_rule(boxes, asked):
    (text,) = texts("grounding", frame(*boxes))
    assert text.startswith(f"Detect the bounding box of the {asked}")


def test_both_wordings_of_two_objects_are_answered_with_the_right_one_in_pixels():
    sample = frame(box("car", 400), box("person", 100))
    assert texts("grounding", sample) == [
        "Detect the bounding box of the person located to the left of the car.",
        "Detect the bounding box of the car located to the right of the person.",
    ]
    questions = TASKS["grounding"].released.ask(sample, np.random.default_rng(0))
    assert {q.answer for q in questions} == {"The target bounding box is <box>[[390, 190, 410, 210]]</box>."}
    assert {q.frame for q in questions} == {"pixel_xyxy"}
    assert grounding.read(questions[0].answer) == questions[0].truth


def test_grounding_asks_nothing_of_an_empty_or_a_full_frame():
    assert texts("grounding", frame()) == []
    assert texts("grounding", frame(*(box("car", 50.0 + 90 * i) for i in range(6)))) == []


def test_relationship_joins_cars_with_another_class_and_begins_with_the_leftmost():
    sample = frame(box("car", 100), box("person", 200), box("person", 400), box("bicycle", 600))
    asked = texts("relationship", sample)
    assert RELATION_TEXT in asked
    assert all(text.startswith("Is there a car ") for text in asked)
    assert {text.split()[-5] for text in asked} == {"person", "bike"}
    assert texts("relationship", frame(box("person", 100), box("bicycle", 300))) == []


def test_a_relation_that_depends_on_an_unnamed_object_admits_both_answers_and_is_not_asked():
    sample = frame(box("car", 100), box("person", 200), box("car", 300))
    assert answers("relationship", sample, RELATION_TEXT) == ("yes", "no")
    assert TASKS["relationship"].released.answer(RELATION_TEXT, sample) is None
    assert RELATION_TEXT not in texts("relationship", sample)


@pytest.mark.parametrize(
    ("words", "subject", "answer"),
    [
        ("near to", box("car", 150), "yes"),
        ("near to", box("car", 130), "no"),
        ("far from", box("car", 12), "no"),
        ("in front of", box("car", 100, 150), "yes"),
        ("behind", box("car", 100, 150), "no"),
        ("behind", box("car", 100, 200), "yes"),
    ],
)
def test_released_relations_use_pixels_and_call_front_what_is_higher(words, subject, answer):
    sample = frame(subject, box("person", 300))
    text = f"Is there a car {words} the the first person from left to right?"
    assert TASKS["relationship"].released.answer(text, sample) == answer


def test_ordinals_are_spelled_as_released():
    assert [ordinal(i) for i in (0, 4, 5, 21)] == ["first", "fifth", "6th", "22th"]


def test_security_draws_from_fifteen_options_and_never_knows_a_dog():
    sample = frame(box("car", 100), box("dog", 300))
    drawn = [TASKS["security"].released.ask(sample, np.random.default_rng(seed))[0] for seed in range(40)]
    assert {option for q in drawn for option in q.options} == set(security.RELEASED_OPTIONS)
    assert {len(q.truth) for q in drawn} == {3}
    text = security.TEXT + "(A) person (B) dog (C) motor (D) car"
    assert answers("security", sample, text) == ("(A) person (B) dog (C) motor",)


@pytest.mark.parametrize(
    "text",
    ["", "?", security.TEXT, security.TEXT + "(A) car", security.TEXT + "(A) car (B) a (C) b (D) c", "\x00" * 9],
)
def test_a_text_that_is_no_released_question_has_no_answer(text):
    sample = frame(box("car", 100), box("person", 300))
    for name, task in TASKS.items():
        if task.released:
            assert task.released.answers(text, sample) == (), name


def test_recognition_offers_the_released_options_and_counts_and_montages_ask_as_the_study():
    (question,) = TASKS["recognition"].released.ask(frame(box("fox", 50), kind="object"), np.random.default_rng(0))
    assert answers("recognition", frame(box("fox", 50)), question.text) == (question.answer,)
    assert texts("recognition", frame(box("unicorn", 50))) == []
    aerial = replace(frame(box("car", 50), box("car", 90), kind="aerial"), counted="car")
    assert answers("aerial_counting", aerial) == ("<num>2</num>",)
    montage = replace(frame(kind="montage"), montage_answer=5)
    assert answers("reid", montage) == ("5",)
    assert TASKS["scene"].released is None


def test_what_is_asked_can_be_read_and_answered_back():
    sample = frame(box("car", 100, width=70), box("car", 200), box("person", 300), box("bicycle", 610, 300))
    for name in ("location", "grounding", "relationship", "security"):
        for question in TASKS[name].released.ask(sample, np.random.default_rng(1)):
            assert TASKS[name].released.answer(question.text, sample) == question.answer
            assert TASKS[name].score(TASKS[name].read(question.answer), question.truth) == (
                0.0 if name == "location" else 100.0
            )


def test_every_released_record_about_the_real_frames_agrees_or_is_open():
    frames, rejected = frames_of(REAL / "flir_roadscene")
    compared = compare_all(real_records(), frames)
    assert rejected == []
    counts = Counter((c.task, c.verdict) for c in compared)
    assert counts == {
        ("location", "agrees"): 187,
        ("grounding", "agrees"): 32,
        ("security", "agrees"): 100,
        ("relationship", "agrees"): 32,
        ("relationship", "open"): 37,
    }


def test_every_released_option_is_one_of_the_listed():
    offered: dict[str, set[str]] = {"recognition": set(), "security": set()}
    for record in real_records():
        if record.task in offered:
            options = read_options(record.question.partition("\n")[2]) or ()
            offered[record.task] |= {option.partition(") ")[2] for option in options}
    assert offered["security"] == set(security.RELEASED_OPTIONS)
    assert len(offered["recognition"]) > 40


def test_asking_for_the_left_alone_is_the_task_as_it_was():
    assert asking(["left"]) is RELATIONSHIP
    for wrong in ([], ["left", "left"], ["above"]):
        with pytest.raises(ValueError, match="name some of left, right, front"):
            asking(wrong)


@pytest.mark.parametrize("relation", RELATIONS)
def test_a_relation_holds_fails_and_has_a_dead_zone(relation):
    centre = box("car", 320, 256)
    places = {
        "left": (box("a", 100, 256), box("a", 500, 256), box("a", 330, 256)),
        "right": (box("a", 500, 256), box("a", 100, 256), box("a", 330, 256)),
        "front": (box("a", 320, 400), box("a", 320, 100), box("a", 320, 260)),
        "behind": (box("a", 320, 100), box("a", 320, 400), box("a", 320, 260)),
        "near": (box("a", 400, 256), box("a", 600, 256), box("a", 480, 256)),
        "far": (box("a", 0, 20), box("a", 400, 256), box("a", 0, 256)),
    }
    got = [holds(relation, subject, centre, frame()) for subject in places[relation]]
    assert got == [True, False, None]
    if relation in ("left", "right", "front", "behind"):
        yes, no, _ = places[relation]
        assert holds(relation, centre, yes, frame()) is False
        assert holds(relation, centre, no, frame()) is True


def test_six_relations_are_asked_of_one_scene_in_the_released_words():
    task, sample = asking(list(RELATIONS)), frame(box("person", 60, 100), box("car", 560, 400))
    asked = [task.ask(sample, np.random.default_rng(seed), (), ()) for seed in range(200)]
    kinds = Counter(question.key.partition("|")[0] for question in asked)
    assert set(kinds) == set(RELATIONS)
    even = Counter(q.answer for q in asked if q.key.partition("|")[0] in ("left", "right", "front", "behind"))
    assert 0.35 < even["yes"] / even.total() < 0.65
    assert {q.text for q in asked} >= {"Is there a person behind the car?", "Is there a car far from the person?"}
    assert task.ask(frame(box("car", 50)), np.random.default_rng(0), (), ()) is None
    assert relation_questions(frame(box("person", 60), box("car", 560), kind="aerial"), ["left"]) == []
    assert relationship.read(task.ask(sample, np.random.default_rng(0), (), ()).answer) in ("yes", "no")
