"""The processes of one training: how a batch is split over them and gathered again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from graphkd.batch import NetworkOutput

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Ranks:
    """This process among those that train together; for a single process every method does nothing.

    Every global batch is split over the ranks without padding or dropping. Each rank runs the student on its part;
    then all ranks see the whole batch's outputs and compute the same objective on it. So the result means the same as
    on one device: one graph over the whole batch, and the same banks everywhere.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.world, self.rank = fabric.world_size, fabric.global_rank
        # Flags are exchanged on the host, so that nothing waits for the device.
        self._host: Any = dist.new_group(backend="gloo") if self.world > 1 else None

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def sizes(self, samples: int) -> list[int]:
        """Return the number of samples of a batch on each rank."""
        return [len(part) for part in torch.arange(samples).tensor_split(self.world)]

    def local_slice(self, indices: Tensor) -> Tensor:
        """Return this rank's part of a batch's indices, int64 [n]; the first index where its part would be empty."""
        part = indices.tensor_split(self.world)[self.rank]
        return part if len(part) else indices[:1]

    def all_gather(self, output: NetworkOutput, samples: int, views: int, maps: bool) -> NetworkOutput:
        """Return the outputs of the whole batch, gathered from all ranks; gradients flow back to this rank's part.

        Args:
            output: Output of this rank's part, tensors [views x n, ...].
            samples: Number of samples in the whole batch.
            views: Number of views of each sample.
            maps: Whether the feature maps are needed; they are left out otherwise.
        """
        if self.world == 1:
            return output

        def gathered(tensor: Tensor) -> Tensor:
            own = tensor.view(views, -1, *tensor.shape[1:]).transpose(0, 1)
            whole: Tensor = _Gather.apply(own, self.sizes(samples), self.rank)
            return whole.transpose(0, 1).flatten(0, 1)

        return (output if maps else output._replace(features=[], preactivations=None)).map(gathered)

    def average_gradients(self, module: nn.Module) -> None:
        """Average a module's gradients, which every rank computed on the whole batch, so that they are bit-equal."""
        if self.world > 1:
            for parameter in module.parameters():
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= self.world

    def broadcast(self, module: nn.Module) -> None:
        """Copy the first rank's parameters and buffers to every rank."""
        if self.world > 1:
            for tensor in (*module.parameters(), *module.buffers()):
                dist.broadcast(tensor.data, 0)

    def all_reduce_sum(self, sums: Tensor) -> Tensor:
        """Return the sum over the ranks."""
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
    """Concatenate the ranks' parts, [n, ...], to [samples, ...].

    Every rank computes the same loss on the whole batch, so the gradient of a rank's part is its slice. The averaging
    of the student's gradients over the ranks is undone here.
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
        if len(own) == 0:  # of the sample that stands in for an empty part
            own = gradients[0].new_zeros(1, *gradients[0].shape[1:])
        return own, None, None
