import numpy as np
import pytest
import torch
from miniature import captioned, changed, fresh, untouched, weights_of
from torch.nn.functional import cross_entropy

from irgpt_lib.irtd.captions import CAPTION_PROMPT
from irgpt_lib.training.caption_loss import caption_losses, of_samples
from irgpt_lib.training.trainer import Collator, TextImages


def test_losses_are_those_of_the_captions_whatever_the_batch():
    samples = captioned(5)
    images, captions = samples["infrared"].tolist(), samples["caption"].tolist()
    vlm = fresh()
    before = weights_of(vlm.model)
    found = caption_losses(vlm, images, captions, batch_size=2)
    assert found.shape == (5,) and (found > 0).all() and not changed(vlm.model, before)
    np.testing.assert_allclose(found, caption_losses(vlm, images, captions, batch_size=5), rtol=1e-4)
    assert found[1] != caption_losses(vlm, images, captions[::-1], batch_size=2)[1]


def test_one_loss_is_that_of_the_captions_tokens_under_stage_1s_prompt():
    vlm, samples = untouched(), captioned(1)
    found = caption_losses(vlm, samples["infrared"].tolist(), samples["caption"].tolist(), batch_size=1)
    item = TextImages(samples["infrared"].tolist(), [CAPTION_PROMPT], samples["caption"].tolist(), [1.0], vlm.image_px)
    batch = Collator(vlm)([item[0]])
    labels = batch.pop("labels")
    batch.pop("sample_weight")
    with torch.inference_mode():
        logits = vlm.model(**batch).logits
    spoken = labels[0, 1:] != -100
    expected = cross_entropy(logits[0, :-1][spoken].float(), labels[0, 1:][spoken])
    assert found.dtype == np.float32 and found[0] == pytest.approx(expected.item(), rel=1e-5)


def test_a_table_of_samples_is_asked_row_by_row():
    vlm, samples = untouched(), captioned(3)
    expected = caption_losses(vlm, samples["infrared"].tolist(), samples["caption"].tolist(), batch_size=3)
    np.testing.assert_array_equal(of_samples(vlm, samples, batch_size=3), expected)


def test_no_sample_has_no_loss():
    assert caption_losses(untouched(), [], [], batch_size=2).shape == (0,)
