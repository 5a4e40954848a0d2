import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from irgpt_lib.curriculum.mmd import (
    kernel_sums,
    median_bandwidth,
    projected_distance,
    rank_agreement,
    summarise_bands,
)

# k(x, y) = 2 ** -(x - y)², so that every kernel value can be read off.
POWERS_OF_TWO = 1 / math.sqrt(2 * math.log(2))

shapes = st.tuples(st.integers(2, 30), st.integers(2, 30), st.integers(1, 5), st.integers(0, 10_000))
property_test = settings(max_examples=40, deadline=None, database=None)


def column(*values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype)[:, None]


def two_domains(n, m, d, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    infrared = torch.randn(n, d, generator=generator, dtype=dtype)
    visible = torch.randn(m, d, generator=generator, dtype=dtype) + 1
    return infrared, visible


def dense_witness(infrared, visible, bandwidth):
    """f at each infrared sample and MMD², from whole float64 kernel matrices of explicit differences."""

    def kernel(x, y):
        difference = x.double()[:, None] - y.double()
        return (-difference.square().sum(-1) / (2 * bandwidth**2)).exp()

    witness = kernel(infrared, visible).mean(1) - kernel(infrared, infrared).mean(1)
    mmd_squared = (
        kernel(infrared, infrared).mean() + kernel(visible, visible).mean() - 2 * kernel(infrared, visible).mean()
    )
    return witness, mmd_squared.item()


def test_kernel_sums_of_three_points_are_powers_of_two():
    sums = kernel_sums(column(0, 1, 3), bandwidth=POWERS_OF_TWO)
    torch.testing.assert_close(
        sums, torch.tensor([1 + 1 / 2 + 1 / 512, 1 / 2 + 1 + 1 / 16, 1 / 512 + 1 / 16 + 1]).double()
    )


def test_kernel_sums_against_another_domain_need_no_equal_size():
    sums = kernel_sums(column(0, 2), column(0), bandwidth=POWERS_OF_TWO)
    torch.testing.assert_close(sums, torch.tensor([1, 1 / 16]).double())


def test_several_bandwidths_mean_the_mean_of_their_kernels():
    wide, narrow = 2 * POWERS_OF_TWO, POWERS_OF_TWO
    sums = kernel_sums(column(2), column(0), bandwidth=[narrow, wide])
    torch.testing.assert_close(sums, torch.tensor([(1 / 16 + 1 / 2) / 2]).double())


def test_two_single_samples_have_the_distance_of_their_feature_vectors():
    lesson = projected_distance(column(1.0), column(0.0), bandwidth=POWERS_OF_TWO)
    assert lesson.mmd_squared == pytest.approx(1 + 1 - 2 / 2)
    assert lesson.distance.tolist() == pytest.approx([1])


def test_bandwidth_makes_the_kernel_1_over_e_at_the_median_distance():
    sigma = median_bandwidth(column(0.0, 1.0), column(4.0), seed=0)  # distances 1, 3, 4
    assert sigma == pytest.approx(3 / math.sqrt(2))
    assert kernel_sums(column(0.0), column(3.0), bandwidth=sigma).item() == pytest.approx(1 / math.e)


def test_bandwidth_of_a_subsample_is_repeated_by_its_seed():
    infrared, visible = two_domains(200, 200, 3, seed=0)
    first, again, other = (median_bandwidth(infrared, visible, seed=s, sample=20) for s in (1, 1, 2))
    assert first == again != other


def test_samples_near_the_visible_domain_are_easy_as_figure_5_draws_it():
    near, middle, far = 1.0, 2.0, 3.0
    infrared, visible = column(far, near, middle), column(-1.0, 0.0, 1.0)
    as_drawn = projected_distance(infrared, visible, bandwidth=2.0)
    as_printed = projected_distance(infrared, visible, bandwidth=2.0, sign="printed")
    assert as_drawn.distance.argsort().tolist() == [1, 2, 0]
    assert as_printed.distance.argsort().tolist() == [0, 2, 1]


@given(shapes)
@property_test
def test_mean_distance_is_the_mmd_under_both_signs(shape):
    infrared, visible = two_domains(*shape)
    for sign in ("figure", "printed"):
        lesson = projected_distance(infrared, visible, bandwidth=1.5, sign=sign)
        assert lesson.distance.mean().item() == pytest.approx(lesson.mmd, rel=1e-9)
        assert lesson.mmd**2 == pytest.approx(lesson.mmd_squared)


@given(shapes)
@property_test
def test_ranking_is_that_of_the_negative_witness_function(shape):
    infrared, visible = two_domains(*shape)
    witness, _ = dense_witness(infrared, visible, 1.5)
    distance = projected_distance(infrared, visible, bandwidth=1.5).distance
    expected = (-witness).argsort()
    assert (distance[expected].diff() > -1e-12).all()


@given(shapes, st.sampled_from([1e-3, 1.0, 1e6]))
@property_test
def test_float32_agrees_with_the_dense_float64_reference(shape, unit):
    infrared, visible = (unit * x for x in two_domains(*shape, dtype=torch.float32))
    witness, mmd_squared = dense_witness(infrared, visible, 1.5 * unit)
    lesson = projected_distance(infrared, visible, bandwidth=1.5 * unit)
    mmd = math.sqrt(mmd_squared)
    expected = mmd - (witness - witness.mean()) / mmd
    # A difference of kernel means near 0 keeps their absolute precision, so small MMDs get an absolute bound
    # too.
    torch.testing.assert_close(lesson.distance, expected, rtol=1e-5, atol=2e-6 / mmd)
    assert lesson.mmd_squared == pytest.approx(mmd_squared, rel=1e-5, abs=1e-6)


@given(shapes, st.sampled_from([1e-4, 1e-3, 1e-2]))
@property_test
def test_memory_budget_does_not_change_the_scores(shape, memory_mb):
    infrared, visible = two_domains(*shape)
    small = projected_distance(infrared, visible, bandwidth=[1.0, 2.0], memory_mb=memory_mb)
    large = projected_distance(infrared, visible, bandwidth=[1.0, 2.0])
    torch.testing.assert_close(small.distance, large.distance, rtol=1e-10, atol=1e-10)


def test_identical_domains_have_no_direction():
    infrared, _ = two_domains(50, 50, 4, seed=0, dtype=torch.float32)
    for precision in ("exact", "fast"):
        with pytest.raises(ValueError, match="same set, so no direction"):
            projected_distance(infrared, infrared.flip(0), bandwidth=1.0, precision=precision)


def test_one_infrared_sample_has_the_mmd_for_its_distance():
    lesson = projected_distance(column(1.0), column(-1.0, 0.0, 2.0), bandwidth=1.0)
    assert lesson.distance.tolist() == [lesson.mmd]
    assert lesson.projection.tolist() == [0]


def test_a_single_visible_sample_is_a_domain():
    lesson = projected_distance(column(3.0, 1.0, 2.0), column(0.0), bandwidth=2.0)
    assert lesson.among_visible == pytest.approx(1)
    assert lesson.distance.argsort().tolist() == [1, 2, 0]


def test_a_summary_of_each_band_says_how_far_it_lies():
    near, far = two_domains(30, 40, 3, seed=1)
    _, visible = two_domains(2, 50, 3, seed=2)
    infrared = torch.cat([near - 3, far])
    lesson = projected_distance(infrared, visible, bandwidth=2.0)
    bands = ["tir"] * 30 + ["nir"] * 40
    nir, tir = summarise_bands(infrared, lesson, bands, visible_samples=50)
    assert (nir.band, nir.samples, tir.band, tir.samples) == ("nir", 40, "tir", 30)
    alone = projected_distance(infrared[:30], visible, bandwidth=2.0)
    assert tir.mmd_squared == pytest.approx(alone.mmd_squared)
    assert nir.mmd_squared < tir.mmd_squared
    distances = lesson.distance[:30]
    assert tir.mean == pytest.approx(distances.mean().item())
    assert [tir.quartile_1, tir.median, tir.quartile_3] == pytest.approx(
        distances.quantile(torch.tensor([0.25, 0.5, 0.75]).double()).tolist()
    )


def test_a_bands_unbiased_mmd_leaves_out_each_sample_with_itself():
    infrared, visible = column(0.0, 1.0), column(3.0, 4.0, 5.0)
    lesson = projected_distance(infrared, visible, bandwidth=POWERS_OF_TWO)
    (only,) = summarise_bands(infrared, lesson, ["tir", "tir"], visible_samples=3)
    across = 2 * lesson.to_visible.mean().item()
    assert only.mmd_squared_unbiased == pytest.approx(1 / 2 + (2 * (1 / 2 + 1 / 2 + 1 / 16)) / 6 - across)
    lone = summarise_bands(infrared, lesson, ["nir", "tir"], visible_samples=3)[0]
    assert math.isnan(lone.mmd_squared_unbiased) and lone.samples == 1


def test_summaries_and_agreement_refuse_another_number_of_samples():
    infrared, visible = two_domains(5, 5, 2, seed=0)
    lesson = projected_distance(infrared, visible, bandwidth=1.0)
    with pytest.raises(ValueError, match="one of each a sample"):
        summarise_bands(infrared, lesson, ["nir"] * 4, visible_samples=5)
    with pytest.raises(ValueError, match="one score a sample"):
        rank_agreement(infrared[:4], visible, lesson, seed=0)
    with pytest.raises(ValueError, match="2 of them"):
        rank_agreement(infrared, visible, lesson, seed=0, sample=1)


def test_an_exact_lesson_agrees_with_itself():
    infrared, visible = two_domains(50, 20, 2, seed=0)
    agreement = rank_agreement(
        infrared, visible, projected_distance(infrared, visible, bandwidth=1.0), seed=0, sample=30
    )
    assert (agreement.spearman, agreement.kendall, agreement.samples) == (pytest.approx(1), pytest.approx(1), 30)


@pytest.mark.parametrize(
    ("infrared", "visible", "message"),
    [
        (column(0.0, math.nan, math.inf), column(1.0), "2 of 3 infrared rows .* first is row 1"),
        (column(0.0), column(1.0, 1.0), "all 2 visible rows are the same vector"),
        (torch.empty(0, 1), column(1.0), "infrared domain is empty"),
        (torch.empty(2, 0), torch.empty(2, 0), "infrared domain is empty"),
    ],
)
def test_features_that_cannot_be_ranked_are_refused_by_name(infrared, visible, message):
    with pytest.raises(ValueError, match=message):
        projected_distance(infrared, visible, bandwidth=1.0)


def test_features_of_two_extractors_are_refused():
    with pytest.raises((ValueError, TypeCheckError)):
        projected_distance(torch.rand(3, 2), torch.rand(3, 4), bandwidth=1.0)


@pytest.mark.parametrize("bandwidth", [0.0, -1.0, math.nan, [], [1.0, 0.0]])
def test_bandwidth_must_be_positive(bandwidth):
    with pytest.raises(ValueError, match="bandwidth must be positive"):
        kernel_sums(column(0.0), bandwidth=bandwidth)


def test_memory_budget_must_be_positive():
    with pytest.raises(ValueError, match="memory_mb must be positive"):
        kernel_sums(column(0.0), bandwidth=1.0, memory_mb=0)


def test_no_bandwidth_fits_features_that_are_mostly_one_point():
    with pytest.raises(ValueError, match="median distance is 0"):
        median_bandwidth(column(0.0, 0.0, 0.0, 1.0), column(0.0, 0.0, 0.0, 1.0), seed=0)
