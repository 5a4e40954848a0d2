import json
from functools import lru_cache

import numpy as np
import pandas as pd
import pytest
import torch
from miniature import captioned, changed, fresh, grays, talkative, weights_of
from safetensors.torch import load_file, save_file

from irgpt_lib import params
from irgpt_lib.curriculum import schedule
from irgpt_lib.models.vlm import PARTS, VisionLanguageModel, load_base, save_base
from irgpt_lib.training import stages

STAGE1 = (PARTS["vision"], PARTS["projector"])
LINEAR = tuple(f"{part}_proj.weight" for part in ("q", "k", "v", "o", "gate", "up", "down"))
QUESTIONS, ANSWERS = ["Is there a car?", "Is there a dog?", "How many?", "Where?"], ["yes", "no", "7", "(500, 250)"]


def config(stage1=None, stage2=None):
    train = params.load("train", profile="smoke").train
    one = {"batch_size": 2, "tiers": 3, "epochs": 1, "warm_up": 0.0} | (stage1 or {})
    two = {"batch_size": 2, "epochs": 1, "warm_up": 0.0} | (stage2 or {})
    parts = {"stage1": train.stage1.model_copy(update=one), "stage2": train.stage2.model_copy(update=two)}
    return train.model_copy(update=parts)


def order_of(samples, **stage1):
    ranked = pd.DataFrame(
        {
            "sample_id": samples["sample_id"].to_numpy(),
            "rank": np.arange(len(samples)),
            "alpha": np.linspace(-1, 1, len(samples)),
        }
    )
    return schedule.from_params(ranked, config(stage1).stage1, params.load("difficulty").difficulty, seed=0)


def tuned(vlm, seed=0, **stage2):
    images = captioned(4)["infrared"].tolist()
    return stages.stage2(vlm, images, QUESTIONS, ANSWERS, config(stage2=stage2), seed=seed)


@lru_cache(maxsize=1)
def tuned_once():
    """The weights before stage 2, the adapted model and its history, for tests that only look."""
    vlm = fresh()
    original = weights_of(vlm.model)
    return original, *tuned(vlm)


def test_no_epoch_is_an_empty_order_that_trains_nothing():
    order = order_of(captioned(4), epochs=0)
    assert order.empty
    vlm = fresh()
    before = weights_of(vlm.model)
    history = stages.stage1(vlm, captioned(4), order, config(), seed=0)
    assert list(history) == stages.HISTORY and history.empty
    assert not changed(vlm.model, before)


def test_stage_1_trains_vision_and_projector_and_nothing_else():
    vlm = fresh()
    before = weights_of(vlm.model)
    expected = {name for name in before if name.startswith(STAGE1)}
    history = stages.stage1(vlm, captioned(6), order_of(captioned(6)), config(), seed=0)
    assert stages.trainable(vlm.model) == expected
    assert changed(vlm.model, before) == expected
    assert list(history) == stages.HISTORY
    assert history["tier"].tolist() == [0, 1, 2] and history["stage"].unique().tolist() == ["stage 1"]


def test_stage_1_of_equal_seeds_is_bitwise_equal():
    first, second = fresh(), fresh()
    for vlm in (first, second):
        stages.stage1(vlm, captioned(6), order_of(captioned(6)), config(), seed=3)
    assert not changed(second.model, weights_of(first.model))


def test_stage_2_trains_lora_on_the_language_model_and_the_whole_projector():
    original, adapted, history = tuned_once()
    projector = {name for name in original if name.startswith(PARTS["projector"])}
    linear = [n for n in original if n.startswith(PARTS["language"]) and n.endswith(LINEAR)]
    expected = {
        f"base_model.model.{name.removesuffix('.weight')}.lora_{side}.default.weight"
        for name in linear
        for side in "AB"
    } | {
        "base_model.model.model.multi_modal_projector.modules_to_save.default." + name.removeprefix(PARTS["projector"])
        for name in projector
    }
    assert len(linear) == 7 and len(projector) == 6
    assert stages.trainable(adapted) == expected
    assert not any("vision_tower" in name for name in stages.trainable(adapted))
    assert history["step"].tolist() == [1, 2] and history["stage"].unique().tolist() == ["stage 2"]


def test_stage_2_leaves_every_weight_of_the_base_as_it_was():
    original, adapted, _ = tuned_once()
    plain = {}
    for name, parameter in adapted.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            continue
        name = name.removeprefix("base_model.model.").replace(".base_layer", "").replace(".original_module", "")
        plain[name] = parameter.detach()
    assert plain.keys() == original.keys()
    assert all(torch.equal(plain[name], original[name]) for name in original)


def test_stage_2_changes_what_it_trains():
    original, adapted, _ = tuned_once()
    projector = {name: t for name, t in original.items() if name.startswith(PARTS["projector"])}
    state = adapted.state_dict()
    assert all(state[name].any() for name in state if "lora_B" in name), "B starts at 0"
    for name, value in projector.items():
        saved = f"base_model.model.{name.replace('projector.', 'projector.modules_to_save.default.')}"
        assert not torch.equal(state[saved], value)


def test_stage_2_of_equal_seeds_is_bitwise_equal_and_depends_on_the_seed():
    _, first, rows = tuned_once()
    (second, again), (other, _) = (tuned(fresh(), seed=seed) for seed in (0, 1))
    assert not changed(second, weights_of(first)) and rows.equals(again)
    assert changed(other, weights_of(first))


