"""The CLIP of Lesson 2, from open_clip: a published model by name, or a miniature of the same classes.

The miniature has open_clip's own tokenizer and is first pre-trained on simulated visible scenes and their captions: it
stands in for the public CLIP, which nobody can download on a machine without a network.
"""

import hashlib
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from irgpt_lib import artifacts
from irgpt_lib.compat import ensure_torchvision
from irgpt_lib.curriculum import alignment

ensure_torchvision()

import open_clip  # noqa: E402
from open_clip.loss import ClipLoss  # noqa: E402
from open_clip.model import CLIPTextCfg, CLIPVisionCfg, get_model_preprocess_cfg  # noqa: E402
from open_clip.transform import (  # noqa: E402
    CenterCropOrPad,
    PreprocessCfg,
    ResizeKeepRatio,
    image_transform_v2,
)
from torchvision.transforms import CenterCrop, Compose, Resize  # noqa: E402
from transformers import get_cosine_schedule_with_warmup  # noqa: E402

VOCABULARY = 49408
# CLIP's own limit of the temperature while it is trained.
LARGEST_LOG_SCALE = float(np.log(100))
LOCAL, HUB = "local-dir:", "hf-hub:"


@dataclass(frozen=True)
class ClipReader:
    """A CLIP with the tokenizer and the preprocessing that belong to it.

    `context` is the length in tokens at which texts are cut; the study's images are gray, and are repeated over three
    channels.
    """

    model: nn.Module
    tokenizer: Callable[..., Tensor]
    preprocess: PreprocessCfg
    context: int

    @property
    def image_px(self) -> int:
        """The side of the square that the model reads, in pixels."""
        return _square(self.preprocess.size)

    def decode(self, images: Iterable[bytes]) -> UInt8[np.ndarray, "n px px"]:
        """Encoded images as gray squares, resized, cropped or padded as the model was trained to see them."""
        whole = image_transform_v2(self.preprocess, is_train=False)
        shape = (Resize, ResizeKeepRatio, CenterCrop, CenterCropOrPad)
        geometry = Compose([step for step in whole.transforms if isinstance(step, shape)])
        decoded = [np.array(geometry(Image.open(io.BytesIO(data)).convert("L"))) for data in images]
        return np.stack(decoded) if decoded else np.empty((0, self.image_px, self.image_px), np.uint8)

    def tokens(self, texts: Sequence[str]) -> Int[Tensor, "n c"]:
        return self.tokenizer(list(texts), context_length=self.context)

    def cut(self, texts: Sequence[str]) -> int:
        """How many of the texts are longer than the context and lose their end (reading Q30)."""
        # With room for one token more, a text that fits has its end or padding where the context ends.
        longer = self.tokenizer([*texts, ""], context_length=self.context + 1)
        return int((~torch.isin(longer[:-1, self.context - 1], longer[-1])).sum())

    def pixels(self, gray: UInt8[np.ndarray, "n h w"]) -> Float[Tensor, "n 3 h w"]:
        """Gray levels as the model takes them: 0-1, less the mean of its training, over its deviation, by channel."""
        x = torch.from_numpy(np.ascontiguousarray(gray)).float()[:, None].expand(-1, 3, -1, -1) / 255
        mean, deviation = (
            torch.tensor(three).view(1, 3, 1, 1) for three in (self.preprocess.mean, self.preprocess.std)
        )
        return (x - mean) / deviation

    @torch.inference_mode()
    def embed(
        self,
        gray: UInt8[np.ndarray, "n h w"],
        tokens: Int[Tensor, "n c"],
        batch_size: int,
        *,
        cache: Path | None = None,
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """Unit embeddings of images and texts.

        With a folder `cache` they are kept there under a hash of everything that they depend on (weights, images,
        tokens, preprocessing, batch size, kind of device), and read instead of computed where that hash is known.
        """
        file = cache / f"{self._content_hash(gray, tokens, batch_size)}.safetensors" if cache else None
        if file and file.is_file():
            kept = load_file(file)
            return kept["image"], kept["text"]
        self.model.eval()
        device = next(self.model.parameters()).device
        images, texts = [], []
        for start in range(0, len(gray), batch_size):
            rows = slice(start, start + batch_size)
            images.append(self.model.encode_image(self.pixels(gray[rows]).to(device), normalize=True).float().cpu())
            texts.append(self.model.encode_text(tokens[rows].to(device), normalize=True).float().cpu())
        image, text = torch.cat(images), torch.cat(texts)
        if file:
            with artifacts.atomic(file) as part:
                save_file({"image": image, "text": text}, part)
        return image, text

    def _content_hash(self, gray: np.ndarray, tokens: Tensor, batch_size: int) -> str:
        digest = hashlib.sha256()
        device = next(self.model.parameters()).device.type
        digest.update(repr((self.preprocess, gray.shape, tuple(tokens.shape), batch_size, device)).encode())
        for name, weight in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
            digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        digest.update(np.ascontiguousarray(gray))
        digest.update(tokens.contiguous().numpy())
        return digest.hexdigest()

    @property
    def logit_scale(self) -> float:
        """The factor on the cosine, 1 / temperature."""
        return float(self.model.logit_scale.detach().exp())


@dataclass(frozen=True, eq=False)
class Lesson2:
    """What Lesson 2 knows of each pair: CLIP's loss before (l) and after (l') the warm-up in nats, and α (Eq. 4).

    `lifted` counts the losses that were too near 0 for a rate; `history` is the warm-up's own, `in_bank` the number of
    negatives that the pairs were scored against.
    """

    before: Float[Tensor, " n"]
    after: Float[Tensor, " n"]
    alpha: Float[Tensor, " n"]
    lifted: int
    in_bank: int
    history: list[dict[str, int | float]]


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
    return ClipReader(model, open_clip.SimpleTokenizer(), PreprocessCfg(size=image_px), context)


def load_clip(name: str, pretrained: str) -> ClipReader:
    """A published open_clip model with its own tokenizer, activation and preprocessing.

    `name` is one of open_clip's models, and `pretrained` one of its tags or a local file (safetensors, or a state dict
    that is read without unpickling code; its activation is the model's own); or `name` is `local-dir:<folder>` or
    `hf-hub:<owner/model>` with an open_clip_config.json, and `pretrained` is empty.

    Raises:
        ValueError: open_clip knows no model of that name, or no such weights of it (an empty `pretrained` would
            leave the model random without a word), with a list of those that exist; or a file's preprocessing cannot
            be told, or the model's images are not square.
        RuntimeError: the folder or hub model has no weights.
    """
    if name.startswith((LOCAL, HUB)):
        if pretrained:
            raise ValueError(f"{name} brings its own weights; leave `pretrained` empty instead of {pretrained!r}")
        model = open_clip.create_model(name, require_pretrained=True, weights_only=True)
    else:
        _check_known(name, pretrained)
        model = open_clip.create_model(name, pretrained=pretrained, weights_only=True, **_of_weights(name, pretrained))
    preprocess = PreprocessCfg(**get_model_preprocess_cfg(model))
    _square(preprocess.size)
    return ClipReader(model, open_clip.get_tokenizer(name), preprocess, model.context_length)


def _check_known(name: str, pretrained: str) -> None:
    known = open_clip.list_models()
    if name not in known:
        near = [model for model in known if model.split("-")[0] == name.split("-")[0]] or known[:8]
        raise ValueError(f"open_clip has no model {name!r}; it has for example {', '.join(near)}")
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained not in tags and not Path(pretrained).is_file():
        raise ValueError(
            f"open_clip has no weights {pretrained!r} of {name}, nor is that a file; it has {', '.join(tags) or 'none'}"
        )


def _of_weights(name: str, pretrained: str) -> dict[str, object]:
    """What open_clip must be told so that the model works as its weights were trained."""
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained in tags:
        # open_clip only warns of a wrong activation: OpenAI's weights of ViT-L-14 need QuickGELU, its config has none.
        return {"force_quick_gelu": open_clip.get_pretrained_cfg(name, pretrained).get("quick_gelu", False)}
    keys = ("mean", "std", "interpolation", "resize_mode")
    stated = [open_clip.get_pretrained_cfg(name, tag) for tag in tags]
    found = {tuple(str(one.get(key)) for key in keys): one for one in stated}
    if len(found) > 1:
        raise ValueError(
            f"the published weights of {name} want {len(found)} different preprocessings, so a file's cannot be told: "
            f"put it in a folder with an open_clip_config.json and name it as {LOCAL}<folder>"
        )
    return {"force_preprocess_cfg": {key: one[key] for one in found.values() for key in keys if key in one}}


def _square(size: int | tuple[int, ...] | list[int]) -> int:
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) > 1:
        raise ValueError(f"the model reads images of {size} pixels, but the study's are square")
    return sides.pop()


