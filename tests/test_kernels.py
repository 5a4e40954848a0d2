import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from irgpt_lib.curriculum import kernels
from irgpt_lib.curriculum.kernels import kernel_sums
from irgpt_lib.curriculum.mmd import bandwidth_ladder, distance_by_bandwidth, projected_distance, rank_agreement

shapes = st.tuples(st.integers(2, 40), st.integers(2, 40), st.integers(1, 5), st.integers(0, 10_000))
property_test = settings(max_examples=25, deadline=None, database=None)
BLOCKS_OF_8 = 8 * 8 * kernels.BUFFERS * 8 / 2**20  # MiB, in float64


def rows(n, d, seed, dtype=torch.float64):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def dense(x, y, widths):
    squared = (x.double()[:, None] - y.double()).square().sum(-1)
    return torch.stack([(-squared / (2 * width**2)).exp().sum(1) for width in widths]).mean(0)


@given(shapes, st.sampled_from([[1.3], [1.0, 2.0, 4.0], [3.0, 1.0], [0.9, 2.0, 0.9]]))
@property_test
def test_sums_are_those_of_the_whole_matrix_on_a_ladder_and_off_it(shape, widths):
    n, m, d, seed = shape
    x, y = rows(n, d, seed), rows(m, d, seed + 1)
    for other in (None, y):
        sums = kernel_sums(x, other, bandwidth=widths, memory_mb=BLOCKS_OF_8)
        torch.testing.assert_close(sums, dense(x, x if other is None else other, widths), rtol=1e-12, atol=1e-12)


def test_the_features_are_left_as_they_were():
    x, y = rows(5, 3, seed=0), rows(6, 3, seed=1)
    before = x.clone(), y.clone()
    projected_distance(x, y, bandwidth=1.0)
    assert torch.equal(x, before[0]) and torch.equal(y, before[1])


@pytest.mark.parametrize("widths", [[1.0, 2.0], [1.5, 2.5]])
def test_one_pass_gives_the_lesson_of_every_bandwidth(widths):
    x, y = rows(40, 4, seed=0), rows(30, 4, seed=1) + 1
    found = distance_by_bandwidth(x, y, bandwidths=widths)
    assert [lesson.bandwidth for lesson in found] == sorted(widths, reverse=True)
    for lesson in found:
        alone = projected_distance(x, y, bandwidth=lesson.bandwidth)
        torch.testing.assert_close(lesson.distance, alone.distance)


def test_a_ladder_is_served_by_one_exponential():
    assert kernels._squarings(kernels.rates(bandwidth_ladder(0.7, steps=2))) == [0, 1, 1, 1, 1]
    assert kernels._squarings(kernels.rates([3.0, 1.0])) is None
    assert bandwidth_ladder(1.0, steps=1) == pytest.approx([math.sqrt(2), 1, 1 / math.sqrt(2)])


def test_fast_products_keep_the_ranking():
    x, y = rows(600, 64, seed=0, dtype=torch.float32), rows(500, 64, seed=1, dtype=torch.float32) + 0.3
    exact = projected_distance(x.double(), y.double(), bandwidth=8.0)
    fast = projected_distance(x, y, bandwidth=8.0, precision="fast")
    assert fast.mmd == pytest.approx(exact.mmd, rel=1e-2)
    assert fast.distance.mean().item() == pytest.approx(fast.mmd, rel=1e-9)
    agreement = rank_agreement(x, y, fast, seed=0)
    assert agreement.spearman >= 0.99999
    assert agreement.samples == 600


def test_what_rounding_adds_to_a_row_is_taken_out_of_its_sums():
    x, y = rows(400, 64, seed=0), rows(300, 64, seed=1) + 0.5
    expected = kernel_sums(x, y, bandwidth=8.0)
    (ours, theirs), streaming = kernels.prepare([x, y], [8.0], "fast"), kernels.Streaming()
    uncorrected = replace(ours, shifts=torch.zeros_like(ours.shifts))
    lost, left = (
        (kernels.streamed_sums(points, theirs, [1.0], streaming)[0] / expected - 1).std()
        for points in (uncorrected, ours)
    )
    assert left < lost / 2


