import numpy as np
import torch
from miniature import captioned, changed, fresh, untouched, weights_of

from irgpt_lib.training.caption_loss import caption_losses
from irgpt_lib.training.loss import token_losses
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


def test_one_loss_by_hand():
    vlm, samples = untouched(), captioned(1)
    item = TextImages(samples["infrared"].tolist(), ["Describe."], ["a"], [1.0], vlm.image_px)[0]
    assert set(item) == {"image", "question", "answer", "weight"}
    batch = Collator(vlm)([item | {"question": "What is shown?", "answer": samples["caption"].iloc[0]}])
    labels = batch.pop("labels")
    batch.pop("sample_weight")
    with torch.inference_mode():
        other_prompt = token_losses(vlm.model(**batch).logits, labels)
    found = caption_losses(vlm, samples["infrared"].tolist(), samples["caption"].tolist(), batch_size=1)
    assert found.dtype == np.float32 and abs(found[0] - other_prompt.item()) < 1


def test_no_sample_has_no_loss():
    assert caption_losses(untouched(), [], [], batch_size=2).shape == (0,)
