"""From sources to a dataset: no content in two splits, no record unaccounted for."""

import json
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from faulty_files import gray_png, put
from hypothesis import given, settings
from hypothesis import strategies as st

from irgpt_lib import params
from irgpt_lib.irtd import accounts, assemble
from irgpt_lib.irtd.near_duplicates import leaks
from irgpt_lib.irtd.questions import Words, all_questions, words_of
from irgpt_lib.irtd.record import BANDS, Rejected, Sample, check, open_image, png_bytes
from irgpt_lib.irtd.shards import read_shards, shard_files, without_images
from irgpt_lib.irtd.simulated.dataset import simulated_samples, swap_captions
from irgpt_lib.irtd.simulated.describe import describe
from irgpt_lib.irtd.sources import MissingData, UnknownName
from irgpt_lib.irtd.sources.source import NotAuthentic

SCENES = {"pretrain": 150, "instruction": 120, "benchmark": 100}
SHARES = {"pretrain": 0.5, "instruction": 0.25, "benchmark": 0.25}
SIMULATED = params.SimulatedSource(
    size_px=64,
    scenes=SCENES,
    mix={"scene": 0.3, "pair": 0.3, "aerial": 0.1, "crowd": 0.1, "montage": 0.2},
    bands={"nir": 0.5, "swir": 0.25, "tir": 0.25},
    paired_share=0.7,
    swapped_caption_share=0.2,
)
NO_DESCRIBER = params.Describer(
    kind="none",
    model="",
    url="",
    key_variable="",
    concurrency=1,
    per_minute=1,
    max_tokens=1,
    adapt="rules",
    conversations=0,
)
CONFIG = params.Dataset(
    sources=["simulated"],
    authentic_only=False,
    raw_root="raw",
    workers=1,
    shard_records=50,
    keep_every={},
    near_duplicates=params.NearDuplicates(drop_distance=2, group_distance=6),
    enhancement=params.Enhancement(kind="clahe", weights=""),
    describer=NO_DESCRIBER,
    flavour="study",
    relations=["left"],
    seed=4,
    split_shares=SHARES,
    instruction_questions=180,
    benchmark_questions=90,
    max_rejected_share=0.05,
    simulated=SIMULATED,
)
FLIR = CONFIG.model_copy(update={"sources": ["flir_roadscene"]})
HEAD = "image_name,class_id,xmin,xmax,ymin,ymax\n"


@cache
def samples() -> tuple[Sample, ...]:
    return tuple(simulated_samples(SIMULATED, seed=4))


@cache
def words() -> Words:
    return words_of(samples())


@cache
def questions() -> pd.DataFrame:
    return all_questions([without_images(s) for s in samples()], CONFIG, words())


@cache
def written(folder: Path) -> assemble.Written:
    return assemble.write(iter(samples()), folder)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> assemble.Written:
    return written(tmp_path_factory.mktemp("dataset"))


def bare(name: str, **values: object) -> Sample:
    return Sample(name, "s", "tir", "scene", 8, 8, b"", **values)


def reject(reason: str, record: str = "1") -> Rejected:
    return Rejected("flir", "raw/labels.json", record, reason, "why")


def frame(number: int) -> bytes:
    """A frame unlike any other: coarse noise, which is what the hash sees."""
    coarse = np.random.default_rng(number).integers(0, 256, (12, 16), dtype=np.uint8)
    return png_bytes(np.kron(coarse, np.ones((8, 8), dtype=np.uint8)))


def flir(raw: Path, frames: dict[str, bytes]) -> Path:
    """The raw root with a source `flir_roadscene` of these frames, a person in each."""
    root = raw / "flir_roadscene"
    for stem, data in frames.items():
        put(root / "infrared" / f"{stem}.png", data)
    put(root / "boxes.csv", HEAD + "".join(f"{stem}.jpeg,1,1,11,2,22\n" for stem in frames))
    return raw


# The simulated source


def test_the_splits_have_the_scenes_that_were_asked_for():
    assert Counter(s.split for s in samples()) == SCENES


def test_every_sample_is_sound_captioned_and_says_that_no_camera_took_it():
    for s in samples():
        check(s)
        assert s.caption and s.caption_path == "simulated" and not s.authentic
        assert (s.caption_state, s.caption_by) == ("final", "simulated")
        assert open_image(s.infrared, s.sample_id).mode == "L"
        assert not s.visible or open_image(s.visible, s.sample_id).mode == "RGB"


