"""How numbers are written in every table, and the tables that have no counterpart in the paper: frames in, text out,
rounded so that equal results have equal bytes."""

import re
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd

from irgpt_lib.evaluation.statistics import LEVEL, LOWER_IS_BETTER, SUMS, require
from irgpt_lib.report.grids import Block, Cell, Grid, row

HEADS = {
    "scene": "Scene",
    "recognition": "Rec.",
    "grounding": "Gro.",
    "relationship": "Rel.",
    "reid": "ReID",
    "security": "Sec.",
    "psum": "psum",
    "location": "Loc.",
    "aerial_counting": "A.C.",
    "pedestrian_counting": "P.C.",
    "nsum": "nsum",
}
SETTINGS = {"zero_shot": "zero-shot", "fine_tuned": "fine-tuned"}
SHUFFLED = "shuffled"
SIGNIFICANT = 0.05
ABSENT = "–"


def markdown(rows: pd.DataFrame) -> str:
    """A pipe table of cells that are text already: first column left, all others right."""
    align = ["left", *["right"] * (rows.shape[1] - 1)]
    return rows.to_markdown(index=False, colalign=align, disable_numparse=True)


def to_csv(frame: pd.DataFrame, *, digits: int = 4) -> str:
    """The same frame as CSV, rounded to `digits` decimals, lines ended by a line feed on every system."""
    return frame.round(digits).to_csv(index=False, lineterminator="\n")


def number(value: float | int, digits: int = 2) -> str:
    """Fixed decimals, a dash where there is no value, and never a negative zero."""
    return ABSENT if not np.isfinite(value) else f"{round(float(value), digits) + 0.0:.{digits}f}"


def signed(value: float | int, digits: int = 2) -> str:
    """`number` with its sign: +1.20, -0.30, 0.00."""
    text = number(value, digits)
    return f"+{text}" if np.isfinite(value) and float(text) > 0 else text


def estimate(mean: float, low: float, high: float) -> str:
    """Mean and half the width of its interval; the mean alone where there is no interval."""
    half = (high - low) / 2
    return f"{number(mean)} ± {number(half)}" if np.isfinite(half) else number(mean)


