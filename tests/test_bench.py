"""The bench compares like with like: both sides of a row do the same work, in turn."""

import pandas as pd
import pytest
import torch

from irgpt_lib import params
from irgpt_lib.report.tables import ABSENT
from irgpt_lib.training import stages
from tests.bench import __main__ as bench
from tests.bench import generation, model, training
from tests.bench.measuring import Row, Timing, interleaved
from tests.miniature import talkative

STEPS = 4


@pytest.fixture(scope="module")
def without_a_study(tmp_path_factory):
    """Nothing made yet: an untrained miniature on simulated scenes."""
    caches = (model.starting, training.config, training.ranked_by, training.material)
    for cache in caches:
        cache.cache_clear()
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("IRGPT_ARTIFACTS", str(tmp_path_factory.mktemp("artifacts")))
        patched.setenv("IRGPT_PROFILE", "smoke")
        yield
    for cache in caches:
        cache.cache_clear()


def test_a_row_without_a_peer_has_no_ratio():
    alone = Row("drawing", 3, "scenes", "", [Timing(2.0, 3.0)])
    assert (alone.ratios(), alone.record()["theirs"], bench.ratio(alone)) == ([], None, ABSENT)
    both = Row("drawing", 3, "scenes", "a peer", [Timing(2.0, 9.0), Timing(4.0, 9.0)], [Timing(3.0, 1.0)] * 2)
    assert both.ratios() == [1.5, 0.75]
    assert bench.ratio(both) == "1.12 (0.75-1.50)"


def test_repeats_alternate_after_one_that_is_not_measured():
    called = []
    mine, theirs = interleaved(lambda: called.append("ours"), lambda: called.append("theirs"), 2)
    assert called == ["ours", "theirs"] * 3
    assert len(mine) == len(theirs) == 2


def test_before_the_study_is_made_its_shape_is_measured_untrained(without_a_study):
    vlm, name = model.starting()
    assert name == "an untrained miniature"
    assert vlm.image_px == params.load("base").base.shape.image_px
    assert training.material(STEPS).origin == "simulated scenes, an untrained miniature"


def rates(groups):
    """Names, with the shape for good measure, to learning rate."""
    return {(name, shape): lr for names, lr in groups for name, shape in names}


@pytest.mark.parametrize("stage", [1, 2])
def test_the_plain_trainer_learns_the_same_parameters_from_the_same_samples(without_a_study, monkeypatch, stage):
    ours, theirs = {}, {}

    def fit(vlm, data, batches, groups, recipe, **_):
        shapes = {name: p.shape for name, p in vlm.model.named_parameters()}
        ours["rates"] = rates(([(name, shapes[name]) for name in names], lr) for names, lr in groups)
        met = [index for batch in batches for index in batch]
        ours["seen"] = sorted((data.images[i], data.questions[i], data.answers[i]) for i in met)
        ours["largest"] = max(map(len, batches))
        return pd.DataFrame(columns=stages.COLUMNS)

    def plainly(vlm, trained, groups, images, questions, answers, stage, scheduler, epochs):
        names = {id(p): name for name, p in vlm.model.named_parameters()}
        theirs["rates"] = rates(([(names[id(p)], p.shape) for p in g["params"]], g["lr"]) for g in groups)
        theirs["seen"] = sorted(zip(images, questions, answers, strict=True))
        theirs["largest"] = stage.batch_size
        assert {id(p) for p in trained.parameters() if p.requires_grad} == {id(p) for g in groups for p in g["params"]}

    monkeypatch.setattr(stages, "fit", fit)
    monkeypatch.setattr(training, "_plainly", plainly)
    if stage == 1:
        training.our_stage1(STEPS)
        training.plain_stage1(STEPS)
    else:
        training.our_stage2(STEPS, features_mb=256, epochs=1)
        training.plain_stage2(STEPS, epochs=1)
    assert ours == theirs
    assert len(ours["seen"]) > theirs["largest"]


def test_steps_that_do_not_fill_the_tiers_are_refused(without_a_study):
    with pytest.raises(ValueError, match="5 steps over 4 tiers: take a multiple"):
        training.material(5)


def test_tokens_are_those_of_the_padded_batches(without_a_study):
    vlm, samples = model.starting()[0], training.material(STEPS).samples.head(2)
    lengths = [len(vlm.prompt_ids(training.CAPTION_PROMPT, 16)) + len(vlm.text_ids(c)) + 1 for c in samples["caption"]]
    assert lengths[0] != lengths[1]
    order = pd.DataFrame({"batch": [0, 1], "sample_id": samples.index})
    assert training.tokens(order, samples) == sum(lengths)
    assert training.tokens(order.assign(batch=0), samples) == 2 * max(lengths)


def test_both_sides_of_generation_write_the_same_answers(tmp_path):
    asked = generation.asked_of(18)
    alone = generation.plain(talkative(), asked, 1)
    assert len(set(alone)) > len(alone) // 2
    assert generation.plain(talkative(), asked, 7) == alone
    assert generation.ours(talkative(), asked, 7, str(tmp_path)) == alone
    assert torch.is_grad_enabled()
