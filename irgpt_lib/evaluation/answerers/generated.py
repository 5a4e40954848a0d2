"""Answers that a model writes, each written once: sorted by length, kept in a journal by the hash of what was asked.

The journal is that of `irtd.describing`: an answer is on disk before anyone sees it, so a killed run goes on where it
stood, and a repeated one writes nothing.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from irgpt_lib.evaluation.answerers.answerer import Given
from irgpt_lib.irtd.describing.describer import STOP_AFTER, Asked, Backend, Exchange, Failure, Failures, Reply, Request
from irgpt_lib.irtd.describing.journal import opened
from irgpt_lib.tasks import TASKS

# To say nothing is an answer too, and the worst one: it is kept and scored, not asked for again.
SILENCE = ("empty reply", "refused")
Length = Callable[[str, bytes], tuple[int, ...]]


class Heard:
    """A backend whose silence counts as an empty reply."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    @property
    def model(self) -> str:
        return self.backend.model

    @property
    def decoding(self) -> Mapping[str, float]:
        return self.backend.decoding

    def answer(self, asked: Iterator[Asked]) -> Iterator[list[Reply | Failure]]:
        for batch in self.backend.answer(asked):
            yield [self.heard(answer) for answer in batch]

    def heard(self, answer: Reply | Failure) -> Reply | Failure:
        if isinstance(answer, Failure) and answer.reason in SILENCE:
            return Reply(answer.name, answer.key, "", self.model, finish=answer.reason)
        return answer

    def cure(self, failure: Failure) -> str:
        return self.backend.cure(failure)


@dataclass(frozen=True)
class Generated:
    """A model behind a journal.

    `backend(limit)` writes answers of at most so many tokens; `limits` says how many a task may have. Questions of one
    limit are asked together, those with the greatest `length` first, so that rows of one batch are alike and the
    largest batch comes before much time is spent.
    """

    name: str
    backend: Callable[[int], Backend]
    limits: Mapping[str, int]
    journal: Path
    length: Length

    def answers(self, questions: pd.DataFrame, images: Mapping[str, bytes], shown: Sequence[str]) -> Iterator[Given]:
        """See `Answerer`; what could not be asked is an answer with its `fault`, and asked again in the next run.

        Raises:
            KeyError: a task has no limit.
            JournalBusy, JournalDamaged, NoReplies: see `JournalledDescriber.describe`.
        """
        rows = list(zip(questions["question_id"], questions["question"], shown, strict=True))
        limits = [self.limits[task] for task in questions["task"]]
        with opened(self.journal) as journal, tqdm(total=len(rows), desc=self.name, mininterval=2.0) as bar:
            for limit in sorted(set(limits), reverse=True):
                backend = Heard(self.backend(limit))
                own = [row for row, its in zip(rows, limits, strict=True) if its == limit]
                own.sort(key=lambda row: self.length(row[1], images[row[2]]), reverse=True)
                requests = (Request(name, prompt, image=images[sample]) for name, prompt, sample in own)
                failures = Failures(backend, journal, STOP_AFTER)
                for answer in Exchange(backend, journal, requests).answers():
                    failures.count(answer)
                    bar.update()
                    yield given(answer)


def given(answer: Reply | Failure) -> Given:
    """What a backend said as the benchmark takes it."""
    if isinstance(answer, Failure):
        detail = f": {answer.detail}" if answer.detail else ""
        return Given(answer.name, None, key=answer.key, fault=f"{answer.reason}{detail}")
    return Given(
        question_id=answer.name,
        output=answer.text,
        finish=answer.finish,
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
        model=answer.model,
        key=answer.key,
    )


def one_limit(tokens: int) -> dict[str, int]:
    """The same greatest number of tokens for every task."""
    return dict.fromkeys(TASKS, tokens)


def journal_of(folder: Path, name: str) -> Path:
    """The journal of one model below `folder`, so that two models can be asked at a time."""
    return folder / re.sub(r"[^\w.@-]+", "_", name)
