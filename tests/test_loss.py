import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from irgpt_lib.training.loss import token_losses, weighted_loss

LN2 = math.log(2)
SCALE = torch.tensor([3, 1, 2])  # three steps of an ordered scale, in a vocabulary of 5 tokens


def one_answer(logits, target):
    """Logits of one sample whose single answer token is `target`."""
    return torch.tensor([[logits, [0.0] * len(logits)]]), torch.tensor([[-100, target]])


def test_eq_6_divides_by_the_samples_not_by_the_weights():
    loss = weighted_loss(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 1.5]))
    assert loss.item() == (0.5 * 1 + 1.5 * 2) / 2


def test_a_weight_scales_the_gradient_of_its_own_sample_only():
    losses = torch.tensor([1.0, 1.0], requires_grad=True)
    weighted_loss(losses, torch.tensor([0.5, 2.0])).backward()
    assert losses.grad.tolist() == [0.25, 1.0]


def test_no_sample_has_no_loss():
    with pytest.raises(ValueError, match="0 losses"):
        weighted_loss(torch.empty(0), torch.empty(0))


def test_uniform_logits_over_four_tokens_cost_log_4_whatever_the_answer_length():
    labels = torch.tensor([[-100, 1, 2, 3], [-100, -100, -100, 0]])
    torch.testing.assert_close(token_losses(torch.zeros(2, 4, 4), labels), torch.full((2,), 2 * LN2))


def test_position_t_predicts_label_t_plus_1():
    logits = torch.full((1, 3, 3), -50.0)
    logits[0, 0, 1] = logits[0, 1, 2] = 50.0
    assert token_losses(logits, torch.tensor([[0, 1, 2]])).item() == 0
    assert token_losses(logits, torch.tensor([[0, 2, 1]])).item() == pytest.approx(100)


def test_a_sample_without_answer_has_loss_0_and_no_gradient():
    logits = torch.randn(2, 3, 4, requires_grad=True)
    losses = token_losses(logits, torch.tensor([[-100, -100, -100], [-100, 1, 2]]))
    losses.sum().backward()
    assert losses[0] == 0 and losses[1] > 0
    assert (logits.grad[0] == 0).all() and (logits.grad[1, :2] != 0).all()


@given(st.integers(1, 4), st.integers(2, 6), st.integers(2, 7), st.integers(0, 1000))
@settings(max_examples=30, deadline=None, database=None)
def test_each_sample_is_the_mean_cross_entropy_of_its_own_tokens(b, t, v, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(b, t, v, generator=generator, dtype=torch.float64)
    labels = torch.randint(v, (b, t), generator=generator)
    labels[torch.rand(b, t, generator=generator) < 0.3] = -100
    labels[:, -1] = 0
    expected = torch.stack([cross_entropy(logits[i, :-1], labels[i, 1:]) for i in range(b)])
    torch.testing.assert_close(token_losses(logits, labels), expected)


def test_half_precision_logits_are_normalised_in_float32():
    logits, labels = one_answer([0.0] * 4, 1)
    assert token_losses(logits.bfloat16(), labels).dtype == torch.float32


def test_smoothing_prefers_a_near_miss_to_a_far_one():
    def loss(guess, smoothing):
        logits, labels = one_answer([5.0 if token == guess else 0.0 for token in range(5)], 3)
        return token_losses(logits, labels, ordered=SCALE, smoothing=smoothing).item()

    exact, near, far = 3, 1, 2
    assert loss(exact, 0.5) < loss(near, 0.5) < loss(far, 0.5)
    assert loss(near, 0.0) == pytest.approx(loss(far, 0.0))


def test_smoothed_target_of_the_middle_step_is_a_gaussian_over_the_scale():
    # Steps -1, 0, 1 in units of a deviation 1 / sqrt(2 ln 2): masses 1/2, 1, 1/2 over their sum 2.
    logits, labels = one_answer([0.0, 1.0, 2.0, 4.0, 0.0], 1)
    log_p = logits[0, 0].log_softmax(-1)
    expected = -(log_p[3] / 4 + log_p[1] / 2 + log_p[2] / 4)
    loss = token_losses(logits, labels, ordered=SCALE, smoothing=1 / math.sqrt(2 * LN2))
    torch.testing.assert_close(loss[0], expected)


def test_tokens_off_the_scale_keep_hard_targets():
    logits, labels = one_answer([1.0, 2.0, 3.0, 4.0, 5.0], 4)
    smoothed = token_losses(logits, labels, ordered=SCALE, smoothing=2.0)
    torch.testing.assert_close(smoothed, token_losses(logits, labels))


def test_a_narrow_gaussian_is_the_hard_target():
    logits, labels = one_answer([1.0, 2.0, 3.0, 4.0, 5.0], 1)
    smoothed = token_losses(logits, labels, ordered=SCALE, smoothing=0.01)
    torch.testing.assert_close(smoothed, token_losses(logits, labels))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"smoothing": -1.0}, "must not be negative"),
        ({"smoothing": 1.0}, "no ordered scale"),
        ({"smoothing": 1.0, "ordered": torch.tensor([1, 1])}, "distinct token ids from 0 to 4"),
        ({"smoothing": 1.0, "ordered": torch.tensor([1, 5])}, "distinct token ids from 0 to 4"),
    ],
)
def test_a_scale_that_cannot_be_smoothed_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        token_losses(*one_answer([0.0] * 5, 1), **options)


def test_a_label_outside_the_vocabulary_is_refused():
    with pytest.raises(IndexError):
        token_losses(*one_answer([0.0] * 5, 5))
