"""Semantic cropping: known placements are found again, wrong ones refused, and every box moves with its crop."""

import io
import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from faulty_files import gray_png
from PIL import Image

from irgpt_lib.irtd.captions import with_rule_caption
from irgpt_lib.irtd.pairing import (
    SEMANTIC_CROP,
    Crops,
    Placement,
    Rectangle,
    apply_crops,
    corners_of,
    fit_placement,
    relative_place,
    semantic_crop,
    semantically_paired,
)
from irgpt_lib.irtd.record import Box, Point, RecordError, Sample, check, open_image, png_bytes
from irgpt_lib.irtd.sources import SOURCES, read, warp_box
from irgpt_lib.irtd.sources.flir import homography

INFRARED, VISIBLE = (320, 256), (640, 480)
TRUE = Placement(1.6, 40.0, 20.0)
REAL = Path(__file__).parents[2] / "shared" / "data"


def objects(rng: np.random.Generator, count: int, category: str = "car") -> list[Box]:
    left, top = rng.uniform(10, 250, count), rng.uniform(10, 190, count)
    return [Box(category, x, y, x + 40, y + 25) for x, y in zip(left.tolist(), top.tolist(), strict=True)]


def seen(boxes: list[Box], placement: Placement = TRUE, noise: float = 0.0, seed: int = 0) -> list[Box]:
    rng = np.random.default_rng(seed)
    shown = []
    for box in map(placement.to_visible, boxes):
        x1, y1, x2, y2 = (np.array([box.x1, box.y1, box.x2, box.y2]) + rng.normal(0, noise, 4)).tolist()
        shown.append(Box(box.category, x1, y1, x2, y2))
    return shown


def pixels(category: str, *corners: int) -> Box:
    return Box(category, *map(float, corners))


def truth() -> Crops:
    """By hand: the infrared frame maps to 40-552 x 20-429.6 of 640 x 480, so it is all seen."""
    return Crops(Rectangle(0, 0, 320, 256), Rectangle(40, 20, 552, 430))


# The rectangles


@pytest.mark.parametrize("count", [1, 2, 5, 20])
def test_a_known_placement_is_found_again(count):
    boxes = objects(np.random.default_rng(count), count)
    assert semantic_crop(boxes, seen(boxes), INFRARED, VISIBLE) == truth()


def test_the_wider_camera_is_cropped_whichever_it_is():
    boxes = objects(np.random.default_rng(0), 4)
    crops = semantic_crop(seen(boxes), boxes, VISIBLE, INFRARED)
    assert crops is not None
    assert np.abs(np.subtract(crops, truth()[::-1])).max() <= 1


def test_fields_that_overlap_in_part_keep_their_common_part():
    boxes = [pixels("car", 100, 100, 140, 130), pixels("car", 150, 60, 190, 85)]
    crops = semantic_crop(boxes, seen(boxes, Placement(2.0, -100.0, -60.0)), INFRARED, VISIBLE)
    # by hand: x from 50 to 370 and y from 30 to 270 is what the visible frame shows of the infrared one
    assert crops == Crops(Rectangle(50, 30, 320, 256), Rectangle(0, 0, 540, 452))


@pytest.mark.parametrize("seed", range(5))
def test_label_noise_objects_of_one_frame_only_and_another_order_do_no_harm(seed):
    rng = np.random.default_rng(seed)
    boxes = objects(rng, 6)
    shown = seen(boxes[:4], noise=1.5, seed=seed) + [pixels("car", 560, 430, 620, 470), pixels("dog", 5, 5, 30, 30)]
    crops = semantic_crop(boxes, shown[::-1], INFRARED, VISIBLE)
    assert crops is not None
    for box in boxes[:4]:
        before, after = (relative_place(b, frame) for b, frame in zip((box, TRUE.to_visible(box)), crops, strict=True))
        assert np.abs(before - after).max() < 0.03


