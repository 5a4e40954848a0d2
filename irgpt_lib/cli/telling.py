"""How every command tells what it found: lines or JSON, one message for a foreseen error, progress for who watches."""

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from irgpt_lib.irtd.record import RecordError, Rejected
from irgpt_lib.irtd.sources import MalformedFile, MissingData, UnknownName
from irgpt_lib.irtd.sources.getting import GettingError

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")]
Out = Annotated[Path, typer.Option("--out", help="The Parquet file to write.")]
FORESEEN = (MissingData, MalformedFile, UnknownName, GettingError, RecordError, OSError, typer.BadParameter)
Item = TypeVar("Item")


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


def spoken(value: Any) -> str:
    """A fact in one line: `yes`, `no` or `unknown`, lists by commas, tables as `key value` pairs without what is
    empty."""
    if value is None or isinstance(value, bool):
        return {True: "yes", False: "no", None: "unknown"}[value]
    if isinstance(value, dict):
        return ", ".join(f"{key} {spoken(part)}" for key, part in value.items() if part not in (None, "", ()))
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def told(bad: Rejected) -> str:
    """One problem in a line."""
    return f"{bad.file}, {bad.record}: {bad.reason}{f': {bad.detail}' if bad.detail else ''}"


def watched(items: Iterable[Item]) -> Iterator[Item]:
    """The items, with one moving line of progress where a person watches the terminal."""
    moving, number = sys.stderr.isatty(), 0
    for number, item in enumerate(items, start=1):
        if moving and number % 20 == 0:
            typer.echo(f"\r{number} records read", nl=False, err=True)
        yield item
    if moving and number >= 20:
        typer.echo("\r\033[K", nl=False, err=True)
