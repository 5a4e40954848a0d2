"""From sources to a dataset: no content in two splits, no record unaccounted for, no question asked twice."""

import json
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from irgpt_lib import params
from irgpt_lib.irtd import accounts, assemble, near_duplicates
from irgpt_lib.irtd import questions as asking
from irgpt_lib.irtd.record import BANDS, Box, Rejected, Sample, check, open_image
from irgpt_lib.irtd.simulated.describe import describe
from irgpt_lib.irtd.sources import UnknownName
from irgpt_lib.tasks import TASKS

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
    kind="none", model="", url="", key_variable="", concurrency=1, per_minute=1, max_tokens=1, conversations=0
)
CONFIG = params.Dataset(
    sources=["simulated"],
    authentic_only=False,
    raw_root="raw",
    workers=1,
    shard_records=50,
    keep_every={},
    near_duplicate_distance=4,
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


@cache
def samples() -> list[Sample]:
    return simulated_samples(SIMULATED, seed=4)


@cache
def questions() -> pd.DataFrame:
    return assemble.all_questions(samples(), CONFIG)


def bare(name: str, group: str = "", **values: object) -> Sample:
    return Sample(name, "s", "tir", "scene", 8, 8, b"", group=group, **values)


def reject(reason: str, record: str = "1") -> Rejected:
    return Rejected("flir", "raw/labels.json", record, reason, "why")


def test_the_splits_have_the_scenes_that_were_asked_for():
    assert Counter(s.split for s in samples()) == SCENES


def test_every_sample_is_sound_captioned_and_says_that_no_camera_took_it():
    for s in samples():
        check(s)
        assert s.caption and s.caption_path == "simulated" and not s.authentic
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


@settings(max_examples=40, deadline=None, database=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=40), st.integers(0, 1000))
def test_no_group_is_ever_split(groups, seed):
    placed = assemble.with_split([bare(f"s{i}", f"g{g}") for i, g in enumerate(groups)], SHARES, seed)
    assert assemble.leaks(placed) == []
    assert {s.split for s in placed} <= set(assemble.SPLITS)


def test_a_group_keeps_its_split_whatever_else_is_in_the_dataset():
    few = assemble.with_split([bare("a", "g1"), bare("b", "g2")], SHARES, 7)
    many = assemble.with_split(
        [bare(f"x{i}", f"h{i}") for i in range(50)] + [bare("b", "g2"), bare("a", "g1")], SHARES, 7
    )
    assert {s.sample_id: s.split for s in few} == {s.sample_id: s.split for s in many[-2:]}


def test_splits_come_in_their_shares_and_differ_by_seed():
    alone = [bare(f"s{i}") for i in range(2000)]
    one, other = (assemble.with_split(alone, SHARES, seed) for seed in (0, 1))
    counts = Counter(s.split for s in one)
    for split, share in SHARES.items():
        assert abs(counts[split] - 2000 * share) < 4 * np.sqrt(2000 * share * (1 - share))
    assert sum(a.split != b.split for a, b in zip(one, other, strict=True)) > 500


def test_a_split_without_a_share_stays_empty():
    shares = {"pretrain": 1.0, "instruction": 0.0, "benchmark": 0.0}
    assert {s.split for s in assemble.with_split([bare(f"s{i}") for i in range(200)], shares, 0)} == {"pretrain"}


def test_the_simulated_dataset_leaks_nothing():
    assert assemble.leaks(samples()) == []


def test_a_group_planted_in_another_split_is_reported_by_its_name():
    planted = next(s for s in samples() if s.split == "pretrain")
    twin = replace(planted, sample_id="twin", split="benchmark")
    assert assemble.leaks([*samples(), twin]) == [planted.group]


def test_a_sample_without_a_group_is_its_own():
    assert assemble.leaks([bare("a", split="pretrain"), bare("b", split="benchmark")]) == []
    assert assemble.leaks([bare("a", split="pretrain"), bare("a", split="benchmark")]) == ["a"]


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


def test_simulated_scenes_do_not_hide_that_the_raw_records_are_bad(monkeypatch):
    """Raw files are replaced here by what their reader would return: one good record, one bad."""
    monkeypatch.setattr(assemble, "known_source", lambda name: None)
    monkeypatch.setattr(assemble, "default_root", lambda source, root: root)
    monkeypatch.setattr(assemble, "read_source", lambda name, root: ([bare("a")], [reject("empty image")]))
    few = SIMULATED.model_copy(update={"scenes": dict.fromkeys(SCENES, 20)})
    config = CONFIG.model_copy(update={"sources": ["simulated", "flir"], "simulated": few})
    with pytest.raises(assemble.TooManyRejected, match="1 of 2 raw records"):
        assemble.collect(config, Path("raw"))


