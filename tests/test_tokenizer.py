"""The miniature's tokenizer: short answers, whole phrases, and no character lost."""

import string
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from irgpt_lib.irtd.simulated import world
from irgpt_lib.irtd.simulated.describe import describe
from irgpt_lib.irtd.simulated.describe import phrases as caption_phrases
from irgpt_lib.irtd.simulated.sprites import CATEGORIES
from irgpt_lib.models.tokenizer import (
    ANSWER,
    IMAGE,
    SPECIAL,
    build_tokenizer,
    coordinate_ids,
    coordinates,
    snap,
    vocabulary,
)
from irgpt_lib.tasks import TASKS

STEPS = 32
NOUNS = (*CATEGORIES, *world.SCENES)
PHRASES = [*(p for task in TASKS.values() for p in task.phrases), *caption_phrases()]
PRINTABLE = st.text(alphabet=[chr(code) for code in range(32, 127)] + ["\n"], max_size=120)
GRID = coordinates(STEPS)


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(PHRASES, NOUNS, STEPS)


def ids(text: str) -> list[int]:
    return tokenizer()(text, add_special_tokens=False).input_ids


def written(text: str) -> str:
    return tokenizer().decode(ids(text), skip_special_tokens=True)


@settings(max_examples=200, deadline=None, database=None)
@given(PRINTABLE)
def test_any_printable_ascii_text_survives_the_round_trip(text):
    if not any(special in text for special in SPECIAL):
        assert written(text) == text


@pytest.mark.parametrize(
    "text", ["##", "a##b ###", "  two  spaces ", string.printable[:95], "1234567890" * 3, "CARS carpet"]
)
def test_awkward_text_survives_the_round_trip(text):
    assert written(text) == text
    assert tokenizer().unk_token_id not in ids(text)


@pytest.mark.parametrize("phrase", sorted(set(PHRASES)))
def test_a_phrase_is_one_token(phrase):
    assert len(ids(phrase)) == 1


@pytest.mark.parametrize("noun", NOUNS)
def test_a_noun_is_one_token_also_after_a_space_and_with_its_letter(noun):
    assert [len(ids(text)) for text in (noun, f" {noun}", f"(C) {noun}")] == [1, 1, 1]


def test_a_count_of_up_to_100_and_every_coordinate_of_the_grid_is_one_token():
    assert all(len(ids(str(n))) == 1 for n in {*range(101), *GRID})


def test_a_word_within_a_longer_word_does_not_hide_it():
    assert written("scary boats doglike") == "scary boats doglike"


def test_no_token_stands_twice_and_the_special_ones_come_first():
    tokens = vocabulary(PHRASES, NOUNS, STEPS)
    assert len(set(tokens)) == len(tokens) == len(tokenizer())
    assert tuple(tokens[: len(SPECIAL)]) == SPECIAL
    assert tokenizer().convert_ids_to_tokens(list(range(len(tokens)))) == tokens


def test_the_order_of_tokens_does_not_depend_on_the_run():
    assert vocabulary(PHRASES, NOUNS, STEPS) == vocabulary(list(PHRASES), list(NOUNS), STEPS)


@pytest.mark.parametrize("steps", [1, 32, 100, 1000])
def test_the_grid_runs_from_0_to_1000_in_even_steps(steps):
    grid = coordinates(steps)
    assert (grid[0], grid[-1], len(grid)) == (0, 1000, steps + 1)
    assert all(abs((b - a) - 1000 / steps) <= 1 for a, b in zip(grid, grid[1:], strict=False))


@settings(max_examples=100, deadline=None, database=None)
@given(st.lists(st.integers(0, 1000), min_size=4, max_size=4), st.integers(1, 1000))
def test_snap_moves_each_coordinate_to_its_nearest_value_of_the_grid(corners, steps):
    grid = coordinates(steps)
    moved = snap(f"<box>[[{', '.join(map(str, corners))}]]</box> at ({corners[0]}, {corners[1]})", steps)
    inner, _, point = moved.partition("]]</box> at (")
    values = [int(n) for n in inner.removeprefix("<box>[[").split(", ")]
    assert all(v in grid for v in values)
    assert all(abs(v - c) <= 500 / steps + 0.5 for v, c in zip(values, corners, strict=True))
    assert point == f"{values[0]}, {values[1]})"
    assert snap(moved, steps) == moved, "what lies on the grid stays"


@pytest.mark.parametrize(
    "text",
    [
        "<num>37</num>",
        "7",
        "A crowd of 17 pedestrians; 5 upper left, ",
        "is in crop 5.",
        "order will be\n1234\n5678",
        "(A) car",
        "",
    ],
)
def test_snap_leaves_counts_cells_and_words_alone(text):
    assert snap(text, STEPS) == text


def test_snap_to_1000_steps_changes_nothing_and_beyond_the_frame_stops_at_its_edge():
    assert snap("at (333, 777) and [[1, 2, 998, 999]]", 1000) == "at (333, 777) and [[1, 2, 998, 999]]"
    assert snap("(1200, 3)", STEPS) == "(1000, 0)"


def test_snapped_answers_and_captions_are_known_and_short():
    truths, _ = next(world.generate(60, seed=5, size=64, mix={"scene": 1.0, "aerial": 1.0, "montage": 1.0}))
    for text in (snap(describe(s), STEPS) for s in truths):
        assert written(text) == text
        assert tokenizer().unk_token_id not in ids(text)
        assert len(ids(text)) <= 40


def test_the_ids_of_the_grid_are_those_of_its_numbers():
    found = coordinate_ids(tokenizer(), STEPS)
    assert found is not None and found.dtype == torch.int64
    assert tokenizer().convert_ids_to_tokens(found.tolist()) == [str(n) for n in GRID]


def test_a_finer_grid_than_the_vocabulary_has_no_ids():
    assert coordinate_ids(tokenizer(), 1000) is None


def test_a_conversation_ends_its_question_and_its_answer():
    turns = [{"role": "user", "content": "Is it a car?"}, {"role": "assistant", "content": "yes"}]
    text = tokenizer().apply_chat_template(turns, tokenize=False)
    assert text == f"<s>Is it a car?{ANSWER}yes</s>"


def test_saved_and_loaded_by_the_standard_class_it_encodes_and_decodes_the_same(tmp_path):
    tokenizer().save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    text = f"{IMAGE}What is the object in the picture?\n(A) car (B) dog{ANSWER} scary ## 137 [[31, 62, 500, 1000]]"
    assert loaded(text, add_special_tokens=False).input_ids == ids(text)
    assert loaded.decode(ids(text)) == tokenizer().decode(ids(text))
    assert loaded.all_special_tokens == tokenizer().all_special_tokens
    assert loaded.chat_template == tokenizer().chat_template
