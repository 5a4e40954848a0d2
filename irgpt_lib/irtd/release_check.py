"""Whether the released questions hold: against the boxes of their frames, against their grammar, against local images.

The release was made by rules (see the `released` half of each task); a record that a rule does not reproduce has to be
explained. Records about images without boxes here are checked for their grammar alone.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from irgpt_lib.irtd.record import Rejected, Sample
from irgpt_lib.irtd.release import ReleasedRecord
from irgpt_lib.irtd.sources.files import first_folder, list_images
from irgpt_lib.irtd.sources.flir import FRAMES
from irgpt_lib.irtd.sources.reading import known_source, read
from irgpt_lib.irtd.sources.storing import replacing
from irgpt_lib.tasks import TASKS

FLIR_DATASET = "63-FLIR_ADAS"
FLIR_SOURCE = "flir_roadscene"
# A released number agrees where it lies this close: a thousandth in Location, a pixel in Grounding.
TOLERANCE = 1

Verdict = Literal["agrees", "open", "differs"]


@dataclass(frozen=True)
class Comparison:
    """One released record beside what the rule makes of the frame's boxes.

    `open`: the text leaves open which object is meant, and the released answer is one of those admitted.
    `explanation` says why a record differs. `flaw` says what is wrong with the released answer itself, agreed or not;
    empty where nothing is.
    """

    task: str
    file: str
    index: int
    image: str
    question: str
    released: str
    admitted: tuple[str, ...]
    verdict: Verdict
    explanation: str = ""
    flaw: str = ""


@dataclass(frozen=True)
class Unreadable:
    """A released answer that the task's own parser cannot read."""

    task: str
    file: str
    index: int
    answer: str


@dataclass(frozen=True)
class Located:
    """Where a record's image lies here, `None` with the reason in `why` where it does not."""

    record: ReleasedRecord
    file: Path | None
    why: str = ""


def frames_of(folder: Path, format: str = "", source: str = FLIR_SOURCE) -> tuple[dict[str, Sample], list[Rejected]]:
    """The samples of a FLIR folder by the stem of their image, without their pixels, and what was rejected.

    Raises:
        UnknownName, MissingData, MalformedFile: see `irgpt_lib.irtd.sources.read`.
    """
    known = known_source(source)
    samples: dict[str, Sample] = {}
    rejected = []
    for item in read(format or known.format, folder, known):
        if isinstance(item, Rejected):
            rejected.append(item)
        else:
            samples[PurePosixPath(item.origin).stem] = replace(item, infrared=b"", visible=b"")
    return samples, rejected


def frames_folder(folder: Path) -> Path:
    """Where a FLIR folder keeps its full frames, which its crops share their names with; else the folder itself."""
    return first_folder(folder, FRAMES) or folder


def dataset_of(record: ReleasedRecord) -> str:
    """The folder of the data set in the released path, `63-FLIR_ADAS`; empty where no part begins with a number."""
    return next((part for part in PurePosixPath(record.image).parts if part.partition("-")[0].isdigit()), "")


def compare(record: ReleasedRecord, sample: Sample) -> Comparison:
    """One record beside the boxes of its frame."""
    released = TASKS[record.task].released
    admitted = released.answers(record.question, sample) if released else ()
    verdict: Verdict = "differs"
    if any(same_answer(record.task, record.answer, answer) for answer in admitted):
        verdict = "agrees" if len(admitted) == 1 else "open"
    return Comparison(
        task=record.task,
        file=record.file,
        index=record.index,
        image=record.image_name,
        question=record.question,
        released=record.answer,
        admitted=admitted,
        verdict=verdict,
        explanation=explain(record, sample, admitted) if verdict == "differs" else "",
        flaw=flaw(record, sample, admitted),
    )


def same_answer(task: str, released: str, ours: str) -> bool:
    """Equal texts, or in Location and Grounding numbers no more than `TOLERANCE` apart, in their order."""
    if released == ours or task not in ("location", "grounding"):
        return released == ours
    theirs, own = numbers(task, released), numbers(task, ours)
    close = len(theirs) == len(own) and all(abs(a - b) <= TOLERANCE for a, b in zip(theirs, own, strict=True))
    return bool(own) and close


def numbers(task: str, answer: str) -> list[float]:
    """The coordinates of an answer in one row, none where it cannot be read."""
    parsed = TASKS[task].read(answer) or []
    return [n for point in parsed for n in point] if task == "location" else list(parsed)


