import pytest
import torch
from miniature import captioned, changed, fresh, weights_of
from transformers import TrainingArguments

from irgpt_lib.irtd.captions import CAPTION_PROMPT
from irgpt_lib.training.trainer import Collator, CurriculumTrainer, TextImages, fit


class Recorded(TextImages):
    """A dataset that remembers which items were asked for."""

    def __getitem__(self, index):
        self.__dict__.setdefault("asked", []).append(index)
        return super().__getitem__(index)


def data_of(vlm, count, weights=None, kind=Recorded):
    rows = captioned(count)
    given = [1.0] * count if weights is None else weights
    return kind(rows["infrared"].tolist(), [CAPTION_PROMPT] * count, rows["caption"].tolist(), given, vlm.image_px)


def train(vlm, data, batches, **options):
    given = {
        "scheduler": "cosine",
        "warm_up": 0.0,
        "weight_decay": 0.0,
        "smoothing": 0.0,
        "precision": "fp32",
        "workers": 0,
        "seed": 0,
        "label": "test",
    }
    return fit(vlm, vlm.model, data, batches, [(list(vlm.model.parameters()), 1e-3)], **(given | options))


def trainer_of(vlm, tmp_path):
    arguments = TrainingArguments(output_dir=tmp_path, use_cpu=True, report_to=[], max_steps=1)
    return CurriculumTrainer(model=vlm.model, args=arguments, batches=[[0]], vlm=vlm, smoothing=0.0)


def loss_and_gradient(vlm, trainer, data, members):
    vlm.model.zero_grad(set_to_none=True)
    inputs = Collator(vlm)([data[i] for i in members])
    loss = trainer.compute_loss(vlm.model, inputs)
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in vlm.model.named_parameters() if p.grad is not None}


def test_batches_come_in_the_given_order_and_each_sample_once():
    vlm = fresh()
    data = data_of(vlm, 6)
    batches = [[5, 0], [3], [1, 4, 2]]
    history = train(vlm, data, batches)
    assert data.asked == [5, 0, 3, 1, 4, 2]
    assert history["step"].tolist() == [1, 2, 3]


def test_weights_of_0_change_no_parameter():
    vlm = fresh()
    before = weights_of(vlm.model)
    history = train(vlm, data_of(vlm, 4, [0.0] * 4), [[0, 1], [2, 3]])
    assert not changed(vlm.model, before)
    assert (history["weighted_loss"] == 0).all() and (history["loss"] > 1).all()


def test_twice_the_weights_give_twice_the_gradient(tmp_path):
    vlm = fresh()
    trainer = trainer_of(vlm, tmp_path)
    loss, once = loss_and_gradient(vlm, trainer, data_of(vlm, 3, [1.0, 0.5, 0.25]), [0, 1, 2])
    double, twice = loss_and_gradient(vlm, trainer, data_of(vlm, 3, [2.0, 1.0, 0.5]), [0, 1, 2])
    assert double == pytest.approx(2 * loss)
    assert once and once.keys() == twice.keys()
    for name in once:
        torch.testing.assert_close(twice[name], 2 * once[name])


def test_a_batch_is_the_mean_of_its_two_halves(tmp_path):
    vlm = fresh()
    trainer, data = trainer_of(vlm, tmp_path), data_of(vlm, 4, [0.3, 1.7, 0.5, 1.0])
    whole, gradient = loss_and_gradient(vlm, trainer, data, [0, 1, 2, 3])
    halves = [loss_and_gradient(vlm, trainer, data, members) for members in ([0, 1], [2, 3])]
    assert whole == pytest.approx(sum(loss for loss, _ in halves) / 2, rel=1e-5)
    for name, value in gradient.items():
        torch.testing.assert_close(value, (halves[0][1][name] + halves[1][1][name]) / 2, atol=1e-6, rtol=1e-4)


def test_the_history_holds_the_loss_before_and_after_weighting():
    vlm = fresh()
    history = train(vlm, data_of(vlm, 4, [0.5] * 4), [[0, 1], [2, 3]])
    assert history["weighted_loss"].tolist() == pytest.approx((history["loss"] / 2).tolist())


def test_a_few_steps_on_the_same_captions_lower_their_loss():
    vlm = fresh()
    history = train(vlm, data_of(vlm, 4), [[0, 1, 2, 3]] * 12)
    assert history["loss"].iloc[-1] < history["loss"].iloc[0] - 0.5


def test_a_single_step_without_warm_up_is_not_lost():
    vlm = fresh()
    before = weights_of(vlm.model)
    train(vlm, data_of(vlm, 2), [[0, 1]])
    assert changed(vlm.model, before)


def test_equal_seeds_train_equal_weights():
    first, second = fresh(), fresh()
    for vlm in (first, second):
        train(vlm, data_of(vlm, 4), [[0, 1], [2, 3]], seed=7)
    assert not changed(second.model, weights_of(first.model))


def test_a_loss_that_is_not_a_number_stops_the_training():
    vlm = fresh()
    with pytest.raises(FloatingPointError, match="nan at step 2; lower the learning rates"):
        train(vlm, data_of(vlm, 2, [1.0, float("nan")]), [[0], [1]])


def test_frozen_modules_stay_in_evaluation_mode():
    vlm = fresh()
    tower = vlm.model.model.vision_tower
    train(vlm, data_of(vlm, 2), [[0, 1]], frozen=[tower])
    assert not any(module.training for module in tower.modules())
    assert vlm.model.model.language_model.training


def test_smoothing_changes_the_loss_of_coordinates_only(tmp_path):
    vlm = fresh()
    image, trainer, losses = captioned(1)["infrared"].tolist(), trainer_of(vlm, tmp_path), {}
    for answer in ("(500, 500)", "yes"):
        for trainer.smoothing in (0.0, 0.8):
            data = TextImages(image, ["Where?"], [answer], [1.0], vlm.image_px)
            losses[answer, trainer.smoothing], _ = loss_and_gradient(vlm, trainer, data, [0])
    assert losses["yes", 0.0] == losses["yes", 0.8]
    assert losses["(500, 500)", 0.0] != losses["(500, 500)", 0.8]


def test_images_and_texts_must_be_equally_many():
    with pytest.raises(ValueError, match=r"differ in number: \[1, 2\]"):
        TextImages([b"", b""], ["a"], ["b"], [1.0], 64)


def test_a_collated_batch_carries_the_weight_of_each_item():
    vlm = fresh()
    data = data_of(vlm, 2, [0.25, 2.0])
    batch = Collator(vlm)([data[0], data[1]])
    assert batch["sample_weight"].tolist() == [0.25, 2.0]
    assert batch["pixel_values"].shape == (2, 3, 64, 64)
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape
