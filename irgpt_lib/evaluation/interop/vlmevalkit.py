"""The benchmark as TSV files of VLMEvalKit, which go into the folder that its variable `LMUData` names.

`IRTD_openended` holds all nine tasks with their questions word by word. The kit's own metrics know neither boxes with
points nor several right options, so that file is for its inference; `irgpt score --predictions FILE --output-field
prediction` scores what it wrote. `IRTD_choice` holds Scene and Recognition as the kit puts multiple choice, in its own
words and with its own matching of letters.
"""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from irgpt_lib.artifacts import atomic
from irgpt_lib.tasks.task import LETTERS, write_options

OPEN_ENDED, CHOICE = "IRTD_openended", "IRTD_choice"
CHOICE_TASKS = ("scene", "recognition")
KEPT = ("question_id", "sample_id", "question", "answer")
# the kit takes a field up to this length for the index of the row that holds the image
SHORTEST_IMAGE = 65


def write_vlmevalkit(questions: pd.DataFrame, images: Mapping[str, bytes], folder: Path) -> dict[str, int]:
    """Write both TSV files, the second where it has questions, and return the number of questions of each.

    Raises:
        KeyError: a question's sample has no image.
        ValueError: a question of Scene or Recognition does not end with its options, or has not one right option.
    """
    asked = questions.to_dict("records")
    files = {OPEN_ENDED: [open_ended(row) for row in asked]}
    if chosen := [choice(row) for row in asked if row["task"] in CHOICE_TASKS]:
        files[CHOICE] = chosen
    for name, rows in files.items():
        table = pd.DataFrame(with_images(rows, images))
        with atomic(folder / f"{name}.tsv") as part:
            table.to_csv(part, sep="\t", index=False, lineterminator="\n")
    return {name: len(rows) for name, rows in files.items()}


def open_ended(row: Mapping[str, Any]) -> dict[str, Any]:
    """A question as it stands."""
    return {key: row[key] for key in KEPT} | {"category": row["task"]}


def choice(row: Mapping[str, Any]) -> dict[str, Any]:
    """A question without its options, these in columns A to D, and the letter of the right one.

    Raises:
        ValueError: see `write_vlmevalkit`.
    """
    options, right = json.loads(row["options"]), json.loads(row["truth"])
    offer = write_options(options)
    if not row["question"].endswith(offer) or len(right) != 1:
        raise ValueError(f"question {row['question_id']} must end with {offer!r} and have one right option")
    letters = [letter.strip("()") for letter in LETTERS]
    text = row["question"].removesuffix(offer).strip()
    answer = right[0].partition(" ")[0].strip("()")
    return open_ended(row) | {"question": text, "answer": answer} | dict(zip(letters, options, strict=True))


def with_images(rows: list[dict[str, Any]], images: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """The rows with `index` and `image`: the file in base64 at its first use, then the index of that row.

    Raises:
        ValueError: an image is so small that the kit would take it for an index.
    """
    first: dict[str, int] = {}
    numbered = []
    for index, row in enumerate(rows):
        name = row["sample_id"]
        data = base64.b64encode(images[name]).decode()
        if len(data) < SHORTEST_IMAGE:
            raise ValueError(f"the image of {name} has {len(images[name])} bytes, too few for a picture")
        numbered.append({"index": index, **row, "image": data if name not in first else str(first[name])})
        first.setdefault(name, index)
    return numbered
