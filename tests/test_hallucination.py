"""Questions about what is not there: sound by construction, counted so that yes-sayers gain nothing."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score

from irgpt_lib.evaluation import hallucination as way
from irgpt_lib.irtd.record import Box, Point, Sample
from irgpt_lib.irtd.simulated import world

BOOTSTRAP = {"seed": 0, "draws": 200}


def scene(name, *categories, source="one", kind="scene", points=()):
    """Objects in a row from left to right, in an image of 100 pixels."""
    places = (5.0 + 30 * i for i in range(len(categories)))
    boxes = tuple(Box(category, x, 20, x + 20, 60) for category, x in zip(categories, places, strict=True))
    made = tuple(Point(category, 50, 50) for category in points)
    return Sample(name, source, "tir", kind, 100, 100, b"", boxes=boxes, points=made, caption=f"A {name}.", group=name)


def samples():
    return [
        scene("a", "car", "dog"),
        scene("b", "person", "car", "dog"),
        scene("c", "dog", "boat"),
        scene("d", "person"),
        scene("e", "boat", "car"),
        scene("f", "bus", source="two"),
    ]


def shown(table):
    return {sample.sample_id: {box.category for box in sample.boxes} for sample in table}


def truthful(table):
    """The answers of someone who sees everything and answers as the grammar has it."""
    return [row["answer"] or None for row in table.to_dict("records")]


def claim_table(pairs, groups=None):
    """Claims of one probe from (present, claimed) pairs."""
    rows = [["security", f"q{i}", f"s{i}", f"g{i}", "tir", "car", *pair] for i, pair in enumerate(pairs)]
    table = pd.DataFrame(rows, columns=[*way.CLAIM_COLUMNS[:7], "claimed"]).assign(read=True)
    return table.assign(group=groups if groups is not None else table["group"])[way.CLAIM_COLUMNS]


def value(rates, measure, column="value", probe="security"):
    return rates[(rates["measure"] == measure) & (rates["probe"] == probe)][column].iloc[0]


# the probes


def test_every_probe_asks_what_the_sample_settles():
    table = way.probes(samples(), 20, seed=0)
    there = shown(samples())
    for row in table.to_dict("records"):
        for category, present in json.loads(row["asked"]).items():
            assert (category in there[row["sample_id"]]) == present, row
    assert set(table["task"]) == set(way.PROBES)
    assert table["question_id"].is_unique


def test_a_category_that_a_source_does_not_annotate_is_not_called_absent():
    table = way.probes(samples(), 50, seed=0)
    foreign = table[table["sample_id"] == "f"]
    asked = {category for asked in foreign["asked"] for category in json.loads(asked)}
    # the second source knows nothing but buses; a car in its images would have no box
    assert asked <= {"bus"}
    own = {category for asked in table["asked"][table["sample_id"] == "a"] for category in json.loads(asked)}
    assert "bus" not in own


def test_what_is_annotated_by_a_point_is_there():
    table = way.probes([scene("a", "car", points=["person"]), scene("b", "person", "car", "dog")], 20, seed=0)
    about = [json.loads(asked) for asked in table["asked"][table["sample_id"] == "a"]]
    assert not any("person" in asked for asked in about)


def test_twins_differ_in_the_object_alone():
    table = way.probes(samples(), 20, seed=0)
    for probe in ("relationship", "grounding", "location"):
        own = table[table["task"] == probe]
        assert len(own) >= 4
        for present, absent in zip(own.iloc[::2].itertuples(), own.iloc[1::2].itertuples(), strict=True):
            (name, yes), (other, no) = (*json.loads(present.asked).items(), *json.loads(absent.asked).items())
            assert (yes, no) == (True, False)
            assert present.sample_id == absent.sample_id
            head, _, tail = (
                present.question.rpartition(f" {name}")
                if probe != "relationship"
                else (*present.question.partition(f" {name} on"),)
            )
            assert absent.question.startswith(head) and absent.question.endswith(tail)
            assert f" {other}" in absent.question


def test_grounding_twins_keep_the_place():
    table = way.probes([scene("a", "car", "car"), scene("b", "dog")], 4, seed=0)
    asked = set(table[(table["task"] == "grounding") & (table["sample_id"] == "a")]["question"])
    place = next(text for text in asked if "car" in text).partition("car")[2]
    assert place.startswith(" located at the ")
    assert f"Detect the bounding box of the dog{place}" in asked


def test_counting_asks_as_often_about_scenes_without_the_object():
    table = way.probes(samples(), 4, seed=0)
    for probe in ("aerial_counting", "pedestrian_counting"):
        truths = [json.loads(truth) for truth in table[table["task"] == probe]["truth"]]
        assert len(truths) == 4
        assert truths.count(0) == 2


def test_probes_follow_their_seed():
    one, same, other = (way.probes(samples(), 10, seed=seed) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(one, same)
    assert not one.equals(other)


def test_samples_without_an_absent_object_are_refused():
    with pytest.raises(ValueError, match="of 2 samples 1 are scenes with a box"):
        way.probes([scene("a", "car"), scene("b", "car", kind="aerial")], 4, seed=0)


def test_the_simulated_world_carries_every_probe():
    made, _ = next(world.generate(64, seed=3, size=64, mix={"scene": 0.7, "pair": 0.3}))
    table = way.probes(made, 10, seed=0)
    assert table.groupby("task").size().to_dict() == dict.fromkeys(way.PROBES, 10)


# what an answer claims


def test_the_truth_claims_what_is_there():
    table = way.probes(samples(), 30, seed=0)
    able = table[~table["task"].isin([*way.CANNOT_DENY, way.CAPTION])]
    found = way.claims(able, truthful(able))
    assert (found["claimed"] == found["present"]).all()
    assert found["read"].all()
    silent = table[table["task"].isin(way.CANNOT_DENY)]
    found = way.claims(silent, truthful(silent))
    assert (found["claimed"] == found["present"]).all()


@pytest.mark.parametrize("text", [None, "", "no idea", "(Z) nothing"])
def test_an_answer_that_cannot_be_read_is_wrong_about_both(text):
    table = way.probes(samples(), 10, seed=0)
    able = table[~table["task"].isin([*way.CANNOT_DENY, way.CAPTION])]
    found = way.claims(able, [text] * len(able))
    assert not found["read"].any()
    assert (found["claimed"] != found["present"]).all()


def test_a_letter_before_another_option_denies_neither():
    table = way.probes(samples(), 4, seed=0)
    security = table[table["task"] == "security"].head(1)
    options = json.loads(security["options"].iloc[0])
    assert not way.claims(security, [f"(A) {options[1]}"])["read"].any()
    assert way.claims(security, [f"(A) {options[0]}"])["read"].all()


def test_a_caption_claims_the_words_in_it():
    table = way.probes(samples(), 4, seed=0)
    caption = table[table["task"] == way.CAPTION].head(1)
    found = way.claims(caption, ["Two people and a carpet; Boats."]).set_index("category")["claimed"]
    assert found[["person", "boat"]].all()
    assert not found[["car", "dog"]].any()


def test_as_many_answers_as_probes_are_asked_for():
    with pytest.raises(ValueError, match="answers"):
        way.claims(way.probes(samples(), 4, seed=0), ["yes"])


# the rates


def test_rates_are_counted_by_presence():
    pairs = [(False, True)] * 1 + [(False, False)] * 3 + [(True, True)] * 6 + [(True, False)] * 2
    found = way.rates(claim_table(pairs), **BOOTSTRAP)
    assert value(found, "false_alarm") == 25.0
    assert value(found, "hit") == 75.0
    present, said = zip(*pairs, strict=True)
    assert value(found, "balanced_accuracy") == pytest.approx(100 * balanced_accuracy_score(present, said))
    assert value(found, "d_prime") == pytest.approx(
        0.5244 + 0.5895, abs=1e-3
    )  # z(6.5 / 9) = 0.5895, z(1.5 / 5) = -0.5244
    assert value(found, "hit", "absent") == 4 and value(found, "hit", "present") == 8


@given(st.floats(0, 1), st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_who_says_yes_at_a_rate_knows_nothing(rate, seed):
    present = np.arange(400) % 2 == 0
    said = np.repeat(np.random.default_rng(seed).random(200) < rate, 2)
    found = way.rates(claim_table(list(zip(present.tolist(), said.tolist(), strict=True))), seed=0, draws=2)
    assert value(found, "balanced_accuracy") == 50.0
    assert value(found, "d_prime") == 0.0


def test_refusing_never_helps():
    table = way.probes(samples(), 30, seed=0)
    able = table[~table["task"].isin([*way.CANNOT_DENY])]
    rng = np.random.default_rng(0)
    said = [str(text) for text in rng.permutation(able["answer"].tolist())]
    partly = [None if drop else text for text, drop in zip(said, rng.random(len(said)) < 0.5, strict=True)]
    one, other = (way.rates(way.claims(able, given), seed=0, draws=2) for given in (said, partly))
    for probe in set(able["task"]):
        assert value(other, "false_alarm", probe=probe) >= value(one, "false_alarm", probe=probe)
        assert value(other, "hit", probe=probe) <= value(one, "hit", probe=probe)


def test_intervals_resample_groups():
    pairs = [(False, i % 2 == 0) for i in range(40)] + [(True, True)] * 40
    alone = way.rates(claim_table(pairs), **BOOTSTRAP)
    together = way.rates(claim_table(pairs, groups=[f"g{i % 2}" for i in range(80)]), **BOOTSTRAP)
    width = [value(found, "false_alarm", "high") - value(found, "false_alarm", "low") for found in (alone, together)]
    assert width[1] > 2 * width[0] > 0
    assert value(alone, "false_alarm", "low") < 50 < value(alone, "false_alarm", "high")


def test_a_rate_of_nought_has_the_limits_of_its_groups():
    pairs = [(False, False)] * 20 + [(True, True)] * 20
    found = way.rates(claim_table(pairs), **BOOTSTRAP)
    assert (value(found, "false_alarm", "low"), value(found, "hit", "high")) == (0.0, 100.0)
    # Clopper and Pearson: 1 - 0.025 ** (1 / 20)
    assert value(found, "false_alarm", "high") == pytest.approx(100 * (1 - 0.025 ** (1 / 20)))
    assert value(found, "hit", "low") == pytest.approx(100 * 0.025 ** (1 / 20))


def test_without_absent_asks_there_is_no_rate():
    found = way.rates(claim_table([(True, True), (True, False)]), **BOOTSTRAP)
    assert np.isnan(value(found, "false_alarm")) and np.isnan(value(found, "d_prime"))
    assert value(found, "hit") == 50.0


def test_one_group_gives_no_interval():
    found = way.rates(claim_table([(True, True), (False, True), (False, False)], groups=["g"] * 3), **BOOTSTRAP)
    assert found[["low", "high"]].isna().all(axis=None)


def test_changes_compare_the_same_asks():
    before = claim_table([(False, True)] * 10 + [(True, True)] * 10)
    after = claim_table([(False, False)] * 10 + [(True, True)] * 10)
    asked = pd.concat([before.assign(model="a"), after.assign(model="b")], ignore_index=True)
    found = way.changes(asked, "a", "b", model="model", **BOOTSTRAP).set_index("measure")
    assert found.loc["false_alarm", ["difference", "low", "high"]].tolist() == [-100.0] * 3
    assert found.at["hit", "difference"] == 0
    assert found.at["false_alarm", "p"] < 0.05 < found.at["hit", "p"]
    with pytest.raises(ValueError, match="not asked the same"):
        way.changes(asked.iloc[1:], "a", "b", model="model", **BOOTSTRAP)


def test_confidence_can_tell_where_words_cannot():
    pairs = [(False, True)] * 20 + [(True, True)] * 20
    asked = claim_table(pairs).assign(probe="grounding")
    found = way.confidence_auc(asked, np.r_[np.linspace(-3, -2, 20), np.linspace(-1, 0, 20)], **BOOTSTRAP)
    assert found[["probe", "auc", "asks"]].to_numpy().tolist() == [["grounding", 1.0, 40]]
    assert way.confidence_auc(claim_table(pairs), np.zeros(40), **BOOTSTRAP).empty


def test_examples_are_absent_objects_that_a_model_saw():
    right, wrong = (claim_table([(False, said)] + [(True, True)] * 5 + [(False, False)] * 9) for said in (False, True))
    asked = pd.concat([right.assign(model="a"), wrong.assign(model="b")], ignore_index=True)
    assert way.example_probes(asked, "model", seed=5)["question_id"].tolist() == ["q0"]
    none = way.example_probes(right.assign(model="a"), "model", seed=5)
    assert none["question_id"].iloc[0] in {"q0", *(f"q{i}" for i in range(6, 15))}
    assert list(none) == ["probe", "question_id", "category"]