def test_one_wrong_match_does_not_move_the_fit():
    boxes = objects(np.random.default_rng(3), 7)
    shown = [*seen(boxes)[:6], pixels("car", 10, 400, 80, 440)]
    fitted = fit_placement(corners_of(boxes), corners_of(shown))
    assert (fitted.scale, fitted.shift_x, fitted.shift_y) == pytest.approx((1.6, 40.0, 20.0), rel=0.05)


def test_objects_on_one_spot_are_fitted_too():
    boxes = [pixels("car", 100, 100, 140, 140)] * 6
    assert fit_placement(corners_of(boxes), corners_of(seen(boxes))).scale == pytest.approx(1.6)


CAR = pixels("car", 100, 100, 140, 130)


@pytest.mark.parametrize(
    ("infrared", "visible"),
    [
        pytest.param([], [CAR], id="nothing in infrared"),
        pytest.param([CAR], [], id="nothing in visible"),
        pytest.param([CAR], [replace(CAR, category="dog")], id="other category"),
        pytest.param([CAR], [CAR, replace(CAR, x1=300.0, x2=340.0)], id="one object and two of its kind"),
        pytest.param([replace(CAR, x1=0.0)], [CAR], id="cut at the border"),
        pytest.param([CAR], [replace(CAR, x2=540.0, y1=110.0, y2=115.0)], id="another shape"),
        pytest.param([CAR], [pixels("car", 10, 10, 630, 470)], id="too little left"),
    ],
)
def test_what_cannot_be_told_has_no_crop(infrared, visible):
    assert semantic_crop(infrared, visible, INFRARED, VISIBLE) is None


# The sample


def target(**facts: str) -> Sample:
    """A bright target of 40 x 25 pixels on both frames, where `TRUE` says."""
    infrared, visible = np.full((256, 320), 20, np.uint8), np.full((480, 640, 3), 20, np.uint8)
    infrared[100:125, 150:190] = 250
    visible[180:220, 280:344] = 250
    return Sample(
        sample_id="s/1",
        source="s",
        band="tir",
        kind="scene",
        width=320,
        height=256,
        infrared=png_bytes(infrared),
        visible=png_bytes(visible),
        boxes=(pixels("person", 150, 100, 190, 125),),
        facts={"visible_frame": "unaligned", "visible_box": "280,180,344,220"} | facts,
    )


def bright_centre(data: bytes) -> np.ndarray:
    bright = np.argwhere(np.asarray(Image.open(io.BytesIO(data)).convert("L")) > 200)
    return (bright.mean(axis=0) + 0.5) / np.asarray(Image.open(io.BytesIO(data)).size)[::-1]


def test_a_tracked_target_brings_both_frames_together():
    paired = check(semantically_paired(target()))
    assert paired.facts == {
        "visible_frame": SEMANTIC_CROP,
        "crop_infrared": "0,0,320,256",
        "crop_visible": "40,20,552,430",
    }
    assert np.abs(bright_centre(paired.infrared) - bright_centre(paired.visible)).max() < 0.005
    assert open_image(paired.visible, "").size == (512, 410)
    assert semantically_paired(paired) is paired


@pytest.mark.parametrize("frame", ["aligned", "crop", "unknown", SEMANTIC_CROP])
def test_any_other_frame_is_left_alone(frame):
    sample = target(visible_frame=frame)
    assert semantically_paired(sample) is sample


def test_a_sample_without_a_visible_image_is_left_alone():
    sample = replace(target(), visible=b"")
    assert semantically_paired(sample) is sample


def test_a_sample_that_nothing_brings_together_says_so():
    absent = replace(target(), boxes=())
    assert semantically_paired(absent).facts["semantic_crop"] == "impossible"
    assert semantically_paired(absent).infrared is absent.infrared


def test_objects_labelled_in_the_visible_frame_can_be_given():
    sample = replace(target(), boxes=tuple(objects(np.random.default_rng(0), 3)))
    assert semantically_paired(sample, seen(list(sample.boxes))).facts["crop_visible"] == "40,20,552,430"


