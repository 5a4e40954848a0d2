"""One door for raw folders: by a source's name, or by a format for a folder that the registry does not
know."""

import itertools
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from irgpt_lib.irtd.record import Band, Kind, Rejected, Sample
from irgpt_lib.irtd.sources.assembly import made
from irgpt_lib.irtd.sources.elpv import package_root
from irgpt_lib.irtd.sources.files import list_images
from irgpt_lib.irtd.sources.registry import SOURCES
from irgpt_lib.irtd.sources.source import UNKNOWN, Adapter, MalformedFile, MissingData, Pending, Reading, Source

RAW = Path("data/raw")
PROBED, LISTED = 3, 100


class UnknownName(LookupError):
    """No such source or format; the message lists those that exist."""

    def __str__(self) -> str:
        return str(self.args[0])


def adapters() -> dict[str, Adapter]:
    """`FORMATS`, loaded when it is first needed: some adapters bring libraries that take longer to load than all
    sources take to list."""
    from irgpt_lib.irtd.sources.formats import FORMATS

    return FORMATS


def known_source(name: str) -> Source:
    """The registered source.

    Raises:
        UnknownName: there is none; the message lists all.
    """
    if name not in SOURCES:
        raise UnknownName(f"no source is named {name!r}; known: {', '.join(SOURCES)}")
    return SOURCES[name]


def known_format(name: str) -> str:
    """The name itself.

    Raises:
        UnknownName: no adapter reads it; the message lists all.
    """
    if name not in adapters():
        raise UnknownName(f"no format is named {name!r}; known: {', '.join(adapters())}")
    return name


def format_of(source: Source, format: str = "") -> str:
    """The source's own format, or the asked one where the source also comes in it. A source whose format nobody
    knows may come in any.

    Raises:
        UnknownName: the source does not come in that format, or nobody knows in which and none is asked.
    """
    if source.format == UNKNOWN:
        if not format:
            raise UnknownName(no_adapter(source))
        return known_format(format)
    offered = (source.format, *source.alternatives)
    if format and known_format(format) not in offered:
        raise UnknownName(f"{source.name} does not come as {format!r}; it comes as {', '.join(offered)}")
    return format or source.format


def no_adapter(source: Source) -> str:
    """Why a source cannot be read yet, and how to bring it in."""
    return (
        f"{source.name}: no adapter, because the layout of {source.title} has not been seen. "
        f"{' '.join(source.doubts)} Once you have it, put it where `irgpt sources show {source.name}` says and name "
        f"the format that it resembles: --format {'|'.join(adapters())}"
    )


def default_root(source: Source, raw: Path = RAW) -> Path:
    """`raw/<folder>`; for a source that an installed package brings, that package where the folder is
    absent."""
    folder = raw / source.folder
    if source.extra == "elpv" and not folder.is_dir():
        return package_root() or folder
    return folder


def folder_source(format: str, root: Path, band: Band = "tir", kind: Kind = "scene") -> Source:
    """A source for a folder of the user's own: named as the folder, with nothing known but its format.

    Raises:
        UnknownName: no adapter reads the format.
    """
    known_format(format)
    expected = next(s.what_belongs_there for s in SOURCES.values() if format in (s.format, *s.alternatives))
    return Source(
        name=root.absolute().name or "folder",
        index=None,
        title=str(root),
        band=band,
        paired=False,
        task="unknown",
        format=format,
        folder=root.name,
        home="its owner",
        terms="unknown",
        what_belongs_there=expected,
        kind=kind,
    )


def without_duplicates(items: Iterable[Sample | Rejected]) -> Reading:
    """The items; a sample whose id came before is rejected, since ids name rows everywhere after."""
    first: dict[str, str] = {}
    for item in items:
        if isinstance(item, Sample) and item.sample_id in first:
            detail = f"{item.sample_id} was read before from {first[item.sample_id]}"
            yield Rejected(item.source, item.origin, item.sample_id, "duplicate id", detail)
            continue
        if isinstance(item, Sample):
            first[item.sample_id] = item.origin
        yield item


def read(format: str, root: Path, source: Source | None = None) -> Reading:
    """Stream a raw folder into the one schema; memory holds one image at a time.

    `source` is `None` for a folder of the user's own, read as thermal scenes (`folder_source` says
    otherwise). A broken record arrives as `Rejected`, in the place where its sample would have come.

    Raises:
        UnknownName: no adapter reads the format.
        MissingData, MalformedFile: at the first step of the iterator; see `FORMATS[format]`.
    """
    adapter = adapters()[known_format(format)]
    return without_duplicates(map(made, adapter(root, source or folder_source(format, root))))


