import numpy as np
import pytest
import torch
from miniature import grays

from irgpt_lib.models import extractor
from irgpt_lib.models.masking import masking_noise, shown_patches


def noise_of(images, masking="infmae", patch_px=16, mask_ratio=0.75, seed=0):
    rng = np.random.default_rng(seed)
    return masking_noise(images, masking, patch_px=patch_px, mask_ratio=mask_ratio, rng=rng)


def shown(images, **settings):
    """For each image the patches that the encoder sees."""
    noise = noise_of(images, **settings).numpy()
    count = shown_patches(noise.shape[1], settings.get("mask_ratio", 0.75))
    return [set(np.argsort(row)[:count].tolist()) for row in noise]


def of_levels(levels, patch_px=16):
    """One image whose patches, in rows and columns, have these gray levels."""
    side = int(len(levels) ** 0.5)
    return np.kron(np.reshape(levels, (side, side)), np.ones((patch_px, patch_px)))[None].astype(np.uint8)


# Brightest first: patches 5, 0, 15, 10 | 3, 12, 6, 9 | 1, 2, 4, 7 | 8, 11, 13, 14.
LEVELS = [240, 120, 110, 200, 100, 250, 180, 90, 80, 170, 220, 70, 190, 60, 50, 230]


def test_infmae_shows_every_fourth_patch_from_the_brightest():
    assert shown(of_levels(LEVELS)) == [{5, 3, 1, 8}]


def test_a_patch_s_level_is_its_mean():
    image = of_levels([100] * 16)
    for rank, patch in enumerate((7, 2, 9, 4)):
        row, column = divmod(patch, 4)
        # One pixel of 256 lifts the mean by a fraction of a gray level.
        image[0, 16 * row, 16 * column] = 140 - 10 * rank
    chosen = shown(image)[0]
    assert 7 in chosen and not {2, 9, 4} & chosen


@pytest.mark.parametrize("masking", ["random", "infmae"])
@pytest.mark.parametrize("mask_ratio, count", [(0.75, 16), (0.5, 32), (0.6, 25), (0.9, 6), (0.98, 1), (0.01, 63)])
def test_the_share_shown_is_that_of_the_model(masking, mask_ratio, count):
    model = extractor.build_extractor(
        image_px=64,
        patch_px=8,
        width=32,
        layers=1,
        heads=2,
        decoder_width=16,
        decoder_layers=1,
        mask_ratio=mask_ratio,
        seed=0,
    )
    noise = noise_of(grays(2), masking, patch_px=8, mask_ratio=mask_ratio)
    mask = model(pixel_values=extractor.normalised(grays(2)), noise=noise).mask
    assert (mask == 0).sum(1).tolist() == [count, count]
    assert [set(np.flatnonzero(row == 0)) for row in mask] == shown(
        grays(2), masking=masking, patch_px=8, mask_ratio=mask_ratio
    )


def test_infmae_sees_all_gray_levels_in_equal_shares_at_any_ratio():
    # Patch i has rank i, so the distance between neighbours that are shown is the interval.
    image = of_levels(np.arange(255, 191, -1), patch_px=2)
    for mask_ratio, intervals in ((0.75, {4}), (0.5, {2}), (0.6, {2, 3}), (0.9, {10, 11})):
        ranks = sorted(shown(image, patch_px=2, mask_ratio=mask_ratio)[0])
        assert ranks[0] == 0
        assert set(np.diff(ranks)) == intervals


def test_infmae_draws_nothing_where_no_patches_are_equal():
    image = of_levels(LEVELS)
    assert torch.equal(noise_of(image, seed=0), noise_of(image, seed=1))


def test_of_equal_patches_any_may_be_shown():
    constant = np.full((200, 64, 64), 7, np.uint8)
    chosen = shown(constant)
    assert {len(one) for one in chosen} == {4}
    times = np.bincount([patch for one in chosen for patch in one], minlength=16)
    assert times.min() > 25 and times.max() < 80
    assert chosen == shown(constant) != shown(constant, seed=1)


def test_a_bright_object_on_a_constant_ground_is_always_seen():
    image = of_levels([0] * 6 + [200] + [0] * 9)
    assert all(6 in shown(image, seed=seed)[0] for seed in range(20))


@pytest.mark.parametrize("masking", ["random", "infmae"])
def test_images_are_masked_independently_of_their_batch_mates(masking):
    images = np.concatenate([of_levels(LEVELS), of_levels(LEVELS[::-1])])
    noise = noise_of(images, masking)
    assert noise.shape == (2, 16) and all(len(set(row.tolist())) == 16 for row in noise)
    assert not torch.equal(noise[0], noise[1])
    if masking == "infmae":
        assert torch.equal(noise[1:], noise_of(images[1:], masking))


def test_random_masks_follow_the_seed():
    images = grays(4)
    assert torch.equal(noise_of(images, "random"), noise_of(images, "random"))
    assert not torch.equal(noise_of(images, "random"), noise_of(images, "random", seed=1))


def test_no_images_have_no_masks():
    assert all(noise_of(grays(0), masking).shape == (0, 16) for masking in ("random", "infmae"))


@pytest.mark.parametrize("mask_ratio, count", [(0.99, 0), (0.0, 16)])
def test_all_or_nothing_is_refused(mask_ratio, count):
    with pytest.raises(ValueError, match=f"{count} of an image's 16 patches .* change features.mask_ratio"):
        noise_of(grays(1), mask_ratio=mask_ratio)


@pytest.mark.parametrize("shape", [(1, 64, 48), (1, 60, 60)])
def test_images_that_are_no_square_of_patches_are_refused(shape):
    with pytest.raises(ValueError, match=f"{shape[1]} x {shape[2]} pixels are not a square of whole patches of 16"):
        noise_of(np.zeros(shape, np.uint8))
