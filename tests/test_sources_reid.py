"""Re-identification folders: montages that only the person gives away, in blocks that never mix, and every bad file
said."""

import io
import json
import pickle
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from faulty_files import png_header, put
from matplotlib import colormaps
from PIL import Image

from irgpt_lib.irtd.record import Rejected, Sample, open_image
from irgpt_lib.irtd.sources.assembly import made
from irgpt_lib.irtd.sources.montage import (
    ANSWER_CELLS,
    BLOCK_IDENTITIES,
    CELL_HEIGHT,
    CELL_WIDTH,
    MONTAGES_PER_IDENTITY,
    Shot,
    blocks_of,
    cell_corners,
    compose,
    number_patch,
    plan_block,
)
from irgpt_lib.irtd.sources.reid import plain_identity, read_reid
from irgpt_lib.irtd.sources.source import MalformedFile, MissingData, Pending, Source
from irgpt_lib.tasks.reid import REID

SOURCE = Source(
    name="people",
    index=None,
    title="People",
    band="tir",
    paired=False,
    task="person re-identification",
    format="reid",
    folder="people",
    home="its owner",
    terms="unknown",
    what_belongs_there="Thermal/<identity>/ with idx/train_thermal_1.txt and idx/test_thermal_1.txt",
    kind="montage",
)
TRAIN, TEST = "idx/train_thermal_1.txt", "idx/test_thermal_1.txt"


def person(identity: int, number: int = 0) -> bytes:
    """A small gray BMP of one gray level an identity, with a mark that tells the image."""
    pixels = np.full((16, 8), 20 + 12 * (identity % 19), dtype=np.uint8)
    pixels[number % 16, 4] = 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="BMP")
    return buffer.getvalue()


def regdb(root: Path, identities: int = 8, images: int = 2, lists: bool = True) -> Path:
    """Identities from 1, all listed for training."""
    names = []
    for identity in range(1, identities + 1):
        for number in range(images):
            names.append(f"Thermal/{identity}/t_{number:03d}_{identity}.bmp")
            put(root / names[-1], person(identity, number))
            put(root / names[-1].replace("Thermal", "Visible").replace("t_", "v_"), person(identity, number))
    if lists:
        # as released: the label starts at 0 and is no identity
        put(root / TRAIN, "".join(f"{name} {number // images}\n" for number, name in enumerate(names)))
        put(root / TEST, "")
    return root


def outcome(root: Path) -> tuple[list[Sample], list[tuple[str, str, str]]]:
    items = [made(found) for found in read_reid(root, SOURCE)]
    rejected = [(item.file, item.record, item.reason) for item in items if isinstance(item, Rejected)]
    return [item for item in items if isinstance(item, Sample)], rejected


def listed(root: Path) -> tuple[list[Pending], list[tuple[str, str, str]]]:
    items = list(read_reid(root, SOURCE))
    rejected = [(item.file, item.record, item.reason) for item in items if isinstance(item, Rejected)]
    return [item for item in items if isinstance(item, Pending)], rejected


def shown(found: Pending) -> list[str]:
    """The files of a montage's cells, by their last two names."""
    return ["/".join(shot.file.parts[-2:]) for shot in found.build.args[2].cells]


def plans_of(identities: int, images: int, cameras: int = 1, name: str = "block"):
    shots = {
        f"{i:04d}": [Shot(f"{i:04d}", f"cam{n % cameras}", Path(f"{i}/{n}.png")) for n in range(images)]
        for i in range(identities)
    }
    return list(plan_block(shots, name))


def cell_pixels(sample: Sample, cell: int) -> np.ndarray:
    left, top, right, bottom = cell_corners(cell)
    return np.asarray(open_image(sample.infrared, "test"))[top:bottom, left:right]


# Plans


def test_one_candidate_shows_the_person_of_cell_1_in_another_image_and_the_others_differ():
    for plan in plans_of(9, 3):
        query, *candidates = plan.cells
        assert [n for n, shot in enumerate(candidates, 2) if shot.identity == query.identity] == [plan.answer]
        assert plan.cells[plan.answer - 1].file != query.file
        assert len({shot.identity for shot in plan.cells}) == 7


@pytest.mark.parametrize("identities", [7, 20, 33])
def test_the_answer_is_balanced_over_the_seven_cells(identities):
    counts = Counter(plan.answer for plan in plans_of(identities, 10))
    assert set(counts) == set(ANSWER_CELLS)
    assert max(counts.values()) - min(counts.values()) <= 1


