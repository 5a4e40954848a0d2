"""The paper's claims (section 5) as checks: supported, not supported or undecided, with effect and interval.

A claim is an effect with a direction: runs with coefficients, measured on the same questions and seeds. It is
supported where Holm's p over all claims is below 0.05 and the effect has the claimed direction. It is not supported
where the opposite is found so, or where the interval leaves no room for a gain of `MARGIN` points of accuracy.
Otherwise the study cannot tell, and says undecided. A claim about another model is not tested where that model's row
is an untrained miniature (`paper_tables.untrained`).
"""

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from irgpt_lib.evaluation.seeds import Effect, Runs, estimates, gathered
from irgpt_lib.evaluation.statistics import ACCURACY_TASKS, LEVEL, LOWER_IS_BETTER, TASKS, holm, mode_share, require
from irgpt_lib.report.grids import Block, Grid, row
from irgpt_lib.report.paper_tables import METHOD, MODELS, paper_cells, shared_seeds
from irgpt_lib.report.tables import ABSENT, HEADS, SETTINGS, SIGNIFICANT, number, percent, probability, signed, titled

MARGIN = 3.0
ZERO, TUNED = "zero_shot", "fine_tuned"
NAN = float("nan")
VERDICTS = ("supported", "not supported", "undecided", "not tested", "not run")
# Section 5.2: best zero-shot everywhere but in grounding and pedestrian counting.
SEVEN = tuple(task for task in TASKS if task not in ("grounding", "pedestrian_counting"))


class Claim(NamedTuple):
    """`effect` in `column` has the sign of `direction`; `quoted` is what the text gives for it, NaN for nothing.

    `measure` is the score itself, or `mode`: the share (%) of answers that are their run's commonest.
    """

    text: str
    section: str
    effect: Effect
    column: str
    direction: int
    quoted: float = NAN
    measure: str = "score"


class BestClaim(NamedTuple):
    """`variant` is better than every other model in each of `columns`."""

    text: str
    section: str
    variant: str
    others: tuple[str, ...]
    setting: str
    columns: tuple[str, ...]


def better(text: str, section: str, pair: tuple[str, str], setting: str, column: str, quoted: float = NAN) -> Claim:
    """The first of a pair is better than the second."""
    effect = {(pair[0], setting): 1, (pair[1], setting): -1}
    return Claim(text, section, effect, column, -1 if column in LOWER_IS_BETTER else 1, quoted)


RIVALS = tuple(variant for variant in MODELS.values() if variant not in (METHOD, "random", "anti_cl"))
SENSITIVITY = {("l2", TUNED): 1, ("anti_l2", TUNED): -1, ("l1", TUNED): -1, ("anti_l1", TUNED): 1}
COLLAPSE = {("anti_cl", TUNED): 1, (METHOD, TUNED): -1}
CLAIMS: tuple[Claim | BestClaim, ...] = (
    BestClaim("the curriculum is best on seven tasks", "5.2", METHOD, RIVALS, ZERO, SEVEN),
    better("the curriculum lifts the sum of accuracies", "5.2", (METHOD, "none"), ZERO, "psum", 76.35),
    better("the curriculum lifts Re-ID", "5.2", (METHOD, "none"), ZERO, "reid", 26.22),
    better("the curriculum lowers the sum of errors", "5.2", (METHOD, "none"), ZERO, "nsum", -31.56),
    BestClaim("tuned, the curriculum surpasses all models", "5.2", METHOD, RIVALS, TUNED, ("psum", "nsum")),
    better("tuned, it surpasses a larger model", "5.2", (METHOD, "internvl_large"), TUNED, "psum", 12.01),
    better("tuned, it errs less than a larger model", "5.2", (METHOD, "internvl_large"), TUNED, "nsum", -15.18),
    better("the curriculum beats random order", "5.2", (METHOD, "random"), ZERO, "psum", 14.47),
    better("the curriculum errs less than random order", "5.2", (METHOD, "random"), ZERO, "nsum", -2.12),
    better("random order counts people better", "5.2", ("random", METHOD), ZERO, "pedestrian_counting"),
    better("tuned, the curriculum beats random order", "5.2", (METHOD, "random"), TUNED, "psum"),
    better("hard to easy is worse than random order", "5.2", ("random", "anti_cl"), TUNED, "psum"),
    Claim("hard to easy collapses on Re-ID", "5.2", COLLAPSE, "reid", 1, measure="mode"),
    better("infrared pre-training pays after tuning", "5.3", (METHOD, "none"), TUNED, "psum"),
    better("Lesson 1 reversed is worse", "5.3", ("l1", "anti_l1"), TUNED, "psum"),
    better("Lesson 2 reversed is worse", "5.3", ("l2", "anti_l2"), TUNED, "psum"),
    Claim("reversing Lesson 2 costs more than reversing Lesson 1", "5.3", SENSITIVITY, "psum", 1),
    better("both lessons beat Lesson 1 alone", "5.3", (METHOD, "l1"), TUNED, "psum"),
    better("both lessons beat Lesson 2 alone", "5.3", (METHOD, "l2"), TUNED, "psum"),
    better("the weights of Eq. 5 help", "5.3", (METHOD, "cl_unweighted"), TUNED, "psum"),
    better("reversed tiers are worse", "5.3", (METHOD, "descending_stratified"), TUNED, "psum"),
    better("randomness inside tiers helps, easy to hard", "5.3", (METHOD, "ascending"), TUNED, "psum"),
    better("it helps hard to easy too", "5.3", ("descending_stratified", "anti_cl"), TUNED, "psum"),
)


