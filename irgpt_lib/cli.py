"""`irgpt`: the library's functions from the shell. Errors leave with code 2 and one message on stderr."""

import json
import os
import platform
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from irgpt_lib.irtd.record import BANDS, KINDS, Band, Kind, RecordError, Rejected, Sample
from irgpt_lib.irtd.release import read_release, write_parquet
from irgpt_lib.irtd.sources import (
    SOURCES,
    MalformedFile,
    MissingData,
    Source,
    UnknownName,
    default_root,
    read,
)
from irgpt_lib.irtd.sources.reading import check_folder, folder_source, format_of, known_source
from irgpt_lib.irtd.sources.storing import rejected_file, store

app = typer.Typer(help="IRGPT and IR-TD from the shell.", no_args_is_help=True, pretty_exceptions_enable=False)
sources_app = typer.Typer(help="Raw infrared data sets.", no_args_is_help=True)
release_app = typer.Typer(help="The released IR-TD instruction set.", no_args_is_help=True)
app.add_typer(sources_app, name="sources")
app.add_typer(release_app, name="release")

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")]
Format = Annotated[str, typer.Option("--format", help="The folder's format; `irgpt sources list` shows which exist.")]
Root = Annotated[Path | None, typer.Option("--root", help="The raw folder; a known source has data/raw/<folder>.")]
BandOption = Annotated[str, typer.Option("--band", help="Band of a folder that is no known source.")]
KindOption = Annotated[str, typer.Option("--kind", help="Kind of a folder that is no known source.")]
Out = Annotated[Path, typer.Option("--out", help="The Parquet file to write.")]

# A generated section of README.md and the table that it shows.
README_TABLES = {"results": "tables/headline.md", "checks": "tables/checks.md", "claims": "tables/claims.md"}
SINGLE_RUN = ("00_base", "01_dataset", "02_features", "03_difficulty")
EACH_RUN = ("04_train", "05_evaluate")
ALL_RUNS = ("06_ablations", "07_tables")
COSTS = ("wall_s", "cpu_s", "peak_mb")


@contextmanager
def told_errors() -> Iterator[None]:
    """Foreseen errors become one message on stderr and exit code 2; anything else is a defect and keeps its
    trace."""
    try:
        yield
    except (MissingData, MalformedFile, UnknownName, RecordError, OSError, typer.BadParameter) as error:
        typer.echo(f"irgpt: {error}", err=True)
        raise typer.Exit(2) from None


def show(value: Any, lines: Iterable[str], as_json: bool) -> None:
    """The value as JSON with sorted keys, or the lines."""
    typer.echo(json.dumps(value, indent=2, sort_keys=True) if as_json else "\n".join(lines))


def chosen(name: str, format: str, root: Path | None, band: str, kind: str) -> tuple[Source, str, Path]:
    """The source, format and folder that the options mean: a known source, or a folder of the user's own.

    Raises:
        UnknownName: no such source or format.
        typer.BadParameter: neither a name nor both format and root were given, or band or kind do not exist.
    """
    if name:
        source = known_source(name)
        return source, format_of(source, format), root or default_root(source)
    if not format or root is None:
        raise typer.BadParameter(f"give a source ({', '.join(SOURCES)}), or both --format and --root")
    if band not in get_args(Band) or kind not in get_args(Kind):
        raise typer.BadParameter(f"--band is one of {', '.join(BANDS)}; --kind is one of {', '.join(KINDS)}")
    source = folder_source(format, root, band, kind)
    return source, format, root


def watched(items: Iterable[Sample | Rejected]) -> Iterator[Sample | Rejected]:
    """The items, with one moving line of progress where a person watches the terminal."""
    moving, number = sys.stderr.isatty(), 0
    for number, item in enumerate(items, start=1):
        if moving and number % 20 == 0:
            typer.echo(f"\r{number} records read", nl=False, err=True)
        yield item
    if moving and number >= 20:
        typer.echo("\r\033[K", nl=False, err=True)


@sources_app.command("list")
def list_sources(as_json: Json = False) -> None:
    """Every data set that can be read, its format, band, terms and folder, and whether that is there."""
    rows = [asdict(source) | {"present": default_root(source).is_dir()} for source in SOURCES.values()]
    lines = [
        f"{s.name:16}{s.band:5}{'/'.join((s.format, *s.alternatives)):20}{s.terms:38}"
        f"{'present' if row['present'] else 'absent':9}{default_root(s)}"
        for s, row in zip(SOURCES.values(), rows, strict=True)
    ]
    show(rows, lines, as_json)


