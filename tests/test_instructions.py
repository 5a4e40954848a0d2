"""The language model's half of the instructions: what is asked, how replies are read, LLaVA's records."""

import json
from dataclasses import replace

import numpy as np
import pytest

from irgpt_lib.irtd.instructions import (
    DETAIL_QUESTIONS,
    KINDS,
    MOST_BOXES,
    Conversation,
    context,
    detail_question,
    from_llava,
    instruction_prompt,
    read_reply,
    to_json,
    to_llava,
)
from irgpt_lib.irtd.record import Box, Point, RecordError, Sample, png_bytes

PNG = png_bytes(np.zeros((100, 200), np.uint8))
BOXES = (Box("person", 150, 50, 170, 100), Box("car", 0, 0, 100, 50))
SAMPLE = Sample("s/1", "s", "tir", "scene", 200, 100, PNG, boxes=BOXES, caption="A car and\na person.")
TALK = Conversation("s/1", "conversation", (("How many?", "Two."), ("Where?", "Left.")), "m@k + rules", "key", ("red",))


def read(reply: str, kind="conversation", **options) -> Conversation:
    return read_reply(SAMPLE, kind, reply, "m@k", "key", **options)


# Prompts


def test_the_model_is_told_the_caption_and_the_boxes_in_0_to_1000_from_left_to_right():
    # 100 of 200 pixels across is 500, 50 of 100 down is 500
    assert context(SAMPLE) == (
        "Caption: A car and a person.\nObjects:\ncar: 0, 0, 500, 500\nperson: 750, 500, 850, 1000"
    )


def test_many_boxes_are_told_by_the_largest_and_the_rest_by_number():
    boxes = tuple(Box("car", i, 0, i + 1 + i / 100, 10) for i in range(MOST_BOXES + 5))
    lines = context(replace(SAMPLE, boxes=boxes)).splitlines()
    assert (len(lines), lines[-1]) == (MOST_BOXES + 3, "and 5 smaller objects")
    assert lines[2].startswith("car: 25, ")


def test_points_are_told_by_number():
    crowd = replace(SAMPLE, boxes=(), caption="", points=(Point("person", 1, 1), Point("person", 3, 3)))
    assert context(crowd) == "person: 2 in all"


def test_a_sample_of_which_nothing_is_known_cannot_be_asked_about():
    with pytest.raises(RecordError, match="nothing to ask about: s/1"):
        instruction_prompt(replace(SAMPLE, caption="", boxes=()), "detail")


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_asks_for_the_form_that_its_reader_reads(kind):
    system, prompt = instruction_prompt(SAMPLE, kind)
    assert "thermal infrared" in system and "{" not in system
    assert prompt.startswith("Caption: A car and a person.")
    assert ("Question:" in prompt and "Answer:" in prompt) == (kind != "detail")


def test_near_infrared_is_called_so():
    assert "near-infrared" in instruction_prompt(replace(SAMPLE, band="nir"), "detail").system


# Replies


@pytest.mark.parametrize(
    "reply",
    [
        "Question: How many cars?\nAnswer: One car.\nQuestion: Where is it?\nAnswer: On the left.",
        "Here is the conversation:\n\nQuestion: How many cars?\n===\nAnswer: One car.\n===\nQuestion: Where is it?\n"
        "===\nAnswer: On the left.\n===",
        "**Question:** How many cars?\n**Answer:** One car.\n\n**Question**: Where is it?\n**Answer**: On the left.",
        "Q1: How many cars?\nA1: One\ncar.\nQ2: Where is it?\nA2: On the left.",
        "1. Question 1: How many cars?\n   Answer 1: One car.\n2. Question 2: Where is it?\n   Answer 2: On the left.",
        "User: How many cars?\nAssistant: One car.\nUser: Where is it?\nAssistant: On the left.",
        "```\nquestion: How many cars?\nanswer: One car.\nquestion: Where is it?\nanswer: On the left.\n```",
        "- Question: How many cars?\r\n- Answer: One car.\r\n- Question: Where is it?\r\n- Answer: On the left.\r\n",
    ],
)
def test_turns_are_read_from_the_forms_that_models_write(reply):
    talk = read(reply)
    assert talk.turns == (("How many cars?", "One car."), ("Where is it?", "On the left."))
    assert (talk.sample_id, talk.kind, talk.by, talk.prompt_key, talk.removed) == (
        "s/1", "conversation", "m@k", "key", ()
    )  # fmt: skip


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", "empty reply"),
        ("  \n ", "empty reply"),
        ("I'm sorry, but I cannot see the image.", "refusal"),
        ("As an AI language model, I can't help.", "refusal"),
        ("There is a car.", "no question and answer"),
        ("Question: How many cars?", "no question and answer"),
        ("Answer: Two.", "no question and answer"),
        ("Question: How many?\nAnswer: <image> Two.", "image token in a reply"),
        ("Question: What color is the car?\nAnswer: Red.", "only visible-only turns"),
        ("Question: What is above?\nAnswer: The sky is blue.", "only visible-only turns"),
    ],
)
def test_a_reply_without_a_usable_turn_is_rejected(reply, reason):
    with pytest.raises(RecordError) as caught:
        read(reply)
    assert caught.value.reason == reason
    assert caught.value.detail.startswith("s/1, conversation: ")


