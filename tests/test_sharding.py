"""A model of which each of two ranks holds a part, and blocks computed twice. That it trains what one process trains is
shown in test_ranks.py, for both ways of sharing the work."""

import json
import shutil
from contextlib import contextmanager
from functools import lru_cache
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import resume_matrix
import torch
from miniature import captioned, changed, fresh, weights_of
from resume_matrix import ASKED, STEPS, cells, config, on_ranks, train
from safetensors.torch import load_file, save_file
from test_resume import flip, step_folder
from torch import nn

from irgpt_lib.models.vlm import PARTS
from irgpt_lib.training import distributed, loss, sharding
from irgpt_lib.training.checkpoint import STATE, TENSORS
from irgpt_lib.training.trainer import Collator, SampleLosses, TextImages

COLUMNS = ["loss", "weighted_loss", "gradient_norm"]
POINT = {1: 5, 2: 7}
FEW_LOGITS = 2000  # three rows at a time: the ranks cut their shares of a batch into different numbers of pieces


def with_bf16(stage, **options):
    low = config().model_copy(update={"precision": "bf16"})
    with mock.patch.object(resume_matrix, "config", lambda: low):
        return train(stage, fresh(), **options)


def holdings():
    """How many parameters of a sharded model this rank holds, and whether the model itself was left as it was."""
    vlm = fresh()
    before = weights_of(vlm.model)
    twin = sharding.sharded(SampleLosses(vlm, 0.0), distributed.ranks(), "fp32")
    held = sum(p.to_local().numel() for p in twin.parameters())
    blocks = len(sharding.blocks(twin.model))
    return {"held": held, "blocks": blocks, "untouched": not changed(vlm.model, before)}


@contextmanager
def spied_modes():
    """Whether vision tower and language model were in training mode, in any pass of the block."""
    modes, forward = set(), SampleLosses.forward

    def spying(module, *arguments):
        inner = module.model.model
        modes.add((inner.vision_tower.training, inner.language_model.training))
        return forward(module, *arguments)

    with mock.patch.object(SampleLosses, "forward", spying):
        yield modes


def recorded(folder):
    """All that is asked of two ranks: they start once."""
    ranks, vlm, told = distributed.ranks(), fresh(), {"holdings": holdings()}
    told["bf16"] = with_bf16(1, parallel="shard").to_dict("list")
    with mock.patch.object(loss, "LOGITS_AT_ONCE", FEW_LOGITS), spied_modes() as modes:
        history = train(1, vlm, parallel="shard", activation_checkpointing=True, micro=1)
    told["in pieces"], told["modes"] = history.to_dict("list"), sorted(modes)
    told["wrong"] = {stage: cells(stage, 0, [POINT[stage]], folder, "shard") for stage in (1, 2)}
    told["fallen back"] = train(1, fresh(), folder=folder / "alone", every=STEPS, parallel="shard").to_dict("list")
    (folder / f"{ranks.rank}.json").write_text(json.dumps(told))
    save_file(weights_of(vlm.model), folder / f"{ranks.rank}.safetensors")


