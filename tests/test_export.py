import copy
import json
import re

import pandas as pd
import pytest
import torch
from huggingface_hub import ModelCard
from miniature import ONE_TILE, SHAPE, captioned, fresh, fresh_base, new
from peft import PeftModel
from ruamel.yaml import YAML
from safetensors.torch import load_file

from irgpt_lib import artifacts, params
from irgpt_lib.models import families
from irgpt_lib.models.vlm import save_base
from irgpt_lib.training import stages
from irgpt_lib.training.export import Facts, Unexportable, export_adapter, facts_of, model_card, write_merged

SIMULATED = {"samples": 11800, "simulated": 11800, "authentic": 0, "sources": {"simulated": 11800}}
FACTS = Facts(
    kind="internvl",
    base="the miniature of artifacts/base",
    variant="cl",
    seed=0,
    profile="tiny",
    account=SIMULATED,
    settings=[
        {"parameter": "train.stage2.lr", "value": 2e-3},
        {"parameter": "train.stage1.weights", "value": "literal"},
    ],
    licence="apache-2.0",
    stage1_steps=1220,
    stage2_steps=149,
    metrics={"scene": 94.0, "N-sum": 92.84},
    cost="CPU: 7,000 samples in 220 steps, 90 s",
)
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


def changed(**values):
    return Facts(**{**vars(FACTS), **values})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with an untouched `base`, a `run` of both stages whose weights differ much from it, and its logits."""
    folder = tmp_path_factory.mktemp("study")
    vlm = fresh()
    save_base(fresh_base(), "", folder / "base")
    train = params.load("train", profile="smoke").train
    two = train.stage2.model_copy(update={"batch_size": 2, "epochs": 1, "lr": 0.05, "warm_up": 0.0})
    shake(vlm.model, vlm.names("vision", "projector"))
    first = stages.stage1_state(vlm)
    images, questions = captioned(4)["infrared"].tolist(), ["Is there a car?"] * 4
    config = train.model_copy(update={"stage2": two})
    adapted, _ = stages.stage2(vlm, images, questions, ["yes", "no", "yes", "no"], config, seed=0)
    (folder / "run").mkdir()
    stages.save_run(folder / "run", first, adapted)
    return folder, logits(adapted, vlm)


@torch.inference_mode()
def logits(model, vlm):
    images = [vlm.read(data) for data in captioned(2)["infrared"]]
    batch = vlm.inputs(["Is there a car?", "Where is the person?"], ["yes", "no"], images)
    model.eval()
    return model(**{name: value for name, value in batch.items() if name != "labels"}).logits


def stage2_peft(family):
    """The family's model as stage 2 adapts it, with an adapter that changes it much."""
    options = {"target_modules": family.lora_targets, "modules_to_save": list(family.trained_in_full)}
    adapted = stages.get_peft_model(family.model, stages.LoraConfig(r=2, task_type="CAUSAL_LM", **options))
    shake(adapted, [name for name, _ in adapted.named_parameters() if ".lora_" in name or "modules_to_save" in name])
    return adapted


def shake(model, names):
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name in names:
                p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name))))


def pretend(family, folder):
    """A run of both stages in `folder`, trained by no one; its logits."""
    shake(family.model, family.names(*family.stage1_parts))
    first = stages.stage1_state(family)
    adapted = stage2_peft(family)
    folder.mkdir(parents=True)
    stages.save_run(folder, first, adapted)
    return logits(adapted, family)


def front_matter(text):
    return YAML(typ="safe").load(re.match(r"---\n(.*?)\n---\n", text, re.S)[1])


def test_the_adapter_on_the_untouched_base_is_the_trained_model(run, tmp_path):
    folder, expected = run
    export_adapter(folder / "run", tmp_path / "adapter", FACTS)
    vlm = families.load("internvl", folder / "base", ONE_TILE)
    assert not torch.allclose(logits(vlm.model, vlm), expected, atol=0.1), "the training must have changed something"
    loaded = PeftModel.from_pretrained(vlm.model, tmp_path / "adapter")
    torch.testing.assert_close(logits(loaded, vlm), expected, **TOLERANCE)
    assert not [name for name, p in loaded.named_parameters() if p.requires_grad]


