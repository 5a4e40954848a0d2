"""A vision-language model behind the OpenAI chat-completions protocol: vLLM, SGLang, llama.cpp, Ollama, a hosted one.

Requests run side by side on an event loop in a thread of its own, so that this works in a notebook, whose own thread
already runs one, and so that a slow caller does not hold up replies on their way. Retries are the openai library's: on
429, 5xx, 408, 409, time-outs and dropped connections, with growing pauses or those that the server asks for.
"""

import asyncio
import base64
import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Thread
from urllib.parse import urlsplit

import openai
from openai.types.chat import ChatCompletion

from irgpt_lib.irtd.describing.describer import Asked, Failure, Reply, Request

NO_KEY = "none"
MEDIA_TYPES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}
MAX_DETAIL = 300
UNREACHABLE = ("no connection", "time-out", "too many requests", "server error", "not authorised", "not found")


class ServerMisstated(ValueError):
    """The server's settings cannot be used; the message says which and how to mend it."""


class RequestImpossible(ValueError):
    """The request's image cannot be sent, or its reply holds no text; `reason` can be counted."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class Pace:
    """Lets through at most `per_minute` calls a minute, evenly spaced; 0 means no limit."""

    def __init__(self, per_minute: float) -> None:
        self.interval_s = 60 / per_minute if per_minute else 0.0
        self.next = 0.0

    async def __call__(self, *_: object) -> None:
        now = time.monotonic()
        turn = max(now, self.next)
        self.next = turn + self.interval_s
        await asyncio.sleep(turn - now)


@dataclass(frozen=True)
class OpenAIServer:
    """A server, the model to ask there, and how.

    `base_url` ends where `/chat/completions` is to follow, most often in `/v1`. `key_variable` names the environment
    variable that holds the key, empty where the server wants none; the key itself is neither kept nor shown. At most
    `concurrency` requests are under way at a time and at most `per_minute` are sent a minute, retries counted (0: no
    limit). A server that sends nothing for `timeout_s` seconds is asked again, up to `max_retries` times.

    Raises:
        ServerMisstated: `base_url` is no http(s) address or holds a user name, or a number is out of range.
    """

    base_url: str
    model: str
    key_variable: str = ""
    temperature: float = 0.0
    max_tokens: int = 512
    seed: int = 0
    concurrency: int = 8
    per_minute: float = 0.0
    timeout_s: float = 120.0
    max_retries: int = 5

    def __post_init__(self) -> None:
        address = urlsplit(self.base_url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ServerMisstated(
                f"base_url {self.base_url!r} is no address; write for example http://127.0.0.1:8000/v1"
            )
        if address.username is not None or address.query:
            raise ServerMisstated("base_url holds a user name or a query; put the key into an environment variable")
        positive = {"max_tokens": self.max_tokens, "concurrency": self.concurrency, "timeout_s": self.timeout_s}
        if low := [name for name, value in positive.items() if value <= 0]:
            raise ServerMisstated(f"{low[0]} is {positive[low[0]]}; it must be above 0")
        if min(self.per_minute, self.max_retries, self.temperature) < 0:
            raise ServerMisstated("per_minute, max_retries and temperature must not be below 0")

    @property
    def decoding(self) -> Mapping[str, float]:
        return {"max_tokens": self.max_tokens, "seed": self.seed, "temperature": float(self.temperature)}

    def answer(self, asked: Iterator[Asked]) -> Iterator[list[Reply | Failure]]:
        """One reply or failure for each of `asked`, as they come in.

        Raises:
            ServerMisstated: the environment variable of the key is not set.
        """
        key = self.key()
        with running_loop() as loop:
            client = self.client(key)
            pending: set[Future[Reply | Failure]] = set()
            try:
                while True:
                    while len(pending) < self.concurrency and (one := next(asked, None)):
                        pending.add(asyncio.run_coroutine_threadsafe(self.ask(client, one), loop))
                    if not pending:
                        break
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    yield [future.result() for future in done]
            finally:
                asyncio.run_coroutine_threadsafe(ended(client), loop).result()

    def key(self) -> str:
        """The key from the environment; a placeholder where the server wants none, for the openai library would
        otherwise send the user's own OpenAI key.

        Raises:
            ServerMisstated: the variable is named and not set.
        """
        if not self.key_variable:
            return NO_KEY
        if not (key := os.environ.get(self.key_variable, "").strip()):
            raise ServerMisstated(
                f"the environment variable {self.key_variable} is not set; put the key for {self.base_url} there"
            )
        return key

    def without_key(self, text: str) -> str:
        """A server's words without the key, which some repeat."""
        return text.replace(self.key(), "(key)") if self.key_variable else text

    def client(self, key: str) -> openai.AsyncOpenAI:
        """The library's client, with the pace put before every attempt to send."""
        http = openai.DefaultAsyncHttpx2Client(event_hooks={"request": [Pace(self.per_minute)]})
        return openai.AsyncOpenAI(
            api_key=key,
            base_url=self.base_url,
            timeout=self.timeout_s,
            max_retries=self.max_retries,
            http_client=http,
        )

    async def ask(self, client: openai.AsyncOpenAI, asked: Asked) -> Reply | Failure:
        """One request, retried by the library; what cannot be mended so becomes a failure."""
        name, started = asked.request.name, time.monotonic()
        try:
            completion = await client.chat.completions.create(
                model=self.model,
                messages=messages(asked.request),
                max_tokens=self.max_tokens,
                temperature=self.temperature,
                seed=self.seed,
            )
            text, finish = read_completion(completion)
        except RequestImpossible as error:
            return Failure(name, asked.key, error.reason, error.detail)
        except (openai.OpenAIError, ValueError) as error:
            reason = reason_of(error)
            detail = self.without_key(str(error.__cause__ or error))[:MAX_DETAIL]
            return Failure(name, asked.key, reason, detail, unreachable=reason in UNREACHABLE)
        return Reply(
            name=name,
            key=asked.key,
            text=text,
            model=self.model,
            finish=finish,
            prompt_tokens=tokens(completion, "prompt_tokens"),
            completion_tokens=tokens(completion, "completion_tokens"),
            seconds=time.monotonic() - started,
        )

    def cure(self, failure: Failure) -> str:
        where = f"Server: {self.base_url}."
        if failure.reason in ("no connection", "time-out"):
            return f"{where} Start it, or mend base_url; for a slow one raise timeout_s or lower concurrency."
        if failure.reason == "not authorised":
            return f"{where} Put a valid key into the environment variable {self.key_variable or 'key_variable names'}."
        if failure.reason == "not found":
            return f"{where} Mend base_url (most end in /v1) or the model's name ({self.model})."
        if failure.reason == "too many requests":
            return f"{where} Lower per_minute or concurrency, or look at the account's limits."
        return f"{where} Look at its log, and whether its model ({self.model}) takes images."


