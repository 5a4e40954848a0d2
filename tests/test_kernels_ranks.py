"""The same Lesson 1 by two processes. A file of its own: the processes take seconds to start."""

import subprocess
import sys

import torch

from irgpt_lib.curriculum.mmd import projected_distance

OPTIONS = {"bandwidth": [1.0, 2.0], "memory_mb": 8 * 8 * 3 * 8 / 2**20}
RANK = """
import sys
from pathlib import Path
import torch
from torch import distributed
from irgpt_lib.curriculum.mmd import projected_distance
folder, rank, ranks, memory_mb = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=ranks)
x, y = torch.load(folder / "features.pt")
lesson = projected_distance(
    x, y, bandwidth=[1.0, 2.0], memory_mb=memory_mb, checkpoint=folder / "strips", group=distributed.group.WORLD
)
torch.save((lesson.mmd, lesson.distance), folder / f"rank{rank}.pt")
distributed.destroy_process_group()
"""


def test_two_ranks_share_the_work_and_agree_with_one(tmp_path):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(150, 4, generator=generator, dtype=torch.float64)
    y = torch.randn(101, 4, generator=generator, dtype=torch.float64) + 1
    torch.save((x, y), tmp_path / "features.pt")
    command = [sys.executable, "-c", RANK, str(tmp_path)]
    started = [subprocess.Popen([*command, str(rank), "2", str(OPTIONS["memory_mb"])]) for rank in range(2)]
    assert [process.wait(timeout=120) for process in started] == [0, 0]

    alone = projected_distance(x, y, **OPTIONS)
    for rank in range(2):
        mmd, distance = torch.load(tmp_path / f"rank{rank}.pt")
        torch.testing.assert_close(distance, alone.distance, rtol=1e-12, atol=1e-12)
        assert abs(mmd - alone.mmd) < 1e-12

    # the strips that both wrote are those that one process takes over
    strips = sorted((tmp_path / "strips").rglob("*.npy"))
    assert len(strips) == 19 + 19 + 13
    taken = projected_distance(x, y, **OPTIONS, checkpoint=tmp_path / "strips")
    assert torch.equal(taken.distance, alone.distance)
    assert sorted((tmp_path / "strips").rglob("*.npy")) == strips
