"""`irgpt models export`: a run becomes an adapter or one model, or one message says why not."""

import json
import shutil
from dataclasses import replace

import pandas as pd
import pytest
import torch
from miniature import ONE_TILE, SHAPE, fresh_base
from peft import LoraConfig, PeftModel, get_peft_model
from typer.testing import CliRunner

from irgpt_lib import artifacts, params
from irgpt_lib.cli import app
from irgpt_lib.irtd.record import png_bytes
from irgpt_lib.models import families
from irgpt_lib.models.vlm import save_base
from irgpt_lib.training import stages
from irgpt_lib.training.base import new_model
from irgpt_lib.training.starting import starting_model

ACCOUNT = {"samples": 4, "simulated": 4, "authentic": 0, "sources": {"simulated": 4}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The artifacts of a study whose untrained runs cl-0, of its base, and llava-0, of a random miniature, differ from
    what they started from; and the logits of cl-0."""
    folder = tmp_path_factory.mktemp("study")
    save_base(fresh_base(), "", folder / "base")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("IRGPT_ARTIFACTS", str(folder))
        artifacts.write_json(artifacts.ACCOUNT, ACCOUNT)
        found = {}
        for variant in ("cl", "llava"):
            vlm = starting_model(params.load("model", profile="smoke", variant=variant).model, folder / "base")
            found[variant] = leave(vlm, folder / "train" / f"{variant}-0")
        artifacts.write_json("costs/05_train-cl-0.json", {"parameters": {"profile": "smoke"}})
    return folder, found["cl"]


def leave(vlm, folder):
    """A run's files; the logits of its model."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, p in vlm.model.named_parameters():
            p.add_(0.1 * torch.randn(p.shape) if name in vlm.names("vision", "projector") else 0)
    first = stages.stage1_state(vlm)
    lora = LoraConfig(r=2, target_modules=vlm.lora_targets, modules_to_save=list(vlm.trained_in_full))
    adapted = get_peft_model(vlm.model, lora)
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            p.add_(0.1 * torch.randn(p.shape) if ".lora_B" in name else 0)
    folder.mkdir(parents=True)
    stages.save_run(folder, first, adapted)
    pd.DataFrame({"stage": ["stage 1", "stage 2"]}).to_csv(folder / "history.csv", index=False)
    return logits(adapted, vlm)


@torch.inference_mode()
def logits(model, vlm):
    image = vlm.read(png_bytes(torch.arange(64, dtype=torch.uint8).repeat(64, 1).numpy()))
    batch = vlm.inputs(["Is there a car?"], ["yes"], [image])
    model.eval()
    return model(**{name: value for name, value in batch.items() if name != "labels"}).logits


@pytest.fixture
def study(trained, tmp_path, monkeypatch):
    """A copy that a test may break."""
    shutil.copytree(trained[0], tmp_path / "artifacts")
    monkeypatch.setenv("IRGPT_ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.delenv("IRGPT_PROFILE", raising=False)
    return tmp_path / "artifacts"


def call(*words):
    return CliRunner().invoke(app, ["models", "export", *map(str, words)])


def failed(result, message):
    """The message stands alone, below transformers' own line of progress where a model was read."""
    *progress, last = result.stderr.strip().split("\n")
    alone = last.startswith("irgpt: ") and all("Loading weights" in line for line in progress)
    return result.exit_code == 2 and message in last and alone


def test_the_adapter_is_the_run_on_the_untouched_base(study, trained, tmp_path):
    result = call("cl-0", tmp_path / "out", "--licence", "mit")
    assert result.exit_code == 0, result.output
    assert "cl-0 as an adapter" in result.stdout and "The study's own miniature" in result.stdout
    vlm = families.load("internvl", study / "base", ONE_TILE)
    assert not torch.allclose(logits(vlm.model, vlm), trained[1], atol=0.1)
    loaded = PeftModel.from_pretrained(vlm.model, tmp_path / "out")
    torch.testing.assert_close(logits(loaded, vlm), trained[1], rtol=1e-5, atol=1e-5)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: mit" in card and "profile `smoke`" in card and "all simulated" in card


def test_merged_is_the_run_as_one_model(study, trained, tmp_path):
    report = json.loads(call("cl-0", tmp_path / "out", "--merged", "--json").stdout)
    assert (report["run"], report["form"]) == ("cl-0", "merged")
    assert report["files"].keys() == {file.name for file in (tmp_path / "out").iterdir()}
    vlm = families.load("internvl", tmp_path / "out", ONE_TILE)
    torch.testing.assert_close(logits(vlm.model, vlm), trained[1], rtol=1e-5, atol=1e-5)


def test_the_profile_is_the_one_that_is_named_or_that_the_run_had(study, tmp_path):
    assert call("cl-0", tmp_path / "out", "--profile", "tiny").exit_code == 0
    assert "profile `tiny`" in (tmp_path / "out" / "README.md").read_text()
    assert failed(call("cl-0", tmp_path / "other", "--profile", "none"), "unknown profile 'none'")


def test_a_run_of_a_random_miniature_is_exported_whole_only(study, tmp_path):
    assert failed(call("llava-0", tmp_path / "out"), "llava-0 started from no checkpoint")
    assert call("llava-0", tmp_path / "out", "--merged").exit_code == 0
    assert families.load("llava", tmp_path / "out", ONE_TILE).kind == "llava"
    assert "drawn from seed 0" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("name", ["cl-1", "cl", "none-0", "../train/cl-0"])
def test_an_unknown_run_names_those_that_exist(study, tmp_path, name):
    assert failed(call(name, tmp_path / "out"), f"no run '{name}'; there are cl-0, llava-0")


def test_where_nothing_was_trained_the_stage_is_named(study, tmp_path):
    shutil.rmtree(study / "train")
    assert failed(call("cl-0", tmp_path / "out"), "there is none; `dvc repro train` makes the study's")


def test_a_target_that_exists_is_left_alone(study, tmp_path):
    (tmp_path / "out").mkdir()
    assert failed(call("cl-0", tmp_path / "out", "--merged"), f"{tmp_path / 'out'} exists; name a new folder")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("merged", [True, False])
def test_a_run_without_its_adapter_leaves_nothing(study, tmp_path, merged):
    shutil.rmtree(study / "train" / "cl-0" / "adapter")
    result = call("cl-0", tmp_path / "out", *["--merged"] * merged)
    assert result.exit_code == 2 and "adapter" in result.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["artifacts"]


def test_a_run_of_another_base_is_refused(study, tmp_path):
    shutil.rmtree(study / "base")
    save_base(new_model(replace(SHAPE, vision_layers=2), 0), "", study / "base")
    message = "cl-0 does not fit what params.yaml says it started from: "
    assert failed(call("cl-0", tmp_path / "out", "--merged"), message)


def test_without_a_base_the_stage_is_named(study, tmp_path):
    shutil.rmtree(study / "base")
    assert failed(call("cl-0", tmp_path / "out", "--merged"), "`dvc repro base` makes it")
