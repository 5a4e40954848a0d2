"""Tables 2, 3 and 4 row by row: ours beside the paper's, the difference, and whether ours has the sign of its claim.

Every table of the paper claims that its method, here `cl`, is better than another row by some amount. That amount is
set beside our paired difference of the same two variants. A row that was not run says so and has no number.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import pandas as pd

from irgpt_lib.evaluation.seeds import BASELINE, BASELINES, Runs, comparisons, corrected, means
from irgpt_lib.evaluation.statistics import COLUMNS, LEVEL, LOWER_IS_BETTER, SUMS
from irgpt_lib.report import paper
from irgpt_lib.report.grids import Block, Cell, Grid, ranked, row
from irgpt_lib.report.tables import ABSENT, HEADS, SETTINGS, SIGNIFICANT, estimate, number, probability, signed

METHOD = "cl"
# `none` is InternVL before any infrared, so it is both the row InternVL2-8B of Table 2 and row 1 of Table 3.
MODELS = {
    "PandaGPT-7B": "pandagpt",
    "LLaVA1.5-7B": "llava",
    "Qwen2-VL-7B": "qwen2_vl",
    "InternVL2-8B": "none",
    "InternVL2-26B": "internvl_large",
    "IRGPT (anti-CL)": "anti_cl",
    "IRGPT (Random)": "random",
    "IRGPT (CL)": METHOD,
}
# Rows 1 to 8. Row 2 is known to run strictly from hard to easy, so the reversed lessons of rows 3 and 5 do too.
LESSONS = ("none", "anti_cl", "anti_l2", "l2", "anti_l1", "l1", "cl_unweighted", METHOD)
SCHEDULES = {
    "Difficulty-Ascending": "ascending",
    "Difficulty-Descending": "anti_cl",
    "Bidirectional Ordering": "bidirectional",
    "Random": "random",
    "Descending-Stratified Random": "descending_stratified",
    "Ascending-Stratified Random": METHOD,
}
SIGN_MARKS = {"supports": "✓", "contradicts": "✗", "undecided": "○"}
BASELINE_ROWS = {
    "chance": "chance: a random answer",
    "blind": "blind: prior without the image",
    "majority": "majority: the commonest answer",
}


class Row(NamedTuple):
    """A row's label, the variant that it is, and the variant that it is compared with."""

    label: str
    variant: str
    reference: str = METHOD


class Table(NamedTuple):
    """Which rows are read together, in which settings and columns: the family of Holm's correction."""

    name: str
    title: str
    rows: tuple[Row, ...]
    settings: tuple[str, ...]
    columns: tuple[str, ...]


def lessons_label(l1: str, l2: str, alpha: bool) -> str:
    """Table 3's marks in words."""
    words = {"forward": "{}", "anti": "anti-{}", "": ""}
    used = [text for text in (words[l1].format("L1"), words[l2].format("L2"), "α" if alpha else "") if text]
    return " + ".join(used) or "no infrared pre-training"


def table3_rows() -> tuple[Row, ...]:
    lessons = paper.table3().itertuples()
    return tuple(
        Row(f"{line.Index}. {lessons_label(line.l1, line.l2, line.alpha)}", variant)
        for line, variant in zip(lessons, LESSONS, strict=True)
    )


