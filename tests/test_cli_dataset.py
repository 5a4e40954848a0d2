"""The shell around the built dataset: export, review and back, and a check that finds what was broken on purpose."""

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from irgpt_lib import artifacts, cli, params
from irgpt_lib.cli.dataset import group_distance
from irgpt_lib.irtd import accounts, assemble, card
from irgpt_lib.irtd.conversing import COLUMNS as CONVERSATION_COLUMNS
from irgpt_lib.irtd.dataset_check import empty_cells
from irgpt_lib.irtd.instructions import from_llava
from irgpt_lib.irtd.questions import all_questions
from irgpt_lib.irtd.record import SCHEMA, Sample, png_bytes
from irgpt_lib.irtd.review import REVIEWS, read_decisions
from irgpt_lib.irtd.simulated.dataset import simulated_samples
from irgpt_lib.irtd.sources import SOURCES

SCENES = {"pretrain": 6, "instruction": 8, "benchmark": 8}
SIMULATED = params.SimulatedSource(
    size_px=64,
    scenes=SCENES,
    mix={"scene": 0.6, "pair": 0.2, "aerial": 0.1, "crowd": 0.1, "montage": 0.0},
    bands={"nir": 0.5, "swir": 0.25, "tir": 0.25},
    paired_share=0.5,
    swapped_caption_share=0.0,
)


def noise(number: int) -> bytes:
    coarse = np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)
    return png_bytes(np.kron(coarse, np.ones((8, 8), dtype=np.uint8)))


def made() -> Iterator[Sample]:
    """Simulated samples, and of each split one that passes for authentic, of path V."""
    for sample in simulated_samples(SIMULATED, seed=1):
        yield sample
    for number, split in enumerate(SCENES):
        yield replace(
            sample,
            sample_id=f"flir/{number}",
            source="flir",
            split=split,
            infrared=noise(number),
            visible=b"",
            authentic=True,
            group=f"flir/{number}",
            boxes=(),
            caption=f"The image contains {number + 1} cars.",
            caption_path="V",
            caption_from=f"flir/{number}",
            caption_by="rules",
            perceptual_hash="",
        )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study's folder with a dataset in `artifacts/dataset`."""
    study = tmp_path_factory.mktemp("study")
    (study / "dvc.yaml").touch()
    folder = study / "artifacts" / "dataset"
    written = assemble.write(made(), folder / "samples")
    config = params.load("dataset", profile="smoke").dataset
    questions = all_questions(written.asked, config, written.words)
    (folder / "questions").mkdir()
    for split, rows in questions.groupby("split"):
        rows.to_parquet(folder / "questions" / f"{split}.parquet", index=False)
    turns = json.dumps([["What is there?", "A car."], ["Where?", "On the left."]])
    about = dict.fromkeys(CONVERSATION_COLUMNS, "") | {"sample_id": "flir/1", "kind": "conversation", "by": "model"}
    file = study / "artifacts" / artifacts.CONVERSATIONS
    file.parent.mkdir()
    rows = [about | {"state": "kept", "turns": turns, "removed": "red; blue"}, about | {"state": "refusal"}]
    pd.DataFrame(rows, columns=CONVERSATION_COLUMNS).to_parquet(file)
    card.write_card(folder, accounts.account(written.overview, [], questions), SOURCES)
    return study


@pytest.fixture
def dataset(built: Path) -> Path:
    return built / "artifacts" / "dataset"


