"""The benchmark as a task folder of lmms-eval: a YAML file and a Parquet file a task, one file of scoring functions.

The kit finds it with `--include_path`, asks the questions word by word as they stand in the benchmark, and reports for
each task its score, a clustered standard error, and the share of answers that could not be read.
"""

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from irgpt_lib.artifacts import atomic
from irgpt_lib.evaluation.scoring import largest_counts
from irgpt_lib.irtd.questions import as_questions
from irgpt_lib.tasks import TASKS

PREFIX = "irtd"
SCORING = "irtd_scoring.py"
SHARED = "_irtd_default_yaml"
TEXTS = ("question_id", "sample_id", "group", "band", "task", "metric", "question", "answer", "truth", "options")
IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
SCHEMA = pa.schema([*((name, pa.string()) for name in TEXTS), ("largest", pa.int64()), ("image", IMAGE_TYPE)])
# what `datasets` needs to hand out images and not bytes
FEATURES = {name: {"dtype": "string", "_type": "Value"} for name in TEXTS} | {
    "largest": {"dtype": "int64", "_type": "Value"},
    "image": {"_type": "Image"},
}
METADATA = {"huggingface": json.dumps({"info": {"features": FEATURES}})}

SHARED_YAML = f"""\
dataset_path: parquet
test_split: test
output_type: generate_until
doc_to_visual: !function {SCORING.removesuffix(".py")}.doc_to_visual
doc_to_text: !function {SCORING.removesuffix(".py")}.doc_to_text
doc_to_target: answer
process_results: !function {SCORING.removesuffix(".py")}.process_results
generation_kwargs:
  max_new_tokens: {{max_tokens}}
  temperature: 0
  do_sample: false
  until: []
lmms_eval_specific_kwargs:
  default:
    pre_prompt: ""
    post_prompt: ""
cluster_key: group
score_key: score
metadata:
  - version: 1.0
"""
TASK_YAML = f"""\
include: {SHARED}
task: {PREFIX}_{{task}}
dataset_kwargs:
  data_files:
    test: data/{{task}}.parquet
metric_list:
  - metric: {{metric}}
    aggregation: !function {SCORING.removesuffix(".py")}.mean_score
    higher_is_better: {{higher}}
  - metric: unread
    aggregation: mean
    higher_is_better: false
"""


def write_lmms_eval(
    questions: pd.DataFrame, images: Mapping[str, bytes], folder: Path, *, max_tokens: int
) -> dict[str, int]:
    """Write the task folder and return the number of questions of each of the kit's tasks.

    `questions` is a table of `irgpt_lib.irtd.questions`, `images` holds the encoded infrared image of each sample.

    Raises:
        KeyError: a question's sample has no image.
    """
    largest = largest_counts(as_questions(questions))
    counts: dict[str, int] = {}
    for name, task in TASKS.items():
        own = questions[questions["task"] == name]
        if own.empty:
            continue
        rows = own.assign(metric=task.metric, largest=largest.get(name, 0)).to_dict("records")
        docs = [
            {key: row[key] for key in (*TEXTS, "largest")}
            | {"image": {"bytes": images[row["sample_id"]], "path": None}}
            for row in rows
        ]
        table = pa.Table.from_pylist(docs, schema=SCHEMA.with_metadata(METADATA))
        with atomic(folder / "data" / f"{name}.parquet") as part:
            pq.write_table(table, part, compression="zstd")
        higher = str(task.higher_is_better).lower()
        put(folder / f"{PREFIX}_{name}.yaml", TASK_YAML.format(task=name, metric=task.metric, higher=higher))
        counts[f"{PREFIX}_{name}"] = len(own)
    put(folder / SHARED, SHARED_YAML.format(max_tokens=max_tokens))
    put(folder / f"{PREFIX}.yaml", f"group: {PREFIX}\ntask:\n" + "".join(f"  - {name}\n" for name in counts))
    put(folder / SCORING, files(__package__).joinpath(SCORING).read_text(encoding="utf-8"))
    return counts


def document(row: Mapping[str, Any], images: Mapping[str, bytes]) -> dict[str, Any]:
    """A question with its image, as the kit hands it to the scoring functions."""
    image = {"bytes": images[row["sample_id"]], "path": None}
    return {key: row[key] for key in (*TEXTS, "largest")} | {"image": image}


def put(file: Path, text: str) -> None:
    with atomic(file) as part:
        part.write_text(text, encoding="utf-8")
