"""A model of one layer and the simulated samples that it is tried on, each made once a session."""

import copy
from functools import lru_cache

import numpy as np
import pandas as pd
import torch

from irgpt_lib.irtd.record import Sample, png_bytes
from irgpt_lib.irtd.simulated import world
from irgpt_lib.irtd.simulated.describe import describe
from irgpt_lib.models.families import ImagePolicy, InternVL
from irgpt_lib.models.vlm import Shape, VisionLanguageModel
from irgpt_lib.training.base import new_model

SHAPE = Shape(
    image_px=64,
    patch_px=16,
    vision_width=32,
    vision_layers=1,
    language_width=32,
    language_layers=1,
    heads=2,
    coordinate_steps=32,
)
ONE_TILE = ImagePolicy(max_tiles=1, min_pixels=3136, max_pixels=4096)
MIX = {"scene": 0.4, "pair": 0.2, "aerial": 0.1, "crowd": 0.1, "montage": 0.2}


@lru_cache(maxsize=1)
def new() -> VisionLanguageModel:
    """The model as the base is made; nobody trains it."""
    vlm = new_model(SHAPE, seed=0)
    vlm.model.eval()
    return vlm


@lru_cache(maxsize=1)
def untouched() -> InternVL:
    """The one model of the session; a test that changes weights takes `fresh()`."""
    return InternVL(new().model, new().tokenizer, ONE_TILE)


def fresh() -> InternVL:
    """A copy of `untouched()` that a test may train."""
    return InternVL(copy.deepcopy(new().model), new().tokenizer, ONE_TILE)


def fresh_base() -> VisionLanguageModel:
    """A copy of `new()` that a test may train."""
    return VisionLanguageModel(copy.deepcopy(new().model), new().tokenizer)


@lru_cache(maxsize=1)
def talkative_base() -> VisionLanguageModel:
    """A copy whose layers outweigh the tied embeddings: an untrained model only repeats its last token."""
    vlm = fresh_base()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, p in vlm.model.named_parameters():
            if "_proj.weight" in name and "language_model" in name:
                p.normal_(0, 1.0)
    return vlm


@lru_cache(maxsize=1)
def talkative() -> InternVL:
    """`talkative_base()` as a family."""
    return InternVL(talkative_base().model, talkative_base().tokenizer, ONE_TILE)


@lru_cache(maxsize=1)
def scenes() -> tuple[list[Sample], world.Renders]:
    """64 simulated scenes of all kinds with their renders."""
    return next(world.generate(64, seed=3, size=SHAPE.image_px, mix=MIX))


def captioned(count: int) -> pd.DataFrame:
    """The first scenes as the training stage reads them: infrared PNG and caption, by sample id."""
    samples, renders = scenes()
    rows = [
        {"sample_id": s.sample_id, "infrared": png_bytes(image), "caption": describe(s)}
        for s, image in zip(samples[:count], renders.nir[:count], strict=True)
    ]
    return pd.DataFrame(rows).set_index("sample_id", drop=False)


def grays(count: int) -> np.ndarray:
    return scenes()[1].nir[:count]


def weights_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def changed(model: torch.nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    """The names of the parameters that are no longer bitwise what they were."""
    return {name for name, p in model.named_parameters() if not torch.equal(p.detach(), before[name])}