def test_questions_without_an_answer_are_left_out_and_told():
    talk = read("Question: Where?\nQuestion: How many cars?\nAnswer: One.\nQuestion: Why")
    assert talk.turns == (("How many cars?", "One."),)
    assert talk.removed == ("question: Where?", "question: Why")


def test_visible_only_words_are_taken_out_of_answers_and_fell_questions():
    reply = (
        "Question: What is on the left?\nAnswer: A red car.\nQuestion: What color is it?\nAnswer: It is red.\n"
        "Question: Is it parked?\nAnswer: Yes, it is parked."
    )
    talk = read(reply)
    assert talk.turns == (("What is on the left?", "A car."), ("Is it parked?", "Yes, it is parked."))
    assert talk.by == "m@k + rules"
    assert talk.removed == ("red", "color", "question: What color is it?")


def test_a_description_answers_a_question_that_is_always_the_same_for_a_sample():
    talk = read("**A street.**\n\nA car stands\non the left.", kind="detail")
    assert talk.turns == ((detail_question("s/1"), "A street. A car stands on the left."),)
    assert {detail_question(f"s/{i}") for i in range(60)} == set(DETAIL_QUESTIONS)


def test_a_reply_that_was_cut_off_loses_its_unfinished_sentence():
    assert read("A street. A car stands on the", kind="detail", cut_off=True).turns[0][1] == "A street."
    with pytest.raises(RecordError, match="empty reply"):
        read("A car stands on the", kind="detail", cut_off=True)


# LLaVA's records


def test_a_record_is_what_llava_reads_and_comes_back_equal():
    record = json.loads(to_json([(TALK, "images/1.png")]))[0]
    assert record["image"] == ["images/1.png"]
    assert record["conversations"] == [
        {"from": "human", "value": "<image>\nHow many?"},
        {"from": "gpt", "value": "Two."},
        {"from": "human", "value": "Where?"},
        {"from": "gpt", "value": "Left."},
    ]
    assert from_llava(record) == (TALK, "images/1.png")


def test_the_image_token_may_follow_the_question_and_the_image_be_a_text():
    record = to_llava(TALK, "1.png") | {"image": "1.png"}
    record["conversations"][0]["value"] = "How many?\n<image>"
    assert from_llava(record) == (TALK, "1.png")


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({"id": 3}, "lacks the text id"),
        ({"by": None}, "lacks the text by"),
        ({"kind": "poem"}, "kind is 'poem'"),
        ({"image": []}, "image must be one path"),
        ({"image": ["a", "b"]}, "image must be one path"),
        ({"image": [1]}, "image must be one path"),
        ({"removed": "red"}, "removed must be a list"),
        ({"conversations": []}, "conversations must be a list"),
        ({"conversations": ["Hello"]}, "conversations must be a list"),
        ({"conversations": [{"from": "human", "value": "<image>\nHow?"}]}, "human and gpt must speak in turn"),
        ({"conversations": [{"from": "gpt", "value": "x"}, {"from": "human", "value": "y"}]}, "must speak in turn"),
        ({"conversations": [{"from": "human", "value": "<image>\nHow?"}, {"from": "gpt", "value": " "}]}, "no text"),
        ({"conversations": [{"from": "human", "value": "<image>\nHow?"}, {"from": "gpt", "value": 3}]}, "no text"),
        ({"conversations": [{"from": "human", "value": "How?"}, {"from": "gpt", "value": "So."}]}, "image token"),
        ({"conversations": [{"from": "human", "value": "<image>\n"}, {"from": "gpt", "value": "So."}]}, "image token"),
        (
            {"conversations": [{"from": "human", "value": "<image>\nHow?"}, {"from": "gpt", "value": "<image>"}]},
            "image token",
        ),
    ],
)
def test_a_record_that_is_none_is_refused_with_the_field(change, detail):
    with pytest.raises(RecordError, match=detail) as caught:
        from_llava(to_llava(TALK, "1.png") | change)
    assert caught.value.reason == "malformed record"


def test_anything_but_an_object_is_refused():
    with pytest.raises(RecordError, match="expected an object"):
        from_llava(["id"])
