"""The embedded world: the same for the same seed, true to its labels, and physical where infrared differs."""

import re
from dataclasses import replace
from functools import cache
from itertools import combinations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from irgpt_lib.irtd.record import BANDS, Box, Sample, check, frame_1000, png_bytes
from irgpt_lib.irtd.simulated import world
from irgpt_lib.irtd.simulated.describe import attributes, describe, phrases, quarter_counts
from irgpt_lib.irtd.simulated.materials import LUMA, MATERIALS, band_radiance, luminance
from irgpt_lib.irtd.simulated.sprites import ASPECT, ATTRIBUTES, CATEGORIES, IDENTITIES, pedestrian, resample, sprite

MIX = {"scene": 0.4, "pair": 0.2, "aerial": 0.12, "crowd": 0.12, "montage": 0.16}
COUNT = 400
Scenes = tuple[list[Sample], dict[str, np.ndarray]]


def generated(count: int, *, seed: int = 7, size: int = 64, mix: dict[str, float] = MIX) -> Scenes:
    batches = list(world.generate(count, seed=seed, size=size, mix=mix))
    views = {name: np.concatenate([getattr(r, name) for _, r in batches]) for name in ("visible", *BANDS)}
    return [sample for truths, _ in batches for sample in truths], views


@cache
def one_world() -> Scenes:
    return generated(COUNT)


def cut(image: np.ndarray, box: Box) -> np.ndarray:
    return image[int(box.y1) : int(box.y2), int(box.x1) : int(box.x2)]


def inside(sample: Sample, category: str | None = None) -> np.ndarray:
    mask = np.zeros((sample.height, sample.width), bool)
    for box in sample.boxes:
        if category in (None, box.category):
            cut(mask, box)[:] = True
    return mask


def drawn(kind: str, count: int, seed: int = 3) -> list[tuple[world.Canvas, Sample]]:
    rng = np.random.default_rng(seed)
    canvases = [world.Canvas.blank(rng, 64) for _ in range(count)]
    return [(canvas, world.DRAWERS[kind](canvas)) for canvas in canvases]


def test_the_same_seed_gives_the_same_bytes():
    (truths, views), (again, views_again) = generated(40), generated(40)
    assert truths == again
    assert all(views[name].tobytes() == views_again[name].tobytes() for name in views)


def test_another_seed_gives_other_scenes():
    truths, views = generated(40)
    others, other_views = generated(40, seed=8)
    assert not {s.sample_id for s in truths} & {s.sample_id for s in others}
    assert sum(a.boxes == b.boxes for a, b in zip(truths, others, strict=True)) == 0
    assert not np.array_equal(views["tir"], other_views["tir"])


def test_a_full_batch_is_the_same_however_many_scenes_follow_it():
    truths, views = one_world()
    first, first_views = generated(world.BATCH)
    assert first == truths[: world.BATCH]
    assert all(np.array_equal(first_views[name], views[name][: world.BATCH]) for name in views)


def test_every_scene_has_its_own_name_and_is_its_own_group():
    truths, views = one_world()
    assert len({s.sample_id for s in truths}) == len({s.group for s in truths}) == COUNT
    assert {len(view) for view in views.values()} == {COUNT}


def test_every_kind_of_scene_every_category_and_both_lights_appear():
    truths, _ = one_world()
    assert {s.kind for s in truths} == {"scene", "aerial", "crowd", "montage"}
    assert {b.category for s in truths if s.kind == "scene" for b in s.boxes} == set(CATEGORIES)
    assert {s.scene for s in truths if s.kind == "scene"} == set(world.SCENES)
    assert {s.facts["light"] for s in truths} == {"day", "night"}


def test_a_kind_with_no_share_does_not_appear():
    truths, _ = generated(60, mix={"crowd": 1.0, "aerial": 0.0})
    assert {s.kind for s in truths} == {"crowd"}


def test_every_simulated_sample_says_that_no_camera_took_it():
    truths, _ = one_world()
    assert {(s.source, s.authentic) for s in truths} == {("simulated", False)}


