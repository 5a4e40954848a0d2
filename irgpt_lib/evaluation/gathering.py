"""The answers of every run, those of `dvc repro` and those rows of the grid that belong beside them."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from irgpt_lib import artifacts, params

SECTIONS = ("model", "train", "evaluate")
ASKED = ["question_id", "setting"]
RECORD, PREDICTIONS, HISTORY = "record.json", "predictions.parquet", "history.csv"


@dataclass(frozen=True)
class Gathered:
    """`predictions` of all runs, with the columns `variant` and `seed`; `left_out`: `run` and `reason` of those rows of
    the grid that are not among them."""

    predictions: pd.DataFrame
    left_out: pd.DataFrame


def settings_of(profile: str, variant: str) -> dict[str, Any]:
    """What params say of a row of the grid under that profile: its model, training and evaluation."""
    loaded = params.load(*SECTIONS, profile=profile, variant=variant)
    return {"profile": loaded.profile} | {name: getattr(loaded, name).model_dump() for name in SECTIONS}


def asked_hash(predictions: pd.DataFrame) -> str:
    """SHA-256 over the questions and their truths, whatever their order: two runs that share it can be compared."""
    rows = predictions[[*ASKED, "question", "truth"]].sort_values(ASKED).to_numpy().tolist()
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def all_predictions(profile: str = "") -> Gathered:
    """The answers of every run of `params.runs()`, and of those of `params.runs("grid")` that are there, were made with
    the values that params state now, and were asked the same questions.

    Raises:
        FileNotFoundError: a run of the study was not evaluated.
    """
    parts = [
        artifacts.read_table(f"evaluate/{artifacts.run_name(v, s)}/{PREDICTIONS}").assign(variant=v, seed=s)
        for v, s in params.runs()
    ]
    same = asked_hash(parts[0])
    reasons = {run: _unfit(profile, run, same) for run in params.runs("grid")}
    for (variant, seed), reason in reasons.items():
        if not reason:
            own = artifacts.read_table(f"{artifacts.grid_name(variant, seed)}/{PREDICTIONS}")
            parts.append(own.assign(variant=variant, seed=seed))
    left = [{"run": artifacts.run_name(*run), "reason": reason} for run, reason in reasons.items() if reason]
    return Gathered(pd.concat(parts, ignore_index=True), pd.DataFrame(left, columns=["run", "reason"]))


def _unfit(profile: str, run: tuple[str, int], same: str) -> str:
    """Why a row of the grid cannot stand beside the study's runs; empty where it can."""
    folder = artifacts.path(artifacts.grid_name(*run))
    if not (folder / RECORD).is_file():
        return "not run: `make grid` runs it"
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    now = settings_of(profile, run[0])
    if record["settings"]["profile"] != now["profile"]:
        return f"run under the profile {record['settings']['profile']}"
    if record["settings"] != now:
        return "run with other params: `make grid` runs it again"
    if record["asked"] != same:
        return "asked other questions: `make grid` runs it again"
    return ""


def keep(scratch: Path, profile: str, variant: str, seed: int, inputs: str) -> None:
    """A finished row of the grid from `scratch`, the artifacts that notebooks 05 and 06 wrote: answers, losses, what it
    was asked under which params, and the hash of its `inputs`. The weights are not kept."""
    run = artifacts.run_name(variant, seed)
    predictions = pd.read_parquet(scratch / f"evaluate/{run}/{PREDICTIONS}")
    costs = {
        name: json.loads((scratch / f"costs/{name}-{run}.json").read_text(encoding="utf-8"))
        for name in artifacts.EACH_RUN
    }
    record = {"settings": settings_of(profile, variant), "inputs": inputs}
    record |= {"asked": asked_hash(predictions), "costs": costs}
    with artifacts.atomic(artifacts.path(artifacts.grid_name(variant, seed))) as folder:
        folder.mkdir()
        (folder / HISTORY).write_bytes((scratch / f"train/{run}/{HISTORY}").read_bytes())
        predictions.to_parquet(folder / PREDICTIONS, index=False, compression="zstd")
        text = json.dumps(record, indent=1, sort_keys=True)
        (folder / RECORD).write_text(f"{text}\n", encoding="utf-8")
