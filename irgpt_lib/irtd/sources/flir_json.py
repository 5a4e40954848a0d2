"""FLIR ADAS of 2018 (v1) as released: one COCO-like JSON file a thermal frame.

`<split>/thermal_8_bit/` (first called `PreviewData/`) holds the frames, `<split>/Annotations/` a JSON file each with
the lists `annotation` and `image`; numbers may be written as text. `RGB/` holds another camera's view of the scene,
neither aligned nor of equal size, and lacks some frames. Version 2 is plain COCO.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from irgpt_lib.irtd.record import RecordError, Sample
from irgpt_lib.irtd.sources import flir
from irgpt_lib.irtd.sources.assembly import (
    SPLITS,
    Annotation,
    annotated_sample,
    attempt,
    by_stem,
    relative,
    unmatched,
    with_facts,
)
from irgpt_lib.irtd.sources.coco import category_names, image_annotation, stated_size
from irgpt_lib.irtd.sources.files import (
    MAX_RECORD_BYTES,
    first_folder,
    inside,
    is_there,
    list_files,
    list_images,
    parse_json,
    read_bytes,
    read_image,
    read_json,
)
from irgpt_lib.irtd.sources.source import Found, MalformedFile, Source
from irgpt_lib.irtd.sources.video import frames_in

SPLIT_FOLDERS = ("", "training", "train", "validation", "val", "video")
# The camera's own gain control made the 8-bit frames; the 16-bit ones are raw counts.
FRAMES = ("thermal_8_bit", "PreviewData", "thermal_16_bit", "Data")
ANNOTATIONS = "Annotations"
# The release numbers classes as COCO does (dog 18); its CSV, and perhaps a version, counts COCO's 80 classes (dog 17).
CLASSES = flir.CLASSES | {"18": "dog", "91": "other vehicle"}
CLASS_FILE = "catids.json"


def class_names(folder: Path) -> dict[str, str]:
    """Lower-case class names by number, `CLASSES` overruled by `catids.json` where the folder has it.

    Raises:
        MalformedFile: `catids.json` is no list of `id` and `name`.
    """
    file = folder / CLASS_FILE
    if not is_there(file):
        return CLASSES
    entries = read_json(file)
    if not isinstance(entries, list):
        raise MalformedFile(f"{file}: expected a list of `id` and `name`, found {type(entries).__name__}")
    return CLASSES | {str(number): name for number, name in category_names(file, entries).items()}


def plain_entry(entry: Any) -> dict[str, Any]:
    """One entry of `annotation` with its class and its crowd mark as text and number, which the files mix.

    Raises:
        RecordError: `malformed annotation` where it is no object or marks a crowd in an unknown way.
    """
    if not isinstance(entry, dict) or str(entry.get("iscrowd", 0)) not in ("0", "1"):
        raise RecordError("malformed annotation", f"{entry!r:.80}")
    return entry | {"category_id": str(entry.get("category_id")), "iscrowd": str(entry.get("iscrowd", 0)) == "1"}


def frame_annotation(data: bytes, stem: str, names: dict[str, str]) -> Annotation:
    """The boxes of one frame's JSON file; crowds are counted, not kept.

    Raises:
        RecordError: `malformed JSON`, `malformed annotation`, `missing image` where the file names another frame,
            `unsafe path`, or a reason of `image_annotation`.
    """
    content = parse_json(data, f"{stem}.json")
    entries = content.get("annotation") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise RecordError("malformed annotation", "expected an object with the list `annotation`")
    image = content.get("image")
    stated = image if isinstance(image, dict) else {}
    name = str(stated.get("file_name", stem))
    named = inside(Path(), name)
    if stem not in (named.name, named.stem):
        raise RecordError("missing image", f"the file names {name!r}, which {stem} is not")
    return image_annotation([plain_entry(entry) for entry in entries], names, stated_size(stated))


def json_sample(
    source: Source, root: Path, image: Path, file: Path | None, mate: Path | None, names: dict[str, str]
) -> Sample:
    """One thermal frame with the boxes of its JSON file and the visible camera's view, where it has them.

    Raises:
        RecordError: the reasons of `frame_annotation`, `annotated_sample` and `read_image`.
    """
    annotation = frame_annotation(read_bytes(file, MAX_RECORD_BYTES), image.stem, names) if file else None
    sample = annotated_sample(source, root, image, annotation, SPLITS.get(image.parents[1].name, ""))
    if mate is None:
        return sample
    return with_facts(replace(sample, visible=read_image(mate)[0]), visible_frame="unaligned")


def read_split(root: Path, source: Source, frames: Path, names: dict[str, str]) -> Found:
    """The frames of one split folder, then the annotations and visible images whose frame is absent."""
    stems, rejected = frames_in(source, root, frames)
    files, repeated = by_stem(source, root, list_files(frames.parent / ANNOTATIONS, {".json"}))
    mates, repeated_mates = by_stem(source, root, list_images(frames.parent / "RGB"))
    yield from (*rejected, *repeated, *repeated_mates)
    for stem, image in stems.items():
        build = partial(json_sample, source, root, image, files.get(stem), mates.get(stem), names)
        yield attempt(source, relative(image, root), stem, build)
    lacking = f"{relative(frames, root)} has no frame"
    yield from unmatched(source, root, files.values(), stems, "missing image", lacking)
    yield from unmatched(source, root, mates.values(), stems, "missing infrared image", lacking)


def frame_folders(root: Path) -> Iterator[Path]:
    """The folder of frames of every split."""
    for name in SPLIT_FOLDERS:
        if (root / name).is_dir() and (folder := first_folder(root / name, FRAMES)):
            yield folder


def read_flir_json(root: Path, source: Source) -> Found:
    """One sample a thermal frame of the root or of its split folders; a frame without a JSON file is not annotated.

    The 16-bit frames are not read where 8-bit ones lie beside them.

    Raises:
        MissingData: no folder, no frames, or no `Annotations/`.
        MalformedFile: `catids.json` cannot be used.
    """
    if not root.is_dir():
        raise source.missing(root, "no such folder")
    folders = list(frame_folders(root))
    if not folders:
        raise source.missing(root, f"no folder of frames ({', '.join(FRAMES)}) in any of {', '.join(SPLIT_FOLDERS)}")
    if not any((folder.parent / ANNOTATIONS).is_dir() for folder in folders):
        raise source.missing(root, f"no {ANNOTATIONS}/ beside the frames (thermal_annotations.json is the format coco)")
    for folder in folders:
        at_hand = folder.parent if (folder.parent / CLASS_FILE).is_file() else root
        yield from read_split(root, source, folder, class_names(at_hand))
