import pytest
import torch

from irgpt_lib.curriculum.mmd import projected_distance, rank_agreement
from irgpt_lib.curriculum.random_features import approximate_distance


def domains(n=300, m=200, d=16):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, d, generator=generator), torch.randn(m, d, generator=generator) + 0.5


@pytest.mark.parametrize("bandwidth", [4.0, [3.0, 6.0]])
def test_more_features_come_closer(bandwidth):
    x, y = domains()
    exact = projected_distance(x, y, bandwidth=bandwidth)
    lessons = [approximate_distance(x, y, bandwidth=bandwidth, features=f, seed=0) for f in (64, 8192)]
    few, many = (rank_agreement(x, y, lesson, seed=0).spearman for lesson in lessons)
    assert few < many and many > 0.995
    assert lessons[1].mmd_squared == pytest.approx(exact.mmd_squared, rel=0.05)
    torch.testing.assert_close(lessons[1].to_visible, exact.to_visible, atol=0.02, rtol=0)


def test_the_kernel_is_met_on_average_over_seeds():
    x, y = torch.zeros(1, 3), torch.tensor([[1.0, 2.0, 0.0]])
    found = [approximate_distance(x, y, bandwidth=2.0, features=6, seed=s).to_visible.item() for s in range(600)]
    assert sum(found) / len(found) == pytest.approx(torch.tensor(-5 / 8).exp().item(), abs=0.03)


def test_features_in_parts_are_the_features_at_once():
    x, y = domains()
    whole = approximate_distance(x, y, bandwidth=4.0, features=128, seed=0)
    parts = approximate_distance(x, y, bandwidth=4.0, features=128, seed=0, memory_mb=0.01)
    torch.testing.assert_close(parts.distance, whole.distance, rtol=1e-5, atol=1e-5)
    assert parts.distance.mean().item() == pytest.approx(parts.mmd, rel=1e-6)


def test_the_printed_sign_turns_the_order_round():
    x, y = domains(20, 20)
    drawn, printed = (
        approximate_distance(x, y, bandwidth=4.0, features=64, seed=0, sign=s).distance for s in ("figure", "printed")
    )
    assert drawn.argsort().tolist() == printed.argsort(descending=True).tolist()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"features": 7}, "even"), ({"features": 0}, "at least two"), ({"memory_mb": 0}, "memory_mb must be positive")],
)
def test_impossible_settings_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        approximate_distance(*domains(4, 4), **({"bandwidth": 1.0, "features": 8, "seed": 0} | wrong))


def test_identical_domains_have_no_direction():
    x, _ = domains(50)
    with pytest.raises(ValueError, match="no direction"):
        approximate_distance(x, x.flip(0), bandwidth=4.0, features=64, seed=0)