def test_bands_and_pairs_occur_in_their_shares():
    n = len(samples())
    counts = Counter(s.band for s in samples())
    assert set(counts) == set(BANDS)
    assert abs(counts["nir"] - 0.5 * n) < 4 * np.sqrt(n * 0.25)
    assert abs(sum(bool(s.visible) for s in samples()) - 0.7 * n) < 4 * np.sqrt(n * 0.21)


def test_the_same_seed_gives_the_same_samples_and_another_seed_none_of_them():
    small = SIMULATED.model_copy(update={"scenes": dict.fromkeys(SCENES, 6)})
    assert simulated_samples(small, 1) == simulated_samples(small, 1)
    images = [{s.infrared for s in simulated_samples(small, seed)} for seed in (1, 2)]
    assert len(images[0]) == 18 and not images[0] & images[1]


def test_only_pretraining_captions_are_swapped_in_their_share_and_within_their_kind():
    by_id = {s.sample_id: s for s in samples()}
    swapped = [s for s in samples() if s.caption_from != s.sample_id]
    assert {s.split for s in swapped} == {"pretrain"}
    kinds = Counter(s.kind for s in samples() if s.split == "pretrain")
    assert Counter(s.kind for s in swapped) == {kind: round(0.2 * n) for kind, n in kinds.items()}
    for s in swapped:
        other = by_id[s.caption_from]
        assert (other.kind, other.split) == (s.kind, "pretrain")
        assert s.caption == describe(other)


def test_a_caption_that_is_not_swapped_describes_its_own_sample():
    own = [s for s in samples() if s.caption_from == s.sample_id]
    assert len(own) > 300 and all(s.caption == describe(s) for s in own)


def test_swapping_passes_each_caption_on_exactly_once():
    given_samples = [bare(f"s{i}", caption=f"c{i}", caption_from=f"s{i}") for i in range(10)]
    swapped = swap_captions(given_samples, 0.5, np.random.default_rng(0))
    assert sorted(s.caption for s in swapped) == sorted(s.caption for s in given_samples)
    assert sum(a.caption != b.caption for a, b in zip(given_samples, swapped, strict=True)) == 5
    assert all(s.caption == s.caption_from.replace("s", "c") for s in swapped)


@pytest.mark.parametrize("share, count", [(0.0, 10), (0.1, 10), (1.0, 1), (1.0, 0)])
def test_fewer_than_two_captions_cannot_be_swapped(share, count):
    given_samples = [bare(f"s{i}", caption=f"c{i}") for i in range(count)]
    assert swap_captions(given_samples, share, np.random.default_rng(0)) == given_samples


# Splits


@settings(max_examples=40, deadline=None, database=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=40), st.integers(0, 1000))
def test_no_group_is_ever_split(groups, seed):
    placed = assemble.splits_of([f"g{g}" for g in groups], SHARES, seed)
    assert len(set(zip(groups, placed, strict=True))) == len(set(groups)) and set(placed) <= set(SHARES)


def test_a_group_keeps_its_split_whatever_else_is_in_the_dataset():
    few = assemble.splits_of(["g1", "g2"], SHARES, 7)
    many = assemble.splits_of([*(f"h{i}" for i in range(50)), "g2", "g1"], SHARES, 7)
    assert few == many[:-3:-1]


def test_splits_come_in_their_shares_and_differ_by_seed():
    one, other = (assemble.splits_of([f"s{i}" for i in range(2000)], SHARES, seed) for seed in (0, 1))
    counts = Counter(one)
    for split, share in SHARES.items():
        assert abs(counts[split] - 2000 * share) < 4 * np.sqrt(2000 * share * (1 - share))
    assert sum(a != b for a, b in zip(one, other, strict=True)) > 500


def test_a_split_without_a_share_stays_empty():
    shares = {"pretrain": 1.0, "instruction": 0.0, "benchmark": 0.0}
    assert set(assemble.splits_of([f"s{i}" for i in range(200)], shares, 0)) == {"pretrain"}


# What is rejected


def test_too_many_rejected_records_are_counted_by_reason_with_the_first_and_the_cure():
    rejected = [reject("empty image", "7")] + [reject("size mismatch")] * 2
    with pytest.raises(assemble.TooManyRejected) as caught:
        assemble.check_rejected(rejected, accepted=7, max_share=0.2)
    message = str(caught.value)
    assert message.startswith("3 of 10 raw records were rejected")
    assert "max_rejected_share = 0.2" in message and "2 x size mismatch, 1 x empty image" in message
    assert "flir, raw/labels.json, 7: why" in message and "params.yaml" in message