def test_neither_the_place_nor_the_former_answer_gives_the_answer_away():
    answers = [plan.answer for number in range(10) for plan in plans_of(12, 10, name=f"block {number}")]
    assert max(Counter(answers).values()) / len(answers) < 1 / 7 + 0.01
    repeats = np.mean(np.array(answers[1:]) == np.array(answers[:-1]))
    assert repeats < 1 / 7


def test_the_answer_comes_from_another_camera_and_the_camera_does_not_tell_it():
    for plan in plans_of(12, 6, cameras=2):
        cameras = [shot.camera for shot in plan.cells]
        assert cameras[plan.answer - 1] != cameras[0]
        assert len(set(cameras[1:])) == 1


def shots_of(cameras: dict[int, str], each: int = 2) -> dict[str, list[Shot]]:
    """Identity -> shots; `cameras` gives each identity its cameras, one letter each."""
    return {
        f"{i}": [Shot(f"{i}", camera, Path(f"{i}/{camera}{n}")) for camera in letters for n in range(each)]
        for i, letters in cameras.items()
    }


def test_a_camera_that_saw_too_few_others_never_takes_the_answer_while_another_can():
    for plan in plan_block(shots_of({i: "ab" if i < 3 else "b" for i in range(9)}), "block"):
        assert {shot.camera for shot in plan.cells[1:]} == {"b"}


def test_candidates_of_other_cameras_stand_in_any_cell():
    places = set()
    for number in range(20):
        for plan in plan_block(shots_of({i: "ab" if i < 4 else "cd" for i in range(8)}), f"block {number}"):
            camera = plan.cells[plan.answer - 1].camera
            assert camera != plan.cells[0].camera
            assert sum(shot.camera == camera for shot in plan.cells[1:]) == 4
            places |= {cell for cell, shot in enumerate(plan.cells[1:], 2) if shot.camera != camera}
    assert places == set(ANSWER_CELLS)


def test_an_identity_asks_at_most_ten_times_and_each_image_once():
    plans = plans_of(8, 25)
    assert set(Counter(plan.cells[0].identity for plan in plans).values()) == {MONTAGES_PER_IDENTITY}
    assert len({plan.cells[0].file for plan in plans}) == len(plans)


def test_the_same_block_has_the_same_plans_and_another_name_has_others():
    assert plans_of(8, 3) == plans_of(8, 3)
    assert plans_of(8, 3) != plans_of(8, 3, name="other")


@pytest.mark.parametrize(("count", "sizes"), [(7, [7]), (39, [39]), (40, [20, 20]), (206, [21] * 6 + [20] * 4)])
def test_blocks_part_the_identities_evenly_and_by_hash(count, sizes):
    identities = [f"{number:04d}" for number in range(count)]
    blocks = blocks_of(identities)
    assert [len(block) for block in blocks] == sizes
    assert sorted(identity for block in blocks for identity in block) == identities
    assert blocks == blocks_of(identities[::-1])
    assert count < 2 * BLOCK_IDENTITIES or blocks[0] != tuple(identities[: sizes[0]])


# Composition


def test_cells_stand_in_two_rows_of_four():
    corners = [cell_corners(cell)[:2] for cell in range(1, 9)]
    assert corners == [(128 * column, 256 * row) for row in range(2) for column in range(4)]
    montage = compose([Image.new("L", (8, 16), 20 * cell) for cell in range(1, 9)], numbered=False)
    assert montage.shape == (512, 512)
    for cell in range(1, 9):
        left, top, right, bottom = cell_corners(cell)
        assert set(np.unique(montage[top:bottom, left:right])) == {20 * cell}


def test_every_number_is_another_and_stands_in_its_cells_corner_only():
    cells = [Image.new("L", (CELL_WIDTH, CELL_HEIGHT), 128)] * 8
    plain, numbered = compose(cells, numbered=False), compose(cells)
    patches = [number_patch(cell) for cell in range(1, 9)]
    assert len({patch.tobytes() for patch in patches}) == 8
    changed = plain != numbered
    for cell, patch in enumerate(patches, start=1):
        left, top, _, _ = cell_corners(cell)
        window = (slice(top, top + patch.height), slice(left, left + patch.width))
        assert np.array_equal(numbered[window], np.asarray(patch))
        assert set(np.unique(patch)) == {0, 255}
        changed[window] = False
    assert not changed.any()