@pytest.mark.parametrize("size", [64, 66, 128])
def test_boxes_lie_inside_images_of_any_size_and_every_sample_passes_the_check(size):
    truths, views = generated(60, size=size)
    for sample, image in zip(truths, views["swir"], strict=True):
        check(replace(sample, infrared=png_bytes(image)))
        for box in sample.boxes:
            assert 0 <= box.x1 < box.x2 <= size and 0 <= box.y1 < box.y2 <= size


def test_a_larger_image_shows_larger_objects():
    sizes = {size: [b.area for s in generated(60, size=size)[0] for b in s.boxes] for size in (64, 128)}
    assert np.mean(sizes[128]) == pytest.approx(4 * np.mean(sizes[64]), rel=0.3)


@pytest.mark.parametrize("size", [8, 63])
def test_an_image_too_small_for_its_objects_is_refused(size):
    with pytest.raises(ValueError, match=f"from 64 px on, not {size}"):
        next(world.generate(1, seed=0, size=size, mix=MIX))


def test_an_unknown_kind_of_scene_is_an_error_that_lists_the_kinds():
    with pytest.raises(ValueError, match=r"unknown kind of scene \['space'\]; there are \['aerial', 'crowd'"):
        next(world.generate(1, seed=0, size=64, mix={"scene": 1.0, "space": 1.0}))


