"""Lesson 2: how badly a caption fits its infrared image, and how much warming up changed that (Eq. 4)."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize, softplus


def negative_bank(n: int, size: int, seed: int) -> Int[Tensor, " b"]:
    """`size` distinct indices into `n` samples, ascending: the negatives that every sample is scored against.

    One bank before and after the warm-up keeps Eq. 4 free of the neighbours that a random batch would bring.

    Raises:
        ValueError: `size` is not within 1..n.
    """
    if not 1 <= size <= n:
        raise ValueError(f"a bank of {size} negatives cannot be drawn from {n} samples: choose 1 to {n}")
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:size].sort().values


def clip_losses(
    image: Float[Tensor, "n d"],
    text: Float[Tensor, "n d"],
    *,
    logit_scale: float | int,
    bank: Int[Tensor, " b"],
    caption_id: Int[Tensor, " n"],
    group_id: Int[Tensor, " n"],
    chunk: int = 1024,
) -> Float[Tensor, " n"]:
    """CLIP's loss of each sample: mean of its image-to-text and text-to-image cross-entropy, in nats, >= 0.

    A logit is `logit_scale` times the cosine of two embeddings (rows of any length but 0; the scale is the
    factor itself, not its logarithm). The candidates are the sample's own partner and the samples of `bank`,
    less those with its `caption_id` or its `group_id`, which would be false negatives. A negative `group_id`
    means "in no group". `chunk` rows are scored at a time, in `chunk` x b memory.

    Raises:
        ValueError: an embedding is 0 or not finite, the bank is empty or points outside the samples, the
            scale is not positive, or a sample has no negative left.
    """
    if not (math.isfinite(logit_scale) and logit_scale > 0):
        raise ValueError(f"logit_scale must be positive and finite, not {logit_scale}")
    if len(bank) == 0 or bank.min() < 0 or bank.max() >= len(image):
        raise ValueError(f"the bank must hold indices from 0 to {len(image) - 1}: draw it with negative_bank")
    image, text = _unit_rows("image", image), _unit_rows("text", text)
    own = logit_scale * (image * text).sum(1)
    losses = torch.empty_like(own)
    index = torch.arange(len(image), device=image.device)
    for rows in index.split(chunk):
        same_caption = caption_id[rows, None] == caption_id[bank]
        same_group = (group_id[rows, None] == group_id[bank]) & (group_id[rows, None] >= 0)
        excluded = same_caption | same_group  # a sample shares its own caption, so it is out as well
        alone = rows[excluded.all(1)]
        if len(alone):
            raise ValueError(
                f"sample {int(alone[0])} (and {len(alone) - 1} more in its chunk) has no negative: all "
                f"{len(bank)} of the bank share its caption or group; draw a larger bank"
            )
        to_text = _cross_entropy(logit_scale * image[rows] @ text[bank].T, own[rows], excluded)
        to_image = _cross_entropy(logit_scale * text[rows] @ image[bank].T, own[rows], excluded)
        losses[rows] = (to_text + to_image) / 2
    return losses


def loss_change(
    before: Float[Tensor, " n"], after: Float[Tensor, " n"], *, floor: float | int = 1e-6
) -> tuple[Float[Tensor, " n"], int]:
    """Loss variation rate `α = (l' - l) / l` (Eq. 4), and how many `l` were lifted to `floor`.

    `before` is l, `after` is l', both >= 0. α >= -1, has no unit, and is negative where warming up helped.

    Raises:
        ValueError: `floor` is not positive, or a loss is negative or not finite.
    """
    if not floor > 0:
        raise ValueError(f"floor must be positive, not {floor}")
    for name, losses in (("before", before), ("after", after)):
        bad = (~(losses.isfinite() & (losses >= 0))).nonzero().flatten()
        if len(bad):
            first = int(bad[0])
            raise ValueError(
                f"{len(bad)} losses {name} warm-up are negative or not finite, the first is sample {first}: "
                f"{float(losses[first])}; score these samples again"
            )
    lifted = before.clamp(min=floor)
    return (after - lifted) / lifted, int((before < floor).sum())


def _cross_entropy(logits: Float[Tensor, "p b"], own: Float[Tensor, " p"], excluded: Tensor) -> Float[Tensor, " p"]:
    # -log(e^own / (e^own + sum e^negatives)) = softplus(logsumexp(negatives) - own): small losses keep their
    # digits.
    return softplus(logits.masked_fill(excluded, -math.inf).logsumexp(1) - own)


def _unit_rows(name: str, rows: Tensor) -> Tensor:
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    norm = rows.norm(dim=1)
    bad = (~(norm.isfinite() & (norm > 0))).nonzero().flatten()
    if len(bad):
        raise ValueError(
            f"{len(bad)} of {len(rows)} {name} embeddings are 0 or not finite, the first is row "
            f"{int(bad[0])}: embed these samples again"
        )
    return normalize(rows, dim=1, eps=torch.finfo(rows.dtype).tiny)
