"""Which questions are asked, with which images, and what the answers show."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from tqdm import tqdm

from irgpt_lib.models.families.family import Family
from irgpt_lib.models.families.pixels import Tiles
from irgpt_lib.tasks import TASKS

SPARE_TOKENS = 4
SETTINGS = ("zero_shot", "fine_tuned", "shuffled")


def first_of_each_task(questions: pd.DataFrame, count: int) -> pd.DataFrame:
    """At most `count` questions a task, the first ones of the table."""
    return questions.groupby("task", sort=False).head(count).reset_index(drop=True)


def decoded(samples: pd.DataFrame, vlm: Family) -> dict[str, Tiles]:
    """The infrared images of a table of samples as the model looks at them, by sample id."""
    pairs = zip(samples["sample_id"], samples["infrared"], strict=True)
    return {name: vlm.read(data) for name, data in pairs}


def shuffled_within_task(questions: pd.DataFrame) -> list[str]:
    """For each question the sample id of another question of the same task, so that no image fits its question.

    Raises:
        ValueError: a task has questions about one sample only, or more than half of them are about the same.
    """
    own = questions["sample_id"].to_numpy(dtype=object)
    shown = own.copy()
    for task, rows in questions.groupby("task").indices.items():
        # samples in order, so that half a turn leads away from every question of the same one
        ordered = rows[np.argsort(own[rows].astype(str), kind="stable")]
        shown[ordered] = np.roll(own[ordered], len(ordered) // 2)
        if (same := own[rows] == shown[rows]).any():
            raise ValueError(
                f"no other image for the {task} question about {own[rows][same][0]}: too few samples among "
                f"{len(rows)} questions; raise dataset.benchmark_questions or add a source"
            )
    return shown.tolist()


def answer_all(
    vlm: Family,
    questions: pd.DataFrame,
    images: Mapping[str, Tiles],
    shown: Sequence[str],
    *,
    batch_size: int,
    label: str,
) -> list[str]:
    """One answer a question, `shown` naming the image that goes with it.

    Questions are answered task by task, for answers of one task are of like length; a task may generate as many tokens
    as its longest true answer has, and a few more.
    """
    answers = np.empty(len(questions), dtype=object)
    bar = tqdm(total=len(questions), desc=label, mininterval=2.0)
    for rows in questions.groupby("task", sort=False).indices.values():
        longest = max(len(vlm.text_ids(answer)) for answer in questions["answer"].iloc[rows])
        for start in range(0, len(rows), batch_size):
            chosen = rows[start : start + batch_size]
            texts = questions["question"].iloc[chosen].tolist()
            pictures = [images[shown[i]] for i in chosen]
            answers[chosen] = vlm.answer(texts, pictures, max_new_tokens=longest + SPARE_TOKENS)
            bar.update(len(chosen))
    bar.close()
    return answers.tolist()


def first_failures(predictions: pd.DataFrame, setting: str) -> pd.DataFrame:
    """For each task the first wrong answer of a setting, the worst one where errors have a size."""
    own = predictions[predictions["setting"] == setting]
    rows = []
    for name, part in own.groupby("task", sort=False):
        task = TASKS[name]
        wrong = part[part["score"] < 100] if task.higher_is_better else part[part["score"] > 0]
        if len(wrong):
            rows.append(wrong.iloc[0] if task.higher_is_better else wrong.loc[wrong["score"].idxmax()])
    return pd.DataFrame(rows, columns=own.columns)


def metrics(means: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Setting to task to mean score, rounded to four digits: what DVC compares between revisions."""
    found: dict[str, dict[str, float]] = {}
    for row in means.dropna(subset=["score"]).itertuples():
        found.setdefault(row.setting, {})[row.task] = round(float(row.score), 4)
    return found
