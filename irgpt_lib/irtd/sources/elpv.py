"""ELPV: electroluminescence images of solar cells, 300 x 300 pixels, as the package `elpv-dataset` brings
them.

The package's own loader reads all images into one array; here `labels.csv` is read line by line instead.
"""

import math
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from irgpt_lib.irtd.captions import CELL_TYPES
from irgpt_lib.irtd.record import RecordError, Sample
from irgpt_lib.irtd.sources.assembly import Annotation, annotated_sample, attempt, relative
from irgpt_lib.irtd.sources.files import inside, list_images, read_text
from irgpt_lib.irtd.sources.source import Found, Source

PACKAGE = "elpv_dataset"


def package_root() -> Path | None:
    """The data folder of the installed package, `None` where it is not installed."""
    spec = find_spec(PACKAGE)
    folders = list(spec.submodule_search_locations or []) if spec else []
    return Path(folders[0], "data") if folders else None


def cell_sample(source: Source, root: Path, line: str) -> Sample:
    """One line `path probability type`. The defect probability (0-1) and the cell type become facts.

    Raises:
        RecordError: `malformed line`, or a reason of the image.
    """
    fields = line.split()
    if len(fields) != 3 or fields[2] not in CELL_TYPES:
        raise RecordError("malformed line", f"expected `path probability {'|'.join(CELL_TYPES)}`, found {line!r}")
    name, stated, cell_type = fields
    try:
        probability = float(stated)
    except ValueError as error:
        raise RecordError("malformed line", f"{name}: {stated!r:.60} is no probability") from error
    if not math.isfinite(probability) or not 0 <= probability <= 1:
        raise RecordError("malformed line", f"{name}: the probability {stated} lies outside 0-1")
    image = inside(root, name)
    if not image.is_file():
        raise RecordError("missing image", name)
    sample = annotated_sample(source, root, image, Annotation())
    facts = {"defect_probability": f"{probability:.4f}", "cell_type": cell_type}
    return replace(sample, facts=sample.facts | facts)


def named_image(root: Path, line: str) -> Path | None:
    """The image that a line names, `None` where it names none."""
    try:
        return inside(root, line.split()[0])
    except RecordError:
        return None


def read_elpv(root: Path, source: Source) -> Found:
    """One sample a line of `labels.csv`, then the images that no line names, without facts. Which cells share a solar
    module is not stated, so each is its own group.

    Raises:
        MissingData: no folder or no `labels.csv`.
        MalformedFile: `labels.csv` is not UTF-8.
    """
    labels = root / "labels.csv"
    if not labels.is_file():
        raise source.missing(root, "no labels.csv" if root.is_dir() else "no such folder")
    named = set()
    for number, line in enumerate(read_text(labels).splitlines(), start=1):
        if line.strip():
            named.add(named_image(root, line))
            yield attempt(source, "labels.csv", f"line {number}", partial(cell_sample, source, root, line))
    for image in list_images(root):
        if image not in named:
            build = partial(annotated_sample, source, root, image, None)
            yield attempt(source, relative(image, root), image.stem, build)
