"""Masks drawn over images: semantic (MFNet, PST900), small targets (IRSTD-1k, SIRST and its kin), salient objects
(VT821, VT1000, VT5000, UVT2000, UVT20K).

A box is the extent of an 8-connected region, in pixel edges: a single pixel at column 3, row 5 is `3, 5, 4, 6`.
Semantic and salient masks do not tell touching objects apart, nor the parts of a covered one: `instances` is
`unknown`.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from skimage.measure import label, regionprops

from irgpt_lib.irtd.record import Box, Point, RecordError, Rejected, Sample, png_bytes
from irgpt_lib.irtd.sources.assembly import (
    Annotation,
    annotated_sample,
    attempt,
    by_stem,
    relative,
    with_aligned_mate,
    with_facts,
)
from irgpt_lib.irtd.sources.files import (
    decoded,
    inside,
    is_there,
    list_files,
    list_images,
    read_image,
    read_text,
    read_toned,
)
from irgpt_lib.irtd.sources.lines import read_lines
from irgpt_lib.irtd.sources.naming import NAME_RULES, UNALIGNED
from irgpt_lib.irtd.sources.source import Found, Source

MFNET_CLASSES = ("unlabeled", "car", "person", "bike", "curve", "car stop", "guardrail", "color cone", "bump")
# Class 4 is named `survivor` by its authors.
PST900_CLASSES = ("background", "fire extinguisher", "backpack", "hand drill", "person")
# Smaller regions of a semantic or salient mask are ragged edges; they are counted, not kept.
MIN_REGION_PX = 9
FOREGROUND = 128
TARGET, SALIENT = "small target", "salient object"
FLIP = "_flip"
LISTS = ("train", "val", "test")
PARTS = ("", "trainval", "train", "Train", "val", "Val", "test", "Test")
TARGET_FOLDERS = (("images", "masks"), ("IRSTD1k_Img", "IRSTD1k_Label"), ("images", "annotations/masks"))
CENTROID_FOLDERS = ("images", "centroids")
PST900_FOLDERS = ("thermal", "rgb", "labels")
SALIENT_FOLDERS = ("T", "RGB", "GT")


class Region(NamedTuple):
    """An 8-connected region of one label: its extent in pixel edges and its number of pixels."""

    label: int
    x1: int
    y1: int
    x2: int
    y2: int
    pixels: int

    def box(self, category: str) -> Box:
        return Box(category, float(self.x1), float(self.y1), float(self.x2), float(self.y2))


def regions(labels: UInt8[np.ndarray, "h w"]) -> list[Region]:
    """The 8-connected regions of equal labels other than 0, in the order of their first pixel, row by row."""
    found = []
    for part in regionprops(label(labels, connectivity=2), intensity_image=labels):
        y1, x1, y2, x2 = map(int, part.bbox)
        found.append(Region(int(part.intensity_max), x1, y1, x2, y2, int(part.area)))
    return found


def mask_image(file: Path) -> Image.Image:
    """The decoded mask.

    Raises:
        RecordError: `not an 8-bit image` for wider labels, which a tone curve would change, or the reasons of
            `read_toned` and `decoded`.
    """
    read = read_toned(file)
    if "tone" in read.facts:
        raise RecordError("not an 8-bit image", f"{file.name} has {read.facts['bit_depth']} bits a label")
    return decoded(read.data, file.name)


def read_labels(file: Path, classes: tuple[str, ...]) -> UInt8[np.ndarray, "h w"]:
    """A semantic mask: an index of `classes` a pixel. A palette counts by its indices.

    Raises:
        RecordError: `not a label mask` where it has colours, `unknown label` for an index beyond `classes`, or a
            reason of `mask_image`.
    """
    image = mask_image(file)
    if image.mode not in ("1", "L", "P"):
        raise RecordError("not a label mask", f"{file.name} has mode {image.mode}; labels are one 8-bit channel")
    labels = np.asarray(image).astype(np.uint8)
    if (highest := int(labels.max(initial=0))) >= len(classes):
        raise RecordError("unknown label", f"{file.name}: {highest}; known: 0 to {len(classes) - 1}")
    return labels


def read_binary(file: Path) -> UInt8[np.ndarray, "h w"]:
    """A mask of two values as gray 0-255, white in the foreground, whether it was written with 0 and 1 or 0 and 255.

    Raises:
        RecordError: `unclear mask` where something is marked and nothing is bright, or a reason of `mask_image`.
    """
    image = mask_image(file)
    values = np.asarray(image if image.mode == "P" else image.convert("L"))
    brightest = int(values.max(initial=0))
    if 1 < brightest < FOREGROUND:
        raise RecordError("unclear mask", f"{file.name}: the brightest value is {brightest}, neither 1 nor 255")
    return values * np.uint8(255) if brightest == 1 else values


def size_of(mask: UInt8[np.ndarray, "h w"]) -> tuple[int, int]:
    """Width and height."""
    return mask.shape[1], mask.shape[0]


def without_specks(found: list[Region]) -> tuple[list[Region], dict[str, str]]:
    """The regions of at least `MIN_REGION_PX` pixels, and the facts that go with them."""
    kept = [region for region in found if region.pixels >= MIN_REGION_PX]
    facts = {"instances": "unknown"}
    if small := len(found) - len(kept):
        facts["small_regions"] = str(small)
    return kept, facts


def identified(sample: Sample, part: str) -> Sample:
    """The sample with its folder in its id: numbered names begin anew in each part of a data set."""
    if not part:
        return sample
    stem = sample.sample_id.removeprefix(f"{sample.source}/")
    return replace(sample, sample_id=f"{sample.source}/{part.lower()}_{stem}")


def annotated_images(
    source: Source, root: Path, images: dict[str, Path], annotations: dict[str, Path]
) -> Iterator[tuple[Path, Path] | Rejected]:
    """Each image with the annotation of its stem; what has no counterpart is rejected."""
    for stem, image in images.items():
        if stem in annotations:
            yield image, annotations[stem]
        else:
            yield Rejected(
                source.name, relative(image, root), stem, "missing annotation", f"no mask or text for {stem}"
            )
    for stem in sorted(annotations.keys() - images.keys()):
        file = annotations[stem]
        yield Rejected(source.name, relative(file, root), file.stem, "missing image", f"no image {stem}")


class Triple(NamedTuple):
    """One scene's files: infrared image, visible mate, mask."""

    image: Path
    mate: Path
    mask: Path


