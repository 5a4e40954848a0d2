"""The released IR-TD instruction set: `json_sft/*.json` of WheatCao/ICCV2025-IRGPT, one file a task.

A record is LLaVA's `{id, image: [path], conversations: [{from, value}, {from, value}]}`. `Detection.json` was
released without the enclosing brackets and with a comma at its end; it is read all the same, and what was put
right is told.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from irgpt_lib.irtd.record import RecordError, Rejected
from irgpt_lib.irtd.sources.assembly import printable
from irgpt_lib.irtd.sources.source import MissingData
from irgpt_lib.irtd.sources.storing import replacing

TASK_OF_FILE = {
    "Recognition": "recognition",
    "Detection": "grounding",
    "Location": "location",
    "Relationship": "relationship",
    "ReID": "reid",
    "Security": "security",
    "AerialCounting": "aerial_counting",
    "PedestrianCounting": "pedestrian_counting",
    "Scene": "scene",
}
BOX_FRAME = {"grounding": "pixel_xyxy", "location": "normalised_1000"}
IMAGE_TOKEN = "<image>\n"
HOME = "https://github.com/WheatCao/ICCV2025-IRGPT (json_sft/json_sft.zip), academic use"
SOURCE = "irtd_release"


@dataclass(frozen=True)
class ReleasedRecord:
    """One released question with its answer.

    `image` is the path on its authors' disk, `question` comes without the leading image token and otherwise
    to the letter, `index` is the record's place in `file`, from 0.
    """

    task: str
    record_id: str
    image: str
    question: str
    answer: str
    file: str
    index: int

    @property
    def box_frame(self) -> str:
        """Frame of the numbers in the answer: `pixel_xyxy`, `normalised_1000`, or empty where it has none."""
        return BOX_FRAME.get(self.task, "")

    @property
    def image_name(self) -> str:
        """The image's file name."""
        return PurePosixPath(self.image).name

    @property
    def source_index(self) -> int | None:
        """The number of the source data set, from the folder `63-FLIR_ADAS` in the path; `None` where none
        is."""
        found = re.search(r"/(\d+)-[^/]+/", self.image)
        return int(found[1]) if found else None


@dataclass(frozen=True)
class Repair:
    """What was put right in a file to read it."""

    file: str
    what: str
    count: int


SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("task", "record_id", "image", "question", "answer", "file")]
    + [("index", pa.int32()), ("box_frame", pa.string()), ("source_index", pa.int16())]
)


class Piece(NamedTuple):
    """A part of a damaged file: a decoded value, or, with `error` set, the text that is none."""

    value: Any
    error: str


def decode_loose(text: str) -> tuple[list[Piece], dict[str, int]]:
    """The values of a JSON list whose brackets or commas are wrong, and how often each repair was needed.

    After a value that cannot be decoded, reading goes on at the next line that opens an object.
    """
    decoder = json.JSONDecoder()
    pieces: list[Piece] = []
    repairs: dict[str, int] = {}

    def repaired(what: str) -> None:
        repairs[what] = repairs.get(what, 0) + 1

    body = text.strip()
    if not body.startswith("["):
        repaired("missing opening bracket")
    if not body.endswith("]"):
        repaired("missing closing bracket")
    position, end = text.find("[") + 1 if body.startswith("[") else 0, len(text)
    comma = True
    while (position := _skip_blanks(text, position)) < end:
        if text[position] == ",":
            if comma and pieces:
                repaired("superfluous comma")
            comma, position = True, position + 1
            continue
        if text[position] == "]" and not text[position + 1 :].strip():
            break
        if pieces and not comma:
            repaired("missing comma")
        comma = False
        try:
            value, position = decoder.raw_decode(text, position)
            pieces.append(Piece(value, ""))
        except (json.JSONDecodeError, RecursionError) as error:
            pieces.append(Piece(None, str(error) or type(error).__name__))
            following = re.compile(r"^\s*\{", re.MULTILINE).search(text, position + 1)
            position, comma = (following.end() - 1, True) if following else (end, False)
    if comma and pieces:
        repaired("trailing comma")
    return pieces, repairs


def _skip_blanks(text: str, position: int) -> int:
    """The next place that is no white space."""
    return re.compile(r"\s*").match(text, position).end()  # type: ignore[union-attr]