def read_source(name: str, root: Path | None = None, format: str = "") -> tuple[list[Sample], list[Rejected]]:
    """All samples and all rejected records of a registered source, from its default root where none is given.

    Raises:
        UnknownName, MissingData, MalformedFile: see `read`.
    """
    source = known_source(name)
    items = list(read(format_of(source, format), root or default_root(source), source))
    return [i for i in items if isinstance(i, Sample)], [i for i in items if isinstance(i, Rejected)]


def first_records(source: Source, root: Path, format: str) -> tuple[list[Sample | Rejected], str]:
    """The first three records that can be opened, with those rejected before them, at most a hundred in all, and why
    there is no sample among them where the folder cannot be read."""
    probed: list[Sample | Rejected] = []
    opened = 0
    try:
        for found in itertools.islice(adapters()[format](root, source), LISTED):
            probed.append(made(found))
            opened += isinstance(found, Pending)
            if opened == PROBED:
                break
    except (MissingData, MalformedFile, OSError) as error:
        return probed, str(error)
    if any(isinstance(item, Sample) for item in probed):
        return probed, ""
    reasons = ", ".join(sorted({item.reason for item in probed if isinstance(item, Rejected)})) or "no record"
    return probed, f"{source.name}: {root}: none of the first {len(probed)} records can be used: {reasons}"


def completeness(source: Source, root: Path) -> bool | None:
    """Whether the folder holds what the registry states of a whole copy; `None` where it states nothing.

    More images than stated are complete too: masks and previews may lie beside them.
    """
    if not root.is_dir():
        return False
    whole = source.complete
    if whole is None:
        return None
    stated = whole.images or 0
    # stops counting at the stated number: a source can have more than a million files
    found = sum(1 for _ in itertools.islice(list_images(root), stated))
    return found == stated and all((root / path).exists() for path in whole.paths)


def overview(raw: Path = RAW) -> list[dict[str, Any]]:
    """`at_a_glance` of every source of the registry, in its order."""
    return [at_a_glance(source, default_root(source, raw)) for source in SOURCES.values()]


def at_a_glance(source: Source, root: Path) -> dict[str, Any]:
    """`source`, `root`, and whether it is `present`, `complete` and `readable`, `None` where that is not known.

    Files are opened only of a source that is present, and of that only the first records.
    """
    glance = {"source": source.name, "root": str(root), "present": root.is_dir(), "complete": False, "readable": False}
    if not glance["present"]:
        return glance
    readable = None if source.format == UNKNOWN else not first_records(source, root, source.format)[1]
    return glance | {"complete": completeness(source, root), "readable": readable}


def check_folder(source: Source, root: Path, format: str = "") -> dict[str, Any]:
    """Whether the folder is there, whole, and its first records can be read; a few files are opened, no more.

    Returns:
        `source`, `format`, `root`, `present`, `complete` (`None` where unknown), `readable`, `images` (image files
        below the root), `samples` and `rejected` (reason -> number) among the `first_records`, and `message`,
        empty where all is well.

    Raises:
        UnknownName: see `format_of`; that nobody knows the source's format is no error here but the message.
    """
    chosen = format_of(source, format) if format or source.format != UNKNOWN else UNKNOWN
    if chosen == UNKNOWN:
        probed, message = [], no_adapter(source)
    else:
        probed, message = first_records(source, root, chosen)
    rejected = Counter(item.reason for item in probed if isinstance(item, Rejected))
    samples = len(probed) - rejected.total()
    return {
        "source": source.name,
        "format": chosen,
        "root": str(root),
        "present": root.is_dir(),
        "complete": completeness(source, root),
        "readable": samples > 0,
        "images": sum(1 for _ in list_images(root)),
        "samples": samples,
        "rejected": dict(sorted(rejected.items())),
        "message": message,
    }


def check_source(name: str, root: Path | None = None, format: str = "") -> dict[str, Any]:
    """`check_folder` of a registered source, at its default root where none is given.

    Raises:
        UnknownName: there is no such source.
    """
    source = known_source(name)
    return check_folder(source, root or default_root(source), format)


def check_all(raw: Path = RAW) -> list[dict[str, Any]]:
    """`check_folder` of every source of the registry, in its order."""
    return [check_folder(source, default_root(source, raw)) for source in SOURCES.values()]
