import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from irgpt_lib.curriculum.ranking import tiers
from irgpt_lib.curriculum.schedule import SCHEDULES, STRATIFIED, batches, order

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
