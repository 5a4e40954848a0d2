"""Pascal VOC: one XML file an image."""

from functools import partial
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from irgpt_lib.irtd.record import Box, RecordError, Sample
from irgpt_lib.irtd.sources.assembly import (
    NOT_OBJECTS,
    Annotation,
    annotated_sample,
    attempt,
    by_stem,
    plain_category,
    relative,
    tally,
)
from irgpt_lib.irtd.sources.boxes import make_box
from irgpt_lib.irtd.sources.files import MAX_RECORD_BYTES, first_folder, inside, list_images, read_bytes
from irgpt_lib.irtd.sources.source import Reading, Source

ANNOTATION_FOLDERS = ("Annotations", "annotations", "voc", "normal_xml/Annotations")
IMAGE_FOLDERS = ("infrared", "JPEGImages", "images", "normal_xml/JPEGImages")


def parse_voc(data: bytes, where: str) -> tuple[str, Annotation]:
    """The file name that the XML states (empty where it states none) and its annotation.

    Raises:
        RecordError: `unsafe XML` (a document type or an entity), `malformed XML`, or a reason of a box.
    """
    try:
        tree = fromstring(data, forbid_dtd=True)
    except DefusedXmlException as error:
        raise RecordError("unsafe XML", f"{where}: {error!r}") from error
    except (ParseError, ValueError, LookupError) as error:
        raise RecordError("malformed XML", f"{where}: {error}") from error
    boxes: list[Box] = []
    left_out: list[str] = []
    for number, entry in enumerate(tree.iter("object")):
        place = f"{where}: object {number}"
        category = plain_category(entry.findtext("name"))
        if category.replace(" ", "").replace("_", "") in NOT_OBJECTS:
            left_out.append("dont_care")
            continue
        texts = tuple(entry.findtext(f"bndbox/{corner}") for corner in ("xmin", "ymin", "xmax", "ymax"))
        boxes.append(make_box(category, texts, place))
    name = (tree.findtext("filename") or "").strip()
    return name, Annotation(tuple(boxes), tally(left_out), _stated_size(tree, where))


def _stated_size(tree: Element, where: str) -> tuple[int, int] | None:
    """Width and height where the file states both; writers that do not know them leave 0."""
    width, height = tree.findtext("size/width"), tree.findtext("size/height")
    if width is None or height is None:
        return None
    try:
        size = int(width), int(height)
    except ValueError as error:
        raise RecordError("malformed XML", f"{where}: size {width!r} x {height!r}") from error
    return size if all(size) else None


def read_voc(root: Path, source: Source) -> Reading:
    """One sample an XML file, then the images that no XML file speaks of, without boxes.

    Images lie in one of `infrared/`, `JPEGImages/`, `images/`, or anywhere below the root.

    Raises:
        MissingData: no folder, no XML file or no image.
    """
    if not root.is_dir():
        raise source.missing(root, "no such folder")
    found = (sorted((root / name).rglob("*.xml")) for name in ANNOTATION_FOLDERS)
    files = next(filter(None, found), [])
    if not files:
        raise source.missing(root, f"no XML file in any of {', '.join(ANNOTATION_FOLDERS)}")
    images, repeated = by_stem(source, root, list_images(first_folder(root, IMAGE_FOLDERS) or root))
    if not images:
        raise source.missing(root, "no image")
    yield from repeated
    seen: set[str] = set()
    for file in files:

        def build(file: Path = file) -> Sample:
            seen.add(file.stem)
            name, annotation = parse_voc(read_bytes(file, MAX_RECORD_BYTES), relative(file, root))
            inside(root, name or file.name)
            stem = PurePosixPath(name.replace("\\", "/")).stem or file.stem
            if stem not in images:
                raise RecordError("missing image", f"{name or file.stem!r} is no image of the folder")
            seen.add(stem)
            return annotated_sample(source, root, images[stem], annotation)

        yield attempt(source, relative(file, root), file.stem, build)
    for stem, image in images.items():
        if stem not in seen:
            yield attempt(source, relative(image, root), stem, partial(annotated_sample, source, root, image, None))