@pytest.fixture
def spoilt(dataset: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return shutil.copytree(dataset, tmp_path / "dataset")


def call(*words: object):
    return CliRunner().invoke(cli.app, ["dataset", *map(str, words)])


def failed(result, message: str, code: int = 2) -> bool:
    one_line = result.stderr.startswith("irgpt: ") and result.stderr.count("\n") == 1
    return result.exit_code == code and message in result.stderr and one_line


# Export


def test_llava_has_the_releases_files_and_the_conversations_that_were_kept(dataset, tmp_path):
    out = tmp_path / "out"
    result = call("export", "llava", out, "--dataset", dataset, "--json")
    report = json.loads(result.stdout)
    assert (result.exit_code, report["samples"]) == (0, 25)
    assert report["records"]["Captions.json"] == 25 and report["records"]["Conversations.json"] == 1
    for name, count in report["records"].items():
        records = json.loads((out / name).read_text(encoding="utf-8"))
        assert len(records) == count and all((out / r["image"][0]).is_file() for r in records)
    (record,) = json.loads((out / "Conversations.json").read_text(encoding="utf-8"))
    conversation, image = from_llava(record)
    assert conversation.turns == (("What is there?", "A car."), ("Where?", "On the left."))
    assert (conversation.sample_id, conversation.removed, image) == ("flir/1", ("red", "blue"), "images/flir/1.png")
    questions = sum(len(pd.read_parquet(file)) for file in (dataset / "questions").iterdir())
    assert sum(report["records"].values()) == 25 + 1 + questions


def test_a_dataset_without_conversations_is_exported_without_them(spoilt, tmp_path):
    shutil.rmtree(spoilt / "conversations")
    result = call("export", "llava", tmp_path / "out", "--dataset", spoilt, "--json")
    assert result.exit_code == 0 and "Conversations.json" not in json.loads(result.stdout)["records"]
    assert not (tmp_path / "out" / "Conversations.json").exists()


def test_conversations_stay_with_the_samples_that_are_exported(dataset, tmp_path):
    words = ("export", "llava", tmp_path / "out", "--dataset", dataset, "--split", "benchmark", "--json")
    assert "Conversations.json" not in json.loads(call(*words).stdout)["records"]


def test_a_split_and_a_limit_keep_the_questions_of_those_samples_alone(dataset, tmp_path):
    result = call("export", "readme", tmp_path, "--dataset", dataset, "--split", "benchmark", "--limit", 3, "--json")
    assert json.loads(result.stdout)["records"] == {"annotations.jsonl": 3}
    records = [json.loads(line) for line in (tmp_path / "annotations.jsonl").read_text(encoding="utf-8").splitlines()]
    asked = pd.read_parquet(dataset / "questions" / "benchmark.parquet")
    for record in records:
        assert len(record["qa_pairs"]) == (asked["sample_id"] == record["id"]).sum()
    pretraining = call("export", "llava", tmp_path / "p", "--dataset", dataset, "--split", "pretrain", "--json")
    assert json.loads(pretraining.stdout)["records"] == {"Captions.json": 7}


def test_a_folder_that_holds_something_is_written_into_by_force_only(dataset, tmp_path):
    (tmp_path / "mine.txt").write_text("keep", encoding="utf-8")
    words = ("export", "readme", tmp_path, "--dataset", dataset, "--limit", 1)
    assert failed(call(*words), "is not empty; name another folder, or write into it with --force")
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]
    assert call(*words, "--force").exit_code == 0
    assert (tmp_path / "mine.txt").read_text(encoding="utf-8") == "keep"
    assert failed(call("export", "readme", tmp_path / "mine.txt", "--dataset", dataset), "mine.txt is a file")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("export", "coco", "{tmp}/o", "--dataset", "{data}"), "coco is no form of export; there are llava, readme"),
        (("export", "llava", "{tmp}/o", "--dataset", "{tmp}/absent"), "absent: no such folder; `dvc repro dataset`"),
        (("export", "llava", "{tmp}/o", "--dataset", "{tmp}"), "samples: no shard (*.parquet) in it"),
        (
            ("export", "llava", "{tmp}/o", "--dataset", "{data}", "--split", "test"),
            "no split test; there are benchmark, instruction, pretrain",
        ),
        (("review", "export", "{tmp}/o", "--dataset", "{data}", "--state", "new"), "--state is one of draft, final"),
        (
            ("review", "export", "{tmp}/o", "--dataset", "{data}", "--state", "draft"),
            "no caption in state draft; --simulated takes",
        ),
        (("review", "import", "{tmp}/sheet.xlsx"), "its name must end with one of .csv, .tsv, .json"),
        (("review", "import", "{tmp}/absent.csv"), "No such file"),
        (("check", "--dataset", "{tmp}", "--distance", "6"), "no shard"),
    ],
)
def test_a_foreseen_error_is_one_message_and_nothing_is_written(words, message, dataset, built, tmp_path, monkeypatch):
    monkeypatch.chdir(built)
    result = call(*(word.replace("{tmp}", str(tmp_path)).replace("{data}", str(dataset)) for word in words))
    assert failed(result, message), result.stderr
    assert list(tmp_path.iterdir()) == []