BOTH, TUNED = ("zero_shot", "fine_tuned"), ("fine_tuned",)
TABLES = (
    Table("table2", "Nine tasks (the paper's Table 2)", tuple(Row(*pair) for pair in MODELS.items()), BOTH, COLUMNS),
    Table("table3", "The two lessons as the paper ran them (its Table 3)", table3_rows(), TUNED, tuple(SUMS)),
    Table(
        "table3_fixed",
        "The two lessons with the schedule held fixed: tiers from first to last, random inside",
        (
            Row("L1 + L2", METHOD),
            Row("L1", "l1"),
            Row("L2", "l2"),
            Row("anti-L1", "anti_l1_stratified"),
            Row("anti-L2", "anti_l2_stratified"),
            Row("L1 + anti-L2", "l1_anti_l2"),
            Row("anti-L1 + L2", "anti_l1_l2"),
            Row("anti-L1 + anti-L2", "descending_stratified"),
            Row("neither", "random"),
        ),
        BOTH,
        tuple(SUMS),
    ),
    Table(
        "table4",
        "Sampling schedules (the paper's Table 4)",
        tuple(Row(*p) for p in SCHEDULES.items()),
        BOTH,
        tuple(SUMS),
    ),
    Table(
        "controls",
        "Controls: tiers, weighting, learning rate",
        (
            Row("5 tiers for 10", "tiers_5"),
            Row("20 tiers for 10", "tiers_20"),
            Row("50 tiers for 10", "tiers_50"),
            Row("tiers added up, as in the baby step", "cumulative"),
            Row("no weights", "cl_unweighted"),
            Row("no weights, random order", "random_unweighted", "random"),
            Row("weights of mean 1", "weights_mean_1"),
            Row("weights without the jump at 0", "weights_continuous"),
            Row("constant learning rate", "cl_constant"),
            Row("constant learning rate, random order", "random_constant", "cl_constant"),
            Row("constant learning rate, hard to easy", "anti_cl_constant", "cl_constant"),
        ),
        BOTH,
        tuple(SUMS),
    ),
)


def variants() -> tuple[str, ...]:
    """Every variant that a row or its reference needs, once, in the order of the tables."""
    return tuple(dict.fromkeys(name for table in TABLES for line in table.rows for name in line[1:]))


def pairs() -> list[tuple[str, str]]:
    """Every comparison of a variant with its reference that some table makes, once."""
    every = ((line.variant, line.reference) for table in TABLES for line in table.rows)
    return list(dict.fromkeys(pair for pair in every if pair[0] != pair[1]))


@cache
def paper_cells() -> dict[tuple[str, str, str], float]:
    """The paper's number for each (variant, setting, column) that any of its tables has; treat it as read-only."""
    cells = {}
    for line in paper.table2().to_dict("records"):
        cells |= {(MODELS[line["model"]], line["setting"], column): line[column] for column in COLUMNS}
    for line, variant in zip(paper.table3().to_dict("records"), LESSONS, strict=True):
        cells |= {(variant, "fine_tuned", column): line[column] for column in SUMS}
    for line in paper.table4().to_dict("records"):
        cells |= {(SCHEDULES[line["schedule"]], line["setting"], column): line[column] for column in SUMS}
    return cells


FOUND = ["mean", "low", "high", "seed_sd", "seeds", "questions"]
VERSUS = {"difference": "versus", "low": "versus_low", "high": "versus_high", "p": "p", "p_holm": "p_holm"}
KEY = ["variant", "setting", "column"]


def cells(table: Table, runs: Runs, *, level: float = LEVEL) -> pd.DataFrame:
    """Every cell of a table, a row each; in the CSV and behind its Markdown and LaTeX.

    Columns: `table`, `row`, `variant`, `reference`, `setting`, `column`; `ran`; ours as `mean`, `low`, `high`,
    `seed_sd`, `seeds`, `questions`; `paper`, `difference` (ours less the paper's); `versus` (ours less the reference),
    `versus_low`, `versus_high`, `p`, `p_holm`, `paper_versus`, `sign` (see `sign_of`); `mark` and `paper_mark` (best,
    second or empty within the setting and column). NaN for what was not run or the paper does not have.
    """
    wanted = [
        {"table": table.name, "row": line.label, "variant": line.variant, "reference": line.reference}
        | {"setting": setting, "column": column}
        for setting in table.settings
        for column in table.columns
        for line in table.rows
    ]
    named = {line.variant for line in table.rows}
    own = Runs(
        {run: s for run, s in runs.scores.items() if run[0] in named and run[1] in table.settings}, runs.questions
    )
    compared = [(line.variant, line.reference) for line in table.rows if line.variant != line.reference]
    against = comparisons(runs, compared, settings=table.settings, level=level)
    against = corrected(against[against.column.isin(table.columns)]).rename(columns={"a": "variant"} | VERSUS)
    ours = means(own, level=level) if own.scores else pd.DataFrame(columns=KEY + FOUND)
    frame = pd.DataFrame(wanted).merge(ours[KEY + FOUND], how="left", on=KEY)
    frame = frame.merge(against[KEY + list(VERSUS.values())], how="left", on=KEY)
    return with_paper(frame.assign(ran=frame["mean"].notna()))