def test_exact_stays_exact_where_training_allows_less():
    x = rows(50, 8, seed=0, dtype=torch.float32)
    expected = kernel_sums(x, bandwidth=1.0)
    torch.set_float32_matmul_precision("medium")
    try:
        assert torch.equal(kernel_sums(x, bandwidth=1.0), expected)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize(
    ("backend", "less"), [(torch.backends.mkldnn.matmul, "bf16"), (torch.backends.cuda.matmul, "tf32")]
)
def test_a_precision_allowed_for_one_backend_is_put_back(monkeypatch, backend, less):
    seen = []
    compute = kernels._Blocks._exponents

    def watch(*args):
        seen.append(backend.fp32_precision)
        return compute(*args)

    monkeypatch.setattr(kernels._Blocks, "_exponents", watch)
    before = backend.fp32_precision
    backend.fp32_precision = less
    try:
        kernel_sums(rows(5, 2, seed=0, dtype=torch.float32), bandwidth=1.0)
        assert backend.fp32_precision == less
    finally:
        backend.fp32_precision = before
    assert seen == ["ieee"]


def test_unknown_precision_is_refused():
    with pytest.raises((ValueError, TypeCheckError)):
        kernel_sums(rows(2, 1, seed=0), bandwidth=1.0, precision="double")


def test_memory_budget_bounds_the_blocks():
    values = torch.empty(0)
    for budget in (0.001, 0.1, 1):
        side = kernels._block_side(budget, values)
        assert kernels.BUFFERS * side**2 * 4 <= budget * 2**20 < kernels.BUFFERS * (side + 1) ** 2 * 4
    assert kernels._block_side(10_000, values) == kernels.LARGEST_BLOCK["cpu"]


class Stopped(Exception):
    pass


@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_a_stopped_run_goes_on_from_its_strips(tmp_path, monkeypatch, precision):
    x, y = rows(100, 4, seed=0), rows(90, 4, seed=1) + 1
    options = {"bandwidth": [1.0, 2.0], "memory_mb": BLOCKS_OF_8, "precision": precision, "checkpoint": tmp_path}
    expected = projected_distance(x, y, **(options | {"checkpoint": None}))
    done = []
    compute = kernels._Blocks.strip

    def stop_at_the_16th(work, start, stop):
        if len(done) == 15:
            raise Stopped
        done.append(start)
        return compute(work, start, stop)

    monkeypatch.setattr(kernels._Blocks, "strip", stop_at_the_16th)
    with pytest.raises(Stopped):
        projected_distance(x, y, **options)
    assert len(list(tmp_path.rglob("*.npy"))) == 15

    def count(work, start, stop):
        done.append(start)
        return compute(work, start, stop)

    monkeypatch.setattr(kernels._Blocks, "strip", count)
    again = projected_distance(x, y, **options)
    assert torch.equal(again.distance, expected.distance)
    assert len(done) == len(list(tmp_path.rglob("*.npy")))


@pytest.mark.parametrize("change", ["features", "bandwidth", "precision", "memory_mb"])
def test_strips_of_other_inputs_are_not_taken(tmp_path, change):
    x = rows(60, 3, seed=0)
    options = {"bandwidth": 1.0, "memory_mb": BLOCKS_OF_8}
    kernel_sums(x, checkpoint=tmp_path, **options)
    others = {"bandwidth": 1.5, "precision": "fast", "memory_mb": 2 * BLOCKS_OF_8}
    if change == "features":
        x = x.clone()
        x[-1, -1] += 1e-9
    else:
        options[change] = others[change]
    fresh = kernel_sums(x, **options)
    assert torch.equal(kernel_sums(x, checkpoint=tmp_path, **options), fresh)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_damaged_strip_is_an_error_and_not_a_result(tmp_path):
    x = rows(60, 3, seed=0)
    kernel_sums(x, bandwidth=1.0, checkpoint=tmp_path)
    file = next(tmp_path.rglob("*.npy"))
    for damage in (b"", np.random.default_rng(0).bytes(100)):
        file.write_bytes(damage)
        with pytest.raises(ValueError, match=f"{file.name} .* delete it"):
            kernel_sums(x, bandwidth=1.0, checkpoint=tmp_path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_a_gpu_agrees_with_the_processor(precision):
    x, y = rows(700, 16, seed=0, dtype=torch.float32), rows(600, 16, seed=1, dtype=torch.float32) + 0.5
    here = projected_distance(x, y, bandwidth=4.0)
    there = projected_distance(x.cuda(), y.cuda(), bandwidth=4.0, precision=precision)
    tolerance = 1e-5 if precision == "exact" else 1e-2
    torch.testing.assert_close(there.distance.cpu(), here.distance, rtol=tolerance, atol=tolerance)
