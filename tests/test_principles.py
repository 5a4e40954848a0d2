"""The two principles: images that no infrared camera took are found out, captions that contradict the labels too."""

import io
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from faulty_files import png_chunk
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from irgpt_lib.irtd.captions import with_rule_caption
from irgpt_lib.irtd.principles import alignment_faults, authenticity_faults, generator_trace
from irgpt_lib.irtd.record import Box, Point, RecordError, Sample, png_bytes
from irgpt_lib.irtd.simulated import world
from irgpt_lib.irtd.simulated.describe import describe
from irgpt_lib.irtd.sources import SOURCES

LLVIP = SOURCES["llvip"]


def picture(seed: int = 0, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (60, 80, channels), dtype=np.uint8).squeeze()


def png(**texts: str) -> bytes:
    information, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
    for keyword, text in texts.items():
        information.add_text(keyword.replace("_", " "), text)
    Image.fromarray(picture()).save(buffer, "PNG", pnginfo=information)
    return buffer.getvalue()


def jpeg(**options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture()).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def exif(tag: int, value: str | bytes) -> bytes:
    made = Image.Exif()
    made[tag] = value
    return made.tobytes()


def with_chunk(kind: bytes, content: bytes) -> bytes:
    """The chunk before the last one, where writers put what comes after the pixels."""
    whole = png()
    return whole[:-12] + png_chunk(kind, content) + whole[-12:]


def with_segment(marker: int, content: bytes) -> bytes:
    whole = jpeg()
    return whole[:2] + struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content + whole[2:]


def sample(infrared: bytes = b"", **changes: object) -> Sample:
    plain = Sample("s/1", "llvip", "tir", "scene", 80, 60, infrared or png_bytes(picture(1, 1)))
    return replace(plain, **changes)


# Authenticity


SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
TRACES = {
    "A1111 in PNG": (png(parameters="a cat, thermal\nSteps: 20"), "'parameters'"),
    "ComfyUI": (png(workflow="{}"), "'workflow'"),
    "prompt": (png(Prompt="{}"), "'prompt'"),
    "NovelAI": (png(Software="NovelAI"), "'novelai' in tEXt"),
    "compressed text": (
        with_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"Midjourney v6")),
        "'midjourney'",
    ),
    "XMP in PNG": (png(**{"XML:com.adobe.xmp": f"<x>{SOURCE_TYPE}</x>"}), "trainedAlgorithmicMedia"),
    "XMP in JPEG": (jpeg(xmp=f"<x>{SOURCE_TYPE}</x>".encode()), "trainedAlgorithmicMedia in APP1"),
    "composite": (jpeg(xmp=b"compositeWithTrainedAlgorithmicMedia"), "trainedAlgorithmicMedia"),
    "EXIF software": (jpeg(exif=exif(0x0131, "Adobe Firefly 3")), "'adobe firefly' in APP1"),
    "EXIF in PNG": (with_chunk(b"eXIf", exif(0x0131, "DALL-E 3")), "'dall-e'"),
    "A1111 in JPEG": (
        with_segment(0xE1, b"Exif\0\0UNICODE\0" + "Steps: 20, Sampler: Euler a".encode("utf-16-be")),
        "steps: 20",
    ),
    "C2PA in PNG": (with_chunk(b"caBX", b"jumb"), "C2PA"),
    "C2PA in JPEG": (with_segment(0xEB, b"JP\0\0jumbc2pa"), "C2PA"),
    "comment": (jpeg(comment=b"made with Stable Diffusion"), "'stable diffusion' in COM"),
}


@pytest.mark.parametrize("kind", TRACES)
def test_traces_of_generators_are_found(kind):
    data, said = TRACES[kind]
    Image.open(io.BytesIO(data)).load()
    assert said in generator_trace(data)
    assert [fault.kind for fault in authenticity_faults([sample(data)], {})] == ["generator"]


@pytest.mark.parametrize(
    "data",
    [
        png(),
        jpeg(),
        png(Software="FLIR Tools", Comment="prompt service", Description="parameters: emissivity 0.95"),
        jpeg(exif=exif(0x0131, "Adobe Photoshop 25"), comment=b"1/60 s"),
        with_chunk(b"zTXt", b"Comment\0\0not deflated"),
        with_chunk(b"iTXt", b"Comment"),
        with_segment(0xEB, b"HDR_RI ver=11"),
        png()[:100],
        jpeg()[:30],
        b"\xff\xd8\xff\xe1",
        b"\xff\xd8\xff\xe1\0\0",
        b"\x89PNG\r\n\x1a\n\xff\xff\xff\xffIHDR",
        b"",
        b"BM",
    ],
)
def test_cameras_tools_and_damaged_files_leave_no_trace(data):
    assert generator_trace(data) == ""