def with_paper(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns of `cells` that need the paper's numbers, and the marks."""
    theirs = paper_cells()
    of_row = [theirs.get(key, np.nan) for key in frame[KEY].itertuples(index=False, name=None)]
    of_reference = [theirs.get((r.reference, r.setting, r.column), np.nan) for r in frame.itertuples()]
    frame = frame.assign(paper=of_row, paper_versus=np.round(np.subtract(of_row, of_reference), 2))
    frame = frame.assign(difference=frame["mean"].astype(float) - frame["paper"])
    frame["sign"] = [sign_of(line) for line in frame.to_dict("records")]
    for name, values in (("mark", "mean"), ("paper_mark", "paper")):
        frame[name] = ""
        for (_, column), part in frame.groupby(["setting", "column"], sort=False):
            frame.loc[part.index, name] = ranked(part[values].tolist(), lower_is_better=column in LOWER_IS_BETTER)
    order = ["table", "row", "variant", "reference", "setting", "column", "ran", *FOUND, "paper", "difference"]
    return frame[[*order, *VERSUS.values(), "paper_versus", "sign", "mark", "paper_mark"]]


def sign_of(line: Mapping) -> str:
    """What our difference to the reference says of the sign that the paper's difference has.

    One of: `reference`, `not run`, `no claim` (the paper has no such difference), `not tested` (too few groups),
    `undecided` (Holm's p at or above 0.05), `supports`, `contradicts`.
    """
    if line["variant"] == line["reference"]:
        return "reference" if line["ran"] else "not run"
    if not line["ran"] or not np.isfinite(line["versus"]):
        return "not run"
    if not np.isfinite(line["paper_versus"]) or line["paper_versus"] == 0:
        return "no claim"
    if not np.isfinite(line["p_holm"]):
        return "not tested"
    if line["p_holm"] >= SIGNIFICANT:
        return "undecided"
    return "supports" if (line["versus"] < 0) == (line["paper_versus"] < 0) else "contradicts"


def arrowed(column: str) -> str:
    return f"{HEADS[column]} {'↓' if column in LOWER_IS_BETTER else '↑'}"


def origin(simulated: bool) -> str:
    """Where our numbers and the paper's come from, in a sentence."""
    data = "images rendered by this study's own world, taken by no camera" if simulated else "real infrared images"
    return f"Ours: {data}, and small models; the paper's: its own data, and models of 7 to 26 billion parameters."


def table2_grid(table: Table, frame: pd.DataFrame, runs: Runs, *, simulated: bool, level: float = LEVEL) -> Grid:
    """Table 2: for each model ours, the paper's, and the difference with the sign of the claim; then the baselines."""
    blocks = []
    for setting in table.settings:
        lines: list[tuple[Cell, ...]] = []
        for label, part in frame[frame.setting == setting].groupby("row", sort=False):
            found = part.set_index("column").to_dict("index")
            lines += model_rows(str(label), part.variant.iloc[0], [found[column] for column in table.columns])
        blocks.append(Block(SETTINGS[setting], tuple([*lines, *baseline_rows(runs, level)])))
    seeds = sorted({int(count) for count in frame.seeds.dropna()})
    note = (
        f"{origin(simulated)} Seeds: {', '.join(map(str, seeds)) or 'none'}. ± is half of the {level:.0%} interval "
        f"over questions and seeds. {SIGN_MARKS['supports']} our difference to `{METHOD}` has the paper's sign "
        f"(Holm's p below {SIGNIFICANT}), {SIGN_MARKS['contradicts']} it has the other, {SIGN_MARKS['undecided']} no "
        "difference found. Best and second best, bold and underlined, are computed."
    )
    return Grid(table.name, titled(table, simulated), ("Model", *map(arrowed, table.columns)), tuple(blocks), note)


def titled(table: Table, simulated: bool) -> str:
    return f"{table.title}, on {'simulated' if simulated else 'real'} data"


def model_rows(label: str, variant: str, found: Sequence[Mapping]) -> list[tuple[Cell, ...]]:
    """The three rows of one model in one setting; two where it was not run."""
    theirs = (Cell("*paper*"), *(Cell(number(c["paper"]), c["paper_mark"]) for c in found))
    if not any(c["ran"] for c in found):
        return [(Cell(f"{label} (`{variant}`)"), Cell("not run"), *row(*[ABSENT] * (len(found) - 1))), theirs]
    ours = (Cell(estimate(c["mean"], c["low"], c["high"]), c["mark"]) for c in found)
    apart = (Cell(f"{signed(c['difference'])} {SIGN_MARKS.get(c['sign'], '')}".strip()) for c in found)
    return [(Cell(f"{label} (`{variant}`)"), *ours), theirs, (Cell("*ours less the paper's*"), *apart)]


def baseline_rows(runs: Runs, level: float) -> list[tuple[Cell, ...]]:
    """Chance, blind prior and majority, those that the predictions hold."""
    there = [name for name in BASELINES if (name, BASELINE) in runs.scores]
    found = means(Runs({(name, BASELINE): runs.scores[name, BASELINE] for name in there}, runs.questions), level=level)
    lines = []
    for name in there:
        part = found[found.variant == name].set_index("column").loc[list(COLUMNS)]
        texts = [estimate(*values) for values in part[["mean", "low", "high"]].itertuples(index=False)]
        lines.append(row(BASELINE_ROWS[name], *texts))
    return lines


ABLATION_HEAD = ("Row", "here", "paper", "difference", "minus", "paper", "here", "interval", "p", "claim")


def ablation_grid(table: Table, frame: pd.DataFrame, *, simulated: bool, level: float = LEVEL) -> Grid:
    """Tables 3 and 4 and the controls: a block a setting and sum, a row a variant."""
    blocks = []
    for (setting, column), part in frame.groupby(["setting", "column"], sort=False):
        title = f"{SETTINGS[str(setting)]}, {arrowed(str(column))}"
        blocks.append(Block(title, tuple(ablation_row(line) for line in part.to_dict("records"))))
    note = (
        f"{origin(simulated)} 'minus': the paired difference to the variant named there, the paper's and ours, with "
        f"its {level:.0%} interval over questions and seeds; p by Holm over all rows and sums of this table. 'claim': "
        "whether our difference has the paper's sign."
    )
    return Grid(table.name, titled(table, simulated), ABLATION_HEAD, tuple(blocks), note)


def ablation_row(line: Mapping) -> tuple[Cell, ...]:
    label, theirs = Cell(f"{line['row']} (`{line['variant']}`)"), Cell(number(line["paper"]), line["paper_mark"])
    if not line["ran"]:
        against = ABSENT if line["variant"] == line["reference"] else f"`{line['reference']}`"
        rest = row(ABSENT, against, signed(line["paper_versus"]), ABSENT, ABSENT, ABSENT, ABSENT)
        return (label, Cell("not run"), theirs, *rest)
    ours = (label, Cell(estimate(line["mean"], line["low"], line["high"]), line["mark"]), theirs)
    apart = signed(line["difference"])
    if line["variant"] == line["reference"]:
        return (*ours, *row(apart, ABSENT, ABSENT, ABSENT, ABSENT, ABSENT, "reference"))
    interval = f"{signed(line['versus_low'])} to {signed(line['versus_high'])}"
    interval = interval if np.isfinite(line["versus_low"]) else ABSENT
    measured = (signed(line["paper_versus"]), signed(line["versus"]), interval, probability(line["p_holm"]))
    return (*ours, *row(apart, f"`{line['reference']}`", *measured, line["sign"]))


def grid(table: Table, frame: pd.DataFrame, runs: Runs, *, simulated: bool, level: float = LEVEL) -> Grid:
    """The table to read, from its `cells`."""
    if table.columns == COLUMNS:
        return table2_grid(table, frame, runs, simulated=simulated, level=level)
    return ablation_grid(table, frame, simulated=simulated, level=level)
