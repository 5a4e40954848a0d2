from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch
from miniature import MIX, SHAPE, changed, fresh_base, new, scenes, weights_of

from irgpt_lib import params
from irgpt_lib.irtd.captions import CAPTION_PROMPT
from irgpt_lib.irtd.simulated.describe import describe
from irgpt_lib.models.vlm import image_features
from irgpt_lib.tasks import TASKS
from irgpt_lib.training import base
from irgpt_lib.training.loss import token_losses

RECIPE = base.Recipe(
    dense_steps=32,
    language_steps=32,
    fit_steps=32,
    joint_steps=32,
    batch_size=8,
    dense_lr=5e-3,
    language_lr=5e-3,
    fit_lr=5e-3,
    joint_lr=5e-3,
    vision_lr_share=0.8,
    fit_weight=0.7,
    dense_weight=0.5,
    smoothing=0.8,
)
PLAN = base.Plan(SHAPE, 64, MIX, RECIPE, seed=0)
BRIEF = replace(PLAN, recipe=replace(RECIPE, dense_steps=3, language_steps=3, fit_steps=3, joint_steps=3))


@lru_cache(maxsize=1)
def brief():
    return base.train_base(BRIEF, processes=1)


@lru_cache(maxsize=1)
def corpus():
    return base.make_corpus(64, seed=1, shape=SHAPE, mix=MIX)


def test_each_phase_lowers_its_loss():
    vlm, rows = base.train_base(PLAN, processes=1)
    losses = {}
    for row in rows:
        losses.setdefault(row["phase"], []).append(row["loss"])
    assert list(losses) == ["dense vision", "language", "fit", "joint"]
    assert all(len(found) == 2 and found[1] < found[0] for found in losses.values()), losses
    assert not vlm.model.training


def test_equal_plans_give_equal_bases():
    (first, rows), (second, again) = brief(), base.train_base(BRIEF, processes=1)
    assert rows == again
    assert not changed(second.model, weights_of(first.model))


def test_training_a_base_changes_every_part_of_it():
    vlm, _ = brief()
    moved = changed(vlm.model, weights_of(new().model))
    still = {name for name, _ in vlm.model.named_parameters()} - moved
    assert not still, f"never trained: {sorted(still)}"


def test_augmented_images_keep_their_shape_and_range():
    images = corpus().visible[:16]
    pixels = base.augment(images, torch.Generator().manual_seed(0))
    assert pixels.shape == (16, 3, 64, 64) and pixels.is_contiguous()
    assert pixels.min() >= -1 and pixels.max() <= 1 and pixels.isfinite().all()


def test_about_a_third_of_the_images_stay_in_colour_and_the_rest_turn_gray():
    images = np.random.default_rng(0).integers(0, 256, (600, 6, 6, 3), dtype=np.uint8)
    pixels = base.augment(images, torch.Generator().manual_seed(0))
    untouched_colour = torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1
    kept = (pixels - untouched_colour).abs().amax((1, 2, 3)) < 1e-6
    gray = (pixels[:, 0] == pixels[:, 1]).all(2).all(1) & (pixels[:, 0] == pixels[:, 2]).all(2).all(1)
    assert (kept ^ gray).all()
    # 600 draws at 0.35: five standard errors are 0.1.
    assert kept.float().mean().item() == pytest.approx(base.KEPT_IN_COLOUR, abs=0.1)


def test_equal_generators_augment_equally():
    images = corpus().visible[:4]
    first, again, other = (base.augment(images, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_drawn_texts_belong_to_their_images():
    made = corpus()
    index, questions, answers = base.draw_texts(made, base.JOINT_MIX, 200, np.random.default_rng(0))
    assert len(index) == len(questions) == len(answers) == 200
    captions = [i for i, question in enumerate(questions) if question == CAPTION_PROMPT]
    assert captions and all(answers[i] == describe(made.samples[index[i]]) for i in captions)
    montages = [i for i, question in enumerate(questions) if question == TASKS["reid"].phrases[0]]
    assert montages and all(answers[i] == str(made.samples[index[i]].montage_answer) for i in montages)


def test_only_samples_that_carry_a_task_are_asked_it():
    made = corpus()
    kinds = {name: {made.samples[i].kind for i in able} for name, able in made.able.items()}
    assert kinds["reid"] == {"montage"} and kinds["aerial_counting"] == {"aerial"}
    assert kinds["pedestrian_counting"] == {"crowd"} and kinds["grounding"] == {"scene"}
    assert kinds["caption"] == {"scene", "aerial", "crowd", "montage"}


def test_the_learning_rate_warms_up_and_falls_to_its_floor():
    def share(step):
        return base.cosine(step, 100, warm_up=10, floor=0.2)

    assert share(0) == pytest.approx(0.1 * 1.0)
    assert share(50) == pytest.approx(0.2 + 0.8 / 2)
    assert share(100) == pytest.approx(0.2)


def test_a_loss_that_is_not_a_number_stops_the_phase():
    weight = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(FloatingPointError, match="fit: the loss is nan at step 1"):
        list(base.optimise([([weight], 0.1)], 3, lambda step: weight.sum() * (1 if step < 1 else np.nan), label="fit"))


def test_reading_features_in_place_of_an_image_is_the_model_itself():
    vlm = new()
    pixels = vlm.pixel_values(scenes()[1].nir[:3])
    questions, answers = ["Is there a car?", CAPTION_PROMPT, "What?"], ["yes", "A forest with 1 object.", "(B) dog"]
    batch = vlm.encode(questions, answers)
    with torch.inference_mode():
        logits = vlm.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, pixel_values=pixels).logits
        mine = base.text_losses(vlm, image_features(vlm.model, pixels), questions, answers, 0.0)
    torch.testing.assert_close(mine, token_losses(logits, batch.labels))


def test_patches_and_tokens_come_from_one_pass():
    vlm = fresh_base()
    pixels = vlm.pixel_values(scenes()[1].nir[:2])
    patches, tokens = base.patches_and_tokens(vlm, pixels)
    assert patches.shape == (2, 4, 4, SHAPE.vision_width)
    torch.testing.assert_close(tokens, image_features(vlm.model, pixels))
    assert not vlm.model.model.vision_tower._forward_hooks, "the hook is taken off again"


def test_first_scores_ask_every_task_in_every_band():
    config = params.load("base", profile="smoke").base.model_copy(update={"evaluation_scenes": 64, "mix": MIX})
    rows = base.first_scores(new(), config, questions=2)
    seen = {(row["task"], row["rendering"]) for row in rows}
    assert seen == {(task, view) for task in TASKS for view in ("visible", "nir", "swir", "tir")}
    assert all(np.isfinite(row["score"]) and 1 <= row["questions"] <= 2 for row in rows)


def test_the_plan_is_what_the_parameters_state():
    config = params.load("base", profile="smoke").base
    plan = base.plan_of(config)
    assert (plan.scenes, plan.seed, plan.recipe.dense_steps) == (config.scenes, config.seed, config.recipe.dense_steps)
    assert plan.shape.grid == config.shape.image_px // config.shape.patch_px


def test_every_text_of_the_world_is_known_to_the_tokenizer():
    tokenizer = new().tokenizer
    for sample in scenes()[0]:
        ids = tokenizer(describe(sample), add_special_tokens=False).input_ids
        assert tokenizer.unk_token_id not in ids
