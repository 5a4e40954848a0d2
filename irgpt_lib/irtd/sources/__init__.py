"""Raw infrared data sets, one adapter a format, into the one schema of `irgpt_lib.irtd.record`."""

from typing import Any

from irgpt_lib.irtd.sources.boxes import warp_box
from irgpt_lib.irtd.sources.reading import UnknownName, check_source, default_root, read, read_source
from irgpt_lib.irtd.sources.registry import SOURCES
from irgpt_lib.irtd.sources.source import MalformedFile, MissingData, Source

__all__ = [
    "FORMATS",
    "SOURCES",
    "MalformedFile",
    "MissingData",
    "Source",
    "UnknownName",
    "check_source",
    "default_root",
    "read",
    "read_source",
    "warp_box",
]


def __getattr__(name: str) -> Any:
    """`FORMATS` is loaded when it is first asked for: its adapters take longer to load than all sources to list."""
    if name != "FORMATS":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from irgpt_lib.irtd.sources.formats import FORMATS

    return FORMATS