def lesson2(
    reader: ClipReader,
    gray: UInt8[np.ndarray, "n h w"],
    captions: Sequence[str],
    groups: Sequence[str],
    *,
    bank: int,
    epochs: int,
    batch_size: int,
    lr: float,
    seed: int,
    cache: Path | None = None,
) -> Lesson2:
    """Score every pair, warm the CLIP up on them, score again (section 4.2.2); changes the reader in place.

    Both passes meet the same `bank` negatives (all samples where there are no more), without those that share a pair's
    caption or its non-empty group; the temperature stays as it was. Embeddings are kept in the folder `cache`.

    Raises:
        ValueError: a sample has no negative, or there are fewer samples than `batch_size`.
        FloatingPointError: the warm-up diverged.
    """
    tokens = reader.tokens(captions)
    keys = {
        "bank": alignment.negative_bank(len(gray), min(bank, len(gray)), seed),
        "caption_id": alignment.codes(captions),
        "group_id": alignment.codes(groups),
        "logit_scale": reader.logit_scale,
    }
    before = alignment.clip_losses(*reader.embed(gray, tokens, batch_size, cache=cache), **keys)
    history = train_clip(
        reader,
        gray,
        tokens,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        train_scale=False,
        label="CLIP warm-up",
    )
    after = alignment.clip_losses(*reader.embed(gray, tokens, batch_size, cache=cache), **keys)
    alpha, lifted = alignment.loss_change(before, after)
    return Lesson2(before, after, alpha, lifted, len(keys["bank"]), history)


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

    Raises:
        ValueError: there are fewer samples than one batch.
        FloatingPointError: a loss or a gradient is no longer finite; the weights are then those before that step.
    """
    model, objective = reader.model.train(), ClipLoss()
    device = next(model.parameters()).device
    model.logit_scale.requires_grad_(train_scale)
    trained = [p for p in model.parameters() if p.requires_grad]
    full = len(gray) // batch_size
    if full == 0:
        raise ValueError(f"{len(gray)} samples make no batch of {batch_size}; lower difficulty.batch_size")
    steps = epochs * full
    optimiser = torch.optim.AdamW(trained, lr=lr, weight_decay=0.05, betas=(0.9, 0.98))
    schedule = get_cosine_schedule_with_warmup(optimiser, steps // 10, steps)
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
            norm = nn.utils.clip_grad_norm_(trained, 1.0)
            if not (loss.isfinite() and norm.isfinite()):
                raise FloatingPointError(
                    f"{label}: loss {loss.item()}, gradient {norm.item()} in epoch {epoch + 1} at sample {start}; "
                    f"lower the learning rate ({lr})"
                )
            optimiser.step()
            with torch.no_grad():
                model.logit_scale.clamp_(0, LARGEST_LOG_SCALE)
            schedule.step()
            optimiser.zero_grad(set_to_none=True)
            losses.append(loss.item())
            bar.update(1)
        history.append({"epoch": epoch + 1, "loss": float(np.mean(losses))})
    bar.close()
    return history
