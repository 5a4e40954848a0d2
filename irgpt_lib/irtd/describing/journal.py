"""The journal of a describer: one line of JSON a reply, with all that was asked, only ever appended to.

A line counts once its line feed is on disk. What a killed process left of its last line is cut off when the journal is
opened next; the reply in it had been given to no one.
"""

import fcntl
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pydantic import BaseModel, ConfigDict, ValidationError
from tqdm import tqdm

JOURNAL = "journal.jsonl"
LOCK = "journal.lock"


class JournalBusy(RuntimeError):
    """Another process writes this journal."""


class JournalDamaged(ValueError):
    """A line of the journal cannot be used; the message names the file, the line and the cure."""


class Entry(BaseModel):
    """One request and its reply. `image` is the SHA-256 of the image, empty where there was none."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    key: str
    model: str
    decoding: dict[str, float | int]
    system: str
    prompt: str
    image: str
    text: str = ""
    finish: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0


class Journal:
    """An open journal: the entries by key, and a way to add more."""

    def __init__(self, file: Path, stream: BinaryIO) -> None:
        self.file = file
        self.entries = read_entries(file)
        self._stream = stream

    def append(self, entries: Sequence[Entry]) -> None:
        """Write these entries and wait until they are on disk."""
        if not entries:
            return
        lines = [json.dumps(entry.model_dump(), sort_keys=True, ensure_ascii=False) + "\n" for entry in entries]
        self._stream.write("".join(lines).encode())
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self.entries.update({entry.key: entry for entry in entries})


@contextmanager
def opened(folder: Path) -> Iterator[Journal]:
    """The journal in `folder`, made where there is none, held against every other writer.

    Raises:
        JournalBusy: another process, or another run in this one, holds it.
        JournalDamaged: see `read_entries`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise JournalBusy(f"{folder}: another run writes this journal; wait for it or end it") from error
        file = folder / JOURNAL
        with open(file, "ab") as stream:
            yield Journal(file, stream)


def read_entries(file: Path) -> dict[str, Entry]:
    """All entries by key. A torn last line is cut off the file, and the standard error stream says so.

    Raises:
        JournalDamaged: a line is no entry, or a key stands in two lines.
    """
    entries: dict[str, Entry] = {}
    read = 0
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                os.truncate(file, read)
                tqdm.write(f"{file}: cut {len(line)} bytes of a last line that was never finished", file=sys.stderr)
                break
            read += len(line)
            try:
                entry = Entry.model_validate_json(line)
            except ValidationError as error:
                problem = error.errors()[0]
                where = ".".join(map(str, problem["loc"]))
                raise JournalDamaged(
                    f"{file}, line {number}: {f'{where}: ' if where else ''}{problem['msg']}; remove this line, and "
                    "its request is sent again"
                ) from None
            if entry.key in entries:
                raise JournalDamaged(f"{file}, line {number}: a second reply to {entry.key}; remove one of the two")
            entries[entry.key] = entry
    return entries
