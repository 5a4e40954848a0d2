"""Nothing is lost silently: the same faults in every format, and each file of a raw folder ends as a sample or is
said."""

import io
import json
import os
import pickle
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from faulty_files import HEIGHT, WIDTH, coco_folder, colour_png, gray_png, png_chunk, png_header, put, voc_xml
from PIL import Image

from irgpt_lib.irtd.record import Rejected, Sample
from irgpt_lib.irtd.sources import FORMATS, MalformedFile, MissingData, read
from irgpt_lib.irtd.sources.boxes import make_box, warp_box
from irgpt_lib.irtd.sources.files import files_in, inside, list_images, parse_json, read_text
from irgpt_lib.irtd.sources.reading import first_records
from irgpt_lib.irtd.sources.source import Pending, Source
from irgpt_lib.irtd.sources.storing import store
from irgpt_lib.irtd.sources.yolo import class_names

gray = cache(gray_png)
colour = cache(colour_png)
CSV = "image_name,class_id,xmin,xmax,ymin,ymax\n"


class Folder(NamedTuple):
    """A writer of a whole folder of two records, and of the first its infrared image, its visible mate and its file of
    annotations, empty where it has none."""

    write: Callable[[Path], object]
    infrared: str
    visible: str = ""
    annotation: str = ""


def both(root: Path, **files: bytes | str) -> None:
    """Each file for `a` and for `b`, whose name stands for `@`."""
    for stem in ("a", "b"):
        for name, data in files.items():
            put(root / name.replace("@", stem), data.replace("@", stem) if isinstance(data, str) else data)


def flir(root: Path) -> None:
    both(root, **{"infrared/@.png": gray(), "crop_visible/@.jpg": colour()})
    put(root / "boxes.csv", f"{CSV}a.jpeg,3,1,11,2,22\nb.jpeg,3,1,11,2,22\n")


def flir_crops(root: Path) -> None:
    flir(root)
    both(root, **{"crop_infrared/@.jpg": gray()})
    transform = {"H": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]}
    put(root / "ir_full_to_crop_transforms.json", json.dumps({"a": transform, "b": transform}))


def coco(root: Path) -> None:
    coco_folder(root, [{"id": 1, "image_id": 0, "category_id": 1, "bbox": [1, 2, 10, 20]}], ("a.png", "b.png"))


def visnir(root: Path) -> None:
    both(root, **{"Urban/@_nir.png": gray(80, 80), "Urban/@_rgb.png": colour(80, 80)})
    for stem in "ab":
        np.save(root / "Urban" / f"{stem}_nir.npy", np.eye(2, 3))


def elpv(root: Path) -> None:
    both(root, **{"images/@.png": gray()})
    put(root / "labels.csv", "images/a.png 0.5 mono\nimages/b.png 0.5 poly\n")


def yolo(root: Path) -> None:
    both(root, **{"images/@.png": gray(), "visible/@.png": colour(), "labels/@.txt": "0 0.5 0.5 0.5 0.5"})
    put(root / "classes.txt", "person")


KAIST = "% bbGt version=3\nperson 10 5 8 20 0 0 0 0 0 0 0\n"


def kaist(root: Path) -> None:
    files = {"V000/lwir/@.jpg": gray(), "V000/visible/@.jpg": colour()}
    both(root / "images" / "set00", **files)
    both(root / "annotations" / "set00", **{"V000/@.txt": KAIST})


def tracking(root: Path) -> None:
    for number in (1, 2):
        put(root / "dog" / "infrared" / f"{number}i.png", gray())
        put(root / "dog" / "visible" / f"{number}v.png", colour())
    put(root / "dog" / "infrared.txt", "1,1,5,5\n" * 2)
    put(root / "dog" / "visible.txt", "1,1,5,5\n" * 2)


def tracking_xml(root: Path) -> None:
    both(root, **{"dog/img/@1.png": gray(), "dog/anno/@1.xml": voc_xml()})


def flir_json(root: Path) -> None:
    text = json.dumps({"annotation": [{"category_id": "1", "bbox": [1, 2, 3, 4]}], "image": {"file_name": "@"}})
    files = {"train/thermal_8_bit/@.jpeg": gray(), "train/RGB/@.jpg": colour(50, 40), "train/Annotations/@.json": text}
    both(root, **files)


