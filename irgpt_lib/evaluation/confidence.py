"""How sure a model is of an answer: a teacher-forced pass over its text."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from irgpt_lib.evaluation.statistics import require
from irgpt_lib.models.families.family import Family
from irgpt_lib.models.vlm import IGNORED

ANSWERED = ("question_id", "sample_id", "question", "output")


@torch.inference_mode()
def confidences(
    vlm: Family,
    questions: Sequence[str],
    images: Mapping[str, bytes],
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
    write. `shown` names the encoded image of each question.
    """
    vlm.model.eval()
    weight = next(vlm.model.parameters())
    found = np.full(len(texts), np.nan)
    said = [i for i, text in enumerate(texts) if text is not None]
    counts = {name: vlm.image_tokens(vlm.read(images[name])) for name in set(shown)}
    said.sort(key=lambda i: len(vlm.prompt_ids(questions[i], counts[shown[i]])) + len(vlm.text_ids(texts[i])))
    for start in tqdm(range(0, len(said), batch_size), desc=label, mininterval=2.0):
        rows = said[start : start + batch_size]
        texts_of, tiles = [texts[i] for i in rows], [vlm.read(images[shown[i]]) for i in rows]
        inputs = vlm.inputs([questions[i] for i in rows], texts_of, tiles)
        inputs = {name: value.to(weight.device) for name, value in inputs.items()}
        inputs["pixel_values"] = inputs["pixel_values"].to(weight.dtype)
        labels = inputs.pop("labels")
        # logits of answers only: those of a whole batch of prompts over a large vocabulary do not fit
        first = int((labels != IGNORED).int().argmax(1).min())
        logits = vlm.model(**inputs, logits_to_keep=labels.shape[1] - first + 1).logits
        labels = labels[:, first:]
        losses = cross_entropy(logits[:, :-1].float().mT, labels, ignore_index=IGNORED, reduction="none")
        found[rows] = (-losses.sum(1) / (labels != IGNORED).sum(1)).cpu().numpy()
    return found


def with_confidence(
    vlm: Family,
    predictions: pd.DataFrame,
    questions: pd.DataFrame,
    images: Mapping[str, bytes],
    *,
    batch_size: int,
) -> pd.DataFrame:
    """The predictions of one model in one setting, with the question's `answer`, `options` and `key`, and with
    `confidence` and `truth_confidence`: `confidences` of what was said and of the true answer.

    Raises:
        ValueError: a question was answered twice, or is not in the table of questions.
    """
    require(predictions, ANSWERED, "the table of predictions")
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
