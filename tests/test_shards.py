"""Shards: what goes in comes out, whole or not at all, in bounded pieces."""

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from faulty_files import colour_png, gray_png

from irgpt_lib.irtd import shards
from irgpt_lib.irtd.record import Box, Point, Sample, png_bytes
from irgpt_lib.irtd.shards import SplitWriter, read_shards, shard_files, without_images, write_shard


def sample(number: int = 0, split: str = "pretrain", **changes: object) -> Sample:
    return Sample(
        f"s/{number}",
        "s",
        "tir",
        "scene",
        40,
        30,
        gray_png(value=number % 200),
        visible=colour_png() if number % 2 else b"",
        split=split,
        boxes=(Box("car", 1.0, 2.0, 11.0, 22.0),),
        points=(Point("person", 3.0, 4.0),),
        facts={"time": "day", "frame": str(number)},
        **changes,
    )


def noisy(number: int) -> Sample:
    pixels = np.random.default_rng(number).integers(0, 256, (30, 40), dtype=np.uint8)
    return replace(sample(number), infrared=png_bytes(pixels))


def test_samples_come_back_as_they_were_with_and_without_their_images(tmp_path):
    samples = [sample(n) for n in range(5)]
    assert write_shard(iter(samples), tmp_path / "a.parquet") == 5
    assert list(read_shards([tmp_path / "a.parquet"])) == samples
    assert list(read_shards([tmp_path / "a.parquet"], images=False)) == [without_images(s) for s in samples]


def test_a_pair_that_does_not_exist_is_null_and_not_an_empty_image(tmp_path):
    write_shard([sample(0), sample(1)], tmp_path / "a.parquet")
    assert pq.read_table(tmp_path / "a.parquet")["visible"].is_valid().to_pylist() == [False, True]


def test_an_error_amid_writing_leaves_what_was_there(tmp_path):
    file = tmp_path / "a.parquet"
    write_shard([sample(7)], file)

    def broken():
        yield sample(1)
        raise ValueError("amid")

    with pytest.raises(ValueError, match="amid"):
        write_shard(broken(), file)
    assert [s.sample_id for s in read_shards([file])] == ["s/7"] and list(tmp_path.iterdir()) == [file]


def test_row_groups_are_bounded_by_their_images(tmp_path, monkeypatch):
    samples = [noisy(n) for n in range(12)]
    monkeypatch.setattr(shards, "ROW_GROUP_BYTES", 3 * len(samples[0].infrared))
    write_shard(samples, tmp_path / "a.parquet")
    assert pq.ParquetFile(tmp_path / "a.parquet").num_row_groups >= 4
    assert list(read_shards([tmp_path / "a.parquet"])) == samples


def test_each_split_has_its_own_shards_and_a_full_one_is_followed_by_another(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "ROW_GROUP_BYTES", 1)
    samples = [replace(noisy(n), split="benchmark" if n % 3 else "pretrain") for n in range(9)]
    with SplitWriter(tmp_path / "out", shard_bytes=2 * len(samples[0].infrared)) as writer:
        for one in samples:
            writer.add(one)
    assert writer.counts == {"pretrain": 3, "benchmark": 6}
    names = [file.name for file in shard_files(tmp_path / "out")]
    assert names == [f"benchmark-{n:05d}.parquet" for n in range(3)] + [f"pretrain-{n:05d}.parquet" for n in range(2)]
    back = list(read_shards(shard_files(tmp_path / "out")))
    assert back == [s for split in ("benchmark", "pretrain") for s in samples if s.split == split]


def test_an_error_leaves_no_shard_of_a_split(tmp_path):
    with pytest.raises(ValueError, match="amid"), SplitWriter(tmp_path) as writer:
        writer.add(sample())
        raise ValueError("amid")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_shards_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no shard"):
        shard_files(tmp_path)
