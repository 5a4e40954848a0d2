"""Which score tells a wrong caption? Captions are swapped on purpose, at several shares, and Lesson 2 is run on them.

Eq. 5 weights down what got worse in the warm-up, in the hope that this is where the captions are wrong (section 4.2.3).
The noisy-correspondence literature takes the loss itself (`curriculum.mixture`). Only where the right caption is known,
as in the simulated world, can the two be compared.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from jaxtyping import Float, UInt8

from irgpt_lib.curriculum.mixture import clean_mixture
from irgpt_lib.curriculum.weights import sample_weights
from irgpt_lib.evaluation.difficulty_checks import auc_intervals
from irgpt_lib.evaluation.statistics import DRAWS, LEVEL, require
from irgpt_lib.models.clip import ClipReader, lesson2

NOISE_SCORES = ("clip_loss_before", "clip_loss", "alpha", "weight", "clean_probability")
# These should be small for a swapped caption; the others large.
CLEAN_SCORES = ("weight", "clean_probability")
# How a score above and below 0.5 reads.
CLAIMS = (
    ("alpha", "gains less from the warm-up than a right one", "gains more from the warm-up than a right one"),
    ("weight", "is weighted more by Eq. 5 than a right one", "is weighted less by Eq. 5 than a right one"),
)
# Samples with `caption` and `infrared` to the loss of each: how the caller's model is asked.
LossOf = Callable[[pd.DataFrame], Float[np.ndarray, " n"]]


def own_captions(samples: pd.DataFrame) -> pd.Series:
    """Each sample's own caption, with earlier swaps undone; NaN where no sample at hand carries it.

    `samples` holds `sample_id`, `caption` and `caption_from`, the sample that the caption describes (empty: itself).

    Raises:
        ValueError: a column is missing, or an id repeats, so that its caption cannot be told.
    """
    require(samples, ["sample_id", "caption", "caption_from"], "the table of samples")
    repeated = samples["sample_id"][samples["sample_id"].duplicated()]
    if len(repeated):
        raise ValueError(f"{len(repeated)} sample ids repeat, the first is {repeated.iloc[0]!r}")
    described = samples["caption_from"].where(samples["caption_from"] != "", samples["sample_id"])
    captions = pd.Series(samples["caption"].to_numpy(), index=described.to_numpy())
    return samples["sample_id"].map(captions[~captions.index.duplicated()])


def swap_captions(samples: pd.DataFrame, share: float, seed: int) -> pd.DataFrame:
    """The samples with their own captions, of which a share within each `kind` is passed round among its samples.

    Earlier swaps are undone first, and a sample whose own caption is not at hand is left out. Where two captions read
    the same, passing one on changes nothing: `swapped` says whether the text is another one, so that its share may be a
    little below `share` (0-1). A kind with fewer than two samples to swap keeps its captions.

    Raises:
        ValueError: `share` is outside 0..1, a column is missing, or an id repeats.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the share of swapped captions must be within 0 and 1, not {share}")
    require(samples, ["kind"], "the table of samples")
    own = own_captions(samples)
    found = samples.assign(caption=own, caption_from=samples["sample_id"])[own.notna().to_numpy()]
    found = found.reset_index(drop=True)
    caption, origin = (found[name].to_numpy(dtype=object, copy=True) for name in ("caption", "sample_id"))
    rng = np.random.default_rng(seed)
    for _, members in sorted(found.groupby("kind").indices.items()):
        chosen = rng.permutation(members)[: round(share * len(members))]
        if len(chosen) > 1:
            caption[chosen], origin[chosen] = caption[np.roll(chosen, 1)], origin[np.roll(chosen, 1)]
    return found.assign(caption=caption, caption_from=origin, swapped=caption != found["caption"].to_numpy())


