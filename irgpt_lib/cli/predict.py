"""`irgpt predict`: a model of choice answers the benchmark, and its answers become a prediction file."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from irgpt_lib.cli.telling import Json, show, told_errors
from irgpt_lib.irtd.sources import MalformedFile, MissingData

if TYPE_CHECKING:
    import pandas as pd

    from irgpt_lib.evaluation.answerers.answerer import Answerer
    from irgpt_lib.models.families import Family

SUFFIXES = (".parquet", ".jsonl")
SETTINGS = ("zero_shot", "fine_tuned")
BASE_RUN = "base"
JOURNALS = "cache/answers"


def predict(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The prediction file to write: .parquet or .jsonl.")],
    run: Annotated[str, typer.Option("--run", help="A run of the study such as cl-0, or base.")] = "",
    setting: Annotated[
        str, typer.Option("--setting", help="The run after stage 1 (zero_shot) or 2 (fine_tuned).")
    ] = "fine_tuned",
    weights: Annotated[str, typer.Option("--weights", help="A transformers checkpoint: folder or hub id.")] = "",
    server: Annotated[str, typer.Option("--server", help="An OpenAI-compatible address, ending in /v1.")] = "",
    model: Annotated[str, typer.Option("--model", help="The model's name at --server.")] = "",
    key_variable: Annotated[str, typer.Option("--key-variable", help="Environment variable of its key.")] = "",
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, help="Requests to --server at a time.")] = 8,
    retries: Annotated[int, typer.Option("--retries", min=0, help="Attempts after a failed one at --server.")] = 5,
    answers: Annotated[
        Path | None, typer.Option("--answers", help="A file of answers that a model gave elsewhere.")
    ] = None,
    dataset: Annotated[Path | None, typer.Option("--dataset", help="A dataset's folder; else the study's own.")] = None,
    split: Annotated[str, typer.Option("--split", help="The split to ask.")] = "benchmark",
    tasks: Annotated[str, typer.Option("--tasks", help="Only these tasks, by commas.")] = "",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most so many questions a task.")] = None,
    shuffled: Annotated[bool, typer.Option("--shuffled", help="Show each question another image.")] = False,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=1, help="Longest answer; runs of the study know their own.")
    ] = 512,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Questions at a time.")] = 32,
    device: Annotated[str, typer.Option("--device", help="torch's name of it; else the GPU if there is one.")] = "",
    journals: Annotated[
        Path | None, typer.Option("--journals", help="Where answers are kept; else the study's cache.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Put the benchmark's questions to one model and write one row an answer; `irgpt score` scores it.

    The model is one of --run, --weights, --server with --model, or --answers. Answers are kept as they come, so a
    killed command goes on where it stood. Questions without an answer are told, and the exit code is 1.
    """
    from irgpt_lib import artifacts
    from irgpt_lib.cli.asking import asked_of
    from irgpt_lib.evaluation.answerers.table import predictions, write_predictions
    from irgpt_lib.irtd.describing.describer import NoReplies
    from irgpt_lib.irtd.describing.journal import JournalBusy, JournalDamaged

    with told_errors():
        if out.suffix not in SUFFIXES:
            raise typer.BadParameter(f"{out}: its name must end with one of {', '.join(SUFFIXES)}")
        if sum(map(bool, (run, weights, server, answers))) != 1:
            raise typer.BadParameter("name one model, by --run, --weights, --server or --answers")
        asked, images = asked_of(dataset, split, tasks, limit)
        shown = images_shown(asked, shuffled)
        folder = journals or artifacts.path(JOURNALS)
        if run:
            answerer = run_of_study(run, setting, asked, folder, batch_size, device)
        elif weights:
            answerer = checkpoint(weights, folder, max_tokens, batch_size, device)
        elif server:
            settings = {"max_tokens": max_tokens, "concurrency": concurrency, "max_retries": retries}
            answerer = served(server, model, folder, key_variable=key_variable, **settings)
        else:
            answerer = file_of_answers(answers)
        try:
            table = predictions(answerer, asked, images, shown)
        except (JournalBusy, JournalDamaged, NoReplies) as error:
            raise typer.BadParameter(str(error)) from error
        write_predictions(table, out)
        faults = Counter(fault.partition(":")[0] for fault in table["fault"] if fault)
        report = {"file": str(out), "model": answerer.name, "questions": len(table), "faults": dict(faults)}
        lines = [f"  {count:6} x {reason}" for reason, count in sorted(faults.items())]
        show(report, [*lines, f"{out}: {len(table) - faults.total()} answers by {answerer.name}"], as_json)
    if faults:
        raise typer.Exit(1)


