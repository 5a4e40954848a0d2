import numpy as np
import pandas as pd
import pytest
import torch
from miniature import grays, scenes

from irgpt_lib.evaluation import caption_noise as noise
from irgpt_lib.irtd.simulated.describe import describe
from irgpt_lib.models import clip


def table(count=20, kinds=("scene", "montage")):
    ids = [f"s{i}" for i in range(count)]
    return pd.DataFrame(
        {
            "sample_id": ids,
            "caption": [f"caption {i}" for i in range(count)],
            "caption_from": ids,
            "kind": [kinds[i % len(kinds)] for i in range(count)],
            "group": "",
        }
    )


def test_half_of_each_kind_gets_a_caption_of_its_own_kind():
    found = noise.swap_captions(table(), 0.5, seed=0)
    assert found["swapped"].sum() == 10 and found.groupby("kind")["swapped"].sum().tolist() == [5, 5]
    assert sorted(found["caption"]) == sorted(table()["caption"])
    kind = table().set_index("sample_id")["kind"]
    assert (kind[found["caption_from"]].to_numpy() == found["kind"].to_numpy()).all()
    assert ((found["caption_from"] != found["sample_id"]) == found["swapped"]).all()


def test_swaps_repeat_by_their_seed_and_share_0_swaps_nothing():
    assert noise.swap_captions(table(), 0.5, seed=1).equals(noise.swap_captions(table(), 0.5, seed=1))
    assert not noise.swap_captions(table(), 0.5, seed=1).equals(noise.swap_captions(table(), 0.5, seed=2))
    assert not noise.swap_captions(table(), 0.0, seed=1)["swapped"].any()


def test_earlier_swaps_are_undone_first():
    earlier = noise.swap_captions(table(), 0.6, seed=3)
    assert noise.own_captions(earlier).tolist() == table()["caption"].tolist()
    assert noise.swap_captions(earlier, 0.0, seed=0)["caption"].tolist() == table()["caption"].tolist()


def test_a_sample_whose_own_caption_is_lost_is_left_out():
    lost = table().assign(caption_from=["elsewhere", *table()["sample_id"][1:]])
    assert noise.swap_captions(lost, 0.0, seed=0)["sample_id"].tolist() == [f"s{i}" for i in range(1, 20)]


def test_an_empty_origin_means_the_sample_itself():
    assert noise.own_captions(table().assign(caption_from="")).tolist() == table()["caption"].tolist()


def test_a_caption_that_reads_the_same_is_not_swapped():
    assert not noise.swap_captions(table().assign(caption="a car"), 1.0, seed=0)["swapped"].any()


def test_one_sample_of_a_kind_keeps_its_caption():
    assert not noise.swap_captions(table(4, kinds="abcd"), 1.0, seed=0)["swapped"].any()


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_is_within_0_and_1(share):
    with pytest.raises(ValueError, match="within 0 and 1"):
        noise.swap_captions(table(), share, seed=0)


@pytest.fixture(scope="module")
def scored():
    reader = clip.build_clip(
        image_px=64, patch_px=16, width=32, layers=1, text_width=32, text_layers=1, embedding=16, context=40, seed=0
    )
    start = {name: weight.clone() for name, weight in reader.model.state_dict().items()}
    samples = table(24, kinds=("scene",)).assign(caption=[describe(s) for s in scenes()[0][:24]])
    found = noise.scores_under_noise(
        reader,
        samples,
        grays(24),
        [0.0, 0.5],
        bank=24,
        epochs=1,
        batch_size=8,
        lr=1e-3,
        seed=0,
        loss_of=lambda noisy: noisy["caption"].str.len().to_numpy(dtype=float),
    )
    untouched = all(torch.equal(weight, start[name]) for name, weight in reader.model.state_dict().items())
    return found, untouched


def test_every_share_starts_from_the_same_clip(scored):
    found, untouched = scored
    assert untouched
    assert found.groupby("share").size().tolist() == [24, 24]
    clean, noisy = (part.set_index("sample_id") for _, part in found.groupby("share"))
    assert not clean["swapped"].any() and 8 <= noisy["swapped"].sum() <= 12
    kept = ~noisy["swapped"]
    # before any warm-up, a pair that was not swapped meets the same captions as negatives
    np.testing.assert_allclose(clean.loc[kept, "clip_loss_before"], noisy.loc[kept, "clip_loss_before"], rtol=0.1)
    assert found["clean_probability"].between(0, 1).all() and np.isfinite(found["alpha"]).all()
    assert (found["base_loss"] > 0).all()


def test_detection_has_a_row_for_each_share_and_score(scored):
    found = noise.detection(scored[0], seed=0, draws=20)
    assert list(found)[:3] == ["share", "score", "auc"]
    assert found["score"].tolist() == list(noise.NOISE_SCORES) * 2
    assert found[found["share"] == 0]["auc"].isna().all() and found[found["share"] == 0.5]["auc"].between(0, 1).all()


def test_a_score_that_knows_the_swap_is_found():
    planted = noise.swap_captions(table(), 0.4, seed=0)
    planted = planted.assign(share=0.4, perfect=planted["swapped"].astype(float), blind=0.0)
    found = noise.detection(planted, names=["perfect", "blind"], seed=0, draws=20).set_index("score")
    assert found["auc"].to_dict() == {"perfect": 1.0, "blind": 0.5}


def detected(**intervals):
    rows = [[0.13, name, 0.5, 0.1, 0.9] for name in intervals]
    rows += [[0.35, name, (low + high) / 2, low, high] for name, (low, high) in intervals.items()]
    return pd.DataFrame(rows, columns=["share", "score", "auc", "low", "high"])


def test_the_verdict_names_the_best_score_at_the_largest_share():
    said = noise.verdict(detected(clip_loss=(0.6, 0.7), alpha=(0.4, 0.45), weight=(0.1, 0.2)))
    assert said.splitlines() == [
        "At 35% swapped captions weight tells them best: AUC 0.150 [0.100, 0.200].",
        "A swapped pair gains more from the warm-up than a right one (alpha: AUC 0.425 [0.400, 0.450]).",
        "A swapped pair is weighted less by Eq. 5 than a right one (weight: AUC 0.150 [0.100, 0.200]).",
    ]


def test_the_verdict_claims_nothing_that_may_be_chance():
    said = noise.verdict(detected(clip_loss=(0.45, 0.6), alpha=(0.45, 0.55)))
    assert "no score tells them: clip_loss" in said and "differs by no more than chance" in said
    # a weight far above 0.5 is clear, but no detector
    assert "clip_loss, the best one" in noise.verdict(detected(weight=(0.8, 0.9), clip_loss=(0.4, 0.64)))


def test_without_a_known_area_there_is_no_verdict():
    with pytest.raises(ValueError, match="nothing was detected"):
        noise.verdict(detected(alpha=(0.4, 0.5)).assign(auc=np.nan))
