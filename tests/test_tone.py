"""Samples of more than 8 bits: what becomes of them is chosen, bounded and said."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from faulty_files import colour_png, gray_png, png_chunk, png_header, put
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib import colormaps
from PIL import Image

from irgpt_lib.irtd.record import Rejected, png_bytes
from irgpt_lib.irtd.sources.assembly import Annotation, annotated_sample, attempt, made
from irgpt_lib.irtd.sources.files import ImageFile, RecordError, colour_facts, read_image, read_toned
from irgpt_lib.irtd.sources.registry import SOURCES
from irgpt_lib.irtd.sources.tone import MODES, Tone, looks_colour_mapped, to_8bit

REAL = Path(__file__).parents[2] / "shared" / "data"
FLIR = SOURCES["flir_roadscene"]


def encoded(pixels: np.ndarray, container: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=container, **options)
    return buffer.getvalue()


def ramp(low: int = 7000, high: int = 9000, dtype: type = np.uint16) -> np.ndarray:
    """30 x 40 samples that rise evenly from `low` to `high`."""
    return np.linspace(low, high, 30 * 40).reshape(30, 40).astype(dtype)


def tiff(pixels: np.ndarray, order: str = ">", photometric: int = 1) -> bytes:
    """An uncompressed 16-bit TIFF in either byte order; `photometric` 0 says that white is zero."""
    height, width = pixels.shape
    data = pixels.astype(f"{order}u2").tobytes()
    values = {256: width, 257: height, 258: 16, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height, 279: len(data)}
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in values.items())
    directory = struct.pack(f"{order}H", len(values)) + entries + struct.pack(f"{order}I", 0)
    return (b"MM" if order == ">" else b"II") + struct.pack(f"{order}HI", 42, 8 + len(data)) + data + directory


def colour_16_bit_png(pixels: np.ndarray, colour_type: int, channels: int) -> bytes:
    """What Pillow opens as 8-bit colour: every sample's lower half would be gone."""
    height, width = pixels.shape
    rows = np.repeat(pixels[..., None], channels, axis=-1).astype(">u2")
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")


def decoded(image: ImageFile) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image.data)))


def reason_of(file: Path) -> str:
    with pytest.raises(RecordError) as error:
        read_toned(file)
    assert f"{file.parent.name}/{file.name}" in error.value.detail
    return error.value.reason


# The arithmetic


def test_percentiles_are_linear_between_and_clipped_beyond():
    # samples 0..100, so the percentiles 10 and 90 are the samples 10 and 90; 50 lies half way: 255 / 2 rounds to 128
    samples = np.arange(101, dtype=np.uint16).reshape(1, 101)
    toned = to_8bit(samples, Tone(percentiles=(10, 90)))
    assert toned.pixels[0, [0, 10, 50, 90, 100]].tolist() == [0, 0, 128, 255, 255]
    assert toned.pixels[0, 30] == round(255 * 20 / 80)
    assert toned.note == "percentile 10-90 (10..90)"


def test_minmax_and_a_range_use_their_own_limits():
    samples = np.array([[100, 200, 300]], dtype=np.uint16)
    assert to_8bit(samples, Tone("minmax")).pixels.tolist() == [[0, 128, 255]]
    ranged = to_8bit(samples, Tone("range", limits=(200, 600)))
    assert ranged.pixels.tolist() == [[0, 0, 64]]
    assert ranged.note == "range (200..600)"


def test_a_fixed_range_keeps_frames_comparable_and_percentiles_do_not():
    cold, warm = ramp(7000, 8000), ramp(8000, 9000)
    own = [to_8bit(frame).pixels for frame in (cold, warm)]
    fixed = [to_8bit(frame, Tone("range", limits=(7000, 9000))).pixels for frame in (cold, warm)]
    assert np.abs(own[0].astype(int) - own[1]).max() <= 1
    assert fixed[0].max() <= fixed[1].min() + 1


