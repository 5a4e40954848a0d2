"""The weighted training loss (Eq. 6 of the paper)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import nll_loss

IGNORED = -100


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
    if smoothing < 0:
        raise ValueError(f"smoothing must not be negative, but is {smoothing}")
    if smoothing > 0 and ordered is None:
        raise ValueError(f"smoothing is {smoothing}, but no ordered scale of token ids was given")

    targets = labels[:, 1:]
    sample, position = (targets != IGNORED).nonzero(as_tuple=True)
    target = targets[sample, position]
    answer_logits = logits[sample, position]
    log_p = answer_logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    loss = nll_loss(log_p, target, reduction="none")
    if ordered is not None and smoothing > 0:
        step = _steps(ordered, logits.shape[-1])[target]
        on_scale = step >= 0
        soft = _gaussian_targets(step[on_scale], len(ordered), smoothing).to(log_p.dtype)
        loss = loss.masked_scatter(on_scale, -(soft * log_p[on_scale][:, ordered]).sum(-1))

    total = loss.new_zeros(len(logits)).index_add(0, sample, loss)
    count = torch.bincount(sample, minlength=len(logits)).clamp(min=1)
    return total / count


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
