import json
import shutil

import numpy as np
import pytest
import torch
from miniature import changed, grays, weights_of

from irgpt_lib import params
from irgpt_lib.models import extractor
from irgpt_lib.models.masking import masking_noise


def small(seed=0, mask_ratio=0.75):
    return extractor.build_extractor(
        image_px=64,
        patch_px=16,
        width=32,
        layers=1,
        heads=2,
        decoder_width=16,
        decoder_layers=1,
        mask_ratio=mask_ratio,
        seed=seed,
    )


def patches(images):
    """n h w → n 16 256, a row a patch."""
    return images.reshape(-1, 4, 16, 4, 16).transpose(0, 1, 3, 2, 4).reshape(len(images), 16, 256)


def train(model, images, epochs, seed=0):
    return extractor.train_extractor(model, images, epochs=epochs, batch_size=8, lr=1e-2, weight_decay=0.05, seed=seed)


def test_pixels_are_centred_at_0_425_with_deviation_0_2():
    pixels = extractor.normalised(np.full((1, 2, 2), 51, np.uint8))
    # 51 / 255 is 0.2.
    torch.testing.assert_close(pixels, torch.full((1, 3, 2, 2), (0.2 - 0.425) / 0.2))


@pytest.mark.parametrize("batch_size", [1, 2, 4, 9])
def test_features_do_not_depend_on_the_batch(batch_size):
    model, images = small(), grays(5)
    whole, parts = extractor.extract_features(model, images, 5), extractor.extract_features(model, images, batch_size)
    assert parts.shape == (5, 32)
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-5)
    assert (parts[0] - parts[1]).abs().max() > 1e-3


def test_no_images_have_no_features():
    assert extractor.extract_features(small(), grays(0), 4).shape == (0, 32)


def test_features_are_bitwise_the_same_each_time():
    model, images = small(), grays(4)
    first = extractor.extract_features(model, images, 4)
    torch.manual_seed(12345)
    assert torch.equal(first, extractor.extract_features(model, images, 4))


def test_features_see_every_patch():
    model = small()
    images = np.repeat(grays(1), 17, axis=0).copy()
    for i in range(16):
        row, column = divmod(i, 4)
        images[i, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] ^= 255
    features = extractor.extract_features(model, images, 17)
    assert ((features[:16] - features[16]).abs().amax(1) > 1e-4).all()


def test_extraction_leaves_the_masking_as_it_was():
    model = small(mask_ratio=0.5)
    extractor.extract_features(model, grays(2), 2)
    assert model.config.mask_ratio == 0.5


def test_reconstruction_blackens_three_patches_of_four_and_leaves_the_others():
    images = grays(3)
    masked, filled = extractor.reconstruct(small(), images, seed=0)
    before, black, after = patches(images), patches(masked), patches(filled)
    hidden = (black == 0).all(2)
    assert hidden.sum(1).tolist() == [12, 12, 12]
    assert np.array_equal(black[~hidden], before[~hidden])
    assert np.array_equal(after[~hidden], before[~hidden])
    assert not np.array_equal(after[hidden], before[hidden])


def test_the_same_seed_hides_the_same_patches():
    masked, _ = extractor.reconstruct(small(), grays(2), seed=5)
    again, _ = extractor.reconstruct(small(), grays(2), seed=5)
    other, _ = extractor.reconstruct(small(), grays(2), seed=6)
    assert np.array_equal(masked, again) and not np.array_equal(masked, other)


def test_the_masking_rule_also_holds_for_the_pictures():
    images = grays(3)
    masked, _ = extractor.reconstruct(small(), images, seed=0, masking="infmae")
    rng = np.random.default_rng(0)
    noise = masking_noise(images, "infmae", patch_px=16, mask_ratio=0.75, rng=rng).numpy()
    shown = np.argsort(noise, axis=1)[:, :4]
    assert all(set(np.flatnonzero(p.any(1))) == set(s) for p, s in zip(patches(masked), shown, strict=True))


