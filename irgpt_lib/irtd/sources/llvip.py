"""LLVIP: `infrared/` and `visible/` hold the same names, pixel for pixel; `Annotations/` holds Pascal VOC
files."""

from functools import partial
from pathlib import Path

from irgpt_lib.irtd.record import RecordError, Rejected, Sample
from irgpt_lib.irtd.sources.assembly import annotated_sample, attempt, relative, with_facts
from irgpt_lib.irtd.sources.files import MAX_RECORD_BYTES, list_images, read_bytes, read_image
from irgpt_lib.irtd.sources.source import Found, Source
from irgpt_lib.irtd.sources.voc import parse_voc


def pair_sample(source: Source, root: Path, image: Path) -> Sample:
    """One infrared image with its visible mate, and its boxes where `Annotations/` has them.

    Raises:
        RecordError: `missing visible mate`, `size mismatch` between the two, or a reason of the parts.
    """
    mate = root / "visible" / image.relative_to(root / "infrared")
    if not mate.is_file():
        raise RecordError("missing visible mate", relative(mate, root))
    visible, width, height = read_image(mate)
    file = root / "Annotations" / f"{image.stem}.xml"
    annotation = parse_voc(read_bytes(file, MAX_RECORD_BYTES), file.name)[1] if file.is_file() else None
    sample = annotated_sample(source, root, image, annotation, visible=visible)
    if (sample.width, sample.height) != (width, height):
        raise RecordError("size mismatch", f"visible {width}x{height}, infrared {sample.width}x{sample.height}")
    return with_facts(sample, visible_frame="aligned")


def read_llvip(root: Path, source: Source) -> Found:
    """One sample a pair; an annotation without its image is rejected.

    Raises:
        MissingData: no folder or no infrared image.
    """
    if not root.is_dir():
        raise source.missing(root, "no such folder")
    stems = set()
    for image in list_images(root / "infrared"):
        stems.add(image.stem)
        yield attempt(source, relative(image, root), image.stem, partial(pair_sample, source, root, image))
    if not stems:
        raise source.missing(root, "no image in infrared/")
    for file in sorted((root / "Annotations").glob("*.xml")):
        if file.stem not in stems:
            detail = f"infrared/ has no image {file.stem}"
            yield Rejected(source.name, relative(file, root), file.stem, "missing image", detail)