@lru_cache(maxsize=2)
def alone(stage):
    """The losses and weights of one process."""
    vlm = fresh()
    history = train(stage, vlm)
    return history, weights_of(vlm.model)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What each of two ranks told. They found checkpoints of one process, of which the newest is damaged."""
    folder = tmp_path_factory.mktemp("shards")
    train(1, fresh(), folder=folder / "alone", every=4)
    flip(step_folder(folder / "alone", STEPS) / TENSORS)
    on_ranks(2, recorded, folder)
    return folder, [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


def assert_close(found, expected, rtol):
    for column in COLUMNS:
        np.testing.assert_allclose(found[column], expected[column], rtol=rtol, err_msg=column)


def test_each_rank_holds_its_part_and_the_model_stays_whole_in_the_host_s_memory(told):
    total = sum(p.numel() for p in fresh().model.parameters())
    parts = [told[1][rank]["holdings"] for rank in (0, 1)]
    assert sum(part["held"] for part in parts) == total
    assert max(part["held"] for part in parts) < 0.51 * total
    assert all(part["untouched"] and part["blocks"] == 2 for part in parts)


def test_the_frozen_language_model_is_in_evaluation_mode_on_every_rank(told):
    assert [rank["modes"] for rank in told[1]] == [[[True, False]]] * 2


def test_in_bfloat16_two_ranks_are_as_near_to_one_as_bfloat16_allows(told):
    exact, (low, other) = alone(1)[0], (ranks["bf16"] for ranks in told[1])
    assert low == other and not np.array_equal(low["loss"], exact["loss"])
    assert_close(low, exact, rtol=2e-2)


def test_pieces_of_any_number_and_blocks_computed_twice_change_rounding_only(told):
    folder, ranks = told
    history, weights = alone(1)
    found = load_file(folder / "0.safetensors")
    for rank in ranks:
        assert_close(rank["in pieces"], history, rtol=1e-5)
    for name, value in weights.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=0)


def test_two_ranks_that_were_stopped_end_in_the_bytes_of_the_unbroken_two(told):
    assert all(rank["wrong"] == {"1": [], "2": []} for rank in told[1])


def test_a_checkpoint_of_sharing_ranks_is_in_the_two_plain_formats(told):
    found = step_folder(told[0] / "unbroken-1-0", STEPS)
    assert sorted(file.name for file in found.iterdir()) == [STATE, TENSORS]
    shapes = {name: p.shape for name, p in fresh().model.named_parameters()}
    kept = load_file(found / TENSORS)
    named = {name.removeprefix("model/"): value.shape for name, value in kept.items() if name.startswith("model/")}
    assert named and all(shapes[name] == shape for name, shape in named.items())


@pytest.mark.parametrize("stage", [1, 2])
def test_one_process_goes_on_from_a_checkpoint_of_two(told, stage, tmp_path, capsys):
    kept = step_folder(told[0] / f"unbroken-{stage}-0", POINT[stage])
    shutil.copytree(kept, tmp_path / kept.parent.name / kept.name)
    vlm = fresh()
    found = train(stage, vlm, folder=tmp_path, every=STEPS)
    history, weights = alone(stage)
    assert f"goes on after step {POINT[stage]} of {STEPS}" in capsys.readouterr().err
    assert_close(found, history, rtol=1e-5)
    for name, value in weights_of(vlm.model).items():
        torch.testing.assert_close(value, weights[name], atol=1e-5, rtol=0)


def test_two_ranks_go_on_from_a_checkpoint_of_one_and_fall_back_from_a_damaged_one(told):
    history, _ = alone(1)
    for rank in told[1]:
        assert rank["fallen back"]["loss"][:8] == history["loss"].tolist()[:8], "steps that one process took"
        assert rank["fallen back"]["loss"][8:] != history["loss"].tolist()[8:], "steps that two took"
        assert_close(rank["fallen back"], history, rtol=1e-5)


def a_batch(vlm):
    rows = captioned(3)
    data = TextImages(rows["infrared"].tolist(), ASKED[:3], rows["caption"].tolist(), [1.0] * 3, vlm)
    batch = Collator(vlm)([data[i] for i in range(3)])
    del batch["sample_weight"]
    return batch


def stage1_pass(vlm):
    """Losses, gradients, and bytes that are kept for the backward pass, with the language model in evaluation mode."""
    sizes = {}

    def packed(tensor):
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    for name, parameter in vlm.model.named_parameters():
        parameter.requires_grad_(name.startswith((PARTS["vision"], PARTS["projector"])))
    module = SampleLosses(vlm, 0.0).train()
    vlm.model.model.language_model.eval()
    own = {p.untyped_storage().data_ptr() for p in vlm.model.parameters()}
    batch = a_batch(vlm)
    with torch.autograd.graph.saved_tensors_hooks(packed, lambda tensor: tensor):
        losses = module(batch, batch.pop("labels"))
    losses.sum().backward()
    gradients = {name: p.grad for name, p in vlm.model.named_parameters() if p.grad is not None}
    return losses.detach(), gradients, sum(size for place, size in sizes.items() if place not in own)


def test_blocks_computed_twice_give_the_same_gradients_and_keep_less():
    plain, twice = fresh(), fresh()
    losses, gradients, kept = stage1_pass(plain)
    with sharding.checkpointed(twice.model):
        again, repeated, fewer = stage1_pass(twice)
    assert torch.equal(losses, again)
    assert gradients.keys() == repeated.keys() and all(torch.equal(gradients[n], repeated[n]) for n in gradients)
    assert fewer < 0.5 * kept, (fewer, kept)


def test_the_blocks_of_the_frozen_language_model_are_among_them_which_transformers_leaves_out():
    switched, ours = fresh(), fresh()
    switched.model.activation_checkpointing_enable()
    _, _, theirs = stage1_pass(switched)
    with sharding.checkpointed(ours.model):
        _, _, fewer = stage1_pass(ours)
    with sharding.checkpointed(switched.model.model.language_model):
        _, _, both = stage1_pass(switched)
    assert fewer < theirs, "transformers keeps what a layer in evaluation mode makes"
    assert both <= fewer


@pytest.mark.parametrize("stage", [1, 2])
def test_a_stage_of_blocks_computed_twice_ends_in_the_same_bits(stage):
    vlm = fresh()
    history = train(stage, vlm, activation_checkpointing=True)
    expected, weights = alone(stage)
    pd.testing.assert_frame_equal(history, expected, check_exact=True)
    assert not changed(vlm.model, weights)
    assert not any("forward" in vars(module) for module in vlm.model.modules()), "the model is as it was"


def test_a_model_without_transformer_blocks_is_refused():
    with pytest.raises(ValueError, match="Linear holds no transformer block"), sharding.checkpointed(nn.Linear(1, 1)):
        pass
