import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from irgpt_lib.evaluation import difficulty_checks as checks


def planted(**columns):
    """Eight scored samples, every second with a swapped caption."""
    rank = np.arange(8)
    return pd.DataFrame(
        {
            "sample_id": [f"s{i}" for i in rank],
            "group": "",
            "kind": "scene",
            "swapped": [False, True] * 4,
            **{name: rank.astype(float) for name in checks.SCORES},
            **columns,
        }
    )


def test_the_area_under_the_curve_of_four_points_by_hand():
    # Of the four pairs of a positive and a negative, 0.2 < 0.3 alone is in the wrong order.
    table = planted()[:4].assign(swapped=[False, False, True, True], distance=[0.1, 0.3, 0.2, 0.4])
    assert intervals(table, ["distance"], draws=5).loc["distance", "auc"] == 0.75


@pytest.mark.parametrize("swapped", [False, True])
def test_without_both_classes_there_is_no_area(swapped):
    found = intervals(planted(swapped=swapped), ["distance"], draws=5)
    assert found[["auc", "low", "high"]].isna().all().all()


def test_captions_are_compared_within_a_kind_and_averaged_by_size():
    # Montages are far harder than scenes; within the six scenes swapping shows, within the two montages it reverses.
    table = planted(kind=["scene"] * 6 + ["montage"] * 2, clip_loss=[0.0, 1.0] * 3 + [101.0, 100.0])
    found = intervals(table, ["clip_loss"], within="kind", draws=5)
    assert found.loc["clip_loss", "auc"] == pytest.approx(6 / 8)


def clustered(count=60, groups=20, seed=0):
    """Noisy scores of a known truth; samples of one group share their fate."""
    rng = np.random.default_rng(seed)
    group = rng.integers(groups, size=count)
    wrong = group % 3 == 0
    return pd.DataFrame(
        {
            "sample_id": [f"s{i}" for i in range(count)],
            "group": [f"g{i}" for i in group],
            "kind": np.where(group % 2 == 0, "scene", "montage"),
            "swapped": wrong,
            "good": wrong + 0.8 * rng.standard_normal(count),
            "blind": rng.integers(4, size=count).astype(float),
        }
    )


def area(table, name):
    return roc_auc_score(table["swapped"], table[name])


def intervals(table, names=("good", "blind"), **options):
    return checks.auc_intervals(table, list(names), positive="swapped", seed=0, **options).set_index("score")


def test_an_interval_holds_the_area_that_scikit_learn_finds():
    table = clustered()
    found = intervals(table, draws=300)
    for name in ("good", "blind"):
        assert found.loc[name, "auc"] == pytest.approx(area(table, name))
        assert found.loc[name, "low"] < found.loc[name, "auc"] < found.loc[name, "high"]
    assert found.loc["good", "low"] > 0.5 and found.loc["blind", "low"] < 0.5 < found.loc["blind", "high"]
    assert found["groups"].unique().tolist() == [table["group"].nunique()]


def test_a_resampled_area_is_that_of_the_repeated_rows():
    table = clustered(30)
    weights = np.random.default_rng(1).integers(0, 3, size=(1, 30))
    repeated = table.loc[np.repeat(np.arange(30), weights[0])]
    values = table[["good", "blind"]].to_numpy()
    found = checks._stratified_auc(table["swapped"].to_numpy(), values, np.zeros(30, dtype=np.int64), weights)[0]
    expected = [area(repeated, name) for name in ("good", "blind")]
    np.testing.assert_allclose(found, expected)


def test_intervals_within_a_kind_are_averaged_by_its_samples():
    table = clustered()
    parts = [part for _, part in table.groupby("kind")]
    expected = np.average([area(part, "good") for part in parts], weights=[len(part) for part in parts])
    assert intervals(table, within="kind", draws=10).loc["good", "auc"] == pytest.approx(expected)


def test_samples_of_one_group_tell_no_more_than_one():
    table = clustered(20, groups=20)
    often = pd.concat([table] * 10, ignore_index=True).assign(sample_id=[f"s{i}" for i in range(200)])
    once, copies = (intervals(one, ["good"], draws=400).loc["good"] for one in (table, often))
    assert copies["high"] - copies["low"] == pytest.approx(once["high"] - once["low"], rel=0.01)
    alone = intervals(often.assign(group=""), ["good"], draws=400).loc["good"]
    assert alone["groups"] == 200 and alone["high"] - alone["low"] < 0.5 * (once["high"] - once["low"])


def test_nothing_to_find_has_no_area_and_one_group_no_interval():
    assert intervals(clustered().assign(swapped=False), draws=10)[["auc", "low", "high"]].isna().all(axis=None)
    one = intervals(clustered().assign(group="g"), draws=10)
    assert one["auc"].notna().all() and one[["low", "high"]].isna().all(axis=None)


