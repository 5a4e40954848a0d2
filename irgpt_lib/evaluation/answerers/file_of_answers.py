"""A model that ran elsewhere, by the file of its answers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from irgpt_lib.evaluation.answerers.answerer import Given
from irgpt_lib.evaluation.prediction_file import read_answers, within
from irgpt_lib.irtd.card import file_sha256

NAME_DIGITS = 12


@dataclass(frozen=True)
class FileOfAnswers:
    """An answerer: JSON lines, Parquet, CSV or TSV with a question id and an output a row.

    `where` takes only rows with these values. Faults of the file may come to a share `max_faults` of the questions;
    a question without an answer there has none here either.
    """

    file: Path
    id_field: str = "question_id"
    output_field: str = "output"
    where: Mapping[str, str] = field(default_factory=dict)
    max_faults: float = 0.0

    @property
    def name(self) -> str:
        return self.file.name

    def answers(self, questions: pd.DataFrame, images: Mapping[str, bytes], shown: Sequence[str]) -> Iterator[Given]:
        """See `Answerer`; the images are the file's own affair.

        Raises:
            MissingData, MalformedFile: see `read_answers` and `within`.
        """
        ids = questions["question_id"].tolist()
        found = read_answers(self.file, ids, id_field=self.id_field, output_field=self.output_field, where=self.where)
        within(found, len(ids), self.max_faults)
        name = f"{self.name}@{file_sha256(self.file)[:NAME_DIGITS]}"
        for question_id in ids:
            output = found.outputs.get(question_id)
            yield Given(question_id, output, model=name, fault="missing answer" if output is None else "")