def test_a_source_that_nobody_knows_is_an_error_that_lists_those_there_are():
    with pytest.raises(UnknownName, match="kaist_nowhere.*llvip"):
        assemble.collect(CONFIG.model_copy(update={"sources": ["kaist_nowhere"]}), Path("raw"))


def test_collecting_the_simulated_source_rejects_nothing():
    collected, rejected = assemble.collect(CONFIG, Path("raw"))
    assert collected == samples() and rejected == []


def test_every_task_is_asked_equally_often_in_both_splits():
    counts = Counter(zip(questions()["split"], questions()["task"], strict=True))
    expected = {("instruction", t): 20 for t in TASKS} | {("benchmark", t): 10 for t in TASKS}
    tasks_short = {key for key in expected if counts[key] < expected[key]}
    assert all(counts[key] <= expected[key] for key in expected) and set(counts) == set(expected)
    assert {task for _, task in tasks_short} <= {"aerial_counting", "pedestrian_counting", "reid"}, "rare kinds only"


def test_a_sample_answers_at_most_one_question_of_a_task_and_ids_are_unique():
    assert not questions().duplicated(["sample_id", "task"]).any()
    assert questions()["question_id"].is_unique
    assert list(questions().columns) == assemble.QUESTION_COLUMNS


def test_a_question_belongs_to_a_sample_of_its_split_with_its_band_and_group():
    by_id = {s.sample_id: s for s in samples()}
    for row in questions().itertuples():
        s = by_id[row.sample_id]
        assert (s.split, s.band, s.group, s.source) == (row.split, row.band, row.group, row.source)
    assert set(questions()["split"]) == {"instruction", "benchmark"}, "pretraining samples are not asked about"


def test_the_kept_answer_of_every_question_scores_perfectly_against_its_kept_truth():
    for row in questions().itertuples():
        task = TASKS[row.task]
        best = 100 if task.higher_is_better else 0
        assert task.score(task.read(row.answer), json.loads(row.truth)) == best


def test_questions_do_not_depend_on_the_samples_of_another_split():
    own = [s for s in samples() if s.split == "benchmark"]
    boxes = tuple(Box(c, 0.0, 0.0, 1.0, 1.0) for c in sorted({b.category for s in samples() for b in s.boxes}))
    words = [
        bare(f"w{i}", scene=scene, boxes=boxes, split="pretrain")
        for i, scene in enumerate(sorted({s.scene for s in own} - {""}))
    ]
    asked = [assemble.make_questions(given, "benchmark", 90, seed=4) for given in (samples(), [*words, *own])]
    pd.testing.assert_frame_equal(*asked)


def test_no_samples_give_no_questions_but_their_columns():
    empty = assemble.make_questions([], "benchmark", 90, seed=0)
    assert len(empty) == 0 and list(empty.columns) == assemble.QUESTION_COLUMNS


def test_the_account_adds_up():
    rejected = [reject("empty image"), reject("empty image"), reject("size mismatch")]
    found = assemble.account(samples(), rejected, questions())
    n = sum(SCENES.values())
    assert found["samples"] == found["authentic"] + found["simulated"] == found["simulated"] == n
    for part in ("sources", "splits", "bands"):
        assert sum(found[part].values()) == n
    assert found["splits"] == SCENES and found["captioned"] == n and 0 < found["paired"] < n
    assert found["swapped_captions"] == sum(s.caption_from != s.sample_id for s in samples()) > 0
    assert sum(sum(tasks.values()) for tasks in found["questions"].values()) == len(questions())
    assert found["rejected"] == {"empty image": 2, "size mismatch": 1}
    assert json.loads(json.dumps(found)) == found


def test_the_column_of_table_1_says_simulated_where_any_image_is():
    found = assemble.account(samples(), [], questions())
    column = assemble.table1_column(found)
    assert column[:5] == [
        "150",
        str(sum(questions()["split"] == "instruction")),
        str(sum(questions()["split"] == "benchmark")),
        "1",
        "9",
    ]
    assert "no, simulated" in column
    real = assemble.account([replace(s, authentic=True) for s in samples()], [], questions())
    assert "no, simulated" not in assemble.table1_column(real)


@pytest.mark.parametrize("count", [1, 6, 8, 12])
def test_the_gallery_shows_that_many_different_samples_of_every_band(count):
    shown = assemble.gallery(samples(), count)
    assert len(shown) == count and shown["sample_id"].is_unique
    assert count < 6 or set(shown["band"]) == set(BANDS)
