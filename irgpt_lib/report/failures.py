"""Failures as pictures: cards with image, question, answer and truth; what is taken for what; hallucinated objects."""

import json
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from irgpt_lib.evaluation.failures import BAD, GOOD, NO_ANSWER
from irgpt_lib.evaluation.hallucination import CANNOT_DENY, MEASURES
from irgpt_lib.evaluation.statistics import LOWER_IS_BETTER, require
from irgpt_lib.report.plots import (
    BAND_NAMES,
    OTHER_COLOURS,
    TASK_NAMES,
    TASK_UNITS,
    at_least_one,
    bare,
    new_figure,
    pixels,
    show,
    styled,
)
from irgpt_lib.tasks import TASKS

TRUE, SAID = "#009E73", "#D55E00"
INK, FAINT = "#222222", "#777777"
CARD_WIDTH, IMAGE_HEIGHT = 2.75, 1.75
LINE_HEIGHT = 0.145
LETTERS_A_LINE, TITLE_LETTERS_A_CARD = 43, 30
LONGEST_TEXT = 210
ANSWER_COLUMNS = ["task", "band", "question", "output", "answer", "truth", "score", "infrared"]
RATE_AXES = {"false_alarm": "says it is there, % of asks", "balanced_accuracy": "balanced accuracy, %"}


class Line(NamedTuple):
    """One paragraph of a card, in its colour."""

    text: str
    colour: str = INK


class Card(NamedTuple):
    """One sample as a card: a heading, its image with what was meant and what was said in it, and paragraphs below."""

    heading: str
    image: bytes
    lines: list[Line]
    task: str = ""
    truth: Any = None
    said: Any = None


def paragraphs(line: Line) -> list[Line]:
    """A paragraph as the lines that fit a card, the later ones indented; long ones are cut."""
    text = textwrap.shorten(" ".join(line.text.split()), LONGEST_TEXT, placeholder=" …")
    return [Line(row, line.colour) for row in textwrap.wrap(text, LETTERS_A_LINE, subsequent_indent="   ")]


