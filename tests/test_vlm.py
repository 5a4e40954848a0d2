import json
import math

import numpy as np
import pytest
import torch
from miniature import SHAPE, grays, new, talkative_base

from irgpt_lib.models import vlm as models
from irgpt_lib.models.tokenizer import coordinates
from irgpt_lib.training.base import new_model

SHORT, LONG = "Is there a car on the left side of the dog?", "What is the object in the picture?\n(A) car (B) dog"
QUESTIONS = [SHORT, LONG, "Calculate the number of cars in the picture.", "Detect the bounding box of the boat."]


def logits_of(vlm, batch, images):
    with torch.inference_mode():
        return vlm.model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, pixel_values=vlm.pixel_values(images)
        ).logits


def test_a_prompt_holds_as_many_image_tokens_as_the_projector_makes():
    vlm = new()
    features = models.image_features(vlm.model, vlm.pixel_values(grays(2)))
    assert SHAPE.image_tokens == 4
    assert vlm.prompt_ids(SHORT).count(vlm.image_id) == 4
    assert features.shape == (2, 4, SHAPE.language_width)


def test_black_is_minus_1_and_white_is_1_in_all_three_channels():
    images = np.stack([np.zeros((64, 64), np.uint8), np.full((64, 64), 255, np.uint8)])
    pixels = new().pixel_values(images)
    assert pixels.shape == (2, 3, 64, 64)
    assert (pixels[0] == -1).all() and (pixels[1] == 1).all()


def test_gray_is_the_same_as_equal_red_green_and_blue():
    gray = grays(2)
    torch.testing.assert_close(new().pixel_values(gray), new().pixel_values(np.repeat(gray[..., None], 3, axis=3)))


def test_only_the_answer_and_its_end_are_labelled():
    vlm = new()
    answers = ["yes", "(A) car"]
    batch = vlm.encode([SHORT, LONG], answers)
    for i, (question, answer) in enumerate(zip([SHORT, LONG], answers, strict=True)):
        expected = [*vlm.text_ids(answer), vlm.end_id]
        start = len(vlm.prompt_ids(question))
        labelled = (batch.labels[i] != models.IGNORED).nonzero().flatten().tolist()
        assert labelled == list(range(start, start + len(expected)))
        assert batch.labels[i, labelled].tolist() == batch.input_ids[i, labelled].tolist() == expected


def test_padding_is_masked_right_of_an_answer_and_left_of_a_prompt():
    vlm = new()
    short, long = len(vlm.prompt_ids(SHORT)), len(vlm.prompt_ids(LONG))
    training = vlm.encode([SHORT, LONG], ["yes", "yes"])
    asking = vlm.encode_prompts([SHORT, LONG])
    assert short != long
    for i, (used, shorter) in enumerate(zip((short, long), (short < long, long < short), strict=True)):
        assert training.attention_mask[i].tolist()[: used + 2] == [1] * (used + 2)
        assert asking.attention_mask[i].tolist()[-used:] == [1] * used
        assert bool((training.attention_mask[i] == 0).any()) == bool((asking.attention_mask[i] == 0).any()) == shorter
        assert (asking.input_ids[i][asking.attention_mask[i] == 0] == vlm.tokenizer.pad_token_id).all()


def test_left_and_right_padding_give_the_same_next_token():
    vlm, images = new(), grays(2)
    asking, training = vlm.encode_prompts([SHORT, LONG]), vlm.encode([SHORT, LONG], ["yes", "yes"])
    left, right = logits_of(vlm, asking, images), logits_of(vlm, training, images)
    for i, question in enumerate([SHORT, LONG]):
        torch.testing.assert_close(left[i, -1], right[i, len(vlm.prompt_ids(question)) - 1], atol=1e-4, rtol=1e-4)


def test_an_answer_does_not_depend_on_what_else_is_asked():
    vlm, images = talkative_base(), grays(4)
    together = vlm.answer(QUESTIONS, images, max_new_tokens=6)
    alone = [vlm.answer([q], images[i : i + 1], max_new_tokens=6)[0] for i, q in enumerate(QUESTIONS)]
    assert together == alone
    assert len(set(together)) > 1, "equal answers to unlike questions would prove nothing"


