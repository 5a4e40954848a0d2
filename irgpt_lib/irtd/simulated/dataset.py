"""The embedded world as a source: infrared renders with captions, some of them swapped on purpose, in three splits."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from irgpt_lib import params
from irgpt_lib.irtd.near_duplicates import FLAT_HASH
from irgpt_lib.irtd.record import Sample, png_bytes
from irgpt_lib.irtd.simulated import world
from irgpt_lib.irtd.simulated.describe import describe

SIMULATED = "simulated"
SPLITS = ("pretrain", "instruction", "benchmark")


def simulated_samples(config: params.SimulatedSource, seed: int) -> list[Sample]:
    """The embedded world's samples of all three splits, with images and captions, some of these swapped.

    Each scene is seen in one band, drawn by `config.bands`; a share `paired_share` keeps its visible pair. In the
    pretraining split `swapped_caption_share` of the captions belong to another scene of the same kind, and
    `caption_from` says which: that is how the study knows what a noise detector should find.
    """
    made: list[Sample] = []
    bands, shares = list(config.bands), np.array(list(config.bands.values()))
    for number, split in enumerate(SPLITS):
        rng = np.random.default_rng([seed, number])
        own: list[Sample] = []
        for truths, renders in world.generate(
            config.scenes[split], seed=10 * seed + number, size=config.size_px, mix=config.mix
        ):
            drawn = rng.choice(bands, size=len(truths), p=shares / shares.sum())
            paired = rng.random(len(truths)) < config.paired_share
            for i, truth in enumerate(truths):
                infrared = png_bytes(getattr(renders, drawn[i])[i])
                visible = png_bytes(renders.visible[i]) if paired[i] else b""
                own.append(
                    replace(
                        truth,
                        band=str(drawn[i]),
                        split=split,
                        infrared=infrared,
                        visible=visible,
                        caption=describe(truth),
                        caption_path=SIMULATED,
                        caption_state="final",
                        caption_by=SIMULATED,
                        # renders of one world look alike to a hash, which therefore compares none of them
                        perceptual_hash=FLAT_HASH,
                    )
                )
        made += swap_captions(own, config.swapped_caption_share, rng) if split == "pretrain" else own
    return made


def swap_captions(samples: Sequence[Sample], share: float, rng: np.random.Generator) -> list[Sample]:
    """`share` of the samples of each kind pass their captions round among themselves."""
    swapped = list(samples)
    for kind in sorted({s.kind for s in samples}):
        members = [i for i, s in enumerate(samples) if s.kind == kind]
        chosen = rng.permutation(members)[: round(share * len(members))]
        if len(chosen) < 2:
            continue
        for i, source in zip(chosen, np.roll(chosen, 1), strict=True):
            other = samples[source]
            swapped[i] = replace(samples[i], caption=other.caption, caption_from=other.sample_id)
    return swapped
