"""The build of a raw source: the same bytes whatever the workers and however often it is killed, in bounded memory."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from faulty_files import put

from irgpt_lib.irtd import build as building
from irgpt_lib.irtd.build import BuildInterrupted, Job, build
from irgpt_lib.irtd.record import png_bytes
from irgpt_lib.irtd.shards import read_shards, shard_files
from irgpt_lib.irtd.sources.reading import folder_source, read
from irgpt_lib.irtd.sources.source import MissingData

FRAMES, BLOCK = 24, 5
HEAD = "image_name,class_id,xmin,xmax,ymin,ymax\n"


def frame(number: int) -> bytes:
    return png_bytes(np.random.default_rng(number).integers(0, 256, (48, 64), dtype=np.uint8))


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """24 sound frames, a truncated one in their midst and a row without an image, in FLIR's format."""
    root = tmp_path / "raw"
    for number in range(FRAMES):
        put(root / "infrared" / f"FLIR_{number:05}.png", frame(number))
    put(root / "infrared" / "FLIR_00007.png", frame(7)[:200])
    put(root / "boxes.csv", HEAD + "".join(f"FLIR_{n:05}.jpeg,1,1,11,2,22\n" for n in [*range(FRAMES), 99]))
    return root


def job(raw: Path, folder: Path, **changes: object) -> Job:
    source = folder_source("flir_csv", raw)
    return replace(Job(source, "flir_csv", raw, folder, shard_records=BLOCK), **changes)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.glob("shard-*"))}


def test_the_shards_hold_what_reading_gives_and_count_what_was_rejected(raw, tmp_path):
    done = build(job(raw, tmp_path / "out"))
    read_back = list(read_shards(shard_files(tmp_path / "out")))
    plain = [item for item in read("flir_csv", raw, folder_source("flir_csv", raw)) if hasattr(item, "infrared")]
    assert [replace(s, perceptual_hash="") for s in read_back] == plain
    assert all(len(s.perceptual_hash) == 16 for s in read_back)
    assert (done.samples, done.resumed, done.shards) == (FRAMES - 1, 0, 5)
    assert done.rejected == {"missing image": 1, "unreadable image": 1}


def test_two_workers_write_the_bytes_of_one(raw, tmp_path):
    build(job(raw, tmp_path / "one"))
    build(job(raw, tmp_path / "two", workers=2))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_second_build_reads_no_image_again(raw, tmp_path, monkeypatch):
    build(job(raw, tmp_path / "out"))
    monkeypatch.setattr(building, "made", lambda found: pytest.fail("an image was read again"))
    assert build(job(raw, tmp_path / "out")).resumed == 5


@pytest.mark.parametrize("changed", ["infrared/FLIR_00012.png", "boxes.csv"])
def test_any_changed_file_builds_its_source_again(raw, tmp_path, changed):
    build(job(raw, tmp_path / "out"))
    put(raw / changed, frame(1012) if changed.endswith(".png") else HEAD + "FLIR_00000.jpeg,3,1,11,2,22\n")
    assert build(job(raw, tmp_path / "out")).resumed == 0
    build(job(raw, tmp_path / "fresh"))
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def delete_a_shard(raw: Path, out: Path) -> None:
    (out / "shard-000002.parquet").unlink()


def truncate_a_shard(raw: Path, out: Path) -> None:
    file = out / "shard-000002.parquet"
    file.write_bytes(file.read_bytes()[:-50])


@pytest.mark.parametrize("damage", [delete_a_shard, truncate_a_shard])
def test_only_the_shard_that_is_damaged_is_built_again(raw, tmp_path, damage: Callable[[Path, Path], None]):
    build(job(raw, tmp_path / "out"))
    damage(raw, tmp_path / "out")
    assert build(job(raw, tmp_path / "out")).resumed == 4
    build(job(raw, tmp_path / "fresh"))
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_shards_beyond_a_shrunken_source_are_removed(raw, tmp_path):
    build(job(raw, tmp_path / "out"))
    for number in range(5, FRAMES):
        (raw / "infrared" / f"FLIR_{number:05}.png").unlink()
    assert build(job(raw, tmp_path / "out")).samples == 5
    build(job(raw, tmp_path / "fresh"))
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_an_absent_source_is_told_from_one_process_and_from_two(tmp_path):
    for workers in (1, 2):
        with pytest.raises(MissingData, match="no such folder"):
            build(job(tmp_path / "nothing", tmp_path / "out", workers=workers))


def test_two_builds_do_not_share_a_folder(raw, tmp_path):
    with (
        building.sole_builder(tmp_path / "out"),
        pytest.raises(BuildInterrupted, match="another build is at work there"),
    ):
        build(job(raw, tmp_path / "out"))


def test_an_error_in_a_worker_reaches_the_caller_and_stops_the_others(raw, tmp_path):
    (tmp_path / "out" / "shard-000002.parquet").mkdir(parents=True)  # cannot be replaced by a file
    with pytest.raises(OSError):
        build(job(raw, tmp_path / "out", workers=2))


KILLED = """
import sys, time
from pathlib import Path
from irgpt_lib.irtd import build as building
from irgpt_lib.irtd.sources.reading import folder_source
raw, out = map(Path, sys.argv[1:])
make = building.made
building.made = lambda found: (time.sleep(0.02), make(found))[1]
building.build(building.Job(folder_source("flir_csv", raw), "flir_csv", raw, out, shard_records=5))
"""


def test_a_killed_build_goes_on_and_ends_with_the_same_bytes(raw, tmp_path):
    out = tmp_path / "out"
    with subprocess.Popen([sys.executable, "-c", KILLED, str(raw), str(out)], stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not (out / "shard-000001.parquet").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
    assert 2 <= build(job(raw, out)).resumed < 5
    build(job(raw, tmp_path / "fresh"))
    assert contents(out) == contents(tmp_path / "fresh")


ON_RAY = """
import sys
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from irgpt_lib.irtd.build import Job, build_on_ray
from irgpt_lib.irtd.sources.reading import folder_source
raw, out = map(Path, sys.argv[1:])
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
cluster.add_node(num_cpus=1)
ray.init(address=cluster.address, log_to_driver=False)
done = build_on_ray(Job(folder_source("flir_csv", raw), "flir_csv", raw, out, shard_records=5), parts=2)
print(len(ray.nodes()), done.samples)
ray.shutdown()
cluster.shutdown()
"""


def test_two_nodes_of_a_ray_cluster_write_the_bytes_of_one_process(raw, tmp_path):
    pytest.importorskip("ray", reason="needs the optional extra `ray`")
    out = tmp_path / "ray"
    command = [sys.executable, "-c", ON_RAY, str(raw), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[-2:] == ["2", str(FRAMES - 1)]
    build(job(raw, tmp_path / "one"))
    assert contents(out) == contents(tmp_path / "one")