def test_a_chunk_that_would_swell_without_end_is_read_in_part():
    bomb = zlib.compress(b"\0" * (16 * 2**20))
    assert generator_trace(with_chunk(b"zTXt", b"Comment\0\0" + bomb)) == ""


def test_a_visible_image_is_looked_at_too():
    (fault,) = authenticity_faults([sample(visible=png(prompt="x"))], {})
    assert (fault.sample_id, fault.detail) == ("s/1", "visible image: PNG text 'prompt'")


def test_a_sample_of_a_source_that_is_not_authentic_is_a_fault_unless_it_says_so():
    sources = {"llvip": replace(LLVIP, authentic=False)}
    assert [fault.kind for fault in authenticity_faults([sample()], sources)] == ["source"]
    assert authenticity_faults([sample(authentic=False)], sources) == []
    assert authenticity_faults([sample()], {"llvip": LLVIP}) == []


def gray(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels).convert("L")


@pytest.mark.parametrize("change", [lambda g: g, lambda g: 255 - g, lambda g: g // 2 + 60])
def test_infrared_made_of_visible_by_gray_conversion_is_a_fault(change):
    infrared = png_bytes(change(np.asarray(gray(picture()))))
    faults = authenticity_faults([sample(infrared, visible=png_bytes(picture()))], {})
    assert [fault.kind for fault in faults] == ["gray copy"]


def test_a_gray_copy_of_another_size_is_a_fault():
    smooth = np.asarray(Image.fromarray(picture()[:6, :8]).resize((160, 120), Image.Resampling.BICUBIC))
    infrared = png_bytes(np.asarray(gray(smooth).resize((80, 60))))
    assert [f.kind for f in authenticity_faults([sample(infrared, visible=png_bytes(smooth))], {})] == ["gray copy"]


def test_an_infrared_image_of_its_own_is_none():
    own = np.asarray(gray(picture())) * 0.9 + picture(1, 1) * 0.1
    for pixels in (own.astype(np.uint8), np.zeros((60, 80), np.uint8)):
        assert authenticity_faults([sample(png_bytes(pixels), visible=png_bytes(picture()))], {}) == []


def test_a_broken_image_has_a_reason():
    with pytest.raises(RecordError):
        authenticity_faults([sample(visible=png()[:80])], {})


# Semantic alignment


def labelled(caption: str, facts: dict[str, str] | None = None, counted: str = "", **counts: int) -> Sample:
    """A sample with so many boxes of each category, underscores as blanks."""
    boxes = [Box(name.replace("_", " "), 1.0, 1.0, 9.0, 9.0) for name, count in counts.items() for _ in range(count)]
    return sample(caption=caption, boxes=tuple(boxes), counted=counted, facts=facts or {})


AGREE = [
    ("The image contains 7 cars and 15 people.", {"car": 7, "person": 15}),
    ("Two pedestrians walk past a parked car.", {"person": 2, "car": 1}),
    ("Two people on the left and three persons on the right.", {"person": 5}),
    ("Five people are visible; two people carry bags.", {"person": 5}),
    ("Several cars and a few people.", {"car": 3, "person": 2}),
    ("Many small bright cars.", {"car": 9}),
    ("Two cars and several more cars behind them.", {"car": 6}),
    ("A car is parked; another car passes.", {"car": 2}),
    ("One car in front of two other vehicles.", {"car": 1, "other_vehicle": 2}),
    ("About 30 people and at least two cars.", {"person": 34, "car": 5}),
    ("Two or three people cross, up to four bikes stand.", {"person": 3, "bicycle": 3}),
    ("There are no visible people. 2 cars wait.", {"car": 2}),
    ("No people, cars or dogs; the road is without any bikes.", {}),
    ("People are not visible, and cars cannot be seen.", {}),
    ("A car park by a bus stop and a bicycle lane.", {}),
    ("Three car doors and a two-car garage.", {}),
    ("A street at (120, 500) dog at (3, 7).", {"dog": 1}),
    ("There are no other people.", {"person": 1}),
    ("Neither people nor cars.", {}),
    ("The person of crop 1 is in crop 3.", {"person": 8}),
    ("Nineteen sheep and 1,200 birds.", {"sheep": 19, "bird": 1200}),
    ("One sheep.", {"sheep": 1}),
    ("", {"car": 3}),
    ("A warm evening without labels.", {"car": 3}),
]
JUDGED = ("car", "person", "bicycle", "dog", "bus")


@pytest.mark.parametrize(("caption", "counts"), AGREE)
def test_captions_that_agree_have_no_fault(caption, counts):
    assert alignment_faults(labelled(caption, **counts), JUDGED) == []


DISAGREE = [
    ("The image contains 7 cars.", {"car": 6}, ["'7 cars': 6 car labelled"]),
    ("Two pedestrians walk.", {"person": 3}, ["'two pedestrians': 3 person labelled"]),
    ("A dog runs past two cars.", {"car": 2}, ["'a dog': 0 dog labelled"]),
    ("Seen in the image: bus.", {}, ["'bus': 0 bus labelled"]),
    ("Two people left, three people right.", {"person": 4}, ["'two people + three people': 4 person labelled"]),
    ("Several cars.", {"car": 2}, ["'several cars': 2 car labelled"]),
    ("A crowd of people.", {"person": 4}, ["'a crowd of people': 4 person labelled"]),
    ("No visible people.", {"person": 1}, ["'no visible people': 1 person labelled"]),
    ("Without dogs or bikes.", {"bicycle": 2}, ["'without dogs or bikes': 2 bicycle labelled"]),
    ("Cars are not visible.", {"car": 1}, ["'cars are not': 1 car labelled"]),
    ("About 30 people.", {"person": 20}, ["'about 30 people': 20 person labelled"]),
    ("At most two cars.", {"car": 3}, ["'at most two cars': 3 car labelled"]),
    ("A single person.", {"person": 2}, ["'a single person': 2 person labelled"]),
    ("Two or three large dogs.", {"dog": 4}, ["'two or three large dogs': 4 dog labelled"]),
    ("Two cars. The cars wait.", {"car": 5}, ["'two cars': 5 car labelled"]),
]


@pytest.mark.parametrize(("caption", "counts", "faults"), DISAGREE)
def test_captions_that_disagree_are_told(caption, counts, faults):
    assert alignment_faults(labelled(caption, **counts), JUDGED) == faults


def test_a_category_of_which_nothing_is_known_is_not_judged():
    assert alignment_faults(labelled("Three trucks and a tree.", car=1)) == []
    assert alignment_faults(labelled("Three people.", counted="person")) == ["'three people': 0 person labelled"]


def test_labels_that_leave_instances_out_only_bound_the_caption():
    for fact in ({"annotated": "target only"}, {"crowd": "1"}, {"dont_care": "2"}):
        assert alignment_faults(labelled("Five people.", fact, person=1)) == []
        assert alignment_faults(labelled("Two people.", fact, person=3)) == ["'two people': 3 person labelled"]
        assert alignment_faults(labelled("No people.", fact, person=1)) == ["'no people': 1 person labelled"]


def test_masks_without_instances_only_deny_an_absence():
    fact = {"instances": "unknown"}
    assert alignment_faults(labelled("Five people and a car.", fact, person=1)) == []
    assert alignment_faults(labelled("No people.", fact, person=1)) == ["'no people': 1 person labelled"]


def test_points_count_as_boxes_do():
    points = tuple(Point("person", 1.0, 1.0) for _ in range(3))
    assert alignment_faults(sample(caption="Three people.", points=points)) == []
    assert alignment_faults(sample(caption="Four people.", points=points)) == ["'four people': 3 person labelled"]


NAMES = ("car", "person", "other vehicle", "bus", "sheep", "motorcycle", "traffic light", "box")


@given(st.dictionaries(st.sampled_from(NAMES), st.integers(1, 40)), st.sampled_from(NAMES))
@settings(max_examples=25, deadline=None)
def test_the_rules_own_captions_agree_and_one_box_less_does_not(counts, removed):
    whole = with_rule_caption(labelled("", **{name.replace(" ", "_"): count for name, count in counts.items()}))
    assert alignment_faults(whole, NAMES) == []
    fewer = [box for box in whole.boxes if box.category == removed][1:]
    rest = [box for box in whole.boxes if box.category != removed]
    assert len(alignment_faults(replace(whole, boxes=tuple(rest + fewer)), NAMES)) == (removed in counts)


def test_the_simulated_world_has_no_false_fault():
    mix = {"scene": 0.4, "aerial": 0.2, "crowd": 0.2, "montage": 0.2}
    captions = 0
    for truths, _ in world.generate(40, seed=5, size=64, mix=mix):
        for truth in truths:
            described = replace(truth, caption=describe(truth))
            present = {box.category for box in truth.boxes}
            assert alignment_faults(described, present | {truth.counted} - {""}) == [], described.caption
            captions += 1
    assert captions == 40


@pytest.mark.parametrize(
    "caption", ["(", "no", "a", "3", "no,or", "\ud800 cars", "²₃ cars", "٣ cars", "٣٫٥ cars", "car " * 500]
)
def test_odd_text_is_read_without_a_stumble(caption):
    alignment_faults(labelled(caption, car=1), JUDGED)