@contextmanager
def running_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that runs in a thread of its own until the block ends."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, name="describer", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def ended(client: openai.AsyncOpenAI) -> None:
    """Give up what is still under way and close the connections."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await client.close()


def messages(request: Request) -> list[dict[str, object]]:
    """The request in the protocol's form: the system prompt if there is one, then the image as a `data:` URL and the
    prompt.

    Raises:
        RequestImpossible: `unsupported image`, one that is neither PNG nor JPEG.
    """
    turns: list[dict[str, object]] = [{"role": "system", "content": request.system}] if request.system else []
    if request.image is None:
        return [*turns, {"role": "user", "content": request.prompt}]
    parts = [
        {"type": "image_url", "image_url": {"url": data_url(request.image)}},
        {"type": "text", "text": request.prompt},
    ]
    return [*turns, {"role": "user", "content": parts}]


def data_url(image: bytes) -> str:
    """`data:image/png;base64,…`

    Raises:
        RequestImpossible: `unsupported image`.
    """
    for magic, media_type in MEDIA_TYPES.items():
        if image.startswith(magic):
            return f"data:{media_type};base64,{base64.b64encode(image).decode()}"
    raise RequestImpossible("unsupported image", f"{len(image)} bytes that are neither PNG nor JPEG")


def read_completion(completion: object) -> tuple[str, str]:
    """Text and finish reason of the first choice. The library checks no reply, so anything may be missing or odd here.

    Raises:
        RequestImpossible: `malformed reply`, `refused` or `empty reply`.
    """
    choices = getattr(completion, "choices", None)
    if not isinstance(completion, ChatCompletion) or not isinstance(choices, list):
        raise RequestImpossible("malformed reply", f"no chat completion: {str(completion)[:MAX_DETAIL]}")
    choice = choices[0] if choices else None
    message, finish = getattr(choice, "message", None), getattr(choice, "finish_reason", None)
    refusal, text = getattr(message, "refusal", None), getattr(message, "content", None)
    if refusal or finish == "content_filter":
        raise RequestImpossible("refused", str(refusal or finish)[:MAX_DETAIL])
    if text is not None and not isinstance(text, str):
        raise RequestImpossible("malformed reply", f"content is {type(text).__name__}, not text")
    if not text or not text.strip():
        raise RequestImpossible("empty reply", f"no text, finished by {finish}" if choices else "no choice")
    if text.encode(errors="replace").decode() != text:
        raise RequestImpossible("malformed reply", "its text holds half a character")
    return text.strip(), str(finish or "stop")


def tokens(completion: ChatCompletion, field: str) -> int:
    """A count of the reply's usage, 0 where the server states none."""
    count = getattr(completion.usage, field, None)
    return count if isinstance(count, int) else 0


def reason_of(error: Exception) -> str:
    """Why the library gave up, in a few words that can be counted."""
    if isinstance(error, openai.APITimeoutError):
        return "time-out"
    if isinstance(error, openai.APIConnectionError):
        return "no connection"
    if isinstance(error, openai.RateLimitError):
        return "too many requests"
    if isinstance(error, (openai.AuthenticationError, openai.PermissionDeniedError)):
        return "not authorised"
    if isinstance(error, openai.NotFoundError):
        return "not found"
    if isinstance(error, openai.APIStatusError):
        return "server error" if error.status_code >= 500 else f"refused with status {error.status_code}"
    return "malformed reply"