def reid(root: Path) -> None:
    for identity in range(1, 9):
        for number in range(2):
            put(root / "Thermal" / f"{identity}" / f"{number}.png", gray(8, 16, 10 * identity + number))


def mask(value: int) -> bytes:
    labels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    labels[3:9, 3:9] = value
    buffer = io.BytesIO()
    Image.fromarray(labels).save(buffer, format="PNG")
    return buffer.getvalue()


def pst900(root: Path) -> None:
    both(root, **{"test/thermal/@.png": gray(), "test/rgb/@.png": colour(), "test/labels/@.png": mask(4)})


def targets(root: Path) -> None:
    both(root, **{"images/@.png": gray(), "masks/@.png": mask(255)})


def centroids(root: Path) -> None:
    both(root, **{"images/@.png": gray(), "centroids/@.txt": "1 2"})


def salient(root: Path) -> None:
    both(root, **{"T/@.png": gray(), "RGB/@.png": colour(), "GT/@.png": mask(255)})


def rgbt_cc(root: Path) -> None:
    both(root, **{"train/@_T.jpg": gray(), "train/@_RGB.jpg": colour(), "train/@_GT.json": '{"points": [[1, 2]]}'})


PERSON = "<annotation><object><name>person</name><point><x>1</x><y>2</y></point></object></annotation>"


def drone_rgbt(root: Path) -> None:
    both(root / "Test", **{"Infrared/@R.jpg": gray(), "RGB/@.jpg": colour(), "GT_/@R.xml": PERSON})


CAR = voc_xml().replace("Person", "car")


def drone_vehicle(root: Path) -> None:
    files = {"trainimgr/@.jpg": gray(), "trainimg/@.jpg": colour(), "trainlabelr/@.xml": CAR}
    both(root / "train", **files)


def vedai(root: Path) -> None:
    for name in ("01", "02"):
        put(root / "images" / f"{name}_ir.png", gray())
        put(root / "images" / f"{name}_co.png", colour())
        put(root / "annotations" / f"{name}.txt", "10 15 0.7 1 1 0 10 20 10 4 5 15 25 15\n")


FOLDERS = {
    "flir_csv": Folder(flir, "infrared/a.png", "crop_visible/a.jpg"),
    "flir_crop": Folder(flir_crops, "crop_infrared/a.jpg", "crop_visible/a.jpg"),
    "coco": Folder(coco, "val/a.png"),
    "voc": Folder(
        lambda root: both(root, **{"Annotations/@.xml": voc_xml("@.png"), "JPEGImages/@.png": gray()}),
        "JPEGImages/a.png",
        annotation="Annotations/a.xml",
    ),
    "visnir": Folder(visnir, "Urban/a_nir.png", "Urban/a_rgb.png", "Urban/a_nir.npy"),
    "llvip": Folder(
        lambda root: both(
            root, **{"infrared/@.jpg": gray(), "visible/@.jpg": colour(), "Annotations/@.xml": voc_xml()}
        ),
        "infrared/a.jpg",
        "visible/a.jpg",
        "Annotations/a.xml",
    ),
    "elpv": Folder(elpv, "images/a.png"),
    "yolo": Folder(yolo, "images/a.png", "visible/a.png", "labels/a.txt"),
    "kaist": Folder(
        kaist, "images/set00/V000/lwir/a.jpg", "images/set00/V000/visible/a.jpg", "annotations/set00/V000/a.txt"
    ),
    "tracking": Folder(tracking, "dog/infrared/1i.png", "dog/visible/1v.png"),
    "tracking with XML": Folder(tracking_xml, "dog/img/a1.png", annotation="dog/anno/a1.xml"),
    "flir_json": Folder(flir_json, "train/thermal_8_bit/a.jpeg", "train/RGB/a.jpg", "train/Annotations/a.json"),
    "semantic_mask": Folder(pst900, "test/thermal/a.png", "test/rgb/a.png", "test/labels/a.png"),
    "target_mask": Folder(targets, "images/a.png", annotation="masks/a.png"),
    "target_mask of centroids": Folder(centroids, "images/a.png", annotation="centroids/a.txt"),
    "salient_mask": Folder(salient, "T/a.png", "RGB/a.png", "GT/a.png"),
    "crowd": Folder(rgbt_cc, "train/a_T.jpg", "train/a_RGB.jpg", "train/a_GT.json"),
    "crowd of DroneRGBT": Folder(drone_rgbt, "Test/Infrared/aR.jpg", "Test/RGB/a.jpg", "Test/GT_/aR.xml"),
    "scenes": Folder(
        lambda root: both(root, **{"street/@.png": gray(), "street/@_rgb.png": colour()}),
        "street/a.png",
        "street/a_rgb.png",
    ),
    "oriented": Folder(drone_vehicle, "train/trainimgr/a.jpg", "train/trainimg/a.jpg", "train/trainlabelr/a.xml"),
    "oriented of VEDAI": Folder(vedai, "images/01_ir.png", "images/01_co.png", "annotations/01.txt"),
}
PAIRED = [name for name, folder in FOLDERS.items() if folder.visible]
ANNOTATED = [name for name, folder in FOLDERS.items() if folder.annotation]
# in these, what has no annotation is kept and says so
KEPT_BARE = ("voc", "llvip", "yolo", "kaist", "tracking with XML", "flir_json", "oriented of VEDAI")