def test_clahe_lifts_the_contrast_of_a_dim_half():
    samples = np.concatenate([ramp(7000, 7100), ramp(8000, 9000)], axis=1)
    plain, local = (to_8bit(samples, Tone(mode)).pixels for mode in ("percentile", "clahe"))
    assert np.ptp(local[:, :40]) > 1.5 * np.ptp(plain[:, :40])
    assert to_8bit(samples, Tone("clahe")).note.startswith("clahe after percentile 1-99 (")


def test_a_small_hot_target_on_an_even_sky_is_kept_and_the_note_says_how():
    samples = np.full((100, 100), 7000, dtype=np.uint16)
    samples[50, 50:53] = 7400
    toned = to_8bit(samples)
    assert (toned.pixels.max(), np.count_nonzero(toned.pixels)) == (255, 3)
    assert toned.note == "minmax, as percentile 1-99 coincide (7000..7400)"


@pytest.mark.parametrize(
    ("samples", "tone", "reason"),
    [
        (np.full((4, 4), 7000, np.uint16), Tone(), "flat image"),
        (ramp(), Tone("range", limits=(100, 200)), "flat image"),
        (ramp(), Tone("range", limits=(9000, 9999)), "flat image"),
        (np.array([[1.0, np.nan]], np.float32), Tone(), "not finite"),
        (np.array([[1.0, np.inf]], np.float32), Tone(), "not finite"),
    ],
)
def test_samples_without_content_are_refused(samples, tone, reason):
    with pytest.raises(RecordError) as error:
        to_8bit(samples, tone)
    assert error.value.reason == reason


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"percentiles": (99.0, 1.0)}, "rise within 0-100"),
        ({"percentiles": (1.0, 101.0)}, "rise within 0-100"),
        ({"percentiles": (float("nan"), 99.0)}, "rise within 0-100"),
        ({"mode": "range"}, "needs them"),
        ({"limits": (1.0, 2.0)}, "belong to the mode range"),
        ({"mode": "range", "limits": (2.0, 2.0)}, "finite and rise"),
        ({"mode": "range", "limits": (0.0, float("inf"))}, "finite and rise"),
    ],
)
def test_a_tone_that_could_serve_no_image_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Tone(**changes)


@settings(max_examples=40, deadline=None)
@given(
    arrays(np.uint16, st.tuples(st.integers(1, 8), st.integers(2, 8))).filter(lambda samples: np.ptp(samples) > 0),
    st.sampled_from([mode for mode in MODES if mode not in ("range", "clahe")]),
)
def test_a_linear_tone_keeps_the_order_of_samples_and_uses_the_whole_scale(samples, mode):
    pixels = to_8bit(samples, Tone(mode)).pixels.ravel().astype(int)
    order = np.argsort(samples.ravel(), kind="stable")
    assert (np.diff(pixels[order]) >= 0).all()
    assert (pixels.min(), pixels.max()) == (0, 255)


# Files


@pytest.mark.parametrize(
    ("data", "bits"),
    [
        (encoded(ramp(), "PNG"), "16"),
        (encoded(ramp(), "TIFF"), "16"),
        (encoded(ramp(), "TIFF", compression="tiff_lzw"), "16"),
        (tiff(ramp()), "16"),
        (encoded(ramp(-2000, 9000, np.int32), "TIFF"), "32"),
        (encoded(ramp(-20, 90, np.float32), "TIFF"), "32"),
    ],
)
def test_wide_files_become_8_bit_png_and_say_so(data, bits, tmp_path):
    image = read_toned(put(tmp_path / "a.any", data))
    pixels = decoded(image)
    assert (pixels.dtype, pixels.shape, image.width, image.height) == (np.uint8, (30, 40), 40, 30)
    assert (pixels[0, 0], pixels[-1, -1]) == (0, 255)
    assert (np.diff(pixels.ravel().astype(int)) >= 0).all()
    assert image.facts["bit_depth"] == bits
    assert image.facts["tone"].startswith("percentile 1-99 (")
    assert read_image(tmp_path / "a.any") == (image.data, 40, 30)


