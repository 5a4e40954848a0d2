"""Requests in, replies or failures out, whoever writes them; and the rule that what was answered once is never asked
again.

A request's key is a hash of all that determines its reply: the model, the decoding parameters, both prompts and the
image. `JournalledDescriber` answers from its journal what it finds there, asks its backend the rest, and puts every
reply on disk before the caller sees it. So a run that was killed goes on where it stood, and a run that is repeated
sends nothing.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from tqdm import tqdm

from irgpt_lib.irtd.describing.journal import Entry, Journal, opened
from irgpt_lib.irtd.record import content_hash

STOP_AFTER = 5


class NoReplies(RuntimeError):
    """The backend answers nothing; the message names it, says what it said, and the cure."""


@dataclass(frozen=True)
class Request:
    """What to write about. `name` is the caller's own, for example a sample id, and no part of what is asked.

    `image` is an encoded PNG or JPEG file, `None` for a request about text alone.
    """

    name: str
    prompt: str
    system: str = ""
    image: bytes | None = None


@dataclass(frozen=True)
class Reply:
    """What was written. `finish` is `stop`, or `length` where the text was cut at the greatest number of tokens.

    Token counts are 0 where the backend states none; `seconds` is from asking to having, retries included;
    `from_journal` is true where nothing had to be asked.
    """

    name: str
    key: str
    text: str
    model: str
    finish: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    from_journal: bool = False


@dataclass(frozen=True)
class Failure:
    """A request without a reply: `reason` in a form that can be counted, `detail` as the backend put it.

    `unreachable` is true where the fault is not in this request: the backend is away, busy or refuses everyone.
    """

    name: str
    key: str
    reason: str
    detail: str = ""
    unreachable: bool = False


@dataclass(frozen=True)
class Asked:
    """A request on its way to a backend, with its key."""

    key: str
    request: Request


@runtime_checkable
class Describer(Protocol):
    """Whoever answers requests."""

    def describe(self, requests: Iterable[Request]) -> Iterator[Reply | Failure]:
        """One reply or failure for each request, under its name, in any order."""
        ...


@runtime_checkable
class Backend(Protocol):
    """Whoever writes the text: knows neither journal nor repeated requests."""

    @property
    def model(self) -> str:
        """What is to write: two models whose replies can differ have two names."""
        ...

    @property
    def decoding(self) -> Mapping[str, float]:
        """Every parameter that can change a reply."""
        ...

    def answer(self, asked: Iterator[Asked]) -> Iterator[list[Reply | Failure]]:
        """One reply or failure for each of `asked`, under its key, in any order, those together that came together.
        `asked` is drawn upon no faster than it can be worked off."""
        ...

    def cure(self, failure: Failure) -> str:
        """What the user can do where the backend answers nothing."""
        ...


def request_key(model: str, decoding: Mapping[str, float], request: Request) -> str:
    """SHA-256 over model, decoding parameters, prompt, system prompt and image, 64 hexadecimal digits."""
    content = {
        "decoding": dict(decoding),
        "image": image_hash(request),
        "model": model,
        "prompt": request.prompt,
        "system": request.system,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def image_hash(request: Request) -> str:
    """SHA-256 of the request's image, empty where it has none."""
    return "" if request.image is None else content_hash(request.image)


@dataclass(frozen=True)
class Waiting:
    """One key that the backend works at: what the journal will say of it, and the names of those who want it."""

    entry: Entry
    names: list[str]


class JournalledDescriber:
    """A describer that asks its backend only for what its journal lacks.

    `folder` holds the journal, which may serve any number of models. Of the first `stop_after` answers one at least
    must be a reply, and later `stop_after` in succession may not find the backend unreachable.
    """

    def __init__(self, backend: Backend, folder: Path, *, stop_after: int = STOP_AFTER) -> None:
        self.backend = backend
        self.folder = folder
        self.stop_after = stop_after

    def describe(self, requests: Iterable[Request]) -> Iterator[Reply | Failure]:
        """One reply or failure for each request, in the order in which they come in; a reply is on disk before it is
        given out, a failure is not kept, so that the next run asks again.

        The journal is held against other writers until the last answer, or until the iterator is closed.

        Raises:
            JournalBusy: another process writes this journal.
            JournalDamaged: a line of it, other than a torn last one, cannot be read.
            NoReplies: see the class; names the backend and the cure. What was answered is in the journal.
        """
        total = len(requests) if isinstance(requests, Sized) else None
        label = self.backend.model
        with opened(self.folder) as journal, tqdm(total=total, desc=label, unit="reply", mininterval=2.0) as bar:
            exchange = Exchange(self.backend, journal, requests)
            failures = Failures(self.backend, journal, self.stop_after)
            for answer in exchange.answers():
                bar.update()
                if failures.count(answer):
                    bar.set_postfix(failed=failures.total, refresh=False)
                yield answer


