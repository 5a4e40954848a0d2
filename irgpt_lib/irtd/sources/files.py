"""Reading third-party files without trusting them: names, sizes, encodings, image containers."""

import io
import json
import os
import struct
import warnings
import zlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from irgpt_lib.irtd.record import MAX_PIXELS, RecordError, open_image, png_bytes
from irgpt_lib.irtd.sources.source import MalformedFile
from irgpt_lib.irtd.sources.tone import DEFAULT, Tone, Toned, looks_colour_mapped, to_8bit

# The content tells what an image is; names of formats that are not read stand here so that such a file is rejected
# and not passed over.
IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff"} | {".gif", ".webp", ".jp2", ".pgm", ".ppm"}
)
# Only these decoders may see the bytes: some of Pillow's others start external programs.
CONTAINERS = ("PNG", "JPEG", "BMP", "TIFF")
EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"})
GRAY_MODES = frozenset({"1", "L", "LA"})
# Raw counts of 9 to 16 bits, wider integers, temperatures as floats.
WIDE_MODES = frozenset({"I;16", "I;16B", "I;16L", "I;16N", "I", "F"})
# TIFF tags
BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0
THUMBNAIL = (48, 48)
# UnidentifiedImageError is an OSError; a decoder that follows a broken offset or length raises the others.
DECODER_ERRORS = (
    *(OSError, EOFError, SyntaxError, ValueError, TypeError, KeyError, IndexError, OverflowError),
    *(struct.error, zlib.error),
)
MAX_NAME_BYTES = 255
# File systems take 4095 bytes; the folders that an adapter tries come on top.
MAX_PATH_BYTES = 3072
MAX_IMAGE_BYTES = 256 * 2**20
MAX_RECORD_BYTES = 16 * 2**20


def inside(root: Path, name: str) -> Path:
    """The path of a file that an annotation names, relative to `root`.

    Links inside `root` are followed: they are the user's own (DVC's cache links every file), a name is not.

    Raises:
        RecordError: `unsafe path` where the name is absolute, climbs with `..` or is no plain relative path.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    climbs = path.is_absolute() or ".." in path.parts or not path.parts or ":" in path.parts[0]
    # Longer names and half characters are none on any file system, and asking for one is an error of its own.
    spelled = "\0" not in name and all(len(p.encode(errors="replace")) <= MAX_NAME_BYTES for p in path.parts)
    if climbs or not spelled or len(str(root / path).encode(errors="replace")) > MAX_PATH_BYTES:
        raise RecordError("unsafe path", f"{name!r:.200} does not name a file inside the folder")
    return root / path


def walk(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Each folder from `folder` down with the names of its folders and files, sorted, hidden ones left out, depth
    first; folders taken out of the list of names are not entered.

    Linked folders are entered, but for those that lead back up: they are the user's own, as linked files are.

    Raises:
        MalformedFile: a folder may not be read, so that what it holds would be lost without a word.
    """
    for parent, folders, names in os.walk(folder, onerror=refuse_unreadable, followlinks=True):
        kept = (name for name in folders if not name.startswith(".") and not leads_back(Path(parent, name)))
        folders[:] = sorted(kept)
        yield Path(parent), folders, sorted(name for name in names if not name.startswith("."))


def refuse_unreadable(error: OSError) -> None:
    """What `walk` does with a folder that it cannot list; one that does not exist holds nothing.

    Raises:
        MalformedFile: names the folder and the reason.
    """
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise MalformedFile(f"{error.filename}: cannot be listed: {error.strerror}; mend its permissions") from error


def leads_back(folder: Path) -> bool:
    """Whether a folder is a link to one of those that it lies in."""
    return folder.is_symlink() and any(folder.samefile(above) for above in folder.absolute().parents)


def list_files(folder: Path, suffixes: Collection[str]) -> Iterator[Path]:
    """Files below `folder` with one of these suffixes in lower or upper case, in the order of `walk`."""
    for parent, _, names in walk(folder):
        yield from (parent / name for name in names if Path(name).suffix.lower() in suffixes)


def files_in(folder: Path, suffix: str) -> list[Path]:
    """The files of the folder itself with this suffix in lower or upper case, sorted, hidden ones left out."""
    _, _, names = next(walk(folder), (folder, [], []))
    return [folder / name for name in names if Path(name).suffix.lower() == suffix]


