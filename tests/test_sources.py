"""Raw folders: what is read, what is refused, and that one bad record never hides its neighbours."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from faulty_files import (
    HEIGHT,
    WIDTH,
    coco_folder,
    colour_png,
    flir_folder,
    gray_png,
    png_header,
    put,
    voc_xml,
)
from PIL import Image

from irgpt_lib.irtd.captions import plural, rule_caption
from irgpt_lib.irtd.record import Box, RecordError, Rejected, Sample, open_image, read_samples
from irgpt_lib.irtd.sources import (
    FORMATS,
    SOURCES,
    MalformedFile,
    MissingData,
    UnknownName,
    check_source,
    read,
    read_source,
    warp_box,
)
from irgpt_lib.irtd.sources.boxes import fit_box, make_box
from irgpt_lib.irtd.sources.files import inside, read_image
from irgpt_lib.irtd.sources.naming import flir_name, hit_uav_name, llvip_name
from irgpt_lib.irtd.sources.reading import default_root
from irgpt_lib.irtd.sources.storing import rejected_file, replacing, store
from irgpt_lib.irtd.sources.visnir import largest_rectangle, undo_warp

HEAD = "image_name,class_id,xmin,xmax,ymin,ymax\n"
REAL = Path(__file__).parents[2] / "shared" / "data"


def real(name: str) -> Path:
    if not (REAL / name).is_dir():
        pytest.skip(f"needs the real files of {name} in ../shared/data")
    return REAL / name


def pixels(category: str, *corners: int | float) -> Box:
    return Box(category, *map(float, corners))


def outcome(format: str, root: Path, source: str = "") -> tuple[list[Sample], list[tuple[str, str]]]:
    items = list(read(format, root, SOURCES[source] if source else None))
    rejected = [(item.record, item.reason) for item in items if isinstance(item, Rejected)]
    return [item for item in items if isinstance(item, Sample)], rejected


# The registry


def test_every_source_names_formats_that_exist_and_its_own_key():
    for name, source in SOURCES.items():
        assert source.name == name
        assert {source.format, *source.alternatives} <= {*FORMATS, "unknown"}


def test_an_unknown_name_lists_those_that_exist(tmp_path):
    with pytest.raises(UnknownName, match="flir_roadscene, hit_uav"):
        read_source("nothing")
    with pytest.raises(UnknownName, match="flir_csv, flir_crop, coco"):
        read("nothing", tmp_path)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("folder", ["absent", "empty"])
def test_a_folder_without_data_says_where_it_looked_and_what_belongs_there(format, folder, tmp_path):
    (tmp_path / "empty").mkdir()
    source = next(s for s in SOURCES.values() if format in (s.format, *s.alternatives))
    with pytest.raises(MissingData) as error:
        list(read(format, tmp_path / folder, source))
    for part in (str(tmp_path / folder), source.what_belongs_there, source.terms, source.home):
        assert part in str(error.value)


def test_check_reports_an_absent_source_without_raising(tmp_path):
    report = check_source("llvip", tmp_path / "nothing")
    assert (report["present"], report["readable"], report["images"]) == (False, False, 0)
    assert "no such folder" in report["message"]


# FLIR


def test_flir_columns_are_found_by_name_and_not_by_place(tmp_path):
    root = flir_folder(tmp_path, "ymax,ymin,xmax,xmin,class_id,image_name\n22,2,11,1,17,FLIR_00101.jpeg\n")
    (sample,), rejected = outcome("flir_csv", root, "flir_roadscene")
    assert sample.boxes == (pixels("dog", 1, 2, 11, 22),)
    assert (sample.sample_id, sample.group) == ("flir_roadscene/FLIR_00101", "flir_roadscene/FLIR_001xx")
    assert (sample.caption, sample.caption_path) == ("The image contains 1 dog.", "V")
    assert rejected == []


def test_flir_lacking_columns_are_named_with_those_that_exist(tmp_path):
    root = flir_folder(tmp_path, "image_name,class_id,xmin,xmax\n")
    with pytest.raises(MalformedFile, match="lacks the columns ymin, ymax; it has image_name"):
        list(read("flir_csv", root))


def test_flir_text_that_is_not_utf8_names_the_byte(tmp_path):
    root = flir_folder(tmp_path, HEAD)
    (root / "boxes.csv").write_bytes(HEAD.encode() + b"\xff\xfe")
    with pytest.raises(MalformedFile, match="not UTF-8 at byte 40"):
        list(read("flir_csv", root))


def test_flir_a_file_that_is_no_csv_names_the_place(tmp_path):
    root = flir_folder(tmp_path, f"{HEAD}FLIR_00101.jpeg,{'9' * 200_000}\n")
    with pytest.raises(MalformedFile, match="after line 1: field larger"):
        list(read("flir_csv", root))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("3,11,1,2,22", "degenerate box"),
        ("3,nan,11,2,22", "degenerate box"),
        ("3,inf,11,2,22", "degenerate box"),
        ("3,1,50,2,22", "box outside image"),
        ("3,-9,11,2,22", "box outside image"),
        ("3,one,11,2,22", "unreadable box"),
        ("3,1,11", "unreadable box"),
        ("99,1,11,2,22", "unknown class"),
    ],
)
def test_flir_a_bad_row_rejects_its_frame_and_no_other(row, reason, tmp_path):
    csv = f"{HEAD}FLIR_00101.jpeg,3,1,11,2,22\nFLIR_00101.jpeg,{row}\nFLIR_00102.jpeg,1,1,11,2,22\n"
    samples, rejected = outcome("flir_csv", flir_folder(tmp_path, csv, ("FLIR_00101", "FLIR_00102")))
    assert [sample.origin for sample in samples] == ["infrared/FLIR_00102.png"]
    assert rejected == [("FLIR_00101", reason)]


def test_flir_rows_without_image_are_rejected_and_an_image_without_rows_is_kept(tmp_path):
    (sample,), rejected = outcome("flir_csv", flir_folder(tmp_path, f"{HEAD}FLIR_7.jpeg,3,1,11,2,22\n"))
    assert (sample.boxes, sample.facts["annotation"], sample.caption_path) == ((), "none", "none")
    assert rejected == [("FLIR_7", "missing image")]


def test_flir_a_name_that_climbs_out_never_lends_its_boxes(tmp_path):
    (sample,), rejected = outcome("flir_csv", flir_folder(tmp_path, f"{HEAD}../FLIR_00101.png,3,1,11,2,22\n"))
    assert sample.boxes == ()
    assert rejected == [("../FLIR_00101.png", "unsafe path")]


def test_two_frames_of_one_stem_are_one_sample_and_one_duplicate(tmp_path):
    root = flir_folder(tmp_path, f"{HEAD}FLIR_00101.jpeg,3,1,11,2,22\n")
    put(root / "infrared" / "FLIR_00101.jpg", gray_png())
    samples, rejected = outcome("flir_csv", root)
    assert (len(samples), rejected) == (1, [("FLIR_00101", "duplicate id")])


def test_flir_crops_carry_the_boxes_through_the_homography(tmp_path):
    root = flir_folder(tmp_path, f"{HEAD}FLIR_00101.jpeg,3,20,30,10,20\nFLIR_00101.jpeg,1,0,4,0,4\n")
    put(root / "crop_infrared" / "FLIR_00101.jpg", gray_png(20, 20))
    put(root / "crop_visible" / "FLIR_00101.jpg", colour_png(20, 20))
    transforms = {"FLIR_00101": {"H": [[1, 0, -15], [0, 1, -5], [0, 0, 1]]}}
    put(root / "ir_full_to_crop_transforms.json", json.dumps(transforms))
    (sample,), rejected = outcome("flir_crop", root, "flir_roadscene")
    assert sample.boxes == (pixels("car", 5, 5, 15, 15),)
    assert (sample.facts["outside_crop"], sample.facts["visible_frame"]) == ("1", "aligned")
    assert sample.group == "flir_roadscene/FLIR_001xx"
    assert rejected == []


# COCO


def test_coco_like_keys_and_categories_from_zero_are_read(tmp_path):
    boxes = [
        {"id": 1, "image_id": 0, "category_id": 1, "bbox": [1, 2, 10, 20]},
        {"id": 2, "image_id": 0, "category_id": 0, "bbox": [5, 5, 3, 4]},
    ]
    root = coco_folder(tmp_path, boxes, ("1_60_30_0_00002.png",), key="annotation", name_key="filename")
    (sample,), rejected = outcome("coco", root, "hit_uav")
    assert sample.boxes == (pixels("car", 1, 2, 11, 22), pixels("person", 5, 5, 8, 9))
    assert (sample.kind, sample.counted, sample.split) == ("aerial", "car", "val")
    assert sample.caption == "The image contains 1 car and 1 person."
    assert rejected == []


def test_coco_regions_that_are_no_object_are_counted_and_make_counting_unsafe(tmp_path):
    entries = [
        {"id": 1, "image_id": 0, "category_id": 4, "bbox": [1, 2, 10, 20]},
        {"id": 2, "image_id": 0, "category_id": 0, "bbox": [1, 2, 10, 20], "iscrowd": 1},
    ]
    (sample,), _ = outcome("coco", coco_folder(tmp_path, entries), "hit_uav")
    assert (sample.boxes, sample.counted) == ((), "")
    assert (sample.facts["dont_care"], sample.facts["crowd"]) == ("1", "1")


def test_coco_an_image_that_no_file_lists_is_kept_without_boxes(tmp_path):
    root = coco_folder(tmp_path, [])
    put(root / "val" / "b.png", gray_png())
    samples, _ = outcome("coco", root, "hit_uav")
    assert [(s.sample_id, s.counted) for s in samples] == [("hit_uav/a", "person"), ("hit_uav/b", "")]


@pytest.mark.parametrize(
    ("entry", "rejected"),
    [
        ({"image_id": 0, "category_id": 9, "bbox": [1, 2, 3, 4]}, ("a.png", "unknown class")),
        ({"image_id": 0, "category_id": 1, "bbox": [1, 2, -3, 4]}, ("a.png", "degenerate box")),
        ({"image_id": 0, "category_id": 1, "bbox": [1, 2, float("nan"), 4]}, ("a.png", "degenerate box")),
        ({"image_id": 0, "category_id": 1, "bbox": [1, 2, 3]}, ("a.png", "unreadable box")),
        ({"image_id": 0, "category_id": 1, "bbox": None}, ("a.png", "unreadable box")),
        ({"image_id": 0, "category_id": 1, "bbox": [1, 2, 3, 10**400]}, ("a.png", "unreadable box")),
        ({"image_id": 5, "category_id": 1, "bbox": [1, 2, 3, 4]}, ("image_id 5", "annotation without image")),
    ],
)
def test_coco_a_bad_annotation_is_rejected_and_the_next_image_is_read(entry, rejected, tmp_path):
    samples, found = outcome("coco", coco_folder(tmp_path, [entry], ("a.png", "b.png")))
    assert "val/b.png" in [sample.origin for sample in samples]
    assert found == [rejected]


def test_coco_names_cannot_leave_the_folder(tmp_path):
    put(tmp_path / "secret.png", gray_png())
    root = coco_folder(tmp_path / "set", [], ("a.png",))
    content = json.loads((root / "annotations" / "val.json").read_text())
    content["images"] += [
        {"id": 1, "file_name": "../../secret.png"},
        {"id": 2, "file_name": str(tmp_path / "secret.png")},
    ]
    put(root / "annotations" / "val.json", json.dumps(content))
    samples, rejected = outcome("coco", root)
    assert [sample.origin for sample in samples] == ["val/a.png"]
    assert [reason for _, reason in rejected] == ["unsafe path", "unsafe path"]


def test_coco_a_stated_size_that_is_not_the_images_rejects_the_record(tmp_path):
    root = coco_folder(tmp_path, [])
    put(root / "val" / "a.png", gray_png(WIDTH + 8, HEIGHT))
    assert outcome("coco", root) == ([], [("a.png", "size mismatch")])


def test_coco_duplicate_ids_are_rejected_once_each(tmp_path):
    root = coco_folder(tmp_path, [], ("a.png", "b.png"))
    put(root / "train" / "a.png", gray_png())
    content = json.loads((root / "annotations" / "val.json").read_text())
    content["images"][1]["id"] = 0
    put(root / "annotations" / "val.json", json.dumps(content))
    put(root / "annotations" / "train.json", json.dumps(content | {"images": content["images"][:1]}))
    samples, rejected = outcome("coco", root)
    assert sorted(s.sample_id.split("/")[1] for s in samples) == ["a", "b"]
    assert sorted(reason for _, reason in rejected) == ["duplicate id", "duplicate id"]


@pytest.mark.parametrize(
    ("text", "message"), [("{", "not valid JSON"), ("[]", "expected a COCO object"), ("{}", "lacks the list")]
)
def test_coco_a_file_that_is_no_coco_is_named(text, message, tmp_path):
    root = coco_folder(tmp_path, [])
    put(root / "annotations" / "val.json", text)
    with pytest.raises(MalformedFile, match=f"val.json: {message}"):
        list(read("coco", root))


# Pascal VOC and LLVIP


def test_voc_boxes_are_read_and_links_to_the_root_work(tmp_path):
    put(tmp_path / "far" / "voc" / "a.xml", voc_xml())
    put(tmp_path / "far" / "JPEGImages" / "a.png", gray_png())
    (tmp_path / "link").symlink_to(tmp_path / "far")
    (sample,), rejected = outcome("voc", tmp_path / "link")
    assert sample.boxes == (pixels("person", 1, 2, 11, 22),)
    assert rejected == []


BOMB = '<!DOCTYPE x [<!ENTITY a "aa"><!ENTITY b "&a;&a;">]>'
LEAK = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hostname">]>'


@pytest.mark.parametrize(
    ("xml", "reason"),
    [
        (voc_xml(head=BOMB), "unsafe XML"),
        (voc_xml(head=LEAK, name="&a;"), "unsafe XML"),
        (voc_xml()[:-9], "malformed XML"),
        ("", "malformed XML"),
        (b"<annotation>\xff</annotation>", "malformed XML"),
        (voc_xml("../a.png"), "unsafe path"),
        (voc_xml("z.png"), "missing image"),
        (voc_xml(box=(11, 2, 1, 22)), "degenerate box"),
        (voc_xml(box=("nan", 2, 1, 22)), "degenerate box"),
        (voc_xml(box=("", 2, 1, 22)), "unreadable box"),
    ],
)
def test_voc_a_bad_file_is_rejected_and_the_next_is_read(xml, reason, tmp_path):
    put(tmp_path / "Annotations" / "a.xml", xml)
    put(tmp_path / "Annotations" / "b.xml", voc_xml("b.png"))
    for name in "ab":
        put(tmp_path / "images" / f"{name}.png", gray_png())
    samples, rejected = outcome("voc", tmp_path)
    assert [sample.origin for sample in samples] == ["images/b.png"]
    assert rejected == [("a", reason)]


def test_llvip_pairs_by_name_and_reads_annotations_where_there_are_any(tmp_path):
    for stem in ("010001", "010002"):
        put(tmp_path / "infrared" / "train" / f"{stem}.jpg", gray_png())
        put(tmp_path / "visible" / "train" / f"{stem}.jpg", colour_png())
    put(tmp_path / "infrared" / "train" / "010003.jpg", gray_png())
    put(tmp_path / "Annotations" / "010001.xml", voc_xml())
    put(tmp_path / "Annotations" / "990001.xml", voc_xml())
    (first, second), rejected = outcome("llvip", tmp_path, "llvip")
    assert (len(first.boxes), first.split, first.group) == (1, "train", "llvip/place_01")
    assert first.visible == colour_png()
    assert (second.boxes, second.caption, second.caption_path) == ((), "", "none")
    assert rejected == [("010003", "missing visible mate"), ("990001", "missing image")]


# Images


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty image"),
        (b"not an image", "unreadable image"),
        (gray_png()[:40], "unreadable image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "unreadable image"),
        (png_header(9000, 8000), "image too large"),
        (png_header(10_000, 10_000), "image too large"),
        (png_header(60_000, 60_000), "image too large"),
        (png_header(9, 9, depth=16), "unreadable image"),
    ],
)
def test_an_image_that_cannot_be_used_is_rejected_with_its_reason(data, reason, tmp_path):
    root = coco_folder(tmp_path, [], ("a.png", "b.png"))
    put(root / "val" / "a.png", data)
    samples, rejected = outcome("coco", root)
    assert len(samples) == 1
    assert rejected == [("a.png", reason)]


def test_an_image_is_known_by_its_content_and_a_bitmap_becomes_png(tmp_path):
    file = put(tmp_path / "a.jpg", gray_png())
    assert read_image(file) == (gray_png(), WIDTH, HEIGHT)
    Image.open(io.BytesIO(gray_png())).save(tmp_path / "b.bmp")
    data, *size = read_image(tmp_path / "b.bmp")
    assert (data[:4], size) == (b"\x89PNG", [WIDTH, HEIGHT])


def test_half_a_character_in_a_name_is_rejected_and_can_be_stored(tmp_path):
    root = coco_folder(tmp_path / "raw", [])
    content = json.loads((root / "annotations" / "val.json").read_text())
    content["images"].append({"id": "\ud800", "file_name": "\ud800.png"})
    put(root / "annotations" / "val.json", json.dumps(content))
    account = store(read("coco", root), tmp_path / "samples.parquet")
    assert (account.samples, dict(account.rejected)) == (1, {"missing image": 1})


@pytest.mark.parametrize("name", ["/etc/passwd", "../a", "a/../../b", "..\\a", "C:\\a", "", ".", "a\0b", "a" * 256])
def test_a_name_that_is_no_path_inside_the_folder_is_refused(name):
    with pytest.raises(RecordError, match="unsafe path"):
        inside(Path("root"), name)


# Boxes and names


def test_a_box_is_clipped_within_a_pixel_and_refused_beyond():
    assert fit_box(pixels("car", -1, 0, 41, 30), WIDTH, HEIGHT) == pixels("car", 0, 0, 40, 30)
    with pytest.raises(RecordError, match="box outside image"):
        fit_box(pixels("car", -1.5, 0, 40, 30), WIDTH, HEIGHT)
    with pytest.raises(RecordError, match="degenerate box"):
        fit_box(pixels("car", 40, 0, 41, 30), WIDTH, HEIGHT)


def test_warp_box_encloses_the_warped_corners():
    quarter_turn = np.array([[0.0, -1, 30], [1, 0, 0], [0, 0, 1]])
    assert warp_box(quarter_turn, pixels("car", 0, 0, 10, 20)) == pixels("car", 10, 0, 30, 10)
    halved = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 2]])
    assert warp_box(halved, pixels("car", 2, 4, 6, 8)) == pixels("car", 1, 2, 3, 4)
    with pytest.raises(RecordError, match="behind the horizon"):
        warp_box(np.array([[1.0, 0, 0], [0, 1, 0], [-1, 0, 1]]), make_box("car", (0, 0, 5, 5), "here"))


def test_file_names_tell_the_group_and_the_facts():
    assert flir_name("FLIR_08835").group == "FLIR_088xx"
    flight = hit_uav_name("0_80_30_0_06914")
    assert flight.group == "0_80_30_0"
    assert (flight.facts["time"], flight.facts["altitude_m"], flight.facts["angle_deg"]) == (
        "day",
        "80",
        "30",
    )
    assert llvip_name("190001").group == "place_19"
    assert llvip_name("holiday").group == "holiday"


# VIS-NIR and ELPV


def smooth_scene(width: int = 160, height: int = 120) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return (128 + 60 * np.sin(x / 9) + 60 * np.cos(y / 7)).round().astype(np.uint8)


def shifted(scene: np.ndarray, dx: int, dy: int) -> np.ndarray:
    warped = np.zeros_like(scene)
    warped[dy:, dx:] = scene[: scene.shape[0] - dy, : scene.shape[1] - dx]
    return warped


def visnir_folder(root: Path, matrix: np.ndarray | None) -> Path:
    scene = smooth_scene()
    put(root / "Mountain" / "0001_rgb.png", png_of(np.stack([scene] * 3, axis=-1)))
    put(root / "Mountain" / "0001_nir.png", png_of(scene if matrix is None else shifted(scene, 10, 6)))
    if matrix is not None:
        np.save(root / "Mountain" / "0001_nir.npy", matrix)
    return root


def png_of(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def pixels_of(data: bytes) -> np.ndarray:
    return np.asarray(open_image(data, "test").convert("L")).astype(np.float64)


def test_visnir_undoing_a_shift_gives_back_the_scene_pixel_for_pixel(tmp_path):
    matrix = np.array([[1.0, 0, 10], [0, 1, 6]])
    (sample,), rejected = outcome("visnir", visnir_folder(tmp_path, matrix), "visnir_scenes")
    assert np.abs(pixels_of(sample.infrared) - pixels_of(sample.visible)).max() <= 1
    # 160 - 10 - 2 = 148 and 120 - 6 - 2 = 112 real pixels, on a grid of 8
    assert (sample.width, sample.height, sample.facts["cut"]) == (144, 112, "0,0,144,112")
    assert (sample.sample_id, sample.scene) == ("visnir_scenes/mountain_0001", "mountain")
    assert sample.caption == "A mountain scene."
    assert rejected == []


def test_visnir_pairs_without_a_matrix_pass_as_they_are(tmp_path):
    (sample,), _ = outcome("visnir", visnir_folder(tmp_path, None), "visnir_scenes")
    assert sample.infrared == png_of(smooth_scene())
    assert sample.facts["alignment"] == "as shipped"


@pytest.mark.parametrize(
    "matrix", [np.zeros((2, 3)), np.full((2, 3), np.nan), np.eye(3), np.array([{"a": 1}], dtype=object)]
)
def test_visnir_a_matrix_that_is_none_is_rejected_and_never_unpickled(matrix, tmp_path):
    samples, rejected = outcome("visnir", visnir_folder(tmp_path, matrix))
    assert (samples, rejected) == ([], [("0001_nir", "bad transform")])


def test_visnir_a_matrix_with_a_broken_header_is_rejected(tmp_path):
    root = visnir_folder(tmp_path, np.array([[1.0, 0, 10], [0, 1, 6]]))
    file = root / "Mountain" / "0001_nir.npy"
    file.write_bytes(file.read_bytes().replace(b"}", b" "))
    assert outcome("visnir", root) == ([], [("0001_nir", "bad transform")])


def test_visnir_a_warp_whose_matrix_is_lost_is_rejected(tmp_path):
    root = visnir_folder(tmp_path, None)
    put(root / "Mountain" / "0001_nir.txt", "[[1 0 9][0 1 9]]")
    assert outcome("visnir", root) == ([], [("0001_nir", "missing transform")])


def test_the_largest_rectangle_avoids_every_false_pixel():
    mask = np.ones((6, 8), dtype=bool)
    mask[0, 0] = mask[5, 3] = False
    # 5 rows by 7 columns: rows 0-4 and columns 1-7
    assert largest_rectangle(mask, grid=1) == (1, 0, 7, 5)
    assert largest_rectangle(np.zeros((6, 8), dtype=bool), grid=1) == (0, 0, 0, 0)


def elpv_folder(root: Path, *lines: str) -> Path:
    put(root / "images" / "cell0001.png", gray_png())
    put(root / "labels.csv", "\n".join(lines))
    return root


def test_elpv_a_cell_is_captioned_by_its_defect_probability_and_type(tmp_path):
    (sample,), _ = outcome("elpv", elpv_folder(tmp_path, "images/cell0001.png  0.3333333333333333  mono"), "elpv")
    assert sample.caption == "A solar cell, monocrystalline, with a defect probability of 0.33."
    assert (sample.kind, sample.band, sample.scene) == ("object", "nir", "")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("images/cell0001.png 1.5 mono", "malformed line"),
        ("images/cell0001.png nan mono", "malformed line"),
        ("images/cell0001.png 1.0 gold", "malformed line"),
        ("images/cell0001.png 1.0", "malformed line"),
        ("images/cell0009.png 1.0 mono", "missing image"),
        ("../cell0001.png 1.0 mono", "unsafe path"),
    ],
)
def test_elpv_a_bad_line_is_rejected_by_number(line, reason, tmp_path):
    root = elpv_folder(tmp_path, "images/cell0001.png 1.0 poly", line)
    samples, rejected = outcome("elpv", root)
    assert (len(samples), rejected) == (1, [("line 2", reason)])


# Captions


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        ("person", "people"),
        ("bus", "buses"),
        ("other vehicle", "other vehicles"),
        ("sheep", "sheep"),
        ("city", "cities"),
    ],
)
def test_plural(noun, expected):
    assert plural(noun) == expected


def test_a_caption_counts_every_category_in_the_words_of_figure_7():
    def caption(*categories: str, scene: str = "") -> str:
        boxes = tuple(pixels(category, 0, 0, 1, 1) for category in categories)
        return rule_caption(Sample("a/b", "a", "tir", "scene", 9, 9, b"", scene=scene, boxes=boxes))

    assert caption(*["person"] * 15, *["car"] * 7) == "The image contains 7 cars and 15 people."
    assert (
        caption("car", "othervehicle", "othervehicle", "bus") == "The image contains 1 bus, 1 car and 2 other vehicles."
    )
    assert caption(scene="urban") == "An urban scene."
    assert caption("dog", scene="field") == "A field scene. The image contains 1 dog."
    assert caption() == ""


# Storing


def test_what_is_stored_is_what_was_read(tmp_path):
    root = coco_folder(tmp_path / "raw", [{"image_id": 1, "category_id": 9, "bbox": [0, 0, 1, 1]}], ("a.png", "b.png"))
    file = tmp_path / "out" / "samples.parquet"
    account = store(read("coco", root), file)
    assert (account.samples, dict(account.rejected)) == (1, {"unknown class": 1})
    assert read_samples(file) == outcome("coco", root)[0]
    assert rejected_file(file).is_file()
    put(root / "annotations" / "val.json", json.dumps({"images": [], "annotations": [], "categories": []}))
    store(read("coco", root), file)
    assert not rejected_file(file).exists()


def test_a_reading_that_breaks_off_leaves_the_former_file_and_no_draft(tmp_path):
    file = put(tmp_path / "samples.parquet", "former")
    with pytest.raises(MissingData):
        store(read("coco", tmp_path / "absent"), file)
    with pytest.raises(KeyboardInterrupt), replacing(file) as draft:
        draft.write_text("half")
        raise KeyboardInterrupt
    assert file.read_text() == "former"
    assert list(tmp_path.iterdir()) == [file]


# Real files


def test_the_real_flir_frames_keep_all_850_boxes():
    samples, rejected = read_source("flir_roadscene", real("flir_roadscene"))
    assert (len(samples), sum(len(s.boxes) for s in samples), rejected) == (100, 850, [])
    assert {(s.width, s.height) for s in samples} == {(640, 512)}
    assert all(s.visible for s in samples)


def test_the_real_hit_uav_is_the_same_as_coco_and_as_voc():
    coco, _ = read_source("hit_uav", real("hit_uav"))
    voc, rejected = read_source("hit_uav", real("hit_uav"), format="voc")
    boxes = {s.sample_id: sorted(map(str, s.boxes)) for s in voc}
    assert {s.sample_id: sorted(map(str, s.boxes)) for s in coco} == boxes
    assert (len(coco), sum(map(len, boxes.values())), rejected) == (110, 911, [])


def edge_correlation(one: np.ndarray, other: np.ndarray) -> float:
    strength = [np.hypot(*np.gradient(image)).ravel() for image in (one, other)]
    return float(np.corrcoef(strength)[0, 1])


def test_undoing_the_real_warps_raises_the_correlation_of_edges(tmp_path):
    root = tmp_path / "scenes"
    for scene in ("country", "forest", "urban"):
        shutil.copytree(real("visnir_scenes") / scene, root / scene)
    samples, rejected = read_source("visnir_scenes", root)
    undone = [s for s in samples if s.facts["alignment"] == "warp undone"]
    assert (len(samples), len(undone), rejected) == (12, 8, [])
    gains = []
    for sample in undone:
        left, top, width, height = map(int, sample.facts["cut"].split(","))
        warped = np.asarray(Image.open(root / sample.origin).convert("L")).astype(np.float64)
        visible = pixels_of(sample.visible)
        as_shipped = edge_correlation(warped[top : top + height, left : left + width], visible)
        gains.append(edge_correlation(pixels_of(sample.infrared), visible) - as_shipped)
    assert min(gains) > 0.02
    assert np.median(gains) > 0.3


def test_an_undone_warp_that_runs_the_wrong_way_would_be_seen():
    root = real("visnir_scenes") / "urban"
    matrix = np.load(root / "0001_nir.npy", allow_pickle=False)
    square = np.vstack([matrix, [0, 0, 1]])
    warped = Image.open(root / "0001_nir.jpg")
    visible = np.asarray(Image.open(root / "0001_rgb.jpg").convert("L")).astype(np.float64)
    right, real_pixels = undo_warp(warped, matrix)
    wrong, _ = undo_warp(warped, np.linalg.inv(square)[:2])
    left, top, width, height = largest_rectangle(real_pixels)
    rows, columns = slice(top, top + height), slice(left, left + width)
    assert edge_correlation(right[rows, columns].astype(float), visible[rows, columns]) > 0.7
    assert edge_correlation(wrong[rows, columns].astype(float), visible[rows, columns]) < 0.3


def test_the_real_llvip_pairs_have_one_size_and_no_caption():
    samples, rejected = read_source("llvip", real("llvip"))
    assert (len(samples), rejected) == (8, [])
    assert {(s.width, s.height, s.caption) for s in samples} == {(1280, 1024, "")}


def test_the_installed_elpv_package_is_found_without_a_raw_folder(tmp_path):
    pytest.importorskip("elpv_dataset", reason="needs the optional extra elpv")
    root = default_root(SOURCES["elpv"], tmp_path)
    report = check_source("elpv", root)
    assert (report["readable"], report["images"]) == (True, 2624)
