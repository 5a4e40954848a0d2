"""Which answers fail, how sure the model was of them, and what it takes for what.

Nothing is picked by hand: the worst and the most confidently wrong answers follow from scores and probabilities, and
showcase answers are drawn from a seed.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, UInt8
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from irgpt_lib.evaluation.difficulty_checks import auc_intervals
from irgpt_lib.evaluation.parsing import offered, read_answer
from irgpt_lib.evaluation.statistics import DRAWS, LEVEL, require
from irgpt_lib.irtd.questions import as_questions
from irgpt_lib.models.vlm import IGNORED, VisionLanguageModel
from irgpt_lib.tasks import TASKS, Question

GOOD, BAD = "good", "bad"
NO_ANSWER = "no answer"
CHOSEN = ("recognition", "scene")
ANSWERED = ["question_id", "task", "group", "score", "blind"]
CONFUSION_COLUMNS = ["task", "truth", "given", "count", "offered", "truths", "share", "share_offered"]
SURENESS_COLUMNS = ["task", "answers", "wrong", "when_right", "when_wrong", "auc", "low", "high"]


@torch.inference_mode()
def confidences(
    vlm: VisionLanguageModel,
    questions: Sequence[str],
    images: Mapping[str, UInt8[np.ndarray, "px px"]],
    shown: Sequence[str],
    texts: Sequence[str | None],
    *,
    batch_size: int,
    label: str,
) -> Float[np.ndarray, " n"]:
    """The mean log-probability of the tokens of each text as the answer to its question, its end included, in nats
    (at most 0); NaN for a missing text.

    One forward pass over question and text (teacher forcing). Of a greedy answer it is the probability that the model
    gave it, as far as its text has the same tokens; an answer that was cut off is charged for an end that it did not
    write. `shown` names the image of each question.
    """
    vlm.model.eval()
    weight = next(vlm.model.parameters())
    found = np.full(len(texts), np.nan)
    said = [i for i, text in enumerate(texts) if text is not None]
    said.sort(key=lambda i: len(vlm.prompt_ids(questions[i])) + len(vlm.text_ids(texts[i])))
    for start in tqdm(range(0, len(said), batch_size), desc=label, mininterval=2.0):
        rows = said[start : start + batch_size]
        batch = vlm.encode([questions[i] for i in rows], [texts[i] for i in rows]).to(weight.device)
        pixels = vlm.pixel_values(np.stack([images[shown[i]] for i in rows])).to(weight.device, weight.dtype)
        # logits of answers only: those of a whole batch of prompts over a large vocabulary do not fit
        first = int((batch.labels != IGNORED).int().argmax(1).min())
        logits = vlm.model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            pixel_values=pixels,
            logits_to_keep=batch.labels.shape[1] - first + 1,
        ).logits
        labels = batch.labels[:, first:]
        losses = cross_entropy(logits[:, :-1].float().mT, labels, ignore_index=IGNORED, reduction="none")
        found[rows] = (-losses.sum(1) / (labels != IGNORED).sum(1)).cpu().numpy()
    return found


def with_confidence(
    vlm: VisionLanguageModel,
    predictions: pd.DataFrame,
    questions: pd.DataFrame,
    images: Mapping[str, UInt8[np.ndarray, "px px"]],
    *,
    batch_size: int,
) -> pd.DataFrame:
    """The predictions of one model in one setting, with the question's `answer`, `options` and `key`, and with
    `confidence` and `truth_confidence`: `confidences` of what was said and of the true answer.

    Raises:
        ValueError: a question was answered twice, or is not in the table of questions.
    """
    require(predictions, [*ANSWERED, "sample_id", "question", "output"], "the table of predictions")
    if predictions["question_id"].duplicated().any():
        raise ValueError("a question is answered twice; select one run and one `setting` first")
    if unknown := sorted(set(predictions["question_id"]) - set(questions["question_id"])):
        raise ValueError(f"{len(unknown)} predictions answer no question of the table, the first is {unknown[0]}")
    rows = predictions.merge(questions[["question_id", "answer", "options", "key"]], on="question_id", how="left")
    asked, shown = rows["question"].tolist(), rows["sample_id"].tolist()
    said = [None if pd.isna(text) else text for text in rows["output"]]
    options = {"batch_size": batch_size}
    return rows.assign(
        confidence=confidences(vlm, asked, images, shown, said, label="confidence", **options),
        truth_confidence=confidences(
            vlm, asked, images, shown, rows["answer"].tolist(), label="of the truth", **options
        ),
    )


def is_wrong(predictions: pd.DataFrame) -> pd.Series:
    """Whether each answer is wrong: an accuracy below 100, an error above the blind prior's mean error in the task."""
    accuracy, blind = against(predictions)
    return predictions["score"].lt(100) & accuracy | predictions["score"].gt(blind) & ~accuracy


