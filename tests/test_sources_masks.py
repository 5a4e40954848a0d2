"""Masks, crowds, scene folders, oriented boxes: what is read, what is refused, and that neighbours are read still."""

import io
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from faulty_files import HEIGHT, WIDTH, colour_png, gray_png, png_header, put
from PIL import Image

from irgpt_lib.irtd.record import Box, Point, Rejected, Sample, open_image, png_bytes
from irgpt_lib.irtd.sources.assembly import made
from irgpt_lib.irtd.sources.crowd import read_crowd
from irgpt_lib.irtd.sources.formats import FORMATS
from irgpt_lib.irtd.sources.masks import (
    read_salient_masks,
    read_semantic_masks,
    read_target_masks,
    regions,
)
from irgpt_lib.irtd.sources.naming import mfnet_name, numbered_name, pst900_name, sirst_aug_name, unaligned_name
from irgpt_lib.irtd.sources.oriented import read_oriented
from irgpt_lib.irtd.sources.scenes import read_scenes
from irgpt_lib.irtd.sources.source import Found, MalformedFile, MissingData, Source

READERS = {
    "semantic_mask": read_semantic_masks,
    "target_mask": read_target_masks,
    "salient_mask": read_salient_masks,
    "crowd": read_crowd,
    "scenes": read_scenes,
    "oriented": read_oriented,
}
REAL = Path(__file__).parents[2] / "shared" / "data"
BOMB = '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]>'
BROKEN_IMAGES = [
    (b"", "empty image"),
    (b"not an image", "unreadable image"),
    (gray_png()[:40], "unreadable image"),
    (png_header(60_000, 60_000), "image too large"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n", "unreadable image"),
]


def a_source(counted: tuple[str, ...] = (), naming: str = "") -> Source:
    return Source(
        name="set",
        index=None,
        title="A set",
        band="tir",
        paired=True,
        task="unknown",
        format="scenes",
        folder="set",
        home="its home",
        terms="its terms",
        what_belongs_there="what belongs there",
        counted=counted,
        naming=naming,
    )


def outcome(
    reader: Callable[[Path, Source], Found], root: Path, counted: tuple[str, ...] = (), naming: str = ""
) -> tuple[list[Sample], list[tuple[str, str]]]:
    items = [made(found) for found in reader(root, a_source(counted, naming))]
    rejected = [(item.record, item.reason) for item in items if isinstance(item, Rejected)]
    assert all(item.file and item.detail for item in items if isinstance(item, Rejected))
    return [item for item in items if isinstance(item, Sample)], rejected


def box(category: str, *corners: int) -> Box:
    return Box(category, *map(float, corners))


def mask(*rectangles: tuple[int, int, int, int, int], width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Zeros with rectangles `value, x1, y1, x2, y2`."""
    values = np.zeros((height, width), dtype=np.uint8)
    for value, x1, y1, x2, y2 in rectangles:
        values[y1:y2, x1:x2] = value
    return values


def jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG")
    return buffer.getvalue()


gray = cache(gray_png)
colour = cache(colour_png)


# All of them


def test_each_format_has_its_reader():
    assert {name: FORMATS[name] for name in READERS} == READERS


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@pytest.mark.parametrize("folder", ["absent", "empty"])
def test_a_folder_without_data_says_where_it_looked_and_what_belongs_there(reader, folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingData, match=r"what belongs there.* its home.* its terms") as error:
        list(reader(tmp_path / folder, a_source()))
    assert str(tmp_path / folder) in str(error.value)


def test_regions_join_corner_to_corner_and_never_two_labels():
    labels = mask((1, 0, 0, 2, 2), (1, 2, 2, 3, 3), (2, 3, 0, 4, 1), (2, 6, 4, 7, 5))
    assert [tuple(region) for region in regions(labels)] == [
        (1, 0, 0, 3, 3, 5),
        (2, 3, 0, 4, 1, 1),
        (2, 6, 4, 7, 5, 1),
    ]


def test_names_tell_the_group_and_the_facts():
    assert mfnet_name("01417N").group == "014xx"
    assert mfnet_name("01417N").facts == {"number": "1417", "time": "night"}
    assert mfnet_name("other").facts == {}
    assert pst900_name("31_bag1a_rect_rgb_frame0000000007").group == "bag1a"
    assert numbered_name("1655_T").group == "016xx"
    assert numbered_name("XDU7").group == "XDU000xx"
    assert (sirst_aug_name("000002").group, sirst_aug_name("000003").facts) == ("crops", {"augmented": "yes"})
    assert unaligned_name("12").facts["visible_frame"] == "unaligned"


# Semantic masks


def four_channels(width: int = WIDTH, height: int = HEIGHT) -> bytes:
    pixels = np.full((height, width, 4), 60, dtype=np.uint8)
    pixels[..., 3] = 200
    return png_bytes(pixels)


def mfnet_folder(root: Path, stems: tuple[str, ...] = ("00001D",)) -> Path:
    for stem in stems:
        put(root / "images" / f"{stem}.png", four_channels())
        put(root / "labels" / f"{stem}.png", png_bytes(mask((1, 2, 3, 10, 9), (2, 20, 5, 24, 15))))
    return root


def test_mfnet_the_fourth_channel_is_the_infrared_image_and_the_others_the_visible(tmp_path):
    root = mfnet_folder(tmp_path, ("00001D", "00002N"))
    put(root / "train.txt", "00001D\n00001D_flip\n")
    put(root / "test.txt", "00002N.png\n")
    (first, second), rejected = outcome(read_semantic_masks, root, ("car",), "mfnet")
    assert np.unique(np.asarray(open_image(first.infrared, "a"))).tolist() == [200]
    assert np.unique(np.asarray(open_image(first.visible, "a"))).tolist() == [60]
    assert first.boxes == (box("car", 2, 3, 10, 9), box("person", 20, 5, 24, 15))
    assert first.caption == "Seen in the image: car, person."
    assert (first.counted, first.facts["instances"], first.facts["visible_frame"]) == ("", "unknown", "aligned")
    assert [(s.split, s.facts["time"], s.group) for s in (first, second)] == [
        ("train", "day", "set/000xx"),
        ("test", "night", "set/000xx"),
    ]
    assert "colour_mapped" not in first.facts
    assert rejected == []


def test_mfnet_mirrored_copies_are_passed_over_and_counted(tmp_path):
    root = mfnet_folder(tmp_path, ("00001D", "00001D_flip", "00002D", "00003D_flip"))
    (first, second), rejected = outcome(read_semantic_masks, root, naming="mfnet")
    assert first.facts["augmented_copies_skipped"] == "1"
    assert "augmented_copies_skipped" not in second.facts
    # its image and its label
    assert rejected == [("00003D_flip", "augmented copy")] * 2


def test_mfnet_regions_of_few_pixels_are_counted_and_not_kept(tmp_path):
    root = mfnet_folder(tmp_path)
    put(root / "labels" / "00001D.png", png_bytes(mask((1, 0, 0, 3, 3), (2, 9, 9, 11, 13))))
    (sample,), _ = outcome(read_semantic_masks, root)
    assert sample.boxes == (box("car", 0, 0, 3, 3),)
    assert sample.facts["small_regions"] == "1"


@pytest.mark.parametrize(
    ("file", "data", "reason"),
    [
        *(("images/00001D.png", data, reason) for data, reason in BROKEN_IMAGES),
        *(("labels/00001D.png", data, reason) for data, reason in BROKEN_IMAGES),
        ("images/00001D.png", colour_png(), "not a four-channel image"),
        ("images/00001D.png", four_channels(8, 8), "size mismatch"),
        ("labels/00001D.png", gray_png(value=9), "unknown label"),
        ("labels/00001D.png", colour_png(), "not a label mask"),
        ("labels/00001D.png", png_bytes(mask((2, 0, 0, 9, 9)).astype(np.uint16)), "not an 8-bit image"),
    ],
)
def test_mfnet_a_bad_file_rejects_its_record_and_no_other(file, data, reason, tmp_path):
    root = mfnet_folder(tmp_path, ("00001D", "00002D"))
    put(root / file, data)
    samples, rejected = outcome(read_semantic_masks, root)
    assert [sample.sample_id for sample in samples] == ["set/00002D"]
    assert rejected == [("00001D", reason)]


def test_mfnet_what_lacks_its_counterpart_is_rejected(tmp_path):
    root = mfnet_folder(tmp_path, ("00001D", "00002D", "00003D"))
    put(root / "images" / "00001D.jpg", four_channels())
    (root / "labels" / "00002D.png").unlink()
    (root / "images" / "00003D.png").unlink()
    put(root / "train.txt", "00001D\n../00002D\n00009D\n")
    put(root / "val.txt", "00001D\n")
    samples, rejected = outcome(read_semantic_masks, root)
    assert len(samples) == 1
    assert sorted(rejected) == [
        ("../00002D", "unsafe path"),
        ("00001D", "duplicate id"),
        ("00001D", "duplicate id"),
        ("00002D", "missing annotation"),
        ("00003D", "missing image"),
        ("00009D", "missing image"),
    ]


def test_mfnet_a_list_that_is_not_utf8_names_the_byte(tmp_path):
    root = mfnet_folder(tmp_path)
    put(root / "train.txt", b"00001D\n\xff")
    with pytest.raises(MalformedFile, match=r"train.txt: not UTF-8 at byte 7"):
        list(read_semantic_masks(root, a_source()))


def test_a_palette_counts_by_its_indices(tmp_path):
    root = mfnet_folder(tmp_path)
    image = Image.fromarray(mask((3, 0, 0, 9, 9)))
    image.putpalette([0, 0, 0, 64, 0, 128, 64, 64, 0, 0, 128, 192])
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    put(root / "labels" / "00001D.png", buffer.getvalue())
    (sample,), _ = outcome(read_semantic_masks, root)
    assert sample.boxes == (box("bike", 0, 0, 9, 9),)


PST_STEM = "31_bag1a_rect_rgb_frame0000000007"


def test_pst900_pairs_by_name_in_each_part(tmp_path):
    for part in ("train", "test"):
        put(tmp_path / part / "thermal" / f"{PST_STEM}.png", gray_png())
        put(tmp_path / part / "rgb" / f"{PST_STEM}.png", colour_png())
        put(tmp_path / part / "labels" / f"{PST_STEM}.png", png_bytes(mask((4, 1, 1, 9, 9))))
    put(tmp_path / "train" / "rgb" / "alone.png", colour_png())
    put(tmp_path / "test" / "thermal" / "b.png", gray_png())
    put(tmp_path / "test" / "labels" / "b.png", gray_png(value=0))
    put(tmp_path / "test" / "rgb" / "b.png", colour_png(8, 8))
    (first, second), rejected = outcome(read_semantic_masks, tmp_path, naming="pst900")
    assert (first.sample_id, first.split, first.group) == (f"set/train_{PST_STEM}", "train", "set/bag1a")
    assert (second.split, second.group) == ("test", "set/bag1a")
    assert (first.boxes, first.visible) == ((box("person", 1, 1, 9, 9),), colour_png())
    assert rejected == [("alone", "incomplete triple"), ("b", "size mismatch")]


# Small targets


def target_folder(root: Path, images: str = "images", masks: str = "masks", suffix: str = "") -> Path:
    for stem in ("a", "b"):
        put(root / images / f"{stem}.png", gray_png())
        put(root / masks / f"{stem}{suffix}.png", png_bytes(mask((255, 3, 5, 4, 6), (255, 10, 10, 12, 13))))
    return root


@pytest.mark.parametrize(
    ("part", "images", "masks", "suffix"),
    [
        ("", "images", "masks", "_pixels0"),
        ("", "IRSTD1k_Img", "IRSTD1k_Label", ""),
        ("", "images/targets", "annotations/masks", "_pixels0"),
        ("trainval", "images", "masks", ""),
    ],
)
def test_each_region_of_a_target_mask_is_one_target(part, images, masks, suffix, tmp_path):
    target_folder(tmp_path / part, images, masks, suffix)
    (sample, _), rejected = outcome(read_target_masks, tmp_path, ("small target",))
    assert sample.sample_id == f"set/{part}_a".replace("/_", "/")
    assert sample.boxes == (box("small target", 3, 5, 4, 6), box("small target", 10, 10, 12, 13))
    assert (sample.facts["targets"], sample.facts["smallest_target_px"]) == ("2", "1")
    assert (sample.counted, sample.caption) == ("small target", "The image contains 2 small targets.")
    assert rejected == []


def test_a_blank_mask_shows_no_target_and_one_and_zero_are_as_good_as_white_and_black(tmp_path):
    root = target_folder(tmp_path)
    put(root / "masks" / "a.png", gray_png(value=0))
    put(root / "masks" / "b.png", png_bytes(mask((1, 3, 5, 4, 6))))
    (blank, low), rejected = outcome(read_target_masks, root, ("small target",))
    assert (blank.boxes, blank.facts, blank.counted) == ((), {"targets": "0"}, "small target")
    assert low.boxes == (box("small target", 3, 5, 4, 6),)
    assert rejected == []


def test_crops_of_sirst_aug_say_that_they_are_augmented_and_stay_in_one_group(tmp_path):
    for part in ("trainval", "test"):
        target_folder(tmp_path / part)
    samples, _ = outcome(read_target_masks, tmp_path, naming="sirst_aug")
    assert len({sample.sample_id for sample in samples}) == 4
    assert {(sample.facts["augmented"], sample.group) for sample in samples} == {("yes", "set/crops")}


@pytest.mark.parametrize(
    ("file", "data", "reason"),
    [
        *(("images/a.png", data, reason) for data, reason in BROKEN_IMAGES),
        *(("masks/a.png", data, reason) for data, reason in BROKEN_IMAGES),
        ("masks/a.png", gray_png(8, 8, 0), "size mismatch"),
        ("masks/a.png", png_bytes(mask((90, 3, 5, 9, 9))), "unclear mask"),
        ("masks/a.png", png_bytes(mask((90, 3, 5, 9, 9), (255, 20, 20, 22, 22))), "unclear mask"),
    ],
)
def test_a_bad_target_file_rejects_its_record_and_no_other(file, data, reason, tmp_path):
    root = target_folder(tmp_path)
    put(root / file, data)
    samples, rejected = outcome(read_target_masks, root)
    assert [sample.origin for sample in samples] == ["images/b.png"]
    assert rejected == [("a", reason)]


def test_two_masks_of_one_image_and_masks_and_images_alone_are_rejected(tmp_path):
    root = target_folder(tmp_path)
    put(root / "masks" / "a_pixels0.png", gray_png())
    put(root / "masks" / "c.png", gray_png())
    put(root / "images" / "d.png", gray_png())
    samples, rejected = outcome(read_target_masks, root)
    assert len(samples) == 2
    assert rejected == [("a_pixels0", "duplicate id"), ("d", "missing annotation"), ("c", "missing image")]


def test_centroids_become_points(tmp_path):
    put(tmp_path / "images" / "a.png", gray_png())
    put(tmp_path / "images" / "b.png", gray_png())
    put(tmp_path / "centroids" / "a.txt", "\ufeff3.5 4\n\n10,20\n")
    put(tmp_path / "centroids" / "b.txt", "")
    (sample, empty), rejected = outcome(read_target_masks, tmp_path, ("small target",))
    assert sample.points == (Point("small target", 3.5, 4.0), Point("small target", 10.0, 20.0))
    assert (sample.boxes, sample.facts, sample.counted) == ((), {"targets": "2"}, "small target")
    assert (empty.points, empty.facts, rejected) == ((), {"targets": "0"}, [])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("3", "malformed line"),
        ("a 3 4", "malformed line"),
        ("x y", "malformed line"),
        ("nan 4", "malformed line"),
        ("99 4", "point outside image"),
        (b"\xff\xfe", "not UTF-8 text"),
    ],
)
def test_bad_centroids_reject_their_image_and_no_other(text, reason, tmp_path):
    for stem in "ab":
        put(tmp_path / "images" / f"{stem}.png", gray_png())
        put(tmp_path / "centroids" / f"{stem}.txt", "1 2")
    put(tmp_path / "centroids" / "a.txt", text)
    samples, rejected = outcome(read_target_masks, tmp_path)
    assert (len(samples), rejected) == (1, [("a", reason)])


# Salient objects


def salient_folder(root: Path, stems: tuple[str, ...] = ("1", "2"), visible: bytes | None = None) -> Path:
    for stem in stems:
        put(root / "T" / f"{stem}.jpg", gray_png())
        put(root / "RGB" / f"{stem}.jpg", visible or colour_png())
        put(root / "GT" / f"{stem}.png", png_bytes(mask((255, 4, 5, 14, 25))))
    return root


def test_salient_objects_of_aligned_pairs_are_boxes_without_number(tmp_path):
    salient_folder(tmp_path / "Train")
    salient_folder(tmp_path / "Test", ("1",))
    samples, rejected = outcome(read_salient_masks, tmp_path, naming="numbered")
    assert [sample.sample_id for sample in samples] == ["set/train_1", "set/train_2", "set/test_1"]
    sample = samples[0]
    assert (sample.boxes, sample.visible) == ((box("salient object", 4, 5, 14, 25),), colour_png())
    assert sample.caption == "Seen in the image: salient object."
    assert (sample.split, sample.counted, sample.facts["visible_frame"]) == ("train", "", "aligned")
    assert rejected == []


def test_a_mask_with_the_noise_of_jpeg_still_shows_one_object(tmp_path):
    root = salient_folder(tmp_path, ("1",))
    (root / "GT" / "1.png").unlink()
    put(root / "GT" / "1.jpg", jpeg(mask((255, 8, 8, 24, 24))))
    (sample,), rejected = outcome(read_salient_masks, root)
    assert (sample.boxes, rejected) == ((box("salient object", 8, 8, 24, 24),), [])


def test_masks_of_unaligned_pairs_lie_in_the_visible_image(tmp_path):
    salient_folder(tmp_path, ("1",), visible=colour_png(60, 50))
    put(tmp_path / "GT" / "1.png", png_bytes(mask((255, 4, 5, 14, 25), (255, 30, 5, 59, 49), width=60, height=50)))
    (sample,), rejected = outcome(read_salient_masks, tmp_path, naming="unaligned")
    assert (sample.boxes, sample.caption, sample.facts["annotation"]) == ((), "", "none")
    assert sample.facts["visible_salient_boxes"] == "4,5,14,25;30,5,59,49"
    assert sample.facts["visible_frame"] == "unaligned"
    assert (sample.width, rejected) == (WIDTH, [])


@pytest.mark.parametrize(
    ("naming", "file", "data", "reason"),
    [
        *(("", file, data, reason) for file in ("T/1.jpg", "RGB/1.jpg", "GT/1.png") for data, reason in BROKEN_IMAGES),
        ("", "RGB/1.jpg", colour_png(8, 8), "size mismatch"),
        ("", "GT/1.png", gray_png(8, 8, 0), "size mismatch"),
        ("unaligned", "GT/1.png", gray_png(8, 8, 0), "size mismatch"),
        ("unaligned", "RGB/1.jpg", colour_png(8, 8), "size mismatch"),
        ("", "GT/1.png", gray_png(value=90), "unclear mask"),
    ],
)
def test_a_bad_salient_file_rejects_its_record_and_no_other(naming, file, data, reason, tmp_path):
    root = salient_folder(tmp_path)
    put(root / file, data)
    samples, rejected = outcome(read_salient_masks, root, naming=naming)
    assert [sample.origin for sample in samples] == ["T/2.jpg"]
    assert rejected == [("1", reason)]


@pytest.mark.parametrize("folder", ["T", "RGB", "GT"])
def test_an_incomplete_triple_is_rejected_once(folder, tmp_path):
    root = salient_folder(tmp_path)
    next((root / folder).glob("1.*")).unlink()
    samples, rejected = outcome(read_salient_masks, root)
    assert (len(samples), rejected) == (1, [("1", "incomplete triple")])


# Crowds


def rgbt_cc_folder(root: Path, truth: object = None, suffix: str = "T") -> Path:
    for number in ("11", "12"):
        put(root / "train" / f"{number}_{suffix}.jpg", gray_png())
        put(root / "train" / f"{number}_RGB.jpg", colour_png())
        put(root / "train" / f"{number}_GT.json", json.dumps({"count": 2, "points": [[1, 2], [30.5, 20]]}))
    if truth is not None:
        put(root / "train" / "11_GT.json", truth if isinstance(truth, bytes | str) else json.dumps(truth))
    return root


@pytest.mark.parametrize("suffix", ["T", "Grey"])
def test_rgbt_cc_heads_are_points_and_people_are_counted(suffix, tmp_path):
    (sample, _), rejected = outcome(
        read_crowd, rgbt_cc_folder(tmp_path, suffix=suffix), counted=("person",), naming="numbered"
    )
    assert sample.points == (Point("person", 1.0, 2.0), Point("person", 30.5, 20.0))
    assert (sample.boxes, sample.counted, sample.caption) == ((), "person", "The image contains 2 people.")
    assert (sample.sample_id, sample.split, sample.group) == ("set/train_11", "train", "set/000xx")
    assert (sample.visible, sample.facts["visible_frame"], rejected) == (colour_png(), "aligned", [])


@pytest.mark.parametrize(
    ("truth", "reason"),
    [
        ({"count": 3, "points": [[1, 2]]}, "count mismatch"),
        ({"count": None, "points": []}, "count mismatch"),
        ({"points": [[1, 2, 3]]}, "unreadable point"),
        ({"points": [["one", 2]]}, "unreadable point"),
        ({"points": [[10**400, 2]]}, "unreadable point"),
        ('{"points": [[NaN, 2]]}', "unreadable point"),
        ({"points": [[99, 2]]}, "point outside image"),
        ({"points": [[-9, 2]]}, "point outside image"),
        ({"count": 0}, "malformed annotation"),
        ([[1, 2]], "malformed annotation"),
        ('{"points": [', "malformed JSON"),
        ("[" * 100_000, "malformed JSON"),
        ("", "malformed JSON"),
        (b'{"points": "\xff"}', "malformed JSON"),
    ],
)
def test_rgbt_cc_a_bad_truth_rejects_its_image_and_no_other(truth, reason, tmp_path):
    samples, rejected = outcome(read_crowd, rgbt_cc_folder(tmp_path, truth))
    assert [sample.origin for sample in samples] == ["train/12_T.jpg"]
    assert rejected == [("11", reason)]


@pytest.mark.parametrize("file", ["11_T.jpg", "11_RGB.jpg"])
@pytest.mark.parametrize(("data", "reason"), [*BROKEN_IMAGES, (gray_png(8, 8), "size mismatch")])
def test_rgbt_cc_a_bad_image_rejects_its_pair_and_no_other(file, data, reason, tmp_path):
    root = rgbt_cc_folder(tmp_path, {"points": []})
    put(root / "train" / file, data)
    samples, rejected = outcome(read_crowd, root)
    assert (len(samples), rejected) == (1, [("11", reason)])


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("11_T.jpg", "missing infrared image"),
        ("11_RGB.jpg", "missing visible mate"),
        ("11_GT.json", "missing annotation"),
    ],
)
def test_rgbt_cc_what_lacks_a_counterpart_is_rejected_once(file, reason, tmp_path):
    root = rgbt_cc_folder(tmp_path)
    (root / "train" / file).unlink()
    samples, rejected = outcome(read_crowd, root)
    assert (len(samples), rejected) == (1, [("11", reason)])


def test_rgbt_cc_a_second_infrared_image_and_another_name_are_rejected(tmp_path):
    root = rgbt_cc_folder(tmp_path)
    put(root / "train" / "11_Grey.jpg", gray_png())
    put(root / "train" / "cover.jpg", gray_png())
    samples, rejected = outcome(read_crowd, root)
    assert len(samples) == 2
    assert sorted(rejected) == [("11_T", "duplicate id"), ("cover", "unknown name")]


def people(*objects: str, head: str = "", size: tuple[int, int] = (WIDTH, HEIGHT)) -> str:
    stated = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
    things = "".join(f"<object>{thing}</object>" for thing in objects)
    return f"{head}<annotation>{stated}{things}</annotation>"


def at(x: object, y: object, name: str = "person") -> str:
    return f"<name>{name}</name><point><x>{x}</x><y>{y}</y></point>"


def around(x1: object, y1: object, x2: object, y2: object, name: str = "person") -> str:
    corners = f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
    return f"<name>{name}</name><bndbox>{corners}</bndbox>"


def drone_rgbt_folder(root: Path, truth: str | bytes) -> Path:
    for number, text in (("1", truth), ("2", people(at(3, 4)))):
        put(root / "Train" / "Infrared" / f"{number}R.jpg", gray_png())
        put(root / "Train" / "RGB" / f"{number}.jpg", colour_png())
        put(root / "Train" / "GT_" / f"{number}R.xml", text)
    return root


def test_drone_rgbt_people_are_points_or_boxes_and_never_both(tmp_path):
    root = drone_rgbt_folder(tmp_path, people(at(1, 2), around(5, 6, 9, 12), at(7, 8)))
    (sample, _), rejected = outcome(read_crowd, root, counted=("person",))
    assert sample.points == (Point("person", 1.0, 2.0), Point("person", 7.0, 8.0))
    assert sample.boxes == (box("person", 5, 6, 9, 12),)
    assert (sample.caption, sample.counted) == ("The image contains 3 people.", "person")
    assert (sample.sample_id, sample.split, rejected) == ("set/train_1", "train", [])


@pytest.mark.parametrize(
    ("truth", "reason"),
    [
        (people(at(1, 2), head=BOMB), "unsafe XML"),
        (people(at(1, 2))[:-9], "malformed XML"),
        (b"<annotation>\xff</annotation>", "malformed XML"),
        ("", "malformed XML"),
        (people(at(1, 2), size=(9, 9)), "size mismatch"),
        (people(at(1, 2, "dog")), "unknown class"),
        (people(at(1, 2, "")), "unknown class"),
        (people(at("", 2)), "unreadable point"),
        (people(at("nan", 2)), "unreadable point"),
        (people(at(99, 2)), "point outside image"),
        (people("<name>person</name>"), "unreadable box"),
        (people(around(9, 6, 5, 12)), "degenerate box"),
        (people(around("nan", 6, 5, 12)), "degenerate box"),
    ],
)
def test_drone_rgbt_a_bad_file_rejects_its_image_and_no_other(truth, reason, tmp_path):
    samples, rejected = outcome(read_crowd, drone_rgbt_folder(tmp_path, truth))
    assert [sample.origin for sample in samples] == ["Train/Infrared/2R.jpg"]
    assert rejected == [("1", reason)]


# Scene folders


def test_a_scene_is_the_name_of_its_folder_and_mates_are_found_beside_or_in_a_folder(tmp_path):
    put(tmp_path / "Parking_Lot" / "1_ir.png", gray_png())
    put(tmp_path / "Parking_Lot" / "1_rgb.png", colour_png(9, 9))
    put(tmp_path / "indoor" / "1.png", gray_png())
    put(tmp_path / "indoor" / "visible" / "1.jpg", colour_png())
    put(tmp_path / "train" / "street" / "1.png", gray_png())
    put(tmp_path / "infrared" / "above" / "1.png", gray_png())
    put(tmp_path / "visible" / "above" / "1.png", colour_png())
    samples, rejected = outcome(read_scenes, tmp_path)
    assert [(s.sample_id, s.scene, bool(s.visible), s.split) for s in samples] == [
        ("set/Parking_Lot_1", "parking lot", True, ""),
        ("set/indoor_1", "indoor", True, ""),
        ("set/above_1", "above", True, ""),
        ("set/train_street_1", "street", False, "train"),
    ]
    assert len({sample.group for sample in samples}) == 4
    assert samples[0].caption == "A parking lot scene."
    assert (samples[0].facts["visible_frame"], rejected) == ("unknown", [])


@pytest.mark.parametrize(("data", "reason"), BROKEN_IMAGES)
@pytest.mark.parametrize("file", ["a.png", "a_rgb.png"])
def test_a_bad_scene_image_rejects_its_record_and_no_other(file, data, reason, tmp_path):
    for stem in "ab":
        put(tmp_path / "street" / f"{stem}.png", gray_png())
        put(tmp_path / "street" / f"{stem}_rgb.png", colour_png())
    put(tmp_path / "street" / file, data)
    samples, rejected = outcome(read_scenes, tmp_path)
    assert (len(samples), rejected) == (1, [("a", reason)])


def test_images_without_scene_or_infrared_mate_or_with_a_taken_name_are_rejected(tmp_path):
    for name in ("street/a.png", "street/a.jpg", "cover.png", "train/c.png", "visible/d.png"):
        put(tmp_path / name, gray_png())
    put(tmp_path / "street" / "b_rgb.png", colour_png())
    samples, rejected = outcome(read_scenes, tmp_path)
    assert len(samples) == 1
    assert sorted(rejected) == [
        ("a", "duplicate id"),
        ("b_rgb", "missing infrared image"),
        ("c", "no scene folder"),
        ("cover", "no scene folder"),
        ("d", "no scene folder"),
    ]


def test_the_real_near_infrared_pairs_are_nine_scenes():
    if not (REAL / "visnir_scenes").is_dir():
        pytest.skip("needs the real files of visnir_scenes in ../shared/data")
    found = list(read_scenes(REAL / "visnir_scenes", a_source()))
    sample = made(found[0])
    assert isinstance(sample, Sample)
    assert (len(found), sample.scene, bool(sample.visible)) == (36, "country", True)
    assert len({Path(item.file).parent.name for item in found}) == 9


# DroneVehicle


def corners_of(name: str, *values: object) -> str:
    tags = [f"{axis}{corner}" for corner in range(1, 5) for axis in "xy"]
    points = "".join(f"<{tag}>{value}</{tag}>" for tag, value in zip(tags, values, strict=True))
    return f"<name>{name}</name><polygon>{points}</polygon>"


DIAMOND = (110, 105, 120, 115, 110, 125, 100, 115)


def drone_vehicle_folder(
    root: Path, truth: str | bytes, size: tuple[int, int] = (840, 712), part: str = "train"
) -> Path:
    for stem, text in (("00001", truth), ("00002", people(size=size))):
        put(root / part / f"{part}imgr" / f"{stem}.jpg", gray(*size))
        put(root / part / f"{part}img" / f"{stem}.jpg", colour(*size))
        put(root / part / f"{part}labelr" / f"{stem}.xml", text)
        put(root / part / f"{part}label" / f"{stem}.xml", "<annotation/>")
    return root


def test_drone_vehicle_the_border_is_cut_and_the_boxes_move_with_it(tmp_path):
    truth = people(
        corners_of("feright car", *DIAMOND),
        corners_of("truvk", 90, 300, 130, 300, 130, 320, 90, 320),
        around(700, 600, 745, 620, "car"),
        size=(840, 712),
    )
    (sample, empty), rejected = outcome(
        read_oriented, drone_vehicle_folder(tmp_path, truth), counted=("car",), naming="numbered"
    )
    assert sample.boxes == (
        box("freight car", 0, 5, 20, 25),
        box("truck", 0, 200, 30, 220),
        box("car", 600, 500, 640, 512),
    )
    assert (sample.width, sample.height, empty.boxes) == (640, 512, ())
    assert open_image(sample.visible, "a").size == (640, 512)
    assert (open_image(sample.infrared, "a").mode, sample.counted) == ("L", "car")
    assert (sample.facts["boxes_from"], sample.facts["boxes_cut"]) == ("oriented", "2")
    assert (sample.sample_id, sample.split, sample.group) == ("set/train_00001", "train", "set/000xx")
    assert rejected == []


def test_drone_vehicle_the_pixels_within_the_border_are_the_ones_that_stay(tmp_path):
    root = drone_vehicle_folder(tmp_path, people(size=(840, 712)))
    pixels = np.full((712, 840), 255, dtype=np.uint8)
    pixels[100:612, 100:740] = 7
    put(root / "train" / "trainimgr" / "00001.jpg", png_bytes(pixels))
    (sample, _), _ = outcome(read_oriented, root)
    assert np.unique(np.asarray(open_image(sample.infrared, "a"))).tolist() == [7]


def test_drone_vehicle_images_without_border_are_left_as_they_are(tmp_path):
    truth = people(corners_of("van", *DIAMOND), size=(640, 512))
    (sample, _), _ = outcome(read_oriented, drone_vehicle_folder(tmp_path, truth, (640, 512), "val"))
    assert sample.boxes == (box("van", 100, 105, 120, 125),)
    assert sample.infrared == gray(640, 512)
    assert "border_cut_px" not in sample.facts


@pytest.mark.parametrize(
    ("truth", "reason"),
    [
        (people(corners_of("*", *DIAMOND)), "unknown class"),
        (people(corners_of("", *DIAMOND)), "unknown class"),
        (people(corners_of("car", "nan", *DIAMOND[1:])), "degenerate box"),
        (people(corners_of("car", "one", *DIAMOND[1:])), "unreadable box"),
        (people(corners_of("car", *[9] * 8)), "degenerate box"),
        (people(corners_of("car", 50, 50, 60, 50, 60, 60, 50, 60)), "box outside image"),
        (people(around(20, 6, 5, 12, "car")), "box outside image"),
        (people("<name>car</name>"), "unreadable box"),
        (people("<name>car</name><polygon><x1>1</x1></polygon>"), "unreadable box"),
        (people(head=BOMB), "unsafe XML"),
        (people()[:-9], "malformed XML"),
        ("", "malformed XML"),
        (b"<annotation>\xff</annotation>", "malformed XML"),
        (people(size=(640, 512)), "size mismatch"),
        ("<annotation><size><width>a</width><height>b</height></size></annotation>", "malformed XML"),
    ],
)
def test_drone_vehicle_a_bad_file_rejects_its_image_and_no_other(truth, reason, tmp_path):
    text = truth.replace(f"<width>{WIDTH}</width><height>{HEIGHT}</height>", "") if isinstance(truth, str) else truth
    samples, rejected = outcome(read_oriented, drone_vehicle_folder(tmp_path, text))
    assert [sample.sample_id for sample in samples] == ["set/train_00002"]
    assert rejected == [("00001", reason)]


@pytest.mark.parametrize("folder", ["trainimgr", "trainimg"])
@pytest.mark.parametrize(("data", "reason"), [*BROKEN_IMAGES, (gray(640, 512), "size mismatch")])
def test_drone_vehicle_a_bad_image_rejects_its_pair_and_no_other(folder, data, reason, tmp_path):
    root = drone_vehicle_folder(tmp_path, people(size=(0, 0)))
    put(root / "train" / folder / "00001.jpg", data)
    samples, rejected = outcome(read_oriented, root)
    assert (len(samples), rejected) == (1, [("00001", reason)])


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("trainimgr/00001.jpg", "missing image"),
        ("trainimg/00001.jpg", "missing visible mate"),
        ("trainlabelr/00001.xml", "missing annotation"),
    ],
)
def test_drone_vehicle_what_lacks_a_counterpart_is_rejected_once(file, reason, tmp_path):
    root = drone_vehicle_folder(tmp_path, people(size=(840, 712)))
    (root / "train" / file).unlink()
    samples, rejected = outcome(read_oriented, root)
    assert (len(samples), rejected) == (1, [("00001", reason)])


# VEDAI

TABLE_LINE = "00000001 110 115 0.7 110 120 110 100 105 115 125 115 {} 1 0"
IMAGE_LINE = "110 115 0.7 {} 1 0 110 120 110 100 105 115 125 115"


def vedai_folder(root: Path, names: tuple[str, ...] = ("00000001", "00000002"), side: int = 512) -> Path:
    for name in names:
        put(root / f"Vehicules{side}" / f"{name}_ir.png", gray(side, side))
        put(root / f"Vehicules{side}" / f"{name}_co.png", colour(side, side))
    (root / f"Annotations{side}").mkdir(parents=True, exist_ok=True)
    return root


@pytest.mark.parametrize(("class_id", "category"), [("1", "car"), ("005", "camping car"), ("10.0", "other vehicle")])
def test_vedai_both_column_orders_give_the_same_box(class_id, category, tmp_path):
    table, single = vedai_folder(tmp_path / "table"), vedai_folder(tmp_path / "single")
    put(table / "Annotations512" / "annotation512.txt", TABLE_LINE.format(class_id) + "\n")
    put(single / "Annotations512" / "00000001.txt", IMAGE_LINE.format(class_id) + "\n")
    put(single / "Annotations512" / "00000002.txt", "")
    put(single / "Annotations512" / "fold01.txt", "00000001\n")
    for root in (table, single):
        (sample, other), rejected = outcome(read_oriented, root, counted=("car",))
        assert sample.boxes == (box(category, 100, 105, 120, 125),)
        assert (sample.sample_id, sample.facts["boxes_from"]) == ("set/00000001", "oriented")
        assert (sample.visible, sample.facts["visible_frame"]) == (colour(512, 512), "aligned")
        assert (sample.counted, rejected) == ("car", [])
        # an empty file says that there is no car, a table without the image says nothing
        assert (other.facts.get("annotation", ""), other.counted) == (("none", "") if root == table else ("", "car"))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("00000001 110 115 0.7 1 1 0 110 120 110 100 105 115 125", "malformed line"),
        (TABLE_LINE.format(99), "unknown class"),
        (TABLE_LINE.format("car"), "unknown class"),
        (TABLE_LINE.format("nan"), "unknown class"),
        ("00000001 310 115 0.7 310 105 320 115 310 125 300 115 1 1 0", "centre off corners"),
        ("00000001 nan 115 0.7 110 120 110 100 105 115 125 115 1 1 0", "centre off corners"),
        ("00000001 one 115 0.7 110 120 110 100 105 115 125 115 1 1 0", "unreadable box"),
        ("00000001 110 115 0.7 one 120 110 100 105 115 125 115 1 1 0", "unreadable box"),
        ("00000001 110 115 0.7 nan 120 110 100 105 115 125 115 1 1 0", "degenerate box"),
        ("00000001 110 115 0.7 110 110 110 110 105 115 125 115 1 1 0", "degenerate box"),
        ("00000001 610 115 0.7 610 620 610 600 105 115 125 115 1 1 0", "box outside image"),
    ],
)
def test_vedai_a_bad_line_rejects_its_image_and_no_other(line, reason, tmp_path):
    root = vedai_folder(tmp_path)
    put(root / "Annotations512" / "annotation512.txt", f"{TABLE_LINE.format(1)}\n{line}\n")
    samples, rejected = outcome(read_oriented, root)
    assert [sample.sample_id for sample in samples] == ["set/00000002"]
    assert rejected == [("00000001_ir", reason)]


def test_vedai_a_file_of_centres_only_rejects_its_image(tmp_path):
    root = vedai_folder(tmp_path)
    put(root / "Annotations512" / "00000001.txt", "110 115 1 1 0\n")
    put(root / "Annotations512" / "00000002.txt", b"\xff")
    _, rejected = outcome(read_oriented, root)
    assert rejected == [("00000001_ir", "malformed line"), ("00000002_ir", "not UTF-8 text")]


def test_vedai_the_larger_images_are_read_and_never_with_the_boxes_of_the_smaller(tmp_path):
    for side in (512, 1024):
        root = vedai_folder(tmp_path, side=side)
        put(root / f"Annotations{side}" / f"annotation{side}.txt", TABLE_LINE.format(1))
    samples, rejected = outcome(read_oriented, root)
    assert ([sample.width for sample in samples], rejected) == ([1024, 1024], [])
    put(root / "Vehicules1024" / "00000001_ir.png", gray(512, 512))
    assert outcome(read_oriented, root)[1] == [("00000001_ir", "size mismatch")]


def test_vedai_all_in_one_folder_is_read_too(tmp_path):
    put(tmp_path / "00000001_ir.png", gray(512, 512))
    put(tmp_path / "00000001_co.png", colour(512, 512))
    put(tmp_path / "annotation512.txt", TABLE_LINE.format(1))
    (sample,), rejected = outcome(read_oriented, tmp_path)
    assert (sample.boxes, rejected) == ((box("car", 100, 105, 120, 125),), [])


def test_vedai_what_lacks_a_counterpart_is_rejected(tmp_path):
    root = vedai_folder(tmp_path, ("00000001", "00000002", "00000003"))
    (root / "Vehicules512" / "00000001_co.png").unlink()
    (root / "Vehicules512" / "00000002_ir.png").unlink()
    lines = (TABLE_LINE.format(1).replace("00000001", name) for name in ("00000003", "00000009", "../00000003"))
    put(root / "Annotations512" / "annotation512.txt", "\n".join(lines))
    samples, rejected = outcome(read_oriented, root)
    assert [sample.sample_id for sample in samples] == ["set/00000003"]
    assert rejected == [
        ("00000001_ir", "missing visible mate"),
        ("00000002_co", "missing image"),
        ("../00000003", "unsafe path"),
        ("00000009", "missing image"),
    ]


@pytest.mark.parametrize("mode", ["ir", "co"])
@pytest.mark.parametrize(("data", "reason"), [*BROKEN_IMAGES, (gray_png(8, 8), "size mismatch")])
def test_vedai_a_bad_image_rejects_its_pair_and_no_other(mode, data, reason, tmp_path):
    root = vedai_folder(tmp_path)
    put(root / "Annotations512" / "annotation512.txt", TABLE_LINE.format(1))
    put(root / "Vehicules512" / f"00000001_{mode}.png", data)
    samples, rejected = outcome(read_oriented, root)
    assert (len(samples), rejected) == (1, [("00000001_ir", reason)])


def test_vedai_a_table_that_is_not_utf8_names_the_byte(tmp_path):
    root = vedai_folder(tmp_path)
    put(root / "Annotations512" / "annotation512.txt", b"00000001\xff")
    with pytest.raises(MalformedFile, match="not UTF-8 at byte 8"):
        list(read_oriented(root, a_source()))


# Listing


def test_records_are_listed_before_any_image_is_opened_and_twice_the_same(tmp_path):
    roots = {
        read_semantic_masks: mfnet_folder(tmp_path / "semantic"),
        read_target_masks: target_folder(tmp_path / "target"),
        read_salient_masks: salient_folder(tmp_path / "salient"),
        read_crowd: rgbt_cc_folder(tmp_path / "crowd"),
        read_oriented: vedai_folder(tmp_path / "oriented"),
    }
    put(tmp_path / "oriented" / "Annotations512" / "annotation512.txt", "")
    for reader, root in roots.items():
        first = [(item.file, item.record) for item in reader(root, a_source())]
        for image in [*root.rglob("*.png"), *root.rglob("*.jpg")]:
            image.write_bytes(b"")
        assert [(item.file, item.record) for item in reader(root, a_source())] == first
        assert first