def test_as_many_rejected_as_allowed_or_no_records_at_all_are_no_error():
    assert assemble.check_rejected([reject("x")], accepted=9, max_share=0.1) is None
    assert assemble.check_rejected([], accepted=0, max_share=0.0) is None


def test_simulated_scenes_do_not_hide_that_the_raw_records_are_bad(tmp_path):
    raw = flir(tmp_path / "raw", {"FLIR_00001": frame(1), "FLIR_00002": b""})
    few = SIMULATED.model_copy(update={"scenes": dict.fromkeys(SCENES, 20)})
    config = CONFIG.model_copy(update={"sources": ["simulated", "flir_roadscene"], "simulated": few})
    with pytest.raises(assemble.TooManyRejected, match="1 of 2 raw records"):
        assemble.gather(config, raw, tmp_path / "build")


def test_a_source_that_nobody_knows_is_an_error_that_lists_those_there_are(tmp_path):
    with pytest.raises(UnknownName, match="kaist_nowhere.*llvip"):
        assemble.gather(CONFIG.model_copy(update={"sources": ["kaist_nowhere"]}), tmp_path, tmp_path)


def test_all_absent_folders_are_named_at_once_before_any_is_read(tmp_path):
    raw = flir(tmp_path / "raw", {"FLIR_00001": frame(1)})
    config = CONFIG.model_copy(update={"sources": ["flir_roadscene", "kaist", "llvip"]})
    with pytest.raises(MissingData, match="(?s)kaist: .*no such folder.*llvip: .*take them out of dataset.sources"):
        assemble.gather(config, raw, tmp_path / "build")
    assert not (tmp_path / "build").exists()


def test_simulated_images_never_enter_a_dataset_of_authentic_ones(tmp_path):
    with pytest.raises(NotAuthentic, match="simulated"):
        assemble.gather(CONFIG.model_copy(update={"authentic_only": True}), tmp_path, tmp_path)


def test_the_profile_paper_takes_authentic_images_only():
    assert params.load("dataset", profile="paper").dataset.authentic_only


# Gathering, planning, writing


def test_the_simulated_source_arrives_whole_in_its_own_splits(tmp_path):
    gathered = assemble.gather(CONFIG, tmp_path / "raw", tmp_path / "build")
    decided = assemble.plan(gathered, CONFIG)
    assert tuple(assemble.planned_samples(gathered, decided)) == samples()
    assert gathered.rejected == [] and decided.dropped == []


def test_a_repeated_frame_is_dropped_and_its_group_shares_the_split_of_the_first(tmp_path):
    numbers = range(0, 1000, 100)  # each its own group in FLIR's names
    frames = {f"FLIR_{n:05}": frame(n) for n in numbers} | {"FLIR_09900": frame(300), "FLIR_09901": frame(1)}
    gathered = assemble.gather(FLIR, flir(tmp_path / "raw", frames), tmp_path / "build")
    decided = assemble.plan(gathered, FLIR)
    assert [(d.record, d.reason) for d in decided.dropped] == [("flir_roadscene/FLIR_09900", "near-duplicate")]
    by_id = dict(zip(gathered.index["sample_id"], decided.fate.itertuples(), strict=True))
    first, neighbour = by_id["flir_roadscene/FLIR_00300"], by_id["flir_roadscene/FLIR_09901"]
    assert (first.split, first.group) == (neighbour.split, neighbour.group)
    assert len(list(assemble.planned_samples(gathered, decided))) == len(frames) - 1


def test_an_id_that_came_before_is_dropped(tmp_path):
    gathered = assemble.gather(FLIR, flir(tmp_path / "raw", {"FLIR_00001": frame(1)}), tmp_path / "build")
    twice = assemble.Gathered(gathered.shards * 2, pd.concat([gathered.index] * 2, ignore_index=True), [])
    decided = assemble.plan(twice, FLIR)
    assert decided.fate["keep"].tolist() == [True, False]
    assert [d.reason for d in decided.dropped] == ["duplicate id"]


def test_a_source_may_be_read_at_a_lower_frame_rate():
    config = CONFIG.model_copy(update={"keep_every": {"vtuav": 7}})
    assert assemble.raw_source("vtuav", config).keep_every == 7
    assert assemble.raw_source("vtuav", CONFIG).keep_every == 100