@pytest.mark.parametrize("bits", [12, 14])
def test_raw_counts_of_fewer_bits_in_a_container_of_16_fill_the_gray_scale(bits, tmp_path):
    samples = ramp(0, 2**bits - 1)
    toned = read_toned(put(tmp_path / "a.png", encoded(samples, "PNG")))
    shifted = read_toned(put(tmp_path / "b.png", encoded(samples << (16 - bits), "PNG")))
    assert toned.data == shifted.data
    assert toned.facts["tone"] != shifted.facts["tone"]


def test_a_tiff_whose_white_is_zero_is_turned_over_and_the_note_says_so(tmp_path):
    plain, turned = (
        read_toned(put(tmp_path / f"{value}.tiff", tiff(ramp(), "<", photometric=value))) for value in (1, 0)
    )
    assert np.array_equal(decoded(turned), 255 - decoded(plain))
    assert turned.facts["tone"] == f"{plain.facts['tone']}, white is zero"


def test_the_tone_can_be_chosen(tmp_path):
    file = put(tmp_path / "a.tiff", encoded(ramp(), "TIFF"))
    assert read_toned(file, Tone("range", limits=(0, 16383))).facts["tone"] == "range (0..16383)"


def test_of_several_pages_the_first_is_read_and_the_fact_says_so(tmp_path):
    pages = [Image.fromarray(ramp(7000 + k, 9000 + k)) for k in range(3)]
    pages[0].save(tmp_path / "a.tiff", save_all=True, append_images=pages[1:])
    image = read_toned(tmp_path / "a.tiff")
    assert image.data == read_toned(put(tmp_path / "b.tiff", encoded(ramp(), "TIFF"))).data
    assert image.facts["page"] == "first of several"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encoded(ramp(), "TIFF")[:200], "unreadable image"),
        (encoded(ramp(), "TIFF", compression="tiff_lzw")[:-300], "unreadable image"),
        (tiff(ramp())[:-60], "unreadable image"),
        (
            encoded(np.random.default_rng(0).integers(0, 2**14, (30, 40)).astype(np.uint16), "PNG")[:600],
            "unreadable image",
        ),
        (png_header(9000, 8000, depth=16), "image too large"),
        (png_header(60_000, 60_000, depth=16), "image too large"),
        (encoded(np.zeros((30, 40), np.uint16), "TIFF"), "flat image"),
        (encoded(np.full((30, 40), np.nan, np.float32), "TIFF"), "not finite"),
        (colour_16_bit_png(ramp(0, 4095), 2, 3), "not an 8-bit image"),
        (colour_16_bit_png(ramp(0, 4095), 4, 2), "not an 8-bit image"),
        (colour_16_bit_png(ramp(0, 4095), 6, 4), "not an 8-bit image"),
        (b"", "empty image"),
    ],
)
def test_a_wide_file_that_cannot_be_used_is_rejected_with_its_name_and_reason(data, reason, tmp_path):
    assert reason_of(put(tmp_path / "a.tiff", data)) == reason


def test_a_tiff_that_claims_more_pixels_than_allowed_is_not_decoded(tmp_path):
    bomb = bytearray(tiff(ramp()))
    for tag in (256, 257):
        place = bomb.index(struct.pack(">HHI", tag, 4, 1))
        bomb[place + 8 : place + 12] = struct.pack(">I", 20_000)
    assert reason_of(put(tmp_path / "a.tiff", bytes(bomb))) == "image too large"


def test_a_flat_8_bit_image_stays_as_it_is(tmp_path):
    assert read_toned(put(tmp_path / "a.png", gray_png())) == ImageFile(gray_png(), 40, 30)