def a_source(format: str = "scenes") -> Source:
    facts = dict(index=None, title="A set", band="tir", paired=True, task="unknown", folder="set", home="home")
    return Source(name="set", format=format, terms="terms", what_belongs_there="files", authentic=False, **facts)


def listed(name: str, root: Path) -> list[Pending | Rejected]:
    format = name.split(" ")[0]
    return list(FORMATS[format](root, a_source(format)))


def outcome(name: str, root: Path) -> tuple[list[Sample], list[Rejected]]:
    format = name.split(" ")[0]
    items = list(read(format, root, a_source(format)))
    rejected = [item for item in items if isinstance(item, Rejected)]
    assert all(item.file and item.record and item.reason and item.detail for item in rejected)
    return [item for item in items if isinstance(item, Sample)], rejected


def reasons(name: str, root: Path) -> list[str]:
    return sorted(item.reason for item in outcome(name, root)[1])


def test_every_format_is_in_the_table():
    assert {name.split(" ")[0] for name in FOLDERS} | {"reid"} == set(FORMATS)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_whole_folder_gives_two_samples_marked_as_the_source_is(name, tmp_path):
    FOLDERS[name].write(tmp_path)
    samples, rejected = outcome(name, tmp_path)
    assert ([sample.authentic for sample in samples], rejected) == ([False, False], [])
    assert [bool(sample.visible) for sample in samples] == [bool(FOLDERS[name].visible)] * 2


@pytest.mark.parametrize("name", [*FOLDERS, "reid"])
def test_a_listed_record_can_be_sent_elsewhere_and_built_there_alone(name, tmp_path):
    (FOLDERS[name].write if name != "reid" else reid)(tmp_path)
    found = [item for item in listed(name, tmp_path) if isinstance(item, Pending)]
    assert pickle.loads(pickle.dumps(found[-1])).build() == found[-1].build()


def broken_tail(data: bytes) -> bytes:
    """A PNG whose colour profile stands after its pixels and breaks off."""
    return data[:-12] + png_chunk(b"iCCP", b"name") + data[-12:]


# of the whole image that each takes the place of
BROKEN: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "zero bytes": (lambda whole: b"", "empty image"),
    "another format": (lambda whole: b"GIF89a" + bytes(40), "unreadable image"),
    "PostScript": (lambda whole: b"%!PS-Adobe-3.0 EPSF-3.0\n", "unreadable image"),
    "text": (lambda whole: b"person 1 2 3 4", "unreadable image"),
    "truncated": (lambda whole: whole[:60], "unreadable image"),
    "broken tail": (broken_tail, "unreadable image"),
    "bomb": (lambda whole: png_header(10_000, 10_000), "image too large"),
}


def damaged(file: Path, fault: str) -> str:
    """Damage the image and say for which reason it is to be rejected."""
    damage, reason = BROKEN[fault]
    put(file, damage(file.read_bytes()))
    return reason


@pytest.mark.parametrize("fault", BROKEN)
@pytest.mark.parametrize("name", FOLDERS)
def test_a_broken_infrared_image_rejects_its_record_and_no_other(name, fault, tmp_path):
    FOLDERS[name].write(tmp_path)
    reason = damaged(tmp_path / FOLDERS[name].infrared, fault)
    samples, rejected = outcome(name, tmp_path)
    assert (len(samples), [item.reason for item in rejected]) == (1, [reason])
    # neither a machine's folders nor an address in memory
    assert not any(word in rejected[0].detail for word in (str(tmp_path), " at 0x"))


