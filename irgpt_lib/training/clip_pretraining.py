"""The CLIP that Lesson 2 starts from: a published one, or the miniature trained here on simulated visible scenes."""

import numpy as np
import torch

from irgpt_lib import params
from irgpt_lib.irtd.simulated import world
from irgpt_lib.irtd.simulated.describe import describe
from irgpt_lib.models.clip import ClipReader, build_clip, load_clip, train_clip

MIX = {"scene": 0.4, "pair": 0.2, "aerial": 0.12, "crowd": 0.12, "montage": 0.16}
# A seed of its own, so that the miniature never sees a scene of the dataset.
SCENES_SEED = 7_000_001


def from_params(config: params.Difficulty) -> tuple[ClipReader, list[dict[str, int | float]]]:
    """The CLIP that the section `difficulty` states, and one loss row an epoch of its pre-training (none where it is a
    published one)."""
    shape = config.clip
    if shape.name:
        reader, history = load_clip(shape.name, shape.pretrained), []
    else:
        sizes = {name: value for name, value in shape.model_dump().items() if not name.startswith(("name", "pretrain"))}
        reader = build_clip(**sizes, seed=config.seed)
        history = pretrain(reader, config)
    reader.model.to("cuda" if torch.cuda.is_available() else "cpu")
    return reader, history


def pretrain(reader: ClipReader, config: params.Difficulty) -> list[dict[str, int | float]]:
    """Contrastive training on gray visible renders and their captions; changes the reader in place."""
    shape = config.clip
    reader.model.to("cuda" if torch.cuda.is_available() else "cpu")
    gray, captions = [], []
    for truths, renders in world.generate(
        shape.pretrain_scenes, seed=SCENES_SEED + config.seed, size=shape.image_px, mix=MIX
    ):
        gray.append(renders.visible.mean(-1).astype(np.uint8))
        captions += [describe(truth) for truth in truths]
    return train_clip(
        reader,
        np.concatenate(gray),
        reader.tokens(captions),
        epochs=shape.pretrain_epochs,
        batch_size=shape.pretrain_batch_size,
        lr=shape.pretrain_lr,
        seed=config.seed,
        train_scale=True,
        label="CLIP on visible scenes",
    )
