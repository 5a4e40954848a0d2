"""Tables 2, 3 and 4 row by row: ours beside the paper's, the difference, and whether ours has the sign of its claim.

Every table of the paper claims that its method, here `cl`, is better than another row by some amount. That amount is
set beside our paired difference of the same two variants. A row that was not run says so and has no number. A row whose
model starts from random weights is shown and compared with nothing: it is no evidence about the model that it stands
for.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import pandas as pd

from irgpt_lib import params
from irgpt_lib.evaluation.seeds import BASELINE, BASELINES, Runs, comparisons, corrected, means
from irgpt_lib.evaluation.statistics import COLUMNS, LEVEL, LOWER_IS_BETTER, SUMS, TASKS
from irgpt_lib.report import paper
from irgpt_lib.report.grids import Block, Cell, Grid, ranked, row
from irgpt_lib.report.tables import (
    ABSENT,
    HEADS,
    SETTINGS,
    SHUFFLED,
    SIGNIFICANT,
    arrowed,
    estimate,
    number,
    percent,
    probability,
    signed,
    titled,
)

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
# The runs of `dvc repro`, which the README shows: the paper's InternVL2-8B and its three orders.
MAIN = {
    "none": "no infrared pre-training",
    "anti_cl": "hard to easy",
    "random": "random order",
    METHOD: "the curriculum",
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


TITLES = {table.name: table.title for table in TABLES} | {"others": "Further variants of this study"}


def tables_for(ran: Iterable[str]) -> tuple[Table, ...]:
    """The paper's tables, and a last one of those variants of `ran` that none of them has, compared with the method."""
    others = tuple(Row(name, name) for name in dict.fromkeys(ran) if name not in variants())
    more = (Table("others", TITLES["others"], (Row("the curriculum", METHOD), *others), BOTH, tuple(SUMS)),)
    return TABLES + more if others else TABLES


def variants() -> tuple[str, ...]:
    """Every variant that a row or its reference needs, once, in the order of the tables."""
    return tuple(dict.fromkeys(name for table in TABLES for line in table.rows for name in line[1:]))


def untrained(profile: str = "") -> frozenset[str]:
    """The variants whose model `params.yaml` builds from random weights, so that only the two stages have taught it
    anything; none where the method's own model is built so, for then all are alike.

    Raises:
        ParamsError: as `params.load`.
    """
    tree = params.read()
    every = [name for block in params.VARIANT_BLOCKS for name in tree[block]]
    built = {name for name in every if params.load("model", profile=profile, variant=name).model.shape is not None}
    return frozenset() if METHOD in built else frozenset(built)


def pairs_of(rows: Iterable[Row], apart: Collection[str]) -> list[tuple[str, str]]:
    """Each row's variant with its reference, once, without those that are `apart`."""
    every = dict.fromkeys((line.variant, line.reference) for line in rows)
    return [pair for pair in every if pair[0] != pair[1] and not {*pair} & {*apart}]


def pairs(tables: Sequence[Table], apart: Collection[str]) -> list[tuple[str, str]]:
    """Every comparison that some table makes, once, but for those with a variant of `apart` (`untrained`)."""
    return pairs_of((line for table in tables for line in table.rows), apart)


def shared_seeds(names: Collection[str], runs: Runs) -> int:
    """How many seeds the variants were all run with, in each setting in which all were run; 0 where there is none."""
    of_each = [
        [set(runs.scores[name, setting].index) if (name, setting) in runs.scores else None for name in names]
        for setting in SETTINGS
    ]
    return min((len(set.intersection(*own)) for own in of_each if None not in own), default=0)


def most_repeated(pairs: Iterable[tuple[str, str]], runs: Runs) -> list[tuple[str, str]]:
    """Those of the pairs that share most seeds: a study's power is that of its comparisons with all seeds, and a row of
    which only one seed is there yet must not speak for it."""
    shared = {pair: shared_seeds(pair, runs) for pair in pairs}
    return [pair for pair, seeds in shared.items() if seeds and seeds == max(shared.values())]