@pytest.mark.parametrize("fault", ["zero bytes", "text", "truncated", "broken tail", "bomb"])
@pytest.mark.parametrize("name", PAIRED)
def test_a_broken_visible_image_rejects_its_record_and_no_other(name, fault, tmp_path):
    FOLDERS[name].write(tmp_path)
    reason = damaged(tmp_path / FOLDERS[name].visible, fault)
    samples, rejected = outcome(name, tmp_path)
    assert (len(samples), [item.reason for item in rejected]) == (1, [reason])


@pytest.mark.parametrize("name", PAIRED)
def test_a_visible_image_without_its_infrared_one_is_said(name, tmp_path):
    FOLDERS[name].write(tmp_path)
    visible = tmp_path / FOLDERS[name].visible
    stem = visible.stem.replace("a", "z").replace("1", "9")
    put(visible.with_name(f"{stem}{visible.suffix}"), colour())
    samples, rejected = outcome(name, tmp_path)
    assert len(samples) == 2
    assert stem in rejected[0].file
    assert [item.reason.split(" ")[0] for item in rejected] == ["incomplete" if "mask" in name else "missing"]


@pytest.mark.parametrize("name", PAIRED)
def test_a_visible_image_of_another_suffix_is_the_mate_or_said_to_be_missing(name, tmp_path):
    FOLDERS[name].write(tmp_path)
    visible = tmp_path / FOLDERS[name].visible
    visible.rename(visible.with_suffix(".BMP"))
    samples, rejected = outcome(name, tmp_path)
    assert all(sample.visible for sample in samples)
    assert len(samples) + bool(rejected) == 2


@pytest.mark.parametrize("name", ANNOTATED)
def test_an_annotation_without_its_image_is_said(name, tmp_path):
    FOLDERS[name].write(tmp_path)
    file = tmp_path / FOLDERS[name].annotation
    stem = file.stem.replace("a", "z").replace("1", "9")
    other = put(file.with_name(f"{stem}{file.suffix}"), file.read_bytes().replace(b"a.png", b"z.png"))
    samples, rejected = outcome(name, tmp_path)
    assert (len(samples), [item.file for item in rejected]) == (2, [other.relative_to(tmp_path).as_posix()])


@pytest.mark.parametrize("name", ANNOTATED)
def test_an_image_without_its_annotation_says_so_or_is_rejected(name, tmp_path):
    FOLDERS[name].write(tmp_path)
    (tmp_path / FOLDERS[name].annotation).unlink()
    samples, rejected = outcome(name, tmp_path)
    if name == "visnir":
        assert (len(samples), rejected) == (2, [])
    elif name in KEPT_BARE:
        told = {sample.origin: sample.facts.get("annotation") for sample in samples}
        assert (told.pop(FOLDERS[name].infrared), list(told.values()), rejected) == ("none", [None], [])
    else:
        assert (len(samples), len(rejected)) == (1, 1)


@pytest.mark.parametrize("name", ANNOTATED)
def test_an_annotation_whose_link_leads_nowhere_is_not_taken_for_none(name, tmp_path):
    FOLDERS[name].write(tmp_path)
    file = tmp_path / FOLDERS[name].annotation
    file.unlink()
    file.symlink_to(tmp_path / "gone")
    samples, rejected = outcome(name, tmp_path)
    assert (len(samples), [item.reason for item in rejected]) == (1, ["missing file"])


@pytest.mark.parametrize("name", ANNOTATED)
def test_an_annotation_with_its_suffix_in_upper_case_is_read_or_said(name, tmp_path):
    FOLDERS[name].write(tmp_path)
    whole, _ = outcome(name, tmp_path)
    file = tmp_path / FOLDERS[name].annotation
    file.rename(file.with_suffix(file.suffix.upper()))
    samples, rejected = outcome(name, tmp_path)
    assert bool(rejected) or samples == whole


@pytest.mark.parametrize("name", ANNOTATED)
def test_an_annotation_that_is_no_text_rejects_its_record_and_no_other(name, tmp_path):
    FOLDERS[name].write(tmp_path)
    put(tmp_path / FOLDERS[name].annotation, b"\xff\xfe\x00\xff")
    samples, rejected = outcome(name, tmp_path)
    assert (len(samples), len(rejected)) == (1, 1)


