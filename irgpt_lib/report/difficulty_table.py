"""What the difficulty scores were found to measure, in one table for the README."""

import pandas as pd

from irgpt_lib.report.tables import markdown, number

SCORES = {
    "distance": "Lesson 1: distance to visible",
    "clip_loss_before": "Lesson 2: CLIP loss before warm-up, l",
    "clip_loss": "Lesson 2: CLIP loss after warm-up, l′",
    "alpha": "rate of change α (Eq. 4)",
    "weight": "weight w (Eq. 5)",
    "rank": "joint rank",
    "base_loss": "loss of the base model itself",
}
EMPTY = "–"


def difficulty_table(swapped: pd.DataFrame, bands: pd.DataFrame, base_loss: pd.DataFrame) -> str:
    """A row a score: does it notice a swapped caption (ROC AUC at the smallest share above none), which band it is
    (ROC AUC, thermal against near infrared), and does it foretell the base model's loss (Spearman's rho)?

    The tables are those that notebook 09 writes to `checks/`, with 95 % intervals `low` and `high`.

    Raises:
        ValueError: no share of swapped captions is above none.
    """
    shares = swapped.loc[swapped["share"] > 0, "share"]
    if shares.empty:
        raise ValueError("no share of swapped captions above 0 was checked; checks.noise_shares needs one")
    found = {
        f"swapped captions ({shares.min():.0%}), AUC": _cells(swapped[swapped["share"] == shares.min()], "auc"),
        "TIR against NIR, AUC": _cells(bands, "auc"),
        "base model's loss, ρ": _cells(base_loss, "rho"),
    }
    rows = [
        {"Score": label} | {head: cells.get(name, EMPTY) for head, cells in found.items()}
        for name, label in SCORES.items()
    ]
    return markdown(pd.DataFrame(rows))


def _cells(table: pd.DataFrame, measure: str) -> dict[str, str]:
    return {
        line["score"]: f"{number(line[measure])} [{number(line['low'])}, {number(line['high'])}]"
        for line in table.to_dict("records")
    }
