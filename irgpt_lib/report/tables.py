"""The study's tables as Markdown and CSV: frames in, text out, rounded so that equal results have equal
bytes."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from irgpt_lib.evaluation.statistics import ACCURACY_TASKS, COLUMNS, LOWER_IS_BETTER, SUMS, TASKS, require
from irgpt_lib.report.paper import COUNTERPARTS

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
VARIANTS = {
    "none": "none: no infrared pre-training",
    "anti_cl": "anti_cl: hard to easy",
    "random": "random: random order",
    "cl": "cl: the curriculum",
}
MINIATURE = "a miniature multimodal LLM trained for this study, not InternVL2-8B"
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


def marked(values: Sequence[float], texts: Sequence[str], *, lower_is_better: bool) -> list[str]:
    """The best value's text in bold and the second best's underlined, ties alike, compared as they are
    printed."""
    printed = pd.Series(values, dtype=float).round(2)
    ranks = printed.rank(method="dense", ascending=lower_is_better)
    marks = {1.0: "**{}**", 2.0: "<u>{}</u>"}
    return [marks.get(rank, "{}").format(text) for rank, text in zip(ranks, texts, strict=True)]


def table2_frame(runs: pd.DataFrame, paper: pd.DataFrame) -> pd.DataFrame:
    """Ours and the paper's rows of Table 2 as numbers.

    `runs` is what `irgpt_lib.evaluation.statistics.summarise` returns, `paper` is
    `irgpt_lib.report.paper.table2()`. Columns `row`, `from` (ours or paper), `setting`, and for each of the
    11 columns its mean, `<column>_low` and `<column>_high`. Variants that were not run have no row.

    Raises:
        ValueError: a column is missing from `runs` or `paper`.
    """
    require(
        runs,
        ["variant", "setting", "column", "mean", "low", "high", "seeds", "questions"],
        "the summary of runs",
    )
    require(paper, ["model", "setting", *COLUMNS], "the paper's table")
    wanted = [(variant, setting) for setting in (*SETTINGS, "shuffled") for variant in VARIANTS]
    wanted += [("chance", "baseline"), ("blind", "baseline")]
    cells = runs.set_index(["variant", "setting", "column"])
    rows: list[dict[str, Any]] = []
    for variant, setting in wanted:
        if (variant, setting, "psum") not in cells.index:
            continue
        row: dict[str, Any] = {"row": variant, "from": "ours", "setting": setting}
        for column in COLUMNS:
            cell = cells.loc[(variant, setting, column)]
            row |= {column: cell["mean"], f"{column}_low": cell["low"], f"{column}_high": cell["high"]}
        rows.append(row)
    theirs = paper[paper.model.isin(COUNTERPARTS.values())].rename(columns={"model": "row"})
    return pd.concat([pd.DataFrame(rows), theirs.assign(**{"from": "paper"})], ignore_index=True)


def table2_block(rows: pd.DataFrame, setting: str) -> str:
    """Table 2 in one setting: our variants (best and second marked), our baselines, the paper's rows."""
    ours = rows[(rows["from"] == "ours") & (rows.setting == setting)]
    beside = ["baseline", "shuffled"] if setting == "fine_tuned" else ["baseline"]
    baselines = rows[(rows["from"] == "ours") & rows.setting.isin(beside)]
    theirs = rows[(rows["from"] == "paper") & (rows.setting == setting)]
    names = [f"`{row.row}`" for row in ours.itertuples()]
    names += [baseline_name(row.row, row.setting) for row in baselines.itertuples()]
    names += [f"*paper: {row.row}*" for row in theirs.itertuples()]
    table = pd.DataFrame({"Model": names})
    for column in COLUMNS:
        texts = [
            estimate(*cells)
            for part in (ours, baselines)
            for cells in part[[column, f"{column}_low", f"{column}_high"]].itertuples(index=False)
        ]
        best = marked(ours[column].tolist(), texts[: len(ours)], lower_is_better=column in LOWER_IS_BETTER)
        arrow = "↓" if column in LOWER_IS_BETTER else "↑"
        table[f"{HEADS[column]} {arrow}"] = [*best, *texts[len(ours) :], *map(number, theirs[column])]
    return markdown(table)