@pytest.mark.parametrize("name", [name for name in ANNOTATED if FOLDERS[name].annotation.endswith(".xml")])
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('<!DOCTYPE x SYSTEM "http://127.0.0.1:9/x.dtd">' + voc_xml("a.png"), "unsafe XML"),
        ('<!DOCTYPE x [<!ENTITY a "aa"><!ENTITY b "&a;&a;">]>' + voc_xml("a.png"), "unsafe XML"),
        (voc_xml("a.png")[:-4], "malformed XML"),
        ("<html><body/></html>", "malformed XML"),
    ],
)
def test_unsafe_and_foreign_xml_rejects_its_record_and_no_other(name, text, reason, tmp_path):
    FOLDERS[name].write(tmp_path)
    put(tmp_path / FOLDERS[name].annotation, text)
    samples, rejected = outcome(name, tmp_path)
    assert (len(samples), [item.reason for item in rejected]) == (1, [reason])


@pytest.mark.parametrize("name", FOLDERS)
def test_a_file_name_that_is_no_utf8_is_rejected_and_can_be_stored(name, tmp_path):
    FOLDERS[name].write(tmp_path / "raw")
    for place in filter(None, FOLDERS[name][1:]):
        file = tmp_path / "raw" / place
        file.rename(file.with_name(os.fsdecode(b"\xff" + os.fsencode(file.name))))
    format = name.split(" ")[0]
    account = store(read(format, tmp_path / "raw", a_source(format)), tmp_path / "samples.parquet")
    assert account.samples == 1
    assert account.rejected.total() > 0


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_is_a_link_is_read_too(name, tmp_path):
    FOLDERS[name].write(tmp_path / "far")
    for folder in list((tmp_path / "far").iterdir()):
        if folder.is_dir():
            (tmp_path / "raw").mkdir(exist_ok=True)
            (tmp_path / "raw" / folder.name).symlink_to(folder)
        else:
            put(tmp_path / "raw" / folder.name, folder.read_bytes())
    samples, rejected = outcome(name, tmp_path / "raw")
    assert (len(samples), rejected) == (2, [])


# Files


def test_links_that_lead_back_up_are_not_entered(tmp_path):
    put(tmp_path / "a" / "1.png", gray())
    put(tmp_path / "b" / "2.png", gray())
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "other").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "other").symlink_to(tmp_path / "a")
    names = [file.relative_to(tmp_path).as_posix() for file in list_images(tmp_path)]
    assert names == ["a/1.png", "a/other/2.png", "b/2.png", "b/other/1.png"]


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    put(tmp_path / "a" / "1.png", gray())
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(MalformedFile, match="cannot be listed: Permission denied"):
        list(list_images(tmp_path))


def test_files_of_a_folder_leave_hidden_and_other_ones_out(tmp_path):
    for name in ("b.XML", "a.xml", "._a.xml", "c.txt", "deeper/d.xml"):
        put(tmp_path / name, "")
    assert [file.name for file in files_in(tmp_path, ".xml")] == ["a.xml", "b.XML"]
    assert files_in(tmp_path / "absent", ".xml") == []


def test_an_annotation_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "val.json").symlink_to(tmp_path / "gone")
    with pytest.raises(MalformedFile, match="val.json: cannot be read: No such file"):
        read_text(tmp_path / "val.json")


def test_a_path_longer_than_a_file_system_takes_is_refused():
    assert inside(Path("root"), "a/" * 100 + "b").name == "b"
    with pytest.raises(ValueError, match="unsafe path"):
        inside(Path("root"), "a/" * 3000 + "b")


def test_a_warp_beyond_all_numbers_is_no_box():
    with warnings.catch_warnings(), pytest.raises(ValueError, match="degenerate box"):
        warnings.simplefilter("error")
        warp_box(np.eye(3) * 1e300, make_box("car", (0, 0, 1e300, 1e300), "here"))


def test_numbers_of_too_many_digits_are_malformed_json():
    with pytest.raises(ValueError, match="malformed JSON: here"):
        parse_json(b"9" * 5000, "here")


# COCO


def coco_with(root: Path, **lists: object) -> None:
    coco(root)
    file = root / "annotations" / "val.json"
    put(file, json.dumps(json.loads(file.read_text()) | lists))


