"""Path IV or V for each sample, with the reason: what decides, in which order, and what is measured."""

import io
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from irgpt_lib.irtd import routing
from irgpt_lib.irtd.captions import RULES
from irgpt_lib.irtd.record import Box, Sample, png_bytes
from irgpt_lib.irtd.routing import Route, back_to_rules, luminance, route, routed, visible_fault, with_route

DATA = Path(__file__).parents[2] / "shared" / "data"
NOISE = np.random.default_rng(0).integers(0, 256, (32, 40), dtype=np.uint8)
GOOD = png_bytes(NOISE)
PAIRED = Sample("s/1", "s", "tir", "scene", 40, 32, GOOD, visible=GOOD, boxes=(Box("car", 1, 1, 5, 5),))


def jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG")
    return buffer.getvalue()


def test_a_usable_pair_is_described_where_a_describer_is_configured():
    assert route(PAIRED, {}, describer=True) == Route("IV", "usable visible pair")
    assert route(PAIRED, {"s": "IV", "other": "V"}, describer=True).path == "IV"


def test_without_a_describer_rules_caption_and_the_reason_says_so():
    assert route(PAIRED, {}, describer=False) == Route("V", "no describer configured")


@pytest.mark.parametrize(
    ("change", "preferred", "reason"),
    [
        ({}, {"s": "V"}, "source is captioned by rules"),
        ({"kind": "crowd"}, {}, "kind is captioned by rules"),
        ({"kind": "montage"}, {}, "kind is captioned by rules"),
        ({"visible": b""}, {}, "no visible pair"),
        ({"visible": GOOD[:60]}, {}, "visible image unreadable"),
        ({"visible": b"no image"}, {}, "visible image unreadable"),
        ({"visible": png_bytes(NOISE // 6)}, {}, "visible image too dark"),
        ({"visible": png_bytes(np.full((8, 8), 255, np.uint8))}, {}, "visible image blown out"),
        ({"visible": png_bytes(np.full((8, 8), 120, np.uint8))}, {}, "visible image without contrast"),
        ({"visible": b"", "kind": "crowd"}, {"s": "V"}, "source is captioned by rules"),
    ],
)
@pytest.mark.parametrize("describer", [True, False])
def test_what_sends_a_sample_to_the_rules(change, preferred, reason, describer):
    chosen = route(replace(PAIRED, **change), preferred, describer=describer)
    assert (chosen.path, chosen.reason) == ("V", reason)


def test_a_route_that_is_none_is_refused():
    with pytest.raises(ValueError, match="registered for route 'VI'; known: IV, V"):
        route(PAIRED, {"s": "VI"}, describer=True)


def test_luminance_is_measured_by_hand():
    # 90 rows of 100 and 10 rows of 200; green alone counts 0.587 of 255
    two_levels = np.full((100, 100), 100, np.uint8)
    two_levels[90:] = 200
    assert luminance(png_bytes(two_levels)) == (100, 200, 0)
    green = np.zeros((4, 4, 3), np.uint8)
    green[..., 1] = 255
    assert luminance(png_bytes(green)).high == pytest.approx(0.587 * 255, abs=1)
    half = np.full((10, 10), 60, np.uint8)
    half[:5] = 250
    assert luminance(png_bytes(half)).blown_share == 0.5


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.repeat(np.arange(48, dtype=np.uint8), 10).reshape(48, 10), "visible image too dark"),
        (np.repeat(np.arange(0, 60, dtype=np.uint8), 10).reshape(60, 10), ""),
        (np.tile(np.array([100, 120], np.uint8), (10, 10)), "visible image without contrast"),
        (np.tile(np.array([100, 124], np.uint8), (10, 10)), ""),
        (np.tile(np.array([250, 250, 60, 60], np.uint8), (10, 10)), ""),
        (np.tile(np.array([250, 250, 60], np.uint8), (10, 10)), "visible image blown out"),
    ],
)
def test_thresholds_hold_on_both_sides(pixels, reason):
    assert visible_fault(png_bytes(pixels))[0] == reason


def test_a_large_image_is_measured_shrunk_and_a_jpeg_as_a_png():
    large = np.kron(NOISE, np.ones((40, 40), dtype=np.uint8))
    assert visible_fault(jpeg(large)) == ("", "")
    assert luminance(jpeg(large)) == pytest.approx(luminance(GOOD), abs=6)


def test_the_route_is_kept_as_facts_and_rules_caption_at_once():
    (kept,) = routed([replace(PAIRED, facts={"weather": "fog"})], {}, describer=False)
    assert kept.facts == {"weather": "fog", "route": "V", "route_reason": "no describer configured"}
    assert (kept.caption, kept.caption_path, kept.caption_by) == ("The image contains 1 car.", "V", RULES)
    (dark,) = routed([replace(PAIRED, visible=png_bytes(NOISE // 8))], {}, describer=True)
    assert dark.facts["route_detail"].startswith("95th percentile of luminance 3")
    assert with_route(dark, Route("IV", "usable visible pair")).facts == {
        "route": "IV",
        "route_reason": "usable visible pair",
    }


def test_a_sample_that_is_to_be_described_keeps_what_it_had():
    (kept,) = routed([PAIRED], {}, describer=True)
    assert replace(kept, facts={}) == PAIRED


def test_a_draft_that_came_to_nothing_goes_back_to_the_rules_and_stays_on_record():
    drafted = replace(PAIRED, caption="The sky is blue.", caption_draft="The sky is blue.", caption_state="draft")
    back = back_to_rules(drafted)
    assert (back.caption_path, back.caption_state, back.caption_draft) == ("V", "final", "The sky is blue.")
    assert back.facts["route_reason"] == "nothing of the draft holds for infrared"


def test_the_real_visible_images_are_usable():
    if not (DATA / "llvip").is_dir():
        pytest.skip("needs the real files of llvip in ../shared/data")
    files = [*sorted((DATA / "llvip" / "visible").iterdir()), *sorted((DATA / "visnir_scenes").glob("*/*_rgb.*"))[:8]]
    assert Counter(visible_fault(file.read_bytes()) for file in files) == {("", ""): 16}
    assert min(luminance(file.read_bytes()).high for file in files) > routing.DARKEST_95TH_PERCENTILE
