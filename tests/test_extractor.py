import numpy as np
import torch
from miniature import changed, grays, weights_of

from irgpt_lib.models import extractor


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


def test_features_do_not_depend_on_the_batch():
    model, images = small(), grays(5)
    one, all_at_once = extractor.extract_features(model, images, 1), extractor.extract_features(model, images, 5)
    assert one.shape == (5, 32)
    torch.testing.assert_close(one, all_at_once, atol=1e-5, rtol=1e-5)
    assert (one[0] - one[1]).abs().max() > 1e-3


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


def test_training_lowers_the_reconstruction_loss():
    # Every patch of a ramp is the same once it is normalised, so that a few steps suffice.
    ramps = np.tile(np.arange(0, 128, 2, dtype=np.uint8), (32, 64, 1)) + np.arange(32, dtype=np.uint8)[:, None, None]
    history = train(small(), ramps, epochs=10)
    assert [row["epoch"] for row in history] == list(range(1, 11))
    assert history[-1]["loss"] < history[0]["loss"] - 0.2


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


def test_a_saved_extractor_gives_the_same_features(tmp_path):
    model = small()
    model.save_pretrained(tmp_path)
    loaded = extractor.load_extractor(tmp_path, 0.6)
    assert loaded.config.mask_ratio == 0.6
    assert torch.equal(extractor.extract_features(model, grays(3), 3), extractor.extract_features(loaded, grays(3), 3))


def test_parts_are_stacked_in_order():
    assert np.array_equal(extractor.stacked(grays(2), grays(3)), np.concatenate([grays(2), grays(3)]))
