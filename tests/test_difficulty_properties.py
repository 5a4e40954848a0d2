"""Claims about the two lessons that hold for any features and losses, and what bad ones are answered with."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from miniature import grays
from scipy.stats import rankdata

from irgpt_lib.curriculum import kernels
from irgpt_lib.curriculum.alignment import clip_losses, codes, loss_change
from irgpt_lib.curriculum.kernels import kernel_sums
from irgpt_lib.curriculum.mmd import distance_by_bandwidth, median_bandwidth, projected_distance
from irgpt_lib.curriculum.permutation import permutation_test
from irgpt_lib.curriculum.random_features import approximate_distance
from irgpt_lib.curriculum.ranking import rank_by_lessons
from irgpt_lib.curriculum.schedule import CUMULATIVE, SCHEDULES, order_table
from irgpt_lib.curriculum.weights import sample_weights
from irgpt_lib.evaluation import caption_noise, difficulty_checks
from irgpt_lib.models import clip

property_test = settings(max_examples=25, deadline=None, database=None)
shapes = st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 64), st.integers(0, 10_000))
SIGMOID_OF_1 = 1 / (1 + math.exp(-1))

LESSON_1 = {
    "exact": lambda x, v: projected_distance(x, v, bandwidth=1.0),
    "fast": lambda x, v: projected_distance(x, v, bandwidth=1.0, precision="fast"),
    "by bandwidth": lambda x, v: distance_by_bandwidth(x, v, bandwidths=[1.0, 2.0])[0],
    "random features": lambda x, v: approximate_distance(x, v, bandwidth=1.0, features=16, seed=0),
}
UNRANKED = {
    "bandwidth": lambda x, v: median_bandwidth(x, v, seed=0),
    "permutation": lambda x, v: permutation_test(x, v, bandwidth=1.0, seed=0, permutations=9),
}


def rows(n, d, seed, shift=0.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + shift


def dense_distance(infrared, visible, widths):
    """Eq. 1-3 from whole float64 matrices of explicit differences; the MMD and the distances in Figure 5's sign."""

    def kernel(x, y):
        squared = (x.double()[:, None] - y.double()).square().sum(-1)
        return torch.stack([(squared / (-2 * width**2)).exp() for width in widths]).mean(0)

    to_infrared, to_visible = kernel(infrared, infrared).mean(1), kernel(infrared, visible).mean(1)
    mmd = (to_infrared.mean() + kernel(visible, visible).mean() - 2 * to_visible.mean()).sqrt()
    witness = to_visible - to_infrared
    return mmd.item(), mmd - (witness - witness.mean()) / mmd, witness


