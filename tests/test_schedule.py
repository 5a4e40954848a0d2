import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from irgpt_lib import params
from irgpt_lib.curriculum.ranking import tiers
from irgpt_lib.curriculum.schedule import (
    CUMULATIVE,
    ORDER_COLUMNS,
    SCHEDULES,
    STRATIFIED,
    batches,
    check_order,
    from_params,
    order,
    order_table,
    phases,
)

property_test = settings(max_examples=60, deadline=None, database=None)

# Sample 4 is the easiest, then 2, 0, 3, 1.
RANK = torch.tensor([2, 4, 1, 3, 0])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ascending", [4, 2, 0, 3, 1]),
        ("descending", [1, 3, 0, 2, 4]),
        ("bidirectional", [4, 1, 2, 3, 0]),
    ],
)
def test_unshuffled_schedules_follow_the_rank(name, expected):
    assert order(name, RANK, tiers=1, seed=0).tolist() == expected


@given(st.permutations(range(12)), st.integers(1, 12), st.integers(0, 100), st.sampled_from(sorted(SCHEDULES)))
@property_test
def test_every_schedule_visits_every_sample_once(rank, m, seed, name):
    assert sorted(order(name, torch.tensor(rank), tiers=m, seed=seed).tolist()) == list(range(12))


@given(st.permutations(range(12)), st.integers(1, 12), st.integers(0, 100))
@property_test
def test_stratified_schedules_run_through_the_tiers_in_sequence(rank, m, seed):
    rank = torch.tensor(rank)
    tier = tiers(rank, m)
    assert (tier[order("ascending_stratified", rank, tiers=m, seed=seed)].diff() >= 0).all()
    assert (tier[order("descending_stratified", rank, tiers=m, seed=seed)].diff() <= 0).all()


@pytest.mark.parametrize("name", ["random", *sorted(STRATIFIED)])
def test_a_seed_repeats_a_shuffle_and_another_seed_changes_it(name):
    first, again, other = (order(name, torch.arange(40), tiers=4, seed=seed).tolist() for seed in (1, 1, 2))
    assert first == again != other
    assert first != sorted(first)


def test_as_many_tiers_as_samples_leave_nothing_to_shuffle():
    assert torch.equal(order("ascending_stratified", RANK, tiers=5, seed=3), order("ascending", RANK, tiers=5, seed=3))


def test_both_stratified_schedules_shuffle_a_tier_alike():
    up, down = (order(name, torch.arange(9), tiers=3, seed=0).tolist() for name in sorted(STRATIFIED))
    assert [up[0:3], up[3:6], up[6:9]] == [down[6:9], down[3:6], down[0:3]]


def test_each_tier_has_a_shuffle_of_its_own():
    samples = order("ascending_stratified", torch.arange(40), tiers=2, seed=0)
    assert not torch.equal(samples[:20], samples[20:] - 20)


def test_an_unknown_schedule_is_answered_with_those_that_exist():
    with pytest.raises(ValueError, match="unknown schedule .easy_first.: choose one of ascending, desc"):
        order("easy_first", RANK, tiers=1, seed=0)


def test_more_tiers_than_samples_are_refused():
    with pytest.raises(ValueError, match="5 samples cannot fill 6 tiers"):
        order("ascending_stratified", RANK, tiers=6, seed=0)


def test_a_rank_that_is_no_permutation_is_refused():
    with pytest.raises(ValueError, match="rank must hold"):
        order("ascending", torch.tensor([1, 2, 3]), tiers=1, seed=0)


def test_no_batch_spans_two_tiers():
    tier = torch.tensor([0, 0, 0, 1, 1])
    assert batches(torch.tensor([2, 0, 1, 4, 3]), tier, 2) == [[2, 0], [1], [4, 3]]


