"""Drafts of visible images in words that hold for infrared: what goes, what stays, and what never happens."""

import re
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from irgpt_lib.irtd.adaptation import (
    Adapted,
    adapt,
    adapt_reply,
    adaptation_prompt,
    author,
    plain_reply,
    refused,
    split_sentences,
    visible_only_terms,
    with_adapted,
    with_draft,
)
from irgpt_lib.irtd.record import BANDS, Sample

SAMPLE = Sample("s/1", "s", "tir", "scene", 3, 2, b"", facts={"route": "IV"})


def thermal(draft: str) -> str:
    return adapt(draft, "tir").text


# Colour before its noun


@pytest.mark.parametrize(
    ("draft", "text"),
    [
        ("A red car is parked near a blue van.", "A car is parked near a van."),
        ("An orange truck drives past.", "A truck drives past."),
        ("A red umbrella and a white SUV.", "An umbrella and an SUV."),
        ("A white hourglass and a red unicycle.", "An hourglass and a unicycle."),
        ("A red and white truck is parked.", "A truck is parked."),
        ("Red, white, and blue flags hang on the wall.", "Flags hang on the wall."),
        ("A large, red truck stands by trees, green grass, and men.", "A large truck stands by trees, grass, and men."),
        ("A shiny and red car is parked.", "A shiny car is parked."),
        ("A red and shiny car is parked.", "A shiny car is parked."),
        ("A black, shiny car is parked.", "A shiny car is parked."),
        ("A dark-colored SUV and a silver car wait.", "An SUV and a car wait."),
        ("A navy blue sedan follows a cream-colored van.", "A sedan follows a van."),
        ("A mostly white, two-story building stands alone.", "A two-story building stands alone."),
        ("A black-and-white cow stands in a bright green field.", "A cow stands in a field."),
        ("A red-roofed house stands on the hill.", "A house stands on the hill."),
        ("There are white boats on the water.", "There are boats on the water."),
        ("Colorful kites fly above the beach.", "Kites fly above the beach."),
        ("The white building on the left has large windows.", "The building on the left has large windows."),
        ("A RED CAR STANDS HERE.", "A CAR STANDS HERE."),
        ("several grey  cars\tdrive by", "several cars drive by"),
    ],
)
def test_a_colour_goes_and_its_noun_stays(draft, text):
    assert thermal(draft) == text


# Colour elsewhere


@pytest.mark.parametrize(
    ("draft", "text"),
    [
        ("A man in black walking down the street.", "A man walking down the street."),
        ("A man in white running shoes stands by a car.", "A man in running shoes stands by a car."),
        ("A woman dressed in black and a man in a white shirt talk.", "A woman and a man in a shirt talk."),
        ("A wall, with white and red above it, and a dog stand here.", "A wall, and a dog stand here."),
        ("A girl wearing red stands there.", "A girl stands there."),
        ("A bus painted in red and white drives past.", "A bus drives past."),
        ("The car, red in color, is parked.", "The car is parked."),
        ("A kite that is yellow floats above them.", "A kite floats above them."),
        ("The car is red and parked by the road.", "The car is parked by the road."),
        ("The van is white and has a ladder on its roof.", "The van has a ladder on its roof."),
        ("Cars of various colors, including white, red, and silver, wait.", "Cars wait."),
        ("It is filled with cars of many colors.", "It is filled with cars."),
        ("A carpet in shades of green and brown lies there.", "A carpet lies there."),
        ("The grass is lush and green.", "The grass is lush."),
        ("The sky is clear and blue, and people walk by the river.", "The sky is clear, and people walk by the river."),
        ("The traffic light is red and several cars are waiting.", "Several cars are waiting."),
        ("Three people, one in red and two in blue, walk along a path.", "Three people walk along a path."),
        ("A person holds an umbrella; the umbrella is black.", "A person holds an umbrella."),
        ("The left coat is long, while the right one is green.", "The left coat is long."),
        ("Cars pass. The sky is blue. People walk.", "Cars pass. People walk."),
    ],
)
def test_a_colour_that_is_no_adjective_goes_with_its_phrase_or_clause(draft, text):
    assert thermal(draft) == text


@pytest.mark.parametrize(
    "draft",
    [
        "The sky is blue.",
        "It is red.",
        "The overall color palette is muted.",
        "The bus is painted red and white.",
        "The blue of the sky dominates.",
        "A black and a white dog are running.",
        "Shades of green and brown fill the picture.",
        "The light is green.",
        "Red.",
        "",
        " \n ",
    ],
)
def test_a_sentence_about_nothing_but_colour_is_dropped(draft):
    assert thermal(draft) == ""


# Names


