import copy

import numpy as np
import pandas as pd
import pytest
import torch
from miniature import captioned
from test_clip import small

from irgpt_lib import params
from irgpt_lib.evaluation import stability


def config(**changes):
    difficulty = params.load("difficulty", profile="smoke").difficulty
    return difficulty.model_copy(update={"precision": "exact", "batch_size": 8, "bank": 16} | changes)


def two_domains(n=40, m=30, d=6, seed=0, shift=1.0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=rng), torch.randn(m, d, generator=rng) + shift


def ids(n=40):
    return [f"s{i}" for i in range(n)]


def features():
    infrared, visible = two_domains()
    return {"infrared": infrared, "visible": visible}


def distances(others=None, names=None, steps=1):
    return stability.distances(features(), others or {}, names or ids(), config(), steps=steps)


def scores(lesson1, lesson2):
    n = len(lesson1)
    table = pd.DataFrame({"sample_id": ids(n), "group": "", "distance": lesson1, "clip_loss": lesson2})
    return table.assign(rank=stability._rank(table, config()).to_numpy())


def agreement(table, **changed):
    return stability.agreement_table(table, changed, config(), seed=0, draws=20)


def test_every_bandwidth_but_the_own_one_and_every_extractor_has_a_column():
    infrared, visible = two_domains(d=5, seed=1)
    others = {f"{domain}.{name}": x for name in "ba" for domain, x in (("infrared", infrared), ("visible", visible))}
    found = distances(others, steps=2)
    widths = [f"bandwidth x{factor}" for factor in ("2.00", "1.41", "0.71", "0.50")]
    assert list(found) == [*widths, "extractor a", "extractor b"]
    assert list(found.index) == ids()
    np.testing.assert_array_equal(found["extractor a"], found["extractor b"])


def test_an_extractor_that_only_scales_its_features_changes_no_distance():
    own = features()
    others = {f"{name}.own": x for name, x in own.items()} | {f"{name}.scaled": 3 * x for name, x in own.items()}
    both = distances(others)
    np.testing.assert_allclose(both["extractor scaled"], both["extractor own"], rtol=1e-5)


def test_features_of_another_dataset_are_refused():
    with pytest.raises(ValueError, match="39 samples, but features of 40"):
        distances(names=ids(39))


def test_another_seed_gives_another_loss_and_leaves_the_reader_alone():
    rows = captioned(24).assign(group="")
    reader = small()
    before = copy.deepcopy(reader.model.state_dict())
    one = config(warm_up_epochs=1, warm_up_lr=2e-3)
    found = stability.losses(reader, rows, one, [1, 2, 1])
    for table in (found["clip_loss"], found["alpha"]):
        assert list(table) == ["warm-up seed 1", "warm-up seed 2"]
        assert table.index.tolist() == rows["sample_id"].tolist()
        assert not np.allclose(table["warm-up seed 1"], table["warm-up seed 2"])
    assert all(torch.equal(value, before[name]) for name, value in reader.model.state_dict().items())


def random_scores(seed=0):
    rng = np.random.default_rng(seed)
    return scores(rng.normal(size=40), rng.normal(size=40)).assign(alpha=rng.normal(size=40))


def test_the_same_scores_agree_fully_and_reversed_ones_not_at_all():
    table = random_scores()
    own = pd.DataFrame({"same": table["distance"].to_numpy(), "reversed": -table["distance"].to_numpy()}, index=ids())
    losses = pd.DataFrame({"same": table["clip_loss"].to_numpy()}, index=ids())
    found = agreement(table, distance=own, clip_loss=losses).set_index(["score", "changed"])
    for score in ("distance", "clip_loss"):
        same = found.loc[(score, "same"), ["tau", "low", "high", "rank_tau", "same_tenth"]]
        assert same.tolist() == pytest.approx([1, 1, 1, 1, 1])
    turned = found.loc[("distance", "reversed")]
    # half of the ranking is the other lesson, which did not change
    assert turned["tau"] == pytest.approx(-1) and -1 < turned["rank_tau"] < 1 and turned["same_tenth"] < 1
    assert (found["groups"] == 40).all()


def test_alpha_is_no_part_of_the_ranking():
    table = random_scores()
    found = agreement(table, alpha=pd.DataFrame({"x": table["alpha"].to_numpy()}, index=ids())).iloc[0]
    assert found["tau"] == pytest.approx(1) and np.isnan(found["rank_tau"]) and np.isnan(found["same_tenth"])


def test_a_sample_that_leaves_its_tenth_is_counted():
    table = scores(np.arange(40.0), np.arange(40.0))
    swapped = np.arange(40.0)
    swapped[[0, 39]] = swapped[[39, 0]]
    found = agreement(table.assign(clip_loss=0.0), distance=pd.DataFrame({"x": swapped}, index=ids()))
    assert found["same_tenth"].tolist() == [0.95]


def test_the_order_of_rows_does_not_matter():
    table, rng = random_scores(1), np.random.default_rng(2)
    first, second = (pd.DataFrame({name: rng.normal(size=40)}, index=ids()) for name in ("a", "b"))
    shuffled = {"distance": first.sample(frac=1, random_state=0), "clip_loss": second.sample(frac=1, random_state=1)}
    pd.testing.assert_frame_equal(agreement(table, distance=first, clip_loss=second), agreement(table, **shuffled))


def test_a_sample_without_a_changed_score_is_refused():
    with pytest.raises(ValueError, match="1 samples have no changed distance, the first is 's39'"):
        agreement(random_scores(), distance=pd.DataFrame({"a": np.arange(39.0)}, index=ids(39)))
