"""Whoever answers: a miniature in batches against one at a time, a server on the loopback interface, a file."""

import copy
import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from faulty_files import gray_png
from miniature import captioned, fresh, talkative
from peft import PeftModel, get_peft_model
from test_answering import of_task
from test_answering import questions as nine_tasks
from test_describing import ChatServer, completion, one_thread, tiny_model  # noqa: F401
from test_families import KINDS, frame_of, lora
from test_families import talkative as talkative_of

from irgpt_lib.evaluation.answerers import study_model as study
from irgpt_lib.evaluation.answerers.answerer import Answerer, Given
from irgpt_lib.evaluation.answerers.file_of_answers import FileOfAnswers
from irgpt_lib.evaluation.answerers.generated import Generated, one_limit
from irgpt_lib.evaluation.answerers.server_model import server_model
from irgpt_lib.evaluation.answerers.table import PREDICTION_COLUMNS, predictions, write_predictions
from irgpt_lib.evaluation.answerers.transformers_model import transformers_model
from irgpt_lib.evaluation.prediction_file import read_answers
from irgpt_lib.irtd.describing.describer import Asked, Backend, Failure, NoReplies, Reply
from irgpt_lib.irtd.describing.journal import JournalBusy, read_entries
from irgpt_lib.irtd.describing.openai_server import OpenAIServer
from irgpt_lib.irtd.sources import MalformedFile
from irgpt_lib.models.families import Family, ImagePolicy, InternVL

ROOT = Path(__file__).parents[1]


def asked(each: int = 2) -> tuple[pd.DataFrame, dict[str, bytes]]:
    """Questions of all tasks in no order, and the images of the scenes."""
    table = nine_tasks().groupby("task").head(each).sample(frac=1, random_state=0).reset_index(drop=True)
    scenes = captioned(64)
    return table, dict(zip(scenes["sample_id"], scenes["infrared"], strict=True))


def answered(folder: Path, *, batch_size: int = 7, vlm=None, label: str = "test", **changes: object) -> pd.DataFrame:
    table, images = asked()
    return predictions(
        study.study_model(vlm or talkative(), label, table, folder, batch_size=batch_size),
        table,
        images | changes.get("images", {}),
        changes.get("shown"),
    )


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("journal")


@pytest.fixture(scope="module")
def given(journal: Path) -> pd.DataFrame:
    """The answers in batches of 7, which `journal` keeps."""
    return answered(journal)


# A model of the study


def test_batches_answer_exactly_as_generate_one_by_one(given):
    vlm, (table, images) = talkative(), asked()
    limits = study.answer_limits(vlm, table)
    for row, output in zip(table.itertuples(), given["output"], strict=True):
        tiles = vlm.read(images[row.sample_id])
        assert vlm.answer([row.question], [tiles], max_new_tokens=limits[row.task]) == [output]
    assert given["output"].nunique() > 3, "equal answers to unlike questions would prove nothing"
    assert list(given) == PREDICTION_COLUMNS and given["question_id"].tolist() == table["question_id"].tolist()
    assert (given["fault"] == "").all() and (given["shown"] == table["sample_id"]).all()


@pytest.mark.parametrize("size", [1, 100])
def test_the_size_of_batches_changes_nothing(given, tmp_path, size):
    pd.testing.assert_frame_equal(given, answered(tmp_path, batch_size=size))


def test_a_batch_holds_questions_of_one_limit_the_longest_first(tmp_path, monkeypatch):
    seen = []
    plain = study.StudyModel.write

    def watched(self, prompts, images, max_tokens):
        seen.append((max_tokens, [self.length(*pair)[0] for pair in zip(prompts, images, strict=True)]))
        return plain(self, prompts, images, max_tokens)

    monkeypatch.setattr(study.StudyModel, "write", watched)
    answered(tmp_path, batch_size=3)
    limits = [limit for limit, _ in seen]
    assert limits == sorted(limits, reverse=True) and len(set(limits)) > 2
    for limit in set(limits):
        lengths = [n for own, batch in seen for n in batch if own == limit]
        assert lengths == sorted(lengths, reverse=True)
    assert max(len(batch) for _, batch in seen) == 3