@pytest.mark.parametrize(
    ("stated", "reason"),
    [
        ("1,2,3", "unreadable box"),
        ("a,b,c,d", "unreadable box"),
        ("9,9,3,3", "degenerate box"),
        ("nan,1,2,3", "degenerate box"),
    ],
)
def test_a_broken_visible_box_has_a_reason(stated, reason):
    with pytest.raises(RecordError) as error:
        semantically_paired(target(visible_box=stated))
    assert (error.value.reason, "s/1" in error.value.detail) == (reason, True)


def test_a_broken_visible_image_has_a_reason():
    with pytest.raises(RecordError, match="unreadable image.*s/1"):
        semantically_paired(replace(target(), visible=target().visible[:200]))


def test_boxes_and_points_move_and_those_mostly_outside_go():
    sample = replace(
        target(),
        boxes=(pixels("car", 90, 90, 130, 110), pixels("car", 190, 150, 240, 170), pixels("car", 250, 10, 280, 30)),
        points=(Point("person", 120.0, 100.0), Point("person", 5.0, 5.0)),
        counted="car",
        perceptual_hash="0123456789abcdef",
    )
    crops = Crops(Rectangle(100, 80, 200, 160), Rectangle(0, 0, 200, 160))
    moved = check(apply_crops(with_rule_caption(sample), crops))
    # three quarters of the first box stay, a tenth of the second
    assert moved.boxes == (pixels("car", 0, 10, 30, 30),)
    assert moved.points == (Point("person", 20.0, 20.0),)
    assert (moved.width, moved.height, moved.counted) == (100, 80, "")
    assert moved.caption == "The image contains 1 car and 1 person."
    assert moved.perceptual_hash != sample.perceptual_hash
    wide = apply_crops(sample, replace_infrared(crops, Rectangle(80, 80, 245, 180)))
    assert (len(wide.boxes), wide.counted, wide.caption) == (2, "car", "")


def replace_infrared(crops: Crops, frame: Rectangle) -> Crops:
    return crops._replace(infrared=frame)


@pytest.mark.parametrize(("mode", "kept"), [("L", "L"), ("RGB", "RGB"), ("P", "RGB"), ("1", "L"), ("RGBA", "RGB")])
def test_a_crop_is_gray_or_rgb(mode, kept):
    buffer = io.BytesIO()
    Image.open(io.BytesIO(gray_png(320, 256))).convert(mode).save(buffer, "PNG")
    paired = semantically_paired(replace(target(), infrared=buffer.getvalue()))
    assert open_image(paired.infrared, "").mode == kept


def test_the_true_crop_of_flir_frames_is_found_from_their_boxes():
    """RoadScene's crops were warped from the full frame by known homographies: an independent truth.

    These stretch x by a tenth more than y, which one scale for both axes cannot follow: hence the width of the bound.
    """
    root = REAL / "flir_roadscene"
    if not root.is_dir():
        pytest.skip("needs the real files of flir_roadscene in ../shared/data")
    transforms = json.loads((root / "ir_full_to_crop_transforms.json").read_text())
    found = []
    for crop in islice(read("flir_crop", root, SOURCES["flir_roadscene"]), 6):
        assert isinstance(crop, Sample)
        stem = crop.sample_id.split("/")[1].removesuffix("_crop")
        to_frame = np.linalg.inv(homography(transforms, stem))
        boxes = [warp_box(to_frame, box) for box in crop.boxes]
        cut = semantic_crop(boxes, crop.boxes, (640, 512), (crop.width, crop.height))
        if cut is not None:
            corners = np.array([[0, 0, 1], [crop.width, crop.height, 1]]) @ to_frame.T
            within = np.clip((corners[:, :2] / corners[:, 2:]).ravel(), 0, [640, 512, 640, 512])
            found.append(np.abs(np.array(cut.infrared) - within).max())
    assert len(found) == 6
    assert np.median(found) / 640 < 0.05