@given(shapes, st.sampled_from([[1.0], [0.5, 1.0, 2.0], [0.7, 1.0]]), st.sampled_from([0.0, 100.0]))
@property_test
def test_float32_distances_agree_with_the_dense_reference_to_1e_5(shape, factors, origin):
    n, m, d, seed = shape
    infrared, visible = rows(n, d, seed, origin), rows(m, d, seed + 1, origin + 1)
    widths = [factor * 2 * math.sqrt(d) for factor in factors]
    mmd, expected, witness = dense_distance(infrared, visible, widths)
    found = projected_distance(infrared, visible, bandwidth=widths, memory_mb=1e-3)
    # the largest distance, for one that happens to be near 0 keeps the absolute precision of the others
    assert (found.distance - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert found.mmd == pytest.approx(mmd, rel=1e-5)
    assert found.distance.mean().item() == pytest.approx(found.mmd, rel=1e-9)
    assert (found.distance[(-witness).argsort()].diff() >= -1e-5 * expected.abs().max()).all()


@given(shapes, st.sampled_from(["exact", "fast"]), st.sampled_from([1e-4, 1e-3, 1e-2]))
@property_test
def test_no_block_size_changes_a_distance_beyond_rounding(shape, precision, memory_mb):
    n, m, d, seed = shape
    infrared, visible = rows(n, d, seed), rows(m, d, seed + 1, 1.0)
    options = {"bandwidth": [math.sqrt(d), 2 * math.sqrt(d)], "precision": precision}
    small, large = (projected_distance(infrared, visible, memory_mb=mb, **options) for mb in (memory_mb, 64))
    tolerance = 1e-5 if precision == "exact" else 1e-2  # a bfloat16 product may round otherwise in another shape
    torch.testing.assert_close(small.distance, large.distance, rtol=tolerance, atol=tolerance)


def test_within_a_domain_each_pair_of_blocks_is_multiplied_once(monkeypatch):
    shapes_seen = []
    compute = kernels._Blocks._exponents

    def watch(work, doubled, rows, columns, on_diagonal):
        block = compute(work, doubled, rows, columns, on_diagonal)
        shapes_seen.append(tuple(block.shape))
        return block

    monkeypatch.setattr(kernels._Blocks, "_exponents", watch)
    side_4 = 4 * 4 * kernels.BUFFERS * 4 / 2**20
    kernel_sums(rows(20, 2, 0), bandwidth=[1.0, 2.0, 4.0], memory_mb=side_4)
    assert shapes_seen == [(4, 4)] * (5 * 6 // 2)
    shapes_seen.clear()
    kernel_sums(rows(20, 2, 0), rows(12, 2, 1), bandwidth=1.0, memory_mb=side_4)
    assert shapes_seen == [(4, 4)] * (5 * 3)


@given(st.integers(2, 60), st.integers(1, 5), st.integers(1, 20), st.integers(0, 10_000))
@property_test
def test_a_domain_repeated_has_the_same_centre_and_so_no_direction(n, times, d, seed):
    infrared = rows(n, d, seed)
    for lesson in LESSON_1.values():
        with pytest.raises(ValueError, match="no direction leads from one to the other"):
            lesson(infrared, infrared.flip(0).repeat(times, 1))


@pytest.mark.parametrize("call", [*LESSON_1.values(), *UNRANKED.values()], ids=[*LESSON_1, *UNRANKED])
def test_every_way_into_lesson_1_refuses_bad_features_by_name(call):
    good = rows(5, 3, 0)
    broken = good.clone()
    broken[1, 2] = math.nan
    bad = [
        (broken, good, "1 of 5 infrared rows hold NaN or infinity, the first is row 1"),
        (good, broken * math.inf, "5 of 5 visible rows hold NaN"),
        (torch.ones(4, 3), good, "all 4 infrared rows are the same vector"),
        (good, torch.empty(0, 3), "the visible domain is empty"),
    ]
    for infrared, visible, message in bad:
        with pytest.raises(ValueError, match=message):
            call(infrared, visible)


@pytest.mark.parametrize("call", LESSON_1.values(), ids=LESSON_1)
def test_one_sample_on_either_side_is_scored(call):
    one, many = rows(1, 3, 0), rows(5, 3, 1, 2.0)
    for infrared, visible in ((one, many), (many, one), (one, many[:1])):
        found = call(infrared, visible)
        assert len(found.distance) == len(infrared)
        assert found.distance.mean().item() == pytest.approx(found.mmd, rel=1e-6)


def test_no_relabelling_tells_two_samples_or_two_equal_domains_apart():
    x = rows(5, 3, 0)
    assert permutation_test(x[:1], x[1:2], bandwidth=1.0, seed=0, permutations=9).p_value == 1
    assert permutation_test(x, x.repeat(3, 1), bandwidth=1.0, seed=0, permutations=9).p_value == 1


@pytest.mark.parametrize(
    ("x", "y", "bandwidth", "message"),
    [
        (torch.empty(0, 3), None, 1.0, "need rows of one width"),
        (torch.empty(0, 3), rows(2, 3, 0), 1.0, "need rows of one width"),
        (rows(2, 3, 0), torch.empty(0, 3), 1.0, "need rows of one width"),
        (torch.tensor([[0.0], [math.nan]]), None, 1.0, "hold NaN or infinity once divided by the bandwidth"),
        (rows(3, 3, 0), None, 1e-30, "3 of 3 rows hold NaN or infinity .* unit of the features"),
    ],
)
def test_sums_that_would_be_no_number_are_refused(x, y, bandwidth, message):
    with pytest.raises(ValueError, match=message):
        kernel_sums(x, y, bandwidth=bandwidth)


def test_a_bandwidth_that_no_random_feature_can_hold_is_refused():
    with pytest.raises(ValueError, match="not in the unit of the features"):
        approximate_distance(rows(3, 2, 0), rows(3, 2, 1), bandwidth=1e-40, features=8, seed=0)


changes = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=15)


@given(changes, changes)
@property_test
def test_eq_5_at_the_median_of_either_side(worse, better):
    # an odd number on each side, so that the median is a sample
    worse, better = (side[: len(side) - 1 + len(side) % 2] for side in (worse, better))
    alpha = torch.tensor([*worse, *(-b for b in better)], dtype=torch.float64)
    weight = sample_weights(alpha, form="literal").numpy()
    at_worse, at_better = np.argsort(worse)[len(worse) // 2], np.argsort(better)[len(better) // 2]
    assert weight[at_worse] == pytest.approx(1 - SIGMOID_OF_1) and round(weight[at_worse], 3) == 0.269
    assert weight[len(worse) + at_better] == pytest.approx(1 + SIGMOID_OF_1)
    assert round(weight[len(worse) + at_better], 3) == 1.731


@given(changes, changes, st.floats(1e-12, 1e-9))
@property_test
def test_eq_5_jumps_by_1_at_zero_and_its_continuous_form_does_not(worse, better, near):
    alpha = torch.tensor([0.0, -near, near, *(2 * [*worse]), *(-b for b in 2 * better)], dtype=torch.float64)
    literal, continuous = (sample_weights(alpha, form=form) for form in ("literal", "continuous"))
    np.testing.assert_allclose(literal[:3], [1.5, 1.5, 0.5], atol=1e-5)
    np.testing.assert_allclose(continuous[:3], 1, atol=1e-5)


@given(changes, st.sampled_from([1, -1]))
@property_test
def test_one_sided_alpha_is_weighed_as_if_the_other_side_were_there(magnitudes, side):
    alpha = side * torch.tensor(magnitudes, dtype=torch.float64)
    both = torch.cat([alpha, torch.tensor([-side * 5.0], dtype=torch.float64)])
    torch.testing.assert_close(
        sample_weights(alpha, form="literal"), sample_weights(both, form="literal")[: len(magnitudes)]
    )


@given(st.lists(st.tuples(st.sampled_from([0.0, 1e-9, 1e-3, 2.0]), st.floats(0, 50)), min_size=1, max_size=20))
@property_test
def test_any_losses_even_of_zero_have_a_rate_and_a_weight(losses):
    before, after = torch.tensor(losses, dtype=torch.float64).T
    alpha, lifted = loss_change(before, after)
    assert alpha.isfinite().all() and (alpha >= -1).all() and lifted == (before < 1e-6).sum()
    assert sample_weights(alpha, form="literal").isfinite().all()


@given(st.integers(3, 20), st.integers(0, 1000), st.permutations(range(20)))
@property_test
def test_a_loss_does_not_depend_on_the_order_of_samples_or_bank(n, seed, shuffle):
    order = torch.tensor([i for i in shuffle if i < n])
    image, text = rows(n, 4, seed).double(), rows(n, 4, seed + 1).double()
    caption, group = torch.arange(n) // 2, torch.arange(n) % 3 - 1
    options = {"logit_scale": 5.0, "memory_mb": 1e-3}
    whole = clip_losses(image, text, bank=torch.arange(n), caption_id=caption, group_id=group, **options)
    moved = clip_losses(
        image[order], text[order], bank=order, caption_id=caption[order], group_id=group[order], **options
    )
    torch.testing.assert_close(moved, whole[order])


@pytest.mark.parametrize(
    ("captions", "groups"),
    [(["a car"] * 4, [""] * 4), (["a car", "a bus", "a dog", "a man"], ["sequence 1"] * 4), (["a car"], [""])],
    ids=["one caption", "one sequence", "one sample"],
)
def test_lesson_2_takes_neither_equal_captions_nor_one_sequence_for_negatives(captions, groups):
    size = {"image_px": 64, "patch_px": 32, "width": 32, "layers": 1, "text_width": 32, "text_layers": 1}
    reader = clip.build_clip(**size, embedding=8, context=8, seed=0)
    options = {"bank": 4, "epochs": 0, "batch_size": 1, "lr": 1e-3, "seed": 0}
    with pytest.raises(ValueError, match="sample 0 .* has no negative"):
        clip.lesson2(reader, grays(len(captions)), captions, groups, **options)


@given(st.lists(st.floats(-5, 5, width=16), min_size=2, max_size=15, unique=True), st.sampled_from(["use", "anti"]))
@property_test
def test_one_lesson_alone_is_its_own_ranking(score, use):
    score = torch.tensor(score, dtype=torch.float64)
    ids = [str(i) for i in range(len(score))]
    expected = rankdata(score if use == "use" else -score, method="ordinal") - 1
    for switches, lessons in (((use, "none"), (score, score.flip(0))), (("none", use), (score.flip(0), score))):
        rank = rank_by_lessons(*lessons, use1=switches[0], use2=switches[1], sample_ids=ids)
        assert rank.tolist() == expected.tolist()


@pytest.mark.parametrize("schedule", [*SCHEDULES, CUMULATIVE])
def test_no_schedule_takes_more_tiers_than_samples(schedule):
    scores = pd.DataFrame({"sample_id": ["a", "b"], "rank": [0, 1], "alpha": [0.0, 1.0]})
    options = {"schedule": schedule, "weights": "literal", "batch_size": 2, "epochs": 1, "seed": 0}
    assert len(order_table(scores, tiers=2, **options)) == 2
    with pytest.raises(ValueError, match="2 samples cannot fill 3 tiers"):
        order_table(scores, tiers=3, **options)


@pytest.mark.parametrize("missing", [None, math.nan])
def test_a_missing_label_is_no_group_of_its_own(missing):
    with pytest.raises(ValueError, match="1 of 3 labels are missing, the first is that of row 1"):
        codes(pd.Series(["a", missing, "a"], dtype=object))


def checked():
    return pd.DataFrame(
        {"sample_id": list("abcd"), "group": "", "kind": "scene", "swapped": [True, False] * 2, "loss": range(4)}
    )


@pytest.mark.parametrize("column", ["group", "kind", "swapped"])
def test_an_interval_needs_every_samples_group_kind_and_truth(column):
    table = checked().astype({column: object})
    table.loc[2, column] = None
    with pytest.raises(ValueError, match=f"{column} of sample 'c' is missing"):
        difficulty_checks.auc_intervals(table, ["loss"], positive="swapped", within="kind", seed=0)


def test_an_empty_table_is_said_to_be_empty():
    with pytest.raises(ValueError, match="the table of scores is empty"):
        difficulty_checks.auc_intervals(checked()[:0], ["loss"], positive="swapped", seed=0)
    with pytest.raises(ValueError, match="the table of scores is empty"):
        difficulty_checks.agreement(pd.DataFrame({"a": [], "b": []}), pd.Series([], dtype=str), seed=0)


def test_captions_of_a_repeated_id_are_not_swapped():
    twice = checked().assign(sample_id=["a", "b", "b", "d"], caption=list("wxyz"), caption_from="")
    with pytest.raises(ValueError, match="1 sample ids repeat, the first is 'b'"):
        caption_noise.swap_captions(twice, 0.5, seed=0)
