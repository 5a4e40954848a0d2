"""The confidence in an answer is the loss that training has on it, seen from the other side."""

import numpy as np
import pandas as pd
import pytest
import torch
from asked import questions
from miniature import captioned, talkative
from test_families import KINDS
from test_families import talkative as talkative_of

from irgpt_lib.evaluation import confidence as way
from irgpt_lib.training.loss import token_losses


@pytest.mark.parametrize("kind", KINDS)
def test_confidence_is_the_training_loss_of_the_answer_with_its_sign_turned(kind):
    vlm = talkative_of(kind)
    images = captioned(4)["infrared"].tolist()
    asks = ["Is there a car?", "What is the object in the picture?\n(A) car (B) dog", "Locate all car.", "Describe"]
    said = ["yes", "(A) car", "<ref>car</ref> at <pos>[(250, 500), (750, 500)]</pos>", ""]
    inputs = vlm.inputs(asks, said, [vlm.read(image) for image in images])
    labels = inputs.pop("labels")
    with torch.inference_mode():
        logits = vlm.model(**inputs).logits
    named = {str(i): image for i, image in enumerate(images)}
    # batches of three: the answers are sorted by length, and the last one stands alone
    found = way.confidences(vlm, asks, named, ["0", "1", "2", "3"], said, batch_size=3, label="test")
    np.testing.assert_allclose(found, -token_losses(logits, labels).numpy(), rtol=1e-4)


def test_a_missing_answer_has_no_confidence():
    vlm, named = talkative(), {"a": captioned(1)["infrared"].iloc[0]}
    found = way.confidences(vlm, ["Is it?"] * 3, named, ["a"] * 3, [None, "yes", None], batch_size=2, label="test")
    assert np.isnan(found).tolist() == [True, False, True]
    assert found[1] < 0
    assert np.isnan(way.confidences(vlm, ["Is it?"], named, ["a"], [None], batch_size=2, label="test")).all()


def test_answers_are_joined_with_their_questions():
    samples = captioned(4)
    table = questions(2)
    table = table[table["task"] == "relationship"].assign(sample_id=samples["sample_id"].tolist()[:2])
    given = table[["question_id", "sample_id", "task", "group", "question", "truth"]].assign(
        output=["yes", None], score=0.0, blind=50.0
    )
    named = samples["infrared"].to_dict()
    found = way.with_confidence(talkative(), given, table, named, batch_size=4)
    assert found["answer"].tolist() == table["answer"].tolist()
    assert found["confidence"].isna().tolist() == [False, True]
    assert (found["truth_confidence"] < 0).all()
    with pytest.raises(ValueError, match="answered twice"):
        way.with_confidence(talkative(), pd.concat([given, given]), table, named, batch_size=4)
    with pytest.raises(ValueError, match="1 predictions answer no question"):
        way.with_confidence(talkative(), given, table.head(1), named, batch_size=4)
