import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch.nn.functional import cross_entropy, normalize

from irgpt_lib.curriculum.alignment import clip_losses, codes, loss_change, negative_bank

LN2 = math.log(2)


def score(image, text, *, bank=None, caption_id=None, group_id=None, logit_scale=LN2, memory_mb=64):
    n = len(image)
    return clip_losses(
        image,
        text,
        logit_scale=logit_scale,
        bank=torch.arange(n) if bank is None else torch.tensor(bank),
        caption_id=torch.arange(n) if caption_id is None else torch.tensor(caption_id),
        group_id=torch.full((n,), -1) if group_id is None else torch.tensor(group_id),
        memory_mb=memory_mb,
    )


def test_two_orthogonal_negatives_at_scale_ln2_cost_ln2():
    # e^(ln 2) = 2 for the own pair, e^0 = 1 for each of two negatives: -log(2 / 4)
    torch.testing.assert_close(score(torch.eye(3), torch.eye(3)), torch.full((3,), LN2))


def test_length_of_an_embedding_does_not_matter():
    torch.testing.assert_close(score(5 * torch.eye(3), 0.1 * torch.eye(3)), torch.full((3,), LN2))


def test_swapped_captions_cost_more_than_their_own():
    swapped = torch.eye(3)[[1, 0, 2]]
    losses = score(torch.eye(3), swapped)
    # sample 0: own pair 1, negatives 2 and 1 in both directions: -log(1 / 4)
    torch.testing.assert_close(losses, torch.tensor([2 * LN2, 2 * LN2, LN2]))


def test_own_duplicate_caption_and_same_group_are_no_negatives():
    own, one_negative = torch.eye(3), math.log(3 / 2)
    torch.testing.assert_close(score(own, own, caption_id=[7, 7, 8]), torch.tensor([one_negative, one_negative, LN2]))
    torch.testing.assert_close(score(own, own, group_id=[4, 5, 4]), torch.tensor([one_negative, LN2, one_negative]))


def test_samples_in_no_group_are_negatives_of_each_other():
    torch.testing.assert_close(score(torch.eye(3), torch.eye(3), group_id=[-1, -1, -1]), torch.full((3,), LN2))


def test_only_the_bank_supplies_negatives():
    losses = score(torch.eye(4), torch.eye(4), bank=[0, 1])
    torch.testing.assert_close(losses, torch.tensor([math.log(3 / 2)] * 2 + [LN2] * 2))


@given(st.integers(2, 12), st.integers(1, 8), st.integers(0, 1000), st.sampled_from([1e-4, 4e-4, 64.0]))
@settings(max_examples=30, deadline=None, database=None)
def test_with_the_whole_set_as_bank_it_is_clips_symmetric_cross_entropy(n, d, seed, memory_mb):
    image, text = torch.randn(2, n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    logits = 10 * normalize(image, dim=1) @ normalize(text, dim=1).T
    index = torch.arange(n)
    expected = (cross_entropy(logits, index, reduction="none") + cross_entropy(logits.T, index, reduction="none")) / 2
    torch.testing.assert_close(score(image, text, logit_scale=10, memory_mb=memory_mb), expected)


def test_a_nearly_perfect_pair_keeps_a_positive_loss():
    losses = score(torch.eye(2), torch.eye(2), logit_scale=50)
    torch.testing.assert_close(losses, torch.full((2,), math.exp(-50)), rtol=1e-4, atol=0)


def test_a_sample_without_negatives_is_refused_by_number():
    with pytest.raises(ValueError, match=r"sample 0 \(and 1 more .*larger bank"):
        score(torch.eye(3), torch.eye(3), bank=[1], caption_id=[3, 3, 4])


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf])
def test_an_embedding_without_direction_is_refused_by_row(bad):
    broken = torch.eye(3)
    broken[1] *= bad
    with pytest.raises(ValueError, match="1 of 3 text embeddings .* first is row 1"):
        score(torch.eye(3), broken)


