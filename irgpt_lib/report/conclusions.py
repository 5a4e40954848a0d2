"""What one can and cannot conclude, in sentences made from the numbers; finding no difference is as plain as finding
one."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from irgpt_lib.evaluation.statistics import LEVEL, LOWER_IS_BETTER, SUMS, require
from irgpt_lib.report.grids import Block, Grid, row
from irgpt_lib.report.paper_tables import MAIN, TABLES, TITLES
from irgpt_lib.report.tables import (
    ABSENT,
    HEADS,
    SETTINGS,
    SIGNIFICANT,
    arrowed,
    number,
    percent,
    probability,
    signed,
    titled,
)


def measured(line: Mapping) -> str:
    """Effect, interval, p and how much was asked, of a row with `difference`, `low`, `high`, `p_holm`."""
    if not np.isfinite(line["low"]):
        return signed(line["difference"])
    seeds = "1 seed" if line["seeds"] == 1 else f"{line['seeds']} seeds"
    interval = f"interval {signed(line['low'])} to {signed(line['high'])}"
    asked = f"{line['questions']} questions, {seeds}"
    return f"{signed(line['difference'])}, {interval}, p {probability(line['p_holm'])}, {asked}"


def difference_sentence(line: Mapping, found: float) -> str:
    """One comparison in words.

    `line` is a row of `seeds.comparisons` with `p_holm`; `found` the effect that the study finds in 80 of 100 cases
    (`power.power_table`), NaN where it is not known.
    """
    a, b, where = f"`{line['a']}`", f"`{line['b']}`", f"{HEADS[line['column']]}, {SETTINGS[line['setting']]}"
    if not np.isfinite(line["p_holm"]):
        return f"{where}: {a} against {b} cannot be tested, for too few groups of questions."
    if line["p_holm"] >= SIGNIFICANT:
        text = f"{where}: no difference found between {a} and {b} ({measured(line)})."
        blind = f" An effect below {number(found)} would mostly have been missed." if np.isfinite(found) else ""
        return f"{text} That is not evidence of none: the interval says how large it may be.{blind}"
    text = f"{where}: {a} is {better_or_worse(line)} than {b} ({measured(line)})."
    if line["seeds"] == 1:
        return (
            f"{text} It holds for these two trained models; one seed cannot tell whether training again would show it."
        )
    return f"{text} It is expected to hold for other questions of this kind and other seeds of this recipe."


COMPARED = ["table", "a", "b", "setting", "column", "difference", "low", "high", "p_holm", "seeds", "questions"]


def main_sentences(compared: pd.DataFrame, power: pd.DataFrame) -> list[str]:
    """The comparisons of the main variants in both sums, in words.

    `compared` is `paper_tables.all_compared`; `power`, of `power.power_table`, says what might have been missed.
    """
    require(compared, COMPARED, "the table of comparisons")
    found = power.set_index(["setting", "column"])["found"] if len(power) else pd.Series(dtype=float)
    own = compared[(compared.table == TABLES[0].name) & compared.column.isin(list(SUMS)) & compared.a.isin(list(MAIN))]
    return [
        difference_sentence(line, float(found.get((line["setting"], line["column"]), np.nan)))
        for line in own.to_dict("records")
    ]


def task_sentences(compared: pd.DataFrame) -> list[str]:
    """Which single tasks tell the rows of Table 2 from the method, zero-shot and fine-tuned."""
    require(compared, COMPARED, "the table of comparisons")
    own = compared[(compared.table == TABLES[0].name) & ~compared.column.isin(list(SUMS))]
    lines = []
    for setting, part in own.groupby("setting", sort=False):
        differ = part[part.p_holm < SIGNIFICANT].to_dict("records")
        said = [
            f"`{line['a']}` is {better_or_worse(line)} than `{line['b']}` in {HEADS[line['column']]} ({measured(line)})"
            for line in differ
        ]
        text = f"{len(differ)} of {len(part)} found to differ{': ' if said else ''}{'; '.join(said)}."
        lines.append(f"single tasks, {SETTINGS[str(setting)]}: {text}")
    return lines


def table_sentences(compared: pd.DataFrame) -> list[str]:
    """For each further table, setting and sum: how many rows differ from their reference, which, and which do not."""
    require(compared, COMPARED, "the table of comparisons")
    lines = []
    own = compared[(compared.table != TABLES[0].name) & compared.column.isin(list(SUMS))]
    for (table, setting, column), part in own.groupby(["table", "setting", "column"], sort=False):
        lines.append(f"{TITLES[table]}: {HEADS[column]}, {SETTINGS[setting]}: {family_sentence(part)}")
    return lines


def family_sentence(part: pd.DataFrame) -> str:
    """Rows that were corrected together and are read together, of one setting and column."""
    differ = part[part.p_holm < SIGNIFICANT].to_dict("records")
    equal = part[part.p_holm >= SIGNIFICANT]
    said = [f"`{line['a']}` is {better_or_worse(line)} than `{line['b']}` ({measured(line)})" for line in differ]
    text = f"{len(differ)} of {len(part)} found to differ{': ' if said else ''}{'; '.join(said)}."
    if len(equal):
        text += f" No difference found: {', '.join(f'`{a}` - `{b}`' for a, b in zip(equal.a, equal.b, strict=True))}."
    if untested := len(part) - len(differ) - len(equal):
        text += f" Not tested, for too few groups of questions: {untested}."
    return text


def better_or_worse(line: Mapping) -> str:
    return "better" if (line["difference"] < 0) == (line["column"] in LOWER_IS_BETTER) else "worse"


def comparison_grid(compared: pd.DataFrame, *, simulated: bool, level: float = LEVEL) -> Grid:
    """Every comparison of two variants in both sums, a block a table of the paper."""
    require(compared, COMPARED, "the table of comparisons")
    blocks = []
    shown = [(setting, column) for setting in SETTINGS for column in SUMS]
    for table, own in compared.groupby("table", sort=False):
        found = {(line["a"], line["b"], line["setting"], line["column"]): line for line in own.to_dict("records")}
        pairs = dict.fromkeys(zip(own.a, own.b, strict=True))
        lines = [
            row(f"`{a}` - `{b}`", *(comparison_text(found.get((a, b, *where))) for where in shown)) for a, b in pairs
        ]
        blocks.append(Block(TITLES[str(table)], tuple(lines)))
    head = ("Difference", *(f"{arrowed(column)} {SETTINGS[setting]}" for setting, column in shown))
    note = (
        f"Paired over questions and seeds, with the {percent(level)} interval over both; p by Holm over the sums of "
        f"one table, bold below {SIGNIFICANT}. ↑ a positive difference is better, ↓ a negative one. A pair that two "
        "tables make has a p in each."
    )
    return Grid("comparisons", titled("What each choice buys", simulated), head, tuple(blocks), note)


def comparison_text(line: Mapping | None) -> str:
    """Difference, interval and corrected p; bold where it is found."""
    if line is None or not np.isfinite(line["difference"]):
        return ABSENT
    interval = f" [{signed(line['low'])}, {signed(line['high'])}]" if np.isfinite(line["low"]) else ""
    text = f"{signed(line['difference'])}{interval}, p {probability(line['p_holm'])}"
    return f"**{text}**" if line["p_holm"] < SIGNIFICANT else text


def stage_sentences(effects: pd.DataFrame) -> list[str]:
    """What stage 1 did, what remained after stage 2, and what stage 2 did, in psum and nsum, from
    `seeds.stage_effects`; nothing where that is empty."""
    words = {
        "stage 1": "Before instruction tuning {about} is {found}",
        "after stage 2": "After it {about} is {found}",
        "kept": "Tuning changes that difference by {found}",
        "stage 2": "Instruction tuning changes `{about}` by {found}",
    }
    lines = []
    for total in SUMS if len(effects) else ():
        for line in effects[effects.column == total].to_dict("records"):
            text = words[line["effect"]].format(about=line["about"], found=measured(line))
            lines.append(f"{total}: {text}: {shown(line)}.")
    return lines


def shown(line: Mapping) -> str:
    if not np.isfinite(line["p_holm"]):
        return "not tested, for too few groups"
    if line["p_holm"] >= SIGNIFICANT:
        return "no effect found"
    return "an improvement" if better_or_worse(line) == "better" else "a worsening"


def by_setting(power: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """A power table by its settings; empty where no two variants were run, and the table has not even columns."""
    return [(str(setting), part) for setting, part in power.groupby("setting", sort=False)] if len(power) else []


def power_sentences(power: pd.DataFrame, *, effect: float | int = 3.0) -> list[str]:
    """What the study as run could see, and what an effect of so many points would need, in psum and the best and worst
    of the accuracy tasks, from `power.power_table`."""
    lines = []
    for setting, part in by_setting(power):
        total = part[part.column == "psum"]
        tasks = part[~part.column.isin([*SUMS, *LOWER_IS_BETTER])].sort_values("found", kind="stable")
        chosen = pd.concat([total, tasks.head(1), tasks.tail(1)]).drop_duplicates("column")
        for line in chosen.to_dict("records"):
            lines.append(f"{HEADS[line['column']]}, {SETTINGS[setting]}: {power_sentence(line, effect)}")
    return lines


def power_sentence(line: Mapping, effect: float | int) -> str:
    seeds = "1 seed" if line["seeds"] == 1 else f"{line['seeds']} seeds"
    text = (
        f"{line['questions']} questions and {seeds} find a difference of {number(line['found'])} in 80 of 100 studies"
    )
    if line["seeds"] == 1:
        return (
            f"{text} of these same models; how much seeds differ is not known, so what more would need is not either."
        )
    text = f"{text}, and one of {number(effect, 0)} points in {100 * line['power']:.0f} of 100."
    if line["power"] >= 0.8:
        return text
    seeds = f"{line['seeds_needed']:.0f} seeds" if np.isfinite(line["seeds_needed"]) else "no number of seeds"
    asked = (
        f"{line['questions_needed']:.0f} questions" if np.isfinite(line["questions_needed"]) else "no number of them"
    )
    return f"{text} For {number(effect, 0)} points these questions need {seeds}, and these seeds need {asked}."


def power_grid(power: pd.DataFrame, *, effect: float | int = 3.0) -> Grid:
    """The power of the study as run, a row a column of Table 2."""
    head = ("Column", "questions", "seeds", "sd of seeds", "sd of questions", "sd of both", "found in 80 %")
    head += (f"power at {number(effect, 0)}", "seeds needed", "questions needed")
    blocks = [
        Block(SETTINGS[setting], tuple(power_row(line) for line in part.to_dict("records")))
        for setting, part in by_setting(power)
    ]
    note = (
        "Differences between two variants, pooled over the contrasts of the study. 'found in 80 %': the smallest true "
        "difference that 80 of 100 such studies find at p < 0.05 before any correction. "
        f"'needed' is for a difference of {number(effect, 0)} points with the other number as it is; ∞ where none is "
        "enough."
    )
    return Grid("power", "What the study as run can see", head, tuple(blocks), note)


def power_row(line: Mapping) -> tuple:
    spreads = [number(line[name]) for name in ("seed_sd", "group_sd", "both_sd", "found", "power")]
    needed = [
        "∞" if np.isposinf(line[name]) else number(line[name], 0) for name in ("seeds_needed", "questions_needed")
    ]
    return row(arrowed(line["column"]), str(line["questions"]), str(line["seeds"]), *spreads, *needed)
