"""The questions of a dataset: at most one of a task for a sample, answers right, nothing given away."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from test_assemble import CONFIG, questions, samples, words

from irgpt_lib.irtd import questions as asking
from irgpt_lib.irtd.record import Box, Sample
from irgpt_lib.irtd.simulated.dataset import simulated_samples
from irgpt_lib.tasks import TASKS


def test_every_task_is_asked_in_both_splits_up_to_its_share():
    counts = Counter(zip(questions()["split"], questions()["task"], strict=True))
    most = {("instruction", t): 20 for t in TASKS} | {("benchmark", t): 10 for t in TASKS}
    assert set(counts) == set(most) and all(counts[key] <= most[key] for key in most)
    short = {task for (split, task), n in counts.items() if n < most[split, task]}
    assert short <= {"aerial_counting", "pedestrian_counting", "reid", "security"}, "rare kinds, or hard to balance"


def test_a_sample_answers_at_most_one_question_of_a_task_and_ids_are_unique():
    assert not questions().duplicated(["sample_id", "task"]).any()
    assert questions()["question_id"].is_unique
    assert list(questions().columns) == asking.QUESTION_COLUMNS


def test_a_question_belongs_to_a_sample_of_its_split_with_its_band_and_group():
    by_id = {s.sample_id: s for s in samples()}
    for row in questions().itertuples():
        s = by_id[row.sample_id]
        assert (s.split, s.band, s.group, s.source) == (row.split, row.band, row.group, row.source)
    assert set(questions()["split"]) == {"instruction", "benchmark"}, "pretraining samples are not asked about"


def test_the_kept_answer_of_every_question_scores_perfectly_against_its_kept_truth():
    for row in questions().itertuples():
        task = TASKS[row.task]
        best = 100 if task.higher_is_better else 0
        assert task.score(task.read(row.answer), json.loads(row.truth)) == best


def test_the_frame_of_coordinates_is_told_and_of_nothing_else():
    frames = questions().groupby("task")["frame"].agg(set)
    for task, found in frames.items():
        assert found == ({"normalised_1000"} if task in ("grounding", "location") else {""})


def test_questions_do_not_depend_on_the_samples_of_another_split():
    own = [s for s in samples() if s.split == "benchmark"]
    asked = [asking.make_questions(given, "benchmark", 90, CONFIG, words()) for given in (samples(), own)]
    pd.testing.assert_frame_equal(*asked)


def test_no_samples_give_no_questions_but_their_columns():
    empty = asking.make_questions([], "benchmark", 90, CONFIG, words())
    assert len(empty) == 0 and list(empty.columns) == asking.QUESTION_COLUMNS


def test_two_samples_of_one_id_are_an_error():
    with pytest.raises(ValueError, match="two samples have one id"):
        asking.make_questions([samples()[0]] * 2, "benchmark", 90, CONFIG, words())


def test_a_dataset_that_cannot_be_asked_about_says_what_to_do():
    plain = [replace(s, boxes=(), scene="", counted="", kind="object") for s in samples()]
    with pytest.raises(ValueError, match="no instruction question could be made.*split_shares"):
        asking.all_questions(plain, CONFIG, words())


def test_a_blind_guess_on_the_benchmark_is_at_chance():
    scenes = {"pretrain": 0, "instruction": 700, "benchmark": 700}
    many = simulated_samples(CONFIG.simulated.model_copy(update={"scenes": scenes}), seed=5)
    config = CONFIG.model_copy(update={"instruction_questions": 900, "benchmark_questions": 900})
    found = asking.blind_table(asking.all_questions(many, config, words())).set_index("task")
    assert set(found.index) == set(TASKS)
    for task in ("scene", "recognition", "relationship", "reid", "security"):
        row = found.loc[task]
        noise = 100 * np.sqrt(row.chance / 100 * (1 - row.chance / 100) / row.questions)
        assert row.blind < row.chance + 2.5 * noise, (task, row.blind, row.chance)


def test_instruction_questions_are_filled_up_where_balance_leaves_few():
    counts = questions().groupby(["task", "split"]).size()
    assert counts["security", "instruction"] == 20 > counts["security", "benchmark"]


def test_the_section_names_the_relations_that_are_asked():
    boxes = (Box("car", 5.0, 10.0, 15.0, 20.0), Box("dog", 70.0, 60.0, 90.0, 80.0))
    scenes = [Sample(f"s/{n}", "s", "tir", "scene", 100, 100, b"", split="instruction", boxes=boxes) for n in range(40)]
    six = CONFIG.model_copy(update={"relations": ["left", "right", "front", "behind", "near", "far"]})
    asked = asking.make_questions(scenes, "instruction", 9 * 30, six, words())
    keys = {key.partition("|")[0] for key in asked.loc[asked["task"] == "relationship", "key"]}
    assert keys == {"left", "right", "front", "behind", "near", "far"}


def test_the_released_flavour_asks_in_the_releases_frame_and_words():
    released = CONFIG.model_copy(update={"flavour": "released"})
    boxes = (Box("car", 100.0, 200.0, 220.0, 280.0), Box("person", 400.0, 200.0, 430.0, 290.0))
    frames = [
        Sample(f"s/{n}", "flir", "tir", "scene", 640, 512, b"", split="instruction", boxes=boxes) for n in range(3)
    ]
    asked = asking.make_questions(frames, "instruction", 27, released, words()).set_index("task")
    assert set(asked.loc[["grounding"], "frame"]) == {"pixel_xyxy"}
    assert set(asked.loc[["location"], "frame"]) == {"normalised_1000"}
    assert asked.loc[["relationship"], "question"].str.contains("the the ").all()
    assert asking.as_questions(asked.reset_index())[0].task in TASKS


def test_filling_up_keeps_what_was_taken_and_asks_a_sample_once():
    ids = ["a", "a", "b", "c", "c", "d"]
    filled = asking.filled_up([1], 3, ids, np.random.default_rng(0))
    assert filled[0] == 1 and len(filled) == 3 and len({ids[i] for i in filled}) == 3
    assert len(asking.filled_up([], 9, ids, np.random.default_rng(0))) == 4
