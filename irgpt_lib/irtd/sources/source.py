"""What the study knows of one data set before it reads a file of it, and what may go wrong with a whole
folder."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from irgpt_lib.irtd.record import Band, Kind, Rejected, Sample

Access = Literal["open", "form", "agreement", "unknown"]
Route = Literal["IV", "V"]
Method = Literal["git", "url", "package", "manual"]
UNKNOWN = "unknown"


class MissingData(FileNotFoundError):
    """A source's folder is absent or holds nothing of its format; the message says what belongs there."""


class MalformedFile(ValueError):
    """A whole annotation file cannot be used; the message names the file, what is wrong and the cure."""


class NotAuthentic(ValueError):
    """A source that holds images which no infrared camera took stands where only authentic ones are allowed."""


@dataclass(frozen=True)
class Complete:
    """What a whole copy holds: `paths` below the folder that must exist, and the number of image files that its
    authors state, visible ones included; `None` where it is not known."""

    images: int | None = None
    paths: tuple[str, ...] = ()


@dataclass(frozen=True)
class Getting:
    """How the data come to this machine.

    `git`: the folder `path` of the repository `url` at the commit `rev`. `url`: one file, whose SHA-256 must be
    `sha256`; an archive is unpacked, and `path` is the folder in it that holds the data, all of it where empty.
    `package`: the Python package `package`. `manual`: by hand, from the source's home. `out` is the folder below the
    raw data root, the source's own where empty. `note` says what else a person has to know or do.
    """

    method: Method
    url: str = ""
    rev: str = ""
    path: str = ""
    out: str = ""
    sha256: str = ""
    package: str = ""
    note: str = ""


@dataclass(frozen=True)
class Source:
    """One data set: what its authors say of it and how the study reads it.

    `index` is the number in the release's list of sources (a range such as `32-50` for a group), `None` where the
    list lacks it. `format` and `alternatives` are keys of `FORMATS`; `format` is `unknown` where nobody has seen the
    layout. `folder` lies under the raw data root. `extra` is the project's optional dependency that brings the data,
    empty where none does. `kind` and `counted` become the samples' own: `counted` lists, first choice first, the
    categories whose instances are all annotated. `naming` is a key of `NAME_RULES`.

    `annotation` says in words what ships with the images; `size_listed` and `scale` are as the release states them;
    `paper` is an arXiv id. `band_doubtful` marks a band that is assumed. `keep_every` keeps frames 0, k, 2k ... of a
    video. `authentic` is false where images were generated, rendered or composed, in part or all. `route` is the
    caption path of Fig. 3a: `IV` describes the visible mate, `V` writes rules over labels. `categories` are the
    classes that the authors annotate. `doubts` are sentences on what is unknown or contradictory. `get` lists the
    parts in which the data come.
    """

    name: str
    index: int | str | None
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
    band_doubtful: bool = False
    annotation: str = UNKNOWN
    size_listed: str = ""
    scale: str = ""
    paper: str = ""
    access: Access = "unknown"
    keep_every: int = 1
    authentic: bool = True
    route: Route = "V"
    categories: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    complete: Complete | None = None
    get: tuple[Getting, ...] = ()

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