def test_generation_with_and_without_the_cache_agrees():
    vlm, images = talkative_base(), grays(4)
    batch = vlm.encode_prompts(QUESTIONS)
    with torch.inference_mode():
        plain = vlm.model.generate(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            pixel_values=vlm.pixel_values(images),
            max_new_tokens=6,
            do_sample=False,
            use_cache=False,
        )
    texts = vlm.tokenizer.batch_decode(plain[:, batch.input_ids.shape[1] :], skip_special_tokens=True)
    assert texts == vlm.answer(QUESTIONS, images, max_new_tokens=6)


def test_the_next_token_depends_on_the_image():
    vlm = new()
    batch = vlm.encode_prompts([SHORT, SHORT])
    logits = logits_of(vlm, batch, np.stack([np.zeros((64, 64), np.uint8), grays(1)[0]]))
    assert (logits[0, -1] - logits[1, -1]).abs().max() > 1e-3


def test_coordinates_of_an_answer_move_to_the_grid_of_the_model():
    vlm = new()
    batch = vlm.encode([SHORT], ["(500, 510)"])
    ids = batch.labels[0][batch.labels[0] != models.IGNORED]
    # One of 32 steps is 31.25, so 510 lies nearest to step 16, which is 500.
    assert vlm.tokenizer.decode(ids, skip_special_tokens=True) == "(500, 500)"


def test_every_parameter_belongs_to_exactly_one_part():
    model = new().model
    parts = [{id(p) for p in models.parameters_of(model, name)} for name in models.PARTS]
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(list(model.parameters()))
    with pytest.raises(KeyError):
        models.parameters_of(model, "tail")


def test_the_same_seed_builds_the_same_weights():
    first, second = new().model.state_dict(), new_model(SHAPE, seed=0).model.state_dict()
    third = new_model(SHAPE, seed=1).model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], third["lm_head.weight"])


def test_an_option_starts_as_the_sum_of_its_letter_and_its_word():
    vlm = new()
    weight = vlm.model.get_input_embeddings().weight
    option, letter, noun = vlm.tokenizer.convert_tokens_to_ids(["(A) dog", "(A)", "dog"])
    torch.testing.assert_close(weight[option], 0.8 * (weight[letter] + weight[noun]))


def test_near_coordinates_start_more_alike_than_far_ones():
    vlm = new()
    weight = vlm.model.get_input_embeddings().weight
    values = vlm.tokenizer.convert_tokens_to_ids([str(n) for n in coordinates(32)])
    likeness = torch.nn.functional.cosine_similarity(weight[values][:, None], weight[values][None], dim=2)
    assert likeness.diagonal(1).mean() > likeness.diagonal(8).mean() + 0.2


def test_patch_positions_start_as_sinusoids_of_their_own_row_and_column():
    start = torch.zeros(1, 1 + 4, 8)
    models.start_positions(start, 2)
    assert (start[0, 0] == 0).all(), "position 0 is the class token"
    x_of_right, y_of_right = start[0, 2, :4], start[0, 2, 4:]
    # Column 1 of 2 is half the width: a quarter turn at the first frequency, 0.5 (1.12 times more at the second).
    assert x_of_right[0] == pytest.approx(0.5 * math.sin(math.pi / 2))
    assert x_of_right[1] == pytest.approx(0.5 * math.sin(1.12 * math.pi / 2))
    assert y_of_right.tolist() == [0.0, 0.0, 0.5, 0.5]


def test_a_saved_base_answers_as_before(tmp_path):
    vlm, images = talkative_base(), grays(2)
    models.save_base(vlm, "", tmp_path)
    loaded = models.load_base(tmp_path)
    before, after = vlm.model.state_dict(), loaded.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    kept = ("image_px", "image_tokens", "coordinate_steps", "before", "after", "end_id", "image_id")
    assert {name: getattr(vlm, name) for name in kept} == {name: getattr(loaded, name) for name in kept}
    assert torch.equal(vlm.ordered, loaded.ordered) and torch.equal(vlm.mean, loaded.mean)
    assert loaded.answer(QUESTIONS[:2], images, max_new_tokens=4) == vlm.answer(QUESTIONS[:2], images, max_new_tokens=4)


def test_a_base_elsewhere_is_only_a_note(tmp_path):
    models.save_base(None, "somewhere/else", tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["base.json"]
    assert json.loads((tmp_path / "base.json").read_text()) == {"weights": "somewhere/else"}


def test_a_missing_base_names_its_stage(tmp_path):
    with pytest.raises(FileNotFoundError, match="dvc repro base"):
        models.load_base(tmp_path)
