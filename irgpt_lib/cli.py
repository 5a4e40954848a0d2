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
from typer.core import TyperGroup

from irgpt_lib.irtd.record import BANDS, KINDS, Band, Kind, RecordError, Rejected, Sample
from irgpt_lib.irtd.release import read_release, write_parquet
from irgpt_lib.irtd.release_check import (
    FLIR_DATASET,
    compare_all,
    dataset_folders,
    dataset_of,
    frames_folder,
    frames_of,
    full_report,
    locate_images,
    report_lines,
    write_manifest,
)
from irgpt_lib.irtd.sources import (
    SOURCES,
    MalformedFile,
    MissingData,
    Source,
    UnknownName,
    default_root,
    read,
)
from irgpt_lib.irtd.sources.getting import GettingError, get_source
from irgpt_lib.irtd.sources.reading import (
    RAW,
    at_a_glance,
    check_all,
    check_folder,
    folder_source,
    format_of,
    known_source,
    overview,
)
from irgpt_lib.irtd.sources.source import UNKNOWN
from irgpt_lib.irtd.sources.storing import rejected_file, store


class ContextGroup(TyperGroup):
    """A group whose callback gets the context that its annotation promises; typer's own passes click's."""

    context_class = typer.Context


app = typer.Typer(help="IRGPT and IR-TD from the shell.", no_args_is_help=True, pretty_exceptions_enable=False)
sources_app = typer.Typer(help="Raw infrared data sets.", invoke_without_command=True, cls=ContextGroup)
release_app = typer.Typer(help="The released IR-TD instruction set.", no_args_is_help=True)
app.add_typer(sources_app, name="sources")
app.add_typer(release_app, name="release")

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")]
Format = Annotated[str, typer.Option("--format", help="The folder's format; `irgpt sources list` shows which exist.")]
Root = Annotated[Path | None, typer.Option("--root", help="The raw folder; a known source has data/raw/<folder>.")]
RawRoot = Annotated[Path, typer.Option("--raw", help="The folder that holds the folders of all sources.")]
SourceName = Annotated[str, typer.Argument(help="A known source; `irgpt sources` lists them.")]
BandOption = Annotated[str, typer.Option("--band", help="Band of a folder that is no known source.")]
KindOption = Annotated[str, typer.Option("--kind", help="Kind of a folder that is no known source.")]
Out = Annotated[Path, typer.Option("--out", help="The Parquet file to write.")]

# A generated section of README.md and the table that it shows.
README_TABLES = {"results": "tables/headline.md", "checks": "tables/checks.md", "claims": "tables/claims.md"}
SINGLE_RUN = ("00_base", "01_dataset", "02_features", "03_difficulty")
EACH_RUN = ("04_train", "05_evaluate")
ALL_RUNS = ("06_ablations", "07_tables")
SOURCE_COLUMNS = ("index", "name", "band", "format", "access", "present", "complete", "readable")
FORESEEN = (MissingData, MalformedFile, UnknownName, GettingError, RecordError, OSError, typer.BadParameter)
COSTS = ("wall_s", "cpu_s", "peak_mb")


@contextmanager
def told_errors() -> Iterator[None]:
    """Foreseen errors become one message on stderr and exit code 2; anything else is a defect and keeps its
    trace."""
    try:
        yield
    except FORESEEN as error:
        typer.echo(f"irgpt: {error}", err=True)
        raise typer.Exit(2) from None


def show(value: Any, lines: Iterable[str], as_json: bool) -> None:
    """The value as JSON with sorted keys, or the lines."""
    typer.echo(json.dumps(value, indent=2, sort_keys=True) if as_json else "\n".join(lines))


def chosen(
    name: str, format: str, root: Path | None, band: str, kind: str, raw: Path = RAW
) -> tuple[Source, str, Path]:
    """The source, format and folder that the options mean: a known source, or a folder of the user's own.

    Raises:
        UnknownName: no such source or format.
        typer.BadParameter: neither a name nor both format and root were given, or band or kind do not exist.
    """
    if name:
        source = known_source(name)
        return source, format_of(source, format), root or default_root(source, raw)
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


@sources_app.callback()
def sources(context: typer.Context, raw: RawRoot = RAW, as_json: Json = False) -> None:
    """Raw infrared data sets; without a command, the list."""
    if context.invoked_subcommand is None:
        list_sources(raw, as_json)


@sources_app.command("list")
def list_sources(raw: RawRoot = RAW, as_json: Json = False) -> None:
    """Every data set of IR-TD: its index, band, format and access, and whether it is present, complete, readable."""
    with told_errors():
        rows = [registered(glance) for glance in overview(raw)]
        rows.sort(key=lambda row: (row["index"] is None, int(str(row["index"] or 0).partition("-")[0])))
        show(rows, source_table(rows), as_json)


def registered(glance: dict[str, Any]) -> dict[str, Any]:
    """What is known of a source and what its folder shows; `whole` is what a complete copy holds."""
    known = asdict(SOURCES[glance["source"]])
    return known | {"whole": known["complete"]} | {key: glance[key] for key in glance if key != "source"}


