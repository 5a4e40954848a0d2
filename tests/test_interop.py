"""The benchmark as evaluation kits read it, and their scoring functions held to the study's own."""

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
from asked import questions
from faulty_files import gray_png
from ruamel.yaml import YAML

from irgpt_lib.evaluation import scoring
from irgpt_lib.evaluation.interop import irtd_scoring, lmms_eval, vlmevalkit
from irgpt_lib.irtd.questions import as_questions
from irgpt_lib.tasks import TASKS

EACH = 4


@pytest.fixture(scope="module")
def asked() -> pd.DataFrame:
    """Four questions of each task; questions of one number share an image over the tasks."""
    return questions(EACH)


@pytest.fixture(scope="module")
def images(asked) -> dict[str, bytes]:
    names = sorted(set(asked["sample_id"]))
    return {name: gray_png(32, 32, 10 * number) for number, name in enumerate(names)}


@pytest.fixture(scope="module")
def task_folder(asked, images, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("lmms") / "irtd"
    counts = lmms_eval.write_lmms_eval(asked, images, folder, max_tokens=99)
    assert counts == {f"irtd_{task}": EACH for task in TASKS}
    return folder


# The scoring that goes with the task folder

GARBLED: list[Callable[[str], str]] = [
    lambda text: text,
    lambda text: f" {text}\n",
    lambda text: f"The answer is {text}",
    lambda text: text + text,
    lambda text: text[:-1],
    lambda text: text[1:],
    lambda text: text.upper(),
    lambda text: text + ".",
    lambda text: re.sub(r"\d+", "0", text),
    lambda text: re.sub(r"\d+", "9999", text),
    lambda text: re.sub(r"\d+", lambda found: str(int(found[0]) + 60), text),
    lambda text: re.sub(r"\d", "٣", text),
    lambda text: text.replace(", ", ","),
    lambda text: text.replace("(", "( ").replace(",", " , "),
    lambda text: text.replace(")]", "), (1, 2)]"),
    lambda text: text.replace("(", "[").replace(")", "]"),
    lambda text: "",
    lambda text: "I cannot tell.",
]


@pytest.mark.parametrize("task", TASKS)
def test_the_standalone_scoring_is_the_studys_own(task):
    table = questions(25, seed=1)
    own = table[table["task"] == task].reset_index(drop=True)
    largest = scoring.largest_counts(as_questions(own)).get(task, 0)
    seen = set()
    for change in GARBLED:
        # the true answers, and those of other questions
        for outputs in (own["answer"], np.roll(own["answer"], 1)):
            outputs = [change(text) for text in outputs]
            ours = scoring.scored(own, outputs)
            docs = own.assign(metric=TASKS[task].metric, largest=largest).to_dict("records")
            for row, doc, output in zip(ours.itertuples(), docs, outputs, strict=True):
                kit = irtd_scoring.process_results(doc, [output])
                assert kit[doc["metric"]]["score"] == pytest.approx(row.score, abs=1e-9), (doc["answer"], output)
                assert kit["unread"] == 100.0 * (not row.parsed), (doc["answer"], output)
                seen.add((row.parsed, row.score in (0.0, 100.0)))
    assert {parsed for parsed, _ in seen} == {True, False}


def test_a_kit_that_gives_no_text_is_told_that_nothing_was_read(asked):
    doc = asked.assign(metric="accuracy", largest=0).to_dict("records")[0]
    found = irtd_scoring.process_results(doc, [None])
    assert found["unread"] == 100.0 and found["accuracy"]["score"] == 0.0


def test_the_mean_is_over_the_scores():
    assert irtd_scoring.mean_score([{"score": 100.0}, {"score": 0.0}, {"score": 50.0}]) == 50.0


# lmms-eval


def read_yaml(file: Path) -> dict:
    reader = YAML(typ="safe")
    reader.constructor.add_constructor("!function", lambda loader, node: ("function", node.value))
    return reader.load(file.read_text())


def functions_in(value: object) -> list[str]:
    if isinstance(value, dict):
        return [name for part in value.values() for name in functions_in(part)]
    if isinstance(value, list):
        return [name for part in value for name in functions_in(part)]
    return [value[1]] if isinstance(value, tuple) and value[0] == "function" else []


def test_the_task_folder_names_only_what_it_holds(task_folder):
    group = read_yaml(task_folder / "irtd.yaml")
    assert group == {"group": "irtd", "task": [f"irtd_{task}" for task in TASKS]}
    functions = set()
    for name in group["task"]:
        task = read_yaml(task_folder / f"{name}.yaml")
        shared = read_yaml(task_folder / task["include"])
        assert task["task"] == name and shared["generation_kwargs"]["max_new_tokens"] == 99
        assert (task_folder / task["dataset_kwargs"]["data_files"]["test"]).is_file()
        scored, unread = task["metric_list"]
        about = TASKS[name.removeprefix("irtd_")]
        assert (scored["metric"], scored["higher_is_better"]) == (about.metric, about.higher_is_better)
        assert (unread["metric"], unread["higher_is_better"]) == ("unread", False)
        functions.update(functions_in(task), functions_in(shared))
    assert len(functions) == 4
    for function in functions:
        module, _, name = function.partition(".")
        assert (task_folder / f"{module}.py").is_file() and callable(getattr(irtd_scoring, name))


def test_the_scoring_file_stands_alone(task_folder):
    text = (task_folder / "irtd_scoring.py").read_text()
    imported = set(re.findall(r"^(?:from|import) (\w+)", text, re.MULTILINE))
    assert imported == {"json", "re", "numpy", "scipy"}
    assert not re.search(r"\b(?:eval|exec|__import__)\(", text)


def test_the_data_are_read_as_the_kit_reads_them(task_folder, asked, images, tmp_path):
    file = str(task_folder / "data" / "pedestrian_counting.parquet")
    docs = datasets.load_dataset("parquet", data_files={"test": file}, cache_dir=str(tmp_path))["test"]
    own = asked[asked["task"] == "pedestrian_counting"]
    assert docs["question_id"][:] == own["question_id"].tolist()
    assert set(docs["largest"][:]) == {max(1, *map(int, own["truth"]))}
    (image,) = irtd_scoring.doc_to_visual(docs[1])
    assert image.mode == "RGB" and image.size == (32, 32) and image.getpixel((0, 0)) == (10, 10, 10)
    assert irtd_scoring.doc_to_text(docs[1]) == own["question"].iloc[1]
    around = {"pre_prompt": "Look. ", "post_prompt": " Be brief."}
    assert irtd_scoring.doc_to_text(docs[1], around) == f"Look. {own['question'].iloc[1]} Be brief."
    right = irtd_scoring.process_results(docs[1], [own["answer"].iloc[1]])
    assert right["mae"]["score"] == 0.0 and right["mae"]["group"] == own["group"].iloc[1]


def test_equal_benchmarks_have_equal_bytes(task_folder, asked, images, tmp_path):
    lmms_eval.write_lmms_eval(asked, images, tmp_path, max_tokens=99)
    files = sorted(file.relative_to(tmp_path) for file in tmp_path.rglob("*") if file.is_file())
    assert len(files) == 2 * len(TASKS) + 3
    assert all((tmp_path / name).read_bytes() == (task_folder / name).read_bytes() for name in files)


# VLMEvalKit


def test_the_kits_tables_hold_every_question_and_each_image_once(asked, images, tmp_path):
    assert vlmevalkit.write_vlmevalkit(asked, images, tmp_path) == {"IRTD_openended": 36, "IRTD_choice": 8}
    for name in ("IRTD_openended", "IRTD_choice"):
        table = pd.read_csv(tmp_path / f"{name}.tsv", sep="\t", dtype=str)
        assert table["index"].tolist() == [str(number) for number in range(len(table))]
        held = table[table["image"].str.len() > 64]
        assert held["sample_id"].is_unique and set(held["sample_id"]) == set(table["sample_id"])
        whole = table.set_index("index")["image"]
        for row in table.itertuples():
            data = row.image if len(row.image) > 64 else whole[row.image]
            assert base64.b64decode(data) == images[row.sample_id]


def test_open_questions_stand_word_by_word(asked, images, tmp_path):
    vlmevalkit.write_vlmevalkit(asked, images, tmp_path)
    table = pd.read_csv(tmp_path / "IRTD_openended.tsv", sep="\t", dtype=str)
    for column, own in (("question_id", "question_id"), ("question", "question"), ("category", "task")):
        assert table[column].tolist() == asked[own].tolist()


def test_choices_stand_apart_from_their_question(asked, images, tmp_path):
    vlmevalkit.write_vlmevalkit(asked, images, tmp_path)
    table = pd.read_csv(tmp_path / "IRTD_choice.tsv", sep="\t", dtype=str).set_index("question_id")
    for row in asked[asked["task"].isin(["scene", "recognition"])].itertuples():
        own = table.loc[row.question_id]
        assert [own[letter] for letter in "ABCD"] == json.loads(row.options)
        assert f"({own['answer']}) {own[own['answer']]}" == row.answer
        assert row.question.startswith(own["question"]) and "(A)" not in own["question"]


def test_what_the_kit_would_misread_is_refused(asked, images, tmp_path):
    scene = asked[asked["task"] == "scene"]
    with pytest.raises(ValueError, match="must end with"):
        vlmevalkit.write_vlmevalkit(scene.assign(question="Which?"), images, tmp_path)
    with pytest.raises(ValueError, match="one right option"):
        vlmevalkit.write_vlmevalkit(scene.assign(truth='["(A) a", "(B) b"]'), images, tmp_path)
    with pytest.raises(ValueError, match="too few for a picture"):
        vlmevalkit.write_vlmevalkit(scene, dict.fromkeys(images, b"tiny"), tmp_path)
    assert not list(tmp_path.iterdir()), "nothing half written"
