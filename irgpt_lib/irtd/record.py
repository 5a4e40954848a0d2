"""The one schema that every source leaves in: an infrared sample, its pair, its truth, its origin.

Boxes and points are pixels of the sample's own infrared image (`xyxy`, origin at the top left). Text that
a model reads or writes uses the frame 0-1000 of the released Location task and of InternVL: `frame_1000`.
"""

import hashlib
import io
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError

Band = Literal["nir", "swir", "tir"]
Kind = Literal["scene", "aerial", "crowd", "montage", "object"]
CaptionPath = Literal["IV", "V", "simulated", "none"]
CaptionState = Literal["", "draft", "final", "reviewed"]
BANDS: tuple[Band, ...] = get_args(Band)
KINDS: tuple[Kind, ...] = get_args(Kind)
CAPTION_STATES: tuple[CaptionState, ...] = get_args(CaptionState)
FRAME = 1000
MAX_PIXELS = 64_000_000
FORMATS = ("PNG", "JPEG", "BMP", "TIFF")


class RecordError(ValueError):
    """One record cannot be used; `reason` says why, in a form that can be counted."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Box:
    """One annotated object: `category` in lower case, pixel corners `x1 < x2`, `y1 < y2`."""

    category: str
    x1: float
    y1: float
    x2: float
    y2: float
    identity: str = ""

    @property
    def centre(self) -> tuple[float, float]:
        return (self.x1 + self.x2) / 2, (self.y1 + self.y2) / 2

    @property
    def area(self) -> float:
        return (self.x2 - self.x1) * (self.y2 - self.y1)


@dataclass(frozen=True)
class Point:
    """One object annotated by a point, in pixels: a head in a crowd, the centroid of a small target."""

    category: str
    x: float
    y: float


@dataclass(frozen=True)
class Sample:
    """One infrared image with everything that is known of it.

    `infrared` and `visible` are encoded image files (PNG or JPEG bytes); `visible` is empty where no pair exists.
    `group` names what must never be split: an image's scene, video sequence or identity. `counted` is the category
    whose instances are all annotated, so that a counting question has a true answer; empty where that is unknown.
    `montage_answer` is the cell (2-8) that shows the identity of cell 1, 0 where the sample is no montage.
    `points` are objects that are annotated by a point and by no box; an object stands in `boxes` or in `points`, never
    in both. `caption_from` is the sample whose content the caption describes: another one only where a simulated world
    swapped captions on purpose. `caption_state` is `draft` as a describer wrote it of the visible image, `final` once
    its words hold for infrared (or a rule wrote it), `reviewed` once a person has read it; `caption_draft` keeps the
    draft and `caption_by` says who or what wrote the caption. `perceptual_hash` is 16 hexadecimal digits, empty where
    none was computed. `authentic` is false for every image that no infrared camera took.
    """

    sample_id: str
    source: str
    band: Band
    kind: Kind
    width: int
    height: int
    infrared: bytes
    visible: bytes = b""
    authentic: bool = True
    group: str = ""
    split: str = ""
    scene: str = ""
    boxes: tuple[Box, ...] = ()
    points: tuple[Point, ...] = ()
    counted: str = ""
    montage_answer: int = 0
    caption: str = ""
    caption_path: CaptionPath = "none"
    caption_from: str = ""
    caption_state: CaptionState = ""
    caption_draft: str = ""
    caption_by: str = ""
    perceptual_hash: str = ""
    origin: str = ""
    facts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Rejected:
    """A raw record that was quarantined: where it lies, which one it is, why it cannot be used."""

    source: str
    file: str
    record: str
    reason: str
    detail: str


BOX_TYPE = pa.list_(
    pa.struct(
        [("category", pa.string())]
        + [(corner, pa.float32()) for corner in ("x1", "y1", "x2", "y2")]
        + [("identity", pa.string())]
    )
)
POINT_TYPE = pa.list_(pa.struct([("category", pa.string()), ("x", pa.float32()), ("y", pa.float32())]))
# a list and no Arrow map, which `datasets` cannot hold
FACTS_TYPE = pa.list_(pa.struct([("key", pa.string()), ("value", pa.string())]))
SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("source", pa.string()),
        ("band", pa.string()),
        ("kind", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("infrared", pa.binary()),
        ("visible", pa.binary()),
        ("authentic", pa.bool_()),
        ("group", pa.string()),
        ("split", pa.string()),
        ("scene", pa.string()),
        ("boxes", BOX_TYPE),
        ("points", POINT_TYPE),
        ("counted", pa.string()),
        ("montage_answer", pa.int8()),
        ("caption", pa.string()),
        ("caption_path", pa.string()),
        ("caption_from", pa.string()),
        ("caption_state", pa.string()),
        ("caption_draft", pa.string()),
        ("caption_by", pa.string()),
        ("perceptual_hash", pa.string()),
        ("origin", pa.string()),
        ("facts", FACTS_TYPE),
    ],
    metadata={"irgpt_schema": "2", "box_frame": "pixel_xyxy", "text_frame": "normalised_1000"},
)
REJECTED_SCHEMA = pa.schema([(f.name, pa.string()) for f in fields(Rejected)])


def frame_1000(value: float, extent: float) -> int:
    """A pixel coordinate in the text frame: `round(1000 * value / extent)`, an integer of 0-1000."""
    return min(max(round(FRAME * value / extent), 0), FRAME)


def open_image(data: bytes, name: str) -> Image.Image:
    """Decode the whole image, so that a truncated file shows itself here and not in training.

    Raises:
        RecordError: `empty image`, `unreadable image` or `image too large`, with `name` in the detail.
    """
    if not data:
        raise RecordError("empty image", name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise RecordError("image too large", f"{name}: {image.width}x{image.height} pixels")
        image.load()
    except RecordError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RecordError("image too large", f"{name}: {error}") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, TypeError) as error:
        raise RecordError("unreadable image", f"{name}: {error}") from error
    return image


def check(sample: Sample) -> Sample:
    """The sample itself where its image decodes, its size is as stated and every box lies inside.

    Raises:
        RecordError: with one of the reasons `empty image`, `unreadable image`, `image too large`, `size mismatch`,
            `unknown band`, `unknown kind`, `impossible montage answer`, `degenerate box`, `box outside image`,
            `point outside image`, `unknown caption state`.
    """
    if sample.band not in BANDS:
        raise RecordError("unknown band", f"{sample.band!r}; known: {', '.join(BANDS)}")
    if sample.kind not in KINDS:
        raise RecordError("unknown kind", f"{sample.kind!r}; known: {', '.join(KINDS)}")
    if sample.caption_state not in CAPTION_STATES:
        raise RecordError("unknown caption state", f"{sample.caption_state!r}; known: {', '.join(CAPTION_STATES[1:])}")
    image = open_image(sample.infrared, sample.origin or sample.sample_id)
    if image.size != (sample.width, sample.height):
        raise RecordError("size mismatch", f"stated {sample.width}x{sample.height}, is {image.width}x{image.height}")
    if sample.visible:
        open_image(sample.visible, f"visible pair of {sample.origin or sample.sample_id}")
    if sample.montage_answer not in (0, *range(2, 9)):
        raise RecordError("impossible montage answer", f"{sample.montage_answer}; 2 to 8, or 0 for no montage")
    for box in sample.boxes:
        corners = (box.x1, box.y1, box.x2, box.y2)
        if not all(np.isfinite(corners)) or box.x2 <= box.x1 or box.y2 <= box.y1:
            raise RecordError("degenerate box", f"{box.category} {corners}")
        if box.x1 < -1 or box.y1 < -1 or box.x2 > sample.width + 1 or box.y2 > sample.height + 1:
            raise RecordError("box outside image", f"{box.category} {corners} in {sample.width}x{sample.height}")
    for point in sample.points:
        # written so that a comparison with NaN, which is false, rejects too
        if not (-1 <= point.x <= sample.width + 1 and -1 <= point.y <= sample.height + 1):
            place = f"{point.category} {(point.x, point.y)} in {sample.width}x{sample.height}"
            raise RecordError("point outside image", place)
    return sample


def png_bytes(pixels: np.ndarray) -> bytes:
    """Encode an 8-bit array, `h w` gray or `h w 3` RGB, as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()


