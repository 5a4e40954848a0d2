"""Lesson 2's losses of all samples against a bank, streamed, beside torch's cross-entropy over all logits at once.

`python -m tests.bench.lesson2 ours 8000` prints the peak extra memory of one call in MB (`ours`, `peer`): a process of
its own has no freed memory left from the other's call.
"""

import math
import subprocess
import sys
from statistics import median

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from irgpt_lib.curriculum.alignment import clip_losses, negative_bank
from tests.bench.measuring import Row, interleaved, peak_extra_mb

WIDTH, BANK, LOGIT_SCALE = 256, 4096, 1 / 0.07
# how often a caption repeats, and how many frames a sequence has
ALIKE, FRAMES = 4, 8

Pairs = dict[str, Tensor]


def pairs(count: int) -> Pairs:
    """Unit embeddings of images and of texts that lean towards their images, the bank, and who shares what."""
    generator = torch.Generator().manual_seed(0)
    image = normalize(torch.randn(count, WIDTH, generator=generator), dim=1)
    text = normalize(image + 0.1 * torch.randn(count, WIDTH, generator=generator), dim=1)
    return {
        "image": image,
        "text": text,
        "bank": negative_bank(count, min(BANK, count), seed=0),
        "caption_id": torch.randperm(count, generator=generator) // ALIKE,
        "group_id": torch.arange(count) // FRAMES,
    }


def study_losses(given: Pairs) -> Tensor:
    return clip_losses(**given, logit_scale=LOGIT_SCALE)


def dense_losses(given: Pairs) -> Tensor:
    """The same by torch, the own partner in column 0; both matrices of logits are held whole."""
    image, text, bank = given["image"], given["text"], given["bank"]
    excluded = given["caption_id"][:, None] == given["caption_id"][bank]
    excluded |= given["group_id"][:, None] == given["group_id"][bank]
    own = (image * text).sum(1, keepdim=True)
    target = torch.zeros(len(image), dtype=torch.int64)
    both = [
        cross_entropy(
            LOGIT_SCALE * torch.cat([own, (one @ other[bank].T).masked_fill(excluded, -math.inf)], 1),
            target,
            reduction="none",
        )
        for one, other in ((image, text), (text, image))
    ]
    return (both[0] + both[1]) / 2


LOSSES = {"ours": study_losses, "peer": dense_losses}


def memory_in_a_new_process(whose: str, count: int) -> float:
    """Peak extra memory of one call in MB."""
    command = [sys.executable, "-m", "tests.bench.lesson2", whose, str(count)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def lesson2(count: int, repeats: int, *, memory: bool) -> Row:
    """The losses of `count` samples; `memory` measures that too, which takes two processes."""
    given = pairs(count)
    mine, theirs = interleaved(lambda: study_losses(given), lambda: dense_losses(given), repeats)
    exact = dense_losses({name: x.double() if x.is_floating_point() else x for name, x in given.items()})
    off = {whose: (losses(given) / exact - 1).abs().max().item() for whose, losses in LOSSES.items()}
    products = 2 * 2 * WIDTH * count * len(given["bank"]) / 1e9
    notes = [
        f"{products / median(timing.cpu_s for timing in mine):.0f} GFLOP a CPU-second",
        f"largest relative error to float64: {off['ours']:.1e}, peer {off['peer']:.1e}",
    ]
    if memory:
        ours, peer = (memory_in_a_new_process(whose, count) for whose in LOSSES)
        notes.append(f"peak extra memory {ours:.0f} MB, peer {peer:.0f} MB")
    unit = f"samples, bank of {len(given['bank']):,}, d = {WIDTH}"
    return Row("Lesson 2: loss of every sample", count, unit, "torch cross_entropy", mine, theirs, "; ".join(notes))


def main(whose: str, count: str) -> None:
    """Print the peak extra memory of one call, in MB."""
    torch.set_num_threads(1)
    given = pairs(int(count))
    # a first call on few rows loads what every call needs
    LOSSES[whose](pairs(64))
    print(peak_extra_mb(lambda: LOSSES[whose](given)))


if __name__ == "__main__":
    main(*sys.argv[1:])