def test_nothing_is_generated_twice_and_what_changes_is(given, journal, monkeypatch):
    counted = []
    plain = study.StudyModel.write
    monkeypatch.setattr(study.StudyModel, "write", lambda *a: counted.append(len(a[1])) or plain(*a))
    pd.testing.assert_frame_equal(answered(journal), given)
    assert not counted
    sample = given["sample_id"][0]
    answered(journal, images={sample: gray_png(64, 64)})
    assert sum(counted) == (given["sample_id"] == sample).sum(), "only what is asked of the new image"
    counted.clear()
    other = answered(journal, vlm=fresh())
    assert sum(counted) == len(given) and set(other["model"]).isdisjoint(given["model"])


def test_the_image_that_is_shown_is_the_one_that_counts(given, journal):
    turned = np.roll(given["sample_id"], 1).tolist()
    other = answered(journal, shown=turned)
    assert other["shown"].tolist() == turned and (other["output"] != given["output"]).any()
    assert (other["key"] != given["key"]).all()


def frames() -> list[bytes]:
    """Two wide frames and a narrow one, which families that keep the aspect read as other numbers of tokens."""
    return [frame_of(160, 64), frame_of(64, 160), frame_of(96, 128)]


def asked_of_frames() -> tuple[list[str], list[bytes]]:
    one, two, three = frames()
    return ["What?", "Is there a car on the left side of the dog?", "What?", "Where?"], [one, two, three, one]


def adapted(family: Family) -> PeftModel:
    """An adapter in the family's own model that changes its answers."""
    torch.manual_seed(2)
    model = get_peft_model(family.model, lora(family))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.normal_(0, 0.3)
    return model


def eight_tiles() -> Family:
    """InternVL with several tiles an image."""
    one = talkative_of("internvl")
    return InternVL(one.model, one.tokenizer, ImagePolicy(max_tiles=8, min_pixels=3136, max_pixels=4096))


def as_answered(family: Family, prompts: list[str], images: list[bytes]) -> list[str]:
    """What the family itself answers, with every image in the model's own first step."""
    return family.answer(prompts, [family.read(image) for image in images], max_new_tokens=6)


@pytest.mark.parametrize("make", [*(lambda kind=kind: talkative_of(kind) for kind in KINDS), eight_tiles])
def test_every_family_answers_as_it_does_with_its_encoder_inside(make):
    family = make()
    prompts, images = asked_of_frames()
    model = study.StudyModel(family, "test", batch_size=4)
    first = [text for text, *_ in model.write(prompts, images, 6)]
    assert first == as_answered(family, prompts, images) and len(set(first)) > 1
    # from what was kept, beside other questions
    again = [text for text, *_ in model.write(prompts[::-1], images[::-1], 6)]
    assert again == first[::-1]
    lengths = [model.length(*pair)[0] for pair in zip(prompts, images, strict=True)]
    counts = family.encode_prompts(prompts, [family.image_tokens(family.read(i)) for i in images]).attention_mask.sum(1)
    assert lengths == counts.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_counts_merged_or_not(kind):
    family = talkative_of(kind)
    prompts, images = asked_of_frames()
    without = as_answered(family, prompts, images)
    around = family.with_model(copy.deepcopy(family.model))
    model = adapted(around)
    given = [text for text, *_ in study.StudyModel(around, "test", batch_size=4).write(prompts, images, 6)]
    assert given == as_answered(around, prompts, images) != without
    merged = family.with_model(model.merge_and_unload())
    assert [text for text, *_ in study.StudyModel(merged, "test", batch_size=4).write(prompts, images, 6)] == given


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_in_bfloat16_gets_its_pixels_in_bfloat16(kind):
    family = talkative_of(kind)
    half = family.with_model(copy.deepcopy(family.model).to(torch.bfloat16))
    prompts, images = asked_of_frames()
    given = [text for text, *_ in study.StudyModel(half, "test", batch_size=4).write(prompts, images, 6)]
    assert given == as_answered(half, prompts, images)


def test_an_answer_in_a_familys_own_grammar_comes_in_the_studys(monkeypatch):
    family = talkative_of("llava")
    monkeypatch.setattr(type(family), "decode", lambda self, ids: "The dog is at [0.25, 0.5, 0.75, 0.6].")
    (text, *_) = study.StudyModel(family, "test", batch_size=1).write(["Where?"], [frame_of(200, 100)], 3)[0]
    assert text == family.in_study_grammar("The dog is at [0.25, 0.5, 0.75, 0.6].", (200, 100))
    assert "<box>[[250, 500, 750, 700]]</box>" in text


