from dataclasses import replace

import numpy as np
import pytest
import torch
from miniature import captioned, changed, fresh, untouched, weights_of

from irgpt_lib.irtd.captions import CAPTION_PROMPT
from irgpt_lib.models.vlm import PARTS
from irgpt_lib.training.loss import token_losses, weighted_loss
from irgpt_lib.training.trainer import Collator, Recipe, SampleLosses, Saving, TextImages, fit

RECIPE = Recipe(
    label="test",
    scheduler="cosine",
    warm_up=0.0,
    weight_decay=0.0,
    smoothing=0.0,
    precision="fp32",
    workers=0,
    seed=0,
)


class Recorded(TextImages):
    """A dataset that remembers which items were asked for."""

    def __getitem__(self, index):
        self.__dict__.setdefault("asked", []).append(index)
        return super().__getitem__(index)


def data_of(vlm, count, weights=None, kind=Recorded):
    rows = captioned(count)
    given = [1.0] * count if weights is None else weights
    return kind(rows["infrared"].tolist(), [CAPTION_PROMPT] * count, rows["caption"].tolist(), given, vlm)


def train(vlm, data, batches, *, lr=1e-3, frozen=(), saving=None, tiers=None, **recipe):
    groups = [([name for name, p in vlm.model.named_parameters() if p.requires_grad], lr)]
    return fit(vlm, data, batches, groups, replace(RECIPE, **recipe), frozen=frozen, saving=saving, tiers=tiers)


def loss_and_gradient(vlm, data, members, smoothing=0.0):
    """The weighted loss of one batch, and each parameter's gradient by it."""
    vlm.model.zero_grad(set_to_none=True)
    inputs = Collator(vlm)([data[i] for i in members])
    labels, weights = inputs.pop("labels"), inputs.pop("sample_weight")
    loss = weighted_loss(SampleLosses(vlm, smoothing)(inputs, labels), weights)
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


def test_twice_the_weights_give_twice_the_gradient():
    vlm = fresh()
    loss, once = loss_and_gradient(vlm, data_of(vlm, 3, [1.0, 0.5, 0.25]), [0, 1, 2])
    double, twice = loss_and_gradient(vlm, data_of(vlm, 3, [2.0, 1.0, 0.5]), [0, 1, 2])
    assert double == pytest.approx(2 * loss)
    assert once and once.keys() == twice.keys()
    for name in once:
        torch.testing.assert_close(twice[name], 2 * once[name])


def test_a_batch_is_the_mean_of_its_two_halves():
    vlm = fresh()
    data = data_of(vlm, 4, [0.3, 1.7, 0.5, 1.0])
    whole, gradient = loss_and_gradient(vlm, data, [0, 1, 2, 3])
    halves = [loss_and_gradient(vlm, data, members) for members in ([0, 1], [2, 3])]
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
    with pytest.raises(FloatingPointError, match="weighted loss is nan at step 2; lower the learning rates"):
        train(vlm, data_of(vlm, 2, [1.0, float("nan")]), [[0], [1]])


def test_frozen_modules_stay_in_evaluation_mode():
    vlm = fresh()
    tower = vlm.model.model.vision_tower
    train(vlm, data_of(vlm, 2), [[0, 1]], frozen=[tower])
    assert not any(module.training for module in tower.modules())
    assert vlm.model.model.language_model.training


def test_smoothing_changes_the_loss_of_coordinates_only():
    vlm = fresh()
    image, losses = captioned(1)["infrared"].tolist(), {}
    for answer in ("(500, 500)", "yes"):
        for smoothing in (0.0, 0.8):
            data = TextImages(image, ["Where?"], [answer], [1.0], vlm)
            losses[answer, smoothing], _ = loss_and_gradient(vlm, data, [0], smoothing)
    assert losses["yes", 0.0] == losses["yes", 0.8]
    assert losses["(500, 500)", 0.0] != losses["(500, 500)", 0.8]


def test_images_and_texts_must_be_equally_many():
    with pytest.raises(ValueError, match=r"differ in number: \[1, 2\]"):
        TextImages([b"", b""], ["a"], ["b"], [1.0], untouched())


def test_a_collated_batch_carries_the_weight_of_each_item():
    vlm = fresh()
    data = data_of(vlm, 2, [0.25, 2.0])
    batch = Collator(vlm)([data[0], data[1]])
    assert batch["sample_weight"].tolist() == [0.25, 2.0]
    assert batch["pixel_values"].shape == (2, 3, 64, 64)
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape


def test_divergence_keeps_the_checkpoint_before_it_and_takes_no_step(tmp_path):
    vlm, sound = fresh(), fresh()
    train(sound, data_of(sound, 2), [[0], [1]], scheduler="constant")
    data = data_of(vlm, 3, [1.0, 1.0, float("inf")])
    with pytest.raises(FloatingPointError, match=r"is inf at step 3; lower .* \(the checkpoint of step 2 is kept\)"):
        train(vlm, data, [[0], [1], [2]], saving=Saving(tmp_path, 1), scheduler="constant")
    assert [folder.name for folder in tmp_path.glob("*/step-*")].count("step-00000002") == 1
    assert not changed(vlm.model, weights_of(sound.model))