@pytest.mark.parametrize(
    "draft",
    [
        "An orange lies on the table next to a glass of orange juice.",
        "A ship on the Black Sea passes the White House.",
        "The Red Cross tent stands by a Green Bay bus.",
        "White noise and a redundant greenhouse near Bluewater.",
        "A golden retriever stands on a golf green.",
        "The engine appears white-hot in black-hot polarity, says the infra-red manual.",
        "People walk with Mr. Brown Smith and evergreen trees.",
        "The credit card, a light rain, light traffic, a dark background and a bright spot.",
        "Traffic lights hang over the road and street lights stand beside it.",
        "Zebra crossings, a cream cake, an olive tree, gold medals and roses.",
        "A thermal shadow remains where the car stood.",
        "The boys' bikes and the girls' bikes stand here.",
    ],
)
def test_names_that_hold_a_colour_word_are_kept(draft):
    assert adapt(draft, "tir") == Adapted(draft, (), "rules")


def test_a_species_is_kept_without_its_colour():
    assert thermal("A brown bear and a red fox walk.") == "A bear and a fox walk."


# Text, light, shadows, looks, patterns


@pytest.mark.parametrize(
    ("draft", "text"),
    [
        ('A sign that reads "STOP" stands at the corner.', "A sign stands at the corner."),
        ("A sign reading STOP stands at the corner.", "A sign stands at the corner."),
        ("A bus with the words 'City. Bus!' on its side is driving.", "A bus is driving."),
        ("A van with white lettering and a dog stand here.", "A van and a dog stand here."),
        ("The license plate reads ABC 123.", ""),
        ("A colorful mural covers the wall.", ""),
        ("A blonde woman in a striped shirt rides a bike.", "A woman in a shirt rides a bike."),
        ("A fair-skinned man with blond hair waits.", "A man with hair waits."),
        ("A man in a dark jacket and bright shoes waits.", "A man in a jacket and shoes waits."),
    ],
)
@pytest.mark.parametrize("band", BANDS)
def test_text_looks_and_patterns_hold_in_no_band(draft, text, band):
    assert adapt(draft, band).text == text


@pytest.mark.parametrize(
    ("draft", "text"),
    [
        ("Under bright sunlight, two people walk a dog.", "Two people walk a dog."),
        ("On a clear, sunny day, two people walk.", "Two people walk."),
        ("A dimly lit street with parked cars.", "A street with parked cars."),
        ("People cross, casting long shadows on the ground.", "People cross."),
        ("A man sits in the shadow of a tree.", "A man sits."),
        ("The car's headlights are on, and two men stand beside it.", "Two men stand beside it."),
        ("A driver sits behind the windshield of a car.", "A driver sits."),
        ("A car with its headlights on passes.", "A car passes."),
        ("The light is soft.", ""),
        ("A person is visible through the window of a shop.", ""),
        ("A woman seen through the window waits.", "A woman waits."),
        ("A glowing sign hangs there.", "A sign hangs there."),
    ],
)
def test_light_shadows_and_glass_are_lost_in_thermal_infrared_alone(draft, text):
    assert thermal(draft) == text
    assert adapt(draft, "nir").text == adapt(draft, "swir").text == draft


def test_bright_leaves_are_kept_in_near_infrared_alone():
    draft = "Bright green leaves and bright trees cover dark green grass."
    assert adapt(draft, "nir").text == "Bright leaves and bright trees cover grass."
    assert adapt(draft, "swir").text == thermal(draft) == "Leaves and trees cover grass."


# What is told of it


def test_terms_are_named_in_the_order_of_the_text_each_once():
    text = 'A red car and a dark blue van. The red car casts a shadow. "Hi"'
    assert visible_only_terms(text, "tir") == ["red", "dark blue", "shadow", '"hi"']
    assert visible_only_terms(text, "nir") == ["red", "dark blue", '"hi"']
    assert adapt(text, "tir").removed == ("red", "dark blue", "shadow", '"hi"')


def test_sentences_end_where_they_end():
    assert [s for s, _ in split_sentences("Mr. Li of St. Ives says 'No. Go.' twice! Then?  He goes\non. Cars")] == [
        "Mr. Li of St. Ives says 'No. Go.' twice!",
        "Then?",
        "He goes",
        "on.",
        "Cars",
    ]


def test_lines_stay_lines():
    assert thermal("A red car\n\nA van.\nThe sky is blue.\nA dog.") == "A car\nA van.\nA dog."


# Properties

WORDS = (
    "a an the red orange white black dark light bright green silver gold blue and or in with of is are car cars trees "
    "SUV hour building walking parked shirt sky sign reads text wearing painted that which while there one two leaves "
    "has dark-green black-and-white sunlight shadow shadows lit large lush seen through window striped blonde color "
    "colored"
)
MARKS = [",", ".", ";", '"STOP"', "'Bus'", "(", ")", "-", "\n", "Red", "A"]
DRAFTS = st.one_of(
    st.lists(st.sampled_from([*WORDS.split(), *MARKS]), max_size=25).map(" ".join),
    st.text("aA ndrewhit,.'\"-\n", max_size=30),
    st.text(max_size=30),
)


def words_of(text: str) -> list[str]:
    return [word.lower() for word in re.findall(r"\w+", text) if word.lower() not in ("a", "an")]


