import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from irgpt_lib.curriculum.weights import sample_weights

alphas = st.lists(st.floats(-1, 1e6, width=32), min_size=1, max_size=30)
property_test = settings(max_examples=60, deadline=None, database=None)


def weigh(*alpha, form="literal"):
    return sample_weights(torch.tensor(alpha, dtype=torch.float64), form=form).tolist()


def test_at_the_medians_the_weights_are_0_269_and_1_731():
    alpha = (1.0, 2.0, 30.0, -0.1, -0.4, -0.9)  # medians 2 and 0.4
    weights = weigh(*alpha)
    assert weights[1] == pytest.approx(0.269, abs=5e-4)
    assert weights[4] == pytest.approx(1.731, abs=5e-4)


def test_the_median_of_an_even_count_is_the_middle_of_two():
    assert weigh(1.0, 3.0) == pytest.approx([1 / (1 + math.exp(0.5)), 1 / (1 + math.exp(1.5))])


def test_the_weight_jumps_from_1_5_to_0_5_at_zero():
    assert weigh(0.0, 1e-12, 1.0, -1.0)[:2] == pytest.approx([1.5, 0.5])


def test_zeros_count_into_the_median_of_the_improved_side():
    # -alpha of that side: 0, 0.2, 0.4, median 0.2
    assert weigh(0.0, -0.2, -0.4)[1] == pytest.approx(1.731, abs=5e-4)


def test_a_side_whose_median_is_zero_has_scale_1():
    assert weigh(0.0, 0.0, -math.log(3)) == pytest.approx([1.5, 1.5, 1.75])


def test_an_empty_side_leaves_the_other_as_it_is():
    assert weigh(1.0, 2.0, 30.0) == pytest.approx(weigh(1.0, 2.0, 30.0, -1.0)[:3])


def test_continuous_weights_pass_through_1_and_mirror_at_the_medians():
    weights = weigh(2.0, 0.0, -0.4, -0.4, form="continuous")
    assert weights == pytest.approx([0.538, 1.0, 1.462, 1.462], abs=5e-4)


def test_normalised_weights_keep_the_proportions_of_eq_5():
    literal, normalised = weigh(1.0, -1.0, -2.0), weigh(1.0, -1.0, -2.0, form="normalise_mean")
    assert sum(normalised) / 3 == pytest.approx(1)
    assert normalised[1] / normalised[0] == pytest.approx(literal[1] / literal[0])


def test_without_weighting_every_sample_counts_once():
    assert weigh(5.0, 0.0, -1.0, form="none") == [1, 1, 1]


@given(alphas)
@property_test
def test_literal_weights_halve_what_got_worse_and_raise_what_got_better(alpha):
    alpha = torch.tensor(alpha)
    weights = sample_weights(alpha, form="literal")
    worse = alpha > 0
    assert ((weights[worse] >= 0) & (weights[worse] <= 0.5)).all()
    assert ((weights[~worse] >= 1.5) & (weights[~worse] <= 2)).all()


@given(alphas, st.sampled_from(["literal", "normalise_mean", "continuous"]))
@property_test
def test_a_greater_alpha_never_has_a_greater_weight(alpha, form):
    ascending = torch.tensor(alpha).sort().values
    assert (sample_weights(ascending, form=form).diff() <= 1e-6).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_alpha_that_is_no_number_is_refused_by_sample(bad):
    with pytest.raises(ValueError, match="1 values of alpha .* first is sample 1"):
        weigh(0.0, bad)


def test_no_sample_has_no_weights():
    with pytest.raises(ValueError, match="alpha is empty"):
        sample_weights(torch.empty(0), form="literal")


def test_an_unknown_form_is_refused():
    with pytest.raises((ValueError, TypeCheckError)):
        weigh(1.0, form="linear")
