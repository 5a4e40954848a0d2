"""`irgpt`: the library's functions from the shell. Errors leave with code 2 and one message on stderr."""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
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
    """Every data set that can be read, its format, band, folder and terms."""
    rows = [asdict(source) for source in SOURCES.values()]
    lines = [
        f"{s.name:16}{s.band:5}{'/'.join((s.format, *s.alternatives)):20}{s.terms:34}{default_root(s)}"
        for s in SOURCES.values()
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


if __name__ == "__main__":
    app()