@pytest.mark.parametrize("kind, category", [("aerial", "car"), ("crowd", "person")])
def test_the_counted_boxes_are_the_objects_that_are_drawn(kind, category):
    """Each object takes four new regions, so that the label map tells which objects are to be seen, and where."""
    for canvas, sample in drawn(kind, 40):
        assert sample.counted == category and {b.category for b in sample.boxes} == {category}
        first = len(canvas.table) - 4 * len(sample.boxes)
        seen = np.where(canvas.labels >= first, (canvas.labels.astype(int) - first) // 4, -1)
        assert set(np.unique(seen)) - {-1} == set(range(len(sample.boxes)))
        homes = set()
        for number in range(len(sample.boxes)):
            rows, columns = np.nonzero(seen == number)
            corners = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            around = [
                b
                for b in sample.boxes
                if b.x1 <= corners[0] and b.y1 <= corners[1] and corners[2] <= b.x2 and corners[3] <= b.y2
            ]
            assert around, "part of an object lies outside every box"
            homes.update(around)
        assert len(homes) == len(sample.boxes)


@pytest.mark.parametrize("kind, most", [("aerial", 0.0), ("crowd", 0.1)])
def test_cars_from_above_stand_apart_and_pedestrians_cover_a_tenth_of_each_other_at_most(kind, most):
    for _, sample in drawn(kind, 40):
        for a, b in combinations(sample.boxes, 2):
            width, height = min(a.x2, b.x2) - max(a.x1, b.x1), min(a.y2, b.y2) - max(a.y1, b.y1)
            assert max(0, width) * max(0, height) <= most * max(a.area, b.area)


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_sprite_fills_four_fifths_of_its_box_or_more_from_side_to_side(category):
    parts = resample(sprite(category), 50, 50, False) > 0
    assert parts.any(0).mean() >= 0.8 and parts.any(1).mean() >= 0.8


def test_a_pair_has_two_categories_well_apart():
    samples = [sample for _, sample in drawn("pair", 60)]
    both = [s.boxes for s in samples if len(s.boxes) == 2]
    assert len(both) > 50, "room is found for almost every second object"
    for left, right in both:
        assert left.category != right.category
        assert right.centre[0] - left.centre[0] >= 0.22 * 64


def test_objects_of_a_scene_do_not_overlap_and_stand_from_left_to_right():
    for s in one_world()[0]:
        if s.kind == "scene":
            assert list(s.boxes) == sorted(s.boxes, key=lambda b: b.centre[0])
            assert inside(s).sum() == sum(b.area for b in s.boxes)


def test_exactly_one_of_the_cells_2_to_8_has_the_identity_of_cell_1():
    montages = [s for s in one_world()[0] if s.kind == "montage"]
    assert len(montages) > 40
    for s in montages:
        identities = [b.identity for b in s.boxes]
        assert len(identities) == 8
        assert [cell for cell in range(2, 9) if identities[cell - 1] == identities[0]] == [s.montage_answer]


def test_everyone_else_in_a_montage_differs_from_cell_1_in_two_traits_or_more():
    """Traits are the tones of upper and lower clothes, hat, bag and skirt."""
    for s in one_world()[0]:
        if s.kind == "montage":
            traits = [(*b.identity.split("-")[:2], *(a in b.identity for a in ATTRIBUTES)) for b in s.boxes]
            others = [t for cell, t in enumerate(traits[1:], 2) if cell != s.montage_answer]
            assert all(sum(p != q for p, q in zip(traits[0], t, strict=True)) >= 2 for t in others)


def test_each_crop_of_a_montage_lies_in_its_own_cell():
    for s in one_world()[0]:
        if s.kind == "montage":
            cells = [int(b.centre[0] // 16) + 4 * int(b.centre[1] // 32) + 1 for b in s.boxes]
            assert cells == list(range(1, 9))


def test_the_answers_of_the_montages_are_even():
    answers = [s.montage_answer for _, s in drawn("montage", 350)]
    counts = np.bincount(answers, minlength=9)[2:]
    assert set(answers) == set(range(2, 9))
    assert np.abs(counts - 50).max() < 4 * np.sqrt(350 * 6 / 49), "within four standard deviations of 50"


def test_visible_colour_tells_nothing_of_the_category():
    """A classifier on the mean colour within a box does no better than naming the most common category, within noise;
    the same one on the width and height of the box does, so that it could."""
    truths, views = one_world()
    pairs = [(v, b) for s, v in zip(truths, views["visible"], strict=True) if s.kind == "scene" for b in s.boxes]
    names = np.array([b.category for _, b in pairs])

    def accuracy(features: list[object]) -> float:
        model = make_pipeline(StandardScaler(), LogisticRegression())
        return float(np.mean(cross_val_predict(model, np.array(features), names, cv=5) == names))

    chance = max(np.unique(names, return_counts=True)[1]) / len(names)
    assert accuracy([cut(v, b).mean((0, 1)) for v, b in pairs]) < chance + 0.07
    assert accuracy([(b.x2 - b.x1, b.y2 - b.y1) for _, b in pairs]) > chance + 0.25


def test_painted_colours_are_drawn_without_regard_to_the_category():
    """The same random state gives the same body colour, whatever the object."""
    bodies = set()
    for category in CATEGORIES:
        canvas = world.Canvas(np.random.default_rng(1), 64, False, np.zeros((64, 64), np.uint8))
        regions = canvas.object_regions(category)
        bodies.add(tuple(canvas.table[regions[1]][:3].round(9)))
    assert len(bodies) == 1


def test_persons_are_warmer_than_their_surroundings_in_the_tir_but_not_brighter_in_the_visible():
    truths, views = one_world()
    shown = [i for i, s in enumerate(truths) if s.kind in ("scene", "crowd") and inside(s, "person").any()]
    gray = luminance(views["visible"].astype(float))

    def differences(images: np.ndarray) -> np.ndarray:
        masks = [(inside(truths[i], "person"), ~inside(truths[i])) for i in shown]
        return np.array([images[i][p].mean() - images[i][b].mean() for i, (p, b) in zip(shown, masks, strict=True)])

    warmth, brightness = differences(views["tir"]), differences(gray)
    assert warmth.mean() > 30 and np.mean(warmth > 0) > 0.95
    assert np.mean(brightness > 0) < 0.8


def test_nir_is_closest_to_the_visible_then_swir_then_tir():
    truths, views = one_world()
    gray = luminance(views["visible"].astype(float)).reshape(COUNT, -1)

    def likeness(band: str) -> float:
        pairs = zip(gray, views[band].reshape(COUNT, -1), strict=True)
        return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in pairs]))

    assert likeness("nir") > likeness("swir") + 0.2
    assert likeness("swir") > likeness("tir") + 0.2


def test_bands_use_their_range_and_are_not_constant():
    _, views = one_world()
    for name, view in views.items():
        assert view.std() > 20, name
        assert np.mean(view == 255) < 0.03 and np.mean(view == 0) < 0.03, f"{name} is cut off"


