"""The loss that a vision-language model has on each caption: what a difficulty score should foretell."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch.utils.data import DataLoader
from tqdm import tqdm

from irgpt_lib.irtd.captions import CAPTION_PROMPT
from irgpt_lib.models.vlm import VisionLanguageModel
from irgpt_lib.training.loss import token_losses
from irgpt_lib.training.trainer import Collator, TextImages


@torch.inference_mode()
def caption_losses(
    vlm: VisionLanguageModel, images: Sequence[bytes], captions: Sequence[str], *, batch_size: int
) -> Float[np.ndarray, " n"]:
    """Mean cross-entropy of each caption's tokens given its image and stage 1's prompt, in nats: Eq. 6's bracket.

    The model is not changed and not trained; encoded images are decoded as they are needed.
    """
    vlm.model.eval()
    device = next(vlm.model.parameters()).device
    count = len(images)
    data = TextImages(images, [CAPTION_PROMPT] * count, captions, [1.0] * count, vlm.image_px)
    losses = []
    for batch in tqdm(DataLoader(data, batch_size, collate_fn=Collator(vlm)), desc="caption losses", mininterval=2.0):
        inputs = {name: value.to(device) for name, value in batch.items() if name not in ("labels", "sample_weight")}
        losses.append(token_losses(vlm.model(**inputs).logits, batch["labels"].to(device)).float().cpu())
    return torch.cat(losses).numpy() if losses else np.empty(0, np.float32)


def of_samples(vlm: VisionLanguageModel, samples: pd.DataFrame, *, batch_size: int) -> Float[np.ndarray, " n"]:
    """`caption_losses` of a table with the columns `infrared` (encoded images) and `caption`."""
    return caption_losses(vlm, samples["infrared"].tolist(), samples["caption"].tolist(), batch_size=batch_size)
