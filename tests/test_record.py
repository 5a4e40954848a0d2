"""The one schema: what goes in comes out, and what cannot be used is refused with a reason that can be counted."""

import copy
import io
import struct
import zlib
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from irgpt_lib.irtd.record import (
    BANDS,
    CAPTION_STATES,
    KINDS,
    SCHEMA,
    Box,
    Point,
    RecordError,
    Sample,
    check,
    content_hash,
    frame_1000,
    from_table,
    open_image,
    png_bytes,
    read_samples,
    to_table,
)

GRAY = np.random.default_rng(0).integers(0, 256, (6, 8), dtype=np.uint8)
PNG = png_bytes(GRAY)
SOUND = Sample("s/1", "s", "tir", "scene", 8, 6, PNG, boxes=(Box("car", 1.0, 1.0, 3.0, 4.0),), origin="a.png")
CORNER = st.floats(0, 4096, width=32)
TEXT = st.text(max_size=12)


def jpeg_bytes() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(GRAY).save(buffer, format="JPEG")
    return buffer.getvalue()


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of that stated size with no pixel in it."""
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0), b"IDAT" + zlib.compress(b""), b"IEND"]
    framed = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def with_values(sample: Sample, **values: object) -> Sample:
    """A sample as a file may hold it: without the check of types that the tests switch on."""
    changed = copy.copy(sample)
    for name, value in values.items():
        object.__setattr__(changed, name, value)
    return changed


def reason(sample: Sample) -> str:
    with pytest.raises(RecordError) as caught:
        check(sample)
    return caught.value.reason


# Plain values, made into samples within the test: the type checker draws random numbers, which a strategy must not.
BOX_VALUES = st.tuples(TEXT, CORNER, CORNER, CORNER, CORNER, TEXT)
SAMPLE_VALUES = st.fixed_dictionaries(
    {
        "sample_id": TEXT,
        "source": TEXT,
        "band": st.sampled_from(BANDS),
        "kind": st.sampled_from(KINDS),
        "width": st.integers(1, 9999),
        "height": st.integers(1, 9999),
        "infrared": st.binary(max_size=30),
        "visible": st.binary(max_size=30),
        "authentic": st.booleans(),
        "group": TEXT,
        "split": TEXT,
        "scene": TEXT,
        "boxes": st.lists(BOX_VALUES, max_size=3),
        "points": st.lists(st.tuples(TEXT, CORNER, CORNER), max_size=3),
        "counted": TEXT,
        "montage_answer": st.integers(0, 8),
        "caption": TEXT,
        "caption_path": st.sampled_from(["IV", "V", "simulated", "none"]),
        "caption_from": TEXT,
        "caption_state": st.sampled_from(CAPTION_STATES),
        "caption_draft": TEXT,
        "caption_by": TEXT,
        "perceptual_hash": TEXT,
        "origin": TEXT,
        "facts": st.dictionaries(TEXT, TEXT, max_size=3),
    }
)


@settings(max_examples=30, deadline=None, database=None)
@given(st.lists(SAMPLE_VALUES, max_size=3))
def test_samples_come_back_from_parquet_as_they_were(values):
    things = [
        {"boxes": tuple(Box(*b) for b in v["boxes"]), "points": tuple(Point(*p) for p in v["points"])} for v in values
    ]
    samples = [Sample(**{**v, **seen}) for v, seen in zip(values, things, strict=True)]
    assert all(set(v) == set(SCHEMA.names) for v in values), "every column is tried"
    buffer = io.BytesIO()
    pq.write_table(to_table(samples), buffer)
    buffer.seek(0)
    assert list(from_table(pq.read_table(buffer))) == samples


def test_samples_come_back_from_a_file(tmp_path):
    pq.write_table(to_table([SOUND, replace(SOUND, sample_id="s/2")]), tmp_path / "samples.parquet")
    assert [s.sample_id for s in read_samples(tmp_path / "samples.parquet")] == ["s/1", "s/2"]


def test_the_table_says_in_which_frame_its_boxes_are():
    assert to_table([SOUND]).schema.metadata[b"box_frame"] == b"pixel_xyxy"


def test_equal_samples_make_equal_tables_whatever_the_order_of_their_facts():
    one, other = replace(SOUND, facts={"a": "1", "b": "2"}), replace(SOUND, facts={"b": "2", "a": "1"})
    assert to_table([one]).equals(to_table([other]))


def test_a_table_without_some_columns_is_refused_by_their_names():
    with pytest.raises(ValueError, match=r"lacks the columns \['boxes', 'facts'\]"):
        list(from_table(to_table([SOUND]).drop(["boxes", "facts"])))


def test_columns_that_the_schema_does_not_know_are_left_out():
    wider = to_table([SOUND]).append_column("extra", pa.array([1]))
    assert list(from_table(wider)) == [SOUND]
    assert "extra" not in SCHEMA.names


def test_a_sound_sample_is_returned_as_it_is():
    assert check(SOUND) is SOUND
    assert check(replace(SOUND, visible=jpeg_bytes(), boxes=())).boxes == ()


@pytest.mark.parametrize(
    "change, expected",
    [
        ({"band": "lwir"}, "unknown band"),
        ({"kind": "portrait"}, "unknown kind"),
        ({"infrared": b""}, "empty image"),
        ({"infrared": PNG[: len(PNG) // 2]}, "unreadable image"),
        ({"infrared": jpeg_bytes()[:100]}, "unreadable image"),
        ({"infrared": b"not an image at all"}, "unreadable image"),
        ({"infrared": png_that_claims(9000, 9000)}, "image too large"),
        ({"infrared": png_that_claims(0, 6)}, "unreadable image"),
        ({"visible": PNG[: len(PNG) // 2]}, "unreadable image"),
        ({"width": 9}, "size mismatch"),
        ({"height": 7}, "size mismatch"),
        ({"width": 6, "height": 8}, "size mismatch"),
    ],
    ids=lambda v: v if isinstance(v, str) else next(iter(v)),
)
def test_an_unusable_image_is_refused_with_its_reason(change, expected):
    assert reason(with_values(SOUND, **change)) == expected


def test_the_refusal_names_the_file_and_the_size_that_it_found():
    with pytest.raises(RecordError, match="size mismatch: stated 9x6, is 8x6"):
        check(replace(SOUND, width=9))
    with pytest.raises(RecordError, match=r"empty image: visible pair of a\.png|empty image: a\.png"):
        check(replace(SOUND, infrared=b""))


@given(st.integers(0, len(PNG) // 2))
@settings(max_examples=40, deadline=None, database=None)
def test_an_image_cut_anywhere_in_its_first_half_is_refused(length):
    with pytest.raises(RecordError, match="unreadable image|empty image"):
        open_image(PNG[:length], "cut")


@given(st.lists(st.tuples(st.integers(0, len(PNG) - 1), st.integers(0, 255)), max_size=4))
@settings(max_examples=150, deadline=None, database=None)
def test_a_damaged_image_is_read_or_refused_but_never_anything_else(damage):
    data = bytearray(PNG)
    for place, value in damage:
        data[place] = value
    try:
        image = open_image(bytes(data), "damaged")
    except RecordError as error:
        assert error.reason in ("unreadable image", "image too large")
    else:
        assert image.width * image.height <= 64_000_000


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "corners, expected",
    [
        ((NAN, 1, 3, 4), "degenerate box"),
        ((1, 1, NAN, 4), "degenerate box"),
        ((1, 1, INF, 4), "degenerate box"),
        ((3, 1, 1, 4), "degenerate box"),
        ((1, 4, 3, 1), "degenerate box"),
        ((1, 1, 1, 4), "degenerate box"),
        ((-2, 1, 3, 4), "box outside image"),
        ((1, -2, 3, 4), "box outside image"),
        ((1, 1, 10, 4), "box outside image"),
        ((1, 1, 3, 8), "box outside image"),
    ],
)
def test_an_unusable_box_is_refused_with_its_reason(corners, expected):
    assert reason(replace(SOUND, boxes=(Box("car", *map(float, corners)),))) == expected


def test_a_box_may_reach_one_pixel_beyond_the_image_as_one_based_labels_do():
    assert check(replace(SOUND, boxes=(Box("car", -1.0, -1.0, 9.0, 7.0),)))


def test_every_box_is_looked_at():
    assert reason(replace(SOUND, boxes=(*SOUND.boxes, Box("dog", 3.0, 1.0, 1.0, 4.0)))) == "degenerate box"


@pytest.mark.parametrize("value, expected", [(0, 0), (320, 500), (640, 1000), (1, 2), (-3, 0), (700, 1000)])
def test_the_text_frame_is_thousandths_of_the_extent(value, expected):
    assert frame_1000(value, 640) == expected


@given(st.floats(0, 4000), st.floats(0, 4000), st.integers(1, 4000))
@settings(max_examples=60, deadline=None, database=None)
def test_the_text_frame_keeps_the_order_and_never_leaves_0_to_1000(a, b, extent):
    low, high = sorted([a, b])
    assert 0 <= frame_1000(low, extent) <= frame_1000(high, extent) <= 1000


def test_a_box_knows_its_centre_and_area():
    box = Box("car", 10.0, 20.0, 14.0, 26.0)
    assert (box.centre, box.area) == ((12.0, 23.0), 24.0)


@pytest.mark.parametrize("shape", [(6, 8), (6, 8, 3)])
def test_pixels_survive_their_encoding(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert np.array_equal(np.array(open_image(png_bytes(pixels), "x")), pixels)


def test_the_content_hash_is_sha256():
    assert content_hash(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