def unreadable(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:200])


def without_a_column(file: Path) -> None:
    table = pq.read_table(file)
    pq.write_table(table.drop_columns([table.column_names[5]]), file)


def of_another_task(file: Path) -> None:
    pd.read_parquet(file).assign(task="poetry").to_parquet(file)


def with_other_turns(file: Path) -> None:
    pd.read_parquet(file).assign(turns="3").to_parquet(file)


def with_turns_that_are_no_texts(file: Path) -> None:
    pd.read_parquet(file).assign(turns="[[1, 2]]").to_parquet(file)


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        (unreadable, "samples/benchmark-00000.parquet"),
        (without_a_column, "samples/benchmark-00000.parquet"),
        (without_a_column, "questions/benchmark.parquet"),
        (of_another_task, "questions/benchmark.parquet"),
        (without_a_column, "conversations/instruction.parquet"),
        (with_other_turns, "conversations/instruction.parquet"),
        (with_turns_that_are_no_texts, "conversations/instruction.parquet"),
    ],
)
def test_a_broken_table_is_told_and_not_a_trace(spoil, name, spoilt, tmp_path):
    spoil(spoilt / name)
    message = "unknown tasks: poetry" if spoil is of_another_task else f"{name}: "
    assert failed(call("export", "llava", tmp_path / "out", "--dataset", spoilt), message)


# Review


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8-sig", newline="") as stream:
        return list(csv.DictReader(stream))


def filled(file: Path, *decisions: dict[str, str]) -> Path:
    rows = rows_of(file)
    with file.open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0].keys())
        writer.writeheader()
        writer.writerows(row | decision for row, decision in zip(rows, decisions, strict=False))
    return file


@pytest.fixture
def study(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study's folder of its own, in which the commands run; its dataset is the built one."""
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "dvc.yaml").touch()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("IRGPT_ARTIFACTS", str(dataset.parent))
    return folder


def test_captions_of_authentic_images_go_out_and_decisions_come_back(study):
    out = study / "review"
    assert "review.csv: 3 captions" in call("review", "export", out).stdout
    assert [row["sample_id"] for row in rows_of(out / "review.csv")] == ["flir/2", "flir/1", "flir/0"]
    assert len(list((out / "images").iterdir())) == 3
    sheet = filled(out / "review.csv", {"verdict": "accept"}, {"verdict": "edit", "new_caption": "A truck."})
    result = call("review", "import", sheet, "--reviewer", "ann")
    assert (result.exit_code, "2 added; `dvc repro dataset` applies them" in result.stdout) == (0, True)
    kept = read_decisions(study / REVIEWS)
    assert [(d.sample_id, d.verdict, d.caption, d.reviewer) for d in kept] == [
        ("flir/1", "edit", "A truck.", "ann"),
        ("flir/2", "accept", "", "ann"),
    ]
    again = json.loads(call("review", "import", sheet, "--reviewer", "ann", "--json").stdout)
    assert (again["decisions"], again["added"], again["problems"]) == (2, 0, [])