def content_hash(data: bytes) -> str:
    """SHA-256 of the bytes, 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def to_table(samples: Iterable[Sample]) -> pa.Table:
    """Rows of `SCHEMA`, in the order given."""
    rows = []
    for sample in samples:
        row = {f.name: getattr(sample, f.name) for f in fields(Sample)}
        for image in ("infrared", "visible"):
            row[image] = row[image] or None  # nothing, rather than an image of no bytes
        row["boxes"] = [asdict(box) for box in sample.boxes]
        row["points"] = [asdict(point) for point in sample.points]
        row["facts"] = [{"key": key, "value": value} for key, value in sorted(sample.facts.items())]
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def from_table(table: pa.Table) -> Iterator[Sample]:
    """The samples of a table written by `to_table`.

    Raises:
        ValueError: a column of the schema is missing; the message lists which.
    """
    if missing := set(SCHEMA.names) - set(table.column_names):
        raise ValueError(f"not a table of samples, it lacks the columns {sorted(missing)}")
    for row in table.select(SCHEMA.names).to_pylist():
        row["boxes"] = tuple(Box(**box) for box in row["boxes"])
        row["points"] = tuple(Point(**point) for point in row["points"])
        row["infrared"], row["visible"] = row["infrared"] or b"", row["visible"] or b""
        row["facts"] = {fact["key"]: fact["value"] for fact in row["facts"]}
        yield Sample(**row)


def read_samples(file: Path) -> list[Sample]:
    """All samples of one Parquet file of this schema."""
    return list(from_table(pq.read_table(file)))
