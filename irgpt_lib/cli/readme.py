"""`irgpt readme`: the generated sections of README.md."""

import json
import os
import platform
import subprocess
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from irgpt_lib.cli.telling import told_errors
from irgpt_lib.irtd.sources import MalformedFile, MissingData

# A generated section of README.md and the table that it shows.
README_TABLES = {"results": "tables/headline.md", "checks": "tables/checks.md", "claims": "tables/claims.md"}
# What notebook 09 found of the scores, in the order in which `difficulty_table` takes it.
CHECKS = ("swapped_captions", "bands", "base_loss")
COSTS = ("wall_s", "cpu_s", "peak_mb")


def readme(
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit with 1 if README.md is stale.")] = False,
    costs: Annotated[bool, typer.Option("--costs/--keep-costs", help="Rewrite the costs, or leave them.")] = True,
) -> None:
    """Write the generated sections of README.md again: results, checks, claims, difficulty, what each stage costs.

    --check compares all but the costs, which no two runs share.
    """
    # pandas and torch take seconds to load, which no other command has to wait for
    from irgpt_lib import artifacts

    with told_errors():
        file = artifacts.root() / "README.md"
        old = file.read_text(encoding="utf-8")
        sections = {name: table_text(table) for name, table in README_TABLES.items()}
        sections["difficulty"] = difficulty_text()
        stale = [name for name, body in sections.items() if with_sections(file, old, {name: body}) != old]
        if check:
            if stale:
                typer.echo(f"irgpt: {file}: {', '.join(stale)} out of date; `irgpt readme` writes them", err=True)
                raise typer.Exit(1)
            typer.echo(f"{file}: {', '.join(sections)} are up to date")
            return
        if costs:
            sections["costs"] = costs_text()
        with artifacts.atomic(file) as part:
            part.write_text(with_sections(file, old, sections), encoding="utf-8")
        typer.echo(f"{file}: wrote {', '.join(sections)}; changed: {', '.join(stale) or 'none of the tables'}")


def with_sections(file: Path, text: str, sections: dict[str, str]) -> str:
    """The text of `file` with the named sections replaced.

    Raises:
        MalformedFile: a section's pair of markers is missing or occurs twice.
    """
    from irgpt_lib.report.tables import replace_section

    try:
        for name, body in sections.items():
            text = replace_section(text, name, body)
    except ValueError as error:
        raise MalformedFile(f"{file}: {error}; a section is <!-- NAME:start --> ... <!-- NAME:end -->, once") from error
    return text


def table_text(name: str) -> str:
    """One of the study's Markdown tables.

    Raises:
        MissingData: it does not exist or is empty; the message says which stage writes it.
    """
    from irgpt_lib import artifacts

    file = artifacts.path(name)
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    if not text.strip():
        raise MissingData(f"{file}: {'empty' if file.is_file() else 'no such table'}; `dvc repro tables` writes it")
    return text


def difficulty_text() -> str:
    """What the difficulty scores were found to measure.

    Raises:
        MissingData: notebook 09 was not executed.
        MalformedFile: no caption was swapped in it.
    """
    import pandas as pd

    from irgpt_lib import artifacts
    from irgpt_lib.report.difficulty_table import difficulty_table

    files = [artifacts.path(f"checks/{name}.csv") for name in CHECKS]
    if absent := [file.name for file in files if not file.is_file()]:
        raise MissingData(f"{files[0].parent}: no {', '.join(absent)}; `dvc repro checks` writes them")
    try:
        return f"{difficulty_table(*map(pd.read_csv, files))}\n"
    except ValueError as error:
        raise MalformedFile(f"{files[0].parent}: {error}") from error


def cost_files() -> list[Path]:
    """What `irgpt_lib.run` wrote of the cost of every run of the study, in the order of its stages.

    Raises:
        MissingData: some are absent; the message lists them.
    """
    from irgpt_lib import artifacts, params

    try:
        runs = [artifacts.run_name(variant, seed) for variant, seed in params.runs()]
        shown_run = artifacts.run_name(*params.shown_run())
    except params.ParamsError as error:
        raise MalformedFile(str(error)) from error
    each = [f"{notebook}-{run}" for notebook in artifacts.EACH_RUN for run in runs]
    shown = [f"{notebook}-{shown_run}" for notebook in artifacts.SHOWN_RUN]
    stems = [*artifacts.SINGLE_RUN, *each, *artifacts.ALL_RUNS, *shown]
    files = [artifacts.path(f"costs/{stem}.json") for stem in stems]
    if absent := [file.stem for file in files if not file.is_file()]:
        raise MissingData(
            f"{files[0].parent}: no cost of {', '.join(absent)}; each run of a notebook writes its own, so run "
            "these stages (`dvc repro -f`), or leave the section as it is with --keep-costs"
        )
    return files


def costs_text() -> str:
    """The table of costs and, below it, the profile, the machine and the day of the last run.

    Raises:
        MissingData: see `cost_files`.
        MalformedFile: a file of costs cannot be read.
    """
    from irgpt_lib.params import current_profile
    from irgpt_lib.report.tables import costs_table

    records, profiles, files = [], set(), cost_files()
    for file in files:
        try:
            cost = json.loads(file.read_text(encoding="utf-8"))
            records.append({"stage": cost["notebook"].partition("_")[2]} | {k: cost[k] for k in COSTS})
            profiles.add(current_profile(cost["parameters"].get("profile", "")))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise MalformedFile(f"{file}: not a cost that `irgpt_lib.run` wrote: {error!r}; run it again") from error
    day = date.fromtimestamp(max(file.stat().st_mtime for file in files))
    below = (
        f"Profile {', '.join(f'`{name}`' for name in sorted(profiles))} on {machine()}; last run on {day}{commit()}."
    )
    return f"{costs_table(records)}\n{below}\n"


def commit() -> str:
    """`, commit abc1234`, with a word where the tree differs from it; empty outside a repository."""
    from irgpt_lib import artifacts

    git = ["git", "-C", str(artifacts.root())]
    try:
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        code = [*git, "status", "--porcelain", "--", "irgpt_lib", "notebooks", "params.yaml", "dvc.yaml"]
        changed = subprocess.run(code, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f", commit {head.stdout.strip()}{' with changes' if changed else ''}"


def machine() -> str:
    """Processor, cores, GPU and torch of this machine in one phrase."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{os.cpu_count()} cores of {processor()}, {gpu}, torch {version('torch')}"


def processor(description: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's model as Linux describes it; elsewhere its architecture."""
    if description.is_file():
        for line in description.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