def triples(source: Source, root: Path, part: Path, folders: tuple[str, str, str]) -> Iterator[Triple | Rejected]:
    """The files of equal stems in the infrared, visible and mask folder of one part; an incomplete triple is
    rejected."""
    by_folder = []
    for folder in folders:
        files, repeated = by_stem(source, root, list_images(part / folder))
        by_folder.append(files)
        yield from repeated
    for stem in sorted(set().union(*by_folder)):
        lacking = [f"{folder}/" for folder, files in zip(folders, by_folder, strict=True) if stem not in files]
        if lacking:
            present = next(files[stem] for files in by_folder if stem in files)
            detail = f"{stem} is not in {', '.join(lacking)}"
            yield Rejected(source.name, relative(present, root), stem, "incomplete triple", detail)
        else:
            yield Triple(*(files[stem] for files in by_folder))


# Semantic masks


def labelled_sample(
    source: Source, root: Path, image: Path, mask: Path, classes: tuple[str, ...], split: str = ""
) -> Sample:
    """One image with the extents of its labelled regions; nothing in it can be counted.

    Raises:
        RecordError: the reasons of `read_labels` and `annotated_sample`.
    """
    labels = read_labels(mask, classes)
    kept, facts = without_specks(regions(labels))
    boxes = tuple(region.box(classes[region.label]) for region in kept)
    sample = annotated_sample(source, root, image, Annotation(boxes, stated_size=size_of(labels)), split)
    return with_facts(replace(sample, counted=""), **facts)


def four_channel_sample(source: Source, root: Path, image: Path, mask: Path, split: str, copies: int) -> Sample:
    """One MFNet image, whose fourth channel is the thermal image; the other three are the aligned visible one.

    Raises:
        RecordError: `not a four-channel image`, or a reason of `labelled_sample`.
    """
    sample = labelled_sample(source, root, image, mask, MFNET_CLASSES, split)
    pixels = decoded(sample.infrared, image.name)
    if pixels.mode != "RGBA":
        raise RecordError("not a four-channel image", f"{image.name} has mode {pixels.mode}, expected RGBA")
    channels = np.asarray(pixels)
    # that three channels look colour-mapped would be said of the visible ones
    facts = {key: value for key, value in sample.facts.items() if key != "colour_mapped"}
    if copies:
        facts["augmented_copies_skipped"] = str(copies)
    infrared, visible = png_bytes(channels[..., 3]), png_bytes(channels[..., :3])
    return replace(sample, infrared=infrared, visible=visible, facts=facts | {"visible_frame": "aligned"})