def list_images(folder: Path) -> Iterator[Path]:
    """Image files below `folder`, in the order of `walk`."""
    return list_files(folder, IMAGE_SUFFIXES)


def is_there(file: Path) -> bool:
    """Whether something lies there, be it a link that leads nowhere: reading says so, passing it over does not."""
    return os.path.lexists(file)


def short_path(file: Path) -> str:
    """The file in words that are the same on every machine: its name and the two folders around it."""
    return "/".join(file.parts[-3:])


def first_folder(root: Path, names: Iterable[str]) -> Path | None:
    """The first of `names` that is a folder below `root`."""
    return next((root / name for name in names if (root / name).is_dir()), None)


def read_bytes(file: Path, limit: int = MAX_IMAGE_BYTES) -> bytes:
    """The content of one record's file.

    Raises:
        RecordError: `missing file`, `file too large` (over `limit` bytes) or `unreadable file`.
    """
    try:
        if (size := file.stat().st_size) > limit:
            raise RecordError("file too large", f"{short_path(file)}: {size} bytes, at most {limit}")
        return file.read_bytes()
    except FileNotFoundError as error:
        raise RecordError("missing file", short_path(file)) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RecordError("unreadable file", f"{short_path(file)}: {reason}") from error


@dataclass(frozen=True)
class ImageFile:
    """An encoded 8-bit image, its size in pixels, and the facts of how the file became it: `bit_depth` and `tone`
    where wide samples were brought to 8 bits, `page` where the file holds further images."""

    data: bytes
    width: int
    height: int
    facts: dict[str, str] = field(default_factory=dict)


@contextmanager
def decoding(name: str) -> Iterator[None]:
    """What a decoder raises within the block becomes a RecordError that names the file.

    Raises:
        RecordError: `image too large`, or `unreadable image` for whatever else is wrong with the bytes.
    """
    try:
        # Pillow only warns of an image up to twice its limit; here the limit is the limit. What it warns of in
        # metadata says nothing of the pixels.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except RecordError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise RecordError("image too large", f"{name}: {error}") from error
    except UnidentifiedImageError as error:
        # Pillow's own words name an address in memory
        raise RecordError("unreadable image", f"{name}: not one of {', '.join(CONTAINERS)}") from error
    except DECODER_ERRORS as error:
        raise RecordError("unreadable image", f"{name}: {error}") from error


def decoded(data: bytes, name: str) -> Image.Image:
    """The whole image, decoded.

    Raises:
        RecordError: the reasons of `open_image`; `unreadable image` for whatever else a decoder raises.
    """
    with decoding(name):
        return open_image(data, name)


def sample_bits(image: Image.Image) -> int:
    """Bits of one sample as the file stores it. Pillow's mode does not tell: it opens colour of 16 bits a channel as
    colour of 8 and keeps the upper half."""
    if image.format == "TIFF":
        return max(image.tag_v2.get(BITS_PER_SAMPLE, (1,)))  # type: ignore[attr-defined]
    if image.format == "PNG":
        return 16 if any(";16" in str(tile.args) for tile in image.tile) else 8  # type: ignore[attr-defined]
    return 8


def has_further_pages(image: Image.Image) -> bool:
    """Whether the file holds more than the image that is open; moves to the next one."""
    try:
        image.seek(1)
    except EOFError:
        return False
    return True


def encode(image: Image.Image) -> bytes:
    """The image as PNG, in its own mode where PNG has it."""
    buffer = io.BytesIO()
    (image if image.mode in ("1", "L", "P", "RGB", "RGBA") else image.convert("RGB")).save(buffer, format="PNG")
    return buffer.getvalue()


