"""The study's figures: tables and images in, a Figure out. One style, and one colour for a variant or band
everywhere."""

import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy.stats import gaussian_kde

from irgpt_lib.evaluation.statistics import LOWER_IS_BETTER, TASKS, require
from irgpt_lib.irtd.record import open_image

# Okabe and Ito's colours, which stay apart for the colour-blind; a variant keeps its own in every figure.
VARIANT_COLOURS = {"none": "#7f7f7f", "anti_cl": "#D55E00", "random": "#E69F00", "cl": "#0072B2"}
OTHER_COLOURS = ("#009E73", "#CC79A7", "#56B4E9", "#8C6D31", "#5E3C99", "#1B4D3E", "#A6761D", "#444444")
BAND_COLOURS = {"visible": "#999999", "nir": "#009E73", "swir": "#CC79A7", "tir": "#D55E00"}
BAND_NAMES = {"visible": "visible", "nir": "NIR", "swir": "SWIR", "tir": "TIR"}
TASK_NAMES = {
    "scene": "Scene",
    "recognition": "Recognition",
    "grounding": "Grounding",
    "relationship": "Relationship",
    "reid": "Re-ID",
    "security": "Security",
    "location": "Location",
    "aerial_counting": "Aerial counting",
    "pedestrian_counting": "Pedestrian counting",
}
TASK_UNITS = {
    "location": "MAE, 1/1000 of the side",
    "aerial_counting": "MAE, objects",
    "pedestrian_counting": "MAE, persons",
}
DPI = 100
STYLE = {
    **sns.axes_style("whitegrid"),
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#e4e4e4",
    "legend.frameon": True,
    "legend.framealpha": 0.85,
    "legend.edgecolor": "white",
    "figure.dpi": DPI,
    "svg.hashsalt": "irgpt",
}

Picture = bytes | np.ndarray
Arguments = ParamSpec("Arguments")