def test_radiance_follows_plancks_law():
    """A black body of 300 K gives 459 W/m2 over all angles and wavelengths, 38 % of it in 8-14 um: 55 W/m2/sr."""
    celsius = np.array([-20.0, 0.0, 26.85, 60.0])
    radiance = band_radiance(celsius)
    assert np.all(np.diff(radiance) > 0)
    assert radiance[2] == pytest.approx(459.3 * 0.376 / np.pi, rel=0.02)


def test_materials_are_physical_and_show_the_signs_of_their_class():
    for name, m in MATERIALS.items():
        assert all(0 <= share <= 1 for share in (*m.rgb, m.nir, m.swir, m.emissivity)), name
        assert m.night_celsius <= m.day_celsius or name == "water", name
    grass, water, skin = MATERIALS["grass"], MATERIALS["water"], MATERIALS["skin"]
    assert grass.nir > max(grass.rgb) and grass.nir > grass.swir, "red edge"
    assert max(water.nir, water.swir) <= 0.1
    assert skin.nir > 2 * skin.swir
    assert LUMA.sum() == pytest.approx(1)


def test_sprites_of_all_identities_differ_and_a_mirrored_sprite_is_mirrored():
    maps = [pedestrian(*identity) for identity in IDENTITIES]
    assert len({m.tobytes() for m in maps}) == 8
    small = resample(sprite("car"), 20, 12, False)
    assert small.shape == (12, 20)
    assert np.array_equal(resample(sprite("car"), 20, 12, True), small[:, ::-1])
    assert set(ASPECT) == set(CATEGORIES)


COLOUR = re.compile(r"\b(red|blue|green|yellow|orange|black|white|grey|gray|brown|colou?r\w*|bright|dark)\b", re.I)


def test_captions_name_no_colour():
    captions = [describe(s) for s in one_world()[0]]
    assert not [c for c in captions if COLOUR.search(c)]
    assert all(c.endswith(".") and c.isascii() for c in captions)


def test_a_caption_of_a_scene_names_every_object_with_its_place():
    for s in one_world()[0]:
        if s.kind == "scene":
            caption = describe(s)
            assert s.scene in caption and f"with {len(s.boxes)} object" in caption
            found = re.findall(r"; (\w+) at \((\d+), (\d+)\) on the (left|right)", caption)
            expected = [(b.category, frame_1000(b.centre[0], 64), frame_1000(b.centre[1], 64)) for b in s.boxes]
            assert [(name, int(x), int(y)) for name, x, y, _ in found] == expected
            assert [side for *_, side in found] == ["left" if b.centre[0] < 32 else "right" for b in s.boxes]


def test_a_caption_of_many_counts_all_and_each_quarter():
    for s in one_world()[0]:
        if s.kind in ("aerial", "crowd"):
            total, *quarters = map(int, re.findall(r"\d+", describe(s)))
            assert total == len(s.boxes) == sum(quarters)
            assert quarters == quarter_counts(s)


def test_a_caption_of_a_montage_names_what_each_crop_wears_and_the_answer():
    for s in one_world()[0]:
        if s.kind == "montage":
            caption = describe(s)
            listed = caption.partition(": ")[2].partition(";")[0].split(", ")
            assert listed == [attributes(b.identity) for b in s.boxes]
            assert caption.endswith(f"the person of crop 1 is in crop {s.montage_answer}.")


@pytest.mark.parametrize("identity, spoken", [("0-3", "plain"), ("1-2-hat", "hat"), ("0-0-hat-bag", "hat and bag")])
def test_the_attributes_are_read_from_the_identity(identity, spoken):
    assert attributes(identity) == spoken


def test_one_object_is_no_plural():
    one = Sample("", "", "nir", "scene", 64, 64, b"", scene="field", boxes=(Box("dog", 0.0, 0.0, 32.0, 32.0),))
    assert describe(one) == "A field with 1 object; dog at (250, 250) on the left."


def test_a_kind_without_a_caption_form_is_an_error():
    with pytest.raises(ValueError, match="no caption form for kind 'object'"):
        describe(Sample("", "", "nir", "object", 64, 64, b""))


def test_the_phrases_are_those_that_captions_use():
    captions = [describe(s) for s in one_world()[0]]
    unused = [p for p in phrases() if not any(p in c for c in captions)]
    assert unused == ["Describe this picture in detail."], "the prompt alone stands in no caption"