@pytest.mark.parametrize("per_patch", [True, False])
def test_predictions_are_shown_on_the_scale_that_they_were_trained_on(per_patch):
    model, images = small(), grays(2)
    model.config.norm_pix_loss = per_patch
    with torch.no_grad():
        model.decoder.decoder_pred.weight.zero_()
        model.decoder.decoder_pred.bias.zero_()
    masked, filled = (patches(x) for x in extractor.reconstruct(model, images, seed=0))
    hidden = (masked == 0).all(2)
    # A prediction of 0 is the patch's own mean, or the gray level that is normalised to 0.
    expected = patches(images).mean(2)[hidden] if per_patch else np.full(hidden.sum(), 0.425 * 255)
    assert np.abs(filled[hidden] - expected[:, None]).max() <= 0.51


def test_images_of_another_size_are_refused():
    model, images = small(), np.zeros((2, 64, 48), np.uint8)
    for use in (
        lambda: train(model, images, epochs=1),
        lambda: extractor.extract_features(model, images, 2),
        lambda: extractor.reconstruct(model, images, seed=0),
    ):
        with pytest.raises(ValueError, match="64 x 48 pixels and the extractor reads 64 x 64"):
            use()


def test_training_needs_an_image():
    with pytest.raises(ValueError, match="no images"):
        train(small(), grays(0), epochs=1)


def test_training_lowers_the_reconstruction_loss():
    # Every patch of a ramp is the same once it is normalised, so that a few steps suffice.
    ramps = np.tile(np.arange(0, 128, 2, dtype=np.uint8), (32, 64, 1)) + np.arange(32, dtype=np.uint8)[:, None, None]
    history = train(small(), ramps, epochs=10)
    assert [row["epoch"] for row in history] == list(range(1, 11))
    assert history[-1]["loss"] < history[0]["loss"] - 0.2


def test_about_half_of_the_images_are_flipped_from_left_to_right(monkeypatch):
    seen, noise = [], extractor._noise
    monkeypatch.setattr(extractor, "_noise", lambda model, gray, *rest: seen.append(gray) or noise(model, gray, *rest))
    train(small(), np.repeat(grays(1), 64, axis=0), epochs=1)
    as_it_is, flipped = ((np.concatenate(seen) == x).all((1, 2)) for x in (grays(1), grays(1)[:, :, ::-1]))
    assert (as_it_is ^ flipped).all()
    assert 16 < flipped.sum() < 48


def test_equal_seeds_train_equal_weights():
    first, second, third = small(), small(), small()
    for model, seed in ((first, 0), (second, 0), (third, 1)):
        train(model, grays(16), epochs=1, seed=seed)
    assert not changed(second, weights_of(first))
    assert changed(third, weights_of(first))


def test_no_epoch_trains_nothing():
    model = small()
    before = weights_of(model)
    assert train(model, grays(8), epochs=0) == []
    assert not changed(model, before)


def spoilt(monkeypatch, step, spoil):
    """From now on the loss of that step, counted from 1, goes through `spoil`."""
    real, calls = extractor._masked_loss, iter(range(1, 1000))

    def loss(*arguments):
        number = next(calls)
        return spoil(real(*arguments)) if number == step else real(*arguments)

    monkeypatch.setattr(extractor, "_masked_loss", loss)


def kill(loss):
    raise KeyboardInterrupt


STEPS = 6


def resumable(folder, monkeypatch=None, killed_at=None, steps=1, **changes):
    """Six steps, three an epoch, from the same start; returns the model and its history, None if it was killed."""
    model = small()
    for layer in model.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.1
    settings = {"epochs": 2, "batch_size": 6, "lr": 1e-2, "weight_decay": 0.05, "seed": 0, "masking": "random"}
    settings |= {"checkpoint": folder, "checkpoint_steps": steps} | changes
    if killed_at is None:
        return model, extractor.train_extractor(model, grays(16), **settings)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        spoilt(patch, killed_at, kill)
        extractor.train_extractor(model, grays(16), **settings)
    return model, None