@pytest.mark.parametrize("bank", [[], [3], [-1]])
def test_a_bank_outside_the_samples_is_refused(bank):
    with pytest.raises(ValueError, match="indices from 0 to 2"):
        clip_losses(
            torch.eye(3),
            torch.eye(3),
            logit_scale=1.0,
            bank=torch.tensor(bank, dtype=torch.int64),
            caption_id=torch.arange(3),
            group_id=torch.arange(3),
        )


def test_blocks_change_a_masked_loss_only_by_rounding():
    generator = torch.Generator().manual_seed(0)
    image, text = torch.randn(2, 23, 5, dtype=torch.float64, generator=generator)
    ids = {
        "caption_id": [i % 9 for i in range(23)],
        "group_id": [i // 4 for i in range(23)],
        "bank": list(range(0, 23, 2)),
    }
    whole = score(image, text, logit_scale=20, **ids)
    for side in (1, 2, 5):  # float64 numbers of four buffers
        torch.testing.assert_close(score(image, text, logit_scale=20, memory_mb=side**2 * 32 / 2**20, **ids), whole)


def test_a_block_needs_memory():
    with pytest.raises(ValueError, match="memory_mb must be positive"):
        score(torch.eye(2), torch.eye(2), memory_mb=0)


@pytest.mark.parametrize("logit_scale", [0, -1.0, math.inf])
def test_logit_scale_must_be_positive(logit_scale):
    with pytest.raises(ValueError, match="logit_scale must be positive"):
        score(torch.eye(3), torch.eye(3), logit_scale=logit_scale)


def test_bank_is_distinct_ascending_and_repeated_by_its_seed():
    bank = negative_bank(100, 30, seed=1)
    assert len(bank) == 30 and (bank.diff() > 0).all() and bank.min() >= 0 and bank.max() < 100
    assert torch.equal(bank, negative_bank(100, 30, seed=1))
    assert not torch.equal(bank, negative_bank(100, 30, seed=2))
    assert negative_bank(4, 4, seed=0).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("size", [0, 5])
def test_a_bank_cannot_exceed_the_samples(size):
    with pytest.raises(ValueError, match="choose 1 to 4"):
        negative_bank(4, size, seed=0)


def test_change_is_relative_to_the_loss_before():
    alpha, clamped = loss_change(torch.tensor([2.0, 2.0, 4.0]), torch.tensor([1.0, 3.0, 4.0]))
    assert alpha.tolist() == [-0.5, 0.5, 0.0] and clamped == 0


def test_a_loss_of_zero_is_lifted_to_the_floor_and_counted():
    alpha, clamped = loss_change(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 1.0]), floor=0.25)
    assert alpha.tolist() == [1.0, 0.0] and clamped == 1


def test_a_perfect_pair_that_stays_perfect_has_not_changed():
    alpha, lifted = loss_change(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 0.0]))
    assert alpha.tolist() == [0.0, -1.0] and lifted == 1


def test_losses_of_other_samples_are_refused():
    with pytest.raises((ValueError, TypeCheckError), match="2 losses before warm-up, but 1 after|Type-check"):
        loss_change(torch.ones(2), torch.ones(1))


def test_equal_texts_share_a_code_and_an_empty_one_has_none():
    assert codes(["b", "a", "", "b"]).tolist() == [1, 0, -1, 1]
    assert codes(["", ""]).tolist() == [-1, -1]
    assert codes(["a", "a"]).tolist() == [0, 0]
    assert codes([]).tolist() == []


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
def test_a_loss_that_is_none_is_refused_by_name(bad):
    with pytest.raises(ValueError, match="1 losses after warm-up .* first is sample 1"):
        loss_change(torch.tensor([1.0, 1.0]), torch.tensor([1.0, bad]))


def test_floor_must_be_positive():
    with pytest.raises(ValueError, match="floor must be positive"):
        loss_change(torch.tensor([1.0]), torch.tensor([1.0]), floor=0.0)
