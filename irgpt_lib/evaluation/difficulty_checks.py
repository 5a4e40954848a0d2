"""Do the difficulty scores measure difficulty? What a simulated world knows and the paper could not check."""

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from sklearn.metrics import roc_auc_score
from torch import Tensor

SCORES = ("distance", "clip_loss_before", "clip_loss", "alpha", "weight", "rank")


def codes(labels: pd.Series) -> Int[Tensor, " n"]:
    """One integer for each distinct text; -1, which means no group, for an empty one."""
    numbers, names = pd.factorize(labels, sort=True)
    empty = np.array([name == "" for name in names], dtype=bool)
    return torch.from_numpy(np.where(empty[numbers], -1, numbers))


def area_under_roc(positive: np.ndarray, score: np.ndarray) -> float:
    """The probability that a positive has the larger score, 0-1; NaN where one of the two classes is empty."""
    if positive.all() or not positive.any():
        return float("nan")
    return float(roc_auc_score(positive, score))


def separation(scores: pd.DataFrame) -> pd.DataFrame:
    """For each score: its ROC AUC for TIR against NIR, and for swapped against unswapped captions.

    `scores` holds the columns `band`, `swapped` and those of `SCORES`. Captions are compared within each kind of image
    and averaged by its number of samples, for a montage and a field differ in loss for other reasons.
    """
    ends = scores[scores["band"].isin(["nir", "tir"])]
    rows = {}
    for name in SCORES:
        parts = [
            (len(part), area_under_roc(part["swapped"].to_numpy(), part[name].to_numpy()))
            for _, part in scores.groupby("kind")
        ]
        known = [(n, auc) for n, auc in parts if np.isfinite(auc)]
        swapped = np.average([a for _, a in known], weights=[n for n, _ in known]) if known else float("nan")
        band = area_under_roc((ends["band"] == "tir").to_numpy(), ends[name].to_numpy()) if len(ends) else float("nan")
        rows[name] = {"AUC, TIR against NIR": band, "AUC, swapped captions": float(swapped)}
    return pd.DataFrame(rows).T.rename_axis("score")


def projected_points(
    features: dict[str, Float[Tensor, "_ d"]],
    samples: pd.DataFrame,
    distance: Float[Tensor, " n"],
    most: int = 2000,
) -> pd.DataFrame:
    """Infrared and visible features on their first two joint principal components, at most `most` of each domain.

    Columns x, y, band (`visible` for the visible domain) and distance (NaN for visible images).
    """
    keep = {name: spread(len(x), most) for name, x in features.items()}
    joint = torch.cat([features["infrared"][keep["infrared"]], features["visible"][keep["visible"]]]).double()
    _, _, axes = torch.linalg.svd(joint - joint.mean(0), full_matrices=False)
    # A component's sign is arbitrary; the largest entry is made positive, so that equal features give equal pictures.
    signs = axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    plane = ((joint - joint.mean(0)) @ (axes * signs)[:2].T).numpy()
    visible = len(keep["visible"])
    bands = [*samples["band"].to_numpy()[keep["infrared"]], *["visible"] * visible]
    distances = np.concatenate([distance.numpy()[keep["infrared"]], np.full(visible, np.nan)])
    return pd.DataFrame({"x": plane[:, 0], "y": plane[:, 1], "band": bands, "distance": distances})


def spread(count: int, most: int) -> np.ndarray:
    """At most `most` indices, evenly spread over `count`."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def summary(scores: pd.DataFrame, mmd: float, bandwidth: float) -> dict[str, object]:
    """The numbers that other stages quote, rounded to four digits."""
    found = separation(scores)
    table = {
        score: {name: None if np.isnan(value) else round(float(value), 4) for name, value in row.items()}
        for score, row in found.iterrows()
    }
    return {
        "samples": len(scores),
        "mmd": round(mmd, 4),
        "bandwidth": round(bandwidth, 4),
        "mean_weight": round(float(scores["weight"].mean()), 4),
        "alpha_positive": round(float((scores["alpha"] > 0).mean()), 4),
        "separation": table,
    }