def card_grid(cards: Sequence[Card], across: int, title: str) -> Figure:
    """The cards in rows of `across`, each row as high as its longest text.

    Raises:
        RecordError: an image cannot be read; the message holds its card's heading.
    """
    texts = [[row for line in card.lines for row in paragraphs(line)] for card in cards]
    down = -(-len(cards) // across)
    longest = [max(map(len, texts[i * across : (i + 1) * across])) for i in range(down)]
    heights = [0.3 + IMAGE_HEIGHT + LINE_HEIGHT * count + 0.12 for count in longest]
    # the figure may be one card wide
    above = textwrap.wrap(title, TITLE_LETTERS_A_CARD * across)
    figure = Figure(figsize=(CARD_WIDTH * across, sum(heights) + 0.15 + 0.2 * len(above)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle("\n".join(above), fontsize=11, x=0.01, ha="left")
    panels = figure.subfigures(down, across, squeeze=False, height_ratios=heights, wspace=0.02, hspace=0.02)
    for place, (card, rows) in enumerate(zip(cards, texts, strict=True)):
        panel, text_height = panels.ravel()[place], LINE_HEIGHT * longest[place // across]
        picture, below = panel.subplots(2, 1, height_ratios=[IMAGE_HEIGHT, text_height])
        picture.set_title(card.heading, fontsize=8.5, weight="bold", pad=3)
        show(picture, card.image, f"infrared image of {card.heading}")
        mark(picture, card)
        bare(below)
        for number, row in enumerate(rows):
            down_by = 1 - number * LINE_HEIGHT / text_height
            below.text(0, down_by, row.text, color=row.colour, va="top", fontsize=7.5, in_layout=False)
    return figure


def mark(axes: Axes, card: Card) -> None:
    """What the answer puts into the picture, over what is true: boxes, points, or the cells of a montage."""
    height, width = pixels(card.image, card.heading).shape[:2]
    scale = np.array([width, height]) / 1000
    both = ((card.truth, TRUE, "o"), (None if card.said == card.truth else card.said, SAID, "x"))
    for value, colour, point in both:
        if value is None:
            continue
        if card.task == "grounding":
            x1, y1, x2, y2 = np.asarray(value, float) * np.tile(scale, 2) - 0.5
            axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec=colour, lw=1.8))
        elif card.task == "location":
            x, y = (np.asarray(value, float) * scale - 0.5).T
            face = {"facecolors": "none", "edgecolors": colour} if point == "o" else {"color": colour}
            axes.scatter(x, y, marker=point, s=50, linewidths=1.8, **face)
        elif card.task == "reid":
            outline_cell(axes, int(value), width, height, colour)
    if card.task == "reid":
        outline_cell(axes, 1, width, height, "#FFD400")


def outline_cell(axes: Axes, cell: int, width: int, height: int, colour: str) -> None:
    """One of the cells 1 to 8 of a montage of two rows of four, framed and numbered."""
    row, column = divmod(cell - 1, 4)
    x, y = column * width / 4, row * height / 2
    axes.add_patch(Rectangle((x, y), width / 4 - 1, height / 2 - 1, fill=False, ec=colour, lw=1.8))
    label = {"boxstyle": "square,pad=0.12", "fc": colour, "ec": "none"}
    axes.text(x + 1, y + 1, str(cell), fontsize=6.5, va="top", color="white", weight="bold", bbox=label)


def answer_card(row: Mapping[str, Any], heading: str, facts: Sequence[str], *, right: bool) -> Card:
    """A row of answers as a card: `facts` about it, the question, what was said and what is true."""
    output = row["output"]
    said = None if pd.isna(output) else output
    colour = TRUE if right else SAID
    return Card(
        heading=heading,
        image=row["infrared"],
        lines=[
            Line(", ".join(fact for fact in (*facts, BAND_NAMES[row["band"]]) if fact), FAINT),
            Line(f"Q: {row['question']}"),
            Line(f"said: {NO_ANSWER if said is None else said or '(nothing)'}", colour),
            *([] if said == row["answer"] else [Line(f"true: {row['answer']}", TRUE)]),
        ],
        task=row["task"],
        truth=json.loads(row["truth"]),
        said=None if said is None else TASKS[row["task"]].read(said),
    )


def scored_text(row: Mapping[str, Any]) -> str:
    """`error 281` in a task of errors, nothing where right and wrong say it all."""
    return f"error {row['score']:.3g}" if row["task"] in LOWER_IS_BETTER else ""


def probability(log_probability: float) -> str:
    """A mean token log-probability as the geometric mean of the tokens' probabilities."""
    return "" if np.isnan(log_probability) else f"p {np.exp(log_probability):.2f}"


@styled
def failure_cards(rows: pd.DataFrame, task: str, *, across: int = 4) -> Figure:
    """The failures of one task: the worst ones first, then the most confidently wrong that are not among them.

    `rows` is what `evaluation.failures.failures` returns, with `infrared` (encoded images) added; rows of other tasks
    are left out. Marked in the picture, where the answer has a place in it: green what is true, orange what was said.
    `p` is the geometric mean probability of the answer's tokens.

    Raises:
        ValueError: a column is missing, or the task has no failure.
    """
    require(rows, [*ANSWER_COLUMNS, "worst", "confident", "confidence"], "the table of failures")
    cards = []
    for row in at_least_one(rows[rows["task"] == task]).to_dict("records"):
        places = {"worst": row["worst"], "confident": row["confident"]}
        heading = ", ".join(f"{name} {place}" for name, place in places.items() if place)
        facts = scored_text(row), probability(row["confidence"])
        cards.append(answer_card(row, heading, facts, right=False))
    unit = f" ({TASK_UNITS[task]})" if task in TASK_UNITS else ""
    return card_grid(
        cards, min(across, len(cards)), f"{TASK_NAMES[task]}{unit}: the worst and the most confident errors"
    )


@styled
def showcase_cards(rows: pd.DataFrame, *, pairs: int = 2) -> Figure:
    """Figure 2's counterpart: for each task one good and one bad answer, side by side, `pairs` tasks a row.

    `rows` is what `evaluation.failures.showcase` returns, with `infrared` (encoded images) added.

    Raises:
        ValueError: a column is missing or there is no row.
    """
    require(rows, [*ANSWER_COLUMNS, "kind", "share"], "the table of showcase answers")
    cards = []
    for row in at_least_one(rows).to_dict("records"):
        heading = f"{TASK_NAMES[row['task']]}: {row['kind']}"
        facts = f"{row['share']:.0%} of answers are", scored_text(row)
        cards.append(answer_card(row, heading, facts, right=row["kind"] == GOOD))
    title = f"For each task one {GOOD} and one {BAD} answer, drawn at random"
    return card_grid(cards, min(2 * pairs, len(cards)), title)


@styled
def probe_cards(rows: pd.DataFrame, *, across: int = 3) -> Figure:
    """Figure 1's counterpart: questions about objects that are not there, and what each model says.

    `rows` has a row an answer and the columns `question_id`, `probe`, `category` (which the image lacks), `question`,
    `model`, `output`, `claimed` (whether the answer says that the category is there), `band` and `infrared`.

    Raises:
        ValueError: a column is missing or there is no row.
    """
    columns = ["question_id", "probe", "category", "question", "model", "output", "claimed", "band", "infrared"]
    require(rows, columns, "the table of probes")
    cards = []
    for _, own in at_least_one(rows).groupby(["question_id", "category"], sort=False):
        first = own.iloc[0]
        lines = [Line(BAND_NAMES[first["band"]], FAINT), Line(f"Q: {first['question']}")]
        for row in own.to_dict("records"):
            text = NO_ANSWER if pd.isna(row["output"]) else row["output"] or "(nothing)"
            lines.append(Line(f"{spoken(row['model'])}: {text}", SAID if row["claimed"] else TRUE))
        heading = f"{probe_name(first['probe'])}: no {first['category']} here"
        cards.append(Card(heading, first["infrared"], lines))
    return card_grid(cards, min(across, len(cards)), "Asked about what is not there (orange: says that it is)")


def spoken(name: str) -> str:
    return name.replace("_", "-")


def probe_name(probe: str) -> str:
    return TASK_NAMES.get(probe, probe.capitalize())


@styled
def hallucination(rates: pd.DataFrame) -> Figure:
    """How often each model says that an absent (filled) and a present (hollow) object is there, and how well it tells
    them apart, with intervals.

    `rates` is what `evaluation.hallucination.rates` returns, by the column `model`.

    Raises:
        ValueError: a column is missing, there is no row, or more models than colours.
    """
    require(rates, ["model", "probe", "measure", "value", "low", "high", "absent", "present"], "the table of rates")
    models = list(dict.fromkeys(at_least_one(rates)["model"]))
    probes = list(dict.fromkeys(rates["probe"]))
    if len(models) > len(OTHER_COLOURS):
        raise ValueError(f"{len(models)} models for {len(OTHER_COLOURS)} colours; plot fewer: {', '.join(models)}")
    figure, axes = new_figure(10.0, 1.3 + 0.62 * len(probes), 1, 2, sharey=True, width_ratios=[1.35, 1])
    step = 0.7 / len(models)
    for number, model in enumerate(models):
        own = rates[rates["model"] == model].set_index(["measure", "probe"])
        place = np.arange(len(probes)) + (number - (len(models) - 1) / 2) * step
        look = {"color": OTHER_COLOURS[number], "ms": 5.5, "capsize": 2, "lw": 1.3, "ls": "none", "marker": "o"}
        for measure, ax, fill in (
            ("false_alarm", axes[0, 0], look["color"]),
            ("hit", axes[0, 0], "white"),
            ("balanced_accuracy", axes[0, 1], look["color"]),
        ):
            part = own.loc[measure].reindex(probes)
            ends = np.nan_to_num(np.stack([part["value"] - part["low"], part["high"] - part["value"]])).clip(0)
            ax.errorbar(part["value"], place, xerr=ends, mfc=fill, **look)
        axes[0, 0].plot([], [], marker="s", ls="none", color=look["color"], label=spoken(model))
    for fill, text in ((INK, "absent: false alarms"), ("white", "present: hits")):
        axes[0, 0].plot([], [], marker="o", ls="none", mfc=fill, color=INK, label=text)
    axes[0, 1].axvline(50, color=INK, ls="--", lw=1.2)
    for ax, measure in zip(axes[0], RATE_AXES, strict=True):
        ax.set(xlim=(-3, 103), xlabel=RATE_AXES[measure])
        ax.grid(False, axis="y")
    asks = rates.drop_duplicates("probe").set_index("probe")
    names = [
        f"{probe_name(probe)}{' (cannot deny)' if probe in CANNOT_DENY else ''}\n"
        f"{asks.at[probe, 'absent']} absent, {asks.at[probe, 'present']} present"
        for probe in probes
    ]
    axes[0, 0].set_yticks(range(len(probes)), names, fontsize=8.5)
    axes[0, 0].invert_yaxis()
    figure.legend(loc="outside upper center", ncols=len(models) + 2)
    return figure


def rate_table(rates: pd.DataFrame, by: Sequence[str] = ("model",)) -> pd.DataFrame:
    """The rates with their limits as text, `12.5 (8.0 to 17.1)`: a row a probe and `by`, a column a measure."""
    require(rates, [*by, "probe", "measure", "value", "low", "high"], "the table of rates")
    text = [
        "" if np.isnan(row.value) else f"{row.value:.1f} ({row.low:.1f} to {row.high:.1f})"
        for row in rates.itertuples()
    ]
    wide = rates.assign(text=text).pivot_table(
        index=["probe", *by], columns="measure", values="text", aggfunc="first", sort=False
    )
    return wide.reindex(columns=list(MEASURES)).rename(columns=lambda name: name.replace("_", " "))


@styled
def confusions(found: pd.DataFrame) -> Figure:
    """What is taken for what: a panel a task, truth down, answer across, coloured by the share of the truth's row.

    `found` is what `evaluation.failures.confusion` returns. A cell shows the count over how often that answer could be
    chosen; gray cells could not occur. The diagonal is right.

    Raises:
        ValueError: a column is missing or there is no row.
    """
    require(found, ["task", "truth", "given", "count", "offered", "share", "truths"], "the table of confusions")
    tasks = [task for task in TASK_NAMES if task in set(at_least_one(found)["task"])]
    panels = [found[found["task"] == task] for task in tasks]
    wide = [max(1.9, 0.55 * part["given"].nunique()) for part in panels]
    tall = max(part["truth"].nunique() for part in panels)
    figure, axes = new_figure(sum(wide) + 1.3 * len(tasks) + 0.7, 0.42 * tall + 1.6, 1, len(tasks), width_ratios=wide)
    image = None
    for ax, task, part in zip(axes[0], tasks, panels, strict=True):
        # a truth that never was given, and an answer that never was true, still have their place
        # Security's columns and rows begin with what is shown, so that right answers lie on the diagonal
        given = sorted(set(part["given"]) - {NO_ANSWER}, reverse=task == "security") + [NO_ANSWER]
        truths = sorted(part["truth"].unique(), key=lambda name: (name.endswith(" absent"), name))
        shape = {"index": "truth", "columns": "given"}
        share = part.pivot(**shape, values="share").reindex(index=truths, columns=given)
        ax.set_facecolor("#dddddd")
        image = ax.imshow(share.to_numpy(float), vmin=0, vmax=1, cmap="Blues", aspect="auto")
        for row in part.itertuples():
            x, y = given.index(row.given), truths.index(row.truth)
            # a cell that is nearly always open needs no denominator
            text = f"{row.count}" if row.offered == row.truths else f"{row.count}/{row.offered}"
            faint = row.count == 0
            ink = "#9a9a9a" if faint else "white" if row.share > 0.55 else INK
            ax.text(x, y, text, ha="center", va="center", fontsize=7.5, color=ink)
        totals = part.drop_duplicates("truth").set_index("truth")["truths"]
        ax.set_xticks(range(len(given)), given, rotation=40, ha="right", rotation_mode="anchor", fontsize=8.5)
        ax.set_yticks(range(len(truths)), [f"{name} ({totals[name]})" for name in truths], fontsize=8.5)
        ax.set(title=TASK_NAMES[task], xlabel="answer")
        ax.grid(False)
    axes[0, 0].set_ylabel("truth (how many)")
    figure.colorbar(image, ax=axes, label="share of the truth's answers", shrink=0.8, pad=0.01)
    return figure
