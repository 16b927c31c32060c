"""Read-only views of banks for graph builders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from graphkd.contrast.shard import Shard, inside
from graphkd.errors import check

_CHUNK_ROWS = 16384
_BLOCK = 64


@dataclass(frozen=True)
class BankView:
    """A read-only view of a bank; the tensors are the bank's own and must not be written to.

    Attributes:
        kept: Embeddings of the rows that this process keeps, in the bank's storage type and device.
        labels: Class of each of the R rows, int32 [R]; -1 where the row is unfilled.
        indices: Dataset index of each row, int64 [R], -1 where unfilled; None where row i is sample i.
        shard: Which of the R rows this process keeps.
    """

    kept: Tensor
    labels: Tensor
    indices: Tensor | None
    shard: Shard

    @property
    def rows(self) -> Tensor:
        """All rows, [R, D]; a `UserError` where the bank is sharded."""
        check(
            self.shard.world == 1,
            "a graph builder that looks at all of the bank's rows needs them in each process: set bank.sharded=false",
        )
        return self.kept

    def nearest(self, queries: Tensor, count: int, forbid: Callable[[Tensor, slice], None]) -> tuple[Tensor, Tensor]:
        """Return the rows with the largest inner products, chunk by chunk (collective where the bank is sharded).

        Args:
            queries: Float [B, D], the same in all processes.
            count: Number of rows to find.
            forbid: Given the inner products with a chunk of c rows, [B, c], and which rows these are, sets those with
                rows that a query may not take to -inf.

        Returns:
            Inner products, -inf where too few rows are left, and rows, int64; [B, min(count, R)] each.
        """
        count = min(count, self.shard.total)
        best = queries.new_full((len(queries), count), -torch.inf)
        rows = torch.zeros(best.shape, dtype=torch.int64, device=queries.device)
        own = self.shard.rows
        for start in range(own.start, own.stop, _CHUNK_ROWS):
            part = slice(start, min(start + _CHUNK_ROWS, own.stop))
            products = queries @ self.kept[part.start - own.start : part.stop - own.start].to(queries).T
            forbid(products, part)
            values, places = _top(products, min(count, products.shape[1]))
            found = rows, places + part.start
            best, rows = _largest(torch.cat([best, values], dim=1), torch.cat(found, dim=1), count)
        if self.shard.world == 1:
            return best, rows
        return _largest(self.shard.beside(best), self.shard.beside(rows), count)

    def take(self, rows: Tensor, like: Tensor) -> Tensor:
        """Return rows by their place, int64 [S] to [S, D], in the dtype and on the device of `like`.

        Collective where the bank is sharded.
        """
        found = fetch(self.kept, self.shard.local(rows), like.device, like.dtype)
        return self.shard.sum(found * inside(rows, self.shard.rows)[:, None]) if self.shard.world > 1 else found


def fetch(bank_rows: Tensor, rows: slice | Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return rows of a matrix, by a slice or int64 of any shape [...], on a device and in a dtype: [..., D]."""
    if isinstance(rows, Tensor):
        return F.embedding(rows.to(bank_rows.device), bank_rows).to(device).to(dtype)
    return bank_rows[rows].to(device).to(dtype)


def _largest(values: Tensor, rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the largest values of each line and their rows, [B, count] each."""
    best, chosen = values.topk(count, dim=1)
    return best, rows.gather(1, chosen)


def _top(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the `count` largest values of each line and their places, [B, count] each.

    They lie in the `count` blocks whose maxima are largest, so that topk, which is slow, looks at few values.
    """
    missing = -values.shape[1] % _BLOCK
    if values.shape[1] + missing <= count * _BLOCK:
        return values.topk(count, dim=1)
    whole = F.pad(values, (0, missing), value=-torch.inf) if missing else values  # F.pad copies in any case
    blocks = whole.view(len(whole), -1, _BLOCK)
    chosen = blocks.amax(dim=2).topk(count, dim=1).indices
    kept = blocks.gather(1, chosen[:, :, None].expand(-1, -1, _BLOCK)).flatten(1)
    best, places = kept.topk(count, dim=1)
    found = chosen.gather(1, places // _BLOCK) * _BLOCK + places % _BLOCK
    return best, found.clamp(max=values.shape[1] - 1)  # one added at the end is -inf, so its place does not count
