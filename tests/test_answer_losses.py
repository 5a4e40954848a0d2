"""The loss without logits where nothing is labelled, held against the loss of all logits."""

from unittest import mock

import pytest
import torch
from torch import nn

from irgpt_lib.training import loss
from irgpt_lib.training.loss import answer_losses, token_losses

VOCABULARY, WIDTH, ORDERED = 50, 8, torch.arange(10, 22)


def example(dtype=torch.float32):
    """Hidden states, labels with gaps, one sample without an answer; weights of the samples."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(4, 9, WIDTH, generator=generator, dtype=dtype)
    labels = torch.randint(VOCABULARY, (4, 9), generator=generator)
    labels[:, :4], labels[2], labels[3, 6:] = -100, -100, -100
    head = nn.Linear(WIDTH, VOCABULARY, dtype=dtype)
    with torch.no_grad():
        head.weight.normal_(generator=generator)
    return hidden, labels, head.requires_grad_(False), torch.tensor([0.2, 1.7, 1.0, 0.5], dtype=dtype)


def losses_and_gradient(losses_of, hidden, weights):
    leaf = hidden.clone().requires_grad_()
    losses = losses_of(leaf)
    (losses * weights).mean().backward()
    return losses.detach(), leaf.grad


@pytest.mark.parametrize("smoothing", [0.0, 0.8])
@pytest.mark.parametrize("at_once", [2**24, 3 * VOCABULARY, 1], ids=["whole", "three rows", "one row"])
def test_losses_and_gradients_are_those_of_all_logits(smoothing, at_once):
    hidden, labels, head, weights = example()
    scale = {"ordered": ORDERED, "smoothing": smoothing}
    full = losses_and_gradient(lambda h: token_losses(head(h), labels, **scale), hidden, weights)
    with mock.patch.object(loss, "LOGITS_AT_ONCE", at_once):
        mine = losses_and_gradient(lambda h: answer_losses(h, head, labels, **scale), hidden, weights)
    for one, other in zip(mine, full, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
    assert mine[0][2] == 0 and not mine[1][2].any(), "a sample without an answer"


def test_the_gradient_in_pieces_is_the_numerical_one():
    hidden, labels, head, _ = example(torch.float64)
    with mock.patch.object(loss, "LOGITS_AT_ONCE", 2 * VOCABULARY):
        assert torch.autograd.gradcheck(lambda h: answer_losses(h, head, labels), hidden.requires_grad_())


def test_a_head_that_learns_gets_its_gradient():
    hidden, labels, head, _ = example()
    head.requires_grad_(True)
    with mock.patch.object(loss, "LOGITS_AT_ONCE", VOCABULARY):
        answer_losses(hidden, head, labels).sum().backward()
    mine = head.weight.grad.clone()
    head.zero_grad()
    token_losses(head(hidden), labels).sum().backward()
    torch.testing.assert_close(mine, head.weight.grad, atol=1e-6, rtol=0)


@pytest.mark.parametrize("at_once", [2**24, 1])
def test_logits_are_made_for_answer_positions_only(at_once):
    hidden, labels, head, _ = example()
    rows = []
    head.register_forward_hook(lambda module, given, logits: rows.append(len(logits)))
    with mock.patch.object(loss, "LOGITS_AT_ONCE", at_once):
        answer_losses(hidden, head, labels)
    assert sum(rows) == int((labels[:, 1:] != -100).sum()) == 12 and max(rows) == (12 if at_once > 1 else 1)


def test_without_a_gradient_none_is_made():
    hidden, labels, head, _ = example()
    with mock.patch.object(loss, "LOGITS_AT_ONCE", 1), torch.inference_mode():
        losses = answer_losses(hidden, head, labels)
    torch.testing.assert_close(losses, token_losses(head(hidden), labels), atol=1e-6, rtol=0)


def test_a_scale_is_asked_for_as_before():
    hidden, labels, head, _ = example()
    with pytest.raises(ValueError, match="smoothing is 0.8, but no ordered scale"):
        answer_losses(hidden, head, labels, smoothing=0.8)