def test_coco_two_annotations_of_one_id_reject_their_image_and_no_other(tmp_path):
    entry = {"id": 7, "image_id": 0, "category_id": 1, "bbox": [1, 2, 10, 20]}
    coco_with(tmp_path, annotations=[entry, entry, entry | {"image_id": 1}])
    samples, rejected = outcome("coco", tmp_path)
    assert [sample.sample_id for sample in samples] == ["set/b"]
    assert [(item.record, item.reason) for item in rejected] == [("a.png", "duplicate id")]


def test_coco_a_category_id_of_two_names_is_a_malformed_file(tmp_path):
    coco_with(tmp_path, categories=[{"id": 1, "name": "Car"}, {"id": 1, "name": "car"}])
    assert len(outcome("coco", tmp_path)[0]) == 2
    coco_with(tmp_path, categories=[{"id": 1, "name": "Car"}, {"id": 1, "name": "Bus"}])
    with pytest.raises(MalformedFile, match="category id 1 names 'car' and 'bus'"):
        listed("coco", tmp_path)


@pytest.mark.parametrize(("mark", "boxes"), [("0", 1), ("1", 0), (False, 1), (True, 0), (None, 1)])
def test_coco_a_crowd_is_marked_by_a_number_its_text_or_a_truth_value(mark, boxes, tmp_path):
    entry = {"id": 7, "image_id": 0, "category_id": 1, "bbox": [1, 2, 10, 20], "iscrowd": mark}
    coco_with(tmp_path, annotations=[entry])
    assert len(outcome("coco", tmp_path)[0][0].boxes) == boxes
    coco_with(tmp_path, annotations=[entry | {"iscrowd": "maybe"}])
    assert reasons("coco", tmp_path) == ["malformed annotation"]


def test_coco_names_may_be_written_with_backslashes(tmp_path):
    coco_with(tmp_path, images=[{"id": 0, "file_name": "val\\a.png"}, {"id": 1, "file_name": "b.png"}])
    samples, rejected = outcome("coco", tmp_path)
    assert ([len(sample.boxes) for sample in samples], rejected) == ([1, 0], [])


# FLIR


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CSV.replace("xmin", "xmin,xmin"), "has the columns xmin twice"),
        (f"{'x' * 200_000}\n", "field larger"),
    ],
)
def test_flir_a_header_that_cannot_be_used_names_the_file(text, message, tmp_path):
    flir(tmp_path)
    put(tmp_path / "boxes.csv", text)
    with pytest.raises(MalformedFile, match=message):
        listed("flir_csv", tmp_path)


def test_flir_a_row_of_more_fields_than_columns_rejects_its_frame(tmp_path):
    flir(tmp_path)
    put(tmp_path / "boxes.csv", f"{CSV}a.jpeg,3,1,11,2,22,7\nb.jpeg,3,1,11,2,22\n,3,1,11,2,22\n")
    rejected = outcome("flir_csv", tmp_path)[1]
    assert [(item.record, item.reason) for item in rejected] == [("a", "malformed line"), ("line 4", "unsafe path")]


@pytest.mark.parametrize("matrix", [[[1, 0], [0, 1]], [[0] * 3] * 3, [["nan"] * 3] * 3, [[10**400] * 3] * 3, "H", None])
def test_flir_a_homography_that_is_none_rejects_its_crop(matrix, tmp_path):
    flir_crops(tmp_path)
    file = tmp_path / "ir_full_to_crop_transforms.json"
    put(file, json.dumps(json.loads(file.read_text()) | {"a": {"H": matrix}}))
    samples, rejected = outcome("flir_crop", tmp_path)
    assert (len(samples), [(item.record, item.reason) for item in rejected]) == (1, [("a", "bad transform")])


def test_flir_crops_say_what_they_lack(tmp_path):
    flir_crops(tmp_path)
    put(tmp_path / "crop_infrared" / "c.jpg", gray())
    put(tmp_path / "crop_visible" / "b.jpg", colour(50, 50))
    put(tmp_path / "boxes.csv", (tmp_path / "boxes.csv").read_text() + "z.jpeg,3,1,11,2,22\n../a.jpeg,3,1,11,2,22\n")
    (tmp_path / "crop_visible" / "a.jpg").unlink()
    assert reasons("flir_crop", tmp_path) == [
        "missing annotation",
        "missing image",
        "missing visible mate",
        "size mismatch",
        "unsafe path",
    ]
    put(tmp_path / "ir_full_to_crop_transforms.json", "[]")
    with pytest.raises(MalformedFile, match="expected an object by frame name"):
        listed("flir_crop", tmp_path)


