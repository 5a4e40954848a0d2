"""The weighted training loss (Eq. 6 of the paper)."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import nll_loss

IGNORED = -100
# 64 MB in float32; a vocabulary of 92,553 makes 181 rows at a time, the miniature's 541 all of them at once.
LOGITS_AT_ONCE = 2**24


def weighted_loss(losses: Float[Tensor, " n"], weights: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """`mean_i w_i * l_i` (Eq. 6), in nats: divided by the number of samples, not by the sum of the weights.

    `losses` holds one cross-entropy a sample (>= 0), `weights` its w_i of Eq. 5.

    Raises:
        ValueError: there is no sample, or not one weight a sample.
    """
    if len(losses) == 0 or len(losses) != len(weights):
        raise ValueError(f"{len(losses)} losses, {len(weights)} weights: Eq. 6 needs one of each for every sample")
    return (losses * weights).mean()


def token_losses(
    logits: Float[Tensor, "b t v"],
    labels: Int[Tensor, "b t"],
    *,
    ordered: Int[Tensor, " k"] | None = None,
    smoothing: float | int = 0.0,
) -> Float[Tensor, " b"]:
    """Next-token cross-entropy of each sample, in nats: the bracket of Eq. 6, averaged over answer tokens.

    Position t predicts label t + 1, so the first label is never a target; labels of -100 are no answer
    tokens. A sample without answer tokens has loss 0. The softmax is in float32 or wider, over answer
    positions only.

    `ordered` lists the token ids of a scale in ascending order, such as coordinates. A target on that scale
    becomes a Gaussian over the scale, with standard deviation `smoothing` in steps, so that a near miss
    costs less than a far one; 0 leaves it a hard target. Its least loss is then the entropy of that Gaussian.

    Raises:
        ValueError: `smoothing` is negative or has no scale to act on, or an id of `ordered` repeats or is no
            token.
        IndexError: a label is no token of the vocabulary.
    """
    _require_scale(ordered, smoothing)
    sample, position, target = _answers(labels)
    loss = _losses_at(logits[sample, position], target, ordered, smoothing)
    return _mean_by_sample(loss, sample, len(logits))


def answer_losses(
    hidden: Float[Tensor, "b t d"],
    head: nn.Module,
    labels: Int[Tensor, "b t"],
    *,
    ordered: Int[Tensor, " k"] | None = None,
    smoothing: float | int = 0.0,
) -> Float[Tensor, " b"]:
    """`token_losses(head(hidden), labels)`, with logits made for answer positions only.

    `head` maps the language model's last hidden states to logits. Where it is frozen and more than `LOGITS_AT_ONCE`
    logits are due, they are made a piece at a time and only their gradient by `hidden` is kept, so that memory does
    not grow with answer tokens times vocabulary.

    Raises:
        ValueError, IndexError: as `token_losses`.
    """
    _require_scale(ordered, smoothing)
    sample, position, target = _answers(labels)
    answers = hidden[sample, position]

    def losses_of(rows: Tensor, targets: Tensor) -> Tensor:
        return _losses_at(head(rows), targets, ordered, smoothing)

    weights = list(head.parameters())
    rows = max(1, LOGITS_AT_ONCE // max((len(weight) for weight in weights), default=1))
    if len(answers) > rows and not any(weight.requires_grad for weight in weights):
        loss = _InPieces.apply(answers, target, losses_of, rows)
    else:
        loss = losses_of(answers, target)
    return _mean_by_sample(loss, sample, len(hidden))


class _InPieces(torch.autograd.Function):
    """`losses_of(answers, target)`, one loss a row, `rows` rows at a time. A row's loss depends on no other row, so
    the gradient of the sum over a piece, taken at once, is each row's own."""

    @staticmethod
    def forward(
        ctx: Any, answers: Tensor, target: Tensor, losses_of: Callable[[Tensor, Tensor], Tensor], rows: int
    ) -> Tensor:
        losses, gradients = [], []
        for piece, wanted in zip(answers.split(rows), target.split(rows), strict=True):
            with torch.set_grad_enabled(ctx.needs_input_grad[0]):
                leaf = piece.detach().requires_grad_(ctx.needs_input_grad[0])
                loss = losses_of(leaf, wanted)
                gradients += torch.autograd.grad(loss.sum(), leaf) if ctx.needs_input_grad[0] else []
            losses.append(loss.detach())
        if gradients:
            ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, of_loss: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * of_loss[:, None].to(gradient.dtype), None, None, None


def _require_scale(ordered: Tensor | None, smoothing: float | int) -> None:
    if smoothing < 0:
        raise ValueError(f"smoothing must not be negative, but is {smoothing}")
    if smoothing > 0 and ordered is None:
        raise ValueError(f"smoothing is {smoothing}, but no ordered scale of token ids was given")


def _answers(labels: Int[Tensor, "b t"]) -> tuple[Tensor, Tensor, Tensor]:
    """Sample and position of every prediction of an answer token, and that token."""
    targets = labels[:, 1:]
    sample, position = (targets != IGNORED).nonzero(as_tuple=True)
    return sample, position, targets[sample, position]


def _losses_at(
    logits: Float[Tensor, "p v"], target: Int[Tensor, " p"], ordered: Tensor | None, smoothing: float | int
) -> Float[Tensor, " p"]:
    log_p = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    loss = nll_loss(log_p, target, reduction="none")
    if ordered is not None and smoothing > 0:
        step = _steps(ordered, logits.shape[-1])[target]
        on_scale = step >= 0
        soft = _gaussian_targets(step[on_scale], len(ordered), smoothing).to(log_p.dtype)
        loss = loss.masked_scatter(on_scale, -(soft * log_p[on_scale][:, ordered]).sum(-1))
    return loss


def _mean_by_sample(loss: Float[Tensor, " p"], sample: Int[Tensor, " p"], samples: int) -> Float[Tensor, " b"]:
    total = loss.new_zeros(samples).index_add(0, sample, loss)
    return total / torch.bincount(sample, minlength=samples).clamp(min=1)


def _steps(ordered: Int[Tensor, " k"], vocabulary: int) -> Int[Tensor, " v"]:
    """For each token its step on the scale, -1 for a token that is not on it."""
    if len(ordered.unique()) < len(ordered) or (ordered < 0).any() or (ordered >= vocabulary).any():
        raise ValueError(f"`ordered` must hold distinct token ids from 0 to {vocabulary - 1}")
    steps = ordered.new_full((vocabulary,), -1)
    steps[ordered] = torch.arange(len(ordered), dtype=ordered.dtype, device=ordered.device)
    return steps


def _gaussian_targets(step: Int[Tensor, " p"], size: int, deviation: float | int) -> Float[Tensor, "p {size}"]:
    offset = torch.arange(size, device=step.device) - step[:, None]
    return (-0.5 * (offset / deviation) ** 2).softmax(-1)
