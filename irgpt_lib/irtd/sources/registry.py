"""The data sets of IR-TD: `registry.toml`, strictly read.

Index numbers, titles and tasks follow the release's own list (`docs/source_datasets.md` of
WheatCao/ICCV2025-IRGPT); what is not known is marked `unknown`, what disagrees stands in `doubts`. A further data set
in a known format is one entry of the file.
"""

import json
import tomllib
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from irgpt_lib.irtd.record import RecordError
from irgpt_lib.irtd.sources.files import inside
from irgpt_lib.irtd.sources.source import UNKNOWN, Getting, MalformedFile, NotAuthentic, Source

FILE = "registry.toml"
SIMULATED = "simulated"
COMMIT_DIGITS = 40
SHA256_DIGITS = 64
REQUIRED = {"git": ("url", "rev", "path"), "url": ("url", "sha256"), "package": ("package",), "manual": ()}
SOURCE = TypeAdapter(Source)


def parse_registry(text: str, where: str = FILE) -> dict[str, Source]:
    """The sources of a registry file by name, in its order.

    Raises:
        MalformedFile: no valid TOML, an unknown key, a value of the wrong type, a name or folder twice, a format that
            the list `formats` lacks, or a source that cannot be got as its entry says; the message names the source
            and the key.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise MalformedFile(f"{where}: not valid TOML: {error}") from error
    entries, formats = content.get("source"), content.get("formats")
    if set(content) != {"source", "formats"} or not isinstance(entries, list) or not isinstance(formats, list):
        raise MalformedFile(f"{where}: expected the list `formats` and entries [[source]], found {sorted(content)}")
    sources: dict[str, Source] = {}
    for number, entry in enumerate(entries, start=1):
        source = read_entry(entry, f"{where}: source {number}")
        place = f"{where}: {source.name}"
        if source.name in sources or source.folder in {known.folder for known in sources.values()}:
            raise MalformedFile(f"{place}: name or folder {source.folder!r} stands twice")
        if unknown := {source.format, *source.alternatives} - {*formats, UNKNOWN}:
            raise MalformedFile(f"{place}: no such format: {sorted(unknown)}; known: {', '.join(map(str, formats))}")
        check_values(source, place)
        sources[source.name] = source
    return sources


def read_entry(entry: object, where: str) -> Source:
    """One `[[source]]` table.

    Raises:
        MalformedFile: the keys that are unknown, missing or of the wrong type.
    """
    try:
        table = {"index": None, **entry} if isinstance(entry, Mapping) else entry
        # JSON, because strict checking of Python values would refuse its lists and tables for tuples and dataclasses
        return SOURCE.validate_json(json.dumps(table), strict=True, extra="forbid")
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        name = f" ({entry['name']})" if isinstance(entry, Mapping) and "name" in entry else ""
        raise MalformedFile(f"{where}{name}: {faults}") from error
    except TypeError as error:
        raise MalformedFile(f"{where}: {error}") from error


def check_values(source: Source, where: str) -> None:
    """What a type cannot say.

    Raises:
        MalformedFile: a folder or path that leaves the raw data root, a step below 1, a way of getting that lacks
            what it needs.
    """
    if source.keep_every < 1:
        raise MalformedFile(f"{where}: keep_every is {source.keep_every}; 1 keeps every frame")
    if source.format == UNKNOWN and not source.doubts:
        raise MalformedFile(f"{where}: an unknown format needs `doubts` that say what is not known")
    expected = source.complete.paths if source.complete else ()
    outs = [getting.out for getting in source.get if getting.out]
    try:
        for path in (source.folder, *expected, *outs):
            inside(Path("raw"), path)
    except RecordError as error:
        raise MalformedFile(f"{where}: {error}") from error
    for getting in source.get:
        check_getting(getting, where)


def check_getting(getting: Getting, where: str) -> None:
    """Refuse a way of getting that lacks what its method needs, or whose pin is no full hash."""
    if lacking := [key for key in REQUIRED[getting.method] if not getattr(getting, key)]:
        raise MalformedFile(f"{where}: get by {getting.method} needs {', '.join(lacking)}")
    for key, digits in (("rev", COMMIT_DIGITS), ("sha256", SHA256_DIGITS)):
        pin = getattr(getting, key)
        if pin and (len(pin) != digits or set(pin) - set("0123456789abcdef")):
            raise MalformedFile(f"{where}: get.{key} {pin!r} is not {digits} hexadecimal digits")


def refuse_synthetic(names: Iterable[str]) -> None:
    """Let only sources pass whose every image an infrared camera took (the authenticity principle of section 3.1).

    A name that is neither registered nor the embedded world's is left to whoever reads it.

    Raises:
        NotAuthentic: some are not; the message lists them.
    """
    synthetic = [name for name in names if name == SIMULATED or (name in SOURCES and not SOURCES[name].authentic)]
    if synthetic:
        raise NotAuthentic(
            f"not authentic: {', '.join(synthetic)}: they hold images that no infrared camera took; leave them out of "
            "dataset.sources or set dataset.authentic_only to false"
        )


SOURCES: dict[str, Source] = parse_registry(files("irgpt_lib.irtd.sources").joinpath(FILE).read_text(encoding="utf-8"))