def test_an_image_is_encoded_once_however_often_it_is_asked_about(monkeypatch):
    vlm, (_, images) = talkative(), asked()
    encoded = []
    plain = study.StudyModel.projected
    monkeypatch.setattr(
        study.StudyModel,
        "projected",
        lambda self, inputs: encoded.append(len(inputs["pixel_values"])) or plain(self, inputs),
    )
    model = study.StudyModel(vlm, "test", batch_size=4)
    one, two = list(images.values())[:2]
    together = model.write(["What?", "Where?", "What?"], [one, one, two], 5)
    again = model.write(["Where?"], [two], 5) + model.write(["What?"], [one], 5)
    assert sum(encoded) == 2 and again[1] == together[0]
    # room for one image: the other is encoded anew, and the answer stays
    model.images.most_bytes = model.images.bytes // 2
    model.write(["What?"], [list(images.values())[2]], 5)
    assert model.write(["What?"], [one], 5) == together[:1] and sum(encoded) == 4
    assert model.images.bytes <= model.images.most_bytes


def test_the_end_of_an_answer_is_told(given):
    limits = study.answer_limits(talkative(), given.assign(answer=asked()[0]["answer"]))
    cut = given["finish"] == "length"
    assert (given["completion_tokens"][cut] == given["task"][cut].map(limits)).all()
    assert set(given["finish"]) <= {"stop", "length"} and (given["prompt_tokens"] > 0).all()
    model = study.StudyModel(talkative(), "test", batch_size=1)
    end = talkative().end_id
    assert model.ending([9, end, end]) == (2, True) and model.ending([9, 9]) == (2, False)
    model.ends.add(8)
    assert model.ending([9, 8, end]) == (2, True)


def test_a_model_is_named_by_all_that_can_change_its_answers():
    vlm, twin = talkative(), fresh()
    assert study.model_hash(vlm) == study.model_hash(vlm) != study.model_hash(twin)
    before = study.model_hash(twin)
    with torch.no_grad():
        next(twin.model.parameters()).view(-1)[0] += 1e-3
    changed = study.model_hash(twin)
    twin.model.config.image_mean = [0.4, 0.5, 0.5]
    found = [before, changed, study.model_hash(twin.with_model(twin.model))]
    twin.policy = replace(twin.policy, max_tiles=2)
    assert len({*found, study.model_hash(twin)}) == 4


# The journal


