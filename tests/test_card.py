"""The dataset's card: other programs read the dataset by it, and it says what a user must not overlook."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from ruamel.yaml import YAML
from test_shards import sample

from irgpt_lib.irtd import card
from irgpt_lib.irtd.record import SCHEMA
from irgpt_lib.irtd.shards import write_shard
from irgpt_lib.irtd.sources import SOURCES

ACCOUNT = {
    "samples": 4,
    "authentic": 3,
    "simulated": 1,
    "sources": {"hit_uav": 3, "simulated": 1},
    "splits": {"benchmark": 2, "pretrain": 2},
    "bands": {"tir": 4},
    "paired": 2,
    "captioned": 3,
    "caption_paths": {"V": 3, "none": 1},
    "caption_states": {"": 1, "final": 2, "reviewed": 1},
    "swapped_captions": 2,
    "questions": {"instruction": {}, "benchmark": {"scene": 1}},
    "rejected": {"empty image": 5},
}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "dataset"
    for split, first in (("benchmark", 0), ("pretrain", 2)):
        write_shard([sample(first, split), sample(first + 1, split)], folder / "samples" / f"{split}-00000.parquet")
    (folder / "questions").mkdir()
    question = {"question_id": "s/0#scene", "sample_id": "s/0", "question": "What?", "answer": "(A) sea"}
    pd.DataFrame([question]).to_parquet(folder / "questions" / "benchmark.parquet")
    card.write_card(folder, ACCOUNT, SOURCES)
    return folder


LOADED = """
import datasets, json, sys
folder, cache = sys.argv[1:]
samples = datasets.load_dataset(folder, "samples", cache_dir=cache)
questions = datasets.load_dataset(folder, "questions", cache_dir=cache)
row = samples["pretrain"][1]
print(json.dumps({
    "splits": {name: len(part) for name, part in samples.items()},
    "questions": questions["benchmark"][0],
    "infrared": row["infrared"].size,
    "visible": [type(r["visible"]).__name__ for r in samples["benchmark"]],
    "boxes": row["boxes"], "points": row["points"], "facts": row["facts"],
}))
"""


def test_the_library_datasets_loads_it_in_a_separate_python(dataset, tmp_path):
    command = [sys.executable, "-c", LOADED, str(dataset), str(tmp_path / "cache")]
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "PATH": ""}
    done = subprocess.run(command, env=offline, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout)
    assert loaded["splits"] == {"benchmark": 2, "pretrain": 2}
    assert loaded["questions"]["answer"] == "(A) sea"
    assert loaded["infrared"] == [40, 30] and loaded["visible"] == ["NoneType", "PngImageFile"]
    assert loaded["boxes"] == [{"category": "car", "x1": 1.0, "y1": 2.0, "x2": 11.0, "y2": 22.0, "identity": ""}]
    assert loaded["points"] == [{"category": "person", "x": 3.0, "y": 4.0}]
    assert {"key": "time", "value": "day"} in loaded["facts"]


@pytest.mark.filterwarnings("ignore")  # of the library's own making
def test_croissant_is_valid_and_its_records_are_the_samples(dataset):
    import mlcroissant

    described = mlcroissant.Dataset(str(dataset / "croissant.json"))
    assert not described.metadata.ctx.issues.errors
    records = list(described.records("samples"))
    assert [r["samples/sample_id"] for r in records] == [b"s/0", b"s/1", b"s/2", b"s/3"]
    assert records[0]["samples/infrared"].size == (40, 30)


def test_croissant_names_every_file_with_its_checksum(dataset):
    described = json.loads((dataset / "croissant.json").read_text())
    files = {f["name"]: f["sha256"] for f in described["distribution"] if f["@type"] == "cr:FileObject"}
    parquet = {file.relative_to(dataset).as_posix(): card.file_sha256(file) for file in dataset.rglob("*.parquet")}
    assert files == parquet and len(files) == 3


def test_equal_datasets_have_equal_cards(dataset):
    before = [(dataset / name).read_bytes() for name in (card.CARD, card.CROISSANT)]
    card.write_card(dataset, ACCOUNT, SOURCES)
    assert before == [(dataset / name).read_bytes() for name in (card.CARD, card.CROISSANT)]


def test_the_card_tells_what_is_simulated_swapped_unread_and_whose_terms_bind(dataset):
    text = (dataset / card.CARD).read_text()
    for told in (
        "1 of 4 images are **simulated**",
        "2 captions were swapped on purpose",
        "A person has read 1 of 3 captions",
        SOURCES["hit_uav"].terms,
        SOURCES["hit_uav"].home,
        *SOURCES["hit_uav"].doubts,
        "empty image",
    ):
        assert told in text, told
    front = YAML(typ="safe").load(text.split("---\n")[1])
    assert [c["config_name"] for c in front["configs"]] == ["samples", "questions"]
    assert front["size_categories"] == ["n<1K"]


def test_every_column_has_a_meaning():
    assert set(card.MEANING) == set(SCHEMA.names)


@pytest.mark.parametrize(
    "samples, words", [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (99_999, "10K<n<100K"), (10**6, "1M<n<10M")]
)
def test_sizes_in_the_hubs_words(samples, words):
    assert card.size_category(samples) == words