def decode(text: str) -> tuple[list[Piece], dict[str, int]]:
    """The values of a JSON list, strictly where it is one, else as `decode_loose` finds them."""
    try:
        values = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return decode_loose(text)
    if isinstance(values, dict):
        return [Piece(values, "")], {"single object instead of a list": 1}
    return [Piece(value, "") for value in values] if isinstance(values, list) else [Piece(values, "")], {}


def single_text(value: Any, name: str) -> str:
    """A text, or the only text of a list.

    Raises:
        RecordError: `malformed record` where it is anything else or blank.
    """
    text = value[0] if isinstance(value, list) and len(value) == 1 else value
    if not isinstance(text, str) or not text.strip() or printable(text) != text:
        raise RecordError("malformed record", f"{name} must be one text, found {value!r:.80}")
    return text


def parse_record(value: Any, task: str, file: str, index: int) -> ReleasedRecord:
    """One decoded record.

    Raises:
        RecordError: `malformed record`; the detail names the field and what it holds.
    """
    if not isinstance(value, dict):
        raise RecordError("malformed record", f"expected an object, found {value!r:.80}")
    if lacking := [key for key in ("id", "image", "conversations") if key not in value]:
        raise RecordError("malformed record", f"lacks {', '.join(lacking)}; it has {', '.join(map(str, value))}")
    turns = value["conversations"]
    if not isinstance(turns, list) or [t.get("from") for t in turns if isinstance(t, dict)] != [
        "human",
        "gpt",
    ]:
        raise RecordError("malformed record", f"conversations must be one human and one gpt turn: {turns!r:.80}")
    if len(turns) != 2:
        raise RecordError("malformed record", f"conversations holds {len(turns)} entries, expected 2")
    question = single_text(turns[0].get("value"), "the question")
    identifier = value["id"]
    if isinstance(identifier, bool) or not isinstance(identifier, (str, int)):
        raise RecordError("malformed record", f"id must be a text or a number, found {identifier!r:.80}")
    return ReleasedRecord(
        task=task,
        record_id=printable(str(identifier)),
        image=single_text(value["image"], "image"),
        question=question.removeprefix(IMAGE_TOKEN),
        answer=single_text(turns[1].get("value"), "the answer"),
        file=file,
        index=index,
    )


def read_file(file: Path) -> Iterator[ReleasedRecord | Rejected | Repair]:
    """The records of one task file, its name saying the task, then the repairs that reading it took."""
    if file.stem not in TASK_OF_FILE:
        detail = f"known: {', '.join(f'{stem}.json' for stem in TASK_OF_FILE)}"
        yield Rejected(SOURCE, file.name, "whole file", "unknown task file", detail)
        return
    data = file.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        yield Rejected(SOURCE, file.name, "whole file", "not UTF-8", f"at byte {error.start}; convert it to UTF-8")
        return
    pieces, repairs = decode(text)
    for index, piece in enumerate(pieces):
        try:
            if piece.error:
                raise RecordError("not JSON", piece.error)
            yield parse_record(piece.value, TASK_OF_FILE[file.stem], file.name, index)
        except RecordError as error:
            yield Rejected(SOURCE, file.name, f"record {index}", error.reason, error.detail)
    for what, count in sorted(repairs.items()):
        yield Repair(file.name, what, count)


def read_release(root: Path) -> tuple[list[ReleasedRecord], list[Rejected], list[Repair]]:
    """All records of all task files in `root`, files by name, records in their order; what was rejected;
    repairs.

    Raises:
        MissingData: the folder is absent or holds none of the nine task files.
    """
    files = sorted(root.glob("*.json")) if root.is_dir() else []
    if not any(file.stem in TASK_OF_FILE for file in files):
        found = "no task file in it" if root.is_dir() else "no such folder"
        names = ", ".join(f"{stem}.json" for stem in TASK_OF_FILE)
        raise MissingData(f"{root}: {found}. Expected some of {names}. Get them from {HOME}.")
    items = [item for file in files for item in read_file(file)]
    return (
        [item for item in items if isinstance(item, ReleasedRecord)],
        [item for item in items if isinstance(item, Rejected)],
        [item for item in items if isinstance(item, Repair)],
    )


def write_parquet(records: list[ReleasedRecord], file: Path) -> None:
    """One row a record, with its coordinate frame and the number of its source, written whole or not at
    all."""
    rows = [asdict(r) | {"box_frame": r.box_frame, "source_index": r.source_index} for r in records]
    with replacing(file) as draft:
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), draft, compression="zstd")
