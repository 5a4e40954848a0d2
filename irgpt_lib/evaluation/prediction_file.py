"""A file of answers that a model gave elsewhere: JSON lines, Parquet, CSV or TSV, one row an answer."""

import csv
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from irgpt_lib.irtd.record import Rejected
from irgpt_lib.irtd.sources import MalformedFile, MissingData
from irgpt_lib.irtd.sources.assembly import printable

SOURCE = "predictions"
REASONS = ("malformed row", "unknown question", "repeated answer", "contradicting answers", "missing answer")
NAMED = 3
Row = tuple[str, Any]


@dataclass(frozen=True)
class Answers:
    """The answers that a file gives to the questions asked.

    `outputs` are texts by question id; a question without one has no answer. `faults` are in the order of the file,
    missing answers last, each with a reason of `REASONS`.
    """

    outputs: Mapping[str, str]
    faults: tuple[Rejected, ...]

    def counts(self) -> dict[str, int]:
        """How often each reason occurs, 0 for one that does not."""
        found = Counter(fault.reason for fault in self.faults)
        return {reason: found[reason] for reason in REASONS}


def json_rows(file: Path) -> Iterator[Row]:
    """The lines of a JSON lines file, blank ones left out."""
    with file.open(encoding="utf-8-sig", newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield f"line {number}", json.loads(line)
                except (json.JSONDecodeError, RecursionError) as error:
                    yield f"line {number}", error


def csv_rows(file: Path) -> Iterator[Row]:
    """The rows of a CSV file with a header; of a TSV file where its name ends so."""
    with file.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, delimiter="\t" if file.suffix.lower() == ".tsv" else ",")
        for row in reader:
            yield f"line {reader.line_num}", row


def parquet_rows(file: Path) -> Iterator[Row]:
    """The rows of a Parquet file, from 0."""
    with pq.ParquetFile(file) as table:
        number = 0
        for batch in table.iter_batches():
            for row in batch.to_pylist():
                yield f"row {number}", row
                number += 1


READERS = {
    ".jsonl": json_rows,
    ".ndjson": json_rows,
    ".csv": csv_rows,
    ".tsv": csv_rows,
    ".parquet": parquet_rows,
}


def rows_of(file: Path) -> Iterator[Row]:
    """The rows of a prediction file, each with its place; what cannot be decoded comes as the error.

    Raises:
        MissingData: there is no such file.
        MalformedFile: its name ends with none of `READERS`, or it cannot be read at all.
    """
    if not file.is_file():
        raise MissingData(f"{file}: no such file")
    if file.suffix.lower() not in READERS:
        raise MalformedFile(f"{file}: its name must end with one of {', '.join(READERS)}")
    try:
        yield from READERS[file.suffix.lower()](file)
    except UnicodeDecodeError as error:
        raise MalformedFile(f"{file}: not UTF-8 at byte {error.start}; convert it to UTF-8") from error
    except (csv.Error, pa.ArrowException) as error:
        raise MalformedFile(f"{file}: {str(error).splitlines()[0]}; write it again") from error


def text_of(value: Any) -> str | None:
    """A text, or a whole number as one; None for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else None


def read_answers(
    file: Path,
    ids: Collection[str],
    *,
    id_field: str = "question_id",
    output_field: str = "output",
    where: Mapping[str, str] | None = None,
) -> Answers:
    """The answers of a prediction file to the questions `ids`.

    Rows that differ from `where` in one of its columns are passed over. A question that is answered twice alike keeps
    its answer; one that is answered in two ways has none, for a model must not choose its best. A row whose output is
    null gives no answer.

    Raises:
        MissingData, MalformedFile: see `rows_of`; also where no row has the two fields, which names those it has.
    """
    faults: list[Rejected] = []

    def fault(place: str, reason: str, detail: str) -> None:
        faults.append(Rejected(SOURCE, file.name, place, reason, printable(detail)))

    known, wanted = set(ids), dict(where or {})
    outputs: dict[str, str | None] = {}
    refused: set[str] = set()
    fields: set[str] = set()
    for place, row in rows_of(file):
        if not isinstance(row, dict):
            fault(place, "malformed row", str(row) if isinstance(row, Exception) else f"no object: {row!r:.80}")
            continue
        fields |= {str(key) for key in row}
        if any(str(row.get(key)) != value for key, value in wanted.items()):
            continue
        name, output = text_of(row.get(id_field)), text_of(row.get(output_field))
        if name is None or (output is None and row.get(output_field, "") is not None):
            bad = id_field if name is None else output_field
            fault(place, "malformed row", f"{bad} must be a text, found {row.get(bad, 'nothing')!r:.80}")
        elif name not in known:
            fault(place, "unknown question", name)
        elif name in outputs or name in refused:
            alike = outputs.get(name, "") == output
            fault(place, "repeated answer" if alike else "contradicting answers", name)
            if not alike:
                outputs.pop(name, None)
                refused.add(name)
        else:
            outputs[name] = output
    if not {id_field, output_field} <= fields:
        found = ", ".join(sorted(fields)) or "none"
        raise MalformedFile(
            f"{file}: no row has both {id_field} and {output_field}; the fields are {found}; name them with "
            "--id-field and --output-field"
        )
    given = {name: output for name, output in outputs.items() if output is not None}
    for name in sorted(known - given.keys() - refused):
        fault("whole file", "missing answer", name)
    return Answers(given, tuple(faults))


def within(answers: Answers, questions: int, most: float) -> None:
    """Nothing where the faults are at most a share `most` (0-1) of the questions.

    Raises:
        MalformedFile: they are more; the message counts each reason and names the first ones.
    """
    if len(answers.faults) <= most * questions:
        return
    told = []
    for reason, count in answers.counts().items():
        first = [f"{f.record} {f.detail}" for f in answers.faults if f.reason == reason][:NAMED]
        if count:
            told.append(f"{count} x {reason} ({'; '.join(first)}{'; ...' if count > NAMED else ''})")
    raise MalformedFile(
        f"{answers.faults[0].file}: {len(answers.faults)} faults in {questions} questions, more than a share of "
        f"{most:g}: {', '.join(told)}. Mend the file, ask for fewer --tasks, or allow more with --max-faults"
    )
