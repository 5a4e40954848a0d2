"""One question with one image in, one answer out, whoever gives it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import pandas as pd


@dataclass(frozen=True)
class Given:
    """What a model gave to one question.

    `output` is its text, empty where it said nothing, `None` where there is no answer at all; then `fault` says why.
    `finish` is `stop`, `length` (cut at the greatest number of tokens), `refused` or `empty reply`; empty where nobody
    knows. Token counts are 0 where nobody states them. `key` is the hash of all that was asked.
    """

    question_id: str
    output: str | None
    finish: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    model: str = ""
    key: str = ""
    fault: str = ""


@runtime_checkable
class Answerer(Protocol):
    """Whoever answers the benchmark."""

    @property
    def name(self) -> str:
        """What is to answer: two models whose answers can differ have two names."""
        ...

    def answers(self, questions: pd.DataFrame, images: Mapping[str, bytes], shown: Sequence[str]) -> Iterator[Given]:
        """One answer for each row of a question table, in any order.

        `shown` names for each row the image that goes with the question, `images` holds the encoded files by name.
        """
        ...
