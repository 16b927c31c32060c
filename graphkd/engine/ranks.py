"""The processes of one training: how a batch is cut over them and put together again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from graphkd.batch import NetworkOutput

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Ranks:
    """This process among all those that train together; alone, everything here does nothing.

    Every global batch is cut over the ranks without padding or dropping. Each rank runs the student on its part;
    then all of them see the whole batch's outputs and compute the same objective on it, so that the result means the
    same as on one device: one graph over the whole batch, and the same banks everywhere.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.world, self.rank = fabric.world_size, fabric.global_rank
        # Flags are exchanged on the host, so that the device is never waited for.
        self._host: Any = dist.new_group(backend="gloo") if self.world > 1 else None

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def sizes(self, samples: int) -> list[int]:
        """Return how many samples of a batch each rank has."""
        return [len(part) for part in torch.arange(samples).tensor_split(self.world)]

    def local_slice(self, indices: Tensor) -> Tensor:
        """Return this rank's part of a batch's indices, int64 [n]; the first index where its part would be empty."""
        part = indices.tensor_split(self.world)[self.rank]
        return part if len(part) else indices[:1]

    def all_gather(self, output: NetworkOutput, samples: int, views: int, maps: bool) -> NetworkOutput:
        """Return the outputs of the whole batch, gathered from all ranks; gradients flow back to this rank's part.

        Args:
            output: Of this rank's part, tensors [views x n, ...].
            samples: Samples of the whole batch.
            views: Views of each.
            maps: Whether anybody looks at the feature maps; they are left out otherwise.
        """
        if self.world == 1:
            return output

        def gathered(tensor: Tensor) -> Tensor:
            own = tensor.view(views, -1, *tensor.shape[1:]).transpose(0, 1)
            whole: Tensor = _Gather.apply(own, self.sizes(samples), self.rank)
            return whole.transpose(0, 1).flatten(0, 1)

        return (output if maps else output._replace(features=[], preactivations=None)).map(gathered)

    def average_gradients(self, module: nn.Module) -> None:
        """Make the gradients of a module that every rank computed on the whole batch equal to the last bit."""
        if self.world > 1:
            for parameter in module.parameters():
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= self.world

    def broadcast(self, module: nn.Module) -> None:
        """Give every rank the first one's parameters and buffers."""
        if self.world > 1:
            for tensor in (*module.parameters(), *module.buffers()):
                dist.broadcast(tensor.data, 0)

    def all_reduce_sum(self, sums: Tensor) -> Tensor:
        """Sum over the ranks."""
        if self.world > 1:
            dist.all_reduce(sums)
        return sums

    def all_reduce_max(self, number: int) -> int:
        """Return the highest of the ranks' numbers."""
        if self.world == 1:
            return number
        value = torch.tensor(number)
        dist.all_reduce(value, dist.ReduceOp.MAX, group=self._host)
        return int(value)


class _Gather(torch.autograd.Function):
    """Puts the ranks' parts, [n, ...], together to [samples, ...].

    Every rank computes the same loss on the whole, so the gradient of the own part is just its slice. The averaging of
    the student's gradients over the ranks is undone here.
    """

    @staticmethod
    def forward(ctx: Any, part: Tensor, sizes: list[int], rank: int) -> Tensor:
        ctx.sizes, ctx.rank = sizes, rank
        largest = max(sizes)
        padded = part.new_zeros(largest, *part.shape[1:])
        padded[: sizes[rank]] = part[: sizes[rank]]
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        own = torch.split(gradients[0], ctx.sizes)[ctx.rank] * len(ctx.sizes)
        if len(own) == 0:  # the stand-in's
            own = gradients[0].new_zeros(1, *gradients[0].shape[1:])
        return own, None, None