def test_problems_are_told_each_with_its_record_and_the_rest_is_added(study):
    call("review", "export", study / "out")
    sheet = filled(study / "out" / "review.csv", {"verdict": "accept"}, {"verdict": "perhaps"}, {"verdict": "accept"})
    first = call("review", "import", sheet, "--reviewer", "ann")
    assert (first.exit_code, first.stdout.count("added")) == (1, 1)
    assert "  review.csv, line 3: unknown verdict: 'perhaps'; known: accept, edit, reject" in first.stdout
    other = filled(sheet, {"verdict": "reject"})
    second = json.loads(call("review", "import", other, "--reviewer", "bob", "--json").stdout)
    (bad,) = second["problems"]
    assert (bad["record"], bad["reason"]) == ("line 2: flir/2", "conflicting decisions")
    assert {d.reviewer for d in read_decisions(study / REVIEWS)} == {"ann"}


def test_simulated_captions_go_out_when_asked_for_and_limits_count_captions(study):
    everything = call("review", "export", study / "a", "--simulated", "--json")
    assert json.loads(everything.stdout)["captions"] == 25
    one = call("review", "export", study / "b", "--split", "pretrain", "--limit", 1, "--json")
    assert json.loads(one.stdout)["captions"] == 1
    assert [row["sample_id"] for row in rows_of(study / "b" / "review.csv")] == ["flir/0"]


def test_label_studio_gets_tasks_and_gives_decisions_back(study):
    out = study / "studio"
    result = call("review", "export", out, "--label-studio", "--split", "pretrain")
    assert f"LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={out}" in result.stdout
    assert sorted(file.name for file in out.iterdir()) == ["images", "labeling_config.xml", "tasks.json"]
    (task,) = json.loads((out / "tasks.json").read_text(encoding="utf-8"))
    assert (out / task["data"]["image"].partition("?d=")[2]).is_file()
    answer = {"from_name": "verdict", "value": {"choices": ["reject"]}}
    export = study / "export.json"
    export.write_text(json.dumps([task | {"annotations": [{"completed_by": 4, "result": [answer]}]}]), encoding="utf-8")
    assert call("review", "import", export).exit_code == 0
    assert [(d.verdict, d.reviewer) for d in read_decisions(study / REVIEWS)] == [("reject", "annotator 4")]


# Check


def checked(folder: Path) -> tuple[int, list[tuple[str, str, str, str]]]:
    result = call("check", "--dataset", folder, "--distance", 6, "--json")
    faults = [(f["file"], f["record"], f["reason"], f["detail"]) for f in json.loads(result.stdout)["faults"]]
    return result.exit_code, faults


def test_a_sound_dataset_passes_with_its_counts(study, dataset):
    result = call("check", "--dataset", dataset, "--distance", 6)
    assert result.exit_code == 0, result.stdout
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"{dataset}: 25 samples, ") and lines[-1] == "faults: none"
    assert "split: benchmark 9, instruction 9, pretrain 7" in lines and "caption_path: V 3, simulated 22" in lines
    told = call("check")
    assert failed(told, "or give --distance")


def test_the_distance_is_that_of_the_study_where_none_is_given(dataset):
    assert group_distance(None) == params.load("dataset").dataset.near_duplicates.group_distance
    assert group_distance(0) == 0


Rows = list[dict[str, object]]


def rewritten(folder: Path, split: str, change: Callable[[Rows], Rows]) -> None:
    file = folder / "samples" / f"{split}-00000.parquet"
    pq.write_table(pa.Table.from_pylist(change(pq.read_table(file).to_pylist()), SCHEMA), file)


def changed(**values: object) -> Callable[[Rows], Rows]:
    return lambda rows: [rows[0] | values, *rows[1:]]


