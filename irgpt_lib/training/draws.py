"""All randomness inside training. Each draw is keyed on (seed, visit, sample), never on the state of a generator, so
that a sample looks the same whoever loads it: any worker, any rank, before or after a resumption.

A visit is how many times training has met the sample before, so a second epoch draws anew.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor, nn

Augment = Literal["none", "tone"]


@dataclass(frozen=True)
class Draw:
    """One meeting with one item: its place in the data, the earlier meetings with its sample, and their key."""

    index: int
    visit: int
    key: int


def draws_of(batches: Sequence[Sequence[int]], samples: Sequence[str], seed: int) -> list[list[Draw]]:
    """`batches` of indices into `samples` (ids) as draws; a sample's visits count over its id, not its index."""
    met: Counter[str] = Counter()
    found = []
    for batch in batches:
        members = []
        for index in batch:
            sample = samples[index]
            members.append(Draw(index, met[sample], draw_key(seed, met[sample], sample)))
            met[sample] += 1
        found.append(members)
    return found


def draw_key(seed: int, visit: int, sample: str) -> int:
    """63 bits that are the same on every machine."""
    digest = blake2b(f"{seed}/{visit}/{sample}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def jitter_tone(image: UInt8[np.ndarray, "*shape"], key: int) -> UInt8[np.ndarray, "*shape"]:
    """The image as another infrared camera would render it: gamma, gain, offset and noise, drawn from `key`.

    Nothing moves, since answers name places, and hot stays brighter than cold.
    """
    rng = np.random.default_rng(key)
    gamma, gain, offset = np.exp(rng.uniform(-0.3, 0.3)), rng.uniform(0.8, 1.2), rng.uniform(-0.1, 0.1)
    toned = gain * (image / 255) ** gamma + offset + 0.02 * rng.standard_normal(image.shape)
    return np.rint(255 * toned.clip(0, 1)).astype(np.uint8)


class DropoutKeys:
    """The keys of the samples that pass through the model now, one a row of the batch."""

    now: Int[Tensor, " b"] | None = None


class KeyedDropout(nn.Module):
    """Dropout whose mask is a hash of (sample's key, layer, position, feature): no state, so activation checkpointing
    repeats it, padding to another length keeps it, and a rank that holds half of the batch draws the same."""

    def __init__(self, p: float, layer: int, keys: DropoutKeys) -> None:
        super().__init__()
        self.p, self.layer, self.keys = p, layer, keys

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        if self.keys.now is None or len(self.keys.now) != len(x):
            given = None if self.keys.now is None else len(self.keys.now)
            raise ValueError(f"dropout meets {len(x)} rows and keys of {given} samples: it needs one row a sample")
        return x * kept(self.keys.now, self.layer, tuple(x.shape[1:]), self.p) / (1 - self.p)


def kept(keys: Int[Tensor, " b"], layer: int, shape: tuple[int, ...], p: float) -> Bool[Tensor, "b ..."]:
    """Which elements of `b` tensors of `shape` stay when a share `p` is dropped, 0 <= p < 1."""
    place = torch.arange(int(np.prod(shape)), dtype=torch.int32, device=keys.device)
    low, high = keys.to(torch.int32), (keys >> 32).to(torch.int32)
    start = _mixed(low ^ _mixed(high + layer))
    bits = _mixed(_mixed(place) ^ start[:, None]) & 0x7FFFFFFF
    return (bits >= round(p * 2**31)).view(len(keys), *shape)


def _mixed(x: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """MurmurHash3's 32-bit finaliser; the shifts are logical, the products wrap."""
    x = (x ^ ((x >> 16) & 0xFFFF)) * -2048144789
    x = (x ^ ((x >> 13) & 0x7FFFF)) * -1028477387
    return x ^ ((x >> 16) & 0xFFFF)


@contextmanager
def keyed_dropout(model: nn.Module) -> Iterator[DropoutKeys]:
    """Within the block every active `nn.Dropout` of the model is a `KeyedDropout` that reads the keys yielded.

    Raises:
        ValueError: a config asks for dropout of attention weights, which happens inside a fused kernel.
    """
    for module in model.modules():
        share = getattr(getattr(module, "config", None), "attention_dropout", 0.0)
        if share:
            name = type(module).__name__
            raise ValueError(f"{name}: attention_dropout is {share}, which cannot be keyed on samples; set it to 0")
    keys, replaced = DropoutKeys(), []
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Dropout) and child.p > 0:
                replaced.append((parent, name, child))
    try:
        for layer, (parent, name, child) in enumerate(replaced):
            setattr(parent, name, KeyedDropout(child.p, layer, keys).train(child.training))
        yield keys
    finally:
        for parent, name, child in replaced:
            setattr(parent, name, child)