def test_the_exported_adapter_merges(run, tmp_path):
    folder, expected = run
    export_adapter(folder / "run", tmp_path / "adapter", FACTS)
    vlm = families.load("internvl", folder / "base", ONE_TILE)
    merged = PeftModel.from_pretrained(vlm.model, tmp_path / "adapter").merge_and_unload()
    assert not [name for name, _ in merged.named_parameters() if "lora" in name or "modules_to_save" in name]
    torch.testing.assert_close(logits(merged, vlm), expected, **TOLERANCE)


def test_without_the_vision_encoder_the_adapter_is_another_model(run):
    """Why the export adds it: the run's own adapter counts on stage 1's file beside it."""
    folder, expected = run
    vlm = families.load("internvl", folder / "base", ONE_TILE)
    alone = PeftModel.from_pretrained(vlm.model, folder / "run" / stages.ADAPTER_FOLDER)
    assert not torch.allclose(logits(alone, vlm), expected, atol=1e-2)


def test_the_merged_folder_is_the_trained_model(run, tmp_path):
    folder, expected = run
    merged = write_merged(
        families.load("internvl", folder / "base", ONE_TILE), folder / "run", tmp_path / "merged", FACTS
    )
    torch.testing.assert_close(logits(merged.model, merged), expected, **TOLERANCE)
    for again in (families.load("internvl", tmp_path / "merged", ONE_TILE),):
        assert torch.equal(logits(again.model, again), logits(merged.model, merged))
    names = {file.name for file in (tmp_path / "merged").iterdir()}
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= names


def test_the_export_holds_no_trace_of_this_machine_and_leaves_the_run_alone(run, tmp_path):
    folder, _ = run
    before = {file: file.read_bytes() for file in (folder / "run").rglob("*") if file.is_file()}
    export_adapter(folder / "run", tmp_path / "adapter", FACTS)
    export_adapter(folder / "run", tmp_path / "again", FACTS)
    assert {file: file.read_bytes() for file in (folder / "run").rglob("*") if file.is_file()} == before
    files = sorted((tmp_path / "adapter").iterdir())
    assert [file.name for file in files] == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    for file in files:
        assert str(folder).encode() not in file.read_bytes()
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


def test_a_failed_export_keeps_the_earlier_one(run, tmp_path):
    folder, _ = run
    export_adapter(folder / "run", tmp_path / "adapter", FACTS)
    with pytest.raises(KeyError, match="authentic"):
        export_adapter(folder / "run", tmp_path / "adapter", changed(account={"samples": 1, "simulated": 1}))
    assert load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert [entry.name for entry in tmp_path.iterdir()] == ["adapter"]


def test_a_run_that_lacks_a_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"adapter_config\.json; `dvc repro train`"):
        export_adapter(tmp_path, tmp_path / "adapter", FACTS)


def test_a_run_without_vision_encoder_is_refused(run, tmp_path):
    folder, _ = run
    vlm = families.load("internvl", folder / "base", ONE_TILE)
    adapted = stages.get_peft_model(
        copy.deepcopy(vlm.model),
        stages.LoraConfig(target_modules=vlm.lora_targets, modules_to_save=list(vlm.trained_in_full)),
    )
    only = {name: t for name, t in stages.stage1_state(vlm).items() if "multi_modal_projector" in name}
    (tmp_path / "run").mkdir()
    stages.save_run(tmp_path / "run", only, adapted)
    with pytest.raises(Unexportable, match=r"holds no `model\.vision_tower`: a run of another family"):
        export_adapter(tmp_path / "run", tmp_path / "adapter", FACTS)


@pytest.mark.parametrize("merged", [False, True])
def test_the_card_says_what_a_stranger_needs(merged):
    text = model_card(FACTS, merged=merged)
    for phrase in ("artifacts/base", "all simulated", "simulated (11,800)", "Variant `cl`, seed 0", "stage2.lr"):
        assert phrase in text
    for phrase in ("N-sum", "92.84", "7,000 samples in 220 steps", "apache-2.0", "not the authors' weights"):
        assert phrase in text
    data = ModelCard(text).data
    assert data.license == "apache-2.0" and data.library_name == ("transformers" if merged else "peft")
    assert data.pipeline_tag == "image-text-to-text" and data.language == ["en"] and data.base_model is None