def paper_effect(claim: Claim) -> float:
    """The claim's effect by the cells of the paper's tables; NaN where they do not have it."""
    theirs = paper_cells()
    if claim.measure != "score":
        return NAN
    return round(sum(c * theirs.get((*run, claim.column), NAN) for run, c in claim.effect.items()), 2)


def mode_shares(predictions: pd.DataFrame) -> Runs:
    """Runs scored 100 where the output is the commonest of its run, setting and task, else 0: how far a model has
    collapsed onto one answer. Baselines keep their scores."""
    by = ["variant", "seed", "setting", "task"]
    require(predictions, [*by, "output"], "the table of predictions")
    commonest = predictions.groupby(by, observed=True)["output"].transform(lambda own: mode_share(own).mode)
    return gathered(predictions.assign(score=100.0 * (predictions["output"].astype(str) == commonest)))


def checks(predictions: pd.DataFrame, *, apart: Collection[str], level: float = LEVEL) -> pd.DataFrame:
    """Every claim against the runs at hand, a row each; nothing is tested against a variant of `apart`.

    Columns `claim`, `section`, `where`, `contrast`, `paper` (by its tables), `quoted` (by its text), `difference`,
    `low`, `high`, `p`, `p_holm`, `seeds`, `questions`, `verdict` (see `VERDICTS`), `reason`. A `BestClaim` counts
    columns: `difference` those in which the variant has the best mean, `low` those in which it surely is best, `high`
    those in which it may be; it can be lost to any model, and won only against all of them.

    Raises:
        ValueError: as `seeds.gathered`.
    """
    runs = {"score": gathered(predictions), "mode": mode_shares(predictions[predictions.task == "reid"])}
    lines = [
        checked_best(claim, runs["score"], apart, level)
        if isinstance(claim, BestClaim)
        else checked(claim, runs, apart, level)
        for claim in CLAIMS
    ]
    table = pd.DataFrame(lines)
    table["p_holm"] = holm(table.p.to_numpy(dtype=float))
    decided = [
        decided_best(line, claim) if isinstance(claim, BestClaim) else decided_one(line, claim)
        for line, claim in zip(table.to_dict("records"), CLAIMS, strict=True)
    ]
    table["verdict"], table["reason"] = zip(*decided, strict=True)
    order = ["claim", "section", "where", "contrast", "paper", "quoted", "difference", "low", "high", "p", "p_holm"]
    return table[[*order, "seeds", "questions", "verdict", "reason"]]


def absent(needed: set, runs: Runs) -> str:
    """Which of the needed variants were not run, in words; empty where all were."""
    return listed(variant for variant, setting in sorted(needed) if (variant, setting) not in runs.scores)


def listed(variants: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in dict.fromkeys(variants))


