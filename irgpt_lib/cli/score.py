"""`irgpt score`: answers that a model gave elsewhere, scored against the benchmark without a model."""

from pathlib import Path
from typing import Annotated

import typer

from irgpt_lib.cli.telling import Json, show, told_errors

FLAVOURS = ("study", "release")


def score(
    predictions: Annotated[
        Path, typer.Option("--predictions", help="JSON lines, Parquet, CSV or TSV: a question id and an output a row.")
    ],
    flavour: Annotated[
        str, typer.Option("--flavour", help="study, or release: as the release's scripts do.")
    ] = "study",
    questions: Annotated[
        Path | None,
        typer.Option("--questions", help="A table or folder of questions, or the release's JSON; else the study's."),
    ] = None,
    split: Annotated[str, typer.Option("--split", help="The split that was asked.")] = "benchmark",
    tasks: Annotated[str, typer.Option("--tasks", help="Only these tasks, by commas.")] = "",
    where: Annotated[
        list[str] | None, typer.Option("--where", help="Only rows with COLUMN=VALUE, such as setting=zero_shot.")
    ] = None,
    id_field: Annotated[str, typer.Option("--id-field", help="The field of the question id.")] = "question_id",
    output_field: Annotated[str, typer.Option("--output-field", help="The field of the model's text.")] = "output",
    max_faults: Annotated[
        float, typer.Option("--max-faults", min=0.0, help="Faults allowed, as a share of the questions.")
    ] = 0.0,
    out: Annotated[Path | None, typer.Option("--out", help="The JSON to write; else beside the predictions.")] = None,
    as_json: Json = False,
) -> None:
    """Score a file of predictions on the nine tasks, print the table and write it as JSON.

    Unknown, missing, repeated, contradicting and malformed answers are counted and named; more of them than
    --max-faults fail, and nothing is written. A missing answer scores as a refusal. chance, blind and majority are
    shown where the questions hold an instruction split.
    """
    from irgpt_lib.cli import scored

    with told_errors():
        if flavour not in FLAVOURS:
            raise typer.BadParameter(f"--flavour is one of {', '.join(FLAVOURS)}")
        asked, instruction = scored.asked_of(questions, split, tasks)
        fields = {"id_field": id_field, "output_field": output_field, "where": conditions(where or [])}
        answers = scored.answers_in(predictions, asked, max_faults, **fields)
        report, lines = scored.report_on(predictions, flavour, asked, instruction, answers)
        report["where"] = fields["where"]
        target = out or predictions.with_name(f"{predictions.stem}.{flavour}.json")
        if target.resolve() == predictions.resolve():
            raise typer.BadParameter(f"--out {target} would overwrite the predictions")
        scored.write_report(target, report)
        show(report, [*lines, f"{target}: written"], as_json)


def conditions(where: list[str]) -> dict[str, str]:
    """`setting=zero_shot` as a pair.

    Raises:
        typer.BadParameter: one has no equals sign.
    """
    if bad := [text for text in where if "=" not in text]:
        raise typer.BadParameter(f"--where {bad[0]}: write COLUMN=VALUE")
    return {key: value for key, _, value in (text.partition("=") for text in where)}
