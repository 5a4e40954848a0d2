"""Raw infrared data sets, one adapter a format, into the one schema of `irgpt_lib.irtd.record`."""

from irgpt_lib.irtd.sources.boxes import warp_box
from irgpt_lib.irtd.sources.formats import FORMATS
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
