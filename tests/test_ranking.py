import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from irgpt_lib.curriculum.ranking import combine, rank_by_lessons, ranks, tiers

property_test = settings(max_examples=60, deadline=None, database=None)
METHODS = ["borda", "lambda", "z_sum", "max", "lexicographic"]


def combined(lesson1, lesson2, ids="abcdefgh", **options):
    scores = torch.tensor([lesson1, lesson2], dtype=torch.float64)
    return combine(*scores, sample_ids=list(ids[: len(lesson1)]), **options).tolist()


def test_the_lowest_score_ranks_0():
    assert ranks(torch.tensor([0.9, 0.1, 0.5])).tolist() == [2, 0, 1]


def test_equal_scores_go_by_tie_break_then_by_index():
    score = torch.tensor([1.0, 1.0, 1.0, 0.0])
    assert ranks(score).tolist() == [1, 2, 3, 0]
    assert ranks(score, torch.tensor([7, 7, 2, 9])).tolist() == [2, 3, 1, 0]


def test_a_nan_has_no_rank():
    with pytest.raises(ValueError, match="NaN"):
        ranks(torch.tensor([0.0, math.nan]))


def test_borda_is_the_mean_of_the_two_ranks():
    # ranks 0 3 1 2 and 1 2 0 3: means 0.5 2.5 0.5 2.5, each tie to the lower Lesson-2 rank
    assert combined([0.0, 9.0, 0.1, 0.2], [5.0, 6.0, 4.0, 7.0]) == [1, 2, 0, 3]


def test_a_tie_in_both_lessons_goes_by_id_not_by_row():
    assert combined([1.0, 1.0, 0.0], [1.0, 1.0, 0.0], ids="bac") == [2, 1, 0]


def test_one_outlying_score_does_not_outvote_a_rank():
    assert combined([0.0, 1.0, 2.0], [0.0, 1.0, 2.0]) == combined([0.0, 1.0, 1e9], [0.0, 1.0, 2.0])


def test_the_weight_of_lambda_runs_from_lesson_2_alone_to_lesson_1_alone():
    lesson1, lesson2 = [0.0, 1.0, 2.0], [2.0, 0.0, 1.0]
    assert combined(lesson1, lesson2, method="lambda", weight=1) == [0, 1, 2]
    assert combined(lesson1, lesson2, method="lambda", weight=0) == [2, 0, 1]
    assert combined(lesson1, lesson2, method="lambda") == combined(lesson1, lesson2, method="borda")


def test_z_sum_weighs_distances_where_borda_counts_places():
    # The lessons rank in opposite order, so every Borda score ties; sample 2 is far out in Lesson 1 only.
    lesson1, lesson2 = [0.0, 0.1, 10.0], [2.0, 1.0, 0.0]
    assert combined(lesson1, lesson2, method="z_sum") == [2, 0, 1]
    assert combined(lesson1, lesson2, method="borda") == [2, 1, 0]


def test_max_takes_the_worse_lesson():
    # worse ranks: 3, 1, 2, 3; the tie goes to sample 3, whose Lesson-2 rank is lower
    assert combined([0.0, 1.0, 2.0, 3.0], [3.0, 1.0, 2.0, 0.0], method="max") == [3, 0, 1, 2]


def test_lexicographic_asks_lesson_2_only_where_lesson_1_ties():
    assert combined([1.0, 1.0, 0.0], [3.0, 2.0, 9.0], method="lexicographic") == [2, 1, 0]


