import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from miniature import captioned, scenes, talkative
from test_assemble import CONFIG

from irgpt_lib.evaluation import answering
from irgpt_lib.evaluation.scoring import scored
from irgpt_lib.evaluation.statistics import against_blind
from irgpt_lib.irtd.questions import as_questions, make_questions, words_of
from irgpt_lib.report.tables import summary_json
from irgpt_lib.tasks import TASKS


def questions(split="benchmark", count=54):
    samples = [replace(s, split=split, band="nir") for s in scenes()[0]]
    return make_questions(samples, split, count, CONFIG, words_of(samples))


def of_task(name, truths, keys=None, samples=None):
    """Questions of one task with these truths, one sample each."""
    return pd.DataFrame(
        {
            "question_id": [f"q{i}" for i in range(len(truths))],
            "sample_id": samples or [f"s{i}" for i in range(len(truths))],
            "group": [f"g{i}" for i in range(len(truths))],
            "band": "nir",
            "task": name,
            "question": "?",
            "answer": [str(t) for t in truths],
            "truth": [json.dumps(t) for t in truths],
            "options": "[]",
            "key": keys or [""] * len(truths),
            "frame": "",
        }
    )


@pytest.mark.parametrize("name", TASKS)
def test_a_blind_guess_never_sees_the_truth_of_its_question(name):
    table = questions("instruction", 180)
    asked = as_questions(table[table["task"] == name])
    guess = TASKS[name].blind(asked[len(asked) // 2 :])
    for question in asked[: len(asked) // 2]:
        assert guess(question) == guess(replace(question, truth=None, answer="", text=""))


def test_shuffling_shows_every_question_the_image_of_another_of_its_task():
    table = questions()
    shown = answering.shuffled_within_task(table)
    for name, rows in table.assign(shown=shown).groupby("task"):
        assert (rows["shown"] != rows["sample_id"]).all(), name
        assert sorted(rows["shown"]) == sorted(rows["sample_id"]), name


def test_shuffling_separates_questions_about_the_same_sample():
    table = of_task("reid", ["5"] * 5, samples=["a", "b", "a", "c", "c"])
    shown = answering.shuffled_within_task(table)
    assert all(own != other for own, other in zip(table["sample_id"], shown, strict=True))


@pytest.mark.parametrize("samples", [["a"], ["a", "a", "a", "b"]])
def test_a_task_without_another_image_cannot_be_shuffled(samples):
    with pytest.raises(ValueError, match="no other image for the reid question about a"):
        answering.shuffled_within_task(of_task("reid", ["5"] * len(samples), samples=samples))


def test_the_first_questions_of_each_task_are_kept():
    table = questions()
    kept = answering.first_of_each_task(table, 2)
    assert (kept.groupby("task").size() == 2).all() and kept["task"].nunique() == 9
    assert kept["question_id"].iloc[0] == table["question_id"].iloc[0]


def test_answers_stand_beside_their_questions_whatever_the_batch():
    vlm = talkative()
    table = answering.first_of_each_task(questions(), 2).sample(frac=1, random_state=0).reset_index(drop=True)
    images = answering.decoded(captioned(64).reset_index(drop=True), vlm)
    shown = table["sample_id"].tolist()
    one, many = (answering.answer_all(vlm, table, images, shown, batch_size=b, label="test") for b in (1, 7))
    assert one == many and len(one) == len(table)
    i = 3
    same_task = table["answer"][table["task"] == table["task"][i]]
    longest = max(len(vlm.text_ids(answer)) for answer in same_task) + answering.SPARE_TOKENS
    expected = vlm.answer([table["question"][i]], [images[shown[i]]], max_new_tokens=longest)
    assert [one[i]] == expected


def test_the_shown_image_is_the_one_that_is_answered_about():
    vlm = talkative()
    table = of_task("reid", ["5"])
    shape = 1, 64, 64
    black, noise = np.zeros(shape, np.uint8), np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    images = {"black": black, "noise": noise}
    answers = [answering.answer_all(vlm, table, images, [name], batch_size=1, label="test") for name in images]
    assert answers[0] != answers[1]


def test_failures_are_the_first_wrong_choice_and_the_worst_error():
    rows = pd.concat(
        [
            scored(of_task("reid", ["5", "3", "4"]), ["5", "2", "2"], "fine_tuned"),
            scored(of_task("aerial_counting", [7] * 3), ["<num>7</num>", "<num>6</num>", "x"], "fine_tuned"),
            scored(of_task("relationship", ["yes"]), ["yes"], "fine_tuned"),
            scored(of_task("relationship", ["yes"]), ["no"], "zero_shot"),
        ],
        ignore_index=True,
    )
    failures = answering.first_failures(rows, "fine_tuned")
    assert failures[["task", "question_id"]].to_numpy().tolist() == [["reid", "q1"], ["aerial_counting", "q2"]]


def test_metrics_are_means_by_setting_and_task():
    means = pd.DataFrame(
        {
            "setting": ["zero_shot", "zero_shot", "shuffled"],
            "task": ["reid", "scene", "reid"],
            "score": [1 / 3, 50, np.nan],
        }
    )
    assert answering.metrics(means) == {"zero_shot": {"reid": 0.3333, "scene": 50.0}}


def test_only_differences_beyond_chance_count_as_better_than_blind():
    def predictions(task, score, blind):
        return pd.DataFrame(
            {
                "variant": "cl",
                "seed": 0,
                "setting": "fine_tuned",
                "task": task,
                "group": [f"g{i}" for i in range(8)],
                "question_id": [f"{task}{i}" for i in range(8)],
                "score": np.asarray(score, float),
                "blind": np.asarray(blind, float),
                "chance": 0.0,
            }
        )

    parts = [
        predictions("reid", [100] * 8, [0] * 8),
        predictions("location", [300] * 8, [100] * 8),
        predictions("aerial_counting", [1] * 8, [3] * 8),
        predictions("scene", [100, 0] * 4, [0, 100] * 4),
    ]
    found = against_blind(pd.concat(parts, ignore_index=True), seed=0, draws=100)
    # Fewer errors are better: re-identification and counting win, location loses, scene is a draw.
    assert found[["better", "worse", "tasks"]].to_numpy().tolist() == [[2, 1, 4]]


def test_the_summary_names_variant_setting_and_column():
    summary = pd.DataFrame(
        {
            "variant": ["cl", "cl", "none"],
            "setting": ["fine_tuned"] * 3,
            "column": ["reid", "psum", "reid"],
            "mean": [71.23456, 400.0, np.nan],
        }
    )
    found = summary_json(summary, {"samples": 5, "simulated": 5, "bands": {}})
    assert found == {
        "data": {"samples": 5, "simulated": 5},
        "means": {"cl": {"fine_tuned": {"reid": 71.2346, "psum": 400.0}}},
    }
