"""Lesson 1 by random Fourier features: an approximation in O((n + m) D d), for a look before the exact pass.

`k(x, y) = E cos(w · (x - y))` over normal frequencies w (Rahimi and Recht, 2007). The frequencies are drawn
orthogonal to each other within blocks of d, which keeps the mean and lowers the variance (Yu et al., 2016).
Say beside every result how well it ranks: `mmd.rank_agreement`.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from irgpt_lib.curriculum.kernels import Bandwidth, positive_bandwidths
from irgpt_lib.curriculum.mmd import Lesson1, Sign, lesson_of, require_comparable

# float32 numbers for each row and frequency: the angle, its cosine and its sine
BUFFERS = 3


def approximate_distance(
    infrared: Float[Tensor, "n d"],
    visible: Float[Tensor, "m d"],
    *,
    bandwidth: Bandwidth,
    features: int,
    seed: int,
    sign: Sign = "figure",
    memory_mb: float | int = 64,
) -> Lesson1:
    """`projected_distance` with the kernel replaced by `features` random Fourier features, drawn with `seed`.

    `features` is D, even: a cosine and a sine for each of D/2 frequencies, which a list of bandwidths shares in
    turn. Memory is D/2 x d for the frequencies and `memory_mb` (MiB) for the features of some rows at a time.

    Raises:
        ValueError: a domain is unfit or both coincide (see `projected_distance`), `features` is odd or fewer
            than two a bandwidth, or `memory_mb` is not positive.
    """
    require_comparable(infrared, visible)
    widths = positive_bandwidths(bandwidth)
    if features % 2 or features < 2 * len(widths):
        raise ValueError(f"{features} random features: give an even number, at least two a bandwidth")
    if not memory_mb > 0:
        raise ValueError(f"memory_mb must be positive, not {memory_mb}")
    waves = _frequencies(infrared.shape[1], features // 2, widths, seed).to(infrared.device)
    rows = max(1, int(memory_mb * 2**20 / (BUFFERS * waves.element_size() * len(waves))))
    ours, theirs = (_centre(x, waves, rows) for x in (infrared, visible))
    centres = torch.stack([ours, theirs], 1)
    means = torch.cat([_mapped(part, waves).double() @ centres for part in infrared.split(rows)])
    zero = 10 * torch.finfo(torch.float32).eps
    return lesson_of(means[:, 0], means[:, 1], theirs @ theirs, bandwidth, sign, zero)


def _frequencies(width: int, count: int, widths: list[float], seed: int) -> Float[Tensor, "f d"]:
    generator = torch.Generator().manual_seed(seed)
    blocks = []
    for _ in range(math.ceil(count / width)):
        normal = torch.randn(width, width, generator=generator, dtype=torch.float64)
        # the rotation of a normal matrix, with the lengths of another's rows: normal rows, orthogonal to each other
        lengths = torch.randn(width, width, generator=generator, dtype=torch.float64).norm(dim=1)
        q, r = torch.linalg.qr(normal)
        blocks.append((q * r.diagonal().sign()).T * lengths[:, None])
    waves = torch.cat(blocks)[:count]
    # in turn, so that every bandwidth has its share
    scale = torch.tensor([widths[i % len(widths)] for i in range(count)], dtype=torch.float64)
    return (waves / scale[:, None]).float()


def _mapped(rows: Float[Tensor, "p d"], waves: Float[Tensor, "f d"]) -> Float[Tensor, "p 2*f"]:
    angles = rows.float() @ waves.T
    return torch.cat([angles.cos(), angles.sin()], 1) / math.sqrt(len(waves))


def _centre(domain: Float[Tensor, "n d"], waves: Float[Tensor, "f d"], rows: int) -> Float[Tensor, " 2*f"]:
    return sum(_mapped(part, waves).sum(0, dtype=torch.float64) for part in domain.split(rows)) / len(domain)