NAN = float("nan")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (changed(infrared=b""), "empty image"),
        (changed(infrared=noise(9)[:40]), "unreadable image"),
        (changed(infrared=b"GIF89a"), "unreadable image"),
        (changed(width=63), "size mismatch"),
        (changed(band="uv"), "unknown band"),
        (changed(split="test"), "other split"),
        (changed(caption_path="VI"), "unknown caption path"),
        (changed(perceptual_hash="12"), "no perceptual hash"),
        (changed(perceptual_hash="-00000000000000f"), "no perceptual hash"),
        (changed(caption_state="old"), "unknown caption state"),
        (lambda rows: [*rows, rows[-1]], "duplicate id"),
    ],
)
def test_a_bad_sample_is_a_fault_with_its_record_and_does_not_hide_the_others(change, reason, spoilt):
    rewritten(spoilt, "pretrain", change)
    rewritten(spoilt, "benchmark", changed(kind="dream"))
    code, faults = checked(spoilt)
    reasons = [fault[2] for fault in faults]
    assert (code, reasons.count(reason), reasons.count("unknown kind")) == (1, 1, 1)
    assert reasons.count("other checksum") == 2
    assert all(file and record for file, record, *_ in faults)


@pytest.mark.parametrize(
    ("boxes", "reason"),
    [
        ([{"category": "car", "x1": NAN, "y1": 1.0, "x2": 5.0, "y2": 5.0, "identity": ""}], "degenerate box"),
        ([{"category": "car", "x1": 9.0, "y1": 1.0, "x2": 5.0, "y2": 5.0, "identity": ""}], "degenerate box"),
        ([{"category": "car", "x1": 9.0, "y1": 1.0, "x2": 500.0, "y2": 5.0, "identity": ""}], "box outside image"),
        ([{"category": "car", "x1": None, "y1": 1.0, "x2": 5.0, "y2": 5.0, "identity": ""}], "empty cells"),
        ([None], "empty cells"),
        (None, "empty cells"),
    ],
)
def test_bad_boxes_are_faults(boxes, reason, spoilt):
    rewritten(spoilt, "pretrain", changed(boxes=boxes))
    assert [fault[2] for fault in checked(spoilt)[1]].count(reason) == 1


def test_content_in_two_splits_is_a_leak(spoilt):
    twin = pq.read_table(spoilt / "samples" / "pretrain-00000.parquet").to_pylist()[0]
    rewritten(spoilt, "benchmark", lambda rows: [*rows, twin | {"sample_id": "twin", "split": "benchmark"}])
    code, faults = checked(spoilt)
    assert code == 1
    assert {reason for _, _, reason, _ in faults} >= {"leak of infrared", "leak of group"}
    assert ("benchmark, pretrain", f"twin, {twin['sample_id']}") in [fault[:2] for fault in faults]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"answer": "I do not know"}, "unreadable answer"),
        ({"task": "poetry"}, "unknown task"),
        ({"truth": "{"}, "unusable truth"),
        ({"truth": '{"a": 1}'}, "unusable truth"),
        ({"truth": "77"}, "wrong answer"),
        ({"sample_id": "nowhere"}, "leak of question"),
        ({"split": "instruction"}, "leak of question"),
    ],
)
def test_a_question_that_cannot_be_scored_as_perfect_is_a_fault(values, reason, spoilt):
    file = spoilt / "questions" / "benchmark.parquet"
    rows = pd.read_parquet(file)
    place = rows.index[rows["task"] == ("location" if "a" in values.get("truth", "") else "recognition")][0]
    rows.loc[place, list(values)] = list(values.values())
    rows.to_parquet(file, index=False)
    code, faults = checked(spoilt)
    told = [record for _, record, found, _ in faults if found == reason]
    assert code == 1 and told in ([rows.loc[place, "question_id"]], [rows.loc[place, "sample_id"]])


def with_an_empty_cell(file: Path) -> None:
    rows = pq.read_table(file)
    place, name = rows.column_names.index("sample_id"), "sample_id"
    cells = pa.array([None, *rows[name].to_pylist()[1:]], rows.schema.field(name).type)
    pq.write_table(rows.set_column(place, rows.schema.field(name), cells), file)


