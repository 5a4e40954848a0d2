from itertools import combinations

import numpy as np
import pytest
import torch

from irgpt_lib.curriculum.mmd import projected_distance
from irgpt_lib.curriculum.permutation import permutation_test


def rows(n, seed, shift=0.0, d=3):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def test_the_observed_value_is_the_mmd():
    x, y = rows(40, 0), rows(30, 1, shift=0.5)
    found = permutation_test(x, y, bandwidth=[1.0, 2.0], seed=0, permutations=20)
    assert found.mmd_squared == pytest.approx(projected_distance(x, y, bandwidth=[1.0, 2.0]).mmd_squared)
    assert (found.infrared_samples, found.visible_samples, found.permutations) == (40, 30, 20)


def test_the_p_value_is_that_of_all_relabellings():
    x, y = rows(4, 0), rows(4, 1, shift=1.0)
    kernel = (torch.cdist(both := torch.cat([x, y]), both).square() / -2).exp().numpy()

    def mmd_squared(members):
        side = np.array([1 / 4 if i in members else -1 / 4 for i in range(8)])
        return side @ kernel @ side

    values = [mmd_squared(members) for members in combinations(range(8), 4)]
    exact = np.mean(np.array(values) >= mmd_squared(range(4)) - 1e-12)
    found = permutation_test(x, y, bandwidth=1.0, seed=0, permutations=4000)
    assert found.p_value == pytest.approx(exact, abs=0.03)


def test_far_domains_give_the_least_p_value_and_never_zero():
    found = permutation_test(rows(60, 0), rows(60, 1, shift=2.0), bandwidth=2.0, seed=0, permutations=299)
    assert found.p_value == 1 / 300
    assert found.mmd_squared > found.null_95


def test_one_distribution_is_refused_as_often_as_the_level_says():
    p_values = [
        permutation_test(rows(25, 2 * s), rows(25, 2 * s + 1), bandwidth=2.0, seed=s, permutations=99).p_value
        for s in range(200)
    ]
    assert np.mean(np.array(p_values) <= 0.1) == pytest.approx(0.1, abs=0.06)
    assert 0.4 < np.mean(p_values) < 0.6


def test_a_subsample_is_drawn_by_the_seed():
    x, y = rows(80, 0), rows(80, 1, shift=0.3)
    first, again, other = (permutation_test(x, y, bandwidth=2.0, seed=s, sample=20, permutations=50) for s in (1, 1, 2))
    assert first == again
    assert first.mmd_squared != other.mmd_squared
    assert first.infrared_samples == first.visible_samples == 20


@pytest.mark.parametrize("wrong", [{"permutations": 0}, {"sample": 0}])
def test_a_test_needs_rows_and_permutations(wrong):
    with pytest.raises(ValueError, match="must be at least 1"):
        permutation_test(rows(3, 0), rows(3, 1), bandwidth=1.0, seed=0, **wrong)
