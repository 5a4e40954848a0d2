"""The table of what the difficulty scores measure: one row a score, one column a question."""

import pandas as pd
import pytest

from irgpt_lib.report.difficulty_table import SCORES, difficulty_table

INTERVAL = {"low": [0.4], "high": [0.6]}
SWAPPED = pd.DataFrame(
    {"share": [0.0, 0.35, 0.13], "score": "clip_loss", "auc": [None, 0.7, 0.6], "low": 0.5, "high": 0.8}
)
BANDS = pd.DataFrame({"score": ["distance", "bandwidth x2.00"], "auc": [0.821, 0.9], "low": 0.81, "high": 0.83})
BASE_LOSS = pd.DataFrame({"score": ["rank"], "rho": [-0.125]} | INTERVAL)


def cells(text):
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.strip().splitlines()]
    return lines[0], {line[0]: line[1:] for line in lines[2:]}


def test_each_score_has_what_was_measured_of_it_and_a_dash_elsewhere():
    heads, rows = cells(difficulty_table(SWAPPED, BANDS, BASE_LOSS))
    assert heads[1:] == ["swapped captions (13%), AUC", "TIR against NIR, AUC", "base model's loss, ρ"]
    assert list(rows) == list(SCORES.values())
    assert rows[SCORES["clip_loss"]] == ["0.60 [0.50, 0.80]", "–", "–"]
    assert rows[SCORES["distance"]] == ["–", "0.82 [0.81, 0.83]", "–"]
    assert rows[SCORES["rank"]][2].endswith("0.12 [0.40, 0.60]")


def test_without_swapped_captions_there_is_nothing_to_notice():
    with pytest.raises(ValueError, match="no share of swapped captions above 0"):
        difficulty_table(SWAPPED[:1], BANDS, BASE_LOSS)
