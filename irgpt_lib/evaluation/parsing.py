"""A model's answer, read strictly in the released grammar and leniently as a person would read it (reading Q23).

Both modes read text with regular expressions and look-ups and evaluate none of it. What is ambiguous is no answer: two
letters where one is asked for, two numbers for one count, two boxes for one object, a yes beside a no, or a text that
says it cannot tell. So a model cannot gain by hedging. An answer that is right in the strict mode is right in the
lenient one, and what the strict one can read the lenient one can.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

from irgpt_lib.tasks import TASKS, Question
from irgpt_lib.tasks.location import MOST_POINTS
from irgpt_lib.tasks.reid import CELLS
from irgpt_lib.tasks.task import LETTERS, write_options

Mode = Literal["strict", "lenient"]
# The longest true answer, forty points, takes 600 characters.
LONGEST = 2048

REFUSAL = re.compile(
    r"\b(?:can\s?not|can['’]?t|could\s?n['o’]?t|could not|unable|unsure|sorry|impossible|undetermined|unclear|unknown|"
    r"refuse|do\s?n['o’]?t know|do not know|not (?:able|sure|possible|certain|enough|visible|clear)|"
    r"no (?:idea|answer|way|information|clue|comment)|as an ai)\b"
)
NEGATION = re.compile(r"\b(?:not|no|nor|neither|never|without|except)\b|n['’]t\b")
WORD = re.compile(r"[^\W_]+")
LETTER = re.compile(
    r"\(\s*([A-Da-d])\s*\)|(?:^|[\s,;])([A-D])(?=[.):])|"
    r"\b(?:[Aa]nswer|[Oo]ption|[Cc]hoice)(?:\s+is)?\s*:?\s+([A-D])(?=[\s.,;]|$)"
)
AROUND = " \t\r\n*_`\"'"
BARE_LETTERS = re.compile(r"[A-Da-d](?:(?:\s*[,;&]\s*|\s+(?:and\s+)?)[A-Da-d])*[.)]?")
YES_OR_NO = re.compile(r"^\W*(yes|no)\b|\banswer(?:\s+is)?\s*:?\s+(yes|no)\b", re.IGNORECASE)
WHOLE = re.compile(r"(?<![\w.,+-])(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,6})(?![\w%]|[.,/:-][0-9])")
NUMBER = r"[0-9]{1,4}(?:\.[0-9]{1,6})?"
FOUR = re.compile(r"\[\s*" + r"\s*,\s*".join([f"({NUMBER})"] * 4) + r"\s*\]")
LOOSE_NUMBER = re.compile(rf"(?<![\w.+-]){NUMBER}(?![\w%]|\.[0-9])")
PAIR = re.compile(rf"[(\[]\s*({NUMBER})\s*,\s*({NUMBER})\s*[)\]]")
LISTING = {"and", "the", "a", "an", "answer", "answers", "is", "are", "option", "options"}
COUNT_WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
COUNT_OF_WORD = {word: number for number, word in enumerate(COUNT_WORDS)}


def read_answer(question: Question, text: str | None, mode: Mode) -> Any:
    """The answer in a model's `text`, in the form that the task scores, or None where there is none.

    `text` may hold anything; None, which stands for a missing answer, and texts of more than `LONGEST` characters have
    no answer in them. Never raises; below a millisecond.
    """
    if text is None or len(text) > LONGEST:
        return None
    strict = TASKS[question.task].read(text)
    if mode == "strict" or (strict is not None and offered(question, strict)):
        return strict
    lenient = None if REFUSAL.search(text.lower()) else READERS[question.task](question, text)
    return strict if lenient is None else lenient


def offered(question: Question, parsed: Any) -> bool:
    """Whether an answer to a question with options names these options to the letter."""
    return not question.options or set(parsed) <= set(written(question.options, question.options))


def words_of(text: str) -> list[str]:
    """The words of a text, without case, punctuation and underscores."""
    return WORD.findall(text.casefold())


def named_options(options: Sequence[str], words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The options that occur among the words, in their own order, and the words that are left without them.

    A longer option is looked for before a shorter one, so that `other vehicle` does not name `vehicle`.
    """
    rest, named = f" {' '.join(words)} ", []
    for option in sorted(options, key=lambda o: (-len(o), o)):
        wanted = f" {' '.join(words_of(option))} "
        if wanted.strip() and wanted in rest:
            named.append(option)
            # two blanks, so that what stood on both sides does not become one phrase
            rest = rest.replace(wanted, "  ")
    return [option for option in options if option in named], rest.split()


