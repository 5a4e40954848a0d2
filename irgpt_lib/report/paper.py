"""The paper's own numbers, cell by cell, for ours to stand beside. Accuracies in percent, errors as MAE."""

import json
from functools import cache
from importlib.resources import files

import pandas as pd

# Which row of the paper's Table 2 a variant of this study answers to.
COUNTERPARTS = {
    "none": "InternVL2-8B",
    "anti_cl": "IRGPT (anti-CL)",
    "random": "IRGPT (Random)",
    "cl": "IRGPT (CL)",
}


@cache
def numbers() -> dict:
    """The whole of `paper.json`; treat it as read-only."""
    return json.loads(files("irgpt_lib.report").joinpath("paper.json").read_text(encoding="utf-8"))


def table1() -> pd.DataFrame:
    """IR-TD against IID, as text: columns `property`, `IID`, `IR-TD`; 8 rows."""
    return pd.DataFrame(numbers()["table1"])


def table2() -> pd.DataFrame:
    """The main results: `model`, `setting` (zero_shot or fine_tuned) and the 11 columns; 16 rows."""
    rows = [
        (model, setting, *cells) for setting, block in numbers()["table2"].items() for model, cells in block.items()
    ]
    return pd.DataFrame(rows, columns=["model", "setting", *numbers()["columns"]])


def rounded_sums() -> pd.DataFrame:
    """The sums of Table 2 that its own cells miss by one hundredth: `model`, `setting`, `column`, `printed` and
    `added`, the sum of the cells; 3 rows. All other sums are exact."""
    return pd.DataFrame(numbers()["rounded_sums"])


def underlined() -> pd.DataFrame:
    """Which model the paper underlines as second best in each column of Table 2: `setting`, `column`, `model`; 22 rows.

    Two of them are not second best by the cells: after fine-tuning PandaGPT-7B is, in Recognition and Relationship
    (reading Q28).
    """
    rows = [
        (setting, column, model)
        for setting, block in numbers()["underlined"].items()
        for column, model in block.items()
    ]
    return pd.DataFrame(rows, columns=["setting", "column", "model"])


def table3() -> pd.DataFrame:
    """The two lessons after fine-tuning; 8 rows, numbered from 1.

    Columns `l1` and `l2` ("forward", "anti" or ""), `alpha`, `psum`, `nsum`. Row 1 had no infrared
    pre-training at all.
    """
    return pd.DataFrame(numbers()["table3"], index=pd.RangeIndex(1, 9, name="row"))


def table4() -> pd.DataFrame:
    """The sampling schedules: columns `schedule`, `setting`, `psum`, `nsum`; 12 rows."""
    rows = [
        (row["schedule"], setting, *row[setting])
        for setting in ("zero_shot", "fine_tuned")
        for row in numbers()["table4"]
    ]
    return pd.DataFrame(rows, columns=["schedule", "setting", "psum", "nsum"])


def claims() -> pd.DataFrame:
    """What the text says of variants that this study also runs: "`a` is better than `b`" in one column.

    Columns `claim`, `section`, `a`, `b`, `setting`, `column`, `quoted` (`a - b` as the text gives it, NaN
    where it gives none) and `tabled` (`a - b` by the cells of Table 2, which the text twice contradicts).
    """
    table = pd.DataFrame(numbers()["claims"])
    cells = table2().set_index(["model", "setting"])
    tabled = [
        cells.at[(COUNTERPARTS[row.a], row.setting), row.column]
        - cells.at[(COUNTERPARTS[row.b], row.setting), row.column]
        for row in table.itertuples()
    ]
    return table.assign(quoted=table.quoted.astype(float), tabled=pd.Series(tabled).round(2))