def baseline_name(variant: str, setting: str) -> str:
    if setting == "shuffled":
        return f"`{variant}`, images shuffled"
    return {"chance": "chance: a random answer", "blind": "blind: prior without the image"}[variant]


def questions_line(runs: pd.DataFrame) -> str:
    """How many questions each task has, in the paper's order."""
    asked = runs.groupby("column").questions.max()
    return ", ".join(f"{HEADS[task]} {int(asked.get(task, 0))}" for task in TASKS)


def provenance(simulated: bool, model: str) -> str:
    """What data and what model the numbers come from, in plain words."""
    if simulated:
        data = (
            "**The data is simulated** (`source: simulated`, `authentic: false`): images rendered by this "
            "study's own world, taken by no infrared camera."
        )
    else:
        data = "The data is authentic: every image was taken by an infrared camera."
    return f"{data} The model is {model}."


def table2(runs: pd.DataFrame, paper: pd.DataFrame, *, simulated: bool, model: str = MINIATURE) -> str:
    """Table 2 as Markdown: ours (mean over seeds, half-width of the 95 % interval) above the rows of the
    paper.

    `runs` and `paper` are those of `table2_frame`. With `simulated` the heading says that no infrared camera
    took the images, so that the rows of the paper show the task and not a competitor.

    Raises:
        ValueError: a column is missing, or none of the variants of Table 2 was run.
    """
    rows = table2_frame(runs, paper)
    ran = runs[runs.variant.isin(list(VARIANTS))]
    if ran.empty:
        raise ValueError(f"none of {', '.join(VARIANTS)} was run; there are {sorted(set(runs.variant))}")
    seeds = sorted({int(count) for count in ran.seeds})
    few = "" if seeds[0] > 1 else " With one seed the interval does not hold the noise of training."
    numbers_from = "simulated data" if simulated else "authentic data"
    caption = (
        "Accuracy in % (Scene, Rec., Rel., ReID, Sec.), accuracy at IoU 0.5 in % (Gro.); mean absolute error "
        "in thousandths of the image side (Loc.) and in objects (A.C., P.C.). psum and nsum add them up: "
        f"psum over {tasks_in(runs, 'psum')} of 6 tasks, nsum over {tasks_in(runs, 'nsum')} of 3. "
        f"Questions: {questions_line(runs)}. Seeds per variant: {', '.join(map(str, seeds))}. "
        "± is half of the 95 % interval of a bootstrap over seeds and groups (scene, sequence or identity)."
        f"{few} **Best** and <u>second</u> among our variants. The paper's rows are from other data "
        "and a model of 8 billion parameters: `none` answers to InternVL2-8B, the others to IRGPT. "
        f"{blank_line(runs)}"
    ).strip()
    variants = "; ".join(text for name, text in VARIANTS.items() if name in set(ran.variant))
    blocks = [
        f"**({letter}) {name}**\n\n{table2_block(rows, setting)}"
        for letter, (setting, name) in zip("ab", SETTINGS.items(), strict=True)
        if ((rows["from"] == "ours") & (rows.setting == setting)).any()
    ]
    heading = f"### Table 2: nine tasks on {numbers_from}"
    parts = [heading, provenance(simulated, model), f"Variants: {variants}.", *blocks, caption]
    return "\n\n".join(parts) + "\n"


def tasks_in(runs: pd.DataFrame, total: str) -> int:
    asked = runs.groupby("column").questions.max()
    return sum(int(asked.get(task, 0)) > 0 for task in SUMS[total])


def blank_line(runs: pd.DataFrame) -> str:
    """Which tasks have no question, in words; empty where all have some."""
    asked = runs.groupby("column").questions.max()
    absent = [HEADS[task] for task in TASKS if not asked.get(task, 0)]
    return f"No question was asked in {', '.join(absent)} ({ABSENT})." if absent else ""


