"""Reading answers: what counts as one, what never does, and that no text whatever makes the reader fail."""

import pytest
from asked import questions
from hypothesis import given, settings
from hypothesis import strategies as st

from irgpt_lib.evaluation.parsing import LONGEST, READERS, read_answer
from irgpt_lib.irtd.questions import as_questions
from irgpt_lib.tasks import TASKS, Question

OPTIONS = ("car", "dog", "other vehicle", "vehicle")
ASKED = {
    task: Question(task, "", "", None, OPTIONS if task in ("scene", "recognition", "security") else ())
    for task in TASKS
}
OFFER = "(A) car (B) dog (C) other vehicle (D) vehicle"
A, B, C = ("(A) car",), ("(B) dog",), ("(C) other vehicle",)
ATOMS = (
    *("(A) car", "(B)", "B.", "dog", "other vehicle", "yes", "no", "not", "<num>", "</num>", "21", "1,024", "[["),
    *("]]", "<box>", "</box>", "[1, 2, 3, 4]", "(1, 2)", "<pos>[", "]</pos>", "(", ")", ",", " ", "\n", "answer is "),
    *("one", "twenty", "cannot", "\u0661", "\ud800", "\x00", "🔥", "999999999", ".", "-", "__import__('os').abort()"),
)


@pytest.mark.parametrize(
    ("task", "text", "read"),
    [
        ("recognition", "(A)", A),
        ("recognition", "a", A),
        ("recognition", "**B**", B),
        ("recognition", "B) dog", B),
        ("recognition", "(A) Car", A),
        ("recognition", "The answer is C", C),
        ("recognition", "It is a DOG.", B),
        ("recognition", "A dog is here", B),
        ("recognition", "the other vehicle", C),
        ("recognition", f"{OFFER}\nAnswer: B", B),
        ("recognition", "not a dog", None),
        ("recognition", "car or dog", None),
        ("recognition", "(A) or (B)", None),
        ("recognition", "A. dog", None),
        ("recognition", "(E)", None),
        ("recognition", "carpet", None),
        ("security", "A, B", A + B),
        ("security", "B and A", A + B),
        ("security", "dog, car", A + B),
        ("security", "The answer is (A) car and (B) dog", A + B),
        ("security", "the car is there", None),
        ("security", "A. dog", None),
        ("relationship", "No, there is none.", "no"),
        ("relationship", "**Yes**", "yes"),
        ("relationship", "The answer is yes.", "yes"),
        ("relationship", "yes and no", None),
        ("relationship", "No idea", None),
        ("relationship", "No, I cannot tell", None),
        ("relationship", "nothing", None),
        ("reid", "Person 5.", "5"),
        ("reid", "cell 1 matches cell 5", "5"),
        ("reid", "2 or 3", None),
        ("reid", "9", None),
        ("reid", "5.5", None),
        ("aerial_counting", "There are 21 cars.", 21),
        ("aerial_counting", "1,024", 1024),
        ("aerial_counting", "twelve", 12),
        ("aerial_counting", "one", 1),
        ("aerial_counting", "this one has 4", 4),
        ("aerial_counting", "20 to 30", None),
        ("aerial_counting", "3.5", None),
        ("aerial_counting", "-5", None),
        ("aerial_counting", "12345678", None),
        ("grounding", '```json\n[{"bbox_2d": [1, 2, 30, 40]}]\n```', [1, 2, 30, 40]),
        ("grounding", "(1,2),(30,40)", [1, 2, 30, 40]),
        ("grounding", "from 1.5 2 to 30 40", [1.5, 2, 30, 40]),
        ("grounding", "[1, 2, 3, 4] [5, 6, 7, 8]", None),
        ("grounding", "[3, 4, 1, 2]", None),
        ("location", "(1, 2) and [3, 4.5]", [[1, 2], [3, 4.5]]),
        ("location", "1, 2", None),
    ],
)
def test_a_person_would_read_it_so(task, text, read):
    assert read_answer(ASKED[task], text, "lenient") == read
    assert read is None or read_answer(ASKED[task], text, "strict") != read


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    "text", [None, "", " \n", "?", "I'm sorry, I can't tell: yes (A) 5", "x" * (LONGEST + 1), "I do not know. 4"]
)
def test_silence_refusals_and_overlong_texts_are_no_answer(task, text):
    assert read_answer(ASKED[task], text, "strict") is None
    assert read_answer(ASKED[task], text, "lenient") is None


def test_every_task_has_a_lenient_reader_and_reads_its_own_truth_in_both_modes():
    assert READERS.keys() == TASKS.keys()
    for question in as_questions(questions(6)):
        strict = read_answer(question, question.answer, "strict")
        assert strict is not None
        assert read_answer(question, question.answer, "lenient") == strict


TEXTS = st.one_of(
    st.text(st.characters(), max_size=200),
    st.lists(st.sampled_from(ATOMS), max_size=40).map("".join),
    st.tuples(st.sampled_from(ATOMS), st.sampled_from(ATOMS)).map(lambda pair: (pair[0] + pair[1]) * 400),
)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(list(TASKS)), TEXTS)
def test_any_text_is_read_or_not_without_an_error_and_lenient_reads_what_strict_reads(task, text):
    strict, lenient = (read_answer(ASKED[task], text, mode) for mode in ("strict", "lenient"))
    assert strict is None or lenient is not None
    if lenient is not None:
        assert read_answer(ASKED[task], text, "lenient") == lenient


def test_output_is_never_evaluated(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("model output was evaluated")

    for name in ("eval", "exec", "compile"):
        monkeypatch.setattr(f"builtins.{name}", refuse)
    for question in ASKED.values():
        read_answer(question, "[__import__('os').getpid(), 2, 3, 4]", "lenient")