def test_a_gradient_that_is_not_finite_stops_the_training():
    vlm = fresh()
    projector = dict(vlm.model.named_parameters())[f"{PARTS['projector']}linear_1.weight"]
    projector.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(FloatingPointError, match="gradient norm is (nan|inf) at step 1"):
        train(vlm, data_of(vlm, 1), [[0]])


def test_the_history_holds_the_gradient_norm_before_clipping_and_the_tier():
    vlm = fresh()
    data = data_of(vlm, 2, [4.0, 4.0])
    _, gradient = loss_and_gradient(vlm, data, [0, 1])
    norm = sum((g.double() ** 2).sum().item() for g in gradient.values()) ** 0.5
    vlm.model.zero_grad(set_to_none=True)
    history = train(vlm, data, [[0, 1], [1]], tiers=[3, 5])
    assert history["gradient_norm"].iloc[0] == pytest.approx(norm, rel=1e-4) and norm > 1
    assert history["tier"].tolist() == [3, 5]


def test_pieces_of_a_batch_train_what_the_batch_trains():
    whole, pieces = fresh(), fresh()
    weights, batches = [0.5, 2.0, 1.0, 0.25, 1.5], [[0, 1, 2, 3, 4], [4, 2]]
    one = train(whole, data_of(whole, 5, weights), batches, scheduler="constant")
    two = train(pieces, data_of(pieces, 5, weights), batches, scheduler="constant", micro=2)
    np.testing.assert_allclose(one, two, rtol=1e-5)
    for name, value in weights_of(whole.model).items():
        torch.testing.assert_close(dict(pieces.model.named_parameters())[name].detach(), value, atol=2e-5, rtol=0)


def test_workers_change_nothing_and_the_global_generators_neither():
    first, second = fresh(), fresh()
    torch.manual_seed(1)
    one = train(first, data_of(first, 4), [[0, 1], [2, 3]], augment="tone")
    torch.manual_seed(2)
    state = torch.get_rng_state()
    two = train(second, data_of(second, 4), [[0, 1], [2, 3]], augment="tone", workers=2)
    assert one.equals(two) and not changed(second.model, weights_of(first.model))
    assert torch.equal(state, torch.get_rng_state())


def test_augmentation_changes_the_loss():
    plain, toned = fresh(), fresh()
    batches = [[0, 1]]
    assert (
        train(plain, data_of(plain, 2), batches)["loss"].item()
        != train(toned, data_of(toned, 2), batches, augment="tone")["loss"].item()
    )


def test_the_losses_are_those_of_the_full_logits():
    vlm = fresh()
    data = data_of(vlm, 3)
    inputs = Collator(vlm)([data[i] for i in range(3)])
    labels = inputs.pop("labels")
    del inputs["sample_weight"]
    full = token_losses(vlm.model(**inputs).logits, labels, ordered=vlm.ordered, smoothing=0.8)
    torch.testing.assert_close(SampleLosses(vlm, 0.8)(inputs, labels), full, atol=1e-6, rtol=0)


def test_groups_that_are_not_what_requires_a_gradient_are_refused():
    vlm = fresh()
    names = [name for name, _ in vlm.model.named_parameters()]
    for given in (names[1:], [*names, "tail"], [*names, names[0]]):
        with pytest.raises(ValueError, match="those that require a gradient differ"):
            fit(vlm, data_of(vlm, 1), [[0]], [(given, 1e-3)], RECIPE)


def test_bf16_trains_near_float32():
    losses = []
    for precision in ("fp32", "bf16"):
        vlm = fresh()
        losses.append(train(vlm, data_of(vlm, 2), [[0, 1]], precision=precision)["loss"].item())
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.02)


def test_the_terminal_shows_step_tier_loss_and_rate(capsys):
    vlm = fresh()
    train(vlm, data_of(vlm, 2), [[0], [1]], tiers=[0, 1])
    shown = capsys.readouterr().err.split("\r")[-1]
    assert "test: 100%" in shown and "2/2" in shown and "samples/s" in shown
    assert "step 2/2, tier 1, loss" in shown


def test_each_step_is_told_with_its_samples_and_rates():
    vlm, rows = fresh(), []
    groups = [([name for name, p in vlm.model.named_parameters() if p.requires_grad], 1e-3)]
    history = fit(vlm, data_of(vlm, 3), [[0, 1], [2]], groups, RECIPE, on_step=rows.append)
    assert [row["samples"] for row in rows] == [2, 1]
    assert [row["loss"] for row in rows] == history["loss"].tolist()
    assert all(row["learning_rate"] > 0 for row in rows)
