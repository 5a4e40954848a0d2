"""Annotations as lines of text, one file a record or a sequence."""

from collections.abc import Sequence
from pathlib import Path

from irgpt_lib.irtd.record import RecordError
from irgpt_lib.irtd.sources.files import MAX_RECORD_BYTES, read_bytes


def read_lines(file: Path) -> list[str]:
    """The lines of a text file without blanks around, those at its end that are empty left out.

    Raises:
        RecordError: the reasons of `read_bytes`, or `not UTF-8 text`.
    """
    try:
        text = read_bytes(file, MAX_RECORD_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecordError("not UTF-8 text", f"{file}: at byte {error.start}; convert it to UTF-8") from error
    return [line.strip() for line in text.rstrip().splitlines()]


def numbers(fields: Sequence[str], where: str) -> list[float]:
    """The fields as numbers, NaN and infinity among them.

    Raises:
        RecordError: `unreadable box` where a field is no number; `where` names the line in the detail.
    """
    try:
        return [float(field) for field in fields]
    except ValueError as error:
        raise RecordError("unreadable box", f"{where}: {' '.join(fields)}") from error
