"""Sums of a Gaussian kernel over two sets of rows, streamed in blocks: the n x m matrix is never held.

With rows scaled so that `k(x, y) = 2 ** -|x - y|²` at the widest bandwidth, a block is one matrix product, one
`exp2` and a sum. A narrower bandwidth whose rate is a power of two is had by squaring the block.

The rows are cut into strips. A strip's sums depend on no other strip, so that they can be kept on disk for a
restart, and dealt to the ranks of a process group.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, distributed
from torch.distributed import ProcessGroup
from tqdm import tqdm

from irgpt_lib.artifacts import atomic

Bandwidth = float | int | Sequence[float | int]
Precision = Literal["exact", "fast"]

# A block of this side and its operands fit the second-level cache of a CPU core; a GPU needs more to be busy.
LARGEST_BLOCK = {"cpu": 512}
LARGEST_BLOCK_OF_A_GPU = 8192
# A block, the product that it came from and the copy for a bandwidth off the ladder live at the same time.
BUFFERS = 3
# The most work that a restart repeats is that of the first strip, 1/32 of a symmetric sum.
STRIPS = 64
CHUNK = 1024


@dataclass(frozen=True, eq=False)
class Points:
    """One domain ready for the products: centred and scaled `rows`, rounded, and `-|row|²` before rounding.

    Rounding turns a row x into x + δ and so adds 2δ · y to its every exponent with y. `shifts` holds 2δ · (mean y) for
    the mean of each prepared domain, of which this is number `domain`: most of that error, and nearly the same for all
    y, so that it can be taken out of the sums.
    """

    rows: Float[Tensor, "n d"]
    minus_squares: Float[Tensor, " n"]
    shifts: Float[Tensor, "n k"]
    domain: int

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Streaming:
    """How the sums are streamed: `memory_mb` (MiB, blocks only), `checkpoint` folder, `group` of ranks."""

    memory_mb: float | int = 64
    checkpoint: Path | None = None
    group: ProcessGroup | None = None


def kernel_sums(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"] | None = None,
    *,
    bandwidth: Bandwidth,
    precision: Precision = "exact",
    memory_mb: float | int = 64,
    checkpoint: Path | None = None,
    group: ProcessGroup | None = None,
) -> Float[Tensor, " n"]:
    """`sum_j k(x_i, y_j)` for each row of `x`, streamed in blocks; in float64.

    Without `y`, the sums are over `x` itself, and each pair of blocks is computed once. A list of bandwidths
    means the mean of their kernels, all from one pass. Under `precision="exact"` kernel values have the
    precision of the features, at least float32; under `"fast"` products are bfloat16 and the rest is float32.

    `memory_mb` (MiB) bounds the blocks, not the features nor their scaled copy; it changes the result only by
    rounding. `checkpoint` is a folder that keeps the sums of finished strips: a call with the same features and
    settings goes on from there, any other call starts its own; delete it when the result is kept. With a `group`
    of processes, each of which holds the same features and makes the same call, each does its share and all get
    the whole result.

    Raises:
        ValueError: a side is empty, the widths differ, a row is not finite in units of the bandwidth, a bandwidth or
            `memory_mb` is not positive, the precision is unknown, or a kept file is damaged.
    """
    widths = positive_bandwidths(bandwidth)
    streaming = Streaming(memory_mb, checkpoint, group)
    points = prepare([x] if y is None else [x, y], widths, precision)
    return streamed_sums(points[0], points[1] if y is not None else None, rates(widths), streaming).mean(0)


def positive_bandwidths(bandwidth: Bandwidth) -> list[float]:
    """The bandwidths as floats, widest first.

    Raises:
        ValueError: there is none, or one is not positive and finite.
    """
    widths = [float(width) for width in (bandwidth if isinstance(bandwidth, Sequence) else [bandwidth])]
    if not widths or not all(math.isfinite(width) and width > 0 for width in widths):
        raise ValueError(f"a bandwidth must be positive and finite, not {bandwidth}")
    return sorted(widths, reverse=True)


def rates(widths: list[float]) -> list[float]:
    """What each bandwidth's exponent is, as a multiple of the widest one's: 1 first, ascending."""
    return [(widths[0] / width) ** 2 for width in widths]


def prepare(domains: list[Float[Tensor, "_ d"]], widths: list[float], precision: Precision) -> list[Points]:
    """Each domain less the mean of all rows, scaled to the widest bandwidth, in the dtype of the products.

    The kernel ignores translation, and short vectors lose fewer digits in |x|² + |y|² - 2x·y.

    Raises:
        ValueError: a domain is empty, the widths differ, a row is not finite once scaled, or the precision is unknown.
    """
    shapes = [tuple(domain.shape) for domain in domains]
    if not all(domain.numel() for domain in domains) or len({width for _, width in shapes}) > 1:
        raise ValueError(f"kernels need rows of one width on every side, not of the shapes {shapes}")
    if precision not in get_args(Precision):
        raise ValueError(f"unknown precision {precision!r}: choose one of {', '.join(get_args(Precision))}")
    exact = torch.float32
    for domain in domains:
        exact = torch.promote_types(exact, domain.dtype)
    dtype = torch.bfloat16 if precision == "fast" else exact
    totals = torch.stack([sum(part.double().sum(0) for part in domain.split(CHUNK)) for domain in domains])
    counts = totals.new_tensor([len(domain) for domain in domains])[:, None]
    centre = totals.sum(0) / counts.sum()
    scale = math.sqrt(1 / (2 * math.log(2))) / widths[0]
    means = (totals / counts - centre) * scale
    return [_scaled(domain, number, centre, scale, means, dtype) for number, domain in enumerate(domains)]


def streamed_sums(x: Points, y: Points | None, rates: list[float], streaming: Streaming) -> Float[Tensor, "b n"]:
    """The sums of `kernel_sums` over prepared points, one row for each of the b rates.

    Raises:
        ValueError: `memory_mb` is not positive.
    """
    work = _Blocks(x, y, rates, _block_side(streaming.memory_mb, x.minus_squares))
    height = work.side * math.ceil(len(x) / (STRIPS * work.side))
    starts = range(0, len(x), height)
    kept = None if streaming.checkpoint is None else streaming.checkpoint / work.fingerprint(height)
    sums = x.minus_squares.new_zeros(len(rates), len(x), dtype=torch.float64)
    mine = _dealt(len(starts), streaming.group)
    for number in tqdm(mine, desc="kernel sums", mininterval=2.0, delay=2.0):
        start = starts[number]
        part = _once(work, start, height, kept and kept / f"{number:02}.npy")
        sums[:, start : start + part.shape[1]] += part
    if streaming.group is not None:
        distributed.all_reduce(sums, group=streaming.group)
    shift = x.shifts[:, work.y.domain]
    return sums * torch.exp2(-sums.new_tensor(rates)[:, None] * shift)


class _Blocks:
    """The kernel matrix of x with y, or of x with itself, one block at a time in buffers that are used again."""

    def __init__(self, x: Points, y: Points | None, rates: list[float], side: int) -> None:
        self.x, self.y, self.rates, self.side = x, x if y is None else y, rates, side
        self.symmetric = y is None
        self.squarings = _squarings(rates)
        cells = min(side, len(self.x)) * min(side, len(self.y))
        self.values = x.minus_squares.new_empty(cells)
        self.product = None if x.rows.dtype == self.values.dtype else x.rows.new_empty(cells)

    def strip(self, start: int, stop: int) -> Float[Tensor, "b _"]:
        """What rows `start` to `stop` add: to themselves, and under symmetry to all rows from `start` on."""
        width = (len(self.x) if self.symmetric else stop) - start
        sums = self.values.new_zeros(len(self.rates), width, dtype=torch.float64)
        with _full_precision():
            for i in range(start, stop, self.side):
                rows = slice(i, min(i + self.side, stop))
                doubled = self.x.rows[rows] * 2
                for j in range(i if self.symmetric else 0, len(self.y), self.side):
                    on_diagonal = self.symmetric and i == j
                    block = self._exponents(doubled, rows, slice(j, j + self.side), on_diagonal)
                    # Within a block float32 sums of at most `side` numbers; float64 across blocks.
                    for number, values in enumerate(self._kernels(block)):
                        sums[number, i - start : rows.stop - start] += values.sum(1)
                        if self.symmetric and not on_diagonal:
                            sums[number, j - start : j - start + values.shape[1]] += values.sum(0)
        return sums

    def fingerprint(self, height: int) -> str:
        """A name that two calls share only if their strips are the same."""
        digest = hashlib.blake2b(f"{self.rates} {self.side} {height} {self.symmetric}".encode(), digest_size=12)
        for points in [self.x] if self.symmetric else [self.x, self.y]:
            digest.update(f"{points.rows.dtype} {tuple(points.rows.shape)}".encode())
            for part in (*points.minus_squares.split(CHUNK), *points.rows.split(CHUNK)):
                digest.update(part.contiguous().view(torch.uint8).numpy(force=True))
        return digest.hexdigest()

    def _exponents(
        self, doubled: Float[Tensor, "p d"], rows: slice, columns: slice, on_diagonal: bool
    ) -> Float[Tensor, "p q"]:
        other = self.y.rows[columns]
        shape = len(doubled), len(other)
        values = self.values[: math.prod(shape)].view(shape)
        if self.product is None:
            torch.mm(doubled, other.T, out=values)
        else:
            values.copy_(torch.mm(doubled, other.T, out=self.product[: math.prod(shape)].view(shape)))
        values.add_(self.y.minus_squares[columns]).add_(self.x.minus_squares[rows, None]).clamp_(max=0)
        return values.fill_diagonal_(0) if on_diagonal else values

    def _kernels(self, exponents: Float[Tensor, "p q"]) -> Iterator[Float[Tensor, "p q"]]:
        if self.squarings is None:
            yield from ((exponents * rate).exp2_() for rate in self.rates)
            return
        # exp2 costs a third of exp on a CPU
        values = exponents.exp2_()
        for times in self.squarings:
            for _ in range(times):
                values.mul_(values)
            yield values


def _squarings(rates: list[float]) -> list[int] | None:
    """How often to square the previous kernel to get each; None where a rate is no power of two of the one before."""
    powers = [math.log2(rate / before) for rate, before in zip(rates, [1.0, *rates], strict=False)]
    if any(abs(power - round(power)) > 1e-9 for power in powers):
        return None
    return [round(power) for power in powers]


def _once(work: _Blocks, start: int, height: int, file: Path | None) -> Float[Tensor, "b _"]:
    stop = min(start + height, len(work.x))
    if file is None:
        return work.strip(start, stop)
    if not file.exists():
        with atomic(file) as part:
            np.save(part, work.strip(start, stop).numpy(force=True))
    try:
        return torch.from_numpy(np.load(file)).to(work.values.device)
    except (EOFError, ValueError) as error:
        raise ValueError(f"the kept sums in {file} cannot be read, so delete it and start again: {error}") from error


def _dealt(strips: int, group: ProcessGroup | None) -> list[int]:
    # Forth and back over the ranks (0, 1, 1, 0, ...): strips of a triangle shrink steadily, so the shares come out
    # even.
    if group is None:
        return list(range(strips))
    rank, ranks = distributed.get_rank(group), distributed.get_world_size(group)
    return [s for s in range(strips) if rank == min(s % (2 * ranks), 2 * ranks - 1 - s % (2 * ranks))]


def _scaled(
    domain: Float[Tensor, "n d"],
    number: int,
    centre: Tensor,
    scale: float,
    means: Float[Tensor, "k d"],
    dtype: torch.dtype,
) -> Points:
    accumulated = torch.promote_types(dtype, torch.float32)
    rows = torch.empty_like(domain, dtype=dtype, memory_format=torch.contiguous_format)
    minus_squares = domain.new_empty(len(domain), dtype=accumulated)
    shifts = domain.new_empty(len(domain), len(means), dtype=torch.float64)
    for start in range(0, len(domain), CHUNK):
        part = slice(start, start + CHUNK)
        precise = (domain[part].double() - centre) * scale
        rows[part] = precise
        minus_squares[part] = -precise.square().sum(1)
        shifts[part] = 2 * (rows[part].double() - precise) @ means.T
    bad = (~minus_squares.isfinite()).nonzero().flatten()
    if len(bad):
        raise ValueError(
            f"{len(bad)} of {len(domain)} rows hold NaN or infinity once divided by the bandwidth, the first is row "
            f"{int(bad[0])}: give the bandwidth in the unit of the features, and extract what is not finite again"
        )
    return Points(rows, minus_squares, shifts, number)


def _block_side(memory_mb: float | int, values: Tensor) -> int:
    if not memory_mb > 0:
        raise ValueError(f"memory_mb must be positive, not {memory_mb}")
    largest = LARGEST_BLOCK.get(values.device.type, LARGEST_BLOCK_OF_A_GPU)
    return max(1, min(largest, math.isqrt(int(memory_mb * 2**20 / (BUFFERS * values.element_size())))))


@contextmanager
def _full_precision() -> Iterator[None]:
    # A caller may have allowed reduced float32 products, as training does; "exact" would then not be exact. Either of
    # torch's two interfaces may have allowed it; these attributes follow both.
    backends = torch.backends.mkldnn.matmul, torch.backends.cuda.matmul
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "ieee"
    try:
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision
