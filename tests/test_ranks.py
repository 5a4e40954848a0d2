"""Two processes train what one trains, whether each holds the whole model or its part."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from miniature import fresh, weights_of
from resume_matrix import CAPTIONS, on_ranks, order, train
from safetensors.torch import load_file, save_file

from irgpt_lib.training import distributed, trainer
from irgpt_lib.training.distributed import share_of


def recorded(folder, parallel):
    """Both stages; each rank leaves its histories and the items that it asked for, rank 0 the weights."""
    asked = []
    whole = trainer.TextImages.__getitem__
    trainer.TextImages.__getitem__ = lambda data, index: asked.append(index) or whole(data, index)
    vlm, told = fresh(), {}
    for stage in (1, 2):
        told[f"stage {stage}"] = train(stage, vlm, parallel=parallel).to_dict("list")
        told[f"asked {stage}"], asked[:] = list(asked), []
    rank = distributed.ranks().rank
    (folder / f"{rank}.json").write_text(json.dumps(told))
    save_file(weights_of(vlm.model), folder / f"{rank}.safetensors")


@pytest.fixture(scope="module", params=["replicate", "shard"])
def told(request, tmp_path_factory):
    """What each of two ranks told, and its weights; each held the whole model, or its part."""
    folder = tmp_path_factory.mktemp("ranks")
    on_ranks(2, recorded, folder, request.param)
    return [(json.loads((folder / f"{r}.json").read_text()), load_file(folder / f"{r}.safetensors")) for r in (0, 1)]


def test_two_ranks_have_the_losses_and_weights_of_one(told):
    vlm = fresh()
    for stage in (1, 2):
        alone = train(stage, vlm)
        for history, _ in told:
            for column in ("loss", "weighted_loss", "gradient_norm"):
                np.testing.assert_allclose(history[f"stage {stage}"][column], alone[column], rtol=1e-5, err_msg=column)
            assert history[f"stage {stage}"]["tier"] == alone["tier"].tolist()
    for name, value in weights_of(vlm.model).items():
        torch.testing.assert_close(told[0][1][name], value, atol=1e-5, rtol=0)


def test_both_ranks_hold_the_same(told):
    (first, weights), (second, others) = told
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert first["stage 1"] == second["stage 1"] and first["stage 2"] == second["stage 2"]


def test_each_sample_is_seen_once_and_no_step_mixes_tiers(told):
    table = order()
    batches = [members["position"].tolist() for _, members in table.groupby("batch")]
    # the rank without a member passes the batch's only one, at weight 0
    spare = [batch[0] for batch in batches if len(batch) == 1]
    assert len(spare) == 4
    asked = Counter(told[0][0]["asked 1"]) + Counter(told[1][0]["asked 1"])
    assert asked - Counter(spare) == Counter(range(CAPTIONS))
    for rank, (history, _) in enumerate(told):
        met = iter(history["asked 1"])
        for batch in batches:
            mine = [next(met) for _ in batch[rank::2] or [0]]
            assert set(mine) <= set(batch)
            assert table["tier"].iloc[batch].nunique() == 1
        assert next(met, None) is None


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 9))
def test_the_shares_of_a_batch_are_the_batch(size, count, micro):
    members = list(range(size))
    shares = [share_of(members, rank, count, micro) for rank in range(count)]
    assert sorted(m for share in shares for part in share for m in part) == members
    assert len({len(share) for share in shares}) == 1, "ranks that wait for one another take as many steps"
    assert all(len(part) <= (micro or size) for share in shares for part in share)
    assert sum(len(part) > 0 for part in shares[0]) == len(shares[0])


def test_an_empty_batch_is_refused():
    with pytest.raises(ValueError, match="without members"):
        share_of([], 0, 1, 0)