def is_subsequence(short: list[str], long: list[str]) -> bool:
    rest = iter(long)
    return all(word in rest for word in short)


@given(DRAFTS, st.sampled_from(BANDS))
@settings(max_examples=200, deadline=None)
@example('A sign says "red. A', "tir")
@example("is red and has", "tir")
@example("a ( ) striped dark", "nir")
@example("a red, a black and in red and white", "tir")
def test_no_visible_only_word_stays_none_is_put_in_and_a_second_pass_changes_nothing(draft, band):
    adapted = adapt(draft, band)
    assert visible_only_terms(adapted.text, band) == []
    assert is_subsequence(words_of(adapted.text), words_of(draft))
    assert adapt(adapted.text, band) == Adapted(adapted.text, (), "rules")
    assert bool(adapted.removed) == bool(visible_only_terms(draft, band))


@pytest.mark.parametrize(
    "piece", ["red, ", "red-", "with a ", "'\"", "a-", "dark ", "the car is and a ", "x", "that reads A "]
)
def test_long_odd_text_takes_no_long_time(piece):
    adapt(piece * (3000 // len(piece)), "tir")


# A language model's adaptation


def test_a_reply_that_holds_is_taken_as_it_is():
    adapted = adapt_reply("A red car.", "A car.", "tir")
    assert adapted == Adapted("A car.", ("red",), "model")


def test_a_reply_with_visible_only_words_is_rewritten_by_rule_and_that_is_told():
    adapted = adapt_reply("A red car.", "A reddish car stands here.", "tir")
    assert adapted == Adapted("A car stands here.", ("red", "reddish"), "model and rules", "visible-only words")


@pytest.mark.parametrize(
    ("reply", "fallback"),
    [("", "empty reply"), (" ``` \n```", "empty reply"), ("I'm sorry, I can't help with that.", "refusal")],
)
def test_a_reply_that_is_none_falls_back_to_the_draft(reply, fallback):
    assert adapt_reply("A red car.", reply, "tir") == Adapted("A car.", ("red",), "rules", fallback)


def test_a_reply_that_was_cut_off_loses_its_unfinished_sentence():
    assert adapt_reply("A red car.", "A car. A man wal", "tir", cut_off=True).text == "A car."
    assert adapt_reply("A red car.", "A man wal", "tir", cut_off=True).fallback == "empty reply"


@pytest.mark.parametrize(
    "reply",
    [
        "A car stands.",
        '"A car stands."',
        "Caption: A car stands.",
        "**Caption:** A car stands.",
        "Here is the adapted caption:\n\nA car stands.",
        "Sure! Here's the rewritten caption: “A car stands.”",
        "```\nA car stands.\n```",
        "**A car stands.**",
    ],
)
def test_the_words_around_a_reply_are_taken_off(reply):
    assert plain_reply(reply) == "A car stands."


def test_a_person_who_is_sorry_late_in_a_text_is_no_refusal():
    assert not refused("A car stands. " * 20 + "I am sorry.")


def test_the_prompt_names_the_band_the_draft_and_what_is_lost():
    system, prompt = adaptation_prompt("A red car.", "tir")
    assert "thermal infrared" in system and prompt.endswith("Caption: A red car.")
    assert "shadows" in prompt and "shadows" not in adaptation_prompt("A red car.", "nir").prompt


# Samples


def test_a_sample_keeps_its_draft_and_who_wrote_what():
    drafted = with_draft(SAMPLE, "A red car.", author("qwen", "0123456789abcdef"))
    assert (drafted.caption_state, drafted.caption_path, drafted.caption_by) == ("draft", "IV", "qwen@0123456789ab")
    done = with_adapted(drafted, adapt("A red car.", "tir"))
    assert (done.caption, done.caption_state, done.caption_draft) == ("A car.", "final", "A red car.")
    assert (done.caption_by, done.caption_from) == ("qwen@0123456789ab + rules", "s/1")
    assert done.facts == {"route": "IV", "adaptation_removed": "red"}


@pytest.mark.parametrize(
    ("reply", "by"),
    [("A car.", "m@1 + n@2"), ("A red car.", "m@1 + n@2 + rules"), ("", "m@1 + rules")],
)
def test_a_model_that_adapted_is_named_where_its_words_were_used(reply, by):
    done = with_adapted(with_draft(SAMPLE, "A red car.", "m@1"), adapt_reply("A red car.", reply, "tir"), "n@2")
    assert done.caption_by == by


def test_only_a_draft_can_be_adapted_and_only_to_something():
    with pytest.raises(ValueError, match="caption is missing, expected a draft"):
        with_adapted(SAMPLE, adapt("A car.", "tir"))
    drafted = with_draft(SAMPLE, "The sky is blue.", "m@1")
    with pytest.raises(ValueError, match="give it a rule caption"):
        with_adapted(drafted, adapt(drafted.caption, "tir"))
    with pytest.raises(ValueError, match="caption is final"):
        with_adapted(replace(drafted, caption_state="final"), adapt("A car.", "tir"))
