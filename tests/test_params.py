"""params.yaml: common, changed by the profile, changed by the variant; whatever is unknown is refused by name."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.serialize import modify_yaml
from ruamel.yaml import YAML

from irgpt_lib import params
from irgpt_lib.params import ParamsError

FILE = Path(__file__).parents[1] / "params.yaml"
TREE = YAML(typ="safe").load(FILE.read_text(encoding="utf-8"))
EVERY_RUN = [(variant, seed) for variant in TREE["variants"] for seed in TREE["seeds"]]
EVERY_ROW = [(variant, seed) for variant in TREE["grid"] for seed in TREE["seeds"]]
Change = Callable[[dict[str, Any]], object]


@pytest.fixture(autouse=True)
def undirected(monkeypatch):
    monkeypatch.chdir(FILE.parent)
    for name in (params.PROFILE_VARIABLE, params.RUNS_VARIABLE):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A folder with a changed copy of the study's params.yaml, as the working folder."""

    def make(change: Change) -> Path:
        tree = YAML(typ="safe").load(FILE.read_text(encoding="utf-8"))
        change(tree)
        (tmp_path / "dvc.yaml").touch()
        with (tmp_path / "params.yaml").open("w", encoding="utf-8") as stream:
            YAML(typ="safe").dump(tree, stream)
        monkeypatch.chdir(tmp_path)
        return tmp_path / "params.yaml"

    return make


def refused(*sections: str, **choice: str) -> str:
    with pytest.raises(ParamsError) as caught:
        params.load(*sections, **choice)
    return str(caught.value)


@pytest.mark.parametrize("variant", ["", *TREE["variants"], *TREE["grid"]])
@pytest.mark.parametrize("profile", TREE["profiles"])
def test_every_profile_and_variant_of_the_study_loads(profile, variant):
    loaded = params.load(*params.SECTIONS, profile=profile, variant=variant)
    assert (loaded.profile, loaded.variant) == (profile, variant)
    assert {row["parameter"].partition(".")[0] for row in loaded.rows()} == set(params.SECTIONS)


def test_common_gives_way_to_the_profile_and_the_profile_to_the_variant(study):
    def change(tree):
        tree["common"]["train"]["stage1"] |= {"epochs": 1, "batch_size": 32, "tiers": 10}
        tree["profiles"]["tiny"]["train"] = {"stage1": {"epochs": 2, "batch_size": 64}}
        tree["variants"]["cl"] = {"train": {"stage1": {"epochs": 3}}}

    study(change)
    stage = params.load("train", profile="tiny", variant="cl").train.stage1
    assert (stage.epochs, stage.batch_size, stage.tiers) == (3, 64, 10)
    assert params.load("train", profile="tiny").train.stage1.epochs == 2


def test_merging_joins_mappings_and_replaces_everything_else():
    below = {"a": {"x": 1, "y": 2}, "list": [1, 2]}
    assert params.merged(below, {"a": {"y": 3}, "list": [9]}) == {"a": {"x": 1, "y": 3}, "list": [9]}
    assert below == {"a": {"x": 1, "y": 2}, "list": [1, 2]}, "neither argument is changed"


def test_the_profile_is_the_argument_else_the_variable_else_the_file(monkeypatch):
    assert params.current_profile() == TREE["profile"]
    monkeypatch.setenv(params.PROFILE_VARIABLE, "smoke")
    assert params.current_profile() == "smoke"
    assert params.current_profile("paper") == "paper"


@pytest.mark.parametrize(
    "named, listed",
    [
        ({"profile": "huge"}, TREE["profiles"]),
        ({"variant": "lc"}, TREE["variants"]),
    ],
)
def test_an_unknown_profile_or_variant_is_an_error_that_lists_those_there_are(named, listed):
    message = refused("train", **named)
    assert repr(*named.values()) in message and ", ".join(listed) in message


