"""The dataset in the two JSON forms that the release describes, written and read.

`llava`: the files of `json_sft`, one a task, `{id, image: [path], conversations: [{from, value}, ...]}`, and for the
captions the prompt of stage 1; a describer's conversations stand in a file of their own. `readme`: the record of the
release's README, one line an image: `description`, `qa_pairs`, `bounding_boxes` and `scene`. Images are written beside
them as they are. The README does not say in which frame its boxes are; here each record names it.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from irgpt_lib.irtd.captions import CAPTION_PROMPT
from irgpt_lib.irtd.conversing import KEPT
from irgpt_lib.irtd.instructions import Conversation, to_llava
from irgpt_lib.irtd.record import BANDS, Box, RecordError, Rejected, Sample, check
from irgpt_lib.irtd.release import IMAGE_TOKEN, TASK_OF_FILE
from irgpt_lib.irtd.sources.boxes import make_box
from irgpt_lib.irtd.sources.files import inside, read_toned
from irgpt_lib.irtd.sources.source import MalformedFile, MissingData
from irgpt_lib.irtd.sources.storing import replacing

FILE_OF_TASK = {task: stem for stem, task in TASK_OF_FILE.items()}
CAPTIONS = "Captions"
CONVERSATIONS = "Conversations"
FRAME_OF_BOXES = "pixel_xyxy"
README_FILE = "annotations.jsonl"
SIGNATURES = {b"\x89PNG": "png", b"\xff\xd8": "jpg"}


def image_suffix(data: bytes) -> str:
    """`png` or `jpg`, by the first bytes of the file.

    Raises:
        RecordError: `unreadable image` where it is neither.
    """
    for signature, suffix in SIGNATURES.items():
        if data.startswith(signature):
            return suffix
    raise RecordError("unreadable image", "neither PNG nor JPEG")


def image_path(sample: Sample) -> str:
    """Where a sample's infrared image lies below the export's folder: `images/<sample id>.png`."""
    return f"images/{sample.sample_id}.{image_suffix(sample.infrared)}"


def write_image(sample: Sample, folder: Path) -> str:
    """Write the infrared image and return its path below `folder`."""
    name = image_path(sample)
    file = inside(folder, name)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(sample.infrared)
    return name


def turns(question: str, answer: str) -> list[dict[str, str]]:
    """One question with its answer as LLaVA has it."""
    return [{"from": "human", "value": f"{IMAGE_TOKEN}{question}"}, {"from": "gpt", "value": answer}]


def write_json_list(records: Iterable[Mapping[str, Any]], file: Path) -> int:
    """A JSON list, a record a line, without holding more than one record; the number of records."""
    count = 0
    with replacing(file) as draft, draft.open("w", encoding="utf-8") as lines:
        lines.write("[")
        for record in records:
            lines.write(("," if count else "") + "\n" + json.dumps(record, ensure_ascii=False))
            count += 1
        lines.write("\n]\n")
    return count


def kept_conversations(rows: pd.DataFrame) -> list[Conversation]:
    """The conversations of the rows that `conversing.converse` kept, in their order; `rows` has its columns.

    Raises:
        ValueError: the turns of a row are not pairs of texts; names sample and kind.
    """
    return [conversation_of(row) for row in rows[rows["state"] == KEPT].itertuples()]


def conversation_of(row: Any) -> Conversation:
    """One row of `conversing.converse`; see `kept_conversations`."""
    turns = json.loads(row.turns)
    pairs = isinstance(turns, list) and all(isinstance(turn, list) and len(turn) == 2 for turn in turns)
    if not pairs or not turns or not all(isinstance(text, str) for turn in turns for text in turn):
        raise ValueError(f"{row.sample_id}, {row.kind}: turns must be pairs of texts, found {row.turns!r:.80}")
    removed = tuple(row.removed.split("; ")) if row.removed else ()
    return Conversation(row.sample_id, row.kind, tuple(map(tuple, turns)), row.by, row.prompt_key, removed)


def write_llava(
    samples: Iterable[Sample], questions: pd.DataFrame, folder: Path, conversations: Iterable[Conversation] = ()
) -> dict[str, int]:
    """Write images, one JSON file a task in the release's names, `Captions.json`, and `Conversations.json` where there
    are any; records by file.

    `questions` has the columns sample_id, question_id, task, question and answer. Samples of which there is no text
    write nothing.

    Raises:
        ValueError: the sample of a question or conversation is not among the samples.
    """
    asked = {name: rows for name, rows in questions.groupby("sample_id")}
    talked: dict[str, list[Conversation]] = {}
    for conversation in conversations:
        talked.setdefault(conversation.sample_id, []).append(conversation)
    records: dict[str, list[dict[str, Any]]] = {}
    for sample in samples:
        rows, talks = asked.pop(sample.sample_id, None), talked.pop(sample.sample_id, [])
        if rows is None and not talks and not sample.caption:
            continue
        path = write_image(sample, folder)
        if sample.caption:
            caption = {"id": sample.sample_id, "image": [path], "conversations": turns(CAPTION_PROMPT, sample.caption)}
            records.setdefault(CAPTIONS, []).append(caption)
        for row in rows.itertuples() if rows is not None else ():
            record = {"id": row.question_id, "image": [path], "conversations": turns(row.question, row.answer)}
            records.setdefault(FILE_OF_TASK[row.task], []).append(record)
        if talks:
            records.setdefault(CONVERSATIONS, []).extend(to_llava(talk, path) for talk in talks)
    for what, lost in (("questions", asked), ("conversations", talked)):
        if lost:
            raise ValueError(f"{len(lost)} samples with {what} are not in the dataset, the first {next(iter(lost))!r}")
    return {stem: write_json_list(found, folder / f"{stem}.json") for stem, found in sorted(records.items())}


def readme_record(sample: Sample, image: str, asked: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """One image in the schema of the release's README; `image`, `id`, `band` and `box_frame` are this study's own."""
    return {
        "id": sample.sample_id,
        "image": image,
        "band": sample.band,
        "description": sample.caption,
        "qa_pairs": [{"question": question, "answer": answer} for question, answer in asked],
        "bounding_boxes": [{"category": b.category, "bbox": [b.x1, b.y1, b.x2, b.y2]} for b in sample.boxes],
        "box_frame": FRAME_OF_BOXES,
        "scene": sample.scene,
    }


def write_readme(samples: Iterable[Sample], questions: pd.DataFrame, folder: Path) -> int:
    """Write images and `annotations.jsonl`, a line an image; the number of lines."""
    asked = {
        name: list(zip(rows["question"], rows["answer"], strict=True)) for name, rows in questions.groupby("sample_id")
    }
    count = 0
    with replacing(folder / README_FILE) as draft, draft.open("w", encoding="utf-8") as lines:
        for sample in samples:
            record = readme_record(sample, write_image(sample, folder), asked.get(sample.sample_id, ()))
            lines.write(json.dumps(record, ensure_ascii=False) + "\n")
            count += 1
    return count


def text_of(record: Mapping[str, Any], key: str) -> str:
    """A text of the record, empty where it is absent.

    Raises:
        RecordError: `malformed record` where it is something else.
    """
    value = record.get(key, "")
    if not isinstance(value, str):
        raise RecordError("malformed record", f"{key} must be a text, found {value!r:.60}")
    return value


def boxes_of(record: Mapping[str, Any]) -> tuple[Box, ...]:
    """The boxes of a record in pixels.

    Raises:
        RecordError: `unknown frame`, `malformed record`, or a reason of a box.
    """
    frame = record.get("box_frame", FRAME_OF_BOXES)
    if frame != FRAME_OF_BOXES:
        raise RecordError("unknown frame", f"box_frame {frame!r}; known: {FRAME_OF_BOXES}")
    entries = record.get("bounding_boxes", [])
    if not isinstance(entries, list):
        raise RecordError("malformed record", f"bounding_boxes must be a list, found {entries!r:.60}")
    boxes = []
    for number, entry in enumerate(entries):
        where = f"bounding_boxes[{number}]"
        if not isinstance(entry, dict) or not isinstance(entry.get("category"), str):
            raise RecordError("malformed record", f"{where} needs a category and a bbox: {entry!r:.60}")
        corners = entry.get("bbox")
        if not isinstance(corners, list) or len(corners) != 4:
            raise RecordError("malformed record", f"{where}: bbox must hold 4 numbers, found {corners!r:.60}")
        boxes.append(make_box(entry["category"].lower(), tuple(corners), where))
    return tuple(boxes)


def pairs_of(record: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The questions of a record with their answers.

    Raises:
        RecordError: `malformed record`.
    """
    entries = record.get("qa_pairs", [])
    if not isinstance(entries, list):
        raise RecordError("malformed record", f"qa_pairs must be a list, found {entries!r:.60}")
    pairs = []
    for entry in entries:
        if not isinstance(entry, dict) or not all(isinstance(entry.get(k), str) for k in ("question", "answer")):
            raise RecordError("malformed record", f"a qa_pair needs a question and an answer: {entry!r:.60}")
        pairs.append((entry["question"], entry["answer"]))
    return tuple(pairs)