def scores_under_noise(
    reader: ClipReader,
    samples: pd.DataFrame,
    gray: UInt8[np.ndarray, "n h w"],
    shares: Sequence[float],
    *,
    bank: int,
    epochs: int,
    batch_size: int,
    lr: float,
    seed: int,
    loss_of: LossOf | None = None,
) -> pd.DataFrame:
    """Lesson 2 of every sample at each share of swapped captions, each from a copy of the same CLIP before its warm-up.

    `gray` holds the infrared images of `samples` in their order, as `reader.decode` gives them. `loss_of`, where given,
    is asked for another model's loss on each sample with the captions of that share, which becomes `base_loss`.

    Returns:
        `share`, `sample_id`, `kind`, `group`, `swapped`, the columns of `NOISE_SCORES`, and `base_loss` if asked for;
        one row a sample and share.
    """
    position = pd.Series(np.arange(len(samples)), index=samples["sample_id"])
    tables = []
    for share in shares:
        noisy = swap_captions(samples, share, seed)
        fresh = replace(reader, model=copy.deepcopy(reader.model))
        found = lesson2(
            fresh,
            gray[position[noisy["sample_id"]].to_numpy()],
            noisy["caption"].tolist(),
            noisy["group"].tolist(),
            bank=bank,
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            seed=seed,
        )
        table = noisy[["sample_id", "kind", "group", "swapped"]].assign(
            share=float(share),
            clip_loss_before=found.before.numpy(),
            clip_loss=found.after.numpy(),
            alpha=found.alpha.numpy(),
            weight=sample_weights(found.alpha, form="literal").numpy(),
            clean_probability=clean_mixture(found.after, seed=seed).clean_probability.numpy(),
        )
        tables.append(table if loss_of is None else table.assign(base_loss=loss_of(noisy)))
    return pd.concat(tables, ignore_index=True)


def detection(
    scores: pd.DataFrame,
    *,
    names: Sequence[str] = NOISE_SCORES,
    seed: int,
    draws: int = DRAWS,
    level: float = LEVEL,
) -> pd.DataFrame:
    """How well each score finds the swapped captions at each share: `auc_intervals` within each kind of image.

    Returns:
        `share` and the columns of `auc_intervals`. Of `weight` and `clean_probability` a detector is *below* 0.5. At
        share 0 there is nothing to find and the AUC is NaN.
    """
    parts = [
        auc_intervals(part, names, positive="swapped", within="kind", seed=seed, draws=draws, level=level).assign(
            share=share
        )
        for share, part in scores.groupby("share")
    ]
    found = pd.concat(parts, ignore_index=True)
    return found[["share", *[name for name in found if name != "share"]]]


def verdict(found: pd.DataFrame) -> str:
    """What `detection` found at the largest share of swapped captions, in a few sentences made from its numbers.

    Raises:
        ValueError: at no share is an AUC known.
    """
    require(found, ["share", "score", "auc", "low", "high"], "the table of detection")
    known = found[found["auc"].notna()]
    if known.empty:
        raise ValueError("no share has both swapped and right captions, so nothing was detected; swap more of them")
    table = known[known["share"] == known["share"].max()].set_index("score")
    strength = (table["auc"] - 0.5).where(~table.index.isin(CLEAN_SCORES), 0.5 - table["auc"])
    best, share = str(strength.idxmax()), f"At {known['share'].max():.0%} swapped captions"
    if strength[best] > 0 and _side(table.loc[best]):
        lines = [f"{share} {best} tells them best: {_said(table.loc[best])}."]
    else:
        lines = [f"{share} no score tells them: {best}, the best one, may be chance ({_said(table.loc[best])})."]
    for name, more, less in CLAIMS:
        if name in table.index:
            said = {1: more, -1: less, 0: "differs by no more than chance in this"}[_side(table.loc[name])]
            lines.append(f"A swapped pair {said} ({name}: {_said(table.loc[name])}).")
    return "\n".join(lines)


def _side(row: pd.Series) -> int:
    """1 or -1 where the whole interval lies above or below 0.5, else 0."""
    return int(row["low"] > 0.5) - int(row["high"] < 0.5)


def _said(row: pd.Series) -> str:
    return f"AUC {row['auc']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