def test_an_unknown_section_is_an_error_that_lists_the_sections():
    message = refused("training")
    assert "'training'" in message and ", ".join(params.SECTIONS) in message


@pytest.mark.parametrize(
    "change, place, listed",
    [
        (lambda t: t["common"]["train"]["stage1"].update(epoch=1), "train.stage1.epoch:", "epochs, batch_size"),
        (lambda t: t["common"]["features"].update(rate=1), "features.rate:", "extractor, mask_ratio"),
        (lambda t: t["variants"]["cl"].update(train={"stages": 1}), "train.stages:", "stage1, stage2"),
    ],
)
def test_an_unknown_parameter_is_an_error_that_lists_its_neighbours(study, change, place, listed):
    study(change)
    message = refused("train", "features", profile="tiny", variant="cl")
    assert place in message and "unknown parameter" in message and listed in message


@pytest.mark.parametrize(
    "change, named, listed",
    [
        (lambda t: t.update(extras=1), "'extras'", "profile, seeds, common"),
        (lambda t: t["common"].update(training={}), "common: unknown 'training'", "train, evaluate"),
        (lambda t: t["profiles"]["tiny"].update(training={}), "profiles.tiny: unknown 'training'", "train, evaluate"),
        (lambda t: t["variants"]["cl"].update(difficulty={}), "variants.cl: unknown 'difficulty'", "train"),
    ],
)
def test_an_unknown_key_at_any_upper_level_is_an_error_that_lists_what_may_stand_there(study, change, named, listed):
    study(change)
    message = refused("train")
    assert named in message and listed in message


def test_a_profile_must_name_every_section_so_that_dvc_can_watch_it(study):
    study(lambda t: t["profiles"]["tiny"].pop("features"))
    assert "profiles.tiny: missing features (write `features: {}`" in refused("train")


@pytest.mark.parametrize("key", ["common", "profiles", "variants"])
def test_an_empty_block_is_an_error_that_says_where(study, key):
    study(lambda t: t.update({key: None}))
    with pytest.raises(ParamsError, match=f"params.yaml: {key}: None where a mapping is needed"):
        params.read()


def test_an_empty_file_is_an_error_that_says_what_it_may_hold(tmp_path):
    (tmp_path / "params.yaml").touch()
    with pytest.raises(ParamsError, match="params.yaml: None where a mapping is needed; it may hold profile, seeds"):
        params.read(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    "section, key, wrong",
    [
        ("features", "epochs", "8"),
        ("features", "epochs", 8.0),
        ("features", "epochs", True),
        ("features", "epochs", -1),
        ("features", "lr", "1e-3"),
        ("features", "lr", 0.0),
        ("features", "lr", float("inf")),
        ("features", "weight_decay", float("nan")),
        ("features", "mask_ratio", 1.0),
        ("difficulty", "sign", "plus"),
        ("difficulty", "lesson1_weight", 1.5),
        ("dataset", "sources", "simulated"),
        ("dataset", "split_shares", {"test": 1.0}),
        ("dataset", "simulated", None),
        ("base", "kind", "large"),
    ],
)
def test_a_value_of_the_wrong_type_or_range_is_refused_by_its_name(study, section, key, wrong):
    study(lambda t: t["common"][section].update({key: wrong}))
    message = refused(section, profile="tiny")
    assert f"{section}.{key}" in message and "profile tiny" in message


def test_a_whole_number_may_stand_where_a_float_is_meant(study):
    study(lambda t: t["common"]["features"].update(lr=1))
    assert params.load("features", profile="tiny").features.lr == 1.0


def test_a_section_that_was_not_loaded_cannot_be_read():
    loaded = params.load("features", "difficulty")
    with pytest.raises(AttributeError, match="'train' was not loaded; this notebook loaded features, difficulty"):
        _ = loaded.train


def test_what_was_loaded_cannot_be_changed():
    loaded = params.load("features")
    with pytest.raises(ValueError, match="frozen"):
        loaded.features.epochs = 99