def compared(table: Table, runs: Runs, *, apart: Collection[str], level: float = LEVEL) -> pd.DataFrame:
    """`seeds.comparisons` of a table's rows with their references, where the two share a seed; `p_holm` is over the
    comparisons of this table."""
    pairs = [pair for pair in pairs_of(table.rows, apart) if shared_seeds(pair, runs)]
    found = comparisons(runs, pairs, settings=table.settings, level=level)
    return corrected(found).assign(table=table.name)


def all_compared(tables: Sequence[Table], runs: Runs, *, apart: Collection[str], level: float = LEVEL) -> pd.DataFrame:
    """`compared` of each table, one under the other: a pair that two tables make stands there twice."""
    parts = [compared(table, runs, apart=apart, level=level) for table in tables]
    return pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)


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


def cells(table: Table, runs: Runs, *, apart: Collection[str], level: float = LEVEL) -> pd.DataFrame:
    """Every cell of a table, a row each; in the CSV and behind its Markdown and LaTeX.

    Columns: `table`, `row`, `variant`, `reference`, `setting`, `column`; `ran`, `apart` (`untrained`, so compared with
    nothing); ours as `mean`, `low`, `high`, `seed_sd`, `seeds`, `questions`; `paper`, `difference` (ours less the
    paper's); `versus` (ours less the reference), `versus_low`, `versus_high`, `p`, `p_holm`, `paper_versus`, `sign`
    (see `sign_of`); `mark` and `paper_mark` (best, second or empty within the setting and column). NaN for what was not
    run or compared, or the paper does not have.
    """
    wanted = [
        {"table": table.name, "row": line.label, "variant": line.variant, "reference": line.reference}
        | {"setting": setting, "column": column, "apart": line.variant in apart or line.reference in apart}
        for setting in table.settings
        for column in table.columns
        for line in table.rows
    ]
    named = {line.variant for line in table.rows}
    own = Runs(
        {run: s for run, s in runs.scores.items() if run[0] in named and run[1] in table.settings}, runs.questions
    )
    against = compared(table, runs, apart=apart, level=level).rename(columns={"a": "variant"} | VERSUS)
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
    order = ["table", "row", "variant", "reference", "setting", "column", "ran", "apart", *FOUND, "paper", "difference"]
    return frame[[*order, *VERSUS.values(), "paper_versus", "sign", "mark", "paper_mark"]]


def sign_of(line: Mapping) -> str:
    """What our difference to the reference says of the sign that the paper's difference has.

    One of: `reference`, `not run`, `not comparable` (one of the two starts from random weights), `no claim` (the paper
    has no such difference), `not tested` (too few groups), `undecided` (Holm's p at or above 0.05), `supports`,
    `contradicts`.
    """
    if line["variant"] == line["reference"]:
        return "reference" if line["ran"] else "not run"
    if line["ran"] and line["apart"]:
        return "not comparable"
    if not line["ran"] or not np.isfinite(line["versus"]):
        return "not run"
    if not np.isfinite(line["paper_versus"]) or line["paper_versus"] == 0:
        return "no claim"
    if not np.isfinite(line["p_holm"]):
        return "not tested"
    if line["p_holm"] >= SIGNIFICANT:
        return "undecided"
    return "supports" if (line["versus"] < 0) == (line["paper_versus"] < 0) else "contradicts"


def origin(simulated: bool) -> str:
    """Where our numbers and the paper's come from, in a sentence."""
    data = "images rendered by this study's own world, taken by no camera" if simulated else "real infrared images"
    theirs = "the paper's: its own data, and models of 7 to 26 billion parameters"
    return f"Ours: {data}, and the base model of notebook 00; {theirs}."


def table2_grid(
    table: Table, frame: pd.DataFrame, averages: pd.DataFrame, *, simulated: bool, level: float = LEVEL
) -> Grid:
    """Table 2: for each model ours, the paper's, and the difference with the sign of the claim; then the baselines."""
    floors = baseline_rows(averages)
    blocks = []
    for setting in table.settings:
        lines: list[tuple[Cell, ...]] = []
        for label, part in frame[frame.setting == setting].groupby("row", sort=False):
            found = part.set_index("column").to_dict("index")
            lines += model_rows(str(label), part.variant.iloc[0], [found[column] for column in table.columns])
        blocks.append(Block(SETTINGS[setting], tuple([*lines, *floors])))
    note = (
        f"{origin(simulated)} {seeds_line(frame)} ± is half of the {percent(level)} interval over questions and seeds. "
        f"{SIGN_MARKS['supports']} our difference to `{METHOD}` has the paper's sign (Holm's p below {SIGNIFICANT}), "
        f"{SIGN_MARKS['contradicts']} it has the other, {SIGN_MARKS['undecided']} no difference found. An untrained "
        "miniature starts from random weights, sees infrared in stage 2 only, and says nothing about the model that it "
        "stands for. Best and second best, bold and underlined, are computed."
    )
    return Grid(
        table.name, titled(table.title, simulated), ("Model", *map(arrowed, table.columns)), tuple(blocks), note
    )