def test_a_base_of_the_hub_is_linked():
    data = ModelCard(model_card(changed(base="OpenGVLab/InternVL3-8B-hf"), merged=False)).data.to_dict()
    assert data["base_model"] == "OpenGVLab/InternVL3-8B-hf" and data["base_model_relation"] == "adapter"


def test_a_licence_that_the_hub_does_not_know_has_a_name():
    matter = front_matter(model_card(changed(licence="Academic use only: see data"), merged=False))
    assert (matter["license"], matter["license_name"]) == ("other", "academic-use-only-see-data")


@pytest.mark.parametrize(
    ("account", "said"),
    [
        ({"samples": 5, "simulated": 0, "authentic": 5, "sources": {"llvip": 5}}, "all authentic"),
        (
            {"samples": 5, "simulated": 2, "authentic": 3, "sources": {"llvip": 3, "simulated": 2}},
            "3 authentic, taken by infrared cameras, and 2 simulated. Sources: llvip (3), simulated (2)",
        ),
    ],
)
def test_the_card_tells_authentic_from_simulated(account, said):
    assert said in model_card(changed(account=account), merged=False)


def test_a_variant_without_stage_1_says_so():
    assert "Stage 1, 1,220 steps" in model_card(FACTS, merged=False)
    text = model_card(changed(stage1_steps=0), merged=False)
    assert "Stage 1 was left out" in text and "Stage 2, 149 steps" in text


def test_no_metric_is_said_and_not_left_out():
    assert "None were given" in model_card(changed(metrics={}), merged=False)


@pytest.mark.parametrize("merged", [False, True])
def test_the_cards_own_lines_load_the_model(run, tmp_path, merged):
    folder, expected = run
    target = tmp_path / "model"
    if merged:
        write_merged(families.load("internvl", folder / "base", ONE_TILE), folder / "run", target, FACTS)
    else:
        export_adapter(folder / "run", target, FACTS)
    code = re.search(r"```python\n(.*?)```", (target / "README.md").read_text(), re.S)[1]
    code = code.replace('base = "..."', f"base = {str(folder / 'base')!r}").replace('"..."', repr(str(target)))
    names = {}
    exec(code, names)
    vlm = families.InternVL(names["model"], names["tokenizer"], ONE_TILE)
    torch.testing.assert_close(logits(vlm.model, vlm), expected, **TOLERANCE)


def test_the_exported_configuration_names_what_it_holds(run, tmp_path):
    folder, _ = run
    export_adapter(folder / "run", tmp_path / "adapter", changed(base="OpenGVLab/InternVL3-8B-hf"))
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["modules_to_save"] == ["multi_modal_projector", "vision_tower"]
    assert config["base_model_name_or_path"] == "OpenGVLab/InternVL3-8B-hf"
    held = pd.Series(list(load_file(tmp_path / "adapter" / "adapter_model.safetensors")))
    for part in ("lora_", "multi_modal_projector", "vision_tower"):
        assert held.str.contains(part).any()


@pytest.mark.parametrize("kind", ["qwen2_vl", "llava", "pandagpt"])
def test_every_family_is_the_trained_model_on_its_untouched_base(kind, tmp_path):
    """As an adapter and merged, by the lines of the cards."""
    made = [families.build(kind, SHAPE, new().tokenizer, 0, ONE_TILE) for _ in range(2)]
    made[0].save(tmp_path / "base")
    expected = pretend(made[1], tmp_path / "run")
    facts = changed(kind=kind)
    export_adapter(tmp_path / "run", tmp_path / "adapter", facts)
    vlm = families.load(kind, tmp_path / "base", ONE_TILE)
    assert not torch.allclose(logits(vlm.model, vlm), expected, atol=0.1)
    loaded = PeftModel.from_pretrained(vlm.model, tmp_path / "adapter")
    torch.testing.assert_close(logits(loaded, vlm), expected, **TOLERANCE)
    write_merged(families.load(kind, tmp_path / "base", ONE_TILE), tmp_path / "run", tmp_path / "merged", facts)
    names = {}
    code = re.search(r"```python\n(.*?)```", (tmp_path / "merged" / "README.md").read_text(), re.S)[1]
    exec(code.replace('"..."', repr(str(tmp_path / "merged"))), names)
    torch.testing.assert_close(logits(names["model"], vlm), expected, **TOLERANCE)
    said = "LoRA and projector." if kind == "pandagpt" else "LoRA, projector and vision encoder."
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert said in card and ("steps: projector through" in card) == (kind == "pandagpt")


