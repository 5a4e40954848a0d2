import numpy as np
import pytest
import torch
from torch import nn

from irgpt_lib.training.draws import KeyedDropout, draw_key, draws_of, jitter_tone, kept, keyed_dropout

KEYS = torch.tensor([draw_key(0, 0, name) for name in "abcd"])


def image():
    return np.linspace(0, 255, 64 * 64).reshape(64, 64).astype(np.uint8)


def test_a_key_is_the_same_everywhere_and_follows_seed_visit_and_sample():
    assert draw_key(0, 0, "a") == 4408071414745896774
    keys = {draw_key(seed, visit, name) for seed in (0, 1) for visit in (0, 1) for name in ("a", "b", "1/a")}
    assert len(keys) == 12 and all(0 <= key < 2**63 for key in keys)


def test_visits_count_over_samples_not_over_places_in_the_data():
    draws = draws_of([[0, 1], [2, 0]], ["a", "b", "a"], seed=5)
    assert [[(d.index, d.visit) for d in batch] for batch in draws] == [[(0, 0), (1, 0)], [(2, 1), (0, 2)]]
    assert draws[1][0].key == draw_key(5, 1, "a")


def test_a_toned_image_depends_on_its_key_only():
    first = jitter_tone(image(), 1)
    np.random.seed(9)
    assert (jitter_tone(image(), 1) == first).all() and (jitter_tone(image(), 2) != first).any()
    assert first.dtype == np.uint8 and first.shape == (64, 64)


def test_tone_keeps_hot_above_cold_and_moves_nothing():
    rows = np.stack([jitter_tone(image(), key).mean(1) for key in range(20)])
    assert (np.diff(rows[:, ::8], axis=1) > -3).all()
    assert np.abs(rows - image().mean(1)).mean() > 5, "it does change the tone"


@pytest.mark.parametrize("p", [0.05, 0.5])
def test_dropout_keeps_the_share_it_should(p):
    share = kept(KEYS, 3, (200, 300), p).float()
    assert share.mean().item() == pytest.approx(1 - p, abs=0.003)
    for over in ((1, 2), (0, 2), (0, 1)):
        spread = share.mean(over).std().item()
        assert spread < 3 * (p * (1 - p) / (share.numel() / share.mean(over).numel())) ** 0.5


def test_masks_of_samples_layers_and_visits_are_not_alike():
    other = torch.tensor([draw_key(0, 1, name) for name in "abcd"])
    masks = [kept(KEYS, 0, (90, 90), 0.5), kept(KEYS, 1, (90, 90), 0.5), kept(other, 0, (90, 90), 0.5)]
    rows = torch.cat(masks).flatten(1).double()
    correlation = torch.corrcoef(rows) - torch.eye(len(rows))
    assert correlation.abs().max() < 0.05


def test_a_mask_does_not_depend_on_padding_or_on_the_rest_of_the_batch():
    whole = kept(KEYS, 2, (50, 16), 0.3)
    assert torch.equal(kept(KEYS[2:3], 2, (50, 16), 0.3), whole[2:3])
    assert torch.equal(kept(KEYS, 2, (31, 16), 0.3), whole[:, :31])


def test_dropout_scales_what_it_keeps_and_rests_in_evaluation():
    model = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.0))
    x = torch.ones(4, 6, 8)
    with keyed_dropout(model) as keys:
        keys.now = KEYS
        assert isinstance(model[0], KeyedDropout) and isinstance(model[1], nn.Dropout)
        state = torch.get_rng_state()
        out = model(x)
        assert set(out.unique().tolist()) == {0.0, 2.0} and torch.equal(out, model(x))
        assert torch.equal(state, torch.get_rng_state())
        assert torch.equal(model.eval()(x), x)
    assert isinstance(model[0], nn.Dropout)


def test_rows_without_a_key_are_refused():
    model = nn.Sequential(nn.Dropout(0.5))
    with keyed_dropout(model) as keys, pytest.raises(ValueError, match="meets 3 rows and keys of 4 samples"):
        keys.now = KEYS
        model(torch.ones(3, 2))


def test_dropout_inside_attention_is_refused():
    model = nn.Sequential(nn.Linear(1, 1))
    model.config = type("Config", (), {"attention_dropout": 0.1})()
    with pytest.raises(ValueError, match="attention_dropout is 0.1"), keyed_dropout(model):
        pass