def test_a_16_bit_sample_carries_the_facts_and_a_broken_one_hides_no_neighbour(tmp_path):
    put(tmp_path / "a.tiff", encoded(ramp(), "TIFF"))
    put(tmp_path / "b.tiff", encoded(ramp(), "TIFF")[:100])
    found = [
        made(
            attempt(FLIR, name, name, lambda name=name: annotated_sample(FLIR, tmp_path, tmp_path / name, Annotation()))
        )
        for name in ("a.tiff", "b.tiff")
    ]
    assert found[0].facts == {"bit_depth": "16", "tone": "percentile 1-99 (7019.98..8979.02)"}
    assert isinstance(found[1], Rejected)
    assert (found[1].file, found[1].record, found[1].reason) == ("b.tiff", "b.tiff", "unreadable image")


# Colour maps


def thermal(size: int = 64) -> np.ndarray:
    """A smooth frame with a warm object, 0-255."""
    y, x = np.mgrid[:size, :size] / size
    frame = 60 + 80 * y + 110 * np.exp(-((x - 0.5) ** 2 + (y - 0.6) ** 2) / 0.02)
    return frame.clip(0, 255).astype(np.uint8)


def mapped(name: str) -> np.ndarray:
    return (255 * colormaps[name](thermal())[..., :3]).astype(np.uint8)


@pytest.mark.parametrize("name", ["inferno", "jet", "plasma", "viridis", "turbo", "rainbow", "hot"])
@pytest.mark.parametrize("container", ["PNG", "JPEG"])
def test_a_pseudo_colour_rendering_is_noticed(name, container, tmp_path):
    file = put(tmp_path / "a.img", encoded(mapped(name), container))
    assert annotated_sample(FLIR, tmp_path, file, Annotation()).facts == {"colour_mapped": "yes"}


@pytest.mark.parametrize(
    "pixels",
    [
        thermal(),
        np.stack([thermal()] * 3, axis=-1),
        np.stack([thermal()] * 4, axis=-1),
        (thermal()[..., None] * np.array([0.2, 1.0, 0.3])).astype(np.uint8),
        (thermal()[..., None] * np.array([1.0, 0.85, 0.65])).astype(np.uint8),
        (thermal()[..., None] * np.repeat([[[1.0, 0.8, 0.6]], [[0.6, 0.8, 1.0]]], 32, axis=0)).astype(np.uint8),
    ],
    ids=["gray", "gray in three channels", "gray with alpha", "green tint", "sepia", "muted ground and sky"],
)
def test_gray_tints_and_muted_colours_are_no_colour_map(pixels):
    assert colour_facts(png_bytes(pixels), "test") == {}


def test_a_palette_of_colours_is_seen_through():
    rendered = Image.fromarray(mapped("inferno")).quantize(64)
    buffer = io.BytesIO()
    rendered.save(buffer, format="PNG")
    assert colour_facts(buffer.getvalue(), "test") == {"colour_mapped": "yes"}


def test_a_truncated_colour_image_is_rejected_and_not_called_gray():
    with pytest.raises(RecordError, match="unreadable image: a.png"):
        colour_facts(encoded(mapped("jet"), "PNG")[:300], "a.png")
    assert colour_facts(colour_png(), "test") == {}


def test_no_real_photograph_and_no_real_frame_looks_colour_mapped():
    if not REAL.is_dir():
        pytest.skip("needs the real files in ../shared/data")
    folders = (
        "visnir_scenes/*/*_rgb.*",
        "flir_roadscene/crop_visible/*0.*",
        "llvip/*/*.jpg",
        "flir_roadscene/infrared/*0.*",
    )
    files = [file for pattern in folders for file in sorted(REAL.glob(pattern))]
    flagged = [file.name for file in files if colour_facts(file.read_bytes(), file.name)]
    assert len(files) > 40
    assert flagged == []


def test_real_frames_under_a_colour_map_are_all_found():
    files = sorted((REAL / "hit_uav" / "val").glob("*.jpg"))[:8]
    if not files:
        pytest.skip("needs the real files of hit_uav in ../shared/data")
    for file in files:
        frame = np.asarray(Image.open(file).convert("L").resize((64, 64)))
        for name in ("inferno", "jet", "hot"):
            assert looks_colour_mapped((255 * colormaps[name](frame)[..., :3]).astype(np.uint8)), (file.name, name)
