import io
import json

import numpy as np
import pytest
import torch
from miniature import changed, grays, scenes, weights_of
from PIL import Image
from safetensors.torch import save_file

from irgpt_lib import params
from irgpt_lib.irtd.simulated.describe import describe
from irgpt_lib.models import clip
from irgpt_lib.models.clip import PreprocessCfg, image_transform_v2
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
    mean, deviation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    expected = [(0.2 - m) / d for m, d in zip(mean, deviation, strict=True)]
    torch.testing.assert_close(pixels[0, :, 0, 0], torch.tensor(expected))


def png(width, height):
    gray = np.random.default_rng(0).integers(256, size=(height, width), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(gray).save(file, "png")
    return file.getvalue()


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_an_image_reaches_the_model_as_open_clip_itself_prepares_it(mode, interpolation):
    preprocess = PreprocessCfg(
        size=16, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), resize_mode=mode, interpolation=interpolation
    )
    reader = clip.ClipReader(torch.nn.Identity(), small().tokenizer, preprocess, 8)
    images = [png(40, 24), png(17, 31), png(16, 16)]
    theirs = image_transform_v2(preprocess, is_train=False)
    expected = torch.stack([theirs(Image.open(io.BytesIO(image))) for image in images])
    torch.testing.assert_close(reader.pixels(reader.decode(images)), expected)


def test_no_image_is_an_empty_array():
    assert small().decode([]).shape == (0, 64, 64)


def test_embeddings_are_kept_by_their_content(tmp_path, monkeypatch):
    reader, tokens = small(), small().tokens(captions(4))
    first = reader.embed(grays(4), tokens, 2, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.setattr(reader.model, "encode_image", None)  # an embedding made anew would fail
        again = small().embed(grays(4), tokens, 2, cache=tmp_path)
        assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
        with pytest.raises(TypeError):
            reader.embed(grays(4), tokens, 3, cache=tmp_path)
    reader.embed(grays(4) ^ 1, tokens, 2, cache=tmp_path)
    reader.embed(grays(4), tokens.flip(0), 2, cache=tmp_path)
    with torch.no_grad():
        reader.model.visual.proj[0, 0] += 1
    reader.embed(grays(4), tokens, 2, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


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


@pytest.mark.parametrize("spoilt", ["loss", "weights"])
def test_a_warm_up_that_diverges_stops_before_it_spoils_the_weights(spoilt, monkeypatch):
    reader = small()
    if spoilt == "loss":
        monkeypatch.setattr(clip, "ClipLoss", lambda: lambda image, text, scale: image.sum() * float("nan"))
    else:
        monkeypatch.setattr(clip.nn.utils, "clip_grad_norm_", lambda *_: torch.tensor(float("inf")))
    before = weights_of(reader.model)
    with pytest.raises(FloatingPointError, match="test: loss .* in epoch 1 at sample 0; lower the learning rate"):
        train(reader, 8)
    assert not changed(reader.model, before)


def test_a_free_temperature_stays_within_clips_limit():
    reader = small()
    with torch.no_grad():
        reader.model.logit_scale.fill_(9.0)
    train(reader, 8, train_scale=True)
    assert reader.logit_scale == pytest.approx(100, rel=1e-4)


def lesson(reader, count=12, **options):
    given = {"bank": 8, "epochs": 2, "batch_size": 6, "lr": 2e-3, "seed": 0} | options
    return clip.lesson2(reader, grays(count), captions(count), [""] * count, **given)


def test_lesson_2_scores_the_same_negatives_before_and_after():
    reader = small()
    found = lesson(reader)
    assert found.before.shape == found.after.shape == found.alpha.shape == (12,)
    assert (found.in_bank, found.lifted, len(found.history)) == (8, 0, 2)
    torch.testing.assert_close(found.alpha, found.after / found.before - 1)
    assert found.after.mean() < found.before.mean()
    assert lesson(small(), bank=4096).in_bank == 12
    assert torch.equal(lesson(small()).alpha, found.alpha)


def test_lesson_2_from_the_cache_is_lesson_2(tmp_path):
    once, again = (lesson(small(), cache=tmp_path) for _ in range(2))
    assert torch.equal(once.alpha, again.alpha) and len(list(tmp_path.iterdir())) == 2


def test_a_warm_up_that_changes_nothing_has_rate_0():
    assert lesson(small(), epochs=0).alpha.tolist() == [0.0] * 12


def folder_of(reader, folder):
    """A model as published in open_clip's own folder layout, with a preprocessing of its own."""
    folder.mkdir()
    towers = {
        "embed_dim": 16,
        "vision_cfg": {"layers": 1, "width": 32, "head_width": 32, "patch_size": 16, "image_size": 64},
        "text_cfg": {"context_length": 40, "vocab_size": 49408, "width": 32, "heads": 1, "layers": 1},
    }
    preprocess = {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bilinear", "resize_mode": "squash"}
    config = {"model_cfg": towers, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(reader.model.state_dict(), folder / "open_clip_model.safetensors")


def test_a_published_folder_brings_weights_and_preprocessing(tmp_path):
    source = small(seed=5)
    folder_of(source, tmp_path / "published")
    reader = clip.load_clip(f"local-dir:{tmp_path / 'published'}", "")
    assert not changed(reader.model, weights_of(source.model))
    assert (reader.image_px, reader.context, reader.preprocess.resize_mode) == (64, 40, "squash")
    torch.testing.assert_close(reader.pixels(np.full((1, 1, 1), 255, np.uint8)).flatten(), torch.full((3,), 2.0))
    assert len(lesson(reader, epochs=1).alpha) == 12
    with pytest.raises(ValueError, match="brings its own weights"):
        clip.load_clip(f"local-dir:{tmp_path / 'published'}", "openai")


def test_a_folder_without_weights_is_refused(tmp_path):
    folder_of(small(), tmp_path / "published")
    (tmp_path / "published" / "open_clip_model.safetensors").unlink()
    with pytest.raises(RuntimeError, match="could not be loaded"):
        clip.load_clip(f"local-dir:{tmp_path / 'published'}", "")


def asked_of_open_clip(name, pretrained, monkeypatch):
    """What `load_clip` tells open_clip, without a download."""
    asked = {}

    def create_model(name, **options):
        asked.update(options)
        raise InterruptedError

    monkeypatch.setattr(clip.open_clip, "create_model", create_model)
    with pytest.raises(InterruptedError):
        clip.load_clip(name, pretrained)
    return asked


def test_openais_weights_get_their_own_activation(monkeypatch):
    assert asked_of_open_clip("ViT-L-14", "openai", monkeypatch)["force_quick_gelu"] is True
    assert asked_of_open_clip("ViT-L-14", "laion2b_s32b_b82k", monkeypatch)["force_quick_gelu"] is False


def test_a_files_preprocessing_is_that_of_the_published_weights(monkeypatch, tmp_path):
    file = tmp_path / "weights.safetensors"
    file.touch()
    asked = asked_of_open_clip("ViT-B-16-SigLIP", str(file), monkeypatch)["force_preprocess_cfg"]
    assert asked["mean"] == asked["std"] == (0.5, 0.5, 0.5) and asked["resize_mode"] == "squash"
    with pytest.raises(ValueError, match="want 2 different preprocessings.*local-dir"):
        clip.load_clip("ViT-L-14", str(file))


def test_an_image_that_is_not_square_is_refused():
    with pytest.raises(ValueError, match="the study's are square"):
        clip.ClipReader(torch.nn.Identity(), small().tokenizer, PreprocessCfg(size=(32, 64)), 8).image_px  # noqa: B018


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
