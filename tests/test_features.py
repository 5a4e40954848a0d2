"""The frozen tower's outputs computed once for each image."""

import pandas as pd
import pytest
import torch
from miniature import captioned, changed, fresh, weights_of
from resume_matrix import ANSWERS, ASKED, config, files_of

from irgpt_lib import params
from irgpt_lib.curriculum import schedule
from irgpt_lib.training import stages, trainer
from irgpt_lib.training.features import RememberedTower, distinct, tower_outputs, worth_remembering
from irgpt_lib.training.trainer import Saving

IMAGES = [captioned(3)["infrared"].tolist()[i] for i in (0, 1, 0, 2, 1, 0, 2)]


def tuned(vlm, **options):
    return stages.stage2(vlm, IMAGES, ASKED[:7], ANSWERS[:7], config(), seed=0, **options)


def counted(monkeypatch):
    """How many images each pass through a real tower takes."""
    passed = []
    whole = trainer.tower_outputs
    monkeypatch.setattr(trainer, "tower_outputs", lambda vlm, images: passed.append(len(images)) or whole(vlm, images))
    return passed


def test_images_are_numbered_as_they_first_come():
    found = distinct([b"x", b"y", b"x", b"z"])
    assert found.images == [b"x", b"y", b"z"] and found.shown == [0, 1, 0, 2]


def test_remembered_outputs_are_the_tower_s_in_the_items_order():
    vlm = fresh()
    tower = RememberedTower(tower_outputs(vlm, IMAGES[:2]))
    tower.now = torch.tensor([1, 0, 1])
    found = tower(torch.zeros(3, 3, 1, 1)).last_hidden_state
    torch.testing.assert_close(found[1:2], tower_outputs(vlm, IMAGES[:1]), atol=1e-5, rtol=0)
    assert torch.equal(found[0], found[2]) and not torch.equal(found[0], found[1])


def test_stage_2_ends_alike_with_every_image_computed_once(monkeypatch):
    passed = counted(monkeypatch)
    plain, remembering = fresh(), fresh()
    tower = remembering.model.model.vision_tower
    _, slow = tuned(plain)
    assert not passed
    _, fast = tuned(remembering, features_mb=16)
    assert passed == [3]
    assert fast["loss"].tolist() == pytest.approx(slow["loss"].tolist(), rel=1e-5)
    for name, value in weights_of(plain.model).items():
        torch.testing.assert_close(dict(remembering.model.named_parameters())[name].detach(), value, atol=1e-5, rtol=0)
    assert remembering.model.model.vision_tower is tower


def test_an_augmented_image_is_never_remembered(monkeypatch):
    passed = counted(monkeypatch)
    tuned(fresh(), features_mb=16, augment="tone")
    assert not passed


def test_a_tower_that_learns_is_never_remembered(monkeypatch):
    passed = counted(monkeypatch)
    vlm = fresh()
    rows = captioned(3)
    scores = {"rank": range(3), "alpha": 0.1, "sample_id": rows["sample_id"].to_numpy()}
    one = config().stage1.model_copy(update={"epochs": 2, "tiers": 1})
    order = schedule.from_params(pd.DataFrame(scores), one, params.load("difficulty").difficulty, seed=0)
    stages.stage1(vlm, rows, order, config(), seed=0)
    assert not passed


def test_what_is_shown_once_or_too_large_is_not_remembered():
    vlm = fresh()
    assert not worth_remembering(vlm, IMAGES, 7, 16), "it learns"
    vlm.model.model.vision_tower.requires_grad_(False)
    assert worth_remembering(vlm, IMAGES, 7, 16)
    assert not worth_remembering(vlm, IMAGES[:2], 2, 16), "each is met once"
    assert not worth_remembering(vlm, IMAGES, 7, 0)
    # 17 patches of width 32 in float32 are 2,176 bytes
    many = [bytes([a, b]) for a in range(2) for b in range(230)]
    assert worth_remembering(vlm, many[:459], 999, 1) and not worth_remembering(vlm, many, 999, 1)


def test_a_resumed_run_remembers_the_same_bits(tmp_path):
    whole, again = fresh(), fresh()
    tuned(whole, features_mb=16, saving=Saving(tmp_path, 1))
    expected = files_of(tmp_path, 3)
    for file in sorted(tmp_path.glob("*/step-00000003/*")):
        file.write_bytes(b"")
    tuned(again, features_mb=16, saving=Saving(tmp_path, 1))
    assert files_of(tmp_path, 3) == expected
    assert not changed(again.model, weights_of(whole.model))
