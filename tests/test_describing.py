"""Describers against a real server on the loopback interface with faults put in, against kill -9, and a tiny model."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from faulty_files import gray_png

from irgpt_lib.irtd.describing import openai_server
from irgpt_lib.irtd.describing.describer import (
    Backend,
    Describer,
    Failure,
    JournalledDescriber,
    NoReplies,
    Reply,
    Request,
    request_key,
)
from irgpt_lib.irtd.describing.facts import DescribeFacts
from irgpt_lib.irtd.describing.journal import JournalBusy, JournalDamaged, opened
from irgpt_lib.irtd.describing.openai_server import OpenAIServer, Pace, ServerMisstated, read_completion
from irgpt_lib.irtd.simulated import world
from irgpt_lib.irtd.simulated.describe import describe

ROOT = Path(__file__).parents[1]
SECRET = "sk-not-to-be-shown"
DECODING = {"max_tokens": 64, "seed": 0, "temperature": 0.0}


def completion(text: object = "A street.", **changes: object) -> dict:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [choice],
        "usage": usage,
    } | changes


class ChatServer(ThreadingHTTPServer):
    """Speaks the chat-completions protocol. `faults` maps a prompt to what its first requests meet, in order: a status,
    raw bytes instead of a completion, `drop` for a dropped connection, or a number of seconds to wait."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), ChatHandler)
        self.faults: dict[str, list[object]] = {}
        self.seen: list[dict] = []
        self.keys: list[str | None] = []
        self.at_once = self.most_at_once = 0
        self.delay_s = 0.0
        self.gate = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @property
    def prompts(self) -> list[str]:
        return [prompt_of(body) for body in self.seen]

    def handle_error(self, request, client_address) -> None:
        """A client that was killed is part of the test."""


def prompt_of(body: dict) -> str:
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else content[-1]["text"]


class ChatHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: ChatServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.gate:
            self.server.seen.append(body)
            self.server.keys.append(self.headers["Authorization"])
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.at_once, self.server.most_at_once)
            waiting = self.server.faults.get(prompt_of(body), [])
            fault = waiting.pop(0) if waiting else None
        time.sleep(self.server.delay_s)
        self.meet(fault, f"About {prompt_of(body)}.")
        with self.server.gate:
            self.server.at_once -= 1

    def meet(self, fault: object, text: str) -> None:
        if fault == "drop":
            self.close_connection = True
            self.connection.close()
        elif isinstance(fault, int):
            self.send(fault, json.dumps({"error": {"message": f"status {fault}, {SECRET}"}}).encode())
        elif isinstance(fault, bytes):
            self.send(200, fault)
        else:
            time.sleep(fault or 0.0)
            self.send(200, json.dumps(completion(text)).encode())

    def send(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("retry-after-ms", "5")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def server():
    with ChatServer() as chat:
        thread = threading.Thread(target=chat.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield chat
        chat.shutdown()
        thread.join()


def asking(server: ChatServer, **changes: object) -> OpenAIServer:
    settings = {"base_url": server.url, "model": "m", "max_tokens": 64, "timeout_s": 5.0, "max_retries": 3}
    return OpenAIServer(**(settings | changes))


def requests(*prompts: str) -> list[Request]:
    return [Request(name=f"name of {prompt}", prompt=prompt) for prompt in prompts]


def by_name(describer: Describer, asked: list[Request]) -> dict[str, Reply | Failure]:
    return {answer.name.removeprefix("name of "): answer for answer in describer.describe(asked)}


def journal_lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(autouse=True)
def no_keys_of_the_user(monkeypatch):
    for name in [name for name in os.environ if name.startswith("OPENAI_")]:
        monkeypatch.delenv(name)


def test_replies_are_journalled_and_never_asked_for_again(server, tmp_path):
    asked = [Request("a", "What?", system="Be short.", image=gray_png()), Request("b", "Which?")]
    describer = JournalledDescriber(asking(server), tmp_path)
    first = {reply.name: reply for reply in describer.describe(asked)}
    assert first["a"].text == "About What?." and not first["a"].from_journal
    assert (first["a"].prompt_tokens, first["a"].completion_tokens, first["a"].finish) == (7, 3, "stop")
    second = {reply.name: reply for reply in describer.describe(asked)}
    assert len(server.seen) == 2
    assert all(reply.from_journal for reply in second.values())
    assert {name: reply.text for name, reply in second.items()} == {name: reply.text for name, reply in first.items()}
    (line,) = [line for line in journal_lines(tmp_path) if line["prompt"] == "What?"]
    assert line["key"] == request_key("m", DECODING, asked[0]) and line["decoding"] == DECODING
    assert (line["system"], line["model"], len(line["image"])) == ("Be short.", "m", 64) and line["seconds"] > 0


def test_the_protocol_on_the_wire(server, tmp_path):
    list(JournalledDescriber(asking(server), tmp_path).describe([Request("a", "What?", "Be short.", gray_png())]))
    (body,) = server.seen
    assert {name: body[name] for name in ("model", "temperature", "max_tokens", "seed")} == DECODING | {"model": "m"}
    system, user = body["messages"]
    assert system == {"role": "system", "content": "Be short."}
    assert user["content"][0]["image_url"]["url"].startswith("data:image/png;base64,iVBOR")
    assert user["content"][1] == {"type": "text", "text": "What?"}


def test_a_request_made_twice_is_sent_once(server, tmp_path):
    server.delay_s = 0.05
    twins = [Request(name, "What?") for name in ("a", "b", "c")]
    replies = list(JournalledDescriber(asking(server), tmp_path).describe(twins))
    assert sorted(reply.name for reply in replies) == ["a", "b", "c"]
    assert len(server.seen) == 1 and len(journal_lines(tmp_path)) == 1


@pytest.mark.parametrize(
    "changed",
    [{"prompt": "Which?"}, {"system": "Be long."}, {"image": gray_png(value=91)}, {"image": None}],
)
def test_whatever_determines_a_reply_is_in_its_key(changed):
    request = Request("a", "What?", "Be short.", gray_png())
    key = request_key("m", DECODING, request)
    assert request_key("m", DECODING, replace(request, **changed)) != key
    assert request_key("n", DECODING, request) != key
    assert request_key("m", DECODING | {"seed": 1}, request) != key
    assert request_key("m", DECODING, replace(request, name="b")) == key


@pytest.mark.parametrize("faults", [[429], [500, 503, 408], ["drop"]])
def test_passing_faults_are_retried(server, tmp_path, faults):
    server.faults["p"] = list(faults)
    (reply,) = JournalledDescriber(asking(server), tmp_path).describe(requests("p"))
    assert isinstance(reply, Reply) and reply.text == "About p."
    assert len(server.seen) == len(faults) + 1


def raw(**changes: object) -> bytes:
    return json.dumps(completion(**changes)).encode()


BROKEN = {
    "no json": (b"{", "malformed reply"),
    "json, no object": (b"[]", "malformed reply"),
    "other object": (b"{}", "malformed reply"),
    "html": (b"<html>sign in</html>", "malformed reply"),
    "no utf-8": (b'{"choices": "\xff"}', "malformed reply"),
    "choices null": (raw(choices=None), "malformed reply"),
    "no choice": (raw(choices=[]), "empty reply"),
    "odd choice": (raw(choices=["x"]), "empty reply"),
    "no message": (raw(choices=[{}]), "empty reply"),
    "message null": (raw(choices=[{"message": None, "finish_reason": "stop"}]), "empty reply"),
    "content null": (raw(text=None), "empty reply"),
    "content blank": (raw(text=" \n"), "empty reply"),
    "content number": (raw(text=3), "malformed reply"),
    "half a character": (raw(text="\ud800"), "malformed reply"),
    "filtered": (raw(choices=[{"message": {"content": ""}, "finish_reason": "content_filter"}]), "refused"),
    "refused": (raw(choices=[{"message": {"content": None, "refusal": "No."}, "finish_reason": "stop"}]), "refused"),
    "bad request": (400, "refused with status 400"),
    "too large": (413, "refused with status 413"),
    "forbidden": (403, "not authorised"),
    "ever busy": ([429] * 4, "too many requests"),
    "ever broken": ([500] * 4, "server error"),
}


def test_a_permanent_fault_fails_its_own_request_and_no_other(server, tmp_path, monkeypatch):
    monkeypatch.setenv("DESCRIBER_KEY", SECRET)
    server.faults = {name: fault if isinstance(fault, list) else [fault] for name, (fault, _) in BROKEN.items()}
    describer = JournalledDescriber(asking(server, key_variable="DESCRIBER_KEY"), tmp_path, stop_after=len(BROKEN))
    whole = [f"whole {number}" for number in range(3)]
    answers = by_name(describer, requests(*whole, *BROKEN))
    assert {name: answers[name].reason for name in BROKEN} == {name: reason for name, (_, reason) in BROKEN.items()}
    assert all(isinstance(answers[name], Reply) for name in whole)
    assert set(server.keys) == {f"Bearer {SECRET}"}
    assert SECRET not in repr(answers) and SECRET not in (tmp_path / "journal.jsonl").read_text()
    again = by_name(describer, requests(*whole, *BROKEN))
    assert all(isinstance(again[name], Reply) for name in again), "a failure is not kept: the next run asks again"
    assert len(journal_lines(tmp_path)) == len(whole) + len(BROKEN)


def test_odd_usage_is_no_fault(server, tmp_path):
    server.faults = {"p": [raw(usage=None)], "q": [raw(usage={"prompt_tokens": "7"})]}
    replies = by_name(JournalledDescriber(asking(server), tmp_path), requests("p", "q"))
    assert all((reply.prompt_tokens, reply.completion_tokens) == (0, 0) for reply in replies.values())


def test_an_image_that_the_protocol_does_not_know_is_not_sent(server, tmp_path):
    asked = [Request("a", "p", image=b"GIF89a"), Request("b", "q")]
    failure, _ = sorted(JournalledDescriber(asking(server), tmp_path).describe(asked), key=lambda answer: answer.name)
    assert failure.reason == "unsupported image" and server.prompts == ["q"]


def test_half_a_character_in_a_prompt_is_not_sent(server, tmp_path):
    (failure,) = JournalledDescriber(asking(server), tmp_path).describe(requests("\ud800"))
    assert failure.reason == "unwritable prompt" and not server.seen


def test_a_slow_server_is_a_time_out_and_asked_again(server, tmp_path):
    server.faults["p"] = [0.6]
    (reply,) = JournalledDescriber(asking(server, timeout_s=0.2), tmp_path).describe(requests("p"))
    assert reply.text == "About p." and len(server.seen) == 2
    server.faults["q"] = [0.6]
    (failure,) = JournalledDescriber(asking(server, timeout_s=0.2, max_retries=0), tmp_path).describe(requests("q"))
    assert (failure.reason, failure.unreachable) == ("time-out", True)


def test_a_server_that_is_away_stops_the_run(tmp_path):
    away = OpenAIServer("http://127.0.0.1:9/v1", "m", max_retries=0)
    with pytest.raises(NoReplies, match=r"no connection.*127\.0\.0\.1:9/v1.*Start it"):
        list(JournalledDescriber(away, tmp_path).describe(requests(*map(str, range(100)))))


@pytest.mark.parametrize(
    ("status", "cure"), [(401, "environment variable"), (404, "base_url"), (429, "per_minute"), (400, "takes images")]
)
def test_a_server_that_refuses_everyone_stops_the_run(server, tmp_path, status, cure):
    prompts = [str(number) for number in range(40)]
    server.faults = {prompt: [status] for prompt in prompts}
    with pytest.raises(NoReplies, match=cure):
        list(JournalledDescriber(asking(server, max_retries=0, concurrency=2), tmp_path).describe(requests(*prompts)))
    assert len(server.seen) <= 8


def test_a_server_that_dies_midway_stops_the_run_and_one_bad_request_after_another_does_not(server, tmp_path):
    prompts = [f"{number:02}" for number in range(29)]
    server.faults = {prompt: [400] for prompt in prompts[5:20]} | {prompt: [503] for prompt in prompts[20:]}
    describer = JournalledDescriber(asking(server, max_retries=0, concurrency=1), tmp_path)
    answers = []
    with pytest.raises(NoReplies, match="5 replies are kept"):
        answers += describer.describe(requests(*prompts))
    assert server.prompts == prompts[:25]
    assert len(by_name(describer, requests(*prompts))) == 29, "the next run goes on"


def test_concurrency_is_kept(server, tmp_path):
    server.delay_s = 0.02
    assert len(by_name(JournalledDescriber(asking(server, concurrency=3), tmp_path), requests(*"abcdefgh"))) == 8
    assert 1 < server.most_at_once <= 3


def test_pace_is_kept_retries_counted_and_waiting_for_it_is_no_time_out(server, tmp_path):
    server.faults["a"] = [500, 500]
    started = time.monotonic()
    backend = asking(server, concurrency=8, per_minute=60 / 0.05, timeout_s=0.2)
    assert len(by_name(JournalledDescriber(backend, tmp_path), requests(*"abcdefgh"))) == 8
    assert len(server.seen) == 10 and time.monotonic() - started > 9 * 0.05
    assert Pace(0).interval_s == 0


def test_the_users_own_openai_key_goes_to_no_other_server(server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("OPENAI_ADMIN_KEY", SECRET)
    list(JournalledDescriber(asking(server), tmp_path).describe(requests("p")))
    assert server.keys == ["Bearer none"]


def test_a_named_key_must_be_set(server, tmp_path):
    backend = asking(server, key_variable="NO_SUCH_VARIABLE")
    with pytest.raises(ServerMisstated, match="NO_SUCH_VARIABLE is not set"):
        list(JournalledDescriber(backend, tmp_path).describe(requests("p")))


@pytest.mark.parametrize(
    "changes",
    [
        {"base_url": "127.0.0.1:8000"},
        {"base_url": "ftp://host/v1"},
        {"base_url": f"http://user:{SECRET}@host/v1"},
        {"base_url": f"http://host/v1?key={SECRET}"},
        {"concurrency": 0},
        {"max_tokens": 0},
        {"timeout_s": -1.0},
        {"per_minute": -1.0},
    ],
)
def test_impossible_settings_are_refused(changes):
    with pytest.raises(ServerMisstated) as caught:
        OpenAIServer(**({"base_url": "http://127.0.0.1:1/v1", "model": "m"} | changes))
    assert SECRET not in str(caught.value)


def test_a_second_writer_is_refused(server, tmp_path):
    describer = JournalledDescriber(asking(server), tmp_path)
    running = describer.describe(requests("p", "q"))
    next(running)
    with pytest.raises(JournalBusy, match="another run"):
        list(describer.describe(requests("r")))
    running.close()
    assert len(by_name(describer, requests("p", "q", "r"))) == 3


def test_an_iterator_that_is_dropped_leaves_no_thread(server, tmp_path):
    server.delay_s = 0.05
    running = JournalledDescriber(asking(server), tmp_path).describe(requests(*"abcdef"))
    next(running)
    running.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "describer"]


def test_it_works_where_an_event_loop_runs_already(server, tmp_path):
    import asyncio

    async def cell() -> list:
        return list(JournalledDescriber(asking(server), tmp_path).describe(requests("p")))

    assert len(asyncio.run(cell())) == 1


@pytest.mark.parametrize("torn", [b'{"key": "ab', b"\x00\x00\x00", b"\xff"])
def test_a_torn_last_line_is_cut_and_said(server, tmp_path, capsys, torn):
    describer = JournalledDescriber(asking(server), tmp_path)
    list(describer.describe(requests("p", "q")))
    whole = (tmp_path / "journal.jsonl").read_bytes()
    (tmp_path / "journal.jsonl").write_bytes(whole + torn)
    assert all(reply.from_journal for reply in describer.describe(requests("p", "q")))
    assert (tmp_path / "journal.jsonl").read_bytes() == whole
    assert f"cut {len(torn)} bytes" in capsys.readouterr().err


def test_a_reply_cut_in_half_is_asked_for_again(server, tmp_path):
    describer = JournalledDescriber(asking(server, concurrency=1), tmp_path)
    list(describer.describe(requests("p", "q")))
    file = tmp_path / "journal.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    list(describer.describe(requests("p", "q")))
    assert server.prompts == ["p", "q", "q"]
    assert [line["prompt"] for line in journal_lines(tmp_path)] == ["p", "q"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{}\n", "line 2: key: Field required"),
        (b"nonsense\n", "line 2"),
        (b"\n", "line 2"),
        (b"\xff\n", "line 2"),
        (None, "a second reply"),
    ],
)
def test_a_damaged_journal_is_refused_and_named(server, tmp_path, line, message):
    describer = JournalledDescriber(asking(server), tmp_path)
    list(describer.describe(requests("p")))
    file = tmp_path / "journal.jsonl"
    file.write_bytes(file.read_bytes() + (file.read_bytes() if line is None else line))
    with pytest.raises(JournalDamaged, match=message):
        list(describer.describe(requests("p")))


def test_any_text_survives_the_journal(server, tmp_path):
    text = 'A "quoted" line\nfeed, \u2028, \\u0000, é, 赤外線 🙂'
    server.faults["p"] = [raw(text=text)]
    describer = JournalledDescriber(asking(server), tmp_path)
    assert [reply.text for _ in range(2) for reply in describer.describe(requests("p"))] == [text, text]


KILLED = """
import sys
from pathlib import Path
from irgpt_lib.irtd.describing.describer import JournalledDescriber, Request
from irgpt_lib.irtd.describing.openai_server import OpenAIServer
backend = OpenAIServer(sys.argv[1], "m", max_tokens=64, concurrency=4)
wanted = [Request(str(n), f"prompt {n}") for n in range(60)]
for reply in JournalledDescriber(backend, Path(sys.argv[2])).describe(wanted):
    print(reply.key, flush=True)
"""


def test_kill_9_loses_no_reply_and_repeats_none(server, tmp_path):
    server.delay_s = 0.02
    given: list[str] = []
    journalled: set[str] = set()
    for kill_after in (20, None):
        asked_before = len(server.seen)
        process = start_writer(server, tmp_path)
        for line in process.stdout:
            given.append(line.strip())
            if kill_after is not None and len(server.seen) - asked_before >= kill_after:
                process.send_signal(signal.SIGKILL)
                break
        process.stdout.close()
        assert process.wait() == (0 if kill_after is None else -signal.SIGKILL)
        sent_now = set(server.prompts[asked_before:])
        assert not sent_now & journalled, "what was answered and journalled is not asked again"
        with opened(tmp_path) as journal:
            journalled = {entry.prompt for entry in journal.entries.values()}
            assert set(given) <= set(journal.entries), "what was given out is in the journal"
    keys = Counter(line["key"] for line in journal_lines(tmp_path))
    assert len(keys) == 60 and set(keys.values()) == {1}


def start_writer(server: ChatServer, folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", KILLED, server.url, str(folder)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def test_simulated_scenes_are_described_from_their_facts():
    mix = {"scene": 1.0}
    samples = {truth.sample_id: truth for truths, _ in world.generate(2, seed=0, size=64, mix=mix) for truth in truths}
    real = replace(next(iter(samples.values())), sample_id="real", source="flir_adas")
    describer = DescribeFacts(samples | {"real": real})
    assert isinstance(describer, Describer)
    answers = list(describer.describe([Request(name, "Describe.") for name in (*samples, "real", "unknown")]))
    assert [answer.text for answer in answers[: len(samples)]] == [describe(sample) for sample in samples.values()]
    assert [answer.reason for answer in answers[-2:]] == ["no known facts"] * 2


def test_backends_fit_the_interface():
    backend = OpenAIServer("http://127.0.0.1:1/v1", "m")
    assert isinstance(backend, Backend) and isinstance(JournalledDescriber(backend, Path()), Describer)
    with pytest.raises(openai_server.RequestImpossible, match="malformed reply"):
        read_completion("text")


@contextmanager
def one_thread():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


TEMPLATE = (
    "{% for turn in messages %}{{ turn.role }} : {% for part in turn.content %}"
    "{% if part.type == 'image' %}<image> {% else %}{{ part.text }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}assistant : {% endif %}"
)
WORDS = "<pad> <s> </s> <unk> <image> user system assistant : what is in the picture ? a car and two people"


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory):
    """A random LLaVA of a few thousand parameters with its processor, saved as any checkpoint is."""
    from irgpt_lib.compat import ensure_torchvision

    ensure_torchvision()
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    words = {word: number for number, word in enumerate(WORDS.split())}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
    )
    size = {"height": 16, "width": 16}
    processor = LlavaProcessor(
        CLIPImageProcessor(size=size, crop_size=size),
        fast,
        patch_size=8,
        vision_feature_select_strategy="full",
        chat_template=TEMPLATE,
        num_additional_image_tokens=1,
    )
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**shape, image_size=16, patch_size=8),
        text_config=LlamaConfig(**shape, vocab_size=len(words), bos_token_id=1, eos_token_id=2, pad_token_id=0),
        image_token_index=words["<image>"],
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny")
    model = LlavaForConditionalGeneration(config)
    # at random it would write padding; it is to write words, one at least
    model.generation_config.suppress_tokens, model.generation_config.begin_suppress_tokens = [0, 1, 3, 4], [2]
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_a_local_model_writes_with_and_without_images(tiny_model, tmp_path):
    from irgpt_lib.irtd.describing.local_model import LocalModel

    asked = [
        Request("image", "what is in the picture ?", image=gray_png()),
        Request("text", "what is a car ?", system="a picture"),
        Request("long text", "what is in the picture ? a car and two people"),
        Request("other image", "what is in the picture ?", image=gray_png(value=200)),
        Request("broken image", "what is in the picture ?", image=gray_png()[:40]),
        Request("second image", "what is in the <image> ?", image=gray_png()),
    ]
    backend = LocalModel(str(tiny_model), max_tokens=5, batch_size=3, device="cpu")
    assert isinstance(backend, Backend)
    with one_thread():
        answers = {answer.name: answer for answer in JournalledDescriber(backend, tmp_path).describe(asked)}
    assert answers.pop("broken image").reason == "unreadable image"
    assert answers.pop("second image").reason == "control token"
    assert all(isinstance(answer, Reply) and answer.text for answer in answers.values())
    assert {answer.finish for answer in answers.values()} <= {"stop", "length"}
    assert all(1 <= answer.completion_tokens <= 5 for answer in answers.values())
    assert answers["long text"].prompt_tokens > answers["text"].prompt_tokens > 0
    alone = LocalModel(str(tiny_model), max_tokens=5, batch_size=1, device="cpu")
    with one_thread():
        one_by_one = list(JournalledDescriber(alone, tmp_path / "alone").describe(asked[:4]))
    assert {answer.name: answer.text for answer in one_by_one} == {name: a.text for name, a in answers.items()}
    fresh = LocalModel(str(tiny_model), max_tokens=5, batch_size=3, device="cpu")
    assert all(answer.from_journal for answer in JournalledDescriber(fresh, tmp_path).describe(asked[:4]))
    assert "network" not in vars(fresh), "what the journal knows needs no weights"


def test_a_local_model_is_named_by_its_content(tiny_model, tmp_path):
    from irgpt_lib.irtd.describing.local_model import LocalModel

    assert LocalModel(str(tiny_model)).model.startswith(f"{tiny_model.name}@")
    for content in ("a", "b"):
        (tmp_path / content).mkdir()
        (tmp_path / content / "config.json").write_text(content)
    assert LocalModel(str(tmp_path / "a")).model.split("@")[1] != LocalModel(str(tmp_path / "b")).model.split("@")[1]
    with pytest.raises(OSError, match="no-such/model: neither"):
        _ = LocalModel("no-such/model").model