def test_one_tier_is_cut_into_whole_batches():
    assert batches(torch.tensor([3, 1, 0, 2]), torch.zeros(4, dtype=torch.int64), 2) == [[3, 1], [0, 2]]


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 50), st.data())
@property_test
def test_batches_hold_the_order_and_one_tier_each(n, batch_size, seed, data):
    m = data.draw(st.integers(1, n))
    rank = torch.arange(n)
    tier, samples = tiers(rank, m), order("descending_stratified", rank, tiers=m, seed=seed)
    cut = batches(samples, tier, batch_size)
    assert [i for batch in cut for i in batch] == samples.tolist()
    assert all(1 <= len(batch) <= batch_size and len(set(tier[batch].tolist())) == 1 for batch in cut)


def test_an_order_that_returns_to_a_tier_is_refused():
    with pytest.raises(ValueError, match="enters 2 tiers 3 times"):
        batches(torch.tensor([0, 1, 2]), torch.tensor([0, 1, 0]), 2)


def test_a_batch_holds_at_least_one_sample():
    with pytest.raises(ValueError, match="batch_size must be positive"):
        batches(torch.tensor([0]), torch.tensor([0]), 0)


def test_the_baby_step_draws_from_a_growing_set():
    n, m = 60, 4
    drawn = order(CUMULATIVE, torch.arange(n), tiers=m, seed=0)
    assert len(drawn) == n
    for phase, samples in enumerate(drawn.split(n // m)):
        assert samples.max() < (phase + 1) * n // m  # rank = index: none beyond the tiers met so far
    assert len(set(drawn.tolist())) < n  # with replacement
    assert drawn[-15:].min() < 45  # the last phase draws from all tiers, not from its own


def test_over_many_seeds_the_baby_step_sees_easy_samples_as_often_as_it_should():
    counts = sum(
        np.bincount(order(CUMULATIVE, torch.arange(8), tiers=2, seed=seed).numpy(), minlength=8) for seed in range(400)
    )
    # an easy sample is one of 4 in 4 draws, then one of 8 in 4 draws; a hard one only the latter
    np.testing.assert_allclose(counts / 400, [1.5] * 4 + [0.5] * 4, atol=0.25)


def test_with_one_tier_the_baby_step_is_a_bootstrap_sample():
    assert set(order(CUMULATIVE, RANK, tiers=1, seed=0).tolist()) <= {0, 1, 2, 3, 4}


@given(st.integers(1, 30), st.integers(1, 9), st.integers(0, 50), st.data())
@property_test
def test_the_baby_step_takes_as_many_steps_as_the_tiers(n, batch_size, seed, data):
    m = data.draw(st.integers(1, n))
    given_scores = scores(n)
    one, other = (
        table(given_scores, schedule=name, tiers=m, batch_size=batch_size, seed=seed)
        for name in (CUMULATIVE, "ascending_stratified")
    )
    assert one["batch"].tolist() == other["batch"].tolist() and len(one) == n


def test_phases_follow_the_tiers_in_the_order_of_the_schedule():
    rank = torch.arange(5)
    assert phases("ascending_stratified", rank, tiers=2).tolist() == [0, 0, 0, 1, 1]
    assert phases("descending_stratified", rank, tiers=2).tolist() == [0, 0, 1, 1, 1]
    assert phases(CUMULATIVE, rank, tiers=2).tolist() == [0, 0, 0, 1, 1]
    assert phases("random", rank, tiers=2).tolist() == [0] * 5


def scores(count=10):
    """Sample `c` has rank (7 c) mod count where that is a permutation, else c."""
    rank = [7 * i % count for i in range(count)] if count % 7 else list(range(count))
    return pd.DataFrame(
        {
            "sample_id": [f"s{i}" for i in range(count)],
            "rank": rank,
            "alpha": np.linspace(-0.5, 0.5, count),
            "distance": np.arange(count, dtype=float),
            "clip_loss": -np.arange(count, dtype=float),
        }
    )


def table(given_scores, **options):
    chosen = {
        "schedule": "ascending_stratified",
        "tiers": 3,
        "weights": "literal",
        "batch_size": 4,
        "epochs": 1,
        "seed": 0,
    }
    return order_table(given_scores, **chosen | options)


@pytest.mark.parametrize("name", [*SCHEDULES, CUMULATIVE])
def test_an_order_has_one_row_a_step_position(name):
    found = table(scores(), schedule=name, epochs=2)
    assert tuple(found) == ORDER_COLUMNS and found["position"].tolist() == list(range(20))
    check_order(found, scores()["sample_id"])
    ranks = scores().set_index("sample_id")["rank"]
    assert found["rank"].tolist() == ranks[found["sample_id"]].tolist()
    assert (found["tier"] == found["rank"] * 3 // 10).all()
    assert found.groupby("batch").size().max() <= 4
    for epoch in (found[:10], found[10:]):
        assert name == CUMULATIVE or sorted(epoch["sample_id"]) == sorted(ranks.index)
    assert found["batch"][9] < found["batch"][10]


@pytest.mark.parametrize("name", sorted(STRATIFIED))
def test_no_batch_of_an_order_spans_two_tiers(name):
    assert (table(scores(), schedule=name).groupby("batch")["tier"].nunique() == 1).all()


def test_an_order_is_that_of_its_schedule_and_seed():
    rank = torch.tensor(scores()["rank"])
    found = table(scores(), epochs=2, seed=3)
    for epoch in range(2):
        expected = order("ascending_stratified", rank, tiers=3, seed=3000 + epoch).tolist()
        assert found["sample_id"][10 * epoch : 10 * epoch + 10].tolist() == [f"s{i}" for i in expected]
    assert found.equals(table(scores(), epochs=2, seed=3))
    assert not found["sample_id"].equals(table(scores(), epochs=2, seed=4)["sample_id"])


def test_a_switched_lesson_ranks_anew_and_alpha_may_be_off():
    found = table(scores(), schedule="ascending", lesson1="none", lesson2="use", weights="none")
    assert found["sample_id"].tolist() == [f"s{i}" for i in reversed(range(10))]
    assert (found["weight"] == 1).all()
    assert table(scores(), schedule="ascending", lesson1="use", lesson2="none")["sample_id"].iloc[0] == "s0"


def test_no_epoch_is_an_empty_order():
    found = table(scores(), epochs=0)
    assert found.empty and tuple(found) == ORDER_COLUMNS
    check_order(found, [])


def test_what_has_no_order_is_refused():
    twice = scores().assign(sample_id=["s0", "s0", *[f"s{i}" for i in range(2, 10)]])
    with pytest.raises(ValueError, match="1 sample ids repeat, the first is 's0'"):
        table(twice)
    with pytest.raises(ValueError, match="10 samples cannot fill 11 tiers"):
        table(scores(), tiers=11)
    with pytest.raises(ValueError, match="1 values of alpha are not finite"):
        table(scores().assign(alpha=[np.nan] + [0.0] * 9))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: t.drop(columns="weight"), r"lacks the columns \['weight'\]"),
        (lambda t: t[1:], "positions are not 0, 1, 2"),
        (lambda t: t.assign(batch=t["batch"] * 2), "batches are not numbered"),
        (lambda t: t.assign(batch=t["batch"] + 1), "batches are not numbered"),
        (lambda t: t.assign(weight=-t["weight"]), "negative or not finite"),
        (lambda t: t.assign(sample_id="x"), "1 samples that are not at hand, the first is 'x'"),
    ],
)
def test_a_damaged_order_is_refused(damage, message):
    with pytest.raises(ValueError, match=message):
        check_order(damage(table(scores())), scores()["sample_id"])


@pytest.mark.parametrize("switch", [{}, {"lesson1": "none"}, {"lesson2": "anti"}])
def test_the_sections_of_params_give_the_same_order(switch):
    options = {
        "schedule": "ascending_stratified",
        "tiers": 3,
        "batch_size": 2,
        "weights": "literal",
        "epochs": 2,
    } | switch
    stage1 = params.load("train", profile="smoke").train.stage1.model_copy(update=options)
    found = from_params(scores(), stage1, params.load("difficulty").difficulty, seed=2)
    pd.testing.assert_frame_equal(found, order_table(scores(), **options, seed=2))