def styled(draw: Callable[Arguments, Figure]) -> Callable[Arguments, Figure]:
    """Draw in the study's style, without touching the style of whoever calls."""

    @wraps(draw)
    def in_style(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Figure:
        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return in_style


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """A figure of `width` x `height` inches with its grid of axes (`rows columns`), outside of pyplot's
    registry."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def png(figure: Figure, *, dpi: int = DPI) -> bytes:
    """The figure as PNG, the same bytes whenever and wherever it is drawn: no date and no software version
    inside."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def pixels(picture: Picture, name: str) -> UInt8[np.ndarray, "h w 3"]:
    """RGB pixels of PNG or JPEG bytes, or of a uint8 array `h w`, `h w 1` or `h w 3`.

    Raises:
        RecordError: the bytes are empty or no image; the message holds `name`.
        ValueError: the array has another shape or type.
    """
    if isinstance(picture, bytes):
        return np.asarray(open_image(picture, name).convert("RGB"))
    if (
        picture.dtype != np.uint8
        or picture.ndim not in (2, 3)
        or (picture.ndim == 3 and picture.shape[2] not in (1, 3))
    ):
        raise ValueError(f"{name}: not an 8-bit image of h w, h w 1 or h w 3 but {picture.dtype} {picture.shape}")
    gray = picture[..., None] if picture.ndim == 2 else picture
    return np.broadcast_to(gray, (*gray.shape[:2], 3))


def show(axes: Axes, picture: Picture, name: str) -> None:
    """An image without ticks; small ones are enlarged by whole pixels, so that what the model saw is seen."""
    axes.imshow(pixels(picture, name), interpolation="nearest")
    bare(axes)


def bare(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def absent(axes: Axes, text: str) -> None:
    """A gray word where an image would be."""
    bare(axes)
    axes.set_facecolor("#f3f3f3")
    axes.text(0.5, 0.5, text, ha="center", va="center", color="#888888", transform=axes.transAxes)


def variant_colours(variants: Sequence[str]) -> dict[str, str]:
    """A colour for each variant: the four of Table 2 keep theirs, others take the spare ones by their sorted
    names.

    Raises:
        ValueError: there are more other variants than spare colours.
    """
    others = sorted(set(variants) - set(VARIANT_COLOURS))
    if len(others) > len(OTHER_COLOURS):
        raise ValueError(f"{len(others)} variants for {len(OTHER_COLOURS)} colours; plot fewer: {', '.join(others)}")
    return VARIANT_COLOURS | dict(zip(others, OTHER_COLOURS, strict=False))


def ordered(variants: Sequence[str]) -> list[str]:
    """The variants of Table 2 in its order, then all others by name."""
    known = [name for name in VARIANT_COLOURS if name in set(variants)]
    return known + sorted(set(variants) - set(known))


def min_max(values: pd.Series) -> pd.Series:
    """Scaled to 0-1 by the smallest and largest value; all 0 where they are equal."""
    spread = values.max() - values.min()
    return (values - values.min()) / spread if spread > 0 else values * 0.0


def bands_in(table: pd.DataFrame) -> list[str]:
    """The bands of a table, in the order of their wavelengths.

    Raises:
        ValueError: an unknown band; the message lists those that exist.
    """
    if unknown := sorted(set(table.band) - set(BAND_COLOURS)):
        raise ValueError(f"unknown bands {unknown}; the bands are {', '.join(BAND_COLOURS)}")
    return [band for band in BAND_COLOURS if band in set(table.band)]


@styled
def difficulty_histograms(scores: pd.DataFrame) -> Figure:
    """Figure 6: histograms of both difficulties, min-max normalised and stacked by band, and the density of each band.

    `scores` has a row a sample and the columns `distance` (Lesson 1, Eq. 3), `clip_loss` (Lesson 2) and
    `band`.

    Raises:
        ValueError: a column is missing or a band unknown.
    """
    require(scores, ["distance", "clip_loss", "band"], "the table of scores")
    figure, axes = new_figure(9.0, 3.6, 1, 2, sharex=True)
    names = {"distance": "Lesson 1: sample distance", "clip_loss": "Lesson 2: CLIP loss"}
    bands = bands_in(scores)
    edges, grid = np.linspace(0, 1, 41), np.linspace(0, 1, 200)
    for ax, (column, title) in zip(axes[0], names.items(), strict=True):
        values = min_max(scores[column].astype(float))
        parts = {band: values[scores.band == band] for band in bands}
        colours = [BAND_COLOURS[band] for band in bands]
        ax.hist([*parts.values()], edges, stacked=True, color=colours, alpha=0.4, label=[BAND_NAMES[b] for b in bands])
        for part, colour in [*zip(parts.values(), colours, strict=True), (values, "#222222")]:
            if part.nunique() > 1:
                ax.plot(grid, gaussian_kde(part)(grid) * len(part) / 40, color=colour, lw=1.5)
        ax.set(title=title, xlabel="min-max normalised score", ylabel="samples", xlim=(0, 1))
    axes[0, 1].plot([], [], color="#222222", lw=1.5, label="density, all")
    axes[0, 1].legend()
    return figure


@styled
def difficulty_scatter(scores: pd.DataFrame) -> Figure:
    """Both difficulties of every sample: Lesson 1 against Lesson 2, coloured by band and by tier.

    `scores` has a row a sample and the columns `distance`, `clip_loss`, `band` and `tier` (0 is the easiest).

    Raises:
        ValueError: a column is missing or a band unknown.
    """
    require(scores, ["distance", "clip_loss", "band", "tier"], "the table of scores")
    figure, axes = new_figure(9.5, 4.2, 1, 2, sharex=True, sharey=True)
    size = float(np.clip(6000 / max(len(scores), 1), 3, 25))
    # which sample covers which must not depend on the order of bands
    shown = scores.sample(frac=1, random_state=0)
    dots: dict[str, Any] = {"s": size, "alpha": 0.65, "linewidths": 0}
    axes[0, 0].scatter(shown.distance, shown.clip_loss, c=shown.band.map(BAND_COLOURS).tolist(), **dots)
    for band in bands_in(scores):
        axes[0, 0].scatter([], [], color=BAND_COLOURS[band], label=BAND_NAMES[band])
    axes[0, 0].legend(title="band")
    tiers = axes[0, 1].scatter(shown.distance, shown.clip_loss, c=shown.tier, cmap="viridis", **dots)
    bar = figure.colorbar(tiers, ax=axes[0, 1], label="tier (0 is trained first)")
    bar.solids.set_alpha(1)
    axes[0, 0].set(title="by band", ylabel="CLIP loss after warm-up (Lesson 2)")
    axes[0, 1].set(title="by tier of the curriculum")
    figure.supxlabel("distance to the visible domain (Lesson 1)", fontsize=10)
    return figure


@styled
def domain_projection(points: pd.DataFrame, *, names: tuple[str, str] = ("component 1", "component 2")) -> Figure:
    """Figure 5 as computed: every image in two dimensions, the domains' means and the direction between them.

    `points` has the columns `x`, `y`, `band` (visible, nir, swir or tir) and `distance` (Eq. 3; NaN for
    visible images). The arrow runs from the mean of all infrared images to the mean of the visible ones.

    Raises:
        ValueError: a column is missing, a band unknown, or one of the two domains has no image.
    """
    require(points, ["x", "y", "band", "distance"], "the table of projected features")
    seen = points[points.band == "visible"]
    infrared = points[points.band != "visible"]
    if seen.empty or infrared.empty:
        raise ValueError(f"both domains are needed: {len(seen)} visible and {len(infrared)} infrared images were given")
    figure, axes = new_figure(10.0, 4.4, 1, 2, width_ratios=[1.25, 1])
    ax = axes[0, 0]
    for band in bands_in(points):
        part = points[points.band == band]
        ax.scatter(part.x, part.y, s=9, alpha=0.5, linewidths=0, color=BAND_COLOURS[band], label=BAND_NAMES[band])
    start, end = infrared[["x", "y"]].mean(), seen[["x", "y"]].mean()
    ax.annotate("", xy=tuple(end), xytext=tuple(start), arrowprops={"arrowstyle": "-|>", "lw": 2, "color": "#222222"})
    outline = {"bbox": {"boxstyle": "round,pad=0.2", "fc": "white", "ec": "none", "alpha": 0.8}}
    # each label on the far side of its mean: close means would else hide each other's
    side = 1 if end.y >= start.y else -1
    for text, place, up in (("mean infrared", start, -side), ("mean visible", end, side)):
        ax.annotate(text, tuple(place), (0, 14 * up), textcoords="offset points", ha="center", va="center", **outline)
    ax.set(title="features in two dimensions", xlabel=names[0], ylabel=names[1])
    ax.legend(markerscale=2)
    below = axes[0, 1]
    for band in bands_in(infrared):
        values = np.sort(infrared.distance[infrared.band == band].dropna())
        below.plot(values, np.arange(1, len(values) + 1) / len(values), color=BAND_COLOURS[band], lw=2)
        below.plot([], [], color=BAND_COLOURS[band], lw=2, label=f"{BAND_NAMES[band]}, n = {len(values)}")
    below.set(
        title="distance along the arrow",
        xlabel="d (Eq. 3)",
        ylabel="share of samples at or below",
        ylim=(0, 1.02),
    )
    # beside the curves: a legend over them hides the tail that tells the bands apart
    below.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, fontsize=9)
    return figure


@styled
def example_cards(rows: pd.DataFrame) -> Figure:
    """Figure 7: one card a sample, easiest first: infrared and visible image, rank, both scores, weight,
    caption.

    `rows` has the columns `infrared`, `visible` (empty or null where no pair exists), `rank`, `band`,
    `distance`, `clip_loss`, `weight` (Eq. 5) and `caption`; four cards fit a row.

    Raises:
        ValueError: a column is missing or there is no row.
    """
    columns = ["infrared", "visible", "rank", "band", "distance", "clip_loss", "weight", "caption"]
    require(rows, columns, "the table of examples")
    cards = at_least_one(rows).sort_values("rank", kind="stable")
    across = min(4, len(cards))
    down = -(-len(cards) // across)
    figure = Figure(figsize=(2.9 * across, 2.75 * down), layout="constrained")
    FigureCanvasAgg(figure)
    panels = np.atleast_1d(figure.subfigures(down, across, squeeze=False, wspace=0.04, hspace=0.06)).ravel()
    for panel, card in zip(panels, cards.itertuples(), strict=False):
        axes = panel.subplots(2, 2, height_ratios=[1, 0.72])
        colour = BAND_COLOURS[card.band]
        panel.suptitle(f"No. {card.rank}  {BAND_NAMES[card.band]}", fontsize=11, weight="bold", color=colour)
        show(axes[0, 0], card.infrared, f"infrared image of rank {card.rank}")
        if card.visible:
            show(axes[0, 1], card.visible, f"visible image of rank {card.rank}")
        else:
            absent(axes[0, 1], "no pair")
        axes[0, 0].set_xlabel("infrared", fontsize=8)
        axes[0, 1].set_xlabel("visible", fontsize=8)
        numbers = f"distance {card.distance:.3f}   CLIP loss {card.clip_loss:.2f}   w {card.weight:.2f}"
        bare(axes[1, 0])
        axes[1, 1].set_visible(False)
        words = textwrap.shorten(card.caption, 170, placeholder=" …")
        text = numbers + "\n\n" + textwrap.fill(words, 46)
        axes[1, 0].text(0, 1, text, va="top", fontsize=7.5, transform=axes[1, 0].transAxes, in_layout=False)
    return figure


def at_least_one(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows themselves.

    Raises:
        ValueError: there is none.
    """
    if rows.empty:
        raise ValueError("there is no row to show; select at least one sample")
    return rows


@styled
def orders(tables: Mapping[str, pd.DataFrame], *, most: int = 4000) -> Figure:
    """Which samples each schedule meets when: the rank of a sample (0 the easiest) by its position, a panel a schedule.

    Each table has the columns `position`, `rank` and `weight` (Eq. 5, the colour), for one epoch or more; of a long one
    at most `most` evenly spaced positions are drawn.

    Raises:
        ValueError: there is no table, or a column is missing.
    """
    if not tables:
        raise ValueError("there is no order to show; give at least one")
    across = min(4, len(tables))
    down = -(-len(tables) // across)
    figure, axes = new_figure(2.6 * across + 0.6, 2.4 * down, down, across, sharex=True, sharey=True)
    dots = None
    for ax, (name, table) in zip(axes.ravel(), tables.items(), strict=False):
        require(table, ["position", "rank", "weight"], f"the order {name}")
        ax.set_title(name.replace("_", " "))
        if table.empty:
            # the axes are shared: `absent` would take the ticks of all panels away
            ax.text(0.5, 0.5, "no epoch", ha="center", va="center", color="#888888", transform=ax.transAxes)
            continue
        shown = table.iloc[np.unique(np.linspace(0, len(table) - 1, min(most, len(table))).round().astype(int))]
        colour = {"c": shown.weight, "vmin": 0, "vmax": 2, "cmap": "viridis"}
        dots = ax.scatter(shown.position, shown["rank"], s=2.5, linewidths=0, **colour)
    for ax in axes.ravel()[len(tables) :]:
        ax.set_visible(False)
    if dots is not None:
        figure.colorbar(dots, ax=axes, label="weight (Eq. 5)", shrink=0.7)
    figure.supxlabel("position in stage 1", fontsize=10)
    figure.supylabel("rank (0 is the easiest)", fontsize=10)
    return figure


@styled
def detection(found: pd.DataFrame) -> Figure:
    """How well each score tells a swapped caption: ROC AUC with its interval, by the share of captions swapped.

    `found` has the columns `share`, `score`, `auc`, `low` and `high`, as `caption_noise.detection` returns; a share
    without a swapped caption has no AUC and is left out.

    Raises:
        ValueError: a column is missing, or no AUC is known.
    """
    require(found, ["share", "score", "auc", "low", "high"], "the table of detection")
    known = at_least_one(found[found["auc"].notna()])
    scores, shares = list(dict.fromkeys(known["score"])), sorted(known["share"].unique())
    figure, axes = new_figure(7.2, 0.5 + 0.55 * len(scores))
    ax = axes[0, 0]
    for number, share in enumerate(shares):
        part = known[known["share"] == share].set_index("score").reindex(scores)
        place = np.arange(len(scores)) + 0.3 * (number - (len(shares) - 1) / 2) / max(1, len(shares) - 1)
        ends = np.nan_to_num(np.stack([part["auc"] - part["low"], part["high"] - part["auc"]])).clip(0)
        colour = OTHER_COLOURS[number % len(OTHER_COLOURS)]
        ax.errorbar(part["auc"], place, xerr=ends, fmt="o", ms=4, capsize=2, color=colour, label=f"{share:.0%} swapped")
    ax.axvline(0.5, color="#222222", ls="--", lw=1.2)
    ax.set(yticks=range(len(scores)), xlabel="ROC AUC for swapped captions (0.5 knows nothing)", xlim=(0, 1))
    ax.set_yticklabels([name.replace("_", " ") for name in scores])
    ax.invert_yaxis()
    ax.legend(loc="lower left")
    return figure


@styled
def loss_curves(history: pd.DataFrame, *, window: int = 15) -> Figure:
    """Training loss by step, faint as measured and strong as a running median, a panel a stage, shaded by
    tier.

    `history` has the columns `step`, `loss`, `tier` (negative or NaN outside stage 1) and `stage`; with a
    column `variant` each variant has its own line and the shading, which would differ between them, is left
    out.

    Raises:
        ValueError: a column is missing or there is no row.
    """
    require(history, ["step", "loss", "tier", "stage"], "the training history")
    stages = list(dict.fromkeys(at_least_one(history).stage))
    figure, axes = new_figure(4.8 * len(stages), 3.4, 1, len(stages))
    for ax, stage in zip(axes[0], stages, strict=True):
        part = history[history.stage == stage]
        lines = list(part.groupby("variant", sort=False)) if "variant" in part else [("", part)]
        colours = variant_colours([name for name, _ in lines if name])
        for name, line in lines:
            line = line.sort_values("step")
            colour = colours.get(name, VARIANT_COLOURS["cl"])
            ax.plot(line.step, line.loss, color=colour, alpha=0.25, lw=0.8)
            smooth = line.loss.rolling(window, center=True, min_periods=1).median()
            ax.plot(line.step, smooth, color=colour, lw=1.8, label=name or f"running median of {window}")
        if "variant" not in part:
            shade_tiers(ax, part)
        title = stage if isinstance(stage, str) else f"stage {stage}"
        ax.set(title=title, xlabel="step", ylabel="loss", ylim=(0, None))
        ax.margins(x=0)
    axes[0, -1].legend()
    return figure


def shade_tiers(axes: Axes, part: pd.DataFrame) -> None:
    """Alternate gray behind the steps of each run of one tier, with the tier's number at its foot."""
    line = part.sort_values("step")
    tiers = line.tier.fillna(-1).astype(int).to_numpy()
    if (tiers < 0).all():
        return
    starts = np.flatnonzero(np.r_[True, tiers[1:] != tiers[:-1]])
    edges = np.r_[line.step.to_numpy()[starts], line.step.iloc[-1]]
    # a random order changes its tier at every step: bands would then be a blur without meaning
    if len(starts) > 4 * len(set(tiers)):
        return
    for i, start in enumerate(starts):
        axes.axvspan(edges[i], edges[i + 1], color="#000000" if i % 2 else "#ffffff", alpha=0.06, lw=0)
        middle = (edges[i] + edges[i + 1]) / 2
        axes.text(
            middle,
            0.02,
            str(tiers[start]),
            transform=axes.get_xaxis_transform(),
            ha="center",
            fontsize=8,
            color="#777777",
        )
    axes.text(0.01, 0.08, "tier", transform=axes.transAxes, fontsize=8, color="#777777")


def cells_of(summary: pd.DataFrame, variant: str, setting: str) -> pd.DataFrame:
    """The summary's rows of one variant in one setting, indexed by column; empty where it was not run."""
    return summary[(summary.variant == variant) & (summary.setting == setting)].set_index("column")


def whiskers(cells: pd.DataFrame) -> Float[np.ndarray, "2 n"]:
    """Distances of the interval's ends from the mean, 0 where there is no interval."""
    return np.nan_to_num(np.stack([cells["mean"] - cells.low, cells.high - cells["mean"]]).astype(float)).clip(0)


@styled
def task_bars(summary: pd.DataFrame) -> Figure:
    """Every task of every variant, zero-shot (pale) and fine-tuned (full), with 95 % intervals and the blind
    prior.

    `summary` is what `irgpt_lib.evaluation.statistics.summarise` returns. Tasks without questions are left
    out.

    Raises:
        ValueError: a column is missing, or no variant was run zero-shot or fine-tuned.
    """
    require(summary, ["variant", "setting", "column", "mean", "low", "high", "questions"], "the summary of runs")
    ran = summary[summary.setting.isin(["zero_shot", "fine_tuned"])]
    variants = ordered(list(at_least_one(ran).variant))
    colours = variant_colours(variants)
    asked = summary[summary.questions > 0].column.unique()
    tasks = [task for task in TASKS if task in asked]
    across = min(3, len(tasks))
    down = -(-len(tasks) // across)
    figure, axes = new_figure(3.5 * across, 2.45 * down + 0.4, down, across)
    blind = cells_of(summary, "blind", "baseline")
    for ax, task in zip(axes.ravel(), tasks, strict=False):
        for setting, offset, alpha in (("zero_shot", -0.2, 0.45), ("fine_tuned", 0.2, 1.0)):
            for place, variant in enumerate(variants):
                cells = cells_of(ran, variant, setting)
                if task not in cells.index:
                    continue
                cell = cells.loc[[task]]
                ax.bar(
                    place + offset,
                    cell["mean"].iloc[0],
                    0.38,
                    color=colours[variant],
                    alpha=alpha,
                    yerr=whiskers(cell),
                    error_kw={"lw": 1.2, "ecolor": "#222222", "capsize": 2},
                )
        if task in blind.index:
            ax.axhline(blind.at[task, "mean"], color="#222222", ls="--", lw=1.2)
        unit = TASK_UNITS.get(task, "accuracy, %")
        ax.set(xticks=range(len(variants)), xlim=(-0.6, len(variants) - 0.4), ylabel=unit)
        ax.set_xticklabels(variants, fontsize=9, rotation=0 if len(variants) < 5 else 45)
        ax.set_title(f"{TASK_NAMES[task]} {'(lower is better)' if task in LOWER_IS_BETTER else ''}".strip())
        ax.grid(False, axis="x")
        if task not in LOWER_IS_BETTER:
            ax.set_ylim(0, 100)
    for ax in axes.ravel()[len(tasks) :]:
        ax.set_visible(False)
    keys = [
        Rectangle((0, 0), 1, 1, color="#555555", alpha=0.45, label="zero-shot"),
        Rectangle((0, 0), 1, 1, color="#555555", label="fine-tuned"),
        mpl.lines.Line2D([], [], color="#222222", ls="--", lw=1.2, label="blind prior (no image)"),
    ]
    figure.legend(handles=keys, loc="outside upper center", ncols=3)
    return figure


@styled
def image_grid(rows: pd.DataFrame, *, pairs: int = 2) -> Figure:
    """Samples as they are: infrared image with its boxes, visible pair, caption; `pairs` samples a row. Where no sample
    has a pair, no room is left for one.

    `rows` has the columns `infrared`, `visible` (empty or null where no pair exists), `caption`, `boxes` (each
    with `category`, `x1`, `y1`, `x2`, `y2` in pixels of the infrared image, as mappings or `Box`), `band` and
    `sample_id`.

    Raises:
        ValueError: a column is missing or there is no row.
    """
    require(rows, ["infrared", "visible", "caption", "boxes", "band", "sample_id"], "the table of samples")
    across = min(pairs, len(at_least_one(rows)))
    down = -(-len(rows) // across)
    figure = Figure(figsize=(4.6 * across, 3.15 * down), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subfigures(down, across, squeeze=False, wspace=0.03, hspace=0.04).ravel()
    paired = any(map(bool, rows["visible"]))
    for panel, row in zip(panels, rows.itertuples(), strict=False):
        left, *others = panel.subplots(1, 1 + paired, squeeze=False)[0]
        show(left, row.infrared, f"infrared image of {row.sample_id}")
        draw_boxes(left, row.boxes)
        for right in others:
            if not row.visible:
                absent(right, "no pair")
                right.set_aspect("equal")
                continue
            show(right, row.visible, f"visible image of {row.sample_id}")
        panel.suptitle(f"{row.sample_id}  {BAND_NAMES[row.band]}", fontsize=10, color=BAND_COLOURS[row.band])
        caption = textwrap.shorten(row.caption, 190, placeholder=" …")
        panel.supxlabel(textwrap.fill(caption, 68), fontsize=8)
    return figure


def draw_boxes(axes: Axes, boxes: Sequence[Any] | np.ndarray) -> None:
    """Outlined boxes with their categories, readable on bright and on dark ground."""
    for box in boxes:
        get = box.__getitem__ if isinstance(box, Mapping) else box.__getattribute__
        x, y, width, height = get("x1"), get("y1"), get("x2") - get("x1"), get("y2") - get("y1")
        # pixel x covers x - 0.5 to x + 0.5 on the canvas, while a box counts from the pixel's edge
        corner = (x - 0.5, y - 0.5)
        for colour, thickness in (("#000000", 2.6), ("#FFD400", 1.3)):
            axes.add_patch(Rectangle(corner, width, height, fill=False, ec=colour, lw=thickness))
        label = {"boxstyle": "square,pad=0.1", "fc": "#FFD400", "ec": "none"}
        axes.text(*corner, get("category"), fontsize=6, va="bottom", color="#000000", bbox=label, clip_on=True)


@styled
def reconstructions(
    original: UInt8[np.ndarray, "n h w *c"],
    masked: UInt8[np.ndarray, "n h w *c"],
    reconstructed: UInt8[np.ndarray, "n h w *c"],
) -> Figure:
    """What the masked autoencoder saw and what it made of it: a column an image, rows original, masked,
    rebuilt.

    Raises:
        ValueError: there is no image.
    """
    if not len(original):
        raise ValueError("there is no image to show; give at least one")
    figure, axes = new_figure(1.35 * len(original) + 0.9, 4.3, 3, len(original))
    for line, (name, images) in enumerate(
        (("original", original), ("masked", masked), ("reconstructed", reconstructed))
    ):
        for place, image in enumerate(images):
            show(axes[line, place], image, f"{name} image {place}")
        axes[line, 0].set_ylabel(name)
    return figure


def share_of_gap(score: pd.Series, blind: pd.Series) -> pd.Series:
    """How much of the way from the blind prior (0) to a perfect answer (1) a score has gone, by task (the
    index).

    Perfect is 100 % or an error of 0; NaN where the blind prior is perfect already. Negative below the prior.
    """
    perfect = pd.Series([0.0 if task in LOWER_IS_BETTER else 100.0 for task in score.index], index=score.index)
    gap = perfect - blind.reindex(score.index)
    return (score - blind.reindex(score.index)) / gap.where(gap != 0)


@styled
def headline(summary: pd.DataFrame, *, simulated: bool) -> Figure:
    """The study's result in one figure: how far each variant, fine-tuned, gets from the blind prior to
    perfect.

    `summary` is what `irgpt_lib.evaluation.statistics.summarise` returns; with `simulated` the figure says on
    its face that the images are no photographs. The prior is taken as known: intervals are those of the
    variants alone.

    Raises:
        ValueError: a column is missing, or no variant of Table 2 was run fine-tuned.
    """
    require(summary, ["variant", "setting", "column", "mean", "low", "high", "questions"], "the summary of runs")
    ran = summary[(summary.setting == "fine_tuned") & summary.variant.isin(list(VARIANT_COLOURS))]
    variants = ordered(list(at_least_one(ran).variant))
    tasks = [task for task in TASKS if (ran[ran.column == task].questions > 0).any()]
    blind = cells_of(summary, "blind", "baseline")["mean"]
    figure, axes = new_figure(10.0, 4.4)
    ax = axes[0, 0]
    step = 0.8 / len(variants)
    low = 0.0
    for place, variant in enumerate(variants):
        cells = cells_of(ran, variant, "fine_tuned").loc[tasks]
        share = {name: 100 * share_of_gap(cells[name], blind) for name in ("mean", "low", "high")}
        ends = np.sort(np.stack([share["low"], share["high"]]), axis=0)
        reach = np.nan_to_num(np.stack([share["mean"] - ends[0], ends[1] - share["mean"]])).clip(0)
        where = np.arange(len(tasks)) + (place - (len(variants) - 1) / 2) * step
        bars = {"lw": 1, "ecolor": "#222222", "capsize": 2}
        ax.bar(
            where,
            share["mean"],
            0.92 * step,
            color=VARIANT_COLOURS[variant],
            yerr=reach,
            error_kw=bars,
            label=variant,
        )
        low = min(low, float(np.nan_to_num(ends[0]).min()))
    ax.axhline(0, color="#222222", lw=1.2)
    ax.set_xlim(-0.6, len(tasks) - 0.4)
    ax.set_xticks(range(len(tasks)), [TASK_NAMES[task].replace(" ", "\n") for task in tasks])
    ax.set(ylim=(min(-5.0, low * 1.1), 100), ylabel="share of the way, %")
    ax.grid(False, axis="x")
    origin = "simulated images" if simulated else "authentic infrared images"
    ax.set_title(f"From the blind prior (0) to perfect (100), fine-tuned, {origin}; bars: 95 % intervals", loc="left")
    figure.legend(loc="outside lower center", ncols=len(variants))
    return figure