@dataclass
class Repeating:
    """A backend that says its prompt, or what `says` has for it."""

    says: dict[str, Failure | str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    model: str = "repeating"
    decoding: dict[str, float] = field(default_factory=lambda: {"max_tokens": 8})

    def answer(self, asked: Iterator[Asked]) -> Iterator[list[Reply | Failure]]:
        for one in asked:
            name, prompt = one.request.name, one.request.prompt
            self.asked.append(prompt)
            reason = self.says.get(prompt)
            yield [Failure(name, one.key, reason) if reason else Reply(name, one.key, f"said {prompt}", self.model)]

    def cure(self, failure: Failure) -> str:
        return "There is none."


def prompts(*texts: str) -> tuple[pd.DataFrame, dict[str, bytes]]:
    table = of_task("reid", ["5"] * len(texts)).assign(question=texts)
    return table, {name: gray_png() for name in table["sample_id"]}


def repeating(backend: Repeating, folder: Path) -> Generated:
    return Generated("repeating", lambda limit: backend, one_limit(8), folder, lambda prompt, image: (len(prompt),))


def test_silence_is_an_answer_and_a_fault_is_asked_again(tmp_path):
    backend = Repeating({"b": "empty reply", "c": "refused", "d": "server error"})
    assert isinstance(backend, Backend) and isinstance(repeating(backend, tmp_path), Answerer)
    table, images = prompts("a", "b", "c", "d")
    given = predictions(repeating(backend, tmp_path), table, images)
    assert given["output"].tolist()[:3] == ["said a", "", ""] and pd.isna(given["output"][3])
    assert given["finish"].tolist() == ["stop", "empty reply", "refused", ""]
    assert given["fault"].tolist() == ["", "", "", "server error"]
    again = Repeating()
    assert predictions(repeating(again, tmp_path), table, images)["output"].tolist() == ["said a", "", "", "said d"]
    assert again.asked == ["d"]


def test_a_model_that_only_fails_stops_the_run(tmp_path):
    table, images = prompts(*"abcdefgh")
    with pytest.raises(NoReplies, match="There is none"):
        predictions(repeating(Repeating(dict.fromkeys("abcdefgh", "server error")), tmp_path), table, images)


def test_a_second_run_of_one_model_is_refused_while_the_first_goes_on(tmp_path):
    table, images = prompts("a", "b")
    running = repeating(Repeating(), tmp_path).answers(table, images, table["sample_id"].tolist())
    next(running)
    with pytest.raises(JournalBusy):
        predictions(repeating(Repeating(), tmp_path), table, images)
    running.close()


KILLED = """
import sys, time
from pathlib import Path
import pandas as pd
from irgpt_lib.evaluation.answerers.generated import Generated, one_limit
from irgpt_lib.irtd.describing.describer import Reply

class Slow:
    model, decoding = "repeating", {"max_tokens": 8}
    def answer(self, asked):
        for one in asked:
            time.sleep(0.01)
            yield [Reply(one.request.name, one.key, f"said {one.request.prompt}", self.model)]

folder, image = Path(sys.argv[1]), Path(sys.argv[2]).read_bytes()
table = pd.read_json(sys.argv[3], lines=True, dtype=str)
model = Generated("repeating", lambda limit: Slow(), one_limit(8), folder, lambda prompt, image: (len(prompt),))
for answer in model.answers(table, dict.fromkeys(table["sample_id"], image), table["sample_id"].tolist()):
    print(answer.key, flush=True)
"""


def test_kill_9_loses_no_answer_and_repeats_none(tmp_path):
    table, images = prompts(*(f"question {number}" for number in range(80)))
    whole = predictions(repeating(Repeating(), tmp_path / "whole"), table, images)
    (tmp_path / "image.png").write_bytes(gray_png())
    table.to_json(tmp_path / "table.jsonl", lines=True, orient="records")
    words = [
        sys.executable,
        "-c",
        KILLED,
        *map(str, (tmp_path / "cut", tmp_path / "image.png", tmp_path / "table.jsonl")),
    ]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    given = [process.stdout.readline().strip() for _ in range(20)]
    process.send_signal(signal.SIGKILL)
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL and all(given)
    kept = set(read_entries(tmp_path / "cut" / "journal.jsonl"))
    assert set(given) <= kept and len(kept) < 80, "what was given out is on disk"
    backend = Repeating()
    pd.testing.assert_frame_equal(predictions(repeating(backend, tmp_path / "cut"), table, images), whole)
    assert len(backend.asked) == 80 - len(kept)
    lines = (tmp_path / "cut" / "journal.jsonl").read_text().splitlines()
    assert set(Counter(json.loads(line)["key"] for line in lines).values()) == {1} and len(lines) == 80


# A transformers model, a server, a file


def test_any_transformers_model_answers_the_same_in_batches(tiny_model, tmp_path):  # noqa: F811
    texts = ("what is in the picture ?", "a car", "two people and a car in the picture ?", "what is a car ?")
    table, images = prompts(*texts)
    images["s3"] = gray_png(8, 8, 200)
    models = [transformers_model(str(tiny_model), tmp_path / str(n), max_tokens=5, batch_size=n) for n in (1, 3)]
    with one_thread():
        one, many = (predictions(model, table, images) for model in models)
    pd.testing.assert_frame_equal(one, many)
    assert one["output"].str.len().gt(0).all() and one["model"].str.startswith(f"{tiny_model.name}@").all()
    again = transformers_model(str(tiny_model), tmp_path / "3", max_tokens=5, batch_size=2)
    pd.testing.assert_frame_equal(predictions(again, table, images), many)
    assert "network" not in vars(again.backend(5)), "what is known needs no weights"


def test_a_checkpoint_with_code_of_its_own_is_not_run(tmp_path):
    config = {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForImageTextToText": "own.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(MalformedFile, match="Remote code is never run; put such a model behind a server"):
        transformers_model(str(tmp_path), tmp_path, max_tokens=5, batch_size=1)
    assert not (tmp_path / "ran").exists()


def test_a_model_of_text_alone_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(MalformedFile, match="'gpt2' is none of transformers' image-text-to-text models"):
        transformers_model(str(tmp_path), tmp_path, max_tokens=5, batch_size=1)


@pytest.fixture
def chat():
    with ChatServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_server_sees_prompt_and_image_and_is_asked_once(chat, tmp_path):
    table, images = prompts("a", "b", "c")
    chat.faults = {"b": [400], "c": [json.dumps(completion("")).encode()]}
    server = OpenAIServer(chat.url, "m", max_tokens=9, max_retries=0, concurrency=2)
    given = predictions(server_model(server, tmp_path), table, images)
    assert given["output"].tolist()[::2] == ["About a.", ""] and pd.isna(given["output"][1])
    assert given["fault"][1].startswith("refused with status 400") and set(given["model"]) == {"m", ""}
    image = chat.seen[0]["messages"][0]["content"][0]["image_url"]["url"]
    assert image.startswith("data:image/png;base64,") and chat.seen[0]["temperature"] == 0
    assert {body["max_tokens"] for body in chat.seen} == {9} and len(chat.seen) == 3
    given = predictions(server_model(server, tmp_path), table, images)
    assert chat.prompts[3:] == ["b"] and given["output"].tolist() == ["About a.", "About b.", ""]


def test_two_servers_with_one_name_of_a_model_keep_apart(tmp_path):
    journals = [server_model(OpenAIServer(f"http://127.0.0.1:{port}/v1", "m"), tmp_path).journal for port in (1, 2)]
    assert journals[0] != journals[1] and all(journal.parent == tmp_path for journal in journals)


def test_a_file_of_answers_answers_and_what_it_lacks_has_no_answer(tmp_path):
    table, images = prompts("a", "b")
    file = tmp_path / "elsewhere.jsonl"
    file.write_text('{"question_id": "q1", "output": "5"}\n')
    with pytest.raises(MalformedFile, match="missing answer"):
        predictions(FileOfAnswers(file), table, images)
    given = predictions(FileOfAnswers(file, max_faults=0.5), table, images)
    assert given["output"][1] == "5" and given["fault"].tolist() == ["missing answer", ""]
    assert given["model"][0].startswith("elsewhere.jsonl@")
    assert isinstance(FileOfAnswers(tmp_path / "absent.jsonl"), Answerer), "the interface reads no file"


# The table


class Forgetful:
    name = "forgetful"

    def answers(self, questions, images, shown):
        yield Given("q0", "5")


def test_a_table_that_would_not_be_whole_is_refused():
    table, images = prompts("a", "b")
    with pytest.raises(RuntimeError, match="forgetful left out 1 of 2 questions, the first q1"):
        predictions(Forgetful(), table, images)
    with pytest.raises(ValueError, match="q0 occurs twice"):
        predictions(Forgetful(), table.assign(question_id="q0"), images)
    with pytest.raises(ValueError, match="1 questions have no image, the first is about s1"):
        predictions(Forgetful(), table, {"s0": images["s0"]})
    with pytest.raises(ValueError, match="2 questions but 1 images"):
        predictions(Forgetful(), table, images, ["s0"])


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_written_predictions_are_read_by_the_scorer_and_equal_ones_have_equal_bytes(tmp_path, suffix):
    table, images = prompts("a\nb", "é", "赤外線", "d")
    backend = Repeating({"é": "empty reply", "d": "server error"})
    given = predictions(repeating(backend, tmp_path / "journal"), table, images)
    file, other = tmp_path / f"out{suffix}", tmp_path / f"other{suffix}"
    write_predictions(given, file)
    time.sleep(0.01)
    write_predictions(given, other)
    assert file.read_bytes() == other.read_bytes()
    answers = read_answers(file, table["question_id"].tolist())
    assert answers.outputs == {"q0": "said a\nb", "q1": "", "q2": "said 赤外線"}
    assert [fault.reason for fault in answers.faults] == ["missing answer"]
