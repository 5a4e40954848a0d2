"""The explorer's page holds every sample, fetches nothing, and is the same text for equal tables."""

import base64
import io
import json
import re
import zlib

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from irgpt_lib.curriculum import ranking
from irgpt_lib.irtd.record import RecordError, png_bytes
from irgpt_lib.report import explorer


def generated(n, seed=0):
    """Scores and samples of `n` generated samples; distances are rounded, so that many tie."""
    rng = np.random.default_rng(seed)
    band = np.array(["nir", "swir", "tir"])[rng.integers(0, 3, n)]
    alpha = rng.normal(-0.1, 0.2, n)
    scores = pd.DataFrame(
        {
            "sample_id": [f"made/{i:06d}" for i in rng.permutation(n)],
            "band": band,
            "source": np.array(["a", "b", "c"])[rng.integers(0, 3, n)],
            "kind": "scene",
            "distance": (rng.normal(0.5, 0.2, n) + 0.3 * (band == "tir")).round(2),
            "clip_loss": rng.gamma(3, 0.5, n),
            "alpha": alpha,
            "weight": np.where(alpha > 0, 0.3, 1.7),
        }
    )
    gray = png_bytes(np.arange(256, dtype=np.uint8).reshape(16, 16))
    colour = png_bytes(np.full((16, 16, 3), (200, 30, 30), np.uint8))
    has_pair = rng.random(n) < 0.7
    samples = pd.DataFrame(
        {
            "sample_id": scores["sample_id"],
            "infrared": [gray] * n,
            "visible": [colour if pair else b"" for pair in has_pair],
            "caption": [f"Scene of {name}." for name in scores["sample_id"]],
        }
    )
    return scores, samples


def data_of(document):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', document, re.S)[1])


def column(data, name):
    held = data["columns"][name]
    return np.frombuffer(zlib.decompress(base64.b64decode(held["packed"])), f"<{held['type']}")


def ids_of(data):
    return json.loads(zlib.decompress(base64.b64decode(data["ids"])))


def test_equal_tables_give_equal_text_in_whatever_order_their_rows_come():
    scores, samples = generated(300)
    shuffled = scores.sample(frac=1, random_state=1), samples.sample(frac=1, random_state=2)
    assert explorer.page(scores, samples) == explorer.page(*shuffled)


def test_the_page_names_no_address_that_a_browser_would_fetch():
    document = explorer.page(*generated(50))
    attributes = re.findall(r"""\b(?:src|href|srcset)\s*=\s*["']([^"']*)""", document)
    assert all(value.startswith("data:") for value in attributes)
    assert "@import" not in document and "url(" not in document
    assert "fetch(" not in document and "XMLHttpRequest" not in document


def test_every_sample_is_in_the_page_with_its_scores_and_labels():
    scores, samples = generated(200)
    data = data_of(explorer.page(scores, samples))
    rows = scores.set_index("sample_id").loc[ids_of(data)]
    assert data["n"] == 200
    for name in explorer.SCORES:
        np.testing.assert_array_equal(column(data, name), rows[name].to_numpy(np.float32))
    for name in ("band", "source", "kind"):
        labels = np.array(data["classes"][name]["labels"])
        assert labels[column(data, name)].tolist() == rows[name].tolist()


@pytest.mark.parametrize("weight", [0.0, 0.25, 0.5, 1.0])
def test_a_stable_sort_of_whole_numbers_is_the_librarys_ranking(weight):
    scores, samples = generated(400)
    data = data_of(explorer.page(scores, samples))
    steps, ids = data["steps"], ids_of(data)
    first, second = column(data, "twice_rank1"), column(data, "twice_rank2")
    order = (round(weight * steps) * first + (steps - round(weight * steps)) * second).argsort(kind="stable")
    rank = ranking.combine(
        torch.tensor(scores["distance"].to_numpy()),
        torch.tensor(scores["clip_loss"].to_numpy()),
        method="lambda",
        weight=weight,
        sample_ids=scores["sample_id"].tolist(),
    )
    assert [ids[i] for i in order] == scores["sample_id"].iloc[rank.argsort().tolist()].tolist()


