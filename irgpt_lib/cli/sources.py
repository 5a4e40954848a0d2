"""`irgpt sources`: the raw infrared data sets, listed, brought here, checked and read."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from typer.core import TyperGroup

from irgpt_lib.cli.telling import Json, Out, show, spoken, told_errors, watched
from irgpt_lib.irtd.record import BANDS, KINDS, Band, Kind
from irgpt_lib.irtd.sources import SOURCES, MalformedFile, MissingData, Source, default_root, read
from irgpt_lib.irtd.sources.getting import get_source
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


app = typer.Typer(help="Raw infrared data sets.", invoke_without_command=True, cls=ContextGroup)

Format = Annotated[str, typer.Option("--format", help="The folder's format; `irgpt sources list` shows which exist.")]
Root = Annotated[Path | None, typer.Option("--root", help="The raw folder; a known source has data/raw/<folder>.")]
RawRoot = Annotated[Path, typer.Option("--raw", help="The folder that holds the folders of all sources.")]
SourceName = Annotated[str, typer.Argument(help="A known source; `irgpt sources` lists them.")]
BandOption = Annotated[str, typer.Option("--band", help="Band of a folder that is no known source.")]
KindOption = Annotated[str, typer.Option("--kind", help="Kind of a folder that is no known source.")]

SOURCE_COLUMNS = ("index", "name", "band", "format", "access", "present", "complete", "readable")


@app.callback()
def sources(context: typer.Context, raw: RawRoot = RAW, as_json: Json = False) -> None:
    """Raw infrared data sets; without a command, the list."""
    if context.invoked_subcommand is None:
        list_sources(raw, as_json)


@app.command("list")
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


@app.command("show")
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


@app.command("get")
def get(name: SourceName, raw: RawRoot = RAW) -> None:
    """Bring a source here: by DVC where it is pinned, else by what a person has to do (then the exit code is 2)."""
    with told_errors():
        by_hand = False
        for part in get_source(known_source(name), raw):
            typer.echo(part.told)
            by_hand = by_hand or not part.done
    if by_hand:
        raise typer.Exit(2)


@app.command("check")
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


@app.command("read")
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
