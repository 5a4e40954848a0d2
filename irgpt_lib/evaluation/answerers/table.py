"""The table of answers: one row a question, in memory and as a file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from irgpt_lib.artifacts import atomic
from irgpt_lib.evaluation.answerers.answerer import Answerer, Given

PREDICTION_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("question_id", "sample_id", "shown", "task", "question", "output", "finish")]
    + [(name, pa.int32()) for name in ("prompt_tokens", "completion_tokens")]
    + [(name, pa.string()) for name in ("model", "key", "fault")]
)
PREDICTION_COLUMNS = PREDICTION_SCHEMA.names
ANSWER_FIELDS = [field.name for field in fields(Given) if field.name != "question_id"]


def predictions(
    answerer: Answerer, questions: pd.DataFrame, images: Mapping[str, bytes], shown: Sequence[str] | None = None
) -> pd.DataFrame:
    """One row a question, in the order of the table: `PREDICTION_COLUMNS`; without `shown` each has its own image.

    Raises:
        ValueError: a question id occurs twice, `shown` has another length, or an image is missing; names the first.
        RuntimeError: the answerer left a question out.
    """
    names = questions["sample_id"].tolist() if shown is None else list(shown)
    if len(names) != len(questions):
        raise ValueError(f"{len(questions)} questions but {len(names)} images to show")
    if (twice := questions["question_id"].duplicated()).any():
        raise ValueError(f"the question id {questions['question_id'][twice].iloc[0]} occurs twice; ids must be unique")
    if absent := [name for name in names if name not in images]:
        raise ValueError(f"{len(absent)} questions have no image, the first is about {absent[0]}; name its dataset")
    given = {answer.question_id: answer for answer in answerer.answers(questions, images, names)}
    if left := [name for name in questions["question_id"] if name not in given]:
        raise RuntimeError(f"{answerer.name} left out {len(left)} of {len(questions)} questions, the first {left[0]}")
    rows = [asdict(given[name]) for name in questions["question_id"]]
    asked = questions[["question_id", "sample_id", "task", "question"]].reset_index(drop=True).assign(shown=names)
    return asked.join(pd.DataFrame(rows, columns=ANSWER_FIELDS))[PREDICTION_COLUMNS]


def write_predictions(table: pd.DataFrame, file: Path) -> None:
    """The predictions as one file, whole or not at all: JSON lines where its name ends with `.jsonl`, else Parquet."""
    rows = pa.Table.from_pandas(table, schema=PREDICTION_SCHEMA, preserve_index=False).replace_schema_metadata(None)
    with atomic(file) as part:
        if file.suffix == ".jsonl":
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows.to_pylist())
            part.write_text("".join(lines), encoding="utf-8")
        else:
            pq.write_table(rows, part, compression="zstd")