def seeds_line(frame: pd.DataFrame) -> str:
    """How many seeds the runs of a frame have, in words."""
    seeds = sorted({int(count) for count in frame.seeds.dropna()})
    few = " One seed leaves the noise of training out of the interval." if 1 in seeds else ""
    return f"Seeds: {', '.join(map(str, seeds)) or 'none'}.{few}"


def model_rows(label: str, variant: str, found: Sequence[Mapping]) -> list[tuple[Cell, ...]]:
    """The three rows of one model in one setting; two where it was not run."""
    theirs = (Cell("*paper*"), *(Cell(number(c["paper"]), c["paper_mark"]) for c in found))
    name = Cell(f"{label} (`{variant}`{', untrained miniature' if found[0]['apart'] else ''})")
    if not any(c["ran"] for c in found):
        return [(name, Cell("not run"), *row(*[ABSENT] * (len(found) - 1))), theirs]
    ours = (Cell(estimate(c["mean"], c["low"], c["high"]), c["mark"]) for c in found)
    less = (Cell(f"{signed(c['difference'])} {SIGN_MARKS.get(c['sign'], '')}".strip()) for c in found)
    return [(name, *ours), theirs, (Cell("*ours less the paper's*"), *less)]


def estimate_row(label: str, averages: pd.DataFrame) -> tuple[Cell, ...]:
    """One run in the 11 columns; `averages` are its rows of `seeds.means`."""
    part = averages.set_index("column").loc[list(COLUMNS), ["mean", "low", "high"]]
    return row(label, *(estimate(*values) for values in part.itertuples(index=False)))


def baseline_rows(averages: pd.DataFrame) -> list[tuple[Cell, ...]]:
    """Chance, blind prior and majority, those that `averages`, a table of `seeds.means`, has."""
    found = averages[averages.setting == BASELINE]
    there = [name for name in BASELINES if name in set(found.variant)]
    return [estimate_row(BASELINE_ROWS[name], found[found.variant == name]) for name in there]


def headline_grid(averages: pd.DataFrame, *, simulated: bool, level: float = LEVEL) -> Grid:
    """The main rows of Table 2 for a reader in a hurry: ours, the floors, the paper's.

    Raises:
        ValueError: none of the variants of `MAIN` was run.
    """
    ran = [name for name in MAIN if name in set(averages.variant)]
    if not ran:
        raise ValueError(f"none of {', '.join(MAIN)} was run; there are {', '.join(sorted(set(averages.variant)))}")
    blocks = [Block(SETTINGS[setting], tuple(headline_rows(averages, setting, ran))) for setting in SETTINGS]
    own = averages[averages.variant.isin(ran)]
    asked = own.groupby("column").questions.max()
    note = (
        f"{origin(simulated)} Accuracy in % (Scene, Rec., Rel., ReID, Sec.), accuracy at IoU 0.5 in % (Gro.); mean "
        "absolute error in thousandths of the image side (Loc.) and in objects (A.C., P.C.); psum and nsum are sums. "
        f"Questions: {', '.join(f'{HEADS[task]} {asked.get(task, 0)}' for task in TASKS)}. {seeds_line(own)} ± is half "
        f"of the {percent(level)} interval over questions and seeds. Best and second best of our variants are bold and "
        "underlined."
    )
    title = titled("Nine tasks: the main rows of Table 2", simulated)
    return Grid("headline", title, ("Model", *map(arrowed, COLUMNS)), tuple(blocks), note)