def probability(p: float) -> str:
    return ABSENT if not np.isfinite(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def percent(share: float) -> str:
    """A share of 0-1 as 95 %, without decimals that are zero."""
    return f"{100 * share:g} %"


def arrowed(column: str) -> str:
    """A column's head with the direction that is better."""
    return f"{HEADS[column]} {'↓' if column in LOWER_IS_BETTER else '↑'}"


def titled(title: str, simulated: bool) -> str:
    """A title that says what its data was: every table of this study has one."""
    return f"{title}, on {'simulated' if simulated else 'real'} data"


def means_grid(
    means: pd.DataFrame, variants: Sequence[str], *, apart: Collection[str], simulated: bool, level: float = LEVEL
) -> Grid:
    """Both sums of each of `variants` that was run, zero-shot and fine-tuned, from `seeds.means`; those of `apart` are
    called untrained."""
    require(means, ["variant", "setting", "column", "mean", "low", "high", "seeds"], "the means of runs")
    cells = means.set_index(["variant", "setting", "column"])
    shown = [(setting, column) for setting in SETTINGS for column in SUMS]
    lines = []
    for variant in (name for name in variants if name in set(means.variant)):
        own = [cells.loc[key] if (key := (variant, *where)) in cells.index else None for where in shown]
        seeds = max(int(cell.seeds) for cell in own if cell is not None)
        texts = [ABSENT if cell is None else estimate(*cell[["mean", "low", "high"]]) for cell in own]
        name = f"`{variant}` (untrained miniature)" if variant in apart else f"`{variant}`"
        lines.append(row(name, str(seeds), *texts))
    head = ("Variant", "seeds", *(f"{arrowed(column)} {SETTINGS[setting]}" for setting, column in shown))
    note = f"± is half of the {percent(level)} interval over questions and seeds."
    return Grid("means", titled("The sums of every variant", simulated), head, (Block("", tuple(lines)),), note)


def blind_grid(checks: pd.DataFrame, *, simulated: bool, level: float = LEVEL) -> Grid:
    """In how many tasks each variant beats the blind prior, or loses to it, from `statistics.against_blind`."""
    require(checks, ["variant", "seed", "setting", "better", "worse", "tasks"], "the comparison with the blind prior")
    settings = [*SETTINGS, SHUFFLED]
    found = checks.groupby(["variant", "setting"], sort=False)[["better", "worse"]].agg(["min", "max"])
    seeds = checks.groupby("variant").seed.nunique()
    lines = []
    for variant in dict.fromkeys(checks.variant):
        texts = [between(*found.loc[(variant, setting), side]) for setting in settings for side in ("better", "worse")]
        lines.append(row(f"`{variant}`", str(seeds[variant]), *texts))
    names = [*SETTINGS.values(), "images shuffled"]
    head = ("Variant", "seeds", *(f"{name}, {side}" for name in names for side in ("better", "worse")))
    asked = between(checks.tasks.min(), checks.tasks.max())
    note = (
        f"Tasks of {asked} in which the {percent(level)} interval of the paired difference to the best constant answer "
        "lies wholly on that side of zero: from the lowest to the highest of the seeds. With the images of other "
        "questions none should be better."
    )
    return Grid("checks", titled("Tasks beyond the blind prior", simulated), head, (Block("", tuple(lines)),), note)


def between(low: int | np.integer, high: int | np.integer) -> str:
    """A range; one number where its ends are equal."""
    return f"{low}" if low == high else f"{low} to {high}"


READING = ("score", "score_lenient", "unread", "unread_lenient", "variety", "top_share", "top_share_truth")


def reading_grid(studied: pd.DataFrame, *, simulated: bool) -> Grid:
    """What strict reading costs each variant, and how far its answers have collapsed.

    `studied` holds `scoring.study_table` of each run and setting, with the columns `variant`, `seed` and `setting`.
    """
    require(studied, ["variant", "seed", "setting", "task", *READING], "the scores of the study")
    blocks = []
    for setting, name in {**SETTINGS, SHUFFLED: "fine-tuned, images shuffled"}.items():
        runs = studied[studied.setting == setting].groupby("variant", sort=False)
        lines = tuple(reading_row(str(variant), own.groupby("task")[list(READING)].mean()) for variant, own in runs)
        blocks += [Block(name, lines)] if lines else []
    head = ("Variant", *(f"{total}, {how}" for total in SUMS for how in ("strict", "lenient")))
    head += ("unread, %", "unread, lenient, %", "least variety", "in", "commonest answer, %", "commonest truth, %")
    note = (
        "Means over seeds. Strict and lenient are two ways to read the same answers; an unread answer costs as much as "
        "the worst. Unread is of the task with most of it. Variety is the entropy of the answers over that of the "
        "truth, at most 1: 0 is one answer for all. The last two columns are of the task with the least variety."
    )
    return Grid("reading", titled("How the answers read", simulated), head, tuple(blocks), note, left=(0, 8))


def reading_row(variant: str, own: pd.DataFrame) -> tuple[Cell, ...]:
    """One variant in one setting; `own` has a row a task and one a sum."""
    tasks = own.drop(index=[name for name in SUMS if name in own.index])
    sums = [number(own.at[name, how]) if name in own.index else ABSENT for name in SUMS for how in READING[:2]]
    unread = [number(100 * tasks[how].max()) for how in ("unread", "unread_lenient")]
    if tasks.variety.isna().all():
        return row(f"`{variant}`", *sums, *unread, *[ABSENT] * 4)
    least = tasks.loc[tasks.variety.idxmin()]
    shares = [number(100 * least[name], 1) for name in ("top_share", "top_share_truth")]
    return row(f"`{variant}`", *sums, *unread, number(least.variety), HEADS[str(least.name)], *shares)


def costs_frame(costs: list[dict]) -> pd.DataFrame:
    """Costs by stage in the order met, with a row of totals: `stage`, `runs`, `wall_s`, `cpu_s`, `peak_mb`.

    Each dictionary is one run: `stage`, `wall_s`, `cpu_s` (seconds) and `peak_mb` (largest resident memory).

    Raises:
        ValueError: one of these four is missing from a record.
    """
    for record in costs:
        if missing := {"stage", "wall_s", "cpu_s", "peak_mb"} - set(record):
            raise ValueError(f"the cost record {record} lacks {sorted(missing)}")
    table = pd.DataFrame(costs, columns=["stage", "wall_s", "cpu_s", "peak_mb"])
    grouped = table.groupby("stage", sort=False)
    frame = grouped.agg(
        runs=("wall_s", "size"), wall_s=("wall_s", "sum"), cpu_s=("cpu_s", "sum"), peak_mb=("peak_mb", "max")
    )
    total = {"stage": "all", "runs": len(table), "wall_s": table.wall_s.sum(), "cpu_s": table.cpu_s.sum()}
    return pd.concat([frame.reset_index(), pd.DataFrame([total | {"peak_mb": table.peak_mb.max()}])], ignore_index=True)


def costs_table(costs: list[dict]) -> str:
    """What each stage costs, its runs added up and its memory at the highest."""
    frame = costs_frame(costs)
    table = pd.DataFrame(
        {
            "Stage": [f"`{name}`" if name != "all" else "all" for name in frame.stage],
            "Runs": frame.runs.astype(str),
            "Wall, s": [number(value, 0) for value in frame.wall_s],
            "CPU, s": [number(value, 0) for value in frame.cpu_s],
            "Peak memory, MB": [number(value, 0) for value in frame.peak_mb],
        }
    )
    return markdown(table) + "\n"


def replace_section(text: str, name: str, body: str) -> str:
    """`text` with what stands between `<!-- name:start -->` and `<!-- name:end -->` replaced by `body`.

    Raises:
        ValueError: the pair of markers is missing or occurs twice; the message lists the names that exist.
    """
    pattern = re.compile(rf"(<!-- {re.escape(name)}:start -->).*?(<!-- {re.escape(name)}:end -->)", re.DOTALL)
    if (found := len(pattern.findall(text))) != 1:
        names = sorted(set(re.findall(r"<!-- (\S+):start -->", text)))
        raise ValueError(f"{found} sections {name!r} in the text; it has {', '.join(names) or 'none'}")
    # the body may hold backslashes, which a replacement string would read as references
    return pattern.sub(lambda match: f"{match[1]}\n{body.strip()}\n{match[2]}", text)


def summary_json(summary: pd.DataFrame, account: Mapping[str, object]) -> dict[str, object]:
    """The study's small metrics file: variant, setting, column and mean, and what the data was."""
    require(summary, ["variant", "setting", "column", "mean"], "the summary of runs")
    found: dict[str, dict[str, dict[str, float]]] = {}
    for line in summary.dropna(subset=["mean"]).itertuples():
        found.setdefault(line.variant, {}).setdefault(line.setting, {})[line.column] = round(float(line.mean), 4)
    return {"data": {"samples": account["samples"], "simulated": account["simulated"]}, "means": found}
