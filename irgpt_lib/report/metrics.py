"""The small files that DVC compares: one of metrics, few enough for `dvc exp show`, and tables for `dvc plots diff`."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from irgpt_lib.evaluation.seeds import BASELINE
from irgpt_lib.evaluation.statistics import COLUMNS, SUMS
from irgpt_lib.report.tables import SETTINGS

DIGITS = 3
OTHERS = ("none", "anti_cl", "random")


def known(values: Mapping[str, float | int]) -> dict[str, float]:
    """The values that exist, rounded."""
    return {name: round(float(value), DIGITS) for name, value in values.items() if np.isfinite(value)}


def headline(
    means: pd.DataFrame,
    comparisons: pd.DataFrame,
    power: pd.DataFrame,
    claims: Mapping[str, int],
    *,
    method: str = "cl",
) -> dict:
    """The study's metrics: the sums of the method, what other orders gain on it, what could be seen, how claims stand.

    Keys: `score.<setting>.<sum>` of the method; `gain.<variant>.<setting>.<sum>`, the variant less the method;
    `detectable.<setting>.<sum>`, the difference found in 80 of 100 studies; `claims.<verdict>`. What was not run has no
    key, so that `dvc metrics diff` shows it as new once it is.
    """
    found: dict[str, dict] = {"score": {}, "gain": {}, "detectable": {}, "claims": dict(claims)}
    own = means[(means.variant == method) & means.setting.isin(list(SETTINGS)) & means.column.isin(list(SUMS))]
    for line in own.itertuples():
        found["score"].setdefault(line.setting, {}).update(known({line.column: line.mean}))
    others = comparisons[(comparisons.b == method) & comparisons.a.isin(OTHERS) & comparisons.column.isin(list(SUMS))]
    for line in others.itertuples():
        by_setting = found["gain"].setdefault(line.a, {})
        by_setting.setdefault(line.setting, {}).update(known({line.column: line.difference}))
    for line in power[power.column.isin(list(SUMS))].itertuples() if len(power) else ():
        found["detectable"].setdefault(line.setting, {}).update(known({line.column: line.found}))
    return found


def scores_plot(means: pd.DataFrame, columns: Sequence[str] = COLUMNS) -> pd.DataFrame:
    """For a bar a run, with its own images, and a floor: `run` (variant and setting), `column`, `mean`, `low`, `high`,
    `seed_sd`."""
    shown = means.setting.isin([*SETTINGS, BASELINE])
    part = means[shown & means.column.isin(list(columns)) & means["mean"].notna()]
    frame = part.assign(run=part.variant + " " + part.setting.str.replace("_", "-"))
    return frame[["run", "column", "mean", "low", "high", "seed_sd"]].reset_index(drop=True)


def differences_plot(comparisons: pd.DataFrame, columns: Sequence[str] = tuple(SUMS)) -> pd.DataFrame:
    """For a bar a comparison: `comparison` (`a - b` and the setting), `column`, `difference`, `low`, `high`.

    A pair that several tables make is kept once, for DVC would add its bars up.
    """
    part = comparisons[comparisons.column.isin(list(columns)) & comparisons.difference.notna()]
    part = part.drop_duplicates(["a", "b", "setting", "column"])
    frame = part.assign(comparison=part.a + " - " + part.b + " " + part.setting.str.replace("_", "-"))
    return frame[["comparison", "column", "difference", "low", "high"]].reset_index(drop=True)