def test_a_coloured_cell_makes_the_montage_coloured():
    cells = [Image.new("L", (4, 4))] * 7 + [Image.new("RGB", (4, 4), (255, 0, 0))]
    assert compose(cells).shape == (512, 512, 3)
    with pytest.raises(ValueError, match="8 cells, not 7"):
        compose(cells[:7])


# Data sets


def test_a_montage_shows_the_files_that_its_facts_name(tmp_path):
    samples, rejected = outcome(regdb(tmp_path))
    assert (len(samples), rejected) == (16, [])
    for sample in samples:
        cells, identities = json.loads(sample.facts["cells"]), json.loads(sample.facts["identities"])
        assert all(cell.startswith(f"Thermal/{int(name)}/") for cell, name in zip(cells, identities, strict=True))
        assert [box.identity for box in sample.boxes] == [f"people/{identity}" for identity in identities]
        assert identities[sample.montage_answer - 1] == identities[0]
        for cell, identity in enumerate(identities, start=1):
            assert cell_pixels(sample, cell)[-1, -1] == 20 + 12 * int(identity)
        assert (sample.kind, sample.band, sample.width, sample.height) == ("montage", "tir", 512, 512)
        assert sample.origin == cells[0]
        assert (sample.group, sample.split, sample.facts["own_split"]) == ("people/train_000", "train", "train")
    question = REID.ask(samples[0], np.random.default_rng(0), [], [])
    assert question.answer == str(samples[0].montage_answer)
    assert len({sample.sample_id for sample in samples}) == 16


def test_numbers_can_be_left_out(tmp_path):
    root = regdb(tmp_path)
    plain, numbered = (
        [made(found) for found in list(read_reid(root, SOURCE, numbered=flag))[:2]] for flag in (False, True)
    )
    assert [sample.sample_id for sample in plain] == [sample.sample_id for sample in numbered]
    assert cell_pixels(numbered[0], 1)[0, 0] == 0
    assert cell_pixels(plain[0], 1)[0, 0] == 20 + 12 * 1


def test_listing_opens_no_image_and_is_the_same_again_and_for_other_processes(tmp_path):
    root = regdb(tmp_path)
    for file in root.rglob("*.bmp"):
        file.write_bytes(b"")
    first, second = list(read_reid(root, SOURCE)), list(read_reid(root, SOURCE))
    assert all(isinstance(found, Pending) for found in first)
    assert [found.record for found in first] == [found.record for found in second]
    assert pickle.loads(pickle.dumps(first[0])).record == first[0].record


def test_the_train_and_test_lists_never_mix(tmp_path):
    root = regdb(tmp_path, identities=14)
    lines = (root / TRAIN).read_text().splitlines(keepends=True)
    put(root / TRAIN, "".join(lines[:14]))
    put(root / TEST, "".join(lines[14:]))
    samples, rejected = outcome(root)
    assert (Counter(sample.split for sample in samples), rejected) == ({"train": 14, "test": 14}, [])
    for sample in samples:
        numbers = {int(identity) for identity in json.loads(sample.facts["identities"])}
        assert sample.group == f"people/{sample.split}_000"
        assert numbers <= (set(range(1, 8)) if sample.split == "train" else set(range(8, 15)))


def test_a_group_shares_no_identity_with_another(tmp_path):
    root = regdb(tmp_path, identities=45)
    owners: dict[str, set[str]] = {}
    for found in read_reid(root, SOURCE):
        _, _, plan, group, *_ = found.build.args
        for shot in plan.cells:
            owners.setdefault(shot.identity, set()).add(group)
    assert len(owners) == 45
    assert {len(groups) for groups in owners.values()} == {1}
    assert len(set.union(*owners.values())) == 2


def sysu(root: Path) -> Path:
    for identity in range(1, 9):
        for camera in ("cam1", "cam3", "cam6"):
            for number in (1, 2):
                name = f"{camera}/{identity:04d}/{number:04d}.jpg"
                image = Image.open(io.BytesIO(person(identity, number + 2 * (camera == "cam6"))))
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                image.convert("RGB").save(root / name, quality=95)
    put(root / "exp" / "train_id.txt", "1,2,3,4,5,6,7,8\n")
    put(root / "exp" / "val_id.txt", "\n")
    put(root / "exp" / "test_id.txt", "")
    return root