def read_toned(file: Path, tone: Tone = DEFAULT) -> ImageFile:
    """The first image of a file in 8 bits. PNG and JPEG of 8 bits pass as they are, BMP and TIFF become PNG.

    Gray samples of more than 8 bits, and temperatures as floats, become 8-bit PNG by `to_8bit`; the facts `bit_depth`
    and `tone` then say from what and how. Further pages of a TIFF are left out and the fact `page` says so.

    Raises:
        RecordError: the reasons of `read_bytes` and `to_8bit`, `empty image`, `unreadable image`, `image too large`,
            or `not an 8-bit image`: colour of more than 8 bits a channel, which is no raw thermal frame and whose
            upper half is what a decoder would keep without a word.
    """
    data = read_bytes(file)
    if not data:
        raise RecordError("empty image", short_path(file))
    with decoding(short_path(file)), Image.open(io.BytesIO(data), formats=CONTAINERS) as image:
        (width, height), bits = image.size, sample_bits(image)
        if width * height > MAX_PIXELS:
            raise RecordError("image too large", f"{short_path(file)}: {width}x{height} pixels, at most {MAX_PIXELS}")
        facts = {}
        if image.mode in WIDE_MODES:
            toned = tone_image(image, tone, short_path(file))
            facts = {"bit_depth": str(bits), "tone": toned.note}
            data = png_bytes(toned.pixels)
        elif image.mode not in EIGHT_BIT_MODES or bits > 8:
            detail = f"{short_path(file)} has mode {image.mode} of {bits} bits a channel; export it as 8-bit PNG"
            raise RecordError("not an 8-bit image", detail)
        elif image.format not in ("PNG", "JPEG"):
            data = encode(image)
        if has_further_pages(image):
            facts["page"] = "first of several"
    return ImageFile(data, width, height, facts)


def tone_image(image: Image.Image, tone: Tone, name: str) -> Toned:
    """`to_8bit` of an open image. A TIFF whose white is zero is turned over, which Pillow does with 8 bits and not with
    more, and the note says so.

    Raises:
        RecordError: the reasons of `to_8bit`, with `name` in the detail.
    """
    try:
        toned = to_8bit(np.asarray(image), tone)
    except RecordError as error:
        raise RecordError(error.reason, f"{name}: {error.detail}") from error
    if image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO:  # type: ignore[attr-defined]
        return Toned(255 - toned.pixels, f"{toned.note}, white is zero")
    return toned


def read_image(file: Path) -> tuple[bytes, int, int]:
    """Encoded 8-bit image, width and height in pixels, as `read_toned` reads it, for images whose facts nobody keeps:
    the visible ones.

    Raises:
        RecordError: the reasons of `read_toned`.
    """
    image = read_toned(file)
    return image.data, image.width, image.height


def colour_facts(data: bytes, name: str) -> dict[str, str]:
    """The fact `colour_mapped: yes` where an encoded 8-bit image looks so, else none.

    Gray costs nothing, for it is known from the header; a JPEG is decoded at an eighth of its size.

    Raises:
        RecordError: `unreadable image` or `image too large`, with `name` in the detail.
    """
    with decoding(name), Image.open(io.BytesIO(data), formats=CONTAINERS) as image:
        if image.mode in GRAY_MODES:
            return {}
        image.draft("RGB", THUMBNAIL)
        # Nearest pixels, for a mean of two colours is none of the map.
        thumbnail = image.resize(THUMBNAIL, Image.Resampling.NEAREST).convert("RGB")
    return {"colour_mapped": "yes"} if looks_colour_mapped(np.asarray(thumbnail)) else {}


def read_text(file: Path) -> str:
    """A whole annotation file as text, a byte order mark dropped.

    Raises:
        MalformedFile: it cannot be read, or it is not UTF-8.
    """
    try:
        return file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise MalformedFile(f"{file}: cannot be read: {error.strerror}; restore it or its permissions") from error
    except UnicodeDecodeError as error:
        raise MalformedFile(f"{file}: not UTF-8 at byte {error.start}; convert it to UTF-8") from error


def read_json(file: Path) -> Any:
    """What a whole annotation file holds.

    Raises:
        MalformedFile: the reasons of `read_text`, or it is no JSON.
    """
    text = read_text(file)
    try:
        return json.loads(text)
    # ValueError covers numbers of more digits than Python converts
    except (ValueError, RecursionError) as error:
        raise MalformedFile(f"{file}: not valid JSON: {error}") from error


def parse_json(data: bytes, where: str) -> Any:
    """What one record's file holds; `where` names it in the detail.

    Raises:
        RecordError: `malformed JSON`, which bytes that are not UTF-8 are too.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RecordError("malformed JSON", f"{where}: {error}") from error