def verdict(row: Any) -> str:
    """What one contrast shows of "`a` is better than `b`".

    One of: supported, the opposite, no difference found, not tested.

    Decided by the Holm-corrected p at 0.05 and the sign that is better in that column.
    """
    if not np.isfinite(row.p_holm):
        return "not tested"
    if row.p_holm >= SIGNIFICANT:
        return "no difference found"
    return "supported" if (row.difference < 0) == (row.column in LOWER_IS_BETTER) else "the opposite"


def contrast_cell(row: Any) -> str:
    """Difference, interval and corrected p; bold where the p is below 0.05."""
    if not np.isfinite(row.difference):
        return ABSENT
    text = f"{signed(row.difference)} [{signed(row.low)}, {signed(row.high)}], p {probability(row.p_holm)}"
    return f"**{text}**" if row.p_holm < SIGNIFICANT else text


def sentence(part: pd.DataFrame, total: str) -> str:
    """One contrast's plain reading in psum or nsum, with the tasks that differ when taken alone."""
    row = next(r for r in part.itertuples() if r.column == total)
    words = {
        "supported": f"`{row.a}` is better than `{row.b}`: supported",
        "the opposite": f"`{row.a}` is worse than `{row.b}`: supported",
        "no difference found": f"no difference found between `{row.a}` and `{row.b}`",
        "not tested": f"`{row.a}` against `{row.b}` was not tested, for too few groups",
    }[verdict(row)]
    measured = f"{signed(row.difference)}, 95 % interval {signed(row.low)} to {signed(row.high)}"
    alone = [
        f"{HEADS[r.column]} {'better' if verdict(r) == 'supported' else 'worse'}"
        for r in part.itertuples()
        if r.column in (ACCURACY_TASKS if total == "psum" else TASKS[len(ACCURACY_TASKS) :])
        and verdict(r) in ("supported", "the opposite")
    ]
    tasks = ", ".join(alone) or "none"
    return f"{total}: {words} ({measured}, p {probability(row.p_holm)}; single tasks: {tasks})."


def ablation_table(contrasts: pd.DataFrame) -> str:
    """Paired differences of every variant to its reference, by reference and setting, and what they say.

    `contrasts` is what `irgpt_lib.evaluation.statistics.contrasts` returns; `a` are the variants, `b` the
    references.

    Raises:
        ValueError: a column is missing.
    """
    require(
        contrasts,
        ["a", "b", "setting", "column", "difference", "low", "high", "p_holm", "seeds", "questions"],
        "the table of contrasts",
    )
    blocks = []
    for (reference, setting), block in contrasts.groupby(["b", "setting"], sort=False):
        head = [f"{HEADS[c]} {'↓' if c in LOWER_IS_BETTER else '↑'}" for c in COLUMNS]
        table = pd.DataFrame({f"minus `{reference}`": head})
        lines = []
        for variant, part in block.groupby("a", sort=False):
            by_column = {row.column: contrast_cell(row) for row in part.itertuples()}
            table[f"`{variant}`"] = [by_column.get(column, ABSENT) for column in COLUMNS]
            lines += [f"- {sentence(part, total)}" for total in SUMS]
        seeds = ", ".join(str(s) for s in sorted(set(block.seeds)))
        title = f"**Each variant minus `{reference}`, {SETTINGS.get(setting, setting)}** (shared seeds: {seeds})"
        blocks.append("\n\n".join([title, markdown(table), "\n".join(lines)]))
    note = (
        "Differences on the same questions and seeds, in the units of the column; in brackets the 95 % "
        "bootstrap interval over seeds and groups; p two-sided, corrected by Holm over the nine tasks "
        "and over the two sums apart; bold below 0.05. ↑ a positive difference is better, ↓ a negative one. "
        "One shared seed leaves the noise of training out."
    )
    return "\n\n".join([*blocks, note]) + "\n"