def test_sysu_shows_its_infrared_cameras_only_and_asks_across_them(tmp_path):
    pending, rejected = listed(sysu(tmp_path))
    assert (len(pending), rejected) == (32, [])
    samples = [made(found) for found in pending[::4]]
    for sample in samples:
        cameras = json.loads(sample.facts["cameras"])
        assert cameras[sample.montage_answer - 1] != cameras[0]
        assert set(cameras) == {"cam3", "cam6"}
        assert np.asarray(open_image(sample.infrared, "test")).ndim == 2
    assert samples[0].sample_id == "people/cam3_0001_0001"


def test_llcm_tells_the_camera_by_the_name_and_leaves_its_copies_out(tmp_path):
    lines = []
    for identity in range(1, 8):
        for number, camera in enumerate(("c05", "c06")):
            name = f"{identity:04d}/{identity:04d}_{camera}_s195701_f{number}_nir.jpg"
            lines.append(f"nir/{name} {identity - 1}\n")
            for folder in ("nir", "vis", f"test_nir/cam{camera[-1]}"):
                put(tmp_path / folder / name, person(identity, number))
    put(tmp_path / "idx" / "train_nir.txt", "".join(lines))
    put(tmp_path / "idx" / "test_nir.txt", "")
    samples, rejected = outcome(tmp_path)
    assert (len(samples), rejected) == (14, [])
    assert {cell.split("/")[0] for sample in samples for cell in json.loads(sample.facts["cells"])} == {"nir"}
    assert {camera for sample in samples for camera in json.loads(sample.facts["cameras"])} == {"c05", "c06"}


def test_thermal_world_is_parted_by_its_folders(tmp_path):
    for split, folder, first in (("train", "IR_8", 0), ("test", "IR", 8)):
        for identity in range(first, first + 7):
            for number in (0, 1):
                put(tmp_path / split / folder / str(identity) / f"{number}.png", person(identity, number))
    put(tmp_path / "test" / "IR" / "0" / "9.png", person(0, 9))
    samples, rejected = outcome(tmp_path)
    assert Counter(sample.split for sample in samples) == {"test": 14}
    # with identity 0 in both folders, the six that are left for training fill no montage
    assert [reason for _, _, reason in rejected] == ["identity in two splits", "too few identities"]


# Bad input


def without_file(root: Path, name: str) -> None:
    (root / name).unlink()


def rewritten(root: Path, name: str, text: str | bytes) -> None:
    put(root / name, text)


def extended(root: Path, text: str) -> None:
    put(root / TRAIN, (root / TRAIN).read_text() + text)


@pytest.mark.parametrize(
    ("damage", "rejected"),
    [
        (
            partial(without_file, name="Thermal/8/t_001_8.bmp"),
            [(TRAIN, "line 16", "missing image"), ("Thermal/8", "0008", "single image of identity")],
        ),
        (
            partial(rewritten, name="Thermal/9/t_000_9.bmp", text=person(9)),
            [("Thermal/9", "0009", "identity in no list")],
        ),
        (
            partial(rewritten, name=TEST, text="Thermal/8/t_000_8.bmp 0\n"),
            [("Thermal/8", "0008", "identity in two splits")],
        ),
        (partial(extended, text="Thermal/77/t_000_77.bmp 3\n"), [(TRAIN, "0077", "identity without images")]),
        (partial(extended, text="../Thermal/1/t_000_1.bmp 3\n"), [(TRAIN, "line 17", "unsafe path")]),
        (partial(extended, text="/etc/passwd 3\n"), [(TRAIN, "line 17", "unsafe path")]),
        (partial(extended, text="7\n\n"), [(TRAIN, "line 17", "malformed line")]),
        (partial(extended, text="Thermal/1/no such image.bmp 0\n"), [(TRAIN, "line 17", "missing image")]),
        (partial(without_file, name=TEST), [(TEST, TEST, "missing list")]),
    ],
)
def test_what_is_wrong_with_lists_and_folders_is_rejected_once_and_the_rest_is_read(damage, rejected, tmp_path):
    root = regdb(tmp_path)
    damage(root)
    pending, found = listed(root)
    assert found == rejected
    lost = [record for _, record, reason in rejected if reason.startswith(("single", "identity in two"))]
    assert len(pending) == 2 * (8 - len(lost))
    assert not any(cell.startswith(f"{int(name)}/") for name in lost for found in pending for cell in shown(found))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty image"),
        (person(1)[:60], "unreadable image"),
        (b"GIF89a", "unreadable image"),
        (png_header(60_000, 60_000), "image too large"),
        (None, "missing file"),
    ],
)
def test_a_cell_that_cannot_be_read_rejects_its_montages_with_the_files_name(data, reason, tmp_path):
    root = regdb(tmp_path)
    pending = list(read_reid(root, SOURCE))
    bad = "Thermal/3/t_001_3.bmp"
    if data is None:
        without_file(root, bad)
    else:
        put(root / bad, data)
    affected = [found for found in pending if "3/t_001_3.bmp" in shown(found)]
    for found in [*affected[:3], *(found for found in pending[-3:] if found not in affected)]:
        item = made(found)
        assert isinstance(item, Rejected) == (found in affected)
        if isinstance(item, Rejected):
            assert (item.reason, bad in item.detail) == (reason, True)
            assert item.file.startswith("Thermal/")


