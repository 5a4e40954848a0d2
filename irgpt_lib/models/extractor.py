"""The feature extractor of Lesson 1: a masked autoencoder trained on infrared and gray visible images (section 4.2.1).

The paper retrains InfMAE; its code is for non-commercial use and its weights are for other sizes, so transformers'
ViTMAE stands in, with InfMAE's masking rule as an option. Gray is repeated over three channels and normalised as InfMAE
does (reading Q4).
"""

import hashlib
import json
import math
import shutil
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from irgpt_lib import params
from irgpt_lib.artifacts import atomic
from irgpt_lib.compat import ensure_torchvision
from irgpt_lib.models.masking import masking_noise
from irgpt_lib.params import Masking

ensure_torchvision()

from transformers import (  # noqa: E402
    AutoConfig,
    PreTrainedConfig,
    ViTMAEConfig,
    ViTMAEForPreTraining,
    get_cosine_schedule_with_warmup,
)

GRAY_MEAN, GRAY_STD = 0.425, 0.2
TENSORS, PROGRESS = "tensors.safetensors", "progress.json"


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
        model = load_extractor(
            shape.weights, image_px=shape.image_px, patch_px=shape.patch_px, mask_ratio=config.mask_ratio
        )
    else:
        sizes = shape.model_dump(exclude={"weights"})
        model = build_extractor(**sizes, mask_ratio=config.mask_ratio, seed=config.seed)
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def load_extractor(weights: str | Path, *, image_px: int, patch_px: int, mask_ratio: float) -> ViTMAEForPreTraining:
    """A ViTMAE checkpoint in float32 from a local folder or a hub id; only safetensors, and remote code is never run.

    Raises:
        OSError: there is no such folder or checkpoint, or it has no safetensors.
        ValueError: it is no ViTMAE, its image or patch size is not the stated one, or it lacks some of the weights
            (an encoder alone has no decoder), which would stay random without a word.
    """
    where = f"features.extractor.weights {str(weights)!r}"
    try:
        config = AutoConfig.from_pretrained(weights, trust_remote_code=False)
        _check_config(where, config, image_px, patch_px)
        model, report = ViTMAEForPreTraining.from_pretrained(
            weights,
            mask_ratio=mask_ratio,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except OSError as error:
        raise OSError(
            f"{where}: neither a folder with config.json and model.safetensors nor such a checkpoint that the hub "
            f"gives; name one, or leave it empty to build the stated shape: {error}"
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise ValueError(
            f"{where} lacks {len(missing)} of the weights, {missing[0]} first; take a checkpoint of the whole masked "
            f"autoencoder, decoder included"
        )
    return model


def _check_config(where: str, config: PreTrainedConfig, image_px: int, patch_px: int) -> None:
    if not isinstance(config, ViTMAEConfig):
        raise ValueError(f"{where} is a checkpoint of {config.model_type}, not of vit_mae")
    sizes = ("image_px", config.image_size, image_px), ("patch_px", config.patch_size, patch_px)
    for name, has, stated in sizes:
        if has != stated:
            raise ValueError(f"{where} has {name} {has}, not {stated} as features.extractor states; set it to {has}")


def stacked(*parts: UInt8[np.ndarray, "_ h w"]) -> UInt8[np.ndarray, "n h w"]:
    """The images of all parts, one after the other."""
    return np.concatenate(parts)


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
    masking: Masking = "random",
    checkpoint: Path | None = None,
    checkpoint_steps: int = 500,
) -> list[dict[str, int | float]]:
    """Masked pre-training in place: AdamW, a tenth of linear warm-up and one cosine, random horizontal flips.

    Order, flips and masks hang on seed, epoch and step alone. Gradients are not clipped.

    `checkpoint` is a folder that keeps the last two states, one every `checkpoint_steps` and the finished one: a call
    with the same model, images and settings goes on from there and ends, on a CPU, bitwise as if it had never
    stopped; any other call starts its own. A damaged state is told on stderr and the one before it is taken. Delete
    the folder when the result is kept.

    Returns:
        One row an epoch: `epoch` (from 1) and the mean reconstruction `loss` over its masked, normalised patches.

    Raises:
        ValueError: there is no image, or the images are not of the model's size, or `mask_ratio` masks all or none.
        FloatingPointError: a loss or a gradient is no longer finite; the weights are then those before that step.
    """
    _check_images(model, gray)
    if not len(gray):
        raise ValueError("there are no images to train the extractor on; look at the dataset's pretraining split")
    settings = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "weight_decay": weight_decay, "seed": seed}
    # AdamW needs the peak beside the rate for a schedule that starts midway.
    groups = [{"params": list(model.parameters()), "initial_lr": lr}]
    optimiser = torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay, betas=(0.9, 0.95))
    folder = None if checkpoint is None else checkpoint / _fingerprint(model, gray, {**settings, "masking": masking})
    done = _Progress() if folder is None else _resumed(folder, model, optimiser)
    an_epoch = math.ceil(len(gray) / batch_size)
    steps = epochs * an_epoch
    schedule = get_cosine_schedule_with_warmup(optimiser, steps // 10, steps, last_epoch=done.steps - 1)
    model.train()
    bar = tqdm(total=steps, initial=done.steps, desc="masked autoencoder", mininterval=2.0)
    for epoch in range(done.steps // an_epoch, epochs):
        order = np.random.default_rng([seed, epoch]).permutation(len(gray))
        for number in range(done.steps % an_epoch, an_epoch):
            rows = order[number * batch_size : (number + 1) * batch_size]
            # numpy takes [seed, epoch, 0] for [seed, epoch], the order's own key.
            rng = np.random.default_rng([seed, epoch, number + 1])
            loss = _masked_loss(model, gray[rows], masking, rng)
            loss.backward()
            _check_finite(model, loss, f"in epoch {epoch + 1} at step {number + 1} of {an_epoch}", lr)
            optimiser.step()
            schedule.step()
            optimiser.zero_grad(set_to_none=True)
            done.add(loss.item(), an_epoch)
            bar.update(1)
            if folder is not None and (done.steps % checkpoint_steps == 0 or done.steps == steps):
                _keep(folder, model, optimiser, done)
    bar.close()
    return done.history


def _masked_loss(
    model: ViTMAEForPreTraining, gray: UInt8[np.ndarray, "n h w"], masking: Masking, rng: np.random.Generator
) -> Float[Tensor, ""]:
    gray = np.where(rng.random(len(gray))[:, None, None] < 0.5, gray[:, :, ::-1], gray)
    noise = _noise(model, gray, masking, rng)
    # Dropout, which a loaded model may have, draws from torch's own generator.
    torch.manual_seed(int(rng.integers(2**63)))
    device = next(model.parameters()).device
    return model(pixel_values=normalised(gray).to(device), noise=noise.to(device)).loss


def _noise(
    model: ViTMAEForPreTraining, gray: UInt8[np.ndarray, "n h w"], masking: Masking, rng: np.random.Generator
) -> Float[Tensor, "n p"]:
    patch_px, mask_ratio = model.config.patch_size, model.config.mask_ratio
    return masking_noise(gray, masking, patch_px=patch_px, mask_ratio=mask_ratio, rng=rng)


def _check_images(model: ViTMAEForPreTraining, gray: UInt8[np.ndarray, "n h w"]) -> None:
    side = model.config.image_size
    if gray.shape[1:] != (side, side):
        raise ValueError(
            f"the images have {gray.shape[1]} x {gray.shape[2]} pixels and the extractor reads {side} x {side}; "
            f"decode them to features.extractor.image_px"
        )


def _check_finite(model: nn.Module, loss: Tensor, when: str, lr: float) -> None:
    norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    if not (loss.isfinite() and norm.isfinite()):
        raise FloatingPointError(
            f"masked autoencoder: loss {loss.item()}, gradient {norm.item()} {when}; lower features.lr ({lr})"
        )


@dataclass
class _Progress:
    """How far training is: steps done, the losses of the epoch under way, and one row for each epoch done."""

    steps: int = 0
    losses: list[float] = field(default_factory=list)
    history: list[dict[str, int | float]] = field(default_factory=list)

    def add(self, loss: float, an_epoch: int) -> None:
        self.steps += 1
        self.losses.append(loss)
        if len(self.losses) == an_epoch:
            self.history.append({"epoch": self.steps // an_epoch, "loss": float(np.mean(self.losses))})
            self.losses.clear()


def _fingerprint(model: ViTMAEForPreTraining, gray: np.ndarray, settings: dict[str, float | int | str]) -> str:
    """A name that two calls share only if they would train the same, bit by bit, on the same kind of device."""
    config = {key: value for key, value in model.config.to_dict().items() if key != "_name_or_path"}
    stated = {**settings, "config": config, "shape": gray.shape, "device": next(model.parameters()).device.type}
    digest = hashlib.blake2b(json.dumps(stated, sort_keys=True, default=str).encode(), digest_size=12)
    for name, weight in model.state_dict().items():
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.contiguous().reshape(-1).view(torch.uint8).numpy(force=True))
    digest.update(np.ascontiguousarray(gray))
    return digest.hexdigest()


def _keep(folder: Path, model: nn.Module, optimiser: torch.optim.Optimizer, done: _Progress) -> None:
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for number, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{number}.{name}": value for name, value in state.items()}
    with atomic(folder / f"{done.steps:08d}") as part:
        part.mkdir()
        save_file({name: value.contiguous() for name, value in tensors.items()}, part / TENSORS)
        progress = {**asdict(done), "tensors": _digest(part / TENSORS)}
        (part / PROGRESS).write_text(json.dumps(progress) + "\n", encoding="utf-8")
    for old in _kept(folder)[2:]:
        shutil.rmtree(old)


def _resumed(folder: Path, model: nn.Module, optimiser: torch.optim.Optimizer) -> _Progress:
    """The newest sound state of the folder, put into model and optimiser; the beginning where there is none."""
    for kept in _kept(folder):
        try:
            progress = json.loads((kept / PROGRESS).read_text(encoding="utf-8"))
            if _digest(kept / TENSORS) != progress.pop("tensors"):
                raise ValueError(f"{TENSORS} is not what was written")
            done = _Progress(**progress)
        except (OSError, ValueError, TypeError, KeyError) as error:
            tqdm.write(f"{kept}: a damaged state, so training goes on from the one before: {error}", file=sys.stderr)
            continue
        _restore(load_file(kept / TENSORS), model, optimiser)
        return done
    return _Progress()


def _restore(tensors: dict[str, Tensor], model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    weights, state = {}, {}
    for name, value in tensors.items():
        owner, _, key = name.partition(".")
        if owner == "model":
            weights[key] = value
        else:
            number, _, key = key.partition(".")
            state.setdefault(int(number), {})[key] = value
    model.load_state_dict(weights)
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def _kept(folder: Path) -> list[Path]:
    """The states in the folder, newest first."""
    return sorted(folder.glob("[0-9]*"), reverse=True)


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "blake2b").hexdigest()


@torch.inference_mode()
def extract_features(
    model: ViTMAEForPreTraining, gray: UInt8[np.ndarray, "n h w"], batch_size: int
) -> Float[Tensor, "n d"]:
    """The mean over all encoder patches, nothing masked, for each image, on the CPU.

    Raises:
        ValueError: the images are not of the model's size.
    """
    _check_images(model, gray)
    model.eval()
    device = next(model.parameters()).device
    encoder, ratio = model.vit, model.config.mask_ratio
    # ViTMAE shuffles patches even when it masks none; in their own order the features are bitwise repeatable.
    in_order = torch.arange(encoder.embeddings.patch_embeddings.num_patches, device=device, dtype=torch.float32)[None]
    model.config.mask_ratio = 0.0
    features = torch.empty(len(gray), model.config.hidden_size)
    try:
        for start in range(0, len(gray), batch_size):
            pixels = normalised(gray[start : start + batch_size]).to(device)
            hidden = encoder(pixel_values=pixels, noise=in_order.expand(len(pixels), -1)).last_hidden_state
            features[start : start + batch_size] = hidden[:, 1:].mean(1)
    finally:
        model.config.mask_ratio = ratio
    return features


@torch.inference_mode()
def reconstruct(
    model: ViTMAEForPreTraining, gray: UInt8[np.ndarray, "n h w"], seed: int, masking: Masking = "random"
) -> tuple[UInt8[np.ndarray, "n h w"], UInt8[np.ndarray, "n h w"]]:
    """The images with their masked patches black, and with these patches as the model fills them in.

    Where the model predicts patches normalised by their own mean and deviation, these are taken from the image to show
    it.

    Raises:
        ValueError: the images are not of the model's size, or `mask_ratio` masks all or none.
    """
    _check_images(model, gray)
    model.eval()
    device = next(model.parameters()).device
    noise = _noise(model, gray, masking, np.random.default_rng(seed))
    pixels = normalised(gray)
    output = model(pixel_values=pixels.to(device), noise=noise.to(device))
    mask, filled = output.mask.cpu()[..., None], output.logits.float().cpu()
    patches = model.patchify(pixels)
    if model.config.norm_pix_loss:
        mean, variance = patches.mean(-1, keepdim=True), patches.var(-1, keepdim=True)
        filled = filled * (variance + 1e-6).sqrt() + mean
    black = torch.full_like(patches, -GRAY_MEAN / GRAY_STD)

    def image(p: Tensor) -> np.ndarray:
        x = model.unpatchify(p)[:, 0] * GRAY_STD + GRAY_MEAN
        return (x.clamp(0, 1) * 255).round().to(torch.uint8).numpy()

    return image(torch.where(mask > 0, black, patches)), image(torch.where(mask > 0, filled, patches))