@pytest.fixture
def study(tmp_path, monkeypatch):
    """The artifacts that tell of the run cl-0."""
    monkeypatch.setenv("IRGPT_ARTIFACTS", str(tmp_path))
    save_base(fresh_base(), "", tmp_path / "base")
    artifacts.write_json(artifacts.ACCOUNT, SIMULATED)
    rows = {"step": [1, 2, 1], "loss": [2.0, 1.0, 1.0], "stage": ["stage 1", "stage 1", "stage 2"]}
    artifacts.write_csv("train/cl-0/history.csv", pd.DataFrame(rows))
    return tmp_path


def facts(profile="smoke", **model):
    loaded = params.load("model", "train", profile=profile, variant="cl")
    sections = {"model": loaded.model.model_copy(update=model), "train": loaded.train}
    return facts_of(params.Loaded(loaded.profile, "cl", sections), 0, licence="mit")


def test_the_artifacts_tell_the_facts(study):
    told = facts()
    assert (told.run, told.kind, told.profile, told.licence) == ("cl-0", "internvl", "smoke", "mit")
    assert (told.stage1_steps, told.stage2_steps, told.account) == (2, 1, SIMULATED)
    assert (told.metrics, told.cost) == ({}, "")
    artifacts.write_json("evaluate/cl-0/metrics.json", {"fine_tuned": {"scene": 93.0, "location": 88.1}})
    record = {"device": "CPU", "devices": 1, "steps": 2, "samples": 64, "steps_not_measured": 0, "wall_s": 3.0}
    record |= {"device_hours": 0.1, "peak_rss_mb": 5.0, "peak_cuda_mb": None, "energy_wh": None}
    artifacts.write_json("costs/train-cl-0-stage1.json", record)
    artifacts.write_json("costs/train-cl-0-stage2.json", record | {"steps": 0})
    told = facts()
    assert told.metrics == {"scene (%)": 93.0, "location (mean absolute error)": 88.1}
    assert told.cost.startswith("Stage 1, CPU: 64 samples in 2 steps") and "Stage 2" not in told.cost


def test_the_base_is_named_without_its_place(study, tmp_path):
    assert facts().base.startswith("The study's own miniature")
    assert facts(weights="OpenGVLab/InternVL3-8B-hf").base == "OpenGVLab/InternVL3-8B-hf"
    (tmp_path / "elsewhere").mkdir()
    place = str(tmp_path / "elsewhere")
    local = facts(weights=place)
    assert local.base == "The checkpoint `elsewhere`" and place not in model_card(local, merged=True)
    composed = facts(encoder="a/clip", weights="b/llm", seed=3).base
    assert composed == "`a/clip` and `b/llm`, joined by a projection drawn from seed 3"
    shape = params.load("base", profile="smoke").base.shape
    assert facts(kind="llava", shape=shape).base.startswith("A miniature of the family llava with random weights")
    save_base(None, "OpenGVLab/InternVL2_5-8B-MPO-hf", study / "base")
    assert facts().base == "OpenGVLab/InternVL2_5-8B-MPO-hf"


def test_an_empty_value_is_empty_in_the_table(study):
    assert re.search(r"\| model\.shape +\| +\|", model_card(facts(), merged=False))


def test_no_licence_is_said(study):
    text = model_card(changed(licence="unknown"), merged=False)
    assert "none was named" in text and ModelCard(text).data.license == "unknown"


def test_without_the_dataset_s_account_nothing_is_claimed(study):
    (study / artifacts.ACCOUNT).unlink()
    with pytest.raises(FileNotFoundError, match=r"account\.json.*`dvc repro dataset`"):
        facts()