def explain(record: ReleasedRecord, sample: Sample, admitted: Sequence[str]) -> str:
    """Why a record differs from its rule."""
    if TASKS[record.task].read(record.answer) is None:
        return "the released answer cannot be read"
    if record.task == "location" and admitted:
        return explain_points(record.answer, admitted[0])
    if record.task == "grounding":
        corners = {tuple(round(c) for c in (b.x1, b.y1, b.x2, b.y2)) for b in sample.boxes}
        known = tuple(numbers("grounding", record.answer)) in corners
        return "another box of the frame, or another wording" if known else "a box that the frame lacks"
    return "the rule answers otherwise" if admitted else "the release asks about what the boxes lack"


def explain_points(released: str, ours: str) -> str:
    """How two lists of points differ."""
    theirs, own = (Counter(map(tuple, TASKS["location"].read(text) or [])) for text in (released, ours))
    if theirs == own:
        return "tie: the same points in another order"
    if theirs < own:
        return "box dropped by the release"
    return "box that the frame lacks" if own < theirs else "other points"


def flaw(record: ReleasedRecord, sample: Sample, admitted: Sequence[str]) -> str:
    """What is wrong with a released answer, whether or not the rule reproduces it."""
    if record.task == "grounding" and " located to the left of the " in record.question:
        return "boxes the reference, not the object that it asks for"
    if record.task == "relationship" and len(admitted) > 1:
        return "the answer depends on an object that the text does not name"
    if record.task == "security":
        annotated = {box.category for box in sample.boxes}
        called_absent = [option.partition(") ")[2] for option in TASKS["security"].read(record.answer) or ()]
        if shown := sorted(annotated & set(called_absent)):
            return f"calls absent what is annotated: {', '.join(shown)}"
    return ""


def compare_all(records: Iterable[ReleasedRecord], frames: Mapping[str, Sample]) -> list[Comparison]:
    """Every record about one of the frames, named by the stem of its image."""
    return [
        compare(record, frames[PurePosixPath(record.image).stem])
        for record in records
        if dataset_of(record) == FLIR_DATASET and PurePosixPath(record.image).stem in frames
    ]


def unreadable(records: Iterable[ReleasedRecord]) -> list[Unreadable]:
    """The released answers that the parser of their task cannot read."""
    return [
        Unreadable(record.task, record.file, record.index, record.answer)
        for record in records
        if TASKS[record.task].read(record.answer) is None
    ]


def plain(name: str) -> str:
    """A folder's name without its number, case and punctuation: `63-FLIR_ADAS` and `flir_adas` are one."""
    number, dash, rest = name.partition("-")
    return "".join(c for c in (rest if dash and number.isdigit() else name).lower() if c.isalnum())


class ImageIndex:
    """The images below one folder of one data set, found by the end of a released path."""

    def __init__(self, folder: Path) -> None:
        self.by_stem: dict[str, list[Path]] = defaultdict(list)
        for image in list_images(folder):
            self.by_stem[image.stem].append(image)

    def find(self, released: str) -> tuple[Path | None, str]:
        """The image whose path ends most like the released one; `.jpeg` and `.png` of one stem are one image.

        Names repeat (`train/0001.jpg`, `valid/0001.jpg`), so that several images that end equally alike are no find.
        """
        wanted = PurePosixPath(released)
        named = self.by_stem.get(wanted.stem, [])
        if not named:
            return None, "no image of that name"
        ranked = sorted(named, key=lambda p: (-common_end(p.parent.parts, wanted.parent.parts), p.name != wanted.name))
        best = [p for p in ranked if likeness(p, wanted) == likeness(ranked[0], wanted)]
        return (best[0], "") if len(best) == 1 else (None, f"{len(best)} images end alike, the first is {best[0]}")


def likeness(found: Path, wanted: PurePosixPath) -> tuple[int, bool]:
    """How many folders two paths share at their ends, and whether their names are equal with the suffix."""
    return common_end(found.parent.parts, wanted.parent.parts), found.name == wanted.name


def common_end(first: Sequence[str], second: Sequence[str]) -> int:
    """How many last parts two paths share."""
    count = 0
    for a, b in zip(reversed(first), reversed(second), strict=False):
        if a != b:
            break
        count += 1
    return count


def dataset_folders(root: Path, datasets: Iterable[str]) -> dict[str, Path]:
    """The folder directly below `root` of each data set that has one, under its released name or without number."""
    own = {plain(folder.name): folder for folder in sorted(root.iterdir()) if folder.is_dir()} if root.is_dir() else {}
    return {dataset: own[plain(dataset)] for dataset in datasets if plain(dataset) in own}