def test_negated_scores_reverse_a_lesson():
    assert combined([-1.0, -2.0, -3.0], [-1.0, -2.0, -3.0]) == [2, 1, 0]


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=20),
    st.sampled_from(METHODS),
    st.randoms(use_true_random=False),
)
@property_test
def test_a_ranking_is_a_permutation_that_ignores_the_order_of_rows(scores, method, random):
    if method == "z_sum":
        scores = [*scores, (6, 6), (7, 7)]
    ids = [f"sample-{i:02}" for i in range(len(scores))]
    shuffled = random.sample(range(len(ids)), len(ids))

    def rank_by_id(rows):
        lesson1, lesson2 = torch.tensor([scores[i] for i in rows], dtype=torch.float64).T
        names = [ids[i] for i in rows]
        rank = combine(lesson1, lesson2, method=method, sample_ids=names)
        return dict(zip(names, rank.tolist(), strict=True))

    ranked = rank_by_id(range(len(ids)))
    assert sorted(ranked.values()) == list(range(len(ids)))
    if method != "z_sum":  # means round differently in another order of rows, which can split exact ties
        assert rank_by_id(shuffled) == ranked


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": 1.5, "method": "lambda"}, "within 0 and 1"),
        ({"weight": 0.7, "method": "borda"}, "takes no weight"),
        ({"ids": "aab"}, "first is 'a'"),
        ({"ids": "ab"}, "2 ids"),
        ({"method": "z_sum"}, "lesson 2 gives every sample the same score"),
    ],
)
def test_what_cannot_be_combined_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        combined([0.0, 1.0, 2.0], [1.0, 1.0, 1.0], **options)


def test_a_score_that_is_no_number_is_refused_by_sample():
    with pytest.raises(ValueError, match="lesson 1: 1 scores .* 'b'"):
        combined([0.0, math.inf, 1.0], [0.0, 1.0, 2.0])


def test_an_unknown_method_is_refused():
    with pytest.raises((ValueError, TypeCheckError)):
        combined([0.0, 1.0], [0.0, 1.0], method="mean")


def test_seven_samples_in_three_tiers():
    assert tiers(torch.tensor([6, 5, 4, 3, 2, 1, 0]), 3).tolist() == [2, 2, 1, 1, 0, 0, 0]


@given(st.integers(1, 60), st.data())
@property_test
def test_tier_sizes_differ_by_at_most_one_and_follow_the_rank(n, data):
    m = data.draw(st.integers(1, n))
    tier = tiers(torch.arange(n), m)
    sizes = tier.bincount(minlength=m)
    assert len(sizes) == m and sizes.max() - sizes.min() <= 1 and (tier.diff() >= 0).all()


@pytest.mark.parametrize("m", [0, 4])
def test_more_tiers_than_samples_are_refused(m):
    with pytest.raises(ValueError, match=f"3 samples cannot fill {m} tiers: choose 1 to 3"):
        tiers(torch.arange(3), m)


def test_a_rank_that_repeats_is_refused():
    with pytest.raises(ValueError, match=r"rank must hold each of 0\.\.2 exactly once"):
        tiers(torch.tensor([0, 0, 2]), 1)


def switched(use1, use2, lesson1=(0.0, 9.0, 0.1, 0.2), lesson2=(5.0, 6.0, 4.0, 7.0), **options):
    scores = torch.tensor([lesson1, lesson2], dtype=torch.float64)
    ids = [f"s{i}" for i in range(len(lesson1))]
    return rank_by_lessons(*scores, use1=use1, use2=use2, sample_ids=ids, **options).tolist()


@pytest.mark.parametrize(
    ("use1", "use2", "expected"),
    [  # the rows of Table 3 that train on infrared; ranks 0 3 1 2 and 1 2 0 3
        ("use", "use", [1, 2, 0, 3]),
        ("anti", "anti", [2, 1, 3, 0]),  # 3 0 2 1 and 2 1 3 0: means 2.5 0.5 2.5 0.5, ties by anti-L2
        ("none", "anti", [2, 1, 3, 0]),
        ("none", "use", [1, 2, 0, 3]),
        ("anti", "none", [3, 0, 2, 1]),
        ("use", "none", [0, 3, 1, 2]),
    ],
)
def test_the_switches_of_table_3_by_hand(use1, use2, expected):
    assert switched(use1, use2) == expected


def test_a_lesson_that_is_off_breaks_no_ties():
    assert switched("use", "none", (1.0, 1.0, 0.0), (0.0, -1.0, 5.0)) == [1, 2, 0]


def test_the_method_joins_switched_lessons_too():
    assert switched("anti", "use", method="lambda", weight=1) == switched("anti", "none")


def test_without_a_lesson_nothing_is_ranked():
    with pytest.raises(ValueError, match="take the schedule random"):
        switched("none", "none")
    with pytest.raises((ValueError, TypeCheckError), match="unknown switch|use1"):
        switched("off", "use")