def checked(claim: Claim, all_runs: Mapping[str, Runs], apart: Collection[str], level: float) -> dict:
    """A claim's effect, before the correction."""
    runs = all_runs[claim.measure]
    settings = dict.fromkeys(setting for _, setting in claim.effect)
    contrast = " ".join(f"{'+' if c > 0 else '-'} `{variant}`" for (variant, _), c in claim.effect.items())
    line = {"claim": claim.text, "section": claim.section, "contrast": contrast.removeprefix("+ ")}
    unit = HEADS[claim.column] if claim.measure == "score" else f"{HEADS[claim.column]}, % commonest answer"
    line |= {"where": f"{unit}, {' and '.join(SETTINGS[s] for s in settings)}"}
    line |= {"paper": paper_effect(claim), "quoted": claim.quoted, "missing": absent(set(claim.effect), runs)}
    line |= dict.fromkeys(("difference", "low", "high", "p"), NAN) | {"seeds": 0, "questions": 0}
    line |= {"untrained": listed(name for name, _ in claim.effect if name in apart)}
    if not line["missing"] and not shared_seeds([name for name, _ in claim.effect], runs):
        line |= {"missing": "a seed that all were run with"}
    if line["missing"] or line["untrained"]:
        return line
    found = estimates(runs, claim.effect, level=level).set_index("column").loc[claim.column]
    return line | {name: found[name] for name in ("difference", "low", "high", "p", "seeds", "questions")}


def decided_one(line: Mapping, claim: Claim) -> tuple[str, str]:
    """A claim's verdict and why."""
    if line["missing"]:
        return "not run", f"needs {line['missing']}"
    if line["untrained"]:
        return "not tested", f"starts from random weights: {line['untrained']}"
    if not np.isfinite(line["p_holm"]):
        return "undecided", "too few groups to test"
    if line["p_holm"] < SIGNIFICANT:
        as_claimed = (line["difference"] > 0) == (claim.direction > 0)
        return ("supported", "found as claimed") if as_claimed else ("not supported", "the opposite is found")
    most = line["high"] if claim.direction > 0 else -line["low"]
    if claim.column in (*ACCURACY_TASKS, "psum") and most < MARGIN:
        return "not supported", f"a gain of {number(MARGIN, 0)} points is ruled out"
    return "undecided", "no difference found"


def checked_best(claim: BestClaim, runs: Runs, apart: Collection[str], level: float) -> dict:
    """A claim to be best, as counts of columns against the rivals that were run and trained.

    What is sure of one column, won or lost, is so by Holm over the claim's own comparisons. Its p is the largest of all
    the comparisons that it needs, and NaN where some of these cannot be made.
    """
    asked = {name for name, setting in runs.scores if setting == claim.setting}
    ran = [
        name for name in claim.others if {name, claim.variant} <= asked and shared_seeds((name, claim.variant), runs)
    ]
    rivals = [name for name in ran if name not in apart]
    line = {"claim": claim.text, "section": claim.section, "contrast": f"`{claim.variant}` - each other model"}
    line |= {"where": f"{len(claim.columns)} columns, {SETTINGS[claim.setting]}", "paper": float(len(claim.columns))}
    missing = {*claim.others} - {*ran} if claim.variant in asked else {claim.variant}
    line |= {"quoted": NAN, "missing": listed(sorted(missing))}
    line |= {"untrained": listed(name for name in ran if name in apart), "rivals": listed(rivals)}
    line |= dict.fromkeys(("difference", "low", "high", "p"), NAN) | {"seeds": 0, "questions": 0}
    if not rivals:
        return line
    parts = [
        estimates(runs, {(claim.variant, claim.setting): 1, (name, claim.setting): -1}, level=level) for name in rivals
    ]
    found = pd.concat(parts)
    found = found[found.column.isin(claim.columns)]
    upwards = np.where(found.column.isin(list(LOWER_IS_BETTER)), -1, 1) * found.difference
    lost = (upwards < 0) & (holm(found.p.to_numpy()) < SIGNIFICANT)
    # against the claimed direction no p speaks for it
    found = found.assign(upwards=upwards, p_for=np.where(upwards > 0, found.p, 1.0), lost=lost)
    by_column = found.groupby("column")
    counts: dict[str, float | int] = {
        "difference": float((by_column.upwards.min() > 0).sum()),
        "low": float((holm(by_column.p_for.max().to_numpy()) < SIGNIFICANT).sum()),
        "high": float((~by_column.lost.any()).sum()),
    }
    counts |= {"seeds": int(found.seeds.min()), "questions": int(by_column.questions.max().sum())}
    whole = not line["missing"] and not line["untrained"]
    return line | counts | {"p": float(found.p_for.max()) if whole else NAN}