def test_extremes_at_every_lambda_are_pictured_and_the_rest_is_spread_over_the_ranking():
    scores, _ = generated(2000)
    few, many = explorer.pictured(scores, 0), explorer.pictured(scores, 500)
    assert set(few) < set(many) and len(many) == 500 and many == sorted(many)
    by_loss = scores.sort_values(["clip_loss", "sample_id"])["sample_id"]
    assert {*by_loss.head(12), *by_loss.tail(12)} <= set(few)
    first, second = (scores[name].rank() for name in ("distance", "clip_loss"))
    assert scores["sample_id"][(first - second).abs().idxmax()] in few
    spread = (first + second).rank()[scores["sample_id"].isin(set(many) - set(few))].sort_values().diff().max()
    assert spread < 30


def test_more_pictures_than_samples_are_all_samples():
    scores, samples = generated(30)
    assert explorer.pictured(scores, 1000) == sorted(scores["sample_id"])
    assert len(data_of(explorer.page(scores, samples, pictures=1000))["cards"]) == 30


def test_cards_hold_small_images_the_caption_and_an_empty_text_for_no_pair():
    scores, samples = generated(20)
    samples["infrared"] = [png_bytes(np.zeros((40, 80), np.uint8))] * 20
    data = data_of(explorer.page(scores, samples, thumbnail_px=32))
    held = dict(zip(ids_of(data), column(data, "card").tolist(), strict=True))
    for row in samples.itertuples():
        card = data["cards"][held[row.sample_id]]
        assert card["caption"] == row.caption
        assert bool(card["visible"]) == bool(row.visible)
        image = Image.open(io.BytesIO(base64.b64decode(card["infrared"].partition(",")[2])))
        assert image.size == (32, 16) and image.mode == "L"


def test_markup_in_a_caption_or_an_id_cannot_leave_the_data():
    scores, samples = generated(20)
    evil = "</script><script>alert(1)</script><!-- $data"
    scores.loc[0, "source"] = evil
    samples["caption"] = evil
    document = explorer.page(scores, samples)
    assert evil not in document
    assert {card["caption"] for card in data_of(document)["cards"]} == {evil}


def test_one_sample_and_equal_scores_still_have_axes():
    scores, samples = generated(1)
    data = data_of(explorer.page(scores, samples, tiers=1))
    low, high = data["distance_range"]
    assert low < scores["distance"][0] < high


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.drop(columns="alpha"), "lacks the columns"),
        (lambda s: s.iloc[:0], "no sample to explore"),
        (lambda s: s.assign(clip_loss=np.nan), "clip_loss: 20 values are not finite"),
        (lambda s: s.assign(distance=np.inf), "distance: 20 values are not finite"),
        (lambda s: s.assign(sample_id="same"), "19 sample ids repeat, the first is 'same'"),
        (lambda s: s.assign(band="x-ray"), "unknown bands"),
    ],
)
def test_scores_that_cannot_be_drawn_are_refused(change, message):
    scores, samples = generated(20)
    with pytest.raises(ValueError, match=message):
        explorer.page(change(scores), samples)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tiers": 21}, "20 samples in 21 tiers"),
        ({"tiers": 0}, "choose 1 to 20"),
        ({"lesson1_weight": 0.51}, "multiple of 1/20"),
        ({"lesson1_weight": 1.05}, "within 0 and 1"),
        ({"pictures": -1}, "must not be negative"),
    ],
)
def test_options_outside_their_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        explorer.page(*generated(20), **options)


def test_a_pictured_sample_must_be_there_once_and_readable():
    scores, samples = generated(20)
    with pytest.raises(ValueError, match="lacks 1 pictured samples, the first is"):
        explorer.page(scores, samples.iloc[1:])
    with pytest.raises(ValueError, match="repeats"):
        explorer.page(scores, pd.concat([samples, samples.iloc[:1]]))
    with pytest.raises(RecordError, match="infrared image of made/"):
        explorer.page(scores, samples.assign(infrared=b"no image"))


def test_a_notebook_holds_a_small_page_and_links_to_a_large_one():
    document = explorer.page(*generated(20))
    inside = explorer.frame(document, "explorer.html").data
    assert "<iframe" in inside and "&lt;!doctype html&gt;" in inside
    linked = explorer.frame(document, "explorer.html", most_bytes=1000).data
    assert '<a href="explorer.html">' in linked and "<iframe" not in linked