def source_table(rows: list[dict[str, Any]]) -> list[str]:
    """A header and one line a source, in columns as wide as they need."""
    cells = [[spoken((row | {"index": row["index"] or "-"})[key]) for key in SOURCE_COLUMNS] for row in rows]
    table = [list(SOURCE_COLUMNS), *cells]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]


def spoken(value: Any) -> str:
    """A fact in one line: `yes`, `no` or `unknown`, lists by commas, tables as `key value` pairs without what is
    empty."""
    if value is None or isinstance(value, bool):
        return {True: "yes", False: "no", None: "unknown"}[value]
    if isinstance(value, dict):
        return ", ".join(f"{key} {spoken(part)}" for key, part in value.items() if part not in (None, "", ()))
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


@sources_app.command("show")
def show_source(name: SourceName, raw: RawRoot = RAW, as_json: Json = False) -> None:
    """Everything that is known of a source, its doubts included, and where it belongs."""
    with told_errors():
        source = known_source(name)
        facts = registered(at_a_glance(source, default_root(source, raw)))
        lines = [
            f"{key}: {spoken(value)}"
            for key, value in facts.items()
            if key not in ("get", "doubts") and value not in ("", ()) and (key, value) != ("index", None)
        ]
        lines += [f"get: {spoken(asdict(way))}" for way in source.get]
        lines += [f"doubt: {doubt}" for doubt in source.doubts]
        show(facts, lines, as_json)


@sources_app.command("get")
def get(name: SourceName, raw: RawRoot = RAW) -> None:
    """Bring a source here: by DVC where it is pinned, else by what a person has to do (then the exit code is 2)."""
    with told_errors():
        by_hand = False
        for part in get_source(known_source(name), raw):
            typer.echo(part.told)
            by_hand = by_hand or not part.done
    if by_hand:
        raise typer.Exit(2)


@sources_app.command("check")
def check(
    name: Annotated[str, typer.Argument(help="A known source; leave it out for all, or with --format, --root.")] = "",
    format: Format = "",
    root: Root = None,
    band: BandOption = "tir",
    kind: KindOption = "scene",
    raw: RawRoot = RAW,
    as_json: Json = False,
) -> None:
    """Whether a source is there, whole, and its first records can be read; without a name, of all sources."""
    with told_errors():
        if not name and not format and root is None:
            check_every_source(raw, as_json)
            return
        source, form, folder = chosen(name, format, root, band, kind, raw)
        report = check_folder(source, folder, form)
        lines = [f"{key}: {value}" for key, value in report.items() if key != "message"]
        show(report, lines, as_json)
        if not report["readable"]:
            raise MissingData(report["message"])


def check_every_source(raw: Path, as_json: bool) -> None:
    """All sources; that one is absent is no fault, that one is present and cannot be read is.

    Raises:
        MalformedFile: the sources that are there and cannot be read.
    """
    reports = check_all(raw)
    lines = [
        f"{r['source']}: {'present' if r['present'] else 'absent'}, complete: {spoken(r['complete'])}, "
        f"{'readable' if r['readable'] else 'not readable'}, {r['images']} images"
        + (f": {r['message']}" if r["message"] and r["present"] else "")
        for r in reports
    ]
    unread = [r["source"] for r in reports if r["format"] == UNKNOWN]
    lines.append(f"no adapter yet, see `irgpt sources show`: {', '.join(unread)}")
    show(reports, lines, as_json)
    faulty = [r["source"] for r in reports if r["present"] and not r["readable"]]
    if faulty:
        raise MalformedFile(f"{', '.join(faulty)}: present and not readable; `irgpt sources check NAME` says why")


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


@release_app.command("check")
def check_released(
    folder: Annotated[Path, typer.Argument(help="The folder with Recognition.json, Detection.json and so on.")],
    flir: Annotated[Path | None, typer.Option("--flir", help="The FLIR ADAS folder: boxes to check against.")] = None,
    format: Annotated[str, typer.Option("--format", help="The format of --flir; flir_csv where none is given.")] = "",
    images: Annotated[Path | None, typer.Option("--images", help="Holds folders named as in the release.")] = None,
    manifest: Annotated[Path | None, typer.Option("--manifest", help="JSON lines of what was found, to write.")] = None,
    as_json: Json = False,
) -> None:
    """Whether the released answers follow from the boxes of their frames, can be read, and have their images here."""
    with told_errors():
        records, *_ = read_release(folder)
        frames, rejected = frames_of(flir, format) if flir else ({}, [])
        folders = dataset_folders(images, {dataset_of(record) for record in records}) if images else {}
        if flir:
            folders[FLIR_DATASET] = frames_folder(flir)
        located = list(locate_images(records, folders))
        report = full_report(records, compare_all(records, frames), located, rejected)
        if manifest:
            report["manifest"] = {"file": str(manifest), "records": write_manifest(located, manifest)}
        show(report, report_lines(report), as_json)


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