def decided_best(line: Mapping, claim: BestClaim) -> tuple[str, str]:
    """A verdict on a claim to be best: one rival that is better refutes it, only all of them can support it."""
    count = len(claim.columns)
    if np.isfinite(line["high"]) and line["high"] < count:
        return "not supported", f"another model is better in {count - line['high']:.0f} of {count}"
    there = np.isfinite(line["low"])
    against = f"; surely best in {line['low']:.0f} of {count} against {line['rivals']}" if there else ""
    if line["missing"]:
        return "not run", f"needs {line['missing']}{against}"
    if line["untrained"]:
        untrained = 1 + line["untrained"].count(",")
        return "not tested", f"{untrained} of {len(claim.others)} rivals start from random weights{against}"
    if line["p_holm"] < SIGNIFICANT:
        return "supported", "better than every other model"
    return "undecided", f"surely best in {line['low']:.0f} of {count}"


def counted(table: pd.DataFrame) -> dict[str, int]:
    """How many claims have each verdict: a small metric."""
    return {name.replace(" ", "_"): int((table.verdict == name).sum()) for name in VERDICTS}


def counts_line(table: pd.DataFrame) -> str:
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counted(table).items())


SCOPE = (
    "Data and models are this study's, so a verdict says whether the same recipe has the same effect here, not whether "
    "the paper is right."
)
TITLE = "The paper's claims"


def claims_grid(table: pd.DataFrame, *, simulated: bool, level: float = LEVEL) -> Grid:
    """The claims in short, a row each: what is claimed, the paper's effect and ours, the verdict."""
    lines = tuple(
        row(f"{line['claim']} ({line['where']})", *found_texts(line), line["verdict"])
        for line in table.to_dict("records")
    )
    note = (
        f"{counts_line(table)}. Intervals of {percent(level)} over questions and seeds; p by Holm over all claims that "
        "were tested. A claim to be best counts columns: best by the mean, and from surely best to possibly best. "
        f"{SCOPE}"
    )
    head = ("Claim", "paper", "here", "interval", "p", "verdict")
    return Grid("claims", titled(TITLE, simulated), head, (Block("", lines),), note, left=(0, 5))


def full_claims_grid(table: pd.DataFrame, *, simulated: bool, level: float = LEVEL) -> Grid:
    """The claims with all that stands behind each verdict."""
    head = ("Claim", "section", "where", "contrast", "paper", "here", "interval", "p", "verdict", "why")
    lines = tuple(
        row(
            *(line[name] for name in ("claim", "section", "where", "contrast")),
            *found_texts(line),
            *(line[name] for name in ("verdict", "reason")),
        )
        for line in table.to_dict("records")
    )
    note = (
        f"{counts_line(table)}. Intervals of {percent(level)} over questions and seeds; p by Holm over all claims that "
        "were tested. 'paper' is by its tables, with what its text says in brackets where that differs. A claim to be "
        "best counts columns, against the models that were trained: best by the mean, and from surely best to possibly "
        f"best. {SCOPE}"
    )
    title = titled(f"{TITLE} in full", simulated)
    return Grid("claims_in_full", title, head, (Block("", lines),), note, left=(0, 2, 3, 8, 9))


def found_texts(line: Mapping) -> tuple[str, str, str, str]:
    """The paper's effect, ours, its interval and p, as text."""
    best = line["contrast"].endswith("each other model")
    shown = (lambda value: number(value, 0)) if best else signed
    theirs = shown(line["paper"])
    if np.isfinite(line["quoted"]) and abs(line["quoted"] - line["paper"]) > 0.005:
        theirs += f" (text: {signed(line['quoted'])})"
    interval = f"{shown(line['low'])} to {shown(line['high'])}" if np.isfinite(line["low"]) else ABSENT
    return theirs, shown(line["difference"]), interval, probability(line["p_holm"])
