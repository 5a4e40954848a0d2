import numpy as np
import pandas as pd
import pytest
import torch

from irgpt_lib.evaluation import difficulty_checks as checks


def planted(**columns):
    """Eight scored samples: four NIR, then four TIR, half of each with a swapped caption."""
    rank = np.arange(8)
    return pd.DataFrame(
        {
            "band": ["nir"] * 4 + ["tir"] * 4,
            "kind": "scene",
            "swapped": [False, True] * 4,
            **{name: rank.astype(float) for name in checks.SCORES},
            **columns,
        }
    )


def test_the_area_under_the_curve_of_four_points_by_hand():
    # Of the four pairs of a positive and a negative, 0.2 < 0.3 alone is in the wrong order.
    positive, score = np.array([False, False, True, True]), np.array([0.1, 0.3, 0.2, 0.4])
    assert checks.area_under_roc(positive, score) == 0.75


def test_without_both_classes_there_is_no_area():
    assert np.isnan(checks.area_under_roc(np.array([True, True]), np.array([0.0, 1.0])))
    assert np.isnan(checks.area_under_roc(np.array([False, False]), np.array([0.0, 1.0])))


def test_separation_finds_planted_scores():
    table = planted(
        distance=[0.0] * 4 + [1.0] * 4,
        clip_loss=[0.0, 9.0] * 4,
        weight=[9.0, 0.0] * 4,
        alpha=[0.0] * 8,
    )
    found = checks.separation(table)
    assert list(found.index) == list(checks.SCORES)
    band, swapped = (found[name] for name in ("AUC, TIR against NIR", "AUC, swapped captions"))
    assert band["distance"] == 1 and swapped["distance"] == 0.5
    assert swapped["clip_loss"] == 1 and band["clip_loss"] == 0.5
    assert swapped["weight"] == 0
    assert band["alpha"] == swapped["alpha"] == 0.5


def test_swir_is_no_end_of_the_ladder():
    table = planted(distance=[0.0] * 4 + [1.0] * 4)
    beside = pd.concat([table, planted(band="swir", distance=[7.0] * 8)], ignore_index=True)
    assert checks.separation(beside).loc["distance", "AUC, TIR against NIR"] == 1


def test_captions_are_compared_within_a_kind_and_averaged_by_size():
    # Montages are far harder than scenes; within the six scenes swapping shows, within the two montages it reverses.
    kinds = ["scene"] * 6 + ["montage"] * 2
    table = planted(kind=kinds, clip_loss=[0.0, 1.0] * 3 + [101.0, 100.0])
    assert checks.separation(table).loc["clip_loss", "AUC, swapped captions"] == pytest.approx(6 / 8)


def test_without_swapped_captions_or_without_one_band_nothing_is_claimed():
    found = checks.separation(planted(swapped=False, band="tir"))
    assert found.isna().all().all()


def test_equal_texts_share_a_code_and_an_empty_one_has_none():
    assert checks.codes(pd.Series(["b", "a", "", "b"])).tolist() == [2, 1, -1, 2]
    assert checks.codes(pd.Series(["", ""])).tolist() == [-1, -1]
    assert checks.codes(pd.Series(["a", "a"])).tolist() == [0, 0]


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


def test_a_spread_covers_both_ends():
    assert checks.spread(5, 10).tolist() == [0, 1, 2, 3, 4]
    assert checks.spread(100, 3).tolist() == [0, 50, 99]
    assert checks.spread(0, 3).tolist() == []


def test_the_summary_rounds_and_has_null_for_what_is_unknown():
    table = planted(weight=[0.5, 1.5] * 4, alpha=[-1.0, 1.0] * 4, band="swir")
    found = checks.summary(table, mmd=0.123456, bandwidth=2.0)
    assert (found["samples"], found["mmd"], found["bandwidth"], found["mean_weight"]) == (8, 0.1235, 2.0, 1.0)
    assert found["alpha_positive"] == 0.5
    assert found["separation"]["weight"] == {"AUC, TIR against NIR": None, "AUC, swapped captions": 1.0}