def headline_rows(averages: pd.DataFrame, setting: str, ran: Sequence[str]) -> list[tuple[Cell, ...]]:
    """One setting's rows: ours with their marks, the floors, after tuning those with shuffled images, the paper's."""
    of_run = {key: part for key, part in averages.groupby(["variant", "setting"]) if key[0] in ran}
    ours = [name for name in ran if (name, setting) in of_run]
    means_of = [of_run[name, setting].set_index("column")["mean"] for name in ours]
    marks = [ranked([own[column] for own in means_of], lower_is_better=column in LOWER_IS_BETTER) for column in COLUMNS]
    lines = []
    for place, name in enumerate(ours):
        label, *found = estimate_row(f"`{name}`: {MAIN[name]}", of_run[name, setting])
        lines.append((label, *(cell._replace(mark=mark[place]) for cell, mark in zip(found, marks, strict=True))))
    shuffled = [(name, SHUFFLED) for name in ran if (name, SHUFFLED) in of_run and setting in TUNED]
    lines += [estimate_row(f"`{run[0]}`, images shuffled", of_run[run]) for run in shuffled]
    lines += baseline_rows(averages)
    theirs = paper_cells()
    names = {variant: model for model, variant in MODELS.items()}
    return lines + [
        row(f"*paper: {names[name]}*", *(number(theirs[name, setting, column]) for column in COLUMNS)) for name in MAIN
    ]


def slips() -> list[str]:
    """What does not add up in the paper's own Table 2, in sentences: sums, and second places that are not second."""
    lines = [
        f"{line.model}, {SETTINGS[line.setting]}: the paper prints {line.column} {number(line.printed)}, its cells add "
        f"up to {number(line.added)}."
        for line in paper.rounded_sums().itertuples()
    ]
    for line in paper.underlined().itertuples():
        own = paper.table2().query("setting == @line.setting").set_index("model")[line.column]
        marks = ranked(own.tolist(), lower_is_better=line.column in LOWER_IS_BETTER)
        second = [model for model, mark in zip(own.index, marks, strict=True) if mark == "second"]
        if line.model not in second:
            lines.append(
                f"{HEADS[line.column]}, {SETTINGS[line.setting]}: the paper underlines {line.model} "
                f"({number(own[line.model])}), while {', '.join(second)} is second ({number(own[second[0]])})."
            )
    return lines


ABLATION_HEAD = ("Row", "here", "paper", "difference", "minus", "paper", "here", "interval", "p", "claim")


def ablation_grid(
    table: Table, frame: pd.DataFrame, averages: pd.DataFrame, *, simulated: bool, level: float = LEVEL
) -> Grid:
    """Tables 3 and 4 and the controls: a block a setting and sum, a row a variant; then the baselines."""
    blocks = []
    for (setting, column), part in frame.groupby(["setting", "column"], sort=False):
        title = f"{SETTINGS[str(setting)]}, {arrowed(str(column))}"
        floors = averages[(averages.setting == BASELINE) & (averages.column == column)].to_dict("records")
        lines = [ablation_row(line) for line in part.to_dict("records")] + [floor_row(line) for line in floors]
        blocks.append(Block(title, tuple(lines)))
    note = (
        f"{origin(simulated)} 'minus': the paired difference to the variant named there, the paper's and ours, with "
        f"its {percent(level)} interval over questions and seeds; p by Holm over all rows and sums of this table. "
        "'claim': whether our difference has the paper's sign."
    )
    return Grid(table.name, titled(table.title, simulated), ABLATION_HEAD, tuple(blocks), note)


def floor_row(line: Mapping) -> tuple[Cell, ...]:
    found = estimate(line["mean"], line["low"], line["high"])
    return row(BASELINE_ROWS[line["variant"]], found, *[ABSENT] * (len(ABLATION_HEAD) - 2))


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


def grid(table: Table, frame: pd.DataFrame, averages: pd.DataFrame, *, simulated: bool, level: float = LEVEL) -> Grid:
    """The table to read, from its `cells`; `averages` is `seeds.means`, from which it has its baselines."""
    if table.columns == COLUMNS:
        return table2_grid(table, frame, averages, simulated=simulated, level=level)
    return ablation_grid(table, frame, averages, simulated=simulated, level=level)