# What lies where no record reaches


def test_an_image_is_known_by_its_content_and_none_is_passed_over_for_its_suffix(tmp_path):
    for name, data in (("a.webp", gray()), ("b.gif", b"GIF89a" + bytes(40)), ("c.JFIF", gray())):
        put(tmp_path / "street" / name, data)
    samples, rejected = outcome("scenes", tmp_path)
    assert [sample.origin for sample in samples] == ["street/a.webp", "street/c.JFIF"]
    assert [(item.file, item.reason) for item in rejected] == [("street/b.gif", "unreadable image")]


def test_elpv_a_cell_that_no_line_names_is_kept_and_says_so(tmp_path):
    elpv(tmp_path)
    put(tmp_path / "labels.csv", "images/a.png 0.5 mono\n")
    samples, rejected = outcome("elpv", tmp_path)
    assert [sample.facts.get("annotation") for sample in samples] == [None, "none"]
    assert rejected == []


def test_visnir_images_of_another_name_or_place_and_second_ones_are_rejected(tmp_path):
    visnir(tmp_path)
    for name in ("Urban/a_nir.jpg", "Urban/c.png", "d_nir.png"):
        put(tmp_path / name, gray(80, 80))
    (tmp_path / "Urban" / "b_rgb.png").unlink()
    samples, rejected = outcome("visnir", tmp_path)
    assert len(samples) == 1
    assert sorted((item.file, item.reason) for item in rejected) == [
        ("Urban/a_nir.png", "duplicate id"),
        ("Urban/b_nir.png", "missing visible mate"),
        ("Urban/c.png", "unknown name"),
        ("d_nir.png", "unknown name"),
    ]


def test_yolo_images_in_other_folders_are_rejected_and_any_spelling_of_visible_pairs(tmp_path):
    yolo(tmp_path)
    (tmp_path / "visible").rename(tmp_path / "Visible")
    put(tmp_path / "rgb" / "a.png", colour())
    samples, rejected = outcome("yolo", tmp_path)
    assert [bool(sample.visible) for sample in samples] == [True, True]
    assert [(item.file, item.reason) for item in rejected] == [("rgb/a.png", "misplaced image")]


def test_yolo_class_names_that_spell_a_huge_list_are_refused_in_few_words(tmp_path):
    text = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    for above, name in zip("abcde", "bcdef", strict=True):
        text += f"{name}: &{name} [{', '.join([f'*{above}'] * 9)}]\n"
    put(tmp_path / "data.yaml", f"{text}names: [*f]\n")
    with pytest.raises(MalformedFile, match="is no class name") as error:
        class_names(tmp_path, a_source())
    # 9 to the power of 6 entries, in full some three million characters
    assert len(str(error.value)) < 1000


def test_kaist_what_belongs_to_no_frame_or_video_is_rejected(tmp_path):
    kaist(tmp_path)
    put(tmp_path / "annotations" / "set00" / "V009" / "a.txt", KAIST)
    put(tmp_path / "images" / "set00" / "V000" / "lwir" / "deeper" / "c.jpg", gray())
    rejected = outcome("kaist", tmp_path)[1]
    assert [(item.file, item.reason) for item in rejected] == [
        ("images/set00/V000/lwir/deeper/c.jpg", "misplaced image"),
        ("annotations/set00/V009", "missing image"),
    ]


@pytest.mark.parametrize("file", ["infrared.txt", "visible.txt"])
def test_tracking_a_broken_file_of_boxes_is_the_one_that_is_named(file, tmp_path):
    tracking(tmp_path)
    put(tmp_path / "dog" / file, b"1,1,5,5\n\xff")
    samples, rejected = outcome("tracking", tmp_path)
    assert (samples, [(item.file, item.reason) for item in rejected]) == ([], [(f"dog/{file}", "not UTF-8 text")])