def test_an_answer_with_the_pixels_of_the_query_is_no_question(tmp_path):
    root = regdb(tmp_path)
    put(root / "Thermal/2/t_001_2.bmp", person(2, 0))
    samples, rejected = outcome(root)
    assert [(record, reason) for _, record, reason in rejected] == [
        ("Thermal_2_t_000_2", "answer repeats query"),
        ("Thermal_2_t_001_2", "answer repeats query"),
    ]
    assert len(samples) == 14


def test_wide_and_pseudo_colour_cells_are_said_by_cell(tmp_path):
    root = regdb(tmp_path)
    gray = np.linspace(0, 255, 16 * 8).reshape(16, 8).astype(np.uint8)
    for identity, number, pixels in (
        (1, 0, gray.astype(np.uint16) * 50),
        (2, 0, colormaps["inferno"](gray, bytes=True)[..., :3]),
    ):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PNG")
        put(root / f"Thermal/{identity}/t_{number:03d}_{identity}.bmp", buffer.getvalue())
    samples, rejected = outcome(root)
    assert rejected == []
    for sample in samples:
        cells = json.loads(sample.facts["cells"])
        for fact, file in (("tone", "Thermal/1/t_000_1.bmp"), ("colour_mapped", "Thermal/2/t_000_2.bmp")):
            told = list(json.loads(sample.facts.get(fact, "{}")))
            assert told == [str(cell) for cell, name in enumerate(cells, 1) if name == file]
        ndim = np.asarray(open_image(sample.infrared, "test")).ndim
        assert ndim == (3 if "Thermal/2/t_000_2.bmp" in cells else 2)


def test_without_any_list_the_hash_parts_the_identities_and_the_absence_is_said(tmp_path):
    pending, rejected = listed(regdb(tmp_path, lists=False))
    assert rejected == [(TRAIN, TRAIN, "missing list"), (TEST, TEST, "missing list")]
    samples = [made(found) for found in pending[:2]]
    assert {(sample.group, sample.split, sample.facts.get("own_split")) for sample in samples} == {
        ("people/all_000", "", None)
    }


def test_sysu_entries_that_are_no_identity_are_rejected(tmp_path):
    root = sysu(tmp_path)
    put(root / "exp" / "train_id.txt", "1,2, 3,4,five,6,7,8,9" + "0" * 5000 + ",,\n")
    _, rejected = listed(root)
    place = "exp/train_id.txt"
    assert rejected[:2] == [(place, "entry 5", "malformed entry"), (place, "entry 9", "malformed entry")]
    assert {reason for _, _, reason in rejected[2:]} == {"identity in no list"}


def test_too_few_identities_for_a_montage_are_rejected_together(tmp_path):
    assert outcome(regdb(tmp_path, identities=6)) == (
        [],
        [("train", "0001, 0002, 0003, 0004, 0005, 0006", "too few identities")],
    )


def test_a_list_that_is_no_text_names_the_byte(tmp_path):
    root = regdb(tmp_path)
    put(root / TRAIN, b"Thermal/1/\xff")
    with pytest.raises(MalformedFile, match="not UTF-8 at byte 10"):
        list(read_reid(root, SOURCE))


@pytest.mark.parametrize("name", ["Visible/1/a.bmp", "Thermal/a.bmp", "Thermal/1/a.txt"])
def test_a_folder_without_infrared_images_of_identities_says_what_belongs_there(name, tmp_path):
    root = put(tmp_path / "people" / name, person(1)).parents[name.count("/")]
    with pytest.raises(MissingData, match="Expected: Thermal"):
        list(read_reid(root, SOURCE))


def test_numbers_of_identities_are_one_whatever_their_zeros():
    assert [plain_identity(name) for name in ("7", "0007", "12345", "x7", "٧", "9" * 5000)] == [
        "0007",
        "0007",
        "12345",
        "x7",
        "٧",
        "9" * 5000,
    ]