def lettered_options(options: Sequence[str], text: str) -> list[str] | None:
    """The options whose letters the text gives, `(B)`, `B.`, `answer: B`, or nothing but letters; None where a letter
    has no option."""
    bare = BARE_LETTERS.fullmatch(text.strip(AROUND))
    found = re.findall(r"\b[A-Da-d]\b", bare[0]) if bare else ["".join(groups) for groups in LETTER.findall(text)]
    places = sorted({ord(letter.upper()) - ord("A") for letter in found})
    return None if places and places[-1] >= len(options) else [options[place] for place in places]


def written(options: Sequence[str], chosen: Sequence[str]) -> tuple[str, ...]:
    """The chosen options with their letters, as `read_options` gives them."""
    pairs = zip(LETTERS, options, strict=True)
    return tuple(f"{letter} {option}" for letter, option in pairs if option in chosen)


def without_offer(question: Question, text: str) -> str:
    """The text without the question's own list of options, which some models repeat before they answer."""
    return text.replace(write_options(question.options), " ", 1)


def read_one_option(question: Question, text: str) -> tuple[str, ...] | None:
    """The only option that is given by letter, else the only one that is named."""
    text = without_offer(question, text)
    lettered = lettered_options(question.options, text)
    if lettered is None or NEGATION.search(text.lower()):
        return None
    named, _ = named_options(question.options, words_of(text))
    chosen = lettered or named
    contradicted = bool(lettered and named) and not set(lettered) & set(named)
    return written(question.options, chosen) if len(chosen) == 1 and not contradicted else None


def read_option_set(question: Question, text: str) -> tuple[str, ...] | None:
    """All options that are given by letter or named, where the text is a list of them and nothing else."""
    text = without_offer(question, text)
    lettered = lettered_options(question.options, text)
    if lettered is None:
        return None
    named, rest = named_options(question.options, words_of(text))
    listed = all(word in LISTING or (word in ("b", "c", "d") and lettered) for word in rest)
    contradicted = bool(lettered and named) and set(lettered) != set(named)
    chosen = lettered or named
    return written(question.options, chosen) if chosen and listed and not contradicted else None


def read_yes_or_no(question: Question, text: str) -> str | None:
    """The yes or no that a text begins with or calls its answer, where the other one does not occur."""
    found = YES_OR_NO.search(text)
    both = {"yes", "no"} <= set(words_of(text))
    return (found[1] or found[2]).lower() if found and not both else None


def read_cell(question: Question, text: str) -> str | None:
    """The only number besides 1, which is the cell that the question asks about."""
    numbers = set(WHOLE.findall(text)) - {"1"}
    return numbers.pop() if len(numbers) == 1 and numbers <= set(CELLS) else None


def read_count(question: Question, text: str) -> int | None:
    """The only number, in digits or, up to twenty, in words."""
    words = words_of(text)
    numbers = {int(number.replace(",", "")) for number in WHOLE.findall(text)}
    # "one" is a count where it stands alone; elsewhere it is mostly a pronoun
    numbers |= {COUNT_OF_WORD[w] for w in words if w in COUNT_OF_WORD and (w != "one" or len(words) == 1)}
    return numbers.pop() if len(numbers) == 1 and not re.search(r"[0-9]{7}", text) else None


def read_box(question: Question, text: str) -> list[float] | None:
    """The only four numbers in square brackets, else the four numbers of a text that holds no others: `x1 y1 x2 y2`."""
    boxes = FOUR.findall(text)
    numbers = boxes[0] if len(boxes) == 1 else () if boxes else LOOSE_NUMBER.findall(text)
    if len(numbers) != 4:
        return None
    x1, y1, x2, y2 = map(float, numbers)
    return [x1, y1, x2, y2] if x1 < x2 and y1 < y2 else None


def read_points(question: Question, text: str) -> list[list[float]] | None:
    """Every pair of numbers in brackets."""
    points = [[float(x), float(y)] for x, y in PAIR.findall(text)]
    return points[: 4 * MOST_POINTS] or None


READERS: dict[str, Callable[[Question, str], Any]] = {
    "scene": read_one_option,
    "recognition": read_one_option,
    "grounding": read_box,
    "relationship": read_yes_or_no,
    "reid": read_cell,
    "security": read_option_set,
    "location": read_points,
    "aerial_counting": read_count,
    "pedestrian_counting": read_count,
}