def test_tracking_folders_that_are_no_whole_sequence_are_rejected(tmp_path):
    tracking(tmp_path)
    put(tmp_path / "cover.png", gray())
    put(tmp_path / "bare" / "1.png", gray())
    put(tmp_path / "boxes only" / "infrared.txt", "1,1,5,5\n")
    put(tmp_path / "empty" / "groundtruth_rect.txt", "")
    put(tmp_path / "xml" / "anno" / "1.xml", voc_xml())
    put(tmp_path / "dog" / "preview.png", gray())
    put(tmp_path / "dog" / "depth" / "1.png", gray())
    samples, rejected = outcome("tracking", tmp_path)
    assert len(samples) == 2
    assert sorted((item.file, item.reason) for item in rejected) == [
        (".", "missing annotation"),
        ("bare", "missing annotation"),
        ("boxes only", "missing image"),
        ("dog/depth", "misplaced image"),
        ("dog/preview.png", "misplaced image"),
        ("empty/groundtruth_rect.txt", "missing image"),
        ("xml/anno", "missing image"),
    ]


def test_a_part_that_lacks_one_of_its_folders_is_rejected_file_by_file(tmp_path):
    pst900(tmp_path / "pst900")
    both(tmp_path / "pst900" / "train", **{"thermal/@.png": gray(), "rgb/@.png": colour()})
    salient(tmp_path / "salient" / "Train")
    both(tmp_path / "salient" / "Test", **{"RGB/@.png": colour()})
    targets(tmp_path / "targets")
    both(tmp_path / "targets" / "test", **{"masks/@.png": mask(255)})
    drone_rgbt(tmp_path / "crowd")
    both(tmp_path / "crowd" / "Train", **{"RGB/@.jpg": colour()})
    drone_vehicle(tmp_path / "oriented")
    both(tmp_path / "oriented" / "val", **{"valimg/@.jpg": colour()})
    for name, folder in (
        ("semantic_mask", "pst900"),
        ("salient_mask", "salient"),
        ("target_mask", "targets"),
        ("crowd", "crowd"),
        ("oriented", "oriented"),
    ):
        samples, rejected = outcome(name, tmp_path / folder)
        assert (len(samples), len(rejected)) == (2, 2), name


def test_crowd_second_files_of_a_number_and_json_of_another_name_are_rejected(tmp_path):
    rgbt_cc(tmp_path / "rgbt")
    put(tmp_path / "rgbt" / "train" / "a_RGB.png", colour())
    put(tmp_path / "rgbt" / "train" / "a.json", "{}")
    assert reasons("crowd", tmp_path / "rgbt") == ["duplicate id", "unknown name"]
    drone_rgbt(tmp_path / "drone")
    put(tmp_path / "drone" / "Test" / "Infrared" / "a.jpg", gray())
    put(tmp_path / "drone" / "Test" / "GT_" / "a.xml", PERSON)
    assert reasons("crowd", tmp_path / "drone") == ["duplicate id", "duplicate id"]


def test_vedai_images_of_another_name_are_rejected(tmp_path):
    vedai(tmp_path)
    put(tmp_path / "images" / "cover.png", gray())
    assert reasons("oriented", tmp_path) == ["unknown name"]


def test_reid_images_in_no_identitys_folder_are_rejected_and_those_of_each_identity_counted(tmp_path):
    reid(tmp_path)
    put(tmp_path / "Thermal" / "cover.png", gray(8, 16))
    samples, rejected = outcome("reid", tmp_path)
    assert ("Thermal/cover.png", "misplaced image") in [(item.file, item.reason) for item in rejected]
    assert {sample.facts["identity_images"] for sample in samples} == {"2"}


# A look before any long work


def test_a_folder_is_readable_though_its_first_listed_records_are_rejected(tmp_path):
    kaist(tmp_path)
    for number in range(5):
        put(tmp_path / "images" / "set00" / "V000" / "lwir" / "deeper" / f"{number}.jpg", gray())
    probed, message = first_records(a_source("kaist"), tmp_path, "kaist")
    assert (len(probed), message) == (7, "")


def test_a_folder_without_any_sample_says_why(tmp_path):
    put(tmp_path / "dog" / "1.png", gray())
    probed, message = first_records(a_source("tracking"), tmp_path, "tracking")
    assert len(probed) == 1
    assert message.endswith("none of the first 1 records can be used: missing annotation")
    with pytest.raises(MissingData):
        list(read("tracking", tmp_path / "absent", a_source("tracking")))
