"""The rows of a bank that a process keeps, and the exchanges between processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from graphkd.errors import check

_CHUNK_ROWS = 1 << 16


@dataclass(frozen=True)
class Shard:
    """One process's part of a matrix of rows; a single process has all of them, and exchanges nothing.

    The exchanges are collective: every process must make the same ones in the same order.

    Attributes:
        total: Number of rows N of all processes together.
        rank: Rank of this process.
        world: Number of processes.
    """

    total: int
    rank: int = 0
    world: int = 1

    @classmethod
    def here(cls, total: int) -> Shard:
        """Return this process's part under `torch.distributed`, or all rows where that is not initialised.

        Raises:
            UserError: There are fewer rows than processes.
        """
        if not (dist.is_available() and dist.is_initialized()):
            return cls(total)
        world = dist.get_world_size()
        check(total >= world, f"bank.sharded: {total} training samples cannot be shared among {world} processes")
        return cls(total, dist.get_rank(), world)

    @property
    def rows(self) -> slice:
        """The own rows, at most ceil(N / world)."""
        return slice(self.total * self.rank // self.world, self.total * (self.rank + 1) // self.world)

    @property
    def within(self) -> slice | None:
        """The own rows, or None where these are all rows."""
        return self.rows if self.world > 1 else None

    def local(self, rows: Tensor) -> Tensor:
        """Return the places of rows among the own ones; for a row of another process, the nearest own one."""
        own = self.rows
        return rows if self.world == 1 else rows.clamp(own.start, own.stop - 1) - own.start

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over the processes, computed in place."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def max(self, values: Tensor) -> Tensor:
        """Return the maximum over the processes, computed in place."""
        if self.world > 1:
            dist.all_reduce(values, dist.ReduceOp.MAX)
        return values

    def beside(self, values: Tensor) -> Tensor:
        """Return the values of all processes, [B, c] each, side by side: [B, world * c]."""
        parts = [torch.empty_like(values) for _ in range(self.world)]
        dist.all_gather(parts, values.contiguous())
        return torch.cat(parts, dim=1)

    def collect(self, rows: Tensor, device: torch.device) -> Tensor:
        """Gather all rows in the host memory of process 0, by exchanges on a device.

        Returns:
            [N, D] on process 0; the own rows, [n, D], on the others.
        """
        if self.world == 1:
            return rows
        whole = rows if self.rank else rows.new_empty(self.total, rows.shape[1], device="cpu")
        for source in range(self.world):
            part = Shard(self.total, source, self.world).rows
            for start in range(part.start, part.stop, _CHUNK_ROWS):
                chunk = slice(start, min(start + _CHUNK_ROWS, part.stop))
                if source == self.rank:
                    sent = rows[start - part.start : chunk.stop - part.start].to(device).contiguous()
                else:
                    sent = rows.new_empty(chunk.stop - chunk.start, rows.shape[1], device=device)
                dist.broadcast(sent.view(torch.uint8), source)
                if self.rank == 0:
                    whole[chunk] = sent.cpu()
        return whole


def take_from_first(rows: Tensor, device: torch.device) -> None:
    """Replace rows in place by those of process 0, by exchanges on a device, if there are several processes."""
    if dist.is_available() and dist.is_initialized():
        for chunk in torch.split(rows, _CHUNK_ROWS):
            sent = chunk.to(device).contiguous()
            dist.broadcast(sent.view(torch.uint8), 0)
            chunk.copy_(sent)


def inside(rows: Tensor, part: slice) -> Tensor:
    """Return which rows lie in a slice: bool, shaped like `rows`."""
    return torch.logical_and(rows >= part.start, rows < part.stop)


def slices(whole: slice, step: int) -> Iterator[slice]:
    """Yield a slice cut into slices of `step`, the last one shorter."""
    for start in range(whole.start, whole.stop, step):
        yield slice(start, min(start + step, whole.stop))