def states(folder):
    """The states under `folder`, newest first, which has but one fingerprint."""
    (own,) = folder.iterdir()
    return sorted(own.iterdir(), reverse=True)


def assert_same_end(folder, model, history, expected):
    whole, all_history, whole_folder = expected
    assert history == all_history
    assert not changed(model, weights_of(whole))
    # Weights and both moments of every parameter.
    assert (states(folder)[0] / "tensors.safetensors").read_bytes() == (
        states(whole_folder)[0] / "tensors.safetensors"
    ).read_bytes()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    return *resumable(folder), folder


def test_a_checkpoint_changes_nothing(unbroken):
    whole, history, _ = unbroken
    model, alone = resumable(None)
    assert alone == history
    assert not changed(model, weights_of(whole))
    assert changed(small(), weights_of(whole))


@pytest.mark.parametrize("killed_at, steps", [*((step, 1) for step in range(1, STEPS + 1)), (4, 2), (6, 4)])
def test_a_killed_training_ends_as_if_it_had_not_been(tmp_path, monkeypatch, unbroken, killed_at, steps):
    resumable(tmp_path, monkeypatch, killed_at, steps)
    model, history = resumable(tmp_path, steps=steps)
    assert_same_end(tmp_path, model, history, unbroken)


def test_a_training_killed_while_it_keeps_a_state_goes_on_from_the_one_before(tmp_path, monkeypatch, unbroken):
    def killed(*arguments):
        save(*arguments)
        raise KeyboardInterrupt

    resumable(tmp_path, monkeypatch, 4)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        save = extractor.save_file
        patch.setattr(extractor, "save_file", killed)
        resumable(tmp_path)
    assert [state.name for state in states(tmp_path)] == ["00000003", "00000002"]
    assert_same_end(tmp_path, *resumable(tmp_path), unbroken)


def test_a_finished_training_is_not_repeated(tmp_path, monkeypatch, unbroken):
    resumable(tmp_path, steps=4)
    spoilt(monkeypatch, 1, kill)
    assert_same_end(tmp_path, *resumable(tmp_path, steps=4), unbroken)


def cut(file):
    file.write_bytes(file.read_bytes()[:-5])


def flip_a_bit(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    "name, damage",
    [
        ("tensors.safetensors", cut),
        ("tensors.safetensors", flip_a_bit),
        ("tensors.safetensors", lambda file: file.unlink()),
        ("progress.json", cut),
    ],
)
def test_a_damaged_state_is_told_and_the_one_before_is_taken(tmp_path, monkeypatch, capsys, unbroken, name, damage):
    resumable(tmp_path, monkeypatch, 5)
    assert [state.name for state in states(tmp_path)] == ["00000004", "00000003"]
    damage(states(tmp_path)[0] / name)
    assert_same_end(tmp_path, *resumable(tmp_path), unbroken)
    assert "00000004: a damaged state" in capsys.readouterr().err


def test_with_every_state_damaged_training_begins_anew(tmp_path, monkeypatch, capsys, unbroken):
    resumable(tmp_path, monkeypatch, 5)
    for state in states(tmp_path):
        cut(state / "progress.json")
    assert_same_end(tmp_path, *resumable(tmp_path), unbroken)
    assert capsys.readouterr().err.count("a damaged state") == 2


@pytest.mark.parametrize("change", [{"lr": 2e-2}, {"seed": 1}, {"masking": "infmae"}, {"weight_decay": 0.1}])
def test_other_settings_begin_anew(tmp_path, monkeypatch, change):
    resumable(tmp_path, monkeypatch, 5)
    model, history = resumable(tmp_path, **change)
    expected, all_history = resumable(None, **change)
    assert history == all_history
    assert not changed(model, weights_of(expected))


