"""One training on one process or on many: who takes which part of a batch, and what they tell one another.

`torchrun` (or `accelerate launch`) starts the processes, and each runs the same command. Every batch of the order stays
one optimiser step whatever the number of ranks, who divide it among themselves, so no step ever mixes tiers. Where each
rank holds the whole model, gradients are summed in one piece and in one layout, since what a stage trains is small
beside what it freezes; a resumed run then adds them up in the unbroken run's order, whereas DDP lays its buckets anew
after the first step. Where the model is shared out (`sharding`), FSDP2 adds them up in its own fixed layout.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from accelerate import PartialState
from jaxtyping import Float
from torch import Tensor, distributed, nn

Member = TypeVar("Member")


@dataclass(frozen=True)
class Ranks:
    """This process among `count`; `device` is its own."""

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Every gradient becomes the sum of all ranks' gradients; a parameter without one must lack it everywhere."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self.count == 1 or not gradients:
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        for gradient, summed in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(summed.view_as(gradient))

    def summed(self, values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The sum over all ranks, the same on each."""
        if self.count > 1:
            distributed.all_reduce(values)
        return values

    def told(self, value: int) -> int:
        """The first rank's value, on every rank."""
        if self.count == 1:
            return value
        said = torch.tensor([value], device=self.device)
        distributed.broadcast(said, src=0)
        return int(said.item())


def ranks() -> Ranks:
    """As the launcher started this process; one rank without a launcher. A GPU where there is one."""
    state = PartialState(cpu=not torch.cuda.is_available())
    return Ranks(state.process_index, state.num_processes, state.device)


def share_of(members: Sequence[Member], rank: int, count: int, micro: int) -> list[list[Member]]:
    """One rank's part of a batch, in pieces of `micro` members (0: all in one).

    Over the ranks every member comes once. All ranks get equally many pieces, since they wait for one another; the
    last ones of a rank may be empty.

    Raises:
        ValueError: the batch is empty.
    """
    if not members:
        raise ValueError("a batch without members is no step")
    largest = -(-len(members) // count)
    size = min(micro, largest) if micro else largest
    mine = list(members[rank::count])
    return [mine[start : start + size] for start in range(0, largest, size)]
