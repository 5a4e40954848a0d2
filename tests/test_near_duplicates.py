"""Perceptual hashes, the exact search among them, merged groups and the leak test with planted copies."""

import io
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from faulty_files import png_header
from PIL import Image, ImageEnhance

from irgpt_lib.irtd.near_duplicates import (
    FLAT_HASH,
    as_integers,
    gray_thumbnail,
    leak_columns,
    leaks,
    merge_groups,
    near_duplicates,
    perceptual_hash,
    representatives,
)
from irgpt_lib.irtd.record import Box, RecordError, Sample, png_bytes

DISTANCE = 6


def frame(seed: int, width: int = 160, height: int = 128) -> Image.Image:
    """A smooth random picture with a little noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 220, (8, 10), dtype=np.uint8)).resize((width, height))
    return Image.fromarray((np.asarray(coarse) + rng.integers(0, 12, (height, width))).astype(np.uint8))


def encoded(image: Image.Image, container: str = "PNG", **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, container, **options)
    return buffer.getvalue()


COPIES: dict[str, Callable[[Image.Image], bytes]] = {
    "re-encoded": lambda image: encoded(image, "JPEG", quality=60),
    "half size": lambda image: encoded(image.resize((image.width // 2, image.height // 2))),
    "brighter": lambda image: encoded(ImageEnhance.Brightness(image).enhance(1.1)),
}


def sample(number: int, data: bytes, split: str = "pretrain", **changes: object) -> Sample:
    plain = Sample(f"s/{number}", "s", "tir", "scene", 160, 128, data, group=f"g{number}", split=split)
    return replace(plain, **changes)


def differing(values: np.ndarray) -> np.ndarray:
    return np.bitwise_count(values[:, None] ^ values[None, :])


def half_set(rng: np.random.Generator, count: int) -> np.ndarray:
    """Random hashes with 32 bits set, as those of pictures have."""
    bits = np.argsort(rng.random((count, 64)), axis=1) < 32
    return np.packbits(bits, axis=1).view(np.uint64).ravel()


# The hash


def test_a_hash_is_16_digits_and_the_same_for_png_and_jpeg_decoding():
    image = frame(0, 640, 512)
    png, jpeg = perceptual_hash(encoded(image)), perceptual_hash(encoded(image, "JPEG", quality=95))
    assert len(png) == 16
    assert np.bitwise_count(np.bitwise_xor(*as_integers([png, jpeg]))) <= 2


def test_a_jpeg_is_decoded_small():
    assert gray_thumbnail(encoded(frame(0, 640, 512), "JPEG")).size == (80, 64)
    assert gray_thumbnail(encoded(frame(0, 640, 512))).size == (80, 64)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_mode_has_a_hash(mode):
    assert len(perceptual_hash(encoded(frame(1).convert(mode)))) == 16


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (3, 2)])
@pytest.mark.parametrize("container", ["PNG", "JPEG"])
def test_tiny_images_have_a_hash(size, container):
    assert len(perceptual_hash(encoded(frame(2).resize(size), container))) == 16


def test_a_flat_image_has_the_flat_hash():
    assert perceptual_hash(png_bytes(np.full((100, 100), 7, np.uint8))) == FLAT_HASH


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty image"),
        (b"no image", "unreadable image"),
        (encoded(frame(3))[:2000], "unreadable image"),
        (encoded(frame(3), "JPEG")[:900], "unreadable image"),
        (encoded(frame(3), "GIF"), "unreadable image"),
        (png_header(30_000, 30_000), "image too large"),
        (png_header(9_000, 9_000), "image too large"),
    ],
)
def test_what_is_no_image_has_a_reason(data, reason):
    with pytest.raises(RecordError) as error:
        perceptual_hash(data)
    assert error.value.reason == reason


@pytest.mark.parametrize("digits", ["", "abc", "x" * 16])
def test_what_is_no_hash_is_refused(digits):
    with pytest.raises(ValueError):
        as_integers([digits])


# The search


@pytest.mark.parametrize("distance", [0, 1, 4, 6, 10, 16])
def test_the_search_finds_what_brute_force_finds(distance):
    rng = np.random.default_rng(distance)
    hashes = half_set(rng, 300)
    # each copy swaps a few set bits for unset ones, so that all distances occur
    for place in range(100):
        for _ in range(rng.integers(0, 9)):
            hashes[place] ^= np.uint64(1) << np.uint64(rng.integers(64))
        hashes[place + 100] = hashes[place] ^ np.uint64(int(rng.integers(1 << 12)) << int(rng.integers(52)))
    near = near_duplicates(hashes, distance)
    told = near.values
    truth = np.argwhere(np.triu(differing(told) <= distance, 1))
    assert np.array_equal(near.pairs, truth)
    assert np.array_equal(told[near.value_of[near.value_of >= 0]], hashes[near.value_of >= 0])


def test_sample_pairs_connect_what_all_near_pairs_connect():
    rng = np.random.default_rng(0)
    hashes = np.repeat(half_set(rng, 20), 3)
    hashes[::3] ^= np.uint64(0b11)
    rng.shuffle(hashes)
    near = near_duplicates(hashes, 2)
    every = np.argwhere(np.triu(differing(hashes) <= 2, 1))
    names = [f"{i:03d}" for i in range(len(hashes))]
    assert len(near.sample_pairs()) < len(every)
    assert merge_groups(names, near.sample_pairs()) == merge_groups(names, every)


def test_flat_hashes_are_counted_and_compared_with_nothing():
    flat = as_integers([FLAT_HASH, FLAT_HASH, "8000000000000000", "8000000000000001"])
    near = near_duplicates(np.concatenate([flat, half_set(np.random.default_rng(0), 2)]), DISTANCE)
    assert (near.flat, len(near.pairs), len(near.sample_pairs())) == (4, 0, 0)
    assert representatives(near, ["s"] * 6).all()


def test_no_hashes_have_no_pairs():
    near = near_duplicates(np.empty(0, np.uint64), DISTANCE)
    assert (len(near.pairs), near.flat, merge_groups([], near.sample_pairs())) == (0, 0, [])


@pytest.mark.parametrize("distance", [-1, 17])
def test_a_distance_that_cannot_be_searched_is_refused(distance):
    with pytest.raises(ValueError, match="0 to 16"):
        near_duplicates(np.empty(0, np.uint64), distance)


# Groups and representatives


def test_groups_merge_through_others_and_take_the_first_name():
    pairs = np.array([[0, 2], [3, 4]])
    assert merge_groups(["b", "c", "c", "a", "b", "d"], pairs) == ["a", "a", "a", "a", "a", "d"]


def test_an_empty_group_is_refused():
    with pytest.raises(ValueError, match="without a group"):
        merge_groups(["a", ""], np.empty((0, 2), np.int64))


def test_the_first_of_near_duplicates_stays_within_each_sequence():
    value = as_integers(["00000000ffffffff"])[0]
    hashes = np.array([value, value, value, value ^ np.uint64(3), value], np.uint64)
    keep = representatives(near_duplicates(hashes, 2), ["a", "a", "b", "a", "b"])
    assert keep.tolist() == [True, False, True, False, False]


def test_a_slow_pan_is_not_chained_into_one_frame():
    value = as_integers(["00000000ffffffff"])[0]
    hashes = np.array([value ^ np.uint64((1 << 2 * step) - 1) for step in range(5)], np.uint64)
    near = near_duplicates(hashes, 2)
    assert representatives(near, ["a"] * 5).tolist() == [True, False, True, False, True]
    assert len(set(merge_groups(list("abcde"), near.sample_pairs()))) == 1


# The leak test


def clean() -> list[Sample]:
    splits = ("pretrain", "instruction", "benchmark")
    return [sample(i, encoded(frame(i)), splits[i % 3]) for i in range(12)]


def kinds(samples: list[Sample], questions: pd.DataFrame | None = None) -> set[str]:
    return {leak.kind for leak in leaks(leak_columns(samples), DISTANCE, questions)}


def test_a_sound_dataset_has_no_leak():
    questions = pd.DataFrame({"question_id": ["q1"], "sample_id": ["s/1"], "split": ["instruction"]})
    assert leaks(leak_columns(clean()), DISTANCE, questions) == []
    assert leaks(leak_columns([]), DISTANCE) == []


@pytest.mark.parametrize("copy", COPIES)
def test_planted_copies_are_found_by_hash(copy):
    samples = clean()
    planted = [sample(100 + i, COPIES[copy](frame(i)), "benchmark") for i in range(0, 12, 3)]
    found = leaks(leak_columns(samples + planted), DISTANCE)
    assert {leak.kind for leak in found} <= {"near_hash", "perceptual_hash"}
    pairs = {frozenset(leak.examples) for leak in found}
    assert pairs == {frozenset({f"s/{i}", f"s/{100 + i}"}) for i in range(0, 12, 3)}
    assert all(leak.splits == ("benchmark", "pretrain") for leak in found)


def test_an_exact_copy_is_found_even_where_the_image_is_flat():
    flat = png_bytes(np.full((50, 50), 9, np.uint8))
    assert kinds([sample(0, flat), sample(1, flat, "benchmark")]) == {"infrared"}


def test_a_shared_visible_image_a_group_and_a_sample_id_are_leaks():
    first, second, *_ = clean()
    visible = encoded(frame(50))
    assert kinds([replace(first, visible=visible), replace(second, visible=visible)]) == {"visible"}
    assert kinds([first, replace(second, group=first.group)]) == {"group"}
    assert kinds([first, replace(second, sample_id=first.sample_id)]) == {"sample_id"}


def test_an_identity_in_two_splits_is_a_leak_within_one_source_only():
    first, second, *_ = clean()
    boxes = (Box("person", 0.0, 0.0, 9.0, 9.0, "0017"),)
    first, second = replace(first, boxes=boxes), replace(second, boxes=boxes)
    assert kinds([first, second]) == {"identity"}
    assert kinds([first, replace(second, source="t")]) == set()
    assert kinds([replace(first, authentic=False), replace(second, authentic=False)]) == set()


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([("q", "s/0", "pretrain"), ("q", "s/1", "instruction")], {"question_id"}),
        ([("q", "s/0", "benchmark")], {"question"}),
        ([("q", "nobody", "benchmark")], {"question"}),
    ],
)
def test_questions_outside_their_split_are_leaks(rows, found):
    assert kinds(clean(), pd.DataFrame(rows, columns=["question_id", "sample_id", "split"])) == found


def test_a_copy_within_one_split_is_no_leak():
    data = encoded(frame(0))
    assert kinds([sample(0, data), sample(1, data)]) == set()
