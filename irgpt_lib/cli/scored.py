"""What `irgpt score` reads and tells: the questions asked, the answers given, and the scores as lines and as JSON.

The command imports this module when it runs: pandas takes seconds to load.
"""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import typer

from irgpt_lib import artifacts
from irgpt_lib.cli.built import table_of, whole
from irgpt_lib.cli.telling import told
from irgpt_lib.evaluation import floors, scoring
from irgpt_lib.evaluation.prediction_file import Answers, read_answers, within
from irgpt_lib.evaluation.release_scoring import release_table, released_questions
from irgpt_lib.irtd.card import file_sha256
from irgpt_lib.irtd.questions import QUESTION_COLUMNS, as_questions
from irgpt_lib.irtd.release import TASK_OF_FILE, read_release
from irgpt_lib.irtd.sources import MalformedFile, MissingData
from irgpt_lib.report.tables import ABSENT, markdown, number
from irgpt_lib.tasks import TASKS

RELEASE_SPLIT = "release"
FAULTS_TOLD = 10
SHARES = ("unread", "unread_lenient", "variety", "top_share")


def asked_of(given: Path | None, split: str, tasks: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The questions asked, and the instruction questions, of which there may be none.

    Raises:
        MissingData: there is no such file or folder, or no question of that split and those tasks.
        MalformedFile: a table cannot be read, lacks a column, holds an id twice or a question of an unknown task.
        RecordError: a released answer is not in its grammar.
    """
    table = question_table(given)
    wanted = [name.strip() for name in tasks.split(",") if name.strip()] or list(TASKS)
    if unknown := sorted(set(wanted) - TASKS.keys()):
        raise typer.BadParameter(f"--tasks {', '.join(unknown)}: the tasks are {', '.join(TASKS)}")
    if odd := sorted(set(table["task"]) - TASKS.keys()):
        raise MalformedFile(f"{given}: questions of unknown tasks {', '.join(odd)}; the tasks are {', '.join(TASKS)}")
    splits = sorted(set(table["split"]))
    chosen = split if splits != [RELEASE_SPLIT] else RELEASE_SPLIT
    asked = table[(table["split"] == chosen) & table["task"].isin(wanted)].reset_index(drop=True)
    if asked.empty:
        raise MissingData(f"no question of split {split} and tasks {', '.join(wanted)}; splits: {', '.join(splits)}")
    if twice := asked["question_id"][asked["question_id"].duplicated()].tolist():
        raise MalformedFile(f"{given or 'the questions'}: {len(twice)} question ids occur twice, first {twice[0]}")
    with whole(given or Path(artifacts.QUESTIONS)):
        as_questions(asked)
    return asked, table[table["split"] == "instruction"]


def question_table(given: Path | None) -> pd.DataFrame:
    """The study's questions, those of a table or folder of tables, or a release's.

    Raises:
        MissingData: there is nothing to read.
        MalformedFile: a table cannot be read or lacks a column.
    """
    place = given or artifacts.path(artifacts.QUESTIONS)
    if not place.exists():
        cure = "name another" if given else "`dvc repro dataset` makes it, --questions names another"
        raise MissingData(f"{place}: no such questions; {cure}")
    if place.is_dir() and any((place / f"{stem}.json").is_file() for stem in TASK_OF_FILE):
        return released_questions(read_release(place)[0])
    files = sorted(place.glob("*.parquet")) if place.is_dir() else [place]
    if not files:
        raise MissingData(f"{place}: neither Parquet tables of questions nor the release's JSON files in it")
    return table_of(files, QUESTION_COLUMNS)


def answers_in(file: Path, asked: pd.DataFrame, max_faults: float, **fields: Any) -> Answers:
    """The answers of a prediction file; `fields` are the options of `read_answers`.

    Raises:
        MissingData, MalformedFile: see `read_answers` and `within`.
    """
    answers = read_answers(file, asked["question_id"].tolist(), **fields)
    within(answers, len(asked), max_faults)
    return answers


def report_on(
    file: Path, flavour: str, asked: pd.DataFrame, instruction: pd.DataFrame, answers: Answers
) -> tuple[dict[str, Any], list[str]]:
    """The report as JSON holds it, and as lines."""
    outputs = [answers.outputs.get(name) for name in asked["question_id"]]
    if flavour == "study":
        table, details = study_scores(asked, instruction, outputs)
    else:
        table, details = release_table(asked, outputs), {}
    report = {
        "predictions": file.name,
        "sha256": file_sha256(file),
        "flavour": flavour,
        "questions": len(asked),
        "answered": len(answers.outputs),
        "faults": answers.counts(),
        "faults_named": [asdict(fault) for fault in answers.faults],
        "scores": by_task(table),
        "details": details,
    }
    lines = [
        f"{file}: {len(answers.outputs)} answers to {len(asked)} questions, scoring {flavour}",
        *(f"  {count:6} x {reason}" for reason, count in answers.counts().items() if count),
        *(f"  {told(fault)}" for fault in answers.faults[:FAULTS_TOLD]),
        "",
        printed(table),
        "",
    ]
    return report, lines


def study_scores(
    asked: pd.DataFrame, instruction: pd.DataFrame, outputs: list[str | None]
) -> tuple[pd.DataFrame, dict[str, dict[str, float]]]:
    """The table of `scoring.study_table`, with the floors beside it where they can be learned, and the details by
    task."""
    scored = scoring.scored(asked, outputs)
    table = scoring.study_table(scored)
    if set(asked["task"]) <= set(instruction["task"]):
        rows = floors.floor_rows(asked["task"].tolist(), floors.floors(asked, instruction))
        for name in floors.FLOORS:
            table[name] = table["task"].map(rows.loc[name])
    details: dict[str, dict[str, float]] = {}
    for row in scoring.detail_table(scored).itertuples():
        details.setdefault(row.task, {})[row.measure] = row.value
    return table, details


def by_task(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Task to column to value; None where there is no value."""
    return {
        row["task"]: {key: None if absent(value) else value for key, value in row.items() if key != "task"}
        for row in table.to_dict("records")
    }


def absent(value: Any) -> bool:
    """Whether a cell holds no number."""
    return isinstance(value, float) and math.isnan(value)


def printed(table: pd.DataFrame) -> str:
    """The table for a terminal: scores with two decimals, shares with three, a dash for what there is not."""
    texts = {}
    for column in (name for name in table.columns if not name.endswith("_truth")):
        digits = 3 if column in SHARES else 0 if column in ("questions", "unscored", "crashes") else 2
        texts[column] = [
            value if isinstance(value, str) else ABSENT if absent(value) else number(value, digits)
            for value in table[column].tolist()
        ]
    return markdown(pd.DataFrame(texts))


def write_report(target: Path, report: dict[str, Any]) -> None:
    """The report as JSON with sorted keys, whole or not at all."""
    with artifacts.atomic(target) as part:
        part.write_text(json.dumps(report, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
