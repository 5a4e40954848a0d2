"""Balanced choices: a guess that never sees an image falls to chance, and nothing else is lost."""

import time
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from irgpt_lib.irtd.record import Sample
from irgpt_lib.irtd.release_check import frames_of
from irgpt_lib.irtd.simulated import world
from irgpt_lib.irtd.simulated.sprites import CATEGORIES
from irgpt_lib.tasks import TASKS, Question, Task
from irgpt_lib.tasks.balance import balanced
from irgpt_lib.tasks.relationship import RELATIONS, asking, relation_questions

FLIR = Path(__file__).parents[2] / "shared" / "data" / "flir_roadscene"
MIX = {"scene": 0.6, "pair": 0.2, "montage": 0.2, "aerial": 0.0, "crowd": 0.0}
DRAWINGS = 6
Candidates = tuple[list[Question], list[str]]


@cache
def scenes() -> list[Sample]:
    return [sample for truths, _ in world.generate(250, seed=5, size=64, mix=MIX) for sample in truths]


def candidates(task: Task, samples: list[Sample], categories: list[str]) -> Candidates:
    """Several drawings a sample, with the sample of each."""
    rng, questions, names = np.random.default_rng(0), [], []
    for sample in samples:
        for _ in range(DRAWINGS):
            if question := task.ask(sample, rng, categories, sorted(world.SCENES)):
                questions.append(question)
                names.append(sample.sample_id)
    return questions, names


def blind_score(task: Task, questions: list[Question], halvings: int = 10) -> float:
    """What a blind guess that learned one half scores on the other, over several halvings."""
    scores = []
    for seed in range(halvings):
        order = np.random.default_rng(seed).permutation(len(questions))
        learned, asked = [questions[i] for i in order[::2]], [questions[i] for i in order[1::2]]
        guess = task.blind(learned)
        scores += [task.score(guess(question), question.truth) for question in asked]
    return float(np.mean(scores))


def before_and_after(task: Task, found: Candidates, count: int) -> tuple[float, float, list[int]]:
    questions, names = found
    first = {name: question for question, name in reversed(list(zip(questions, names, strict=True)))}
    chosen = balanced(questions, count, np.random.default_rng(1), names)
    return blind_score(task, list(first.values())), blind_score(task, [questions[i] for i in chosen]), chosen


@pytest.mark.parametrize(("name", "chance"), [("recognition", 25), ("scene", 25), ("relationship", 50), ("reid", 15)])
def test_the_blind_prior_of_the_simulated_world_falls_to_chance(name, chance):
    found = candidates(TASKS[name], scenes(), sorted(CATEGORIES))
    _, after, chosen = before_and_after(TASKS[name], found, 80)
    assert len(chosen) > 15
    assert after <= chance + 4


def test_six_relations_and_security_lose_their_blind_prior():
    for task, chance in ((asking(list(RELATIONS)), 50.0), (TASKS["security"], 22.0)):
        before, after, chosen = before_and_after(task, candidates(task, scenes(), sorted(CATEGORIES)), 60)
        assert len(chosen) >= 20
        assert after <= chance + 4
        assert after < before


@pytest.mark.skipif(not FLIR.is_dir(), reason="needs the FLIR frames in ../shared/data")
def test_the_blind_prior_of_released_questions_about_real_frames_falls():
    samples, rng = list(frames_of(FLIR)[0].values()), np.random.default_rng(0)
    for name, least, chance in (("relationship", 60, 50), ("security", 35, 22)):
        asked = [(q, s.sample_id) for s in samples for q in TASKS[name].released.ask(s, rng)]
        questions, names = [q for q, _ in asked], [n for _, n in asked]
        before, after, chosen = before_and_after(TASKS[name], (questions, names), 60)
        assert before > least
        assert after <= chance + 4
        # only three of the fifteen options are ever shown, so that Security as released cannot be balanced
        assert (len(chosen) > 30) == (name == "relationship")


def test_yes_and_no_are_even_for_every_key():
    questions = [q for s in scenes() for q in relation_questions(s, list(RELATIONS))]
    names = [s.sample_id for s in scenes() for _ in relation_questions(s, list(RELATIONS))]
    chosen = [questions[i] for i in balanced(questions, 60, np.random.default_rng(0), names)]
    by_key: dict[str, Counter[str]] = {}
    for question in chosen:
        by_key.setdefault(question.key, Counter())[question.answer] += 1
    assert all(abs(c["yes"] - c["no"]) <= 1 for c in by_key.values())
    assert abs(sum(c["yes"] - c["no"] for c in by_key.values())) <= 4


def test_at_most_one_a_sample_and_the_same_for_the_same_generator():
    questions, names = candidates(TASKS["recognition"], scenes(), sorted(CATEGORIES))
    chosen = balanced(questions, 50, np.random.default_rng(3), names)
    assert chosen == balanced(questions, 50, np.random.default_rng(3), names)
    assert chosen == sorted(set(chosen))
    assert len({names[i] for i in chosen}) == len(chosen) == 50


def test_tasks_without_an_answer_to_balance_are_drawn_at_random():
    questions, names = candidates(TASKS["location"], scenes(), sorted(CATEGORIES))
    chosen = balanced(questions, 30, np.random.default_rng(0), names)
    assert len(chosen) == len({names[i] for i in chosen}) == 30


def test_a_category_that_is_never_shown_hardly_enters_security():
    samples = [s for s in scenes() if s.boxes]
    questions, names = candidates(TASKS["security"], samples, [*sorted(CATEGORIES), "unicorn"])
    chosen = [questions[i] for i in balanced(questions, 100, np.random.default_rng(0), names)]
    assert sum("unicorn" in q.options for q in chosen) <= 3


def test_what_cannot_be_balanced_stays_out_and_wrong_input_is_refused():
    always = [Question("relationship", "?", "yes", "yes", key="a|b") for _ in range(50)]
    names = [str(i) for i in range(50)]
    assert len(balanced(always, 50, np.random.default_rng(0), names)) <= 4
    assert balanced([], 5, np.random.default_rng(0), []) == []
    assert balanced(always, 0, np.random.default_rng(0), names) == []
    with pytest.raises(ValueError, match="50 candidates but 1 samples"):
        balanced(always, 5, np.random.default_rng(0), ["a"])
    with pytest.raises(ValueError, match="one task at a time"):
        balanced([*always, Question("reid", "?", "2", "2")], 5, np.random.default_rng(0), [*names, "x"])


def test_time_grows_no_faster_than_the_candidates():
    def seconds(number: int) -> float:
        rng = np.random.default_rng(0)
        questions = [Question("reid", "?", str(cell), str(cell)) for cell in rng.integers(2, 9, number)]
        start = time.perf_counter()
        assert len(balanced(questions, number // 2, rng, [str(i) for i in range(number)])) > 0.49 * number
        return time.perf_counter() - start

    assert seconds(20_000) < 40 * max(seconds(2_000), 0.005)
