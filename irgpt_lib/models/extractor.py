"""The feature extractor of Lesson 1: a masked autoencoder trained on infrared and gray visible images (section 4.2.1).

The paper retrains InfMAE; its code is for non-commercial use and its weights are for other sizes, so transformers'
ViTMAE stands in. Gray is repeated over three channels and normalised as InfMAE does (reading Q4).
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm import tqdm

from irgpt_lib import params
from irgpt_lib.compat import ensure_torchvision

ensure_torchvision()

from transformers import ViTMAEConfig, ViTMAEForPreTraining  # noqa: E402

GRAY_MEAN, GRAY_STD = 0.425, 0.2


def build_extractor(
    *,
    image_px: int,
    patch_px: int,
    width: int,
    layers: int,
    heads: int,
    decoder_width: int,
    decoder_layers: int,
    mask_ratio: float,
    seed: int,
) -> ViTMAEForPreTraining:
    """A randomly initialised masked autoencoder of that shape."""
    torch.manual_seed(seed)
    config = ViTMAEConfig(
        image_size=image_px,
        patch_size=patch_px,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        decoder_hidden_size=decoder_width,
        decoder_num_hidden_layers=decoder_layers,
        decoder_num_attention_heads=heads,
        decoder_intermediate_size=4 * decoder_width,
        mask_ratio=mask_ratio,
        norm_pix_loss=True,
    )
    return ViTMAEForPreTraining(config)


def from_params(config: params.Features) -> ViTMAEForPreTraining:
    """The extractor that the section `features` states, on the GPU where there is one."""
    shape = config.extractor
    if shape.weights:
        model = load_extractor(shape.weights, config.mask_ratio)
    else:
        sizes = shape.model_dump(exclude={"weights"})
        model = build_extractor(**sizes, mask_ratio=config.mask_ratio, seed=config.seed)
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def stacked(*parts: UInt8[np.ndarray, "_ h w"]) -> UInt8[np.ndarray, "n h w"]:
    """The images of all parts, one after the other."""
    return np.concatenate(parts)


def load_extractor(weights: str | Path, mask_ratio: float) -> ViTMAEForPreTraining:
    """A ViTMAE checkpoint from a local folder or a hub id; remote code is never run."""
    return ViTMAEForPreTraining.from_pretrained(weights, mask_ratio=mask_ratio, trust_remote_code=False)


def normalised(gray: UInt8[np.ndarray, "n h w"]) -> Float[Tensor, "n 3 h w"]:
    """`(x / 255 - 0.425) / 0.2`, repeated over three channels."""
    x = (torch.from_numpy(np.ascontiguousarray(gray)).float() / 255 - GRAY_MEAN) / GRAY_STD
    return x[:, None].expand(-1, 3, -1, -1)


def train_extractor(
    model: ViTMAEForPreTraining,
    gray: UInt8[np.ndarray, "n h w"],
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    weight_decay: float,
    seed: int,
) -> list[dict[str, int | float]]:
    """Masked pre-training in place: AdamW, one cosine with a tenth of warm-up, random horizontal flips.

    Returns:
        One row an epoch: `epoch` (from 1) and the mean reconstruction `loss` over its masked, normalised patches.
    """
    torch.manual_seed(seed)
    device = next(model.parameters()).device
    steps = epochs * -(-len(gray) // batch_size)
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay, betas=(0.9, 0.95))
    warm_up = max(1, steps // 10)

    def share(step: int) -> float:
        return min((step + 1) / warm_up, 0.5 * (1 + np.cos(np.pi * step / max(steps, 1))))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, share)
    model.train()
    history = []
    bar = tqdm(total=steps, desc="masked autoencoder", mininterval=2.0)
    for epoch in range(epochs):
        order = np.random.default_rng([seed, epoch]).permutation(len(gray))
        losses = []
        for start in range(0, len(order), batch_size):
            pixels = normalised(gray[order[start : start + batch_size]])
            flip = torch.rand(len(pixels)) < 0.5
            pixels = torch.where(flip[:, None, None, None], pixels.flip(3), pixels)
            loss = model(pixel_values=pixels.to(device)).loss
            loss.backward()
            optimiser.step()
            schedule.step()
            optimiser.zero_grad(set_to_none=True)
            losses.append(loss.item())
            bar.update(1)
        history.append({"epoch": epoch + 1, "loss": float(np.mean(losses))})
    bar.close()
    return history


@torch.inference_mode()
def extract_features(
    model: ViTMAEForPreTraining, gray: UInt8[np.ndarray, "n h w"], batch_size: int
) -> Float[Tensor, "n d"]:
    """The mean over all encoder patches, nothing masked, for each image."""
    model.eval()
    device = next(model.parameters()).device
    encoder, ratio = model.vit, model.config.mask_ratio
    # ViTMAE shuffles patches even when it masks none; in their own order the features are bitwise repeatable.
    in_order = torch.arange(encoder.embeddings.patch_embeddings.num_patches, device=device, dtype=torch.float32)[None]
    model.config.mask_ratio = 0.0
    features = []
    try:
        for start in range(0, len(gray), batch_size):
            pixels = normalised(gray[start : start + batch_size]).to(device)
            hidden = encoder(pixel_values=pixels, noise=in_order.expand(len(pixels), -1)).last_hidden_state
            features.append(hidden[:, 1:].mean(1).float().cpu())
    finally:
        model.config.mask_ratio = ratio
    return torch.cat(features)


@torch.inference_mode()
def reconstruct(
    model: ViTMAEForPreTraining, gray: UInt8[np.ndarray, "n h w"], seed: int
) -> tuple[UInt8[np.ndarray, "n h w"], UInt8[np.ndarray, "n h w"]]:
    """The images with their masked patches black, and with these patches as the model fills them in.

    The model predicts patches normalised by their own mean and deviation; these are taken from the image to show it.
    """
    model.eval()
    torch.manual_seed(seed)
    pixels = normalised(gray)
    output = model(pixel_values=pixels.to(next(model.parameters()).device))
    mask = output.mask.cpu()[..., None]
    patches = model.patchify(pixels)
    mean, variance = patches.mean(-1, keepdim=True), patches.var(-1, keepdim=True)
    filled = output.logits.float().cpu() * (variance + 1e-6).sqrt() + mean
    black = torch.full_like(patches, -GRAY_MEAN / GRAY_STD)

    def image(p: Tensor) -> np.ndarray:
        x = model.unpatchify(p)[:, 0] * GRAY_STD + GRAY_MEAN
        return (x.clamp(0, 1) * 255).round().to(torch.uint8).numpy()

    return image(torch.where(mask > 0, black, patches)), image(torch.where(mask > 0, filled, patches))