def claims_table(claims: pd.DataFrame, contrasts: pd.DataFrame) -> str:
    """The paper's claims beside what this study found: one row a claim, ending in its verdict.

    `claims` is `irgpt_lib.report.paper.claims()`; a contrast is used in either direction; a claim whose
    variants were not compared says "not run".
    """
    require(claims, ["claim", "section", "a", "b", "setting", "column", "quoted", "tabled"], "the claims")
    require(contrasts, ["a", "b", "setting", "column", "difference", "low", "high", "p_holm"], "the contrasts")
    turned = contrasts.assign(
        a=contrasts.b,
        b=contrasts.a,
        difference=-contrasts.difference,
        low=-contrasts.high,
        high=-contrasts.low,
    )
    keys = ["a", "b", "setting", "column"]
    found = pd.concat([contrasts, turned]).drop_duplicates(keys).set_index(keys, drop=False)
    rows = []
    for claim in claims.itertuples():
        key = (claim.a, claim.b, claim.setting, claim.column)
        ours = found.loc[key] if key in found.index else None
        wrong = np.isfinite(claim.quoted) and abs(claim.quoted - claim.tabled) > 0.005
        quoted = signed(claim.tabled) + (f" (its text: {signed(claim.quoted)})" if wrong else "")
        rows.append(
            {
                "Claim": f"{claim.claim} (section {claim.section}, {SETTINGS[claim.setting]})",
                "Contrast": f"`{claim.a}` - `{claim.b}`, {HEADS[claim.column]}",
                "Paper": quoted,
                "Here": ABSENT if ours is None else contrast_cell(ours),
                "Verdict": "not run" if ours is None else verdict(ours),
            }
        )
    return markdown(pd.DataFrame(rows)) + "\n"


def counts_table(samples: pd.DataFrame, *, rows: str = "source", columns: str = "band") -> str:
    """How many samples there are, by two of their columns, with totals.

    Raises:
        ValueError: one of the columns does not exist.
    """
    require(samples, [rows, columns], "the table of samples")
    counts = pd.crosstab(samples[rows], samples[columns], margins=True, margins_name="all")
    text = counts.rename_axis(columns=None).reset_index().astype(str)
    return markdown(text) + "\n"


def table1(ours: Mapping[str, object], paper: pd.DataFrame) -> str:
    """Table 1 with a third column, this study's; `ours` maps each property of the paper to what holds here.

    Raises:
        ValueError: a property is missing or unknown; the message lists those of the paper.
    """
    if odd := set(ours) ^ set(paper.property):
        raise ValueError(f"properties missing or unknown: {sorted(odd)}; the paper has {list(paper.property)}")
    table = paper.assign(here=[str(ours[name]) for name in paper.property])
    return markdown(table.rename(columns={"property": "", "here": "this study"})) + "\n"


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


# The pairs of variants that the paper's claims compare.
CLAIMED_PAIRS = (("cl", "none"), ("cl", "random"), ("cl", "anti_cl"), ("random", "anti_cl"))
NO_CONTRASTS = pd.DataFrame(columns=["a", "b", "setting", "column", "difference", "low", "high", "p_holm"])


def summary_json(summary: pd.DataFrame, account: Mapping[str, object]) -> dict[str, object]:
    """The study's small metrics file: variant, setting, column and mean, and what the data was."""
    require(summary, ["variant", "setting", "column", "mean"], "the summary of runs")
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in summary.dropna(subset=["mean"]).itertuples():
        found.setdefault(row.variant, {}).setdefault(row.setting, {})[row.column] = round(float(row.mean), 4)
    return {"data": {"samples": account["samples"], "simulated": account["simulated"]}, "means": found}


def headed(title: str, body: str, *, simulated: bool) -> str:
    """A table under a heading that says what its data was: every table of this study has one."""
    return f"### {title}, on {'simulated' if simulated else 'real'} data\n\n{body.strip()}\n"
