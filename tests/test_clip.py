import numpy as np
import pytest
import torch
from miniature import changed, grays, scenes, weights_of

from irgpt_lib import params
from irgpt_lib.irtd.simulated.describe import describe
from irgpt_lib.models import clip
from irgpt_lib.training import clip_pretraining

SIZES = {
    "image_px": 64,
    "patch_px": 16,
    "width": 32,
    "layers": 1,
    "text_width": 32,
    "text_layers": 1,
    "embedding": 16,
    "context": 40,
}


def small(seed=0):
    return clip.build_clip(**SIZES, seed=seed)


def captions(count):
    return [describe(sample) for sample in scenes()[0][:count]]


def train(reader, count, **options):
    given = {"epochs": 1, "batch_size": 8, "lr": 2e-3, "seed": 0, "train_scale": False, "label": "test"} | options
    return clip.train_clip(reader, grays(count), reader.tokens(captions(count)), **given)


def test_embeddings_have_length_1_and_do_not_depend_on_the_batch():
    reader = small()
    tokens = reader.tokens(captions(5))
    image, text = reader.embed(grays(5), tokens, 2)
    assert image.shape == text.shape == (5, 16)
    torch.testing.assert_close(image.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(text.norm(dim=1), torch.ones(5))
    for one, other in zip((image, text), reader.embed(grays(5), tokens, 5), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_pixels_are_normalised_by_clips_own_mean_and_deviation():
    pixels = small().pixels(np.full((1, 2, 2), 51, np.uint8))
    expected = [(0.2 - mean) / deviation for mean, deviation in zip(clip.CLIP_MEAN, clip.CLIP_STD, strict=True)]
    torch.testing.assert_close(pixels[0, :, 0, 0], torch.tensor(expected))


def test_texts_beyond_the_context_are_counted_as_cut():
    reader = small()
    # A start and an end token leave room for 38 one-token words.
    texts = [" ".join(["car"] * 38), " ".join(["car"] * 39), "car"]
    assert reader.cut(texts) == 1
    assert reader.tokens(texts).shape == (3, 40)
    assert (reader.tokens(texts)[:2] != 0).all() and (reader.tokens(texts)[2] != 0).sum() == 3


def test_a_fresh_clip_has_the_published_temperature():
    assert small().logit_scale == pytest.approx(1 / 0.07, rel=1e-4)


def test_warming_up_leaves_the_logit_scale_alone():
    reader = small()
    before = weights_of(reader.model)
    train(reader, 16, train_scale=False)
    moved = changed(reader.model, before)
    assert "logit_scale" not in moved and {"visual.proj", "text_projection"} <= moved


def test_pre_training_may_move_the_logit_scale():
    reader = small()
    before = weights_of(reader.model)
    train(reader, 16, train_scale=True)
    assert "logit_scale" in changed(reader.model, before)


def test_training_lowers_the_contrastive_loss():
    history = train(small(), 32, epochs=12, batch_size=16, train_scale=True)
    assert [row["epoch"] for row in history] == list(range(1, 13))
    assert history[-1]["loss"] < history[0]["loss"] - 0.3


def test_equal_seeds_train_equal_weights():
    first, second, third = small(), small(), small()
    for reader, seed in ((first, 0), (second, 0), (third, 1)):
        train(reader, 16, seed=seed)
    assert not changed(second.model, weights_of(first.model))
    assert changed(third.model, weights_of(first.model))


def test_fewer_samples_than_a_batch_are_refused():
    with pytest.raises(ValueError, match="4 samples make no batch of 8"):
        train(small(), 4)


def test_an_unknown_model_name_lists_its_family():
    with pytest.raises(ValueError, match="no model 'ViT-L-999'.*ViT-L-14"):
        clip.load_clip("ViT-L-999", "openai")


@pytest.mark.parametrize("pretrained", ["", "no-such-tag"])
def test_a_published_model_without_known_weights_lists_those_that_exist(pretrained):
    with pytest.raises(ValueError, match="ViT-L-14.*openai"):
        clip.load_clip("ViT-L-14", pretrained)


def test_the_stand_in_is_trained_on_visible_scenes():
    common = params.load("difficulty", profile="smoke").difficulty
    shape = common.clip.model_copy(
        update=SIZES | {"pretrain_scenes": 32, "pretrain_epochs": 2, "pretrain_batch_size": 16}
    )
    config = common.model_copy(update={"clip": shape})
    reader, history = clip_pretraining.from_params(config)
    start = small(config.seed)
    assert [row["epoch"] for row in history] == [1, 2]
    assert (reader.image_px, reader.context) == (64, 40)
    assert "visual.proj" in changed(reader.model, weights_of(start.model))
