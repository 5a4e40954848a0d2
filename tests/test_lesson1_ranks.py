"""Domains of many shapes, scored by one process and by two. A file of its own: the processes take seconds to start."""

import subprocess
import sys

import pytest
import torch

from irgpt_lib.curriculum.mmd import projected_distance

# One sample on a side, fewer strips than ranks, an uneven number of them, and more of them than a rank's share.
SHAPES = [(1, 1, 3), (1, 9, 2), (9, 1, 2), (7, 6, 1), (8, 8, 4), (9, 17, 3), (65, 40, 16), (130, 3, 5)]
BLOCKS_OF_8 = 8 * 8 * 3 * 4 / 2**20  # MiB, in float32
OPTIONS = [
    {"bandwidth": 4.0, "precision": "exact", "memory_mb": BLOCKS_OF_8},
    {"bandwidth": [2.0, 4.0], "precision": "exact", "memory_mb": 64},
    {"bandwidth": [2.0, 3.0], "precision": "fast", "memory_mb": BLOCKS_OF_8},
]
RANK = """
import os, sys
from pathlib import Path
import torch
from torch import distributed
from irgpt_lib.curriculum.mmd import projected_distance
folder, rank = Path(sys.argv[1]), int(sys.argv[2])
distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
domains, options = torch.load(folder / "given.pt")
group = distributed.group.WORLD
torch.save([projected_distance(x, y, **one, group=group).distance for x, y in domains for one in options],
           folder / f"rank{rank}.pt")
distributed.barrier()
distributed.destroy_process_group()
os._exit(0)  # gloo's threads may outlive the group, and would abort an interpreter that ends under them
"""


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """The distances of every domain under every option: by one process, and by each of two ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    domains = []
    for seed, (n, m, d) in enumerate(SHAPES):
        both = torch.randn(n + m, d, generator=torch.Generator().manual_seed(seed))
        domains.append((both[:n], both[n:] + 1))
    torch.save((domains, OPTIONS), folder / "given.pt")
    started = [subprocess.Popen([sys.executable, "-c", RANK, str(folder), str(rank)]) for rank in range(2)]
    assert [process.wait(timeout=120) for process in started] == [0, 0]
    alone = [projected_distance(x, y, **options).distance for x, y in domains for options in OPTIONS]
    return alone, *(torch.load(folder / f"rank{rank}.pt") for rank in range(2))


def test_two_ranks_score_every_domain_as_one_process_does(scored):
    alone, first, second = scored
    assert len(alone) == len(SHAPES) * len(OPTIONS)
    for one, shared in zip(alone, first, strict=True):
        torch.testing.assert_close(shared, one, rtol=1e-12, atol=1e-12)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