def is_good(predictions: pd.DataFrame) -> pd.Series:
    """Whether each answer is good: an accuracy of 100, an error of at most half the blind prior's mean in the task."""
    accuracy, blind = against(predictions)
    return predictions["score"].ge(100) & accuracy | predictions["score"].le(blind / 2) & ~accuracy


def against(predictions: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """For each answer whether its score is an accuracy, and the mean score of the blind prior in its task."""
    require(predictions, ANSWERED, "the table of predictions")
    accuracy = predictions["task"].map({name: task.higher_is_better for name, task in TASKS.items()}).astype(bool)
    return accuracy, predictions.groupby("task")["blind"].transform("mean")


def failures(answered: pd.DataFrame, each: int) -> pd.DataFrame:
    """For each task the `each` worst and the `each` most confidently wrong of the wrong answers.

    `answered` is what `with_confidence` returns; `is_wrong` says what is wrong. Worst first: the largest error, and
    where all are equally wrong the truth that the model thought least likely. Most confident first: the highest mean
    token log-probability of the answer given. Ties go by question id. An answer that is both comes once; where a task
    has two answers to choose from, the two orders are nearly one.

    Returns:
        The columns of `answered` with `worst` and `confident`, the places in the two orders (from 1; 0 for an answer
        that is not among the first `each`); the worst ones first.
    """
    require(answered, [*ANSWERED, "confidence", "truth_confidence"], "the table of answers")
    parts = [answered.head(0).assign(worst=0, confident=0)]
    for name, own in answered[is_wrong(answered)].groupby("task", sort=False):
        up = TASKS[str(name)].higher_is_better
        worst = own.sort_values(["score", "truth_confidence", "question_id"], ascending=[up, True, True]).head(each)
        sure = own.dropna(subset="confidence").sort_values(["confidence", "question_id"], ascending=[False, True])
        places = {
            kind: dict(zip(rows.index, range(1, each + 1), strict=False))
            for kind, rows in (("worst", worst), ("confident", sure.head(each)))
        }
        chosen = own.loc[list(dict.fromkeys([*places["worst"], *places["confident"]]))]
        parts.append(chosen.assign(**{kind: [of.get(i, 0) for i in chosen.index] for kind, of in places.items()}))
    return pd.concat(parts, ignore_index=True)


def showcase(answered: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """For each task one good and one bad answer (`is_good`, `is_wrong`), each drawn with equal chances from `seed`.

    A task without one of them lacks that row.

    Returns:
        The columns of `answered` with `kind` (`good`, `bad`) and `share` (0-1), that of such answers in the task.
    """
    rng, rows = np.random.default_rng(seed), []
    kinds = ((GOOD, is_good(answered)), (BAD, is_wrong(answered)))
    for name in [task for task in TASKS if task in set(answered["task"])]:
        own = answered["task"] == name
        for kind, such in kinds:
            pool = answered[own & such].sort_values("question_id")
            # drawn even where there is none, so that one task's answers do not move another's draw
            place = rng.random()
            if len(pool):
                row = pool.iloc[int(place * len(pool))]
                rows.append({**row.to_dict(), "kind": kind, "share": len(pool) / int(own.sum())})
    return pd.DataFrame(rows, columns=[*answered.columns, "kind", "share"])


def sureness(answered: pd.DataFrame, *, seed: int, draws: int = DRAWS, level: float = LEVEL) -> pd.DataFrame:
    """Whether the model knows when it is wrong (`is_wrong`): its confidence in such answers and in the others.

    Answers without a confidence are left out.

    Returns:
        One row a task: `task`, `answers`, `wrong`, `when_right`, `when_wrong` (geometric mean probability of a token,
        0-1), `auc` (ROC AUC of the confidence for a right answer; 0.5 knows nothing; NaN where all are right or all
        wrong) with its cluster-bootstrap limits `low`, `high`.
    """
    require(answered, [*ANSWERED, "sample_id", "confidence"], "the table of answers")
    known = answered[answered["confidence"].notna()].assign(right=lambda table: ~is_wrong(table))
    rows = []
    for name, own in known.groupby("task", sort=False):
        means = [float(np.exp(own["confidence"][own["right"] == right].mean())) for right in (True, False)]
        found = auc_intervals(own, ["confidence"], positive="right", seed=seed, draws=draws, level=level).iloc[0]
        rows.append([name, len(own), int((~own["right"]).sum()), *means, *found[["auc", "low", "high"]]])
    return pd.DataFrame(rows, columns=SURENESS_COLUMNS)


def confusion(answered: pd.DataFrame) -> pd.DataFrame:
    """What is taken for what in Recognition, Scene and Security, in long form, every combination that could occur.

    Recognition and Scene: the true option against the one that was chosen. Security: each option, `car shown` or
    `car absent`, against whether the answer called it shown or absent. Answers are read leniently; what cannot be
    read is `no answer`. Wrong options are drawn anew for each question, so a category can only be mistaken for one
    that stands beside it: `offered` counts the questions of that truth in which `given` could be chosen, and
    `share_offered` is the rate that compares.

    Returns:
        Columns `task`, `truth`, `given`, `count`, `offered`, `truths` (questions, or options, of that truth), `share`
        (of `truths`, sums to 1 over `given`) and `share_offered` (of `offered`; NaN where it never was).
    """
    require(answered, ["task", "question", "answer", "truth", "options", "key", "output"], "the table of answers")
    table = answered[answered["task"].isin([*CHOSEN, "security"])]
    pairs, chances = [], []
    for question, text in zip(as_questions(table.assign(frame="")), table["output"], strict=True):
        parsed = read_answer(question, None if pd.isna(text) else text, "lenient")
        # a letter before another option's word says two things
        parsed = parsed if parsed is not None and offered(question, parsed) else None
        own = security_pairs(question, parsed) if question.task == "security" else chosen_pair(question, parsed)
        for truth, given, could in own:
            pairs.append((question.task, truth, given))
            chances += [(question.task, truth, one) for one in (*could, NO_ANSWER)]
    index = ["task", "truth", "given"]
    counts = pd.DataFrame(pairs, columns=index).value_counts()
    possible = pd.DataFrame(chances, columns=index).value_counts().rename("offered")
    found = possible.to_frame().join(counts.rename("count")).fillna({"count": 0}).astype({"count": int})
    found["truths"] = found.groupby(level=["task", "truth"])["count"].transform("sum")
    found["share"] = found["count"] / found["truths"]
    found["share_offered"] = found["count"] / found["offered"]
    return found.reset_index().sort_values(index, ignore_index=True)[CONFUSION_COLUMNS]


def chosen_pair(question: Question, parsed: Sequence[str] | None) -> list[tuple[str, str, tuple[str, ...]]]:
    """The right option, the chosen one, and all that could be chosen; several choices are no answer."""
    right = option_of(question.truth)
    given = option_of(parsed) if parsed is not None and len(parsed) == 1 else NO_ANSWER
    return [(right, given, question.options)]


def option_of(chosen: Sequence[str]) -> str:
    """`car` of `["(A) car"]`."""
    return chosen[0].partition(") ")[2]


def security_pairs(question: Question, parsed: Sequence[str] | None) -> list[tuple[str, str, tuple[str, ...]]]:
    """For each option its true state, the state that the answer gives it, and the two that it could have."""
    missing = [option.partition(") ")[2] for option in question.truth]
    named = None if parsed is None else [option.partition(") ")[2] for option in parsed]
    states = ("shown", "absent")
    return [
        (
            f"{option} {states[option in missing]}",
            NO_ANSWER if named is None else states[option in named],
            states,
        )
        for option in question.options
    ]
