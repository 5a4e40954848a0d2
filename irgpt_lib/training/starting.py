"""The model that a run starts from: the stage `base`, a checkpoint of another family, or an untrained miniature."""

from pathlib import Path

import torch

from irgpt_lib import params
from irgpt_lib.models import families
from irgpt_lib.models.families import Family, ImagePolicy, PandaGPT
from irgpt_lib.models.vlm import Shape
from irgpt_lib.training.base import study_tokenizer


def starting_model(config: params.Model, base: Path) -> Family:
    """The model of the section `model`, in float32 on the CPU; `base` is the folder of the stage of that name.

    With `encoder`, a PandaGPT-type model is put together from that contrastive encoder and the language model
    `weights`. With `weights` alone the checkpoint is read; with `shape` a miniature of the family is built at random
    from `seed`; with neither it is the study's base.

    Raises:
        UnfitCheckpoint: a checkpoint is not of the family that `kind` names.
        FileNotFoundError: the base was not made.
    """
    policy = ImagePolicy(config.max_tiles, config.min_pixels, config.max_pixels)
    if config.encoder:
        return PandaGPT.compose(config.encoder, config.weights, policy, seed=config.seed, dtype=torch.float32)
    if config.weights or config.shape is None:
        return families.load(config.kind, config.weights or families.base_weights(base), policy)
    shape = Shape(**config.shape.model_dump())
    return families.build(config.kind, shape, study_tokenizer(config.shape.coordinate_steps), config.seed, policy)
