"""Lesson 2: how badly a caption fits its infrared image, and how much warming up changed that (Eq. 4)."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize, softplus

# Of one block: its logits, the copy that masks them, the exponential of their sum, and two masks a byte wide.
BUFFERS = 4
# Wider blocks leave the caches of a CPU without making a GPU faster.
LARGEST_BLOCK = 4096


def codes(labels: Sequence[str] | pd.Series) -> Int[Tensor, " n"]:
    """One integer from 0 for each distinct text, in their sorted order; -1, which means "none", for an empty one.

    Raises:
        ValueError: a label is missing (None or NaN), which would make one group of all that miss it.
    """
    texts = np.asarray(labels, dtype=object)
    missing = np.flatnonzero(pd.isna(texts))
    if len(missing):
        raise ValueError(
            f"{len(missing)} of {len(texts)} labels are missing, the first is that of row {missing[0]}: "
            "give an empty text for none"
        )
    names, numbers = np.unique(texts.astype(str), return_inverse=True)
    if len(names) and names[0] == "":
        numbers = numbers - 1
    return torch.from_numpy(numbers.astype(np.int64))


def negative_bank(n: int, size: int, seed: int) -> Int[Tensor, " b"]:
    """`size` distinct indices into `n` samples, ascending: the negatives that every sample is scored against.

    One bank before and after the warm-up keeps Eq. 4 free of the neighbours that a random batch would bring. As many
    as there are samples means all of them, whatever the seed.

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
    memory_mb: float | int = 64,
) -> Float[Tensor, " n"]:
    """CLIP's loss of each sample: mean of its image-to-text and text-to-image cross-entropy, in nats, >= 0.

    A logit is `logit_scale` times the cosine of two embeddings (rows of any length but 0; the scale is the
    factor itself, not its logarithm). The candidates are the sample's own partner and the samples of `bank`,
    less those with its `caption_id` or its `group_id`, which would be false negatives. A negative `group_id`
    means "in no group". Time is O(n b d); the n x b logits are streamed in blocks of `memory_mb` (MiB), which
    changes the result only by rounding.

    Raises:
        ValueError: an embedding is 0 or not finite, the bank is empty or points outside the samples, the
            scale or `memory_mb` is not positive, or a sample has no negative left.
    """
    if not (math.isfinite(logit_scale) and logit_scale > 0):
        raise ValueError(f"logit_scale must be positive and finite, not {logit_scale}")
    if len(bank) == 0 or bank.min() < 0 or bank.max() >= len(image):
        raise ValueError(f"the bank must hold indices from 0 to {len(image) - 1}: draw it with negative_bank")
    image, text = _unit_rows("image", image), _unit_rows("text", text)
    bank, caption_id, group_id = (ids.to(image.device) for ids in (bank, caption_id, group_id))
    side = _block_side(memory_mb, image.element_size())
    own = logit_scale * (image * text).sum(1)
    losses = torch.empty_like(own)
    for rows in torch.arange(len(image), device=image.device).split(side):
        to_text, to_image = torch.full((2, len(rows)), -math.inf, dtype=own.dtype, device=own.device)
        for columns in bank.split(side):
            # a sample shares its own caption, so it is out as well
            excluded = caption_id[rows, None] == caption_id[columns]
            excluded |= (group_id[rows, None] == group_id[columns]) & (group_id[rows, None] >= 0)
            to_text = _add_negatives(to_text, logit_scale * image[rows] @ text[columns].T, excluded)
            to_image = _add_negatives(to_image, logit_scale * text[rows] @ image[columns].T, excluded)
        alone = rows[to_text == -math.inf]
        if len(alone):
            raise ValueError(
                f"sample {int(alone[0])} (and {len(alone) - 1} more in its block) has no negative: all "
                f"{len(bank)} of the bank share its caption or group; draw a larger bank"
            )
        # -log(e^own / (e^own + e^negatives)) = softplus(negatives - own): small losses keep their digits.
        losses[rows] = (softplus(to_text - own[rows]) + softplus(to_image - own[rows])) / 2
    return losses


def loss_change(
    before: Float[Tensor, " n"], after: Float[Tensor, " n"], *, floor: float | int = 1e-6
) -> tuple[Float[Tensor, " n"], int]:
    """Loss variation rate `α = (l' - l) / l` (Eq. 4), and how many `l` were lifted to `floor`.

    `before` is l, `after` is l', both >= 0, in nats. α >= -1, has no unit, and is negative where warming up helped.
    A loss of 0 before has no rate: it counts as `floor`, so that α stays finite, and the count says how often
    (reading Q8). Its l' is lifted too, so that a pair that stays perfect has not changed: α = 0.

    Raises:
        ValueError: the two differ in number, `floor` is not positive, or a loss is negative or not finite.
    """
    if len(before) != len(after):
        raise ValueError(f"{len(before)} losses before warm-up, but {len(after)} after: score the same samples twice")
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
    tiny = before < floor
    before, after = before.clamp(min=floor), torch.where(tiny, after.clamp(min=floor), after)
    return (after - before) / before, int(tiny.sum())


def _add_negatives(
    total: Float[Tensor, " p"], logits: Float[Tensor, "p q"], excluded: Bool[Tensor, "p q"]
) -> Float[Tensor, " p"]:
    """log(e^total + sum e^logits) of each row, without the excluded logits."""
    return torch.logaddexp(total, logits.masked_fill(excluded, -math.inf).logsumexp(1))


def _block_side(memory_mb: float | int, element_size: int) -> int:
    if not memory_mb > 0:
        raise ValueError(f"memory_mb must be positive, not {memory_mb}")
    return max(1, min(LARGEST_BLOCK, math.isqrt(int(memory_mb * 2**20 / (BUFFERS * element_size)))))


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