def test_stage_2_without_an_epoch_trains_nothing():
    vlm = fresh()
    original = weights_of(vlm.model)
    adapted, history = tuned(vlm, epochs=0)
    assert history.empty
    merged = adapted.merge_and_unload()
    assert not changed(merged, original)


def test_a_saved_run_answers_as_before_saving(tmp_path):
    save_base(talkative(), "", tmp_path)
    vlm = load_base(tmp_path)
    stages.stage1(vlm, captioned(6), order_of(captioned(6)), config(), seed=0)
    first = stages.stage1_state(vlm)
    asked = ["Is there a car on the left side of the dog?", "What object does not appear in the picture?"] * 2
    vlm.model.eval()
    zero = vlm.answer(asked, grays(4), max_new_tokens=5)
    adapted, _ = tuned(vlm)
    adapted.eval()
    fine = VisionLanguageModel(adapted.base_model.model, vlm.tokenizer).answer(asked, grays(4), max_new_tokens=5)
    stages.save_run(tmp_path, first, adapted)

    loaded = load_base(tmp_path)
    untrained = loaded.answer(asked, grays(4), max_new_tokens=5)
    stages.load_stage1(loaded, tmp_path)
    assert loaded.answer(asked, grays(4), max_new_tokens=5) == zero
    reader = stages.load_adapter(loaded, tmp_path)
    assert reader.answer(asked, grays(4), max_new_tokens=5) == fine
    assert untrained != zero != fine, "equal answers would prove nothing"


def test_the_adapter_names_no_folder_of_this_machine(tmp_path):
    base = tmp_path / "base"
    save_base(fresh(), "", base)
    vlm = load_base(base)
    adapted, _ = tuned(vlm)
    stages.save_run(tmp_path, stages.stage1_state(vlm), adapted)
    for file in sorted((tmp_path / "adapter").iterdir()):
        assert str(tmp_path).encode() not in file.read_bytes(), file.name


def test_equal_runs_have_equal_bytes(tmp_path):
    for name, adapted in (("a", tuned_once()[1]), ("b", tuned(fresh())[0])):
        (tmp_path / name).mkdir()
        stages.save_run(tmp_path / name, stages.stage1_state(fresh()), adapted)
    files = sorted(f.relative_to(tmp_path / "a") for f in (tmp_path / "a").rglob("*") if f.is_file())
    assert {"stage1.safetensors", "adapter/adapter_model.safetensors"} <= {str(f) for f in files}
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_the_adapter_holds_the_language_model_s_lora_and_the_projector_only(tmp_path):
    _, adapted, _ = tuned_once()
    stages.save_run(tmp_path, stages.stage1_state(fresh()), adapted)
    names = load_file(tmp_path / "adapter/adapter_model.safetensors").keys()
    lora = {name for name in names if ".lora_" in name}
    assert len(lora) == 14 and all("language_model" in name for name in lora)
    assert len(names - lora) == 6 and all("multi_modal_projector" in name for name in names - lora)
    saved = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert saved["modules_to_save"] == ["multi_modal_projector"] and saved["r"] == 8


def test_stage_1_is_stored_as_vision_and_projector(tmp_path):
    vlm = fresh()
    state = stages.stage1_state(vlm)
    assert state.keys() == {name for name in vlm.model.state_dict() if name.startswith(STAGE1)}
    name = f"{PARTS['projector']}linear_1.weight"
    state[name].zero_()
    assert stages.stage1_state(vlm)[name].any(), "the state is a copy"


def test_a_foreign_stage_1_file_is_refused(tmp_path):
    vlm = fresh()
    state = stages.stage1_state(vlm)
    save_file(state | {"model.tail.weight": torch.zeros(1)}, tmp_path / stages.STAGE1_FILE)
    with pytest.raises(KeyError, match="stage1.safetensors.*model.tail.weight"):
        stages.load_stage1(vlm, tmp_path)


def test_an_incomplete_stage_1_file_is_refused(tmp_path):
    vlm = fresh()
    state = {n: t for n, t in stages.stage1_state(vlm).items() if not n.startswith(PARTS["projector"])}
    save_file(state, tmp_path / stages.STAGE1_FILE)
    with pytest.raises(KeyError, match="stage1.safetensors.*multi_modal_projector"):
        stages.load_stage1(vlm, tmp_path)


def test_stage_1_weights_of_another_width_are_refused(tmp_path):
    vlm = fresh()
    state = {name: torch.zeros(1) for name in stages.stage1_state(vlm)}
    save_file(state, tmp_path / stages.STAGE1_FILE)
    with pytest.raises(RuntimeError, match="size mismatch"):
        stages.load_stage1(vlm, tmp_path)


def test_losses_of_both_stages_stand_under_one_another():
    first = pd.DataFrame([[1, 2.0, 1.0, 3, "stage 1"]], columns=stages.HISTORY)
    second = pd.DataFrame({"step": [1], "loss": [0.5], "weighted_loss": [0.5], "stage": ["stage 2"]})
    joined = stages.joined_history(first, second)
    assert list(joined) == stages.HISTORY and joined["tier"].tolist() == [3, -1]
    assert stages.joined_history(first[:0], second)["stage"].tolist() == ["stage 2"]