def test_other_images_or_weights_begin_anew(tmp_path):
    model, images, settings = small(), grays(4), {"lr": 1e-2}
    name = extractor._fingerprint(model, images, settings)
    assert name == extractor._fingerprint(small(), images.copy(), dict(settings))
    assert name != extractor._fingerprint(small(seed=1), images, settings)
    assert name != extractor._fingerprint(small(mask_ratio=0.5), images, settings)
    other = images.copy()
    other[3, 63, 63] ^= 1
    assert name != extractor._fingerprint(model, other, settings)


def test_the_state_of_another_run_is_left_alone(tmp_path, monkeypatch):
    resumable(tmp_path, monkeypatch, 5)
    (own,) = tmp_path.iterdir()
    resumable(tmp_path, seed=1)
    assert [state.name for state in sorted(own.iterdir())] == ["00000003", "00000004"]
    shutil.rmtree(own)


@pytest.mark.parametrize("spoil", [lambda loss: loss * float("nan"), lambda loss: loss + (loss * 0).sqrt()])
def test_training_stops_at_a_loss_or_gradient_that_is_not_finite(tmp_path, monkeypatch, spoil):
    before, _ = resumable(None, monkeypatch, killed_at=5)
    model = small()
    for layer in model.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.1
    spoilt(monkeypatch, 5, spoil)
    with pytest.raises(FloatingPointError, match=r"epoch 2 at step 2 of 3; lower features.lr \(0.01\)"):
        extractor.train_extractor(model, grays(16), epochs=2, batch_size=6, lr=1e-2, weight_decay=0.05, seed=0)
    assert not changed(model, weights_of(before))


def load(folder, image_px=64, patch_px=16):
    return extractor.load_extractor(folder, image_px=image_px, patch_px=patch_px, mask_ratio=0.6)


def test_a_saved_extractor_gives_the_same_features(tmp_path):
    model = small()
    model.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert loaded.config.mask_ratio == 0.6
    assert torch.equal(extractor.extract_features(model, grays(3), 3), extractor.extract_features(loaded, grays(3), 3))


def test_a_checkpoint_in_half_precision_is_read_as_float32(tmp_path):
    small().to(torch.bfloat16).save_pretrained(tmp_path)
    assert {p.dtype for p in load(tmp_path).parameters()} == {torch.float32}


@pytest.mark.parametrize(
    "sizes, message",
    [
        ({"image_px": 32}, "image_px 64, not 32 as features.extractor states"),
        ({"patch_px": 8}, "patch_px 16, not 8 as features.extractor states"),
    ],
)
def test_a_checkpoint_of_another_size_is_refused(tmp_path, sizes, message):
    small().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        load(tmp_path, **sizes)


def test_the_section_s_sizes_are_compared_with_its_weights(tmp_path):
    small().save_pretrained(tmp_path)
    section = params.load("features").features
    shape = section.extractor.model_copy(update={"weights": str(tmp_path), "image_px": 64, "patch_px": 16})
    model = extractor.from_params(section.model_copy(update={"extractor": shape}))
    assert model.config.hidden_size == 32
    shape = shape.model_copy(update={"image_px": 48})
    with pytest.raises(ValueError, match="image_px 64, not 48"):
        extractor.from_params(section.model_copy(update={"extractor": shape}))


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(OSError, match=r"features.extractor.weights '.*nowhere': neither a folder"):
        load(tmp_path / "nowhere")


def test_a_pickle_is_not_read(tmp_path):
    model = small()
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="neither a folder with config.json and model.safetensors"):
        load(tmp_path)


def test_an_encoder_alone_is_refused(tmp_path):
    small().vit.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="lacks .* of the weights, decoder.*decoder included"):
        load(tmp_path)


def test_another_kind_of_model_is_refused(tmp_path):
    small().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "vit"}))
    with pytest.raises(ValueError, match="a checkpoint of vit, not of vit_mae"):
        load(tmp_path)


def test_parts_are_stacked_in_order():
    assert np.array_equal(extractor.stacked(grays(2), grays(3)), np.concatenate([grays(2), grays(3)]))