def images_shown(asked: "pd.DataFrame", shuffled: bool) -> list[str]:
    """The sample whose image goes with each question.

    Raises:
        MissingData: there are too few images to shuffle.
    """
    from irgpt_lib.evaluation.answering import shuffled_within_task

    if not shuffled:
        return asked["sample_id"].tolist()
    try:
        return shuffled_within_task(asked)
    except ValueError as error:
        raise MissingData(str(error)) from error


def run_of_study(
    run: str, setting: str, asked: "pd.DataFrame", journals: Path, batch_size: int, device: str
) -> "Answerer":
    """A run that `dvc repro train` left, or the base model.

    Raises:
        MissingData: there is no such run.
    """
    from irgpt_lib.evaluation.answerers.study_model import study_model

    if setting not in SETTINGS:
        raise typer.BadParameter(f"--setting is one of {', '.join(SETTINGS)}")
    vlm, label = loaded_run(run, setting)
    vlm.model.to(device or default_device())
    return study_model(vlm, label, asked, journals, batch_size=batch_size)


def loaded_run(run: str, setting: str) -> tuple["Family", str]:
    """The model of a run and its label.

    Raises:
        MissingData: there is no such run.
        MalformedFile: its weights are not of the model that params.yaml names.
    """
    from irgpt_lib import artifacts, params
    from irgpt_lib.models.families import UnfitCheckpoint
    from irgpt_lib.training import stages
    from irgpt_lib.training.starting import starting_model

    folder, variant = artifacts.path(f"train/{run}"), run.rpartition("-")[0]
    if run != BASE_RUN and not folder.is_dir():
        raise MissingData(f"{folder}: no such run; `dvc repro train` makes the study's")
    try:
        vlm = starting_model(params.load("model", variant=variant).model, artifacts.path(artifacts.BASE))
        if run == BASE_RUN:
            return vlm, run
        stages.load_stage1(vlm, folder)
        return (stages.load_adapter(vlm, folder) if setting == "fine_tuned" else vlm), f"{run}_{setting}"
    except (params.ParamsError, UnfitCheckpoint) as error:
        raise MalformedFile(str(error)) from error


def default_device() -> str:
    """The GPU where there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def checkpoint(weights: str, journals: Path, max_tokens: int, batch_size: int, device: str) -> "Answerer":
    """Any transformers image-text-to-text model."""
    from irgpt_lib.evaluation.answerers.transformers_model import transformers_model

    return transformers_model(weights, journals, max_tokens=max_tokens, batch_size=batch_size, device=device)


def served(url: str, model: str, journals: Path, **settings: Any) -> "Answerer":
    """A model behind a server; `settings` are those of `OpenAIServer`.

    Raises:
        typer.BadParameter: its address, name or key is missing or cannot be used.
    """
    from irgpt_lib.evaluation.answerers.server_model import server_model
    from irgpt_lib.irtd.describing.openai_server import OpenAIServer, ServerMisstated

    if not model:
        raise typer.BadParameter("--server needs --model, the name of the model to ask there")
    try:
        server = OpenAIServer(url, model, **settings)
        server.key()
    except ServerMisstated as error:
        raise typer.BadParameter(str(error)) from error
    return server_model(server, journals)


def file_of_answers(file: Path) -> "Answerer":
    """Answers that are there already."""
    from irgpt_lib.evaluation.answerers.file_of_answers import FileOfAnswers

    return FileOfAnswers(file)
