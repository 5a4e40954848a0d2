"""Adapters of videos and of text and JSON labels: what is read, what is refused, and that neighbours still come."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from faulty_files import HEIGHT, WIDTH, colour_png, gray_png, png_header, put, voc_xml

from irgpt_lib.irtd.record import Box, RecordError, Rejected, Sample
from irgpt_lib.irtd.sources import FORMATS, SOURCES, MalformedFile, MissingData, Source, read
from irgpt_lib.irtd.sources.lines import read_lines
from irgpt_lib.irtd.sources.naming import flir_name, tracked_class
from irgpt_lib.irtd.sources.source import Pending
from irgpt_lib.irtd.sources.tracking import LAYOUTS, line_box
from irgpt_lib.irtd.sources.video import clipped, frame_number, frame_order

RGBT, VTUAV, GTOT, *_ = LAYOUTS


def source_of(format: str, **changes: object) -> Source:
    plain = replace(SOURCES["hit_uav"], name="set", format=format, kind="scene", naming="", counted=())
    return replace(plain, **changes)


def outcome(format: str, root: Path, **changes: object) -> tuple[list[Sample], list[tuple[str, str]]]:
    items = list(read(format, root, source_of(format, **changes)))
    rejected = [(item.record, item.reason) for item in items if isinstance(item, Rejected)]
    assert all(item.file and item.detail for item in items if isinstance(item, Rejected))
    return [item for item in items if isinstance(item, Sample)], rejected


def listed(format: str, root: Path, **changes: object) -> list[Pending | Rejected]:
    return list(FORMATS[format](root, source_of(format, **changes)))


def pixels(category: str, *corners: int | float) -> Box:
    return Box(category, *map(float, corners))


def names(samples: list[Sample]) -> list[str]:
    return [sample.sample_id.removeprefix("set/") for sample in samples]


# Small whole folders, each with records `a` and `b`; the first file of a writer's result is the image of `a`


def yolo_folder(
    root: Path, label: str | bytes = "0 0.5 0.5 0.5 0.5\n", classes: str = "names: [Person, Car]\n"
) -> Path:
    put(root / "data.yaml", classes)
    for stem, text in (("a", label), ("b", "1 0.5 0.5 1 1\n")):
        put(root / "images" / "train" / f"{stem}.png", gray_png())
        put(root / "labels" / "train" / f"{stem}.txt", text)
    return root / "images" / "train" / "a.png"


HEAD = "% bbGt version=3\n"
WALKER = "person 10 5 8 20 0 0 0 0 0 0 0\n"


def kaist_folder(root: Path, label: str | bytes = HEAD + WALKER, video: str = "set03/V001") -> Path:
    for stem, text in (("I00000", label), ("I00001", HEAD)):
        put(root / "images" / video / "lwir" / f"{stem}.jpg", gray_png())
        put(root / "images" / video / "visible" / f"{stem}.jpg", colour_png())
        put(root / "annotations" / video / f"{stem}.txt", text)
    return root / "images" / video / "lwir" / "I00000.jpg"


def tracking_folder(root: Path, lines: str | bytes = "10,5,8,20\n1,1,5,5\n", visible: str | None = None) -> Path:
    for number in range(2):
        put(root / "boy" / "infrared" / f"0000{number}i.png", gray_png())
        put(root / "boy" / "visible" / f"0000{number}v.png", colour_png())
    put(root / "boy" / "infrared.txt", lines)
    put(root / "boy" / "visible.txt", visible if visible is not None else "10,5,8,20\n1,1,5,5\n")
    return root / "boy" / "infrared" / "00000i.png"


def flir_entry(**changes: object) -> dict:
    return {"category_id": "1", "bbox": ["1", 2, 10, 20], "iscrowd": 0, "id": "1"} | changes


def flir_text(*entries: object, name: str = "FLIR_00101") -> str:
    return json.dumps({"annotation": list(entries), "image": {"file_name": name, "width": WIDTH, "height": HEIGHT}})


def flir_folder(root: Path, text: str | bytes | None = None) -> Path:
    for stem, content in (("FLIR_00101", text), ("FLIR_00102", None)):
        put(root / "training" / "thermal_8_bit" / f"{stem}.jpeg", gray_png())
        put(
            root / "training" / "Annotations" / f"{stem}.json",
            flir_text(flir_entry(), name=stem) if content is None else content,
        )
    return root / "training" / "thermal_8_bit" / "FLIR_00101.jpeg"


WRITERS: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    "yolo": (yolo_folder, "train/a", "train/b"),
    "kaist": (kaist_folder, "set03/V001/I00000", "set03/V001/I00001"),
    "tracking": (tracking_folder, "boy/00000i", "boy/00001i"),
    "flir_json": (flir_folder, "FLIR_00101", "FLIR_00102"),
}


@pytest.mark.parametrize("format", WRITERS)
@pytest.mark.parametrize("folder", ["absent", "empty"])
def test_a_folder_without_data_says_where_it_looked(format, folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingData) as error:
        listed(format, tmp_path / folder)
    assert str(tmp_path / folder) in str(error.value)


@pytest.mark.parametrize("format", WRITERS)
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty image"),
        (gray_png()[:60], "unreadable image"),
        (b"GIF89a" + bytes(40), "unreadable image"),
        (b"person 1 2 3 4", "unreadable image"),
        (png_header(10_000, 10_000), "image too large"),
    ],
)
def test_an_image_that_cannot_be_used_is_rejected_and_the_next_is_read(format, data, reason, tmp_path):
    writer, first, second = WRITERS[format]
    put(writer(tmp_path), data)
    samples, rejected = outcome(format, tmp_path)
    assert (names(samples), rejected) == ([second], [(first, reason)])


@pytest.mark.parametrize("format", WRITERS)
def test_listing_decodes_no_image_and_is_the_same_twice(format, tmp_path):
    image = WRITERS[format][0](tmp_path)
    put(image, b"")
    found = [(item.file, item.record) for item in listed(format, tmp_path)]
    assert found == [(item.file, item.record) for item in listed(format, tmp_path)]
    assert found[0] == (image.relative_to(tmp_path).as_posix(), WRITERS[format][1])


@pytest.mark.parametrize("format", WRITERS)
def test_a_frame_can_be_built_alone(format, tmp_path):
    writer, _, second = WRITERS[format]
    writer(tmp_path)
    last = [item for item in listed(format, tmp_path) if isinstance(item, Pending)][-1]
    assert last.build().sample_id == f"set/{second}"


# YOLO


def test_yolo_shares_become_pixels_and_the_path_names_the_sample(tmp_path):
    yolo_folder(tmp_path, "0 0.5 0.5 0.5 0.4\n\n1 0.25 0.5 0.5 1\n")
    (first, second), rejected = outcome("yolo", tmp_path, counted=("car", "person"))
    assert first.boxes == (pixels("person", 10, 9, 30, 21), pixels("car", 0, 0, 20, 30))
    assert (first.sample_id, first.split, first.counted) == ("set/train/a", "train", "car")
    assert second.caption == "The image contains 1 car."
    assert rejected == []


def test_yolo_an_empty_label_file_says_no_object_and_an_absent_one_says_nothing(tmp_path):
    yolo_folder(tmp_path, "")
    (tmp_path / "labels" / "train" / "b.txt").unlink()
    (empty, absent), _ = outcome("yolo", tmp_path, counted=("person",))
    assert (empty.boxes, empty.counted, empty.facts) == ((), "person", {})
    assert (absent.boxes, absent.counted, absent.facts) == ((), "", {"annotation": "none"})


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("data.yaml", "names:\n  0: Person\n  1: Car\n"),
        ("classes.txt", "Person\r\nCar\r\n"),
        ("labels/classes.txt", "Person\nCar"),
    ],
)
def test_yolo_class_names_come_as_a_mapping_or_a_text_file(file, text, tmp_path):
    yolo_folder(tmp_path)
    (tmp_path / "data.yaml").unlink()
    put(tmp_path / file, text)
    samples, rejected = outcome("yolo", tmp_path)
    assert [box.category for sample in samples for box in sample.boxes] == ["person", "car"]
    assert rejected == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [", "not valid YAML"),
        ("names: !!python/object/apply:os.getcwd []", "not valid YAML"),
        ("nc: 2", "needs `names`"),
        ("names: [[1]]", "is no class name"),
        ("names: {person: 0}", "needs `names`"),
        ("names: []", "names no class"),
        (b"names: [\xff]", "not UTF-8 at byte 8"),
    ],
)
def test_yolo_class_names_that_cannot_be_used_name_the_file(text, message, tmp_path):
    yolo_folder(tmp_path)
    put(tmp_path / "data.yaml", text)
    with pytest.raises(MalformedFile, match=f"data.yaml: .*{message}"):
        listed("yolo", tmp_path)


def test_yolo_without_class_names_is_missing_data(tmp_path):
    yolo_folder(tmp_path)
    (tmp_path / "data.yaml").unlink()
    with pytest.raises(MissingData, match="no class names in any of data.yaml"):
        listed("yolo", tmp_path)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("0 0.5 0.5 0.5", "malformed line"),
        ("0 0.5 0.5 0.5 0.5 0.9", "malformed line"),
        ("0 0.1 0.1 0.9 0.1 0.5 0.9", "polygon label"),
        ("0 0.1 0.1 0.9 0.1 0.9 0.9 0.1 0.9", "polygon label"),
        ("2 0.5 0.5 0.5 0.5", "unknown class"),
        ("-1 0.5 0.5 0.5 0.5", "unknown class"),
        ("9" * 5000 + " 0.5 0.5 0.5 0.5", "unknown class"),
        ("0.5 0.5 0.5 0.5 0", "unknown class"),
        ("0 nan 0.5 0.5 0.5", "degenerate box"),
        ("0 0.5 0.5 -0.5 0.5", "degenerate box"),
        ("0 0.5 0.5 0 0.5", "degenerate box"),
        ("0 0.5 half 0.5 0.5", "unreadable box"),
        ("0 20 15 20 15", "box outside image"),
        ("0 0.9 0.5 0.5 0.5", "box outside image"),
    ],
)
def test_yolo_a_bad_line_rejects_its_image_and_no_other(line, reason, tmp_path):
    yolo_folder(tmp_path, f"0 0.5 0.5 0.5 0.5\n{line}\n")
    samples, rejected = outcome("yolo", tmp_path)
    assert (names(samples), rejected) == (["train/b"], [("train/a", reason)])


def test_yolo_labels_that_are_not_utf8_reject_their_image(tmp_path):
    yolo_folder(tmp_path, b"0 0.5 \xff")
    assert outcome("yolo", tmp_path)[1] == [("train/a", "not UTF-8 text")]


def test_yolo_a_label_without_image_and_a_second_image_of_one_label_are_rejected(tmp_path):
    yolo_folder(tmp_path)
    put(tmp_path / "labels" / "val" / "c.txt", "0 0.5 0.5 0.5 0.5\n")
    put(tmp_path / "images" / "train" / "b.jpg", gray_png())
    samples, rejected = outcome("yolo", tmp_path)
    assert names(samples) == ["train/a", "train/b"]
    assert rejected == [("train/b", "duplicate id"), ("c", "missing image")]


def test_yolo_equal_names_in_two_splits_are_two_samples_of_one_group(tmp_path):
    yolo_folder(tmp_path)
    put(tmp_path / "val" / "images" / "a.png", gray_png())
    samples, rejected = outcome("yolo", tmp_path)
    assert (names(samples), rejected) == (["train/a", "train/b", "val/a"], [])
    assert [(sample.group, sample.split) for sample in samples[::2]] == [("set/a", "train"), ("set/a", "val")]


def test_yolo_visible_mates_lie_beside_and_are_no_samples(tmp_path):
    put(tmp_path / "classes.txt", "person")
    for stem, width in (("a", WIDTH), ("b", WIDTH + 8)):
        put(tmp_path / "Ir" / f"{stem}.png", gray_png())
        put(tmp_path / "Vis" / f"{stem}.png", colour_png(width))
    (sample,), rejected = outcome("yolo", tmp_path)
    assert (sample.visible, sample.facts["visible_frame"]) == (colour_png(), "aligned")
    assert rejected == [("b", "size mismatch")]


# KAIST


def test_kaist_frames_carry_boxes_mates_and_the_recording(tmp_path):
    kaist_folder(tmp_path)
    (sample, empty), rejected = outcome("kaist", tmp_path, counted=("person",))
    assert sample.boxes == (pixels("person", 10, 5, 18, 25),)
    assert (sample.sample_id, sample.group) == ("set/set03/V001/I00000", "set/set03/V001")
    assert (sample.visible, sample.split, sample.counted) == (colour_png(), "train", "person")
    assert sample.facts == {
        "sequence": "set03/V001",
        "frame": "0",
        "sequence_frames": "2",
        "keep_every": "1",
        "time": "night",
        "place": "campus",
        "visible_frame": "aligned",
    }
    assert (empty.boxes, empty.counted) == ((), "person")
    assert rejected == []


@pytest.mark.parametrize(
    ("video", "split", "time", "place"),
    [("set00", "train", "day", "campus"), ("set05", "train", "night", "downtown"), ("set07", "test", "day", "road")],
)
def test_kaist_the_set_tells_split_time_and_place(video, split, time, place, tmp_path):
    kaist_folder(tmp_path, video=f"{video}/V000")
    sample = outcome("kaist", tmp_path)[0][0]
    assert (sample.split, sample.facts["time"], sample.facts["place"]) == (split, time, place)


@pytest.mark.parametrize(
    ("line", "fact"),
    [
        ("people 1 1 30 20 0 0 0 0 0 0 0\n", "people"),
        ("person? 1 1 3 20 0 0 0 0 0 0 0\n", "uncertain_person"),
        ("person 1 1 3 20 0 0 0 0 0 1 0\n", "ignored"),
    ],
)
def test_kaist_what_is_no_single_sure_person_is_counted_and_forbids_counting(line, fact, tmp_path):
    kaist_folder(tmp_path, HEAD + WALKER + line + line)
    sample = outcome("kaist", tmp_path, counted=("person",))[0][0]
    assert (len(sample.boxes), sample.facts[fact], sample.counted) == (1, "2", "")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "malformed header"),
        (WALKER, "malformed header"),
        ("% bbGt version=2\n" + WALKER, "malformed header"),
        (HEAD + "person 1 2 3 4", "malformed line"),
        (HEAD + "person 1 2 3 4 0 0 0 0 0 0.5 0", "malformed line"),
        (HEAD + "10 5 8 20 person 0 0 0 0 0 0 0", "unknown class"),
        (HEAD + "horse 10 5 8 20 0 0 0 0 0 0 0", "unknown class"),
        (HEAD + "person x 5 8 20 0 0 0 0 0 0 0", "unreadable box"),
        (HEAD + "person nan 5 8 20 0 0 0 0 0 0 0", "degenerate box"),
        (HEAD + "person 10 5 -8 20 0 0 0 0 0 0 0", "degenerate box"),
        (HEAD + "person 38 5 8 20 0 0 0 0 0 0 0", "box outside image"),
        (HEAD + "person 300 5 8 20 0 0 0 0 0 0 0", "box outside image"),
        (HEAD.encode() + b"\xff\xfe", "not UTF-8 text"),
    ],
)
def test_kaist_a_bad_annotation_rejects_its_frame_and_no_other(text, reason, tmp_path):
    kaist_folder(tmp_path, text)
    samples, rejected = outcome("kaist", tmp_path)
    assert (names(samples), rejected) == (["set03/V001/I00001"], [("set03/V001/I00000", reason)])


def test_kaist_a_box_that_reaches_out_is_clipped_and_said(tmp_path):
    kaist_folder(tmp_path, HEAD + "person 34 5 8 20 0 0 0 0 0 0 0")
    sample = outcome("kaist", tmp_path)[0][0]
    assert (sample.boxes, sample.facts["clipped_boxes"]) == ((pixels("person", 34, 5, 40, 25),), "1")


def test_kaist_missing_parts_are_rejected_or_said(tmp_path):
    kaist_folder(tmp_path)
    video = tmp_path / "images" / "set03" / "V001"
    put(video / "lwir" / "I00002.jpg", gray_png())
    put(video / "visible" / "I00002.jpg", colour_png())
    put(video / "visible" / "I00001.jpg", colour_png(WIDTH + 8))
    (video / "visible" / "I00000.jpg").unlink()
    put(tmp_path / "annotations" / "set03" / "V001" / "I00009.txt", HEAD)
    (tmp_path / "images" / "set04" / "V000" / "visible").mkdir(parents=True)
    (unannotated,), rejected = outcome("kaist", tmp_path, counted=("person",))
    assert (unannotated.facts["annotation"], unannotated.counted) == ("none", "")
    assert rejected == [
        ("set03/V001/I00000", "missing visible mate"),
        ("set03/V001/I00001", "size mismatch"),
        ("set03/V001/I00009", "missing image"),
        ("set04/V000", "missing infrared frames"),
    ]


def test_kaist_a_second_file_of_one_frame_is_rejected(tmp_path):
    kaist_folder(tmp_path)
    put(tmp_path / "images" / "set03" / "V001" / "lwir" / "I00000.png", gray_png())
    samples, rejected = outcome("kaist", tmp_path)
    assert (len(samples), rejected) == (2, [("I00000", "duplicate id")])


def test_kaist_unconverted_annotations_are_missing_data(tmp_path):
    kaist_folder(tmp_path)
    (tmp_path / "annotations").rename(tmp_path / "annotations-vbb")
    with pytest.raises(MissingData, match="vbb files have to be converted"):
        listed("kaist", tmp_path)


def test_kaist_keeps_every_third_frame_of_each_video(tmp_path):
    for video in ("set00/V000", "set00/V001"):
        for number in range(5):
            put(tmp_path / video / "lwir" / f"I0000{number}.jpg", gray_png())
    (tmp_path / "annotations").mkdir()
    kept = [item.record for item in listed("kaist", tmp_path, keep_every=3)]
    assert kept == [f"set00/{video}/I0000{number}" for video in ("V000", "V001") for number in (0, 3)]


# Tracking


def test_tracking_line_k_is_the_box_of_frame_k(tmp_path):
    tracking_folder(tmp_path, "10,5,8,20\n1\t1  5 , 5\n")
    (first, second), rejected = outcome("tracking", tmp_path)
    assert [s.boxes for s in (first, second)] == [(pixels("object", 10, 5, 18, 25),), (pixels("object", 1, 1, 6, 6),)]
    assert (first.sample_id, first.group, first.counted) == ("set/boy/00000i", "set/boy", "")
    assert first.visible == colour_png()
    assert second.facts == {
        "sequence": "boy",
        "frame": "1",
        "sequence_frames": "2",
        "keep_every": "1",
        "annotated": "target only",
        "category": "unknown",
        "visible_frame": "aligned",
    }
    assert rejected == []


@pytest.mark.parametrize("line", ["0,0,0,0", "nan,nan,nan,nan", "7 7 0 0"])
def test_tracking_an_absent_target_is_said_and_has_no_box(line, tmp_path):
    tracking_folder(tmp_path, f"{line}\n1,1,5,5\n")
    first = outcome("tracking", tmp_path)[0][0]
    assert (first.boxes, first.facts["target"], first.facts["annotated"]) == ((), "absent", "target only")
    assert "category" not in first.facts


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("10,5,8", "malformed line"),
        ("10,5,8,20,1,1,1,1", "malformed line"),
        ("", "malformed line"),
        ("x,5,8,20", "unreadable box"),
        ("10,5,-8,20", "degenerate box"),
        ("10,5,0,20", "degenerate box"),
        ("nan,5,8,20", "degenerate box"),
        ("10,5,inf,20", "degenerate box"),
        ("37,5,8,20", "box outside image"),
        ("400,50,8,20", "box outside image"),
    ],
)
def test_tracking_a_bad_line_rejects_its_frame_and_no_other(line, reason, tmp_path):
    tracking_folder(tmp_path, f"{line}\n1,1,5,5\n")
    samples, rejected = outcome("tracking", tmp_path)
    assert (names(samples), rejected) == (["boy/00001i"], [("boy/00000i", reason)])


def test_tracking_surplus_frames_and_lines_are_rejected_and_no_other(tmp_path):
    tracking_folder(tmp_path, "1,1,5,5\n")
    samples, rejected = outcome("tracking", tmp_path)
    assert (names(samples), rejected) == (["boy/00000i"], [("boy/00001i", "frame without line")])
    put(tmp_path / "boy" / "infrared.txt", "1,1,5,5\n" * 4)
    samples, rejected = outcome("tracking", tmp_path)
    assert (names(samples), rejected) == (["boy/00000i", "boy/00001i"], [("boy", "line without frame")])


@pytest.mark.parametrize(
    ("file", "data", "reason"),
    [
        ("infrared.txt", b"1,1,5,5\n\xff", "not UTF-8 text"),
        ("visible.txt", b"\xff", "not UTF-8 text"),
        ("infrared.txt", None, "missing annotation"),
    ],
)
def test_tracking_a_broken_file_of_boxes_rejects_its_sequence_and_no_other(file, data, reason, tmp_path):
    tracking_folder(tmp_path)
    (tmp_path / "boy").rename(tmp_path / "girl")
    tracking_folder(tmp_path)
    if data is None:
        (tmp_path / "boy" / file).unlink()
    else:
        put(tmp_path / "boy" / file, data)
    samples, rejected = outcome("tracking", tmp_path)
    assert (names(samples), rejected) == (["girl/00000i", "girl/00001i"], [("boy", reason)])


def test_tracking_a_missing_visible_frame_rejects_its_frame_and_no_pairing_slips(tmp_path):
    tracking_folder(tmp_path)
    put(tmp_path / "boy" / "visible" / "00001v.png", gray_png())
    (tmp_path / "boy" / "visible" / "00000v.png").unlink()
    (sample,), rejected = outcome("tracking", tmp_path)
    assert (sample.sample_id, sample.visible) == ("set/boy/00001i", gray_png())
    assert rejected == [("boy/00000i", "missing visible mate")]


def test_tracking_a_set_without_its_visible_half_is_read_unpaired(tmp_path):
    tracking_folder(tmp_path)
    for file in (tmp_path / "boy" / "visible").iterdir():
        file.unlink()
    (tmp_path / "boy" / "visible").rmdir()
    samples, rejected = outcome("tracking", tmp_path)
    assert [(sample.visible, "visible_frame" in sample.facts) for sample in samples] == [(b"", False)] * 2
    assert rejected == []


@pytest.mark.parametrize(
    ("visible", "size", "facts"),
    [
        ("10,6,8,20", WIDTH, {"visible_frame": "aligned"}),
        ("nan,nan,nan,nan", WIDTH, {"visible_frame": "aligned"}),
        ("20,5,8,20.5", WIDTH, {"visible_frame": "unaligned", "visible_box": "20,5,28,25.5"}),
        ("10,5,8,20", WIDTH + 8, {"visible_frame": "unaligned", "visible_box": "10,5,18,25"}),
        ("0,0,0,0", WIDTH + 8, {"visible_frame": "unaligned"}),
    ],
)
def test_tracking_visible_frames_that_do_not_lie_on_the_infrared_ones_are_said(visible, size, facts, tmp_path):
    tracking_folder(tmp_path, visible=f"{visible}\n1,1,5,5\n")
    put(tmp_path / "boy" / "visible" / "00000v.png", colour_png(size))
    sample = outcome("tracking", tmp_path)[0][0]
    assert {key: value for key, value in sample.facts.items() if key.startswith("visible")} == facts


def vtuav_folder(root: Path, frames: int, lines: int) -> None:
    for number in range(frames):
        for camera in ("ir", "rgb"):
            put(root / "train_ST_004" / "car_133" / camera / f"{number + 7:06}.jpg", gray_png())
    for name in ("ir.txt", "rgb.txt"):
        put(
            root / "train_ST_004" / "car_133" / name,
            "".join(f"{number} 1 5 5 0 0 0 0\n" for number in range(lines)),
        )


def test_vtuav_a_line_stands_for_ten_frames(tmp_path):
    vtuav_folder(tmp_path, 22, 3)
    samples, rejected = outcome("tracking", tmp_path, keep_every=5, naming="tracked_class")
    assert [sample.boxes for sample in samples] == [
        (pixels("car", 0, 1, 5, 6),),
        (),
        (pixels("car", 1, 1, 6, 6),),
        (),
        (pixels("car", 2, 1, 7, 6),),
    ]
    assert [sample.facts.get("annotation", "") for sample in samples] == ["", "none", "", "none", ""]
    assert [sample.facts["frame"] for sample in samples] == ["0", "5", "10", "15", "20"]
    assert {(sample.split, sample.group) for sample in samples} == {("train", "set/car_133")}
    assert rejected == []


@pytest.mark.parametrize(
    ("frames", "lines", "boxes", "rejected"),
    [(3, 3, 3, []), (22, 2, 2, ["frame without line"]), (20, 3, 2, ["line without frame"] * 2)],
)
def test_vtuav_counts_that_are_off_by_one_keep_the_pairing(frames, lines, boxes, rejected, tmp_path):
    vtuav_folder(tmp_path, frames, lines)
    samples, found = outcome("tracking", tmp_path)
    assert [sample.boxes[0].x1 for sample in samples if sample.boxes] == list(range(boxes))
    assert [reason for _, reason in found] == rejected


def test_gtot_opposite_corners_come_in_any_order(tmp_path):
    for number in range(2):
        put(tmp_path / "BlackCar" / "i" / f"0000{number}_i.png", gray_png())
        put(tmp_path / "BlackCar" / "v" / f"0000{number}_v.png", gray_png())
    put(tmp_path / "BlackCar" / "groundTruth_i.txt", "18 25 10 5\n10 5 18 25\n")
    put(tmp_path / "BlackCar" / "groundTruth_v.txt", "10 25 18 5\n10 5 18 25\n")
    samples, rejected = outcome("tracking", tmp_path, naming="tracked_class")
    assert [sample.boxes for sample in samples] == [(pixels("object", 10, 5, 18, 25),)] * 2
    assert [sample.facts["visible_frame"] for sample in samples] == ["aligned"] * 2
    assert rejected == []


def lsotb_folder(root: Path, xml: str, sequence: str = "TIR_training_003/fox_026") -> Path:
    for stem in ("00000001", "00000002"):
        put(root / "TrainingData" / sequence / f"{stem}.jpg", gray_png())
        put(root / "Annotations" / sequence / f"{stem}.xml", xml if stem == "00000001" else voc_xml())
    return root


def test_lsotb_training_xml_names_objects_and_the_folder_names_the_rest(tmp_path):
    lsotb_folder(tmp_path, voc_xml().replace("Person", "1"))
    samples, rejected = outcome("tracking", tmp_path, naming="tracked_class")
    assert [sample.boxes for sample in samples] == [(pixels("fox", 1, 2, 11, 22),), (pixels("person", 1, 2, 11, 22),)]
    assert samples[0].sample_id == "set/TrainingData/TIR_training_003/fox_026/00000001"
    assert (samples[0].group, samples[0].facts["annotated"]) == ("set/fox_026", "target only")
    assert rejected == []


@pytest.mark.parametrize(
    ("xml", "reason"),
    [
        (voc_xml()[:-5], "malformed XML"),
        (voc_xml(head='<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hostname">]>', name="&a;"), "unsafe XML"),
        (voc_xml(head="<!DOCTYPE x>"), "unsafe XML"),
        (voc_xml(box=(1, "nan", 11, 22)), "degenerate box"),
        (voc_xml(box=(11, 2, 1, 22)), "degenerate box"),
        (voc_xml(box=(1, 2, None, 22)), "unreadable box"),
        (voc_xml(box=(1, 2, 400, 22)), "box outside image"),
        (voc_xml().replace("Person", " "), "unknown class"),
        (
            voc_xml().replace("<object>", "<size><width>9</width><height>9</height></size><object>"),
            "size mismatch",
        ),
    ],
)
def test_lsotb_a_bad_xml_file_rejects_its_frame_and_no_other(xml, reason, tmp_path):
    samples, rejected = outcome("tracking", lsotb_folder(tmp_path, xml))
    assert [sample.origin[-12:] for sample in samples] == ["00000002.jpg"]
    assert rejected == [("TrainingData/TIR_training_003/fox_026/00000001", reason)]


def test_lsotb_halves_without_each_other_are_rejected_by_sequence(tmp_path):
    lsotb_folder(tmp_path, voc_xml())
    put(tmp_path / "TrainingData" / "part" / "cat_001" / "00000001.jpg", gray_png())
    put(tmp_path / "Annotations" / "part" / "cow_001" / "00000001.xml", voc_xml())
    put(tmp_path / "Annotations" / "TIR_training_003" / "fox_026" / "00000009.xml", voc_xml())
    samples, rejected = outcome("tracking", tmp_path)
    assert len(samples) == 2
    assert rejected == [
        ("Annotations/part/cow_001", "missing image"),
        ("TrainingData/TIR_training_003/fox_026/00000009", "missing image"),
        ("TrainingData/part/cat_001", "missing annotation"),
    ]


@pytest.mark.parametrize("file", ["groundtruth_rect.txt", "anno/0001.xml"])
def test_lsotb_evaluation_frames_lie_in_img(file, tmp_path):
    put(tmp_path / "person_D_004" / "img" / "0001.jpg", gray_png())
    put(tmp_path / "person_D_004" / file, voc_xml() if file.endswith("xml") else "1,2,10,20\n")
    (sample,), rejected = outcome("tracking", tmp_path, naming="tracked_class")
    assert (sample.boxes, sample.visible, rejected) == ((pixels("person", 1, 2, 11, 22),), b"", [])


def test_tracking_frames_are_numbered_and_drawn_before_any_is_opened(tmp_path):
    for number in range(12):
        put(tmp_path / "cat_001" / f"{number}.jpg", b"")
    put(tmp_path / "cat_001" / "groundtruth_rect.txt", "1,1,5,5\n" * 12)
    kept = [item.record for item in listed("tracking", tmp_path, keep_every=5)]
    assert kept == ["cat_001/0", "cat_001/5", "cat_001/10"]


def test_tracking_sequences_of_one_name_are_two_samples_of_one_group(tmp_path):
    for part in ("part_1", "part_2"):
        put(tmp_path / part / "dog_002" / "0001.jpg", gray_png())
        put(tmp_path / part / "dog_002" / "groundtruth_rect.txt", "1,1,5,5\n")
    samples, rejected = outcome("tracking", tmp_path)
    assert (names(samples), rejected) == (["part_1/dog_002/0001", "part_2/dog_002/0001"], [])
    assert {sample.group for sample in samples} == {"set/dog_002"}


# FLIR ADAS v1


def test_flir_json_reads_numbers_written_as_text_and_the_released_class_numbers(tmp_path):
    entries = [flir_entry(category_id=number, bbox=[1, 2, 3, 4]) for number in ("2", 3, "17", "18", 91)]
    flir_folder(tmp_path, flir_text(flir_entry(), *entries))
    (first, _), rejected = outcome("flir_json", tmp_path, naming="flir")
    assert [box.category for box in first.boxes] == ["person", "bicycle", "car", "dog", "dog", "other vehicle"]
    assert first.boxes[0] == pixels("person", 1, 2, 11, 22)
    assert (first.sample_id, first.group, first.split) == ("set/FLIR_00101", "set/FLIR_001xx", "train")
    assert rejected == []


def test_flir_json_class_numbers_of_the_release_overrule(tmp_path):
    flir_folder(tmp_path, flir_text(flir_entry(category_id=17)))
    put(tmp_path / "training" / "catids.json", json.dumps([{"id": 17, "name": "Cat"}]))
    assert outcome("flir_json", tmp_path)[0][0].boxes[0].category == "cat"


@pytest.mark.parametrize("text", ["[", "{}", '[{"id": 1}]', "null", f"[{'9' * 5000}]"])
def test_flir_json_class_numbers_that_cannot_be_used_name_the_file(text, tmp_path):
    flir_folder(tmp_path)
    put(tmp_path / "catids.json", text)
    with pytest.raises(MalformedFile, match="catids.json: "):
        listed("flir_json", tmp_path)


def test_flir_json_crowds_are_counted_and_frames_without_a_file_are_not_annotated(tmp_path):
    flir_folder(tmp_path, flir_text(flir_entry(), flir_entry(iscrowd="1")))
    (tmp_path / "training" / "Annotations" / "FLIR_00102.json").unlink()
    (first, second), rejected = outcome("flir_json", tmp_path, counted=("person",))
    assert (len(first.boxes), first.facts["crowd"], first.counted) == (1, "1", "")
    assert (second.facts["annotation"], second.counted, rejected) == ("none", "", [])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "malformed JSON"),
        ("[" * 100_000, "malformed JSON"),
        (b"\xff\xfe\xff", "malformed JSON"),
        ("[]", "malformed annotation"),
        ("{}", "malformed annotation"),
        ('{"annotation": [3]}', "malformed annotation"),
        (flir_text(flir_entry(iscrowd="maybe")), "malformed annotation"),
        (flir_text(flir_entry(category_id="77")), "unknown class"),
        (flir_text(flir_entry(category_id=None)), "unknown class"),
        (flir_text(flir_entry(bbox=[1, 2, 3])), "unreadable box"),
        (flir_text(flir_entry(bbox=None)), "unreadable box"),
        (flir_text(flir_entry(bbox=[1, 2, float("nan"), 4])), "degenerate box"),
        (flir_text(flir_entry(bbox=[1, 2, -3, 4])), "degenerate box"),
        (flir_text(flir_entry(bbox=[1, 2, 300, 4])), "box outside image"),
        (flir_text(flir_entry(), name="FLIR_00102"), "missing image"),
        (flir_text(flir_entry(), name="../FLIR_00101"), "unsafe path"),
        (flir_text().replace(str(WIDTH), "640"), "size mismatch"),
    ],
)
def test_flir_json_a_bad_file_rejects_its_frame_and_no_other(text, reason, tmp_path):
    flir_folder(tmp_path, text)
    samples, rejected = outcome("flir_json", tmp_path)
    assert (names(samples), rejected) == (["FLIR_00102"], [("FLIR_00101", reason)])


def test_flir_json_annotations_without_frame_and_repeated_names_are_rejected(tmp_path):
    flir_folder(tmp_path)
    put(tmp_path / "training" / "Annotations" / "FLIR_00900.json", flir_text(name="FLIR_00900"))
    put(tmp_path / "training" / "thermal_8_bit" / "FLIR_00101.png", gray_png())
    put(tmp_path / "validation" / "PreviewData" / "FLIR_00102.jpeg", gray_png())
    put(tmp_path / "validation" / "PreviewData" / "FLIR_08863.jpeg", gray_png())
    samples, rejected = outcome("flir_json", tmp_path)
    assert [(sample.sample_id, sample.split) for sample in samples][2:] == [("set/FLIR_08863", "val")]
    assert rejected == [
        ("FLIR_00101", "duplicate id"),
        ("FLIR_00900", "missing image"),
        ("set/FLIR_00102", "duplicate id"),
    ]


def test_flir_json_prefers_the_8_bit_frames_and_pairs_the_other_camera_unaligned(tmp_path):
    flir_folder(tmp_path)
    put(tmp_path / "training" / "thermal_16_bit" / "FLIR_00101.tiff", b"raw")
    put(tmp_path / "training" / "RGB" / "FLIR_00101.jpg", colour_png(WIDTH + 8))
    (first, second), rejected = outcome("flir_json", tmp_path)
    assert (first.visible, first.facts["visible_frame"]) == (colour_png(WIDTH + 8), "unaligned")
    assert (second.visible, "visible_frame" in second.facts) == (b"", False)
    assert rejected == []


def test_flir_json_without_a_file_a_frame_points_to_the_other_formats(tmp_path):
    put(tmp_path / "train" / "thermal_8_bit" / "FLIR_00001.jpeg", gray_png())
    with pytest.raises(MissingData, match="thermal_annotations.json is the format coco"):
        listed("flir_json", tmp_path)


# Parts


def test_names_of_sequences_tell_the_class():
    told = {
        "fox_026": "fox",
        "person_D_004": "person",
        "sheep_goat_020": "sheep",
        "Drone_boat_018": "boat",
        "Drone_person_boat_tracking_002": "person",
        "drone_D_001": "drone",
        "car_HH-012": "car",
        "boyleft2": "",
        "10runone": "",
        "00000186": "",
    }
    assert {name: tracked_class(name).facts.get("category", "") for name in told} == told
    assert flir_name("FLIR_video_00012") == ("FLIR_video", {"frame": "12"})


def test_frames_are_ordered_by_number_and_known_by_it():
    files = [Path(f"i{number}.jpg") for number in (10, 9, 1)]
    assert [file.name for file in sorted(files, key=frame_order)] == ["i1.jpg", "i9.jpg", "i10.jpg"]
    assert frame_number(Path("00012v.jpg")) == frame_number(Path("i000012.jpg")) == (12,)


def test_boxes_are_clipped_where_half_of_them_stays():
    inner, beyond = clipped((pixels("car", -5, 0, 5, 10), pixels("car", 1, 1, 3, 3)), WIDTH, HEIGHT)
    assert (inner, beyond) == ((pixels("car", 0, 0, 5, 10), pixels("car", 1, 1, 3, 3)), 1)
    with pytest.raises(RecordError, match="box outside image"):
        clipped((pixels("car", -6, 0, 5, 10),), WIDTH, HEIGHT)
    with pytest.raises(RecordError, match="box outside image"):
        clipped((pixels("car", 50, 0, 60, 10),), WIDTH, HEIGHT)


def test_a_line_is_read_as_its_layout_writes_it():
    assert line_box("1, 2,\t3 4,", RGBT, "car", "line 1") == pixels("car", 1, 2, 4, 6)
    assert line_box("4 6 1 2", GTOT, "car", "line 1") == pixels("car", 1, 2, 4, 6)
    assert line_box("1 2 3 4 9 9 9 9", VTUAV, "car", "line 1") == pixels("car", 1, 2, 4, 6)


def test_lines_lose_blanks_and_a_byte_order_mark(tmp_path):
    assert read_lines(put(tmp_path / "a.txt", b"\xef\xbb\xbf1 2 \r\n\r\n3\n\n\n")) == ["1 2", "", "3"]
    with pytest.raises(RecordError, match="missing file"):
        read_lines(tmp_path / "b.txt")
