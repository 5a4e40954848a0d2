"""From samples to captions: each by its path, with the reason; what a describer fails at goes to the rules."""

from collections.abc import Iterable, Iterator

import numpy as np
import pytest
from test_assemble import CONFIG

from irgpt_lib import params
from irgpt_lib.irtd import captioning
from irgpt_lib.irtd.captioning import Captions, captioned, describe_all, describer_of
from irgpt_lib.irtd.captions import with_rule_caption
from irgpt_lib.irtd.describing.describer import Failure, Reply, Request
from irgpt_lib.irtd.record import Box, Sample, png_bytes

NOISE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def sample(name: str, **changes: object) -> Sample:
    values = {"visible": png_bytes(NOISE), "source": "s", "kind": "scene"} | changes
    boxes = (Box("car", 1.0, 2.0, 11.0, 22.0),)
    bare = Sample(name, band="tir", width=64, height=48, infrared=png_bytes(NOISE[..., 0]), boxes=boxes, **values)
    return with_rule_caption(bare)


class Scripted:
    """A describer that answers by name, and remembers what it was asked."""

    def __init__(self, **texts: str) -> None:
        self.texts = texts
        self.asked: list[Request] = []

    def describe(self, requests: Iterable[Request]) -> Iterator[Reply | Failure]:
        for request in requests:
            self.asked.append(request)
            kind = "draft" if request.image else "rewrite"
            text = self.texts.get(f"{request.name}_{kind}")
            if text is None:
                yield Failure(request.name, "k" * 64, "HTTP 400", "too large")
            else:
                yield Reply(request.name, "k" * 64, text, "vlm")


def config(adapt: str = "rules", kind: str = "none") -> params.Dataset:
    describer = CONFIG.describer.model_copy(update={"adapt": adapt})
    enhancement = params.Enhancement(kind=kind, weights="")
    return CONFIG.model_copy(update={"describer": describer, "enhancement": enhancement})


def all_captions(samples: list[Sample], describer: Scripted | None, **changes: str) -> list[Sample]:
    captions = describe_all(lambda: samples, {}, config(**changes), describer)
    return list(captioned(samples, captions, {}, describer=describer is not None))


def test_a_pair_is_described_and_its_draft_adapted_to_infrared():
    (done,) = all_captions([sample("a")], Scripted(a_draft="A red car stands by a tree."))
    assert done.caption == "A car stands by a tree." and done.caption_draft == "A red car stands by a tree."
    assert (done.caption_path, done.caption_state, done.facts["route"]) == ("IV", "final", "IV")
    assert done.caption_by == "vlm@kkkkkkkkkkkk + rules"


def test_a_model_may_adapt_and_is_held_to_the_rules():
    texts = {
        "a_draft": "A red car.",
        "a_rewrite": "A car on a road.",
        "b_draft": "A blue van.",
        "b_rewrite": "A blue van.",
    }
    first, second = all_captions([sample("a"), sample("b")], Scripted(**texts), adapt="model")
    assert (first.caption, first.caption_by) == ("A car on a road.", "vlm@kkkkkkkkkkkk + vlm@kkkkkkkkkkkk")
    assert second.caption == "A van." and second.facts["adaptation_fallback"] == "visible-only words"


@pytest.mark.parametrize(
    "texts, reason",
    [
        ({}, "describer failed"),
        ({"a_draft": "I'm sorry, I cannot help."}, "describer failed"),
        ({"a_draft": "The sky is blue."}, "nothing of the draft holds for infrared"),
    ],
)
def test_what_gets_no_usable_text_goes_to_the_rules_and_says_why(texts, reason):
    (done,) = all_captions([sample("a")], Scripted(**texts))
    assert (done.caption, done.caption_path) == ("The image contains 1 car.", "V")
    assert done.facts["route_reason"] == reason


def test_without_a_describer_every_caption_is_by_rules_and_nobody_is_asked():
    (done,) = all_captions([sample("a")], None)
    assert (done.caption_path, done.facts["route_reason"]) == ("V", "no describer configured")


def test_only_pairs_are_asked_about_and_simulated_captions_stay():
    scripted = Scripted(a_draft="A car.")
    simulated = sample("sim", authentic=False)
    done = all_captions([sample("a"), sample("b", visible=b""), simulated], scripted)
    assert [request.name for request in scripted.asked] == ["a"]
    assert done[2] == simulated and done[1].facts["route_reason"] == "no visible pair"


def test_a_night_image_is_enhanced_for_the_describer_only():
    dark = png_bytes((NOISE // 3).astype(np.uint8))
    scripted = Scripted(a_draft="A car.")
    night = sample("a", visible=dark, facts={"time": "night"})
    (done,) = all_captions([night], scripted, kind="clahe")
    assert scripted.asked[0].image != dark and done.visible == dark
    assert done.facts["visible_enhanced"] == "clahe"


def test_the_section_chooses_the_describer(tmp_path):
    assert describer_of(CONFIG.describer, tmp_path) is None
    server = CONFIG.describer.model_copy(update={"kind": "server", "model": "m", "url": "http://127.0.0.1:9/v1"})
    assert describer_of(server, tmp_path).backend.model == "m"


def test_no_reply_at_all_is_a_failure_like_any_other():
    done = captioning.from_draft(sample("a", facts={"route": "IV"}), Captions())
    assert done.facts["route_reason"] == "describer failed" and done.facts["route_detail"] == "no reply"