def read_lists(root: Path, source: Source) -> tuple[dict[str, str], list[Rejected]]:
    """The split of each stem that `train.txt`, `val.txt` and `test.txt` name, and the names that were refused.

    Raises:
        MalformedFile: a list is not UTF-8.
    """
    splits: dict[str, str] = {}
    rejected = []
    for split in LISTS:
        file = root / f"{split}.txt"
        names = read_text(file).splitlines() if is_there(file) else []
        for name in filter(None, map(str.strip, names)):
            try:
                stem = inside(Path(), name).stem
                if splits.setdefault(stem, split) != split:
                    raise RecordError("duplicate id", f"{splits[stem]}.txt names {stem} too")
            except RecordError as error:
                rejected.append(Rejected(source.name, file.name, name, error.reason, error.detail))
    return splits, rejected


def read_mfnet(root: Path, source: Source) -> Found:
    """MFNet: `images/<number><D|N>.png`, `labels/` and three lists. Mirrored copies (`_flip`) are augmentations: an
    original says in `augmented_copies_skipped` how many of it were passed over."""
    splits, rejected = read_lists(root, source)
    images, repeated = by_stem(source, root, list_images(root / "images"))
    labels, repeated_labels = by_stem(source, root, list_images(root / "labels"))
    yield from (*rejected, *repeated, *repeated_labels)
    originals = {stem: file for stem, file in images.items() if not stem.endswith(FLIP)}
    masks = {stem: file for stem, file in labels.items() if not stem.endswith(FLIP)}
    for item in annotated_images(source, root, originals, masks):
        if isinstance(item, Rejected):
            yield item
            continue
        image, mask = item
        split, copies = splits.get(image.stem, ""), int(image.stem + FLIP in images)
        build = partial(four_channel_sample, source, root, image, mask, split, copies)
        yield attempt(source, relative(image, root), image.stem, build)
    for stem, file in (*images.items(), *labels.items()):
        if stem.endswith(FLIP) and stem.removesuffix(FLIP) not in originals:
            detail = "a mirrored copy without its original"
            yield Rejected(source.name, relative(file, root), stem, "augmented copy", detail)
    for stem in sorted(splits.keys() - images.keys()):
        if not stem.endswith(FLIP):
            detail = f"images/ has no image {stem}"
            yield Rejected(source.name, f"{splits[stem]}.txt", stem, "missing image", detail)


def thermal_sample(source: Source, root: Path, files: Triple, part: str) -> Sample:
    """One PST900 scene: the 8-bit thermal image, its aligned visible mate, its labels.

    Raises:
        RecordError: the reasons of `labelled_sample` and `with_aligned_mate`.
    """
    sample = labelled_sample(source, root, files.image, files.mask, PST900_CLASSES)
    return identified(with_aligned_mate(sample, files.mate), part)


def parts_with(root: Path, folders: tuple[str, ...], enough: Callable[[Iterable[bool]], bool] = all) -> list[str]:
    """The parts of a data set that have these folders, all of them or (`enough` is `any`) one at least; file systems
    that fold case show each part once."""
    found: list[str] = []
    for part in PARTS:
        if enough((root / part / folder).is_dir() for folder in folders):
            known = [root / other for other in found]
            if not any((root / part).samefile(other) for other in known):
                found.append(part)
    return found


def in_parts(
    source: Source,
    root: Path,
    folders: tuple[str, str, str],
    sample_of: Callable[[Source, Path, Triple, str], Sample],
) -> Found:
    """The records of every part that has one of the three folders; `sample_of` makes one, told its part."""
    for part in parts_with(root, folders, any):
        for item in triples(source, root, root / part, folders):
            if isinstance(item, Rejected):
                yield item
                continue
            build = partial(sample_of, source, root, item, part)
            yield attempt(source, relative(item.image, root), item.image.stem, build)