def test_a_score_that_is_no_number_is_refused_by_sample():
    broken = clustered()
    broken.loc[3, "good"] = np.inf
    with pytest.raises(ValueError, match="good of sample 's3' is not finite"):
        intervals(broken)
    with pytest.raises(ValueError, match=r"lacks the columns \['good'\]"):
        intervals(clustered().drop(columns="good"))


def test_a_score_correlates_with_the_loss_that_it_foretells():
    table = clustered().assign(base_loss=lambda t: np.exp(t["good"]))
    found = checks.correlations(table, ["good", "blind"], against="base_loss", seed=0, draws=100).set_index("score")
    assert found.loc["good", ["rho", "low", "high"]].tolist() == pytest.approx([1, 1, 1])
    assert found.loc["blind", "low"] < 0 < found.loc["blind", "high"]
    assert list(found) == ["rho", "low", "high", "samples", "groups"]


def test_within_a_kind_a_shift_between_kinds_does_not_count():
    table = clustered().assign(base_loss=lambda t: -t["good"] + 100 * (t["kind"] == "scene"))
    found = checks.correlations(table, ["good"], against="base_loss", within="kind", seed=0, draws=10)
    assert found["rho"].tolist() == pytest.approx([-1])


def test_rankings_agree_with_themselves_and_not_with_their_reverse():
    rank = np.arange(40)
    table = pd.DataFrame({"seed 0": rank, "again": 2 * rank + 1, "reverse": -rank})
    found = checks.agreement(table, pd.Series([f"g{i // 2}" for i in rank]), seed=0, draws=20)
    assert found[["a", "b"]].values.tolist() == [["seed 0", "again"], ["seed 0", "reverse"], ["again", "reverse"]]
    np.testing.assert_allclose(found[["tau", "low", "high"]].to_numpy(), [[1] * 3, [-1] * 3, [-1] * 3])
    assert (found["groups"] == 20).all()


def test_tau_is_one_minus_twice_the_share_of_discordant_pairs():
    table = pd.DataFrame({"a": [0, 1, 2, 3], "b": [1, 0, 2, 3]})  # one of six pairs is discordant
    assert checks.agreement(table, pd.Series(list("abcd")), seed=0, draws=5)["tau"].item() == pytest.approx(2 / 3)


def test_groups_of_other_samples_are_refused():
    with pytest.raises(ValueError, match="2 ranked samples but 1 groups"):
        checks.agreement(pd.DataFrame({"a": [0, 1], "b": [1, 0]}), pd.Series(["g"]), seed=0)


def test_projected_points_keep_the_two_widest_directions():
    wide = torch.tensor([[-4.0, 0, 0], [4, 0, 0], [0, -2, 0], [0, 2, 0]])
    features = {"infrared": wide, "visible": torch.zeros(2, 3)}
    samples = pd.DataFrame({"band": ["nir", "nir", "tir", "tir"]})
    points = checks.projected_points(features, samples, torch.tensor([0.1, 0.2, 0.3, 0.4]))
    assert points["band"].tolist() == ["nir", "nir", "tir", "tir", "visible", "visible"]
    np.testing.assert_allclose(points["x"].to_numpy(), [-4, 4, 0, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(points["y"].to_numpy(), [0, 0, -2, 2, 0, 0], atol=1e-6)
    np.testing.assert_allclose(points["distance"].to_numpy()[:4], [0.1, 0.2, 0.3, 0.4], rtol=1e-6)
    assert points["distance"][4:].isna().all()


def test_projection_keeps_rows_aligned_when_it_thins_them():
    count = 11
    features = {"infrared": torch.arange(count * 2.0).view(count, 2), "visible": torch.ones(3, 2)}
    samples = pd.DataFrame({"band": [f"b{i}" for i in range(count)]})
    points = checks.projected_points(features, samples, torch.arange(float(count)), most=3)
    assert points["band"].tolist() == ["b0", "b5", "b10", "visible", "visible", "visible"]
    assert points["distance"][:3].tolist() == [0, 5, 10]


def test_of_a_group_the_first_is_taken_and_of_none_all():
    assert checks.one_a_group(pd.Series(["", "a", "b", "a", "", "b"])).tolist() == [
        True,
        True,
        True,
        False,
        True,
        False,
    ]


def test_a_spread_covers_both_ends():
    assert checks.spread(5, 10).tolist() == [0, 1, 2, 3, 4]
    assert checks.spread(100, 3).tolist() == [0, 50, 99]
    assert checks.spread(0, 3).tolist() == []


def test_the_summary_rounds():
    table = planted(weight=[0.5, 1.5] * 4, alpha=[-1.0, 1.0] * 4)
    found = checks.summary(table, mmd=0.123456, bandwidth=2.0, p_value=0.0012345)
    assert (found["samples"], found["mmd"], found["bandwidth"], found["mean_weight"]) == (8, 0.1235, 2.0, 1.0)
    assert (found["alpha_positive"], found["mmd_p_value"]) == (0.5, 0.0012)