def locate_images(records: Iterable[ReleasedRecord], folders: Mapping[str, Path]) -> Iterator[Located]:
    """Each record with its image here; `folders` holds the folder of each data set, by its released name."""
    indices: dict[str, ImageIndex] = {}
    for record in records:
        dataset = dataset_of(record)
        if dataset not in folders:
            yield Located(record, None, "no folder of that data set")
            continue
        if dataset not in indices:
            indices[dataset] = ImageIndex(folders[dataset])
        file, why = indices[dataset].find(record.image)
        yield Located(record, file, why)


def write_manifest(located: Iterable[Located], file: Path) -> int:
    """One JSON line a record whose image was found, with the image's local path; how many were written.

    Keys: `task`, `id`, `image` (local), `released_image`, `dataset`, `question`, `answer`, `box_frame`, `file`,
    `index`. The file is written whole or not at all.
    """
    count = 0
    with replacing(file) as draft, draft.open("w", encoding="utf-8") as lines:
        for item in located:
            if item.file is None:
                continue
            record = item.record
            row = {
                "task": record.task,
                "id": record.record_id,
                "image": item.file.as_posix(),
                "released_image": record.image,
                "dataset": dataset_of(record),
                "question": record.question,
                "answer": record.answer,
                "box_frame": record.box_frame,
                "file": record.file,
                "index": record.index,
            }
            lines.write(json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n")
            count += 1
    return count


def tasks_report(comparisons: Sequence[Comparison]) -> dict[str, dict[str, int]]:
    """For each task, how many records agree, are open and differ."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for item in comparisons:
        counts[item.task][item.verdict] += 1
    return {task: {verdict: counts[task][verdict] for verdict in ("agrees", "open", "differs")} for task in counts}


def coverage(located: Sequence[Located]) -> dict[str, dict[str, int]]:
    """For each data set, how many records and images it has and how many of them were found."""
    report: dict[str, dict[str, int]] = {}
    by_dataset: dict[str, list[Located]] = defaultdict(list)
    for item in located:
        by_dataset[dataset_of(item.record)].append(item)
    for dataset, items in sorted(by_dataset.items()):
        found = [item for item in items if item.file]
        report[dataset] = {
            "records": len(items),
            "records_found": len(found),
            "images": len({item.record.image for item in items}),
            "images_found": len({item.record.image for item in found}),
        }
    return report


def full_report(
    records: Sequence[ReleasedRecord],
    comparisons: Sequence[Comparison],
    located: Sequence[Located],
    rejected: Sequence[Rejected] = (),
) -> dict[str, Any]:
    """All that was found, in a form that JSON can hold."""
    return {
        "records": len(records),
        "compared": len(comparisons),
        "tasks": tasks_report(comparisons),
        "differing": [asdict(item) for item in comparisons if item.verdict == "differs"],
        "explanations": dict(Counter(item.explanation for item in comparisons if item.explanation).most_common()),
        "flaws": dict(Counter(f"{item.task}: {item.flaw}" for item in comparisons if item.flaw).most_common()),
        "unreadable": [asdict(item) for item in unreadable(records)],
        "images": coverage(located),
        "rejected_frames": [asdict(item) for item in rejected],
    }


def report_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """The report as a person reads it."""
    yield f"{report['records']} released records, {report['compared']} of them about frames whose boxes are here"
    for task, counts in report["tasks"].items():
        settled = counts["agrees"] + counts["differs"]
        share = f"{100 * counts['agrees'] / settled:5.1f} %" if settled else "      -"
        yield f"  {task:14}{share} of {settled} settled by the boxes agree; {counts['open']} open to either answer"
    for item in report["differing"]:
        place = f"{item['file']} {item['index']} ({item['image']})"
        yield f"differs: {place}: {item['question']!r}: {item['released']!r}, rule: {item['admitted']}: " + str(
            item["explanation"]
        )
    for text, count in report["flaws"].items():
        yield f"flaw in the release, {count} x {text}"
    yield f"answers that cannot be read: {len(report['unreadable'])}"
    for item in report["unreadable"]:
        yield f"  {item['file']} {item['index']}: {item['answer']!r:.80}"
    for dataset, counts in report["images"].items():
        yield f"  {dataset:24}{counts['images_found']:6} of {counts['images']} images here"
    if report["rejected_frames"]:
        yield f"frames that could not be used: {len(report['rejected_frames'])}"
