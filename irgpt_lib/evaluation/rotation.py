"""Cyclic rotation of options: does a model know the option, or does it like a letter?

Each question with four options is asked four times, its options moved on by one each time (CircularEval of MMBench,
Liu et al. 2023, arXiv 2307.06281). A model that always says one letter is right in a quarter of the rotations and in
none of the questions.
"""

import json
from collections.abc import Sequence

import pandas as pd

from irgpt_lib.evaluation.parsing import Mode, offered, read_answer
from irgpt_lib.evaluation.scoring import score_parsed
from irgpt_lib.evaluation.statistics import require
from irgpt_lib.irtd.questions import as_questions
from irgpt_lib.tasks import TASKS
from irgpt_lib.tasks.task import write_chosen, write_options

ROTATED_TASKS = ("scene", "recognition", "security")
CONSISTENCY_COLUMNS = ["task", "questions", "plain", "rotated", "circular", "consistent", "one_letter", "unread"]


def rotated(questions: pd.DataFrame) -> pd.DataFrame:
    """Every question with options once for each rotation of them, rotation 0 first, and no other question.

    The columns of the question table and `rotation` (0-3), by which the options moved to the front; `question_id`
    gains `@rotation`, `rotation_of` keeps the old one. Question, answer, truth and options belong to the new order.

    Raises:
        ValueError: a question with options does not end with them as `write_options` writes them.
    """
    rows = []
    for row in questions[questions["task"].isin(ROTATED_TASKS)].to_dict("records"):
        options = tuple(json.loads(row["options"]))
        offer = write_options(options)
        if not row["question"].endswith(offer):
            raise ValueError(f"question {row['question_id']} does not end with its options {offer!r}")
        chosen = {option[len("(A) ") :] for option in json.loads(row["truth"])}
        for k in range(len(options)):
            turned = options[k:] + options[:k]
            answer = write_chosen(turned, tuple(chosen))
            rows.append(
                row
                | {
                    "question_id": f"{row['question_id']}@{k}",
                    "rotation_of": row["question_id"],
                    "rotation": k,
                    "question": row["question"].removesuffix(offer) + write_options(turned),
                    "answer": answer,
                    "truth": json.dumps(list(TASKS[row["task"]].read(answer) or ())),
                    "options": json.dumps(turned),
                }
            )
    return pd.DataFrame(rows, columns=[*questions.columns, "rotation_of", "rotation"])


def rotation_answers(turned: pd.DataFrame, outputs: Sequence[str | None], mode: Mode = "lenient") -> pd.DataFrame:
    """What was chosen in each rotation: `task`, `rotation_of`, `rotation`, `right`, `chosen` (the options' texts,
    sorted, without letters) and `letters`; the last two are empty where the answer cannot be read, or puts a letter
    before another option's word and so says two things.

    Raises:
        ValueError: there are not as many outputs as rows in `turned`.
    """
    if len(outputs) != len(turned):
        raise ValueError(f"{len(turned)} rotated questions but {len(outputs)} outputs")
    rows = []
    for question, output in zip(as_questions(turned), outputs, strict=True):
        read = read_answer(question, output, mode) or ()
        parsed = read if offered(question, read) else ()
        rows.append(
            {
                "right": score_parsed(question, parsed or None) == 100.0,
                "chosen": ", ".join(sorted(option.partition(") ")[2] for option in parsed)),
                "letters": "".join(sorted(option[:3] for option in parsed)),
            }
        )
    kept = turned[["task", "rotation_of", "rotation"]].reset_index(drop=True)
    return kept.join(pd.DataFrame(rows, columns=["right", "chosen", "letters"]))


def consistency(answers: pd.DataFrame) -> pd.DataFrame:
    """How far the answers depend on the order of options, one row a task; `answers` is what `rotation_answers` gives.

    Columns, shares in %: `questions`; `plain` (right in rotation 0), `rotated` (right over all rotations), `circular`
    (right in every rotation of a question), `consistent` (the same options chosen in every rotation, right or wrong),
    `one_letter` (the same letters in every rotation, unreadable ones counted in: lower is better), `unread`. Refusing
    improves none of them: an unreadable answer is wrong, inconsistent, and agrees with any letter.

    Raises:
        ValueError: a column is missing.
    """
    require(answers, ["task", "rotation_of", "rotation", "right", "chosen", "letters"], "the rotated answers")
    rows = []
    for task, own in answers.groupby("task", sort=False):
        each = own.groupby("rotation_of", sort=False)
        read = own.assign(letters=own["letters"].where(own["letters"] != ""))
        rows.append(
            {
                "task": task,
                "questions": each.ngroups,
                "plain": 100.0 * own.loc[own["rotation"] == 0, "right"].mean(),
                "rotated": 100.0 * own["right"].mean(),
                "circular": 100.0 * each["right"].all().mean(),
                "consistent": 100.0 * each["chosen"].agg(lambda c: c.nunique() == 1 and c.iloc[0] != "").mean(),
                "one_letter": 100.0 * (read.groupby("rotation_of", sort=False)["letters"].nunique() <= 1).mean(),
                "unread": 100.0 * (own["letters"] == "").mean(),
            }
        )
    return pd.DataFrame(rows, columns=CONSISTENCY_COLUMNS)
