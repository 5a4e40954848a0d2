import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from irgpt_lib.curriculum.mixture import clean_mixture


def two_hills(clean=300, noisy=100, gap=6.0, seed=0):
    rng = np.random.default_rng(seed)
    losses = np.concatenate([rng.normal(2, 1, clean), rng.normal(2 + gap, 1, noisy)])
    return torch.from_numpy(losses), np.repeat([True, False], [clean, noisy])


def test_two_planted_hills_are_found():
    losses, clean = two_hills()
    found = clean_mixture(losses, seed=0)
    assert found.means == pytest.approx((2, 8), abs=0.3)
    assert found.deviations == pytest.approx((1, 1), abs=0.2)
    assert found.shares == pytest.approx((0.75, 0.25), abs=0.02)
    assert found.separation == pytest.approx(6, abs=0.8)
    assert roc_auc_score(clean, found.clean_probability) > 0.99
    assert ((found.clean_probability > 0.5).numpy() == clean).mean() > 0.99


def test_one_hill_has_a_small_separation():
    losses, _ = two_hills(gap=0.0)
    assert clean_mixture(losses, seed=0).separation < 2 < clean_mixture(two_hills()[0], seed=0).separation


def test_the_unit_of_the_losses_does_not_matter():
    losses, _ = two_hills()
    once, scaled = clean_mixture(losses, seed=0), clean_mixture(1000 * losses - 7, seed=0)
    torch.testing.assert_close(once.clean_probability, scaled.clean_probability)
    assert scaled.means == pytest.approx([1000 * mean - 7 for mean in once.means])


def test_a_seed_repeats_the_mixture():
    losses, _ = two_hills(gap=2.0)
    first, again = (clean_mixture(losses, seed=3) for _ in range(2))
    assert torch.equal(first.clean_probability, again.clean_probability) and first.means == again.means


@pytest.mark.parametrize("losses", [[], [1.0], [1.0, 1.0, 1.0]])
def test_without_two_different_losses_there_is_no_mixture(losses):
    with pytest.raises(ValueError, match="no two different values"):
        clean_mixture(torch.tensor(losses), seed=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_refused_by_sample(bad):
    with pytest.raises(ValueError, match="1 losses are not finite, the first is sample 1"):
        clean_mixture(torch.tensor([1.0, bad, 2.0]), seed=0)
