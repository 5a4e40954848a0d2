"""A model that does not fit one device: its parameters shared out over the ranks, its activations computed twice.

Both act on transformer blocks. `sharded` is FSDP2: each rank keeps its part of every parameter, trained or frozen, of
the gradients and of the optimiser's moments, and has one block at a time whole. `checkpointed` keeps only the inputs of
each block for the backward pass. Neither changes more than rounding.

DeepSpeed's ZeRO-2 would share out gradients and moments only, 3.8 of the 33.9 GiB that stage 1 of InternVL2-8B holds in
states (`irgpt train plan`); the frozen weights, 28.8 GiB, would stay whole on every rank.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.checkpoint import checkpoint

from irgpt_lib.compat import ensure_torchvision

ensure_torchvision()

from transformers.modeling_layers import GradientCheckpointingLayer

from irgpt_lib.training.distributed import Ranks

Parallel = Literal["replicate", "shard"]
Module = TypeVar("Module", bound=nn.Module)


def blocks(model: nn.Module) -> list[nn.Module]:
    """The transformer blocks of every tower, in the model's order.

    Raises:
        ValueError: there is none, so that nothing could be shared out or computed twice.
    """
    found = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not found:
        raise ValueError(f"{type(model).__name__} holds no transformer block that transformers marks as one")
    return found


def sharded(module: Module, ranks: Ranks, precision: str, shared: Sequence[object] = ()) -> Module:
    """A twin of `module` of which each rank holds a part, and which adds up gradients over the ranks by itself.

    `module` stays whole and moves to the host's memory, from which each block goes to the device by itself. What lies
    outside the blocks (embeddings, projector, head) is one more part, gathered once a pass: the head may then be called
    any number of times, which may differ between ranks. With `precision` bf16 parameters are gathered in bfloat16 and
    gradients summed in float32; the parts stay as they are. `shared` objects are not copied.
    """
    module.to("cpu")
    memo = {id(kept): kept for kept in shared}
    # the same storage under new names: FSDP moves what it is given to the device in place
    memo |= {id(p): nn.Parameter(p.detach(), requires_grad=p.requires_grad) for p in module.parameters()}
    twin = copy.deepcopy(module, memo)
    mesh = init_device_mesh(ranks.device.type, (ranks.count,))
    low = {"param_dtype": torch.bfloat16, "reduce_dtype": torch.float32} if precision == "bf16" else {}
    for part in (*blocks(twin), twin):
        fully_shard(part, mesh=mesh, mp_policy=MixedPrecisionPolicy(**low))
    for part in twin.modules():
        if isinstance(part, FSDPModule):
            # each rank's loss is already its share of the batch's mean; gloo knows sums only
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)
    return twin


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be shared out; then every rank must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def laid_out(value: Tensor, like: Tensor) -> Tensor:
    """`value`, which every rank holds whole, on the device of `like` and, unless it is one number, shared out so."""
    value = value.to(like.device)
    if not isinstance(like, DTensor) or value.ndim == 0:
        return value
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


@contextmanager
def checkpointed(model: nn.Module) -> Iterator[None]:
    """Within the block each transformer block keeps its inputs only and runs once more in the backward pass.

    transformers' own switch acts on blocks in training mode, which those of a frozen language model are not.
    """
    found = blocks(model)
    for block in found:
        # `forward`, not the call: FSDP's hooks stay outside. No generator is restored, since draws are keyed.
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
    try:
        yield
    finally:
        for block in found:
            del block.forward
