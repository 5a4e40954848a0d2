"""What the study knows of one data set before it reads a file of it, and what may go wrong with a whole
folder."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from irgpt_lib.irtd.record import Band, Kind, Rejected, Sample


class MissingData(FileNotFoundError):
    """A source's folder is absent or holds nothing of its format; the message says what belongs there."""


class MalformedFile(ValueError):
    """A whole annotation file cannot be used; the message names the file, what is wrong and the cure."""


@dataclass(frozen=True)
class Source:
    """One data set: what its authors say of it and how the study reads it.

    `index` is the number in the release's list of sources, `None` where the list lacks it. `format` and
    `alternatives` are keys of `FORMATS`. `folder` lies under the raw data root. `extra` is the project's
    optional dependency that brings the data, empty where none does. `kind` and `counted` become the samples'
    own: `counted` lists, first choice first, the categories whose instances are all annotated. `naming` is a
    key of `NAME_RULES`.
    """

    name: str
    index: int | None
    title: str
    band: Band
    paired: bool
    task: str
    format: str
    folder: str
    home: str
    terms: str
    what_belongs_there: str
    extra: str = ""
    alternatives: tuple[str, ...] = ()
    kind: Kind = "scene"
    counted: tuple[str, ...] = ()
    naming: str = ""

    def missing(self, root: Path, found: str) -> MissingData:
        """The error for a folder without this source: where it looked, what belongs there, terms and
        origin."""
        install = f" or install the optional extra {self.extra!r}" if self.extra else ""
        return MissingData(
            f"{self.name}: {root}: {found}. Expected: {self.what_belongs_there}. "
            f"Get it from {self.home}{install}. Terms: {self.terms}."
        )


@dataclass(frozen=True)
class Pending:
    """A raw record that an adapter has found and not yet read: `build` opens its files and makes the sample."""

    source: str
    file: str
    record: str
    build: Callable[[], Sample]


Found = Iterator[Pending | Rejected]
Reading = Iterator[Sample | Rejected]
Adapter = Callable[[Path, Source], Found]
