"""Questions of all nine tasks in the columns of the study's table, drawn without images."""

import json

import numpy as np
import pandas as pd

from irgpt_lib.irtd.questions import QUESTION_COLUMNS
from irgpt_lib.tasks import TASKS
from irgpt_lib.tasks.task import read_options, write_chosen, write_options

WORDS = ("car", "person", "dog", "other vehicle", "bus", "light")
CHOICE = ("scene", "recognition", "security")
COUNTING = ("aerial_counting", "pedestrian_counting")


def answer_of(task: str, rng: np.random.Generator) -> tuple[str, list[str]]:
    """A true answer in the released grammar, and the options of the question."""
    if task in CHOICE:
        options = [str(word) for word in rng.permutation(WORDS)[:4]]
        right = int(rng.integers(1, 4)) if task == "security" else 1
        return write_chosen(options, [str(word) for word in rng.permutation(options)[:right]]), options
    if task == "grounding":
        x, y, w, h = (int(n) for n in rng.integers(50, 450, 4))
        return f"The target bounding box is <box>[[{x}, {y}, {x + w}, {y + h}]]</box>.", []
    if task == "location":
        points = ", ".join(f"({x}, {y})" for x, y in rng.integers(0, 1001, (int(rng.integers(1, 5)), 2)))
        return f"<ref>car</ref> at <pos>[{points}]</pos>", []
    if task in COUNTING:
        return f"<num>{int(rng.integers(0, 40))}</num>", []
    return str(rng.choice(["yes", "no"] if task == "relationship" else [str(n) for n in range(2, 9)])), []


def questions(each: int, *, seed: int = 0, split: str = "benchmark") -> pd.DataFrame:
    """`each` questions of every task; two in a row share a group."""
    rng, rows = np.random.default_rng([seed, len(split)]), []
    for task in TASKS:
        for number in range(each):
            answer, options = answer_of(task, rng)
            truth = TASKS[task].read(answer)
            if task in CHOICE:
                assert read_options(answer) == truth
            text = f"{TASKS[task].phrases[0]}{write_options(options) if options else ''}"
            row = dict.fromkeys(QUESTION_COLUMNS, "") | {
                "question_id": f"{split}/{number}#{task}",
                "sample_id": f"{split}/{number}",
                "group": f"{split}/{number // 2}",
                "band": "tir",
                "split": split,
                "task": task,
                "question": text,
                "answer": answer,
                "truth": json.dumps(truth),
                "options": json.dumps(options),
                "key": f"key {number % 2}",
            }
            rows.append(row)
    return pd.DataFrame(rows, columns=QUESTION_COLUMNS)
