"""Lesson 1 against scikit-learn's kernel, block by block.

`python -m tests.bench.lesson1 ours 4000` prints the peak extra memory of one call in MB: a process of its own has no
freed memory left from the other's call.
"""

import subprocess
import sys

import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.utils import gen_batches

from irgpt_lib.curriculum.mmd import median_bandwidth, projected_distance
from tests.bench.measuring import Row, interleaved, peak_extra_mb

WIDTH = 384
ROWS_OF_A_BLOCK = 1024


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


def sklearn_distance(infrared: np.ndarray, visible: np.ndarray, bandwidth: float) -> np.ndarray:
    """The distance of Eq. 3 in Figure 5's sign, as `projected_distance` defines it."""
    gamma = 1 / (2 * bandwidth**2)
    to_infrared = kernel_means(infrared, infrared, gamma)
    to_visible = kernel_means(infrared, visible, gamma)
    mmd = np.sqrt(to_infrared.mean() + kernel_means(visible, visible, gamma).mean() - 2 * to_visible.mean())
    towards = to_visible - to_infrared
    return mmd - (towards - towards.mean()) / mmd


def study_distance(infrared: np.ndarray, visible: np.ndarray, bandwidth: float) -> np.ndarray:
    """The same by this study."""
    tensors = torch.from_numpy(infrared), torch.from_numpy(visible)
    return projected_distance(*tensors, bandwidth=bandwidth).distance.numpy()


DISTANCES = {"ours": study_distance, "peer": sklearn_distance}


def bandwidth_of(infrared: np.ndarray, visible: np.ndarray) -> float:
    return median_bandwidth(torch.from_numpy(infrared), torch.from_numpy(visible), seed=0)


def memory_in_a_new_process(whose: str, count: int) -> float:
    """Peak extra memory of one call in MB."""
    command = [sys.executable, "-m", "tests.bench.lesson1", whose, str(count)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def lesson1(count: int, repeats: int, *, memory: bool) -> Row:
    """The whole lesson on `count` samples of each domain; `memory` measures that too, which takes two processes."""
    domains = two_domains(count)
    bandwidth = bandwidth_of(*domains)
    mine, theirs = interleaved(
        lambda: study_distance(*domains, bandwidth), lambda: sklearn_distance(*domains, bandwidth), repeats
    )
    reference = sklearn_distance(*(domain.astype(np.float64) for domain in domains), bandwidth)
    lost = {
        whose: 1 - spearmanr(distance(*domains, bandwidth), reference).statistic
        for whose, distance in DISTANCES.items()
    }
    note = f"1 - Spearman to float64: {lost['ours']:.1e}, peer {lost['peer']:.1e}"
    if memory:
        ours, peer = (memory_in_a_new_process(whose, count) for whose in DISTANCES)
        note += f"; peak extra memory {ours:.0f} MB, peer {peer:.0f} MB"
    name = "Lesson 1: distance of every infrared sample"
    return Row(name, count, f"samples a domain, d = {WIDTH}", "scikit-learn rbf_kernel", mine, theirs, note)


def main(whose: str, count: int) -> None:
    """Print the peak extra memory of one call, in MB."""
    torch.set_num_threads(1)
    domains = two_domains(count)
    bandwidth = bandwidth_of(*domains)
    # a first call on few rows loads what every call needs
    DISTANCES[whose](*(domain[:64] for domain in domains), bandwidth)
    print(peak_extra_mb(lambda: DISTANCES[whose](*domains, bandwidth)))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
