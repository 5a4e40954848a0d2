"""Curves of stage 1 by tier: what DVC plots and the figure that lays several variants over one another.

A tier is met at another time of training in each schedule: early in an ascending order, late in a descending one. The
curves say what a tier cost when its turn came, not how hard it is for equally trained models. In a random order every
batch mixes the tiers and bears the one of its first sample: such a line is flat by construction and is drawn dotted.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from irgpt_lib.evaluation.statistics import require
from irgpt_lib.report.plots import new_figure, ordered, styled, variant_colours

MEASURES = {"loss": "loss, nats", "gradient_norm": "gradient norm before clipping"}
# A schedule that takes the tiers one after the other changes tier at most a few times for each.
MOST_RUNS_A_TIER = 4


def with_tiers(history: pd.DataFrame, name: str) -> pd.DataFrame:
    """The rows of stage 1, which has tiers from 0 on.

    Raises:
        ValueError: a column is missing; the message holds `name`.
    """
    require(history, ["step", "tier", *MEASURES], f"the training history {name}")
    return history[history["tier"] >= 0].sort_values("step")


def mixes_tiers(history: pd.DataFrame) -> bool:
    """Whether the tier changes too often for a schedule that takes them one after the other."""
    tiers = history["tier"].to_numpy()
    runs = np.count_nonzero(np.diff(tiers)) + min(1, len(tiers))
    return bool(runs > MOST_RUNS_A_TIER * len(np.unique(tiers)))


def by_tier(histories: Mapping[str, Sequence[pd.DataFrame]], measure: str) -> pd.DataFrame:
    """A row a tier, easiest first, and a column a variant: the mean of `measure` over the tier's steps, then over the
    variant's seeds. `histories` gives each variant one history a seed; a variant without stage 1 has no column.

    This is the table for DVC: several `y` of one file are several lines, and `dvc plots diff` draws each once more
    for every revision.

    Raises:
        ValueError: `measure` is none of MEASURES, or a history lacks a column.
    """
    if measure not in MEASURES:
        raise ValueError(f"no measure {measure!r}; there are {', '.join(MEASURES)}")
    columns = {}
    for name in ordered(list(histories)):
        seeds = [with_tiers(history, name).groupby("tier")[measure].mean() for history in histories[name]]
        seeds = [means for means in seeds if len(means)]
        if seeds:
            columns[name] = pd.concat(seeds, axis=1).mean(axis=1)
    table = pd.DataFrame(columns).rename_axis("tier").sort_index()
    return table.reset_index().astype({"tier": int})


@styled
def tier_curves(histories: Mapping[str, Sequence[pd.DataFrame]]) -> Figure:
    """Loss and gradient norm by tier, a panel each, a line a variant: the median over the steps of all its seeds, with
    the band from the 1st to the 3rd quartile. Variants without stage 1 are left out.

    Raises:
        ValueError: a history lacks a column, or none has a tier.
    """
    rows = {name: [with_tiers(history, name) for history in histories[name]] for name in ordered(list(histories))}
    rows = {name: [part for part in parts if len(part)] for name, parts in rows.items()}
    rows = {name: parts for name, parts in rows.items() if parts}
    if not rows:
        raise ValueError("no history has a tier: there is no stage 1 to draw")
    colours = variant_colours(list(rows))
    figure, axes = new_figure(4.8 * len(MEASURES), 3.4, 1, len(MEASURES))
    for ax, (measure, label) in zip(axes[0], MEASURES.items(), strict=True):
        for name, parts in rows.items():
            quartiles = pd.concat(parts).groupby("tier")[measure].quantile([0.25, 0.5, 0.75]).unstack()
            mixed = any(map(mixes_tiers, parts))
            ax.fill_between(quartiles.index, quartiles[0.25], quartiles[0.75], color=colours[name], alpha=0.15, lw=0)
            text = f"{name} (tiers mixed)" if mixed else name
            line = {"color": colours[name], "lw": 1.8, "ls": ":" if mixed else "-", "marker": "o", "ms": 3}
            ax.plot(quartiles.index, quartiles[0.5], label=text, **line)
        ax.set(xlabel="tier, easiest first", ylabel=label, ylim=(0, None))
        ax.xaxis.get_major_locator().set_params(integer=True)
    axes[0, -1].legend()
    return figure