@sources_app.command("check")
def check(
    name: Annotated[str, typer.Argument(help="A known source; leave it out with --format and --root.")] = "",
    format: Format = "",
    root: Root = None,
    band: BandOption = "tir",
    kind: KindOption = "scene",
    as_json: Json = False,
) -> None:
    """Whether a source is there and its first records can be read."""
    with told_errors():
        source, form, folder = chosen(name, format, root, band, kind)
        report = check_folder(source, folder, form)
        lines = [f"{key}: {value}" for key, value in report.items() if key != "message"]
        show(report, lines, as_json)
        if not report["readable"]:
            raise MissingData(report["message"])


@sources_app.command("read")
def read_folder(
    out: Out,
    format: Format = "",
    root: Root = None,
    name: Annotated[str, typer.Option("--source", help="A known source, for its band, kind and names.")] = "",
    band: BandOption = "tir",
    kind: KindOption = "scene",
    as_json: Json = False,
) -> None:
    """Read a raw folder into samples; what cannot be used goes to FILE.rejected.parquet with its reason."""
    with told_errors():
        source, form, folder = chosen(name, format, root, band, kind)
        account = store(watched(read(form, folder, source)), out)
        beside = str(rejected_file(out)) if account.rejected else ""
        report = asdict(account) | {
            "source": source.name,
            "format": form,
            "band": source.band,
            "kind": source.kind,
            "file": str(out),
            "rejected_file": beside,
            "rejected": dict(sorted(account.rejected.items())),
        }
        lines = [
            f"{out}: {account.samples} samples of {source.name} ({source.band}, {source.kind}), "
            f"{account.boxes} boxes, {account.captions} captions, {account.unannotated} without annotation",
            f"rejected: {account.rejected.total()}{f', see {beside}' if beside else ''}",
            *(f"  {count} {reason}" for reason, count in account.rejected.most_common()),
        ]
        show(report, lines, as_json)
        if not account.samples:
            raise MalformedFile(f"{folder}: no record could be used, {out} holds no sample")


@release_app.command("read")
def read_released(
    folder: Annotated[Path, typer.Argument(help="The folder with Recognition.json, Detection.json and so on.")],
    out: Out,
    as_json: Json = False,
) -> None:
    """Read the released questions into one table; repairs and rejected records are told."""
    with told_errors():
        records, rejected, repairs = read_release(folder)
        write_parquet(records, out)
        tasks = dict(sorted(Counter(record.task for record in records).items()))
        report = {
            "file": str(out),
            "records": tasks,
            "rejected": [asdict(item) for item in rejected],
            "repairs": [asdict(item) for item in repairs],
        }
        lines = [
            f"{out}: {len(records)} records",
            *(f"  {count:6} {task}" for task, count in tasks.items()),
            *(f"repaired {item.file}: {item.count} x {item.what}" for item in repairs),
            *(f"rejected {item.file}, {item.record}: {item.reason}: {item.detail}" for item in rejected),
        ]
        show(report, lines, as_json)


@app.command("readme")
def readme(
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit with 1 if README.md is stale.")] = False,
    costs: Annotated[bool, typer.Option("--costs/--keep-costs", help="Rewrite the costs, or leave them.")] = True,
) -> None:
    """Write the generated sections of README.md again: results, checks, claims, and what each stage costs.

    --check compares all but the costs, which no two runs share.
    """
    # pandas and torch take seconds to load, which no other command has to wait for
    from irgpt_lib import artifacts

    with told_errors():
        file = artifacts.root() / "README.md"
        old = file.read_text(encoding="utf-8")
        sections = {name: table_text(table) for name, table in README_TABLES.items()}
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


def cost_files() -> list[Path]:
    """What `irgpt_lib.run` wrote of the cost of every run of the study, in the order of its stages.

    Raises:
        MissingData: some are absent; the message lists them.
    """
    from irgpt_lib import artifacts, params

    try:
        runs = [artifacts.run_name(variant, seed) for variant, seed in params.runs()]
    except params.ParamsError as error:
        raise MalformedFile(str(error)) from error
    stems = [*SINGLE_RUN, *(f"{notebook}-{run}" for notebook in EACH_RUN for run in runs), *ALL_RUNS]
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
    below = f"Profile {', '.join(f'`{name}`' for name in sorted(profiles))} on {machine()}; last run on {day}."
    return f"{costs_table(records)}\n{below}\n"


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


if __name__ == "__main__":
    app()
