"""Pascal VOC: one XML file an image."""

from functools import partial
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from irgpt_lib.irtd.record import Box, RecordError, Rejected, Sample
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
from irgpt_lib.irtd.sources.files import MAX_RECORD_BYTES, first_folder, inside, list_files, list_images, read_bytes
from irgpt_lib.irtd.sources.source import Found, Source

ANNOTATION_FOLDERS = ("Annotations", "annotations", "voc", "normal_xml/Annotations")
IMAGE_FOLDERS = ("infrared", "JPEGImages", "images", "normal_xml/JPEGImages")


def read_tree(data: bytes, where: str) -> Element:
    """The root of an XML file.

    Raises:
        RecordError: `unsafe XML` (a document type or an entity), or `malformed XML`, which another root without objects
            is too: that a file of another kind states none is no truth.
    """
    try:
        tree = fromstring(data, forbid_dtd=True)
    except DefusedXmlException as error:
        raise RecordError("unsafe XML", f"{where}: {error!r}") from error
    except (ParseError, ValueError, LookupError) as error:
        raise RecordError("malformed XML", f"{where}: {error}") from error
    if tree.tag != "annotation" and tree.find(".//object") is None:
        raise RecordError("malformed XML", f"{where}: the root is <{tree.tag:.60}>, expected <annotation>")
    return tree


def stated_size(tree: Element, where: str) -> tuple[int, int] | None:
    """Width and height where `<size>` states both; writers that do not know them leave 0.

    Raises:
        RecordError: `malformed XML` where they are no integers.
    """
    width, height = tree.findtext("size/width"), tree.findtext("size/height")
    if width is None or height is None:
        return None
    try:
        size = int(width), int(height)
    except ValueError as error:
        raise RecordError("malformed XML", f"{where}: size {width!r:.40} x {height!r:.40}") from error
    return size if all(size) else None


def parse_voc(data: bytes, where: str) -> tuple[str, Annotation]:
    """The file name that the XML states (empty where it states none) and its annotation.

    Raises:
        RecordError: `unknown class`, or a reason of `read_tree`, `stated_size` and `make_box`.
    """
    tree = read_tree(data, where)
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
    return name, Annotation(tuple(boxes), tally(left_out), stated_size(tree, where))


def stated_stem(root: Path, file: Path) -> str:
    """The stem of the image that an XML file names, its own where it names none.

    Raises:
        RecordError: the reasons of `parse_voc`, or `unsafe path`.
    """
    name = parse_voc(read_bytes(file, MAX_RECORD_BYTES), relative(file, root))[0] or file.name
    inside(root, name)
    return PurePosixPath(name.replace("\\", "/")).stem


def voc_sample(source: Source, root: Path, image: Path, file: Path) -> Sample:
    """One image with the boxes of its XML file.

    Raises:
        RecordError: the reasons of `parse_voc` and `annotated_sample`, `unsafe path`, or `missing image` where the file
            names another image than the one whose stem it bears: one of the two is wrong.
    """
    name, annotation = parse_voc(read_bytes(file, MAX_RECORD_BYTES), relative(file, root))
    inside(root, name or file.name)
    if name and PurePosixPath(name.replace("\\", "/")).stem != image.stem:
        raise RecordError("missing image", f"{file.name} names {name!r}, which {image.name} is not")
    return annotated_sample(source, root, image, annotation)


def read_voc(root: Path, source: Source) -> Found:
    """One sample an XML file, then the images that no XML file speaks of, without boxes.

    The image of an XML file is the one with its stem; where there is none, the one that the file names. Images lie
    in one of `infrared/`, `JPEGImages/`, `images/`, or anywhere below the root.

    Raises:
        MissingData: no folder, no XML file or no image.
    """
    if not root.is_dir():
        raise source.missing(root, "no such folder")
    found = (list(list_files(root / name, {".xml"})) for name in ANNOTATION_FOLDERS)
    files = next(filter(None, found), [])
    if not files:
        raise source.missing(root, f"no XML file in any of {', '.join(ANNOTATION_FOLDERS)}")
    images, repeated = by_stem(source, root, list_images(first_folder(root, IMAGE_FOLDERS) or root))
    if not images:
        raise source.missing(root, "no image")
    yield from repeated
    seen: set[str] = set()
    for file in files:
        try:
            stem = file.stem if file.stem in images else stated_stem(root, file)
            image = images[stem]
        except RecordError as error:
            yield Rejected(source.name, relative(file, root), file.stem, error.reason, error.detail)
            continue
        except KeyError:
            detail = f"{stem!r} is no image of the folder"
            yield Rejected(source.name, relative(file, root), file.stem, "missing image", detail)
            continue
        seen.add(stem)
        yield attempt(source, relative(file, root), file.stem, partial(voc_sample, source, root, image, file))
    for stem, image in images.items():
        if stem not in seen:
            yield attempt(source, relative(image, root), stem, partial(annotated_sample, source, root, image, None))
