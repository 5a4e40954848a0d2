"""LLVIP: `infrared/` and `visible/` hold the same names, pixel for pixel; `Annotations/` holds Pascal VOC
files."""

from functools import partial
from pathlib import Path

from irgpt_lib.irtd.record import RecordError, Rejected, Sample
from irgpt_lib.irtd.sources.assembly import (
    annotated_sample,
    attempt,
    by_stem,
    relative,
    unmatched,
    with_aligned_mate,
)
from irgpt_lib.irtd.sources.files import MAX_RECORD_BYTES, is_there, list_files, list_images, read_bytes
from irgpt_lib.irtd.sources.source import Found, Source
from irgpt_lib.irtd.sources.voc import parse_voc


def pair_sample(source: Source, root: Path, image: Path, file: Path | None) -> Sample:
    """One infrared image with its visible mate and the boxes of its XML file, where it has one.

    Raises:
        RecordError: `missing visible mate`, or a reason of the parts.
    """
    mate = root / "visible" / image.relative_to(root / "infrared")
    if not is_there(mate):
        raise RecordError("missing visible mate", relative(mate, root))
    annotation = parse_voc(read_bytes(file, MAX_RECORD_BYTES), relative(file, root))[1] if file else None
    return with_aligned_mate(annotated_sample(source, root, image, annotation), mate)


def read_llvip(root: Path, source: Source) -> Found:
    """One sample a pair; a visible image or an annotation without its infrared image is rejected.

    Raises:
        MissingData: no folder or no infrared image.
    """
    if not root.is_dir():
        raise source.missing(root, "no such folder")
    files, repeated = by_stem(source, root, list_files(root / "Annotations", {".xml"}))
    stems = set()
    for image in list_images(root / "infrared"):
        stems.add(image.stem)
        build = partial(pair_sample, source, root, image, files.get(image.stem))
        yield attempt(source, relative(image, root), image.stem, build)
    if not stems:
        raise source.missing(root, "no image in infrared/")
    yield from repeated
    yield from unmatched(source, root, files.values(), stems, "missing image", "infrared/ has no image")
    for mate in list_images(root / "visible"):
        image = root / "infrared" / mate.relative_to(root / "visible")
        if not is_there(image):
            detail = f"no {relative(image, root)}"
            yield Rejected(source.name, relative(mate, root), mate.stem, "missing infrared image", detail)