def read_semantic_masks(root: Path, source: Source) -> Found:
    """One sample an image of MFNet (`images/`, `labels/`) or PST900 (`<part>/thermal/`, `rgb/`, `labels/`).

    Raises:
        MissingData: no folder, or neither layout with an image in it.
        MalformedFile: a list of MFNet is not UTF-8.
    """
    if not root.is_dir():
        raise source.missing(root, "no such folder")
    if all(any(list_images(root / folder)) for folder in ("images", "labels")):
        yield from read_mfnet(root, source)
        return
    if not any(any(list_images(root / part / "thermal")) for part in parts_with(root, PST900_FOLDERS)):
        raise source.missing(root, "no images/ with labels/, and no <part>/thermal/ with rgb/ and labels/")
    yield from in_parts(source, root, PST900_FOLDERS, thermal_sample)


# Small targets


def target_regions(mask: UInt8[np.ndarray, "h w"], name: str) -> list[Region]:
    """The small targets of a mask, one a region.

    Raises:
        RecordError: `unclear mask` where a region is nowhere bright: whether it is a target decides a count.
    """
    for part in regionprops(label(mask > 0, connectivity=2), intensity_image=mask):
        if part.intensity_max < FOREGROUND:
            y1, x1, *_ = map(int, part.bbox)
            raise RecordError("unclear mask", f"{name}: a region at {x1}, {y1} has values below {FOREGROUND} only")
    return regions((mask >= FOREGROUND).astype(np.uint8))


def target_sample(source: Source, root: Path, image: Path, mask: Path, part: str) -> Sample:
    """One image with a box a target; the facts `targets` and, where there is one, `smallest_target_px` in pixels.

    Raises:
        RecordError: the reasons of `read_binary`, `target_regions` and `annotated_sample`.
    """
    marked = read_binary(mask)
    found = target_regions(marked, mask.name)
    boxes = tuple(region.box(TARGET) for region in found)
    sample = annotated_sample(source, root, image, Annotation(boxes, stated_size=size_of(marked)))
    facts = {"targets": str(len(found))}
    if found:
        facts["smallest_target_px"] = str(min(region.pixels for region in found))
    return identified(with_facts(sample, **facts), part)


def read_centroids(file: Path) -> tuple[Point, ...]:
    """A point for each line `x y`, blanks or a comma between; an empty file has none.

    Raises:
        RecordError: `malformed line`, or a reason of `read_lines`.
    """
    points = []
    for number, line in enumerate(read_lines(file), 1):
        if not line:
            continue
        try:
            x, y = map(float, line.replace(",", " ").split())
        except ValueError as error:
            raise RecordError("malformed line", f"{file.name}: line {number}: {line!r:.60}, expected x y") from error
        if not (math.isfinite(x) and math.isfinite(y)):
            raise RecordError("malformed line", f"{file.name}: line {number}: {line!r:.60} is not finite")
        points.append(Point(TARGET, x, y))
    return tuple(points)


def centroid_sample(source: Source, root: Path, image: Path, file: Path, part: str) -> Sample:
    """One image with a point a target.

    Raises:
        RecordError: the reasons of `read_centroids` and `annotated_sample`.
    """
    points = read_centroids(file)
    sample = replace(annotated_sample(source, root, image, Annotation()), points=points)
    return identified(with_facts(sample, targets=str(len(points))), part)


def mask_stems(source: Source, root: Path, folder: Path) -> tuple[dict[str, Path], list[Rejected]]:
    """Masks by the stem of their image: SIRST adds `_pixels0`."""
    files, repeated = by_stem(source, root, list_images(folder))
    masks: dict[str, Path] = {}
    for stem, file in files.items():
        plain = stem.removesuffix("_pixels0")
        if plain in masks:
            detail = f"{relative(masks[plain], root)} is a mask of {plain} too"
            repeated.append(Rejected(source.name, relative(file, root), stem, "duplicate id", detail))
        masks.setdefault(plain, file)
    return masks, repeated