def test_rows_show_every_value_under_its_dotted_name():
    rows = {row["parameter"]: row["value"] for row in params.load("train", profile="tiny", variant="none").rows()}
    assert rows["train.stage1.epochs"] == 0
    assert rows["train.stage2.lora.rank"] == TREE["common"]["train"]["stage2"]["lora"]["rank"]


def test_the_runs_are_every_variant_with_every_seed_in_the_order_of_the_file():
    assert params.runs() == EVERY_RUN


def test_the_grid_has_rows_of_its_own_which_load_like_variants():
    assert params.runs("grid") == EVERY_ROW and not set(EVERY_ROW) & set(EVERY_RUN)
    assert params.load("train", variant="tiers_5").train.stage1.tiers == 5


def test_the_variable_names_rows_of_the_grid_too(monkeypatch):
    monkeypatch.setenv(params.RUNS_VARIABLE, "cl-0,l1-1")
    assert (params.runs(), params.runs("grid")) == ([("cl", 0)], [("l1", 1)])


def test_a_name_stands_in_one_block_only(study):
    study(lambda tree: tree["grid"].update(cl={}))
    assert refused("train") == "params.yaml: 'cl' stands in variants and in grid; take it out of one of them"


def test_the_run_that_is_looked_at_is_the_papers_method_with_the_first_seed():
    assert params.shown_run() == ("cl", TREE["seeds"][0])


def test_the_variable_keeps_the_named_runs_in_the_order_of_the_file(monkeypatch):
    monkeypatch.setenv(params.RUNS_VARIABLE, "cl-0,none-1")
    assert params.runs() == [("none", 1), ("cl", 0)]


def test_an_empty_variable_keeps_every_run(monkeypatch):
    monkeypatch.setenv(params.RUNS_VARIABLE, "")
    assert params.runs() == EVERY_RUN


def test_a_run_that_does_not_exist_is_an_error_that_lists_those_that_do(monkeypatch):
    monkeypatch.setenv(params.RUNS_VARIABLE, "cl-0,cl-99")
    with pytest.raises(ParamsError, match=r"IRGPT_RUNS names the run 'cl-99'; there are .*none-0.*cl-1"):
        params.runs()


def values() -> list[str]:
    lines = FILE.read_text(encoding="utf-8").splitlines()
    return [line.partition("#")[0].rstrip() for line in lines]


def test_floats_are_written_with_a_point():
    """YAML 1.1 readers take a bare 1e-4 for a string."""
    bare = [line for line in values() if re.search(r":\s*[-+]?\d+[eE]", line)]
    assert not bare, f"write 1.0e-4, not 1e-4: {bare}"


def test_no_value_reaches_beyond_column_80():
    """Longer ones would be folded when `dvc exp run -S` rewrites the file."""
    assert max(map(len, values())) <= 80


def test_an_experiment_that_rewrites_the_file_changes_its_one_value_and_keeps_the_comments(tmp_path):
    copy = tmp_path / "params.yaml"
    copy.write_bytes(FILE.read_bytes())
    with modify_yaml(copy) as tree:
        tree["common"]["features"]["lr"] = 0.25
    expected = YAML(typ="safe").load(FILE.read_text(encoding="utf-8"))
    expected["common"]["features"]["lr"] = 0.25
    assert YAML(typ="safe").load(copy.read_text(encoding="utf-8")) == expected
    assert copy.read_text(encoding="utf-8").count("#") == FILE.read_text(encoding="utf-8").count("#")


def test_nothing_simulated_can_enter_the_profile_of_authentic_data(study):
    study(lambda tree: tree["profiles"]["paper"]["dataset"].update(authentic_only=False))
    assert "profile paper" in (told := refused("dataset", profile="paper")) and "authentic_only" in told
    assert not params.load("dataset", profile="tiny").dataset.authentic_only