def readme_sample(record: Any, root: Path, like: Sample) -> tuple[Sample, tuple[tuple[str, str], ...]]:
    """A record of the README's schema as a sample, and its questions; what it does not say is as in `like`.

    Raises:
        RecordError: the reasons of its parts, of the image and of `record.check`.
    """
    if not isinstance(record, dict):
        raise RecordError("malformed record", f"expected an object, found {record!r:.60}")
    name = text_of(record, "image")
    read = read_toned(inside(root, name))
    caption = text_of(record, "description")
    band = text_of(record, "band") or like.band
    if band not in BANDS:
        raise RecordError("unknown band", f"{band!r}; known: {', '.join(BANDS)}")
    sample_id = text_of(record, "id") or f"{like.source}/{Path(name).stem}"
    sample = replace(
        like,
        sample_id=sample_id,
        band=band,
        width=read.width,
        height=read.height,
        infrared=read.data,
        group=sample_id,
        scene=text_of(record, "scene"),
        boxes=boxes_of(record),
        caption=caption,
        caption_path="IV" if caption else "none",
        caption_from=sample_id if caption else "",
        caption_state="final" if caption else "",
        origin=name,
        facts=like.facts | read.facts,
    )
    return check(sample), pairs_of(record)


def read_readme(root: Path, like: Sample) -> Iterator[tuple[Sample, tuple[tuple[str, str], ...]] | Rejected]:
    """The records of `annotations.jsonl` below `root`, with their images; a bad one arrives as `Rejected`.

    Raises:
        MissingData: there is no such file.
        MalformedFile: it is not UTF-8.
    """
    file = root / README_FILE
    if not file.is_file():
        raise MissingData(f"{file}: no such file; it holds one record a line in the schema of the release's README")
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise MalformedFile(f"{file}: line {number} is not UTF-8; convert the file to UTF-8") from error
            if not text.strip():
                continue
            try:
                yield readme_sample(json.loads(text), root, like)
            except RecordError as error:
                yield Rejected(like.source, README_FILE, f"line {number}", error.reason, error.detail)
            except (ValueError, RecursionError) as error:
                yield Rejected(like.source, README_FILE, f"line {number}", "not JSON", str(error))
