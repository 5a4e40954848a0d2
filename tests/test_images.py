import numpy as np
import pytest
from PIL import UnidentifiedImageError

from irgpt_lib.irtd.record import png_bytes
from irgpt_lib.models.images import decode_all, decode_image


def test_an_image_of_the_right_size_is_not_touched():
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert np.array_equal(decode_image(png_bytes(pixels), 8), pixels)


def test_colour_becomes_luminance():
    green = np.zeros((8, 8, 3), np.uint8)
    green[..., 1] = 200
    # ITU-R 601: green counts 0.587.
    assert decode_image(png_bytes(green), 8).tolist() == [[117] * 8] * 8


def test_a_wide_image_is_squeezed_so_that_its_halves_stay_halves():
    wide = np.zeros((16, 64), np.uint8)
    wide[:, :32] = 255
    square = decode_image(png_bytes(wide), 16)
    assert square.shape == (16, 16)
    assert (square[:, :7] == 255).all() and (square[:, 9:] == 0).all()


def test_a_constant_image_keeps_its_tone_when_resized():
    assert (decode_image(png_bytes(np.full((37, 21), 90, np.uint8)), 16) == 90).all()


def test_several_images_stack_and_none_give_an_empty_stack():
    one = png_bytes(np.full((8, 8), 7, np.uint8))
    assert decode_all([one, one], 4).tolist() == [[[7] * 4] * 4] * 2
    assert decode_all([], 4).shape == (0, 4, 4)


def test_what_is_no_image_is_refused():
    with pytest.raises(UnidentifiedImageError):
        decode_image(b"no image", 8)