def read_target_part(root: Path, source: Source, part: str, images: str, annotations: str) -> Found:
    """The images of one part with their masks, or with their centroids where `annotations` is that folder."""
    folder = root / part / annotations
    if annotations == CENTROID_FOLDERS[1]:
        build_sample, (files, repeated) = centroid_sample, by_stem(source, root, list_files(folder, {".txt"}))
    else:
        build_sample, (files, repeated) = target_sample, mask_stems(source, root, folder)
    found, repeated_images = by_stem(source, root, list_images(root / part / images))
    yield from (*repeated, *repeated_images)
    for item in annotated_images(source, root, found, files):
        if isinstance(item, Rejected):
            yield item
            continue
        image, file = item
        build = partial(build_sample, source, root, image, file, part)
        yield attempt(source, relative(image, root), image.stem, build)


def read_target_masks(root: Path, source: Source) -> Found:
    """One sample an infrared image with small targets, in `.` or in `trainval/`, `train/`, `val/`, `test/`.

    Masks lie in `masks/`, `annotations/masks/` or `IRSTD1k_Label/`; where there are none, points lie in `centroids/`,
    a text file an image. Masks rule, not the XML files beside those of SIRST, which name one target an image: its
    regions are 533 in 427 masks, those of SIRST-V2 648 in 1024, as the table of DenseSIRST's authors has it.

    Raises:
        MissingData: no folder, or no image in any of these layouts.
    """
    if not root.is_dir():
        raise source.missing(root, "no such folder")
    layouts = (*TARGET_FOLDERS, CENTROID_FOLDERS)
    found: dict[str, tuple[str, str]] = {}
    for layout in layouts:
        for part in parts_with(root, layout):
            if any(list_images(root / part / layout[0])):
                found.setdefault(part, layout)
    if not found:
        known = ", ".join(f"{images}/ with {masks}/" for images, masks in layouts)
        raise source.missing(root, f"no images in any of {known}")
    # a part that lacks one of its folders is read too, so that each of its files is rejected
    for layout in layouts:
        for part in parts_with(root, layout, any):
            found.setdefault(part, layout)
    for part in PARTS:
        if part in found:
            yield from read_target_part(root, source, part, *found[part])


# Salient objects


def salient_sample(source: Source, root: Path, files: Triple, part: str) -> Sample:
    """One scene with the extents of what stands out in it.

    The masks of unaligned pairs are read as drawn on the visible image, the reference of their authors' method
    (inferred: the papers' abstracts do not say it). The infrared image then has no boxes, and the extents become the
    fact `visible_salient_boxes`: `x1,y1,x2,y2` in visible pixels, joined by `;`.

    Raises:
        RecordError: `size mismatch` between mask and the image that it is drawn on, or between aligned images, or a
            reason of the files.
    """
    marked = read_binary(files.mask)
    kept, facts = without_specks(regions((marked >= FOREGROUND).astype(np.uint8)))
    if NAME_RULES[source.naming](files.image.stem).facts.get("visible_frame") == UNALIGNED:
        visible, *size = read_image(files.mate)
        if tuple(size) != size_of(marked):
            sizes = f"{marked.shape[1]}x{marked.shape[0]}, visible {size[0]}x{size[1]}"
            raise RecordError("size mismatch", f"{files.mask.name}: mask {sizes}")
        sample = annotated_sample(source, root, files.image, None, visible=visible)
        facts["visible_salient_boxes"] = ";".join(f"{r.x1},{r.y1},{r.x2},{r.y2}" for r in kept)
    else:
        boxes = tuple(region.box(SALIENT) for region in kept)
        sample = annotated_sample(source, root, files.image, Annotation(boxes, stated_size=size_of(marked)))
        sample = with_aligned_mate(replace(sample, counted=""), files.mate)
    return identified(with_facts(sample, **facts), part)


def read_salient_masks(root: Path, source: Source) -> Found:
    """One sample a pair of `T/` and `RGB/` with its mask in `GT/`, in `.` or in `Train/`, `Test/`.

    A source whose naming rule says `visible_frame: unaligned` (UVT2000, UVT20K) has no boxes in the infrared image.

    Raises:
        MissingData: no folder, or no image in `T/` beside `RGB/` and `GT/`.
    """
    if not root.is_dir():
        raise source.missing(root, "no such folder")
    if not any(any(list_images(root / part / "T")) for part in parts_with(root, SALIENT_FOLDERS)):
        raise source.missing(root, "no image in T/ beside RGB/ and GT/")
    yield from in_parts(source, root, SALIENT_FOLDERS, salient_sample)