def test_what_is_written_is_what_was_given_each_split_in_its_shards(dataset, tmp_path):
    folder = tmp_path / "out"
    assemble.write(iter(samples()), folder)
    back = {s.sample_id: s for s in read_shards(shard_files(folder))}
    assert back == {s.sample_id: s for s in samples()}
    for file in shard_files(folder):
        assert {s.split for s in read_shards([file])} == {file.stem.partition("-")[0]}


def test_the_overview_and_the_samples_to_ask_about_are_those_written(dataset):
    assert Counter(dataset.overview["split"]) == SCENES
    assert dataset.asked == [without_images(s) for s in samples() if s.split != "pretrain"]
    assert dataset.words == words()
    assert dataset.overview["swapped"].sum() == sum(s.caption_from != s.sample_id for s in samples())


def test_only_swapped_captions_contradict_their_labels(dataset):
    assert len(dataset.disagreements) > 3 and dataset.disagreements["swapped"].all()


def test_the_simulated_dataset_leaks_nothing_and_a_planted_twin_is_found(dataset, tmp_path):
    assert leaks(dataset.leak_columns, 6, questions()) == []
    planted = next(s for s in samples() if s.split == "pretrain")
    twin = replace(planted, sample_id="twin", split="benchmark")
    found = leaks(assemble.write(iter([*samples(), twin]), tmp_path).leak_columns, 6)
    assert {(leak.kind, leak.splits) for leak in found} >= {
        ("group", ("benchmark", "pretrain")),
        ("infrared", ("benchmark", "pretrain")),
    }


def test_samples_are_found_again_with_their_images(tmp_path):
    assemble.write(iter(samples()), tmp_path)
    wanted = [samples()[5], samples()[200]]
    found = assemble.with_images(tmp_path, [s.sample_id for s in wanted])
    assert sorted(found, key=lambda s: s.sample_id) == sorted(wanted, key=lambda s: s.sample_id)


def test_a_broken_stream_leaves_no_shard(tmp_path):
    def broken():
        yield samples()[0]
        raise ValueError("amid")

    with pytest.raises(ValueError, match="amid"):
        assemble.write(broken(), tmp_path)
    assert list(tmp_path.iterdir()) == []


# The account


def test_the_account_adds_up(dataset):
    rejected = [reject("empty image"), reject("empty image"), reject("near-duplicate")]
    found = accounts.account(dataset.overview, rejected, questions())
    n = sum(SCENES.values())
    assert found["samples"] == found["authentic"] + found["simulated"] == found["simulated"] == n
    for part in ("sources", "splits", "bands", "caption_paths", "caption_states"):
        assert sum(found[part].values()) == n
    assert found["splits"] == SCENES and found["captioned"] == n and 0 < found["paired"] < n
    assert found["swapped_captions"] == sum(s.caption_from != s.sample_id for s in samples()) > 0
    assert sum(sum(tasks.values()) for tasks in found["questions"].values()) == len(questions())
    assert found["rejected"] == {"empty image": 2, "near-duplicate": 1} and found["near_duplicates"] == 1
    assert json.loads(json.dumps(found)) == found


def test_the_column_of_table_1_says_simulated_where_any_image_is(dataset):
    found = accounts.account(dataset.overview, [], questions())
    column = accounts.table1_column(found)
    asked = questions()["split"]
    assert column[:5] == ["150", str(sum(asked == "instruction")), str(sum(asked == "benchmark")), "1", "9"]
    assert "no, simulated" in column and "not measured" in column
    real = accounts.account(dataset.overview.assign(authentic=True), [], questions())
    assert "no, simulated" not in accounts.table1_column(real)
    assert "0 near-duplicates dropped" in accounts.table1_column(real)


@pytest.mark.parametrize("count", [1, 6, 8, 12])
def test_the_gallery_shows_that_many_different_samples_of_every_band(count):
    shown = accounts.gallery(samples(), count)
    assert len(shown) == count and shown["sample_id"].is_unique
    assert count < 6 or set(shown["band"]) == set(BANDS)


def test_a_frame_of_zeros_is_no_near_duplicate_of_another(tmp_path):
    frames = {"FLIR_00001": gray_png(value=3), "FLIR_00101": gray_png(value=200)}
    gathered = assemble.gather(FLIR, flir(tmp_path / "raw", frames), tmp_path / "build")
    assert assemble.plan(gathered, FLIR).dropped == []
