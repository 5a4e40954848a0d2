"""Lesson 1 against scikit-learn's kernel, block by block, and against KeOps where it is installed.

`python -m tests.bench.lesson1 fast 4000` prints the peak extra memory of one call in MB (`exact`, `fast`, `peer`): a
process of its own has no freed memory left from the other's call. `python -m tests.bench.lesson1 paper` scores the
paper's number of samples once and prints seconds and memory; `... cuda` does it on a GPU, beside the arithmetic floor;
`... cuda 20000` a part of it.
"""

import subprocess
import sys
import time
from importlib.util import find_spec
from statistics import median

import numpy as np
import psutil
import torch
from scipy.stats import spearmanr
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.utils import gen_batches

from irgpt_lib.curriculum.mmd import median_bandwidth, projected_distance, rank_agreement
from tests.bench.measuring import Row, Timing, interleaved, peak_extra_mb, timed

WIDTH = 384
ROWS_OF_A_BLOCK = 1024
# infrared pre-training samples, visible samples, and the width of a ViT-B's features
PAPER = (190_000, 84_284, 768)
GEMM_SIDE, GEMM_TIMES = 512, 200


def two_domains(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Infrared and visible features of equal number: two clouds that overlap, float32."""
    rng = np.random.default_rng(0)
    infrared = rng.standard_normal((count, WIDTH), dtype=np.float32)
    visible = rng.standard_normal((count, WIDTH), dtype=np.float32) + np.float32(0.15)
    return infrared, visible


def kernel_means(x: np.ndarray, y: np.ndarray, gamma: float) -> np.ndarray:
    """`mean_j k(x_i, y_j)` by scikit-learn, one block of rows after the other."""
    blocks = gen_batches(len(x), ROWS_OF_A_BLOCK)
    return np.concatenate([rbf_kernel(x[block], y, gamma=gamma).mean(1, dtype=np.float64) for block in blocks])


def keops_means(x: np.ndarray, y: np.ndarray, gamma: float) -> np.ndarray:
    """The same by KeOps, which compiles a loop for it on the first call."""
    from pykeops.torch import LazyTensor

    ours, theirs = torch.from_numpy(x), torch.from_numpy(y)
    squared = ((LazyTensor(ours[:, None]) - LazyTensor(theirs[None])) ** 2).sum(-1)
    return (-gamma * squared).exp().sum(1).double().flatten().numpy() / len(y)


def distance_from(means, infrared: np.ndarray, visible: np.ndarray, bandwidth: float) -> np.ndarray:
    """The distance of Eq. 3 in Figure 5's sign, as `projected_distance` defines it, from a peer's kernel means."""
    gamma = 1 / (2 * bandwidth**2)
    to_infrared = means(infrared, infrared, gamma)
    to_visible = means(infrared, visible, gamma)
    mmd = np.sqrt(to_infrared.mean() + means(visible, visible, gamma).mean() - 2 * to_visible.mean())
    towards = to_visible - to_infrared
    return mmd - (towards - towards.mean()) / mmd


def sklearn_distance(infrared: np.ndarray, visible: np.ndarray, bandwidth: float) -> np.ndarray:
    return distance_from(kernel_means, infrared, visible, bandwidth)


def study_distance(infrared: np.ndarray, visible: np.ndarray, bandwidth: float, precision: str) -> np.ndarray:
    """The same by this study."""
    tensors = torch.from_numpy(infrared), torch.from_numpy(visible)
    return projected_distance(*tensors, bandwidth=bandwidth, precision=precision).distance.numpy()


DISTANCES = {
    "exact": lambda *domains: study_distance(*domains, "exact"),
    "fast": lambda *domains: study_distance(*domains, "fast"),
    "peer": sklearn_distance,
}


def bandwidth_of(infrared: np.ndarray, visible: np.ndarray) -> float:
    return median_bandwidth(torch.from_numpy(infrared), torch.from_numpy(visible), seed=0)


def memory_in_a_new_process(whose: str, count: int) -> float:
    """Peak extra memory of one call in MB."""
    command = [sys.executable, "-m", "tests.bench.lesson1", whose, str(count)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def gemm_rate(width: int, repeats: int) -> float:
    """float32 products of cached blocks, in 10⁹ operations a processor second: what this machine can do at best."""
    left, right, out = torch.randn(GEMM_SIDE, width), torch.randn(GEMM_SIDE, width), torch.empty(GEMM_SIDE, GEMM_SIDE)

    def multiply() -> None:
        for _ in range(GEMM_TIMES):
            torch.mm(left, right.T, out=out)

    multiply()
    seconds = median(timed(multiply).cpu_s for _ in range(repeats))
    return GEMM_TIMES * operations(GEMM_SIDE, GEMM_SIDE, width, symmetric=False) / seconds / 1e9


def operations(n: int, m: int, width: int, *, symmetric: bool = True) -> float:
    """Multiplications and additions of all products; within a domain each pair counts once."""
    pairs = n * m + (n**2 / 2 + m**2 / 2 if symmetric else 0)
    return 2 * width * pairs


def lesson1(count: int, repeats: int, *, memory: bool, precision: str = "exact") -> Row:
    """The whole lesson on `count` samples of each domain; `memory` measures that too, which takes two processes."""
    domains = two_domains(count)
    bandwidth = bandwidth_of(*domains)
    mine, theirs = interleaved(
        lambda: study_distance(*domains, bandwidth, precision), lambda: sklearn_distance(*domains, bandwidth), repeats
    )
    reference = sklearn_distance(*(domain.astype(np.float64) for domain in domains), bandwidth)
    lost = {
        whose: 1 - spearmanr(DISTANCES[whose](*domains, bandwidth), reference).statistic
        for whose in (precision, "peer")
    }
    peak = gemm_rate(WIDTH, repeats)
    reached = operations(count, count, WIDTH) / 1e9 / median(timing.cpu_s for timing in mine)
    notes = [
        f"{reached:.0f} GFLOP a CPU-second, {reached / peak:.0%} of the float32 GEMM rate ({peak:.0f})",
        f"1 - Spearman to float64: {lost[precision]:.1e}, peer {lost['peer']:.1e}",
    ]
    if memory:
        ours, peer = (memory_in_a_new_process(whose, count) for whose in (precision, "peer"))
        notes.append(f"peak extra memory {ours:.0f} MB, peer {peer:.0f} MB")
    if find_spec("pykeops") is None:
        notes.append("pykeops is not installed")
    name = f"Lesson 1: distance of every infrared sample, {precision}"
    unit = f"samples a domain, d = {WIDTH}"
    return Row(name, count, unit, "scikit-learn rbf_kernel", mine, theirs, "; ".join(notes))


def against_keops(count: int, precision: str = "exact") -> Row:
    """The same against KeOps, once: it takes minutes on a processor. Needs pykeops."""
    domains = two_domains(count)
    bandwidth = bandwidth_of(*domains)
    mine, theirs = interleaved(
        lambda: study_distance(*domains, bandwidth, precision),
        lambda: distance_from(keops_means, *domains, bandwidth),
        1,
    )
    name = f"Lesson 1: distance of every infrared sample, {precision}"
    return Row(name, count, f"samples a domain, d = {WIDTH}", "KeOps", mine, theirs)


def at_paper_size() -> str:
    """The paper's numbers of samples, random features, in the fast mode; seconds, memory and rank agreement."""
    n, m, width = PAPER
    generator = torch.Generator().manual_seed(0)
    infrared = torch.randn(n, width, generator=generator)
    visible = torch.randn(m, width, generator=generator).add_(0.12)
    bandwidth = median_bandwidth(infrared, visible, seed=0)
    found = []
    before, cpu, wall = psutil.Process().memory_info().rss, time.process_time(), time.perf_counter()
    extra = peak_extra_mb(
        lambda: found.append(projected_distance(infrared, visible, bandwidth=bandwidth, precision="fast"))
    )
    took = Timing(time.process_time() - cpu, time.perf_counter() - wall)
    agreement = rank_agreement(infrared, visible, found[0], seed=0, sample=500)
    return (
        f"{n:,} x {m:,}, d = {width}: {took.cpu_s:.0f} CPU-s, {took.wall_s:.0f} s, "
        f"{operations(n, m, width) / 1e9 / took.cpu_s:.0f} GFLOP a CPU-second, peak {before / 1e6 + extra:.0f} MB, of "
        f"which {extra:.0f} MB above the features; Spearman to exact on {agreement.samples}: {agreement.spearman:.7f}"
    )


def on_a_device(most: int = PAPER[0], *, device: str) -> str:
    """At most `most` samples a domain of the paper's size on a device, fast and exact, beside the arithmetic floor.

    The floor is what the products alone take at the rate of one large product of the same type on this device.
    """
    n, m, width = min(PAPER[0], most), min(PAPER[1], most), PAPER[2]
    generator = torch.Generator(device).manual_seed(0)
    infrared = torch.randn(n, width, generator=generator, device=device)
    visible = torch.randn(m, width, generator=generator, device=device).add_(0.12)
    bandwidth = median_bandwidth(infrared, visible, seed=0)
    lines = []
    for precision, dtype in (("fast", torch.bfloat16), ("exact", torch.float32)):
        few = infrared[:WIDTH], visible[:WIDTH]
        projected_distance(*few, bandwidth=bandwidth, precision=precision)
        _finished(device)
        start = time.perf_counter()
        lesson = projected_distance(infrared, visible, bandwidth=bandwidth, precision=precision)
        _finished(device)
        seconds = time.perf_counter() - start
        floor = operations(n, m, width) / device_rate(dtype, device)
        agreement = rank_agreement(infrared, visible, lesson, seed=0, sample=500)
        lines.append(
            f"{n:,} x {m:,}, d = {width}, {precision}: {seconds:.2f} s, floor {floor:.2f} s; Spearman to exact on "
            f"{agreement.samples}: {agreement.spearman:.7f}"
        )
    return "\n".join(lines)


def device_rate(dtype: torch.dtype, device: str, side: int = 4096, times: int = 8) -> float:
    """Operations a second of one large product on the device; float32 without reduced precision."""
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    torch.mm(left, right)
    _finished(device)
    start = time.perf_counter()
    for _ in range(times):
        torch.mm(left, right)
    _finished(device)
    return times * operations(side, side, side, symmetric=False) / (time.perf_counter() - start)


def _finished(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main(whose: str, count: str = "") -> None:
    """Print the peak extra memory of one call, in MB, or what the paper's size takes."""
    torch.set_num_threads(1)
    if whose in ("cuda", "cpu"):
        print(on_a_device(int(count or PAPER[0]), device=whose))
        return
    if whose == "paper":
        print(at_paper_size())
        return
    domains = two_domains(int(count))
    bandwidth = bandwidth_of(*domains)
    # a first call on few rows loads what every call needs
    DISTANCES[whose](*(domain[:64] for domain in domains), bandwidth)
    print(peak_extra_mb(lambda: DISTANCES[whose](*domains, bandwidth)))


if __name__ == "__main__":
    main(*sys.argv[1:])