@pytest.mark.parametrize(
    ("spoil", "name", "reason"),
    [
        (unreadable, "samples/pretrain-00000.parquet", "unreadable table"),
        (without_a_column, "samples/pretrain-00000.parquet", "other schema"),
        (with_an_empty_cell, "samples/pretrain-00000.parquet", "empty cells"),
        (unreadable, "questions/benchmark.parquet", "unreadable table"),
        (without_a_column, "questions/benchmark.parquet", "unreadable table"),
        (with_an_empty_cell, "questions/benchmark.parquet", "empty cells"),
        (Path.unlink, "questions/benchmark.parquet", "unreadable table"),
    ],
)
def test_a_bad_table_is_a_fault_and_the_others_are_checked(spoil, name, reason, spoilt):
    spoil(spoilt / name)
    rewritten(spoilt, "instruction", changed(kind="dream"))
    code, faults = checked(spoilt)
    assert code == 1
    assert (Path(name).name, reason) in [(file, found) for file, _, found, _ in faults]
    assert "unknown kind" in [fault[2] for fault in faults]


def test_a_null_deep_in_a_list_is_found():
    rows = [{"boxes": [{"category": "car", "x1": None}]}, {"boxes": []}]
    assert empty_cells(pa.Table.from_pylist(rows)) == ["boxes.x1"]
    assert empty_cells(SCHEMA.empty_table()) == []


def croissant(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        file = folder / "croissant.json"
        content = json.loads(file.read_text(encoding="utf-8"))
        change(content)
        file.write_text(json.dumps(content), encoding="utf-8")

    return spoil


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda folder: (folder / "README.md").unlink(), ("README.md", "missing file")),
        (lambda folder: (folder / "croissant.json").unlink(), ("croissant.json", "missing file")),
        (
            lambda folder: (folder / "croissant.json").write_text("[" * 100_000),
            ("croissant.json", "no Croissant description of files"),
        ),
        (croissant(lambda c: c.clear()), ("croissant.json", "no Croissant description of files")),
        (
            croissant(lambda c: c["distribution"][0].update(contentUrl="../../secret")),
            ("croissant.json", "no Croissant description of files"),
        ),
        (
            croissant(lambda c: c["distribution"][0].update(sha256="0")),
            ("samples/benchmark-00000.parquet", "other checksum"),
        ),
        (
            croissant(lambda c: c["distribution"].pop(0)),
            ("samples/benchmark-00000.parquet", "file not described"),
        ),
        (
            croissant(lambda c: c["distribution"][0].update(contentUrl="samples/gone.parquet")),
            ("samples/gone.parquet", "missing file"),
        ),
    ],
)
def test_a_description_that_does_not_describe_the_files_is_a_fault(spoil, expected, spoilt):
    spoil(spoilt)
    code, faults = checked(spoilt)
    assert code == 1 and expected in [(file, reason) for file, _, reason, _ in faults]


def test_conversations_are_held_to_their_description_too(spoilt):
    with_other_turns(spoilt / "conversations" / "instruction.parquet")
    shutil.copy(spoilt / "conversations" / "instruction.parquet", spoilt / "conversations" / "more.parquet")
    told = {(file, reason) for file, _, reason, _ in checked(spoilt)[1]}
    assert told == {
        ("conversations/instruction.parquet", "other checksum"),
        ("conversations/more.parquet", "file not described"),
    }


def test_of_many_alike_faults_the_first_are_told_and_all_in_json(spoilt):
    rewritten(spoilt, "benchmark", lambda rows: [rows[0] | {"sample_id": f"n/{n}", "width": 1} for n in range(13)])
    lines = call("check", "--dataset", spoilt, "--distance", 6).stdout.splitlines()
    assert sum(": size mismatch: " in line for line in lines) == 10
    assert "  and 3 more of: size mismatch; --json tells all" in lines
    assert [fault[2] for fault in checked(spoilt)[1]].count("size mismatch") == 13
