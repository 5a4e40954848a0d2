from dataclasses import replace

import numpy as np
import pytest
import torch
from miniature import fresh, scenes

from irgpt_lib.irtd.record import Box, Sample
from irgpt_lib.irtd.simulated.sprites import ATTRIBUTES, CATEGORIES
from irgpt_lib.irtd.simulated.world import SCENES
from irgpt_lib.training import oracle

GRID = 4  # patches of 16 px in images of 64 px
CAR, DOG = 1 + CATEGORIES.index("car"), 1 + CATEGORIES.index("dog")


def sample(kind, boxes=(), **truth):
    return Sample("s", "simulated", "nir", kind, 64, 64, b"", boxes=tuple(boxes), **truth)


def targets(one):
    return oracle.dense_targets([one], GRID)


def montage():
    cells = []
    for cell in range(8):
        x, y = 16 * (cell % 4), 32 * (cell // 4)
        worn = "1-2-" + "-".join(ATTRIBUTES[:2]) if cell in (0, 2) else "0-3"
        cells.append(Box("person", x + 2, y + 2, x + 14, y + 30, worn))
    return sample("montage", cells, montage_answer=3)


def test_shuffling_up_inverts_shuffling_down():
    patches = torch.arange(2 * 4 * 4 * 3.0).view(2, 4, 4, 3)
    assert torch.equal(oracle.shuffle_up(oracle.shuffle_down(patches), 4), patches)


def test_a_token_joins_a_block_of_two_by_two_patches_row_by_row():
    patches = torch.arange(16.0).view(1, 4, 4, 1)
    assert oracle.shuffle_down(patches)[0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


def test_tokens_hold_the_same_patches_as_the_pixel_shuffle_of_the_projector():
    patches = torch.arange(16.0).view(1, 4, 4, 1)
    shuffled = fresh().model.model.pixel_shuffle(patches, scale_factor=0.5).reshape(4, 4)
    assert torch.equal(shuffled.sort(dim=1).values, oracle.shuffle_down(patches)[0])


def test_an_object_is_named_on_the_patches_whose_centres_it_covers():
    dense = targets(sample("scene", [Box("car", 16, 16, 48, 48)], scene="forest"))
    assert dense.category[0].tolist() == [[0, 0, 0, 0], [0, CAR, CAR, 0], [0, CAR, CAR, 0], [0, 0, 0, 0]]
    assert dense.box[0, 1, 2].tolist() == [0.25, 0.25, 0.75, 0.75]
    assert (dense.box[0, 0] == 0).all()
    assert dense.scene.tolist() == [SCENES.index("forest")] and dense.kind.tolist() == [0]
    assert (dense.leftmost == -1).all(), "one object alone is not ranked"
    assert dense.answer.tolist() == [oracle.UNKNOWN]


def test_an_object_smaller_than_a_patch_still_has_one():
    dense = targets(sample("scene", [Box("dog", 18, 50, 22, 54)], scene="field"))
    assert (dense.category[0] == DOG).nonzero().tolist() == [[3, 1]]


def test_the_first_of_two_objects_is_the_leftmost():
    boxes = [Box("car", 0, 0, 16, 16), Box("dog", 48, 48, 64, 64)]
    dense = targets(sample("scene", boxes, scene="street"))
    assert dense.leftmost[0, 0, 0] == 1 and dense.leftmost[0, 3, 3] == 0
    assert (dense.leftmost[0] >= 0).sum() == 2


def test_objects_are_counted_in_the_patch_of_their_centre():
    boxes = [Box("car", 0, 0, 4, 4), Box("car", 8, 8, 12, 12), Box("car", 60, 60, 64, 64)]
    dense = targets(sample("aerial", boxes, counted="car"))
    expected = np.zeros((4, 4))
    expected[0, 0], expected[3, 3] = 2, 1
    assert dense.count[0].tolist() == expected.tolist()
    assert (dense.category == oracle.UNKNOWN).all() and dense.scene.item() == oracle.UNKNOWN


def test_a_montage_marks_the_cell_of_the_same_person():
    dense = targets(montage())
    # Two rows of patches and one column a cell. Cell 3, counted from 1, is the third of the upper row.
    assert dense.answer.tolist() == [2]
    assert dense.same[0].tolist() == [[-1, 0, 1, 0], [-1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert dense.attributes[0, 0, 0].tolist() == [1.0, 1.0] + [0.0] * (len(ATTRIBUTES) - 2)
    assert dense.attributes[0, 3, 3].tolist() == [0.0] * len(ATTRIBUTES)


def test_a_category_from_outside_the_world_is_refused():
    with pytest.raises(ValueError):
        targets(sample("scene", [Box("zebra", 0, 0, 16, 16)], scene="street"))


def test_cell_votes_are_the_means_of_the_cells_2_to_8():
    cells = torch.tensor([[0.0, 1, 2, 3], [0, 1, 2, 3], [4, 5, 6, 7], [4, 5, 6, 9]])
    assert oracle.cell_votes(cells[None]).tolist() == [[1, 2, 3, 4, 5, 6, 8]]


def test_oracle_tokens_tell_the_truth_of_four_patches_and_of_the_whole():
    one = targets(sample("scene", [Box("car", 16, 16, 48, 48)], scene="forest"))
    tokens = oracle.oracle_tokens(one)
    assert tokens.shape == (1, 4, oracle.ORACLE_WIDTH)
    whole = tokens[0, :, 4 * oracle.PATCH_ORACLE :]
    expected = [0.0] * (len(SCENES) + len(oracle.KINDS))
    expected[SCENES.index("forest")] = expected[len(SCENES)] = 1
    assert whole.tolist() == [expected] * 4
    # The first token holds patches (0, 0), (0, 1), (1, 0) and (1, 1), of which the last shows the car.
    patches = tokens[0, 0, : 4 * oracle.PATCH_ORACLE].view(4, oracle.PATCH_ORACLE)
    assert patches[:, : oracle.CLASSES].argmax(1).tolist() == [0, 0, 0, CAR]
    assert patches[3, oracle.CLASSES : oracle.CLASSES + 4].tolist() == [-0.5, -0.5, 0.5, 0.5]
    assert (patches[:3, oracle.CLASSES :] == 0).all()


def test_different_scenes_have_different_tokens():
    samples, _ = scenes()
    tokens = oracle.oracle_tokens(oracle.dense_targets(samples, 8)).flatten(1)
    assert len(tokens.unique(dim=0)) == len(samples)


@pytest.mark.parametrize("kind", oracle.KINDS)
def test_a_batch_of_one_kind_has_a_finite_loss_and_gradient(kind):
    samples = [s for s in scenes()[0] if s.kind == kind][:4]
    assert samples
    torch.manual_seed(0)
    head, patches = oracle.DenseHead(32), torch.randn(len(samples), GRID, GRID, 32, requires_grad=True)
    loss = head.loss(patches, oracle.dense_targets(samples, GRID))
    loss.backward()
    assert loss.item() > 0
    assert patches.grad.isfinite().all() and patches.grad.abs().sum() > 0


def test_a_truth_that_is_unknown_costs_nothing():
    torch.manual_seed(0)
    head, patches = oracle.DenseHead(32), torch.randn(1, GRID, GRID, 32)
    known = targets(montage())
    unknown = replace(
        known,
        same=torch.full_like(known.same, -1),
        attributes=torch.full_like(known.attributes, -1),
        answer=torch.full_like(known.answer, oracle.UNKNOWN),
    )
    assert head.loss(patches, known).item() > 0
    assert head.loss(patches, unknown).item() == 0


def test_a_perfect_count_costs_nothing_and_a_miss_of_one_patch_by_two_costs_one():
    class Exact(oracle.DenseHead):
        def forward(self, patches):
            return patches[..., : oracle.PATCH_OUTPUTS], torch.zeros(len(patches), 4, len(SCENES))

    dense = targets(sample("aerial", [Box("car", 0, 0, 4, 4)], counted="car"))
    out = torch.zeros(1, GRID, GRID, oracle.PATCH_OUTPUTS)
    out[..., oracle.CLASSES + 5] = dense.count
    assert Exact(8).loss(out, dense).item() == 0
    out[0, 3, 3, oracle.CLASSES + 5] = 2
    # Four times the mean over 16 patches of the squared error 4.
    assert Exact(8).loss(out, dense).item() == pytest.approx(1)
