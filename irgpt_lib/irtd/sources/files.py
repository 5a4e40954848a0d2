"""Reading third-party files without trusting them: names, sizes, encodings, image containers."""

import io
import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from PIL import Image, UnidentifiedImageError

from irgpt_lib.irtd.record import MAX_PIXELS, RecordError, open_image
from irgpt_lib.irtd.sources.source import MalformedFile

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
# Only these decoders may see the bytes: some of Pillow's others start external programs.
CONTAINERS = ("PNG", "JPEG", "BMP", "TIFF")
EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"})
MAX_NAME_BYTES = 255
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
    if climbs or not spelled:
        raise RecordError("unsafe path", f"{name!r} does not name a file inside {root}")
    return root / path


def list_images(folder: Path) -> Iterator[Path]:
    """Image files below `folder`, depth first, sorted by name, hidden ones left out."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith("."):
                yield Path(parent, name)


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
            raise RecordError("file too large", f"{file}: {size} bytes, at most {limit}")
        return file.read_bytes()
    except FileNotFoundError as error:
        raise RecordError("missing file", str(file)) from error
    except (OSError, ValueError) as error:
        raise RecordError("unreadable file", f"{file}: {error}") from error


def read_image(file: Path) -> tuple[bytes, int, int]:
    """Encoded image, width and height in pixels. PNG and JPEG pass as they are, BMP and TIFF become PNG.

    Raises:
        RecordError: the reasons of `read_bytes` and `open_image`, or `not an 8-bit image`: a wider sample
            would
            be cut to white without a word by whoever converts it, so its owner has to choose the range.
    """
    data = read_bytes(file)
    if not data:
        raise RecordError("empty image", str(file))
    try:
        # Pillow only warns of an image up to twice its limit; here the limit is the limit.
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=CONTAINERS) as header:
                container, mode, (width, height) = header.format, header.mode, header.size
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise RecordError("image too large", f"{file}: {error}") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise RecordError("unreadable image", f"{file}: not one of {', '.join(CONTAINERS)}: {error}") from error
    if width * height > MAX_PIXELS:
        raise RecordError("image too large", f"{file}: {width}x{height} pixels, at most {MAX_PIXELS}")
    if mode not in EIGHT_BIT_MODES:
        raise RecordError("not an 8-bit image", f"{file} has mode {mode}; export it as 8-bit PNG")
    if container in ("PNG", "JPEG"):
        return data, width, height
    buffer = io.BytesIO()
    image = open_image(data, str(file))
    (image if mode in ("1", "L", "P", "RGB", "RGBA") else image.convert("RGB")).save(buffer, format="PNG")
    return buffer.getvalue(), width, height


def read_text(file: Path) -> str:
    """A whole annotation file as text, a byte order mark dropped.

    Raises:
        MalformedFile: it is not UTF-8.
    """
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MalformedFile(f"{file}: not UTF-8 at byte {error.start}; convert it to UTF-8") from error
