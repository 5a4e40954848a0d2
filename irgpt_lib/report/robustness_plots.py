"""Figures of what other polarities and palettes cost."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from irgpt_lib.evaluation.robustness import COLOUR_MAPS, PLAIN
from irgpt_lib.evaluation.statistics import LOWER_IS_BETTER, require
from irgpt_lib.report.plots import (
    TASK_NAMES,
    TASK_UNITS,
    VARIANT_COLOURS,
    Picture,
    at_least_one,
    new_figure,
    show,
    styled,
)

ACROSS = 3
DROP_COLUMNS = ["task", "shown", "score", "low", "high", "drop"]
PERCENT = "accuracy, percentage points"


def said(way: str) -> str:
    """`black-hot`; a palette keeps its name."""
    return way if way in COLOUR_MAPS else way.replace("_", "-")


def drop_limits(found: pd.DataFrame) -> pd.DataFrame:
    """The limits of `drop` from those of `difference`: columns `low` and `high`, turned where more is better."""
    errors = found["task"].isin(LOWER_IS_BETTER)
    return pd.DataFrame(
        {"low": found["low"].where(errors, -found["high"]), "high": found["high"].where(errors, -found["low"])}
    )


@styled
def ways_of_showing(pictures: Mapping[str, Picture]) -> Figure:
    """One image in each way of showing it, by the way's name.

    Raises:
        ValueError: there is no image.
    """
    if not pictures:
        raise ValueError("there is no way of showing to draw; give at least one image")
    figure, axes = new_figure(1.7 * len(pictures), 1.95, 1, len(pictures))
    for ax, (way, picture) in zip(axes[0], pictures.items(), strict=True):
        show(ax, picture, way)
        ax.set_title(said(way), fontsize=10)
    return figure


@styled
def drops(found: pd.DataFrame) -> Figure:
    """What each way of showing the images costs in each task, with intervals; right of the line the model is worse.

    `found` is what `evaluation.robustness.robustness` returns. The score of white-hot stands above each panel, for a
    model that scores little has little to lose. Tasks of accuracies share their axis, errors have each its own unit.

    Raises:
        ValueError: a column is missing, or there is no other way than white-hot.
    """
    require(found, DROP_COLUMNS, "the table of robustness")
    other = at_least_one(found[found["shown"] != PLAIN])
    plain = found[found["shown"] == PLAIN].set_index("task")["score"]
    other = other.assign(**drop_limits(other))
    tasks = [task for task in TASK_NAMES if task in set(other["task"])]
    ways = list(dict.fromkeys(other["shown"]))
    down = -(-len(tasks) // ACROSS)
    height = 0.4 + (0.85 + 0.24 * len(ways)) * down
    figure, axes = new_figure(9.6, height, down, ACROSS, sharey=True)
    for ax, task in zip(axes.ravel(), tasks, strict=False):
        panel(ax, other[other["task"] == task].set_index("shown").reindex(ways))
        ax.set_title(f"{TASK_NAMES[task]} (white-hot {plain[task]:.3g})", fontsize=10)
        ax.set_xlabel(TASK_UNITS.get(task, PERCENT), fontsize=8.5)
    for ax in axes.ravel()[len(tasks) :]:
        ax.set_visible(False)
    share_limits([ax for ax, task in zip(axes.ravel(), tasks, strict=False) if task not in LOWER_IS_BETTER])
    axes[0, 0].set_yticks(range(len(ways)), [said(way) for way in ways])
    axes[0, 0].invert_yaxis()
    figure.suptitle("Lost beside white-hot on the same questions (right of the line: worse)", fontsize=11)
    return figure


def panel(ax: Axes, own: pd.DataFrame) -> None:
    """The drops of one task, a row a way."""
    ends = np.stack([own["drop"] - own["low"], own["high"] - own["drop"]]).clip(0)
    colour = VARIANT_COLOURS["cl"]
    ax.axvline(0, color="#222222", lw=1)
    ax.errorbar(own["drop"], np.arange(len(own)), xerr=ends, color=colour, fmt="o", ms=5, capsize=2, lw=1.4)
    ax.margins(y=0.12)
    ax.grid(False, axis="y")


def share_limits(axes: list[Axes]) -> None:
    """The same horizontal limits for all."""
    limits = [ax.get_xlim() for ax in axes]
    for ax in axes:
        ax.set_xlim(min(low for low, _ in limits), max(high for _, high in limits))