class Exchange:
    """One run of requests against a journal and a backend: what is known is given at once, what is asked twice is sent
    once."""

    def __init__(self, backend: Backend, journal: Journal, requests: Iterable[Request]) -> None:
        self.backend = backend
        self.journal = journal
        self.requests = requests
        self.known: list[Reply | Failure] = []
        self.waiting: dict[str, Waiting] = {}

    def answers(self) -> Iterator[Reply | Failure]:
        for batch in self.backend.answer(self.unanswered()):
            self.journal.append([filled(self.waiting[a.key].entry, a) for a in batch if isinstance(a, Reply)])
            for answer in batch:
                for name in self.waiting.pop(answer.key).names:
                    yield replace(answer, name=name)
            yield from self.drained()
        yield from self.drained()

    def drained(self) -> Iterator[Reply | Failure]:
        known, self.known = self.known, []
        yield from known

    def unanswered(self) -> Iterator[Asked]:
        """The requests that the backend has to see, in order; the others are put aside."""
        for request in self.requests:
            if not writable(request):
                self.known.append(Failure(request.name, "", "unwritable prompt", "it holds half a character"))
                continue
            key = request_key(self.backend.model, self.backend.decoding, request)
            if entry := self.journal.entries.get(key):
                self.known.append(from_entry(entry, request.name))
            elif key in self.waiting:
                self.waiting[key].names.append(request.name)
            else:
                self.waiting[key] = Waiting(self.entry(key, request), [request.name])
                yield Asked(key, request)

    def entry(self, key: str, request: Request) -> Entry:
        return Entry(
            key=key,
            model=self.backend.model,
            decoding=dict(self.backend.decoding),
            system=request.system,
            prompt=request.prompt,
            image=image_hash(request),
        )


class Failures:
    """Counts failures, and stops a run that only fails."""

    def __init__(self, backend: Backend, journal: Journal, stop_after: int) -> None:
        self.backend = backend
        self.journal = journal
        self.stop_after = stop_after
        self.total = 0
        self.replied = False
        self.in_succession = 0

    def count(self, answer: Reply | Failure) -> bool:
        """Whether this answer was a failure.

        Raises:
            NoReplies: nothing but failures at the start, or an unreachable backend in succession.
        """
        if isinstance(answer, Reply):
            if not answer.from_journal:
                self.replied, self.in_succession = True, 0
            return False
        self.total += 1
        self.in_succession += answer.unreachable or not self.replied
        if self.in_succession >= self.stop_after:
            raise NoReplies(
                f"{self.backend.model}: {self.in_succession} requests in succession failed, the last one with "
                f"{answer.reason}: {answer.detail}. {self.backend.cure(answer)} {len(self.journal.entries)} replies "
                f"are kept in {self.journal.file}; the next run goes on from there."
            )
        return True


def writable(request: Request) -> bool:
    """Whether both prompts can be encoded as UTF-8."""
    try:
        (request.prompt + request.system).encode()
    except UnicodeEncodeError:
        return False
    return True


def filled(entry: Entry, reply: Reply) -> Entry:
    """The journal's entry with the reply in it."""
    return entry.model_copy(
        update={
            "text": reply.text,
            "finish": reply.finish,
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": reply.completion_tokens,
            "seconds": round(reply.seconds, 3),
        }
    )


def from_entry(entry: Entry, name: str) -> Reply:
    """The reply that the journal keeps, for the caller who calls it `name`."""
    return Reply(
        name=name,
        key=entry.key,
        text=entry.text,
        model=entry.model,
        finish=entry.finish,
        prompt_tokens=entry.prompt_tokens,
        completion_tokens=entry.completion_tokens,
        seconds=entry.seconds,
        from_journal=True,
    )
