"""The CLIP of Lesson 2, from open_clip: a published model by name, or a miniature of the same classes.

The miniature has open_clip's own tokenizer and is first pre-trained on simulated visible scenes and their captions: it
stands in for the public CLIP, which nobody can download on a machine without a network.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from tqdm import tqdm

from irgpt_lib.compat import ensure_torchvision

ensure_torchvision()

import open_clip  # noqa: E402
from open_clip.loss import ClipLoss  # noqa: E402
from open_clip.model import CLIPTextCfg, CLIPVisionCfg  # noqa: E402

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
VOCABULARY = 49408


@dataclass(frozen=True)
class ClipReader:
    """A CLIP with the tokenizer that belongs to it. `context` is the length in tokens at which texts are cut."""

    model: nn.Module
    tokenizer: open_clip.tokenizer.SimpleTokenizer
    image_px: int
    context: int

    def tokens(self, texts: Sequence[str]) -> Int[Tensor, "n c"]:
        return self.tokenizer(list(texts), context_length=self.context)

    def cut(self, texts: Sequence[str]) -> int:
        """How many of the texts are longer than the context and lose their end (reading Q30)."""
        return sum(len(self.tokenizer.encode(text)) + 2 > self.context for text in texts)

    def pixels(self, gray: UInt8[np.ndarray, "n h w"]) -> Float[Tensor, "n 3 h w"]:
        x = torch.from_numpy(np.ascontiguousarray(gray)).float()[:, None].expand(-1, 3, -1, -1) / 255
        return (x - torch.tensor(CLIP_MEAN).view(1, 3, 1, 1)) / torch.tensor(CLIP_STD).view(1, 3, 1, 1)

    @torch.inference_mode()
    def embed(
        self, gray: UInt8[np.ndarray, "n h w"], tokens: Int[Tensor, "n c"], batch_size: int
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """Unit embeddings of images and texts."""
        self.model.eval()
        device = next(self.model.parameters()).device
        images, texts = [], []
        for start in range(0, len(gray), batch_size):
            rows = slice(start, start + batch_size)
            images.append(self.model.encode_image(self.pixels(gray[rows]).to(device), normalize=True).float().cpu())
            texts.append(self.model.encode_text(tokens[rows].to(device), normalize=True).float().cpu())
        return torch.cat(images), torch.cat(texts)

    @property
    def logit_scale(self) -> float:
        return float(self.model.logit_scale.detach().exp())


def build_clip(
    *,
    image_px: int,
    patch_px: int,
    width: int,
    layers: int,
    text_width: int,
    text_layers: int,
    embedding: int,
    context: int,
    seed: int,
) -> ClipReader:
    """A randomly initialised miniature; heads are 32 wide."""
    torch.manual_seed(seed)
    vision = CLIPVisionCfg(layers=layers, width=width, head_width=32, patch_size=patch_px, image_size=image_px)
    text = CLIPTextCfg(
        context_length=context,
        vocab_size=VOCABULARY,
        width=text_width,
        heads=text_width // 32,
        layers=text_layers,
    )
    model = open_clip.CLIP(embed_dim=embedding, vision_cfg=vision, text_cfg=text)
    return ClipReader(model, open_clip.SimpleTokenizer(), image_px, context)


def load_clip(name: str, pretrained: str) -> ClipReader:
    """A published open_clip model; `pretrained` is one of its tags or a local file (safetensors, or a state dict that
    is read without unpickling code).

    Raises:
        ValueError: open_clip knows no model of that name, or no such weights of it (an empty `pretrained` would
            leave the model random without a word); the message lists those that exist.
    """
    known = open_clip.list_models()
    if name not in known:
        near = [model for model in known if model.split("-")[0] == name.split("-")[0]] or known[:8]
        raise ValueError(f"open_clip has no model {name!r}; it has for example {', '.join(near)}")
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained not in tags and not Path(pretrained).is_file():
        raise ValueError(
            f"open_clip has no weights {pretrained!r} of {name}, nor is that a file; it has {', '.join(tags) or 'none'}"
        )
    model = open_clip.create_model(name, pretrained=pretrained, weights_only=True)
    image_px = model.visual.image_size
    size = image_px[0] if isinstance(image_px, (tuple, list)) else image_px
    return ClipReader(model, open_clip.get_tokenizer(name), size, model.context_length)


def train_clip(
    reader: ClipReader,
    gray: UInt8[np.ndarray, "n h w"],
    tokens: Int[Tensor, "n c"],
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    seed: int,
    train_scale: bool,
    label: str,
) -> list[dict[str, int | float]]:
    """Contrastive training in place with open_clip's own loss, AdamW and one cosine with a tenth of warm-up.

    The logit scale is frozen unless `train_scale`: with it free, the change of loss would measure temperature (Q6).

    Returns:
        One row an epoch: `epoch` (from 1) and the mean in-batch `loss`.
    """
    model, objective = reader.model.train(), ClipLoss()
    device = next(model.parameters()).device
    model.logit_scale.requires_grad_(train_scale)
    trained = [p for p in model.parameters() if p.requires_grad]
    full = len(gray) // batch_size
    if full == 0:
        raise ValueError(f"{len(gray)} samples make no batch of {batch_size}; lower difficulty.batch_size")
    steps, warm_up = epochs * full, max(1, epochs * full // 10)
    optimiser = torch.optim.AdamW(trained, lr=lr, weight_decay=0.05, betas=(0.9, 0.98))

    def share(step: int) -> float:
        return min((step + 1) / warm_up, 0.5 * (1 + np.cos(np.pi * step / max(steps, 1))))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, share)
    history = []
    bar = tqdm(total=steps, desc=label, mininterval=2.0)
    for epoch in range(epochs):
        order = np.random.default_rng([seed, epoch]).permutation(len(gray))
        losses = []
        for start in range(0, full * batch_size, batch_size):
            rows = order[start : start + batch_size]
            image = model.encode_image(reader.pixels(gray[rows]).to(device), normalize=True)
            text = model.encode_text(tokens[torch.from_numpy(rows)].to(device), normalize=True)
            loss = objective(image, text, model.logit_scale.exp())
            loss.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            schedule.step()
            optimiser.zero_grad(set_to_none=True)
            losses.append(loss.item())
            bar.update(1)
        history.append({"epoch": epoch + 1, "loss": float(np.mean(losses))})
    bar.close()
    return history
