"""What one can and cannot conclude, in sentences made from the numbers; finding no difference is as plain as finding
one."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from irgpt_lib.evaluation.statistics import LOWER_IS_BETTER, SUMS
from irgpt_lib.report.grids import Block, Grid, row
from irgpt_lib.report.paper_tables import arrowed
from irgpt_lib.report.tables import HEADS, SETTINGS, SIGNIFICANT, number, probability, signed


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
    better = (line["difference"] < 0) == (line["column"] in LOWER_IS_BETTER)
    text = f"{where}: {a} is {'better' if better else 'worse'} than {b} ({measured(line)})."
    if line["seeds"] == 1:
        return (
            f"{text} It holds for these two trained models; one seed cannot tell whether training again would show it."
        )
    return f"{text} It is expected to hold for other questions of this kind and other seeds of this recipe."


def stage_sentences(effects: pd.DataFrame) -> list[str]:
    """What stage 1 did, what remained after stage 2, and what stage 2 did, in psum and nsum, from
    `seeds.stage_effects`."""
    words = {
        "stage 1": "Before instruction tuning {about} is {found}",
        "after stage 2": "After it {about} is {found}",
        "kept": "Tuning changes that difference by {found}",
        "stage 2": "Instruction tuning changes `{about}` by {found}",
    }
    lines = []
    for total in SUMS:
        for line in effects[effects.column == total].to_dict("records"):
            text = words[line["effect"]].format(about=line["about"], found=measured(line))
            lines.append(f"{total}: {text}: {shown(line)}.")
    return lines


def shown(line: Mapping) -> str:
    if not np.isfinite(line["p_holm"]):
        return "not tested, for too few groups"
    if line["p_holm"] >= SIGNIFICANT:
        return "no effect found"
    better = (line["difference"] < 0) == (line["column"] in LOWER_IS_BETTER)
    return "an improvement" if better else "a worsening"


def power_sentences(power: pd.DataFrame, *, effect: float | int = 3.0) -> list[str]:
    """What the study as run could see, and what an effect of so many points would need, in psum and the best and worst
    of the accuracy tasks, from `power.power_table`."""
    lines = []
    for setting, part in power.groupby("setting", sort=False):
        total = part[part.column == "psum"]
        tasks = part[~part.column.isin([*SUMS, *LOWER_IS_BETTER])].sort_values("found", kind="stable")
        chosen = pd.concat([total, tasks.head(1), tasks.tail(1)]).drop_duplicates("column")
        for line in chosen.to_dict("records"):
            lines.append(f"{HEADS[line['column']]}, {SETTINGS[str(setting)]}: {power_sentence(line, effect)}")
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
        Block(SETTINGS[str(setting)], tuple(power_row(line) for line in part.to_dict("records")))
        for setting, part in power.groupby("setting", sort=False)
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
