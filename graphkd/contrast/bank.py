"""Feature banks: the embeddings of all training samples, or of the most recent ones."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from graphkd.contrast.samples import ClassOrder, Samples
from graphkd.contrast.shard import Shard, inside, take_from_first
from graphkd.contrast.view import BankView, fetch
from graphkd.errors import check, choices

if TYPE_CHECKING:
    from typing_extensions import Self

UNFILLED = -1
_INIT_ROWS = 1 << 16


class Bank(ABC):
    """Embeddings of training samples, written after each step and never differentiated through.

    Neither a module nor made of buffers, so that each process of a distributed training keeps its own.

    Args:
        labels: Class of every training sample, int64 [N].
        dim: Width D of an embedding.
        shard: Which of the R rows this process keeps.
        dtype: Storage type: float32, bfloat16 or float16 (float64 for tests of exactness).
        on_host: Keep the rows in host memory whatever the training's device; they are then copied chunk by chunk
            (which waits for the host, unlike everything else here).
        generator: Of the initial rows, uniform in ±1/sqrt(D/3), not normalised. They are drawn on its device (on the
            CPU if None), so that they do not depend on the training's device.

    Attributes:
        rows: The rows that this process keeps, in the storage type: [R, D], unless the bank is sharded.
        indices: Dataset index of each row, int64 [R], -1 where unfilled; None where row i is sample i.
        shard: Which of the R rows these are.
        device: Device of the training, and of everything given to and returned by the bank.

    Raises:
        UserError: The labels are not int64 [N], negative, or all of one class.
    """

    STATE: ClassVar[frozenset[str]] = frozenset({"rows"})
    """Keys of a saved state."""
    rows: Tensor
    indices: Tensor | None = None

    def __init__(
        self,
        labels: Tensor,
        dim: int,
        shard: Shard,
        dtype: torch.dtype,
        on_host: bool,
        generator: torch.Generator | None,
    ) -> None:
        check(
            labels.dim() == 1 and labels.dtype == torch.int64,
            f"a bank needs the training labels as int64 [N], not {labels.dtype} {list(labels.shape)}",
        )
        check(len(labels) > 0 and int(labels.min()) >= 0, "a bank needs training labels of 0 or more")
        check(
            bool((labels != labels[0]).any()),
            f"all {len(labels)} training labels are {int(labels[0])}: contrast needs at least two classes",
        )
        self.samples = Samples(labels)
        self.device = labels.device
        self.on_host = on_host
        self.shard = shard
        own = shard.rows
        self.rows = torch.empty(own.stop - own.start, dim, dtype=dtype, device="cpu" if on_host else labels.device)
        self._draw(generator)

    def twin(self, generator: torch.Generator | None = None) -> Self:
        """Return a bank of the same samples with its own initial rows; the samples' classes are shared."""
        other = copy.copy(self)
        other.rows = torch.empty_like(self.rows)
        other._draw(generator)
        return other

    def _draw(self, generator: torch.Generator | None) -> None:
        """Draw the initial rows."""
        own, dim = self.shard.rows, self.rows.shape[1]
        bound = (dim / 3) ** -0.5
        drawn_on = generator.device if generator is not None else torch.device("cpu")
        for start in range(0, self.shard.total, _INIT_ROWS):
            stop = min(start + _INIT_ROWS, self.shard.total)
            # Every process draws all rows, so that a row starts the same wherever it is kept.
            drawn = torch.empty(stop - start, dim, device=drawn_on).uniform_(-bound, bound, generator=generator)
            first, last = max(start, own.start), min(stop, own.stop)
            if first < last:
                self.rows[first - own.start : last - own.start] = drawn[first - start : last - start].to(self.rows)

    @property
    @abstractmethod
    def labels(self) -> Tensor:
        """Class of each of the R rows, int32 [R]; -1 where unfilled."""

    @property
    @abstractmethod
    def used(self) -> int:
        """Number of filled rows U, which come first."""

    @property
    @abstractmethod
    def largest_class(self) -> int:
        """Upper bound on the number of filled rows of a class, known without waiting for the device."""

    @abstractmethod
    def by_class(self) -> ClassOrder:
        """Return the filled rows sorted by class."""

    def view(self) -> BankView:
        """Return the bank as graph builders see it."""
        return BankView(self.rows, self.labels, self.indices, self.shard)

    @torch.no_grad()
    def gather(self, indices: Tensor, fallback: Tensor) -> Tensor:
        """Return the banked embeddings of samples (collective where the bank is sharded).

        Args:
            indices: Dataset indices, int64 [B].
            fallback: Values for samples that are not banked, [B, D].

        Returns:
            Float32 [B, D] (float64 from a float64 bank), a copy without gradient.
        """
        return self.shard.sum(self._held(indices, fallback))

    def fetch(self, rows: slice | Tensor, dtype: torch.dtype) -> Tensor:
        """Return rows by their place in the whole bank, a slice or int64 of any shape [...], as `dtype` [..., D].

        A sharded bank returns own rows only: in place of another one, the own row next to it.
        """
        if isinstance(rows, Tensor):
            return fetch(self.rows, self.shard.local(rows), self.device, dtype)
        start = self.shard.rows.start
        return fetch(self.rows, slice(rows.start - start, rows.stop - start), self.device, dtype)

    @torch.no_grad()
    def update(self, indices: Tensor, values: Tensor, momentum: float) -> None:
        """Update rows: row <- normalize(momentum * row + (1 - momentum) * value).

        A sample that is not banked yet is added with its normalised value.

        Args:
            indices: Dataset indices, each at most once, int64 [B].
            values: Their new embeddings, [B, D].
            momentum: Share of the old row, in [0, 1].
        """
        values = values.to(torch.promote_types(self.rows.dtype, torch.float32))
        moved = momentum * self._held(indices, values) + (1 - momentum) * values
        self._write(self._place(indices), F.normalize(moved, dim=1))

    def take_from_first(self, device: torch.device) -> None:
        """Take the rows of process 0 (collective), where each process keeps all: they must be the same everywhere."""
        if self.shard.world == 1:
            take_from_first(self.rows, device)

    def to(self, device: torch.device | str) -> Self:
        """Move the bank in place to the training's device; rows on the host stay there."""
        self.device = torch.device(device)
        if not self.on_host:
            self.rows = self.rows.to(device)
        self.samples.to(self.device)
        return self

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint; the tensors are the bank's own, not copies.

        Collective where the bank is sharded: process 0 then returns the whole bank, in host memory; the others return
        their own rows, which cannot be loaded.
        """
        return {"rows": self.shard.collect(self.rows, self.device)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a saved state, converted to this bank's type and device.

        A state holds the whole bank, so that it fits any number of processes; each takes its own rows.

        Raises:
            UserError: It was saved from a bank of another kind or shape.
        """
        check(
            state.keys() == self.STATE,
            f"the saved bank holds {choices(state)}, but this {type(self).__name__} holds {choices(self.STATE)}",
        )
        saved, own = list(state["rows"].shape), [self.shard.total, self.rows.shape[1]]
        check(saved == own, f"the saved bank is {saved} (rows, width), but this one is {own}")
        self.rows.copy_(state["rows"][self.shard.rows])

    @abstractmethod
    def _held(self, indices: Tensor, fallback: Tensor) -> Tensor:
        """Return this process's part of the sum in `gather`."""

    def _write(self, places: Tensor, values: Tensor) -> None:
        """Replace the rows at these places in the bank, int64 [B], by values [B, D]."""
        self.rows.index_copy_(0, places.to(self.rows.device), values.to(self.rows.device, self.rows.dtype))

    @abstractmethod
    def _place(self, indices: Tensor) -> Tensor:
        """Assign rows to these samples and return the rows' places in the bank, int64 [B]."""


class FullBank(Bank):
    """One row for every training sample: row i is sample i. Arguments as in `Bank`, and `sharded`.

    A sharded bank cuts its rows, in order, over the processes of `torch.distributed` (in `to`, if that was started
    later); every process must then be given the same batches. Fewer samples than processes are a `UserError`.
    """

    def __init__(
        self,
        labels: Tensor,
        dim: int,
        *,
        dtype: torch.dtype = torch.float32,
        on_host: bool = False,
        sharded: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        shard = Shard.here(len(labels)) if sharded else Shard(len(labels))
        super().__init__(labels, dim, shard, dtype, on_host, generator)
        self.sharded = sharded

    @property
    def labels(self) -> Tensor:
        return self.samples.labels

    @property
    def used(self) -> int:
        return self.shard.total

    @property
    def largest_class(self) -> int:
        return self.samples.largest_class

    def by_class(self) -> ClassOrder:
        return self.samples.order

    def to(self, device: torch.device | str) -> Self:
        if self.sharded and self.shard.world == 1:
            self.shard = Shard.here(self.shard.total)
            if self.shard.world > 1:
                self.rows = self.rows[self.shard.rows].clone()
        return super().to(device)

    def _held(self, indices: Tensor, fallback: Tensor) -> Tensor:
        # Zeros for rows of other processes; every sample is banked on one of them.
        found = self.fetch(indices, torch.promote_types(self.rows.dtype, torch.float32))
        return found if self.shard.world == 1 else found * inside(indices, self.shard.rows)[:, None]

    def _place(self, indices: Tensor) -> Tensor:
        return indices

    def _write(self, places: Tensor, values: Tensor) -> None:
        if self.shard.world > 1:
            # Leaving out the rows of others would wait for the device. So they repeat the first write to an own row,
            # or write an own row back.
            own = inside(places, self.shard.rows)
            values = torch.where(own[:, None], values, self.fetch(places, values.dtype))
            turns = torch.where(own, torch.arange(len(own), device=own.device), own.int().argmax())
            places, values = self.shard.local(places)[turns], values[turns]
        super()._write(places, values)


class QueueBank(Bank):
    """The most recently seen samples, for training sets too large for a row each.

    Arguments as in `Bank`, and the number of rows `length`; below 1 it is a `UserError`. The labels and a table of the
    samples' rows take 8 N bytes more.
    """

    STATE = Bank.STATE | {"labels", "indices", "pushed"}
    indices: Tensor

    def __init__(
        self,
        labels: Tensor,
        dim: int,
        length: int,
        *,
        dtype: torch.dtype = torch.float32,
        on_host: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        check(length >= 1, f"the queue's length is {length}, but must be 1 or more")
        super().__init__(labels, dim, Shard(length), dtype, on_host, generator)
        self._row_of = torch.zeros_like(self.samples.labels)
        self._labels = self._row_of.new_full((length,), UNFILLED)
        self.indices = labels.new_full((length,), UNFILLED)
        self._pushed = 0

    def twin(self, generator: torch.Generator | None = None) -> Self:
        other = super().twin(generator)
        other._labels, other.indices, other._row_of = self._labels.clone(), self.indices.clone(), self._row_of.clone()
        return other

    def to(self, device: torch.device | str) -> Self:
        self._labels, self.indices = self._labels.to(device), self.indices.to(device)
        self._row_of = self._row_of.to(device)
        return super().to(device)

    @property
    def labels(self) -> Tensor:
        return self._labels

    @property
    def used(self) -> int:
        return min(self._pushed, len(self.rows))

    @property
    def largest_class(self) -> int:
        # Elsewhere only the device knows the classes in the queue.
        if self.used == 0 or self._labels.device.type != "cpu":
            return self.used
        return int(torch.bincount(self._labels[: self.used]).max())

    def by_class(self) -> ClassOrder:
        return ClassOrder.of(self.labels[: self.used], self.samples.classes)

    def _held(self, indices: Tensor, fallback: Tensor) -> Tensor:
        rows = self._row_of[indices].long()
        banked = self.indices[rows] == indices
        found = self.fetch(rows, torch.promote_types(self.rows.dtype, torch.float32))
        return torch.where(banked[:, None], found, fallback.to(found.dtype))

    def update(self, indices: Tensor, values: Tensor, momentum: float) -> None:
        """Overwrite the oldest rows; a sample that is still banked adds its row's moving average."""
        length = len(self.rows)
        super().update(indices[-length:], values[-length:], momentum)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"labels": self.labels, "indices": self.indices, "pushed": self._pushed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.labels.copy_(state["labels"])
        self.indices.copy_(state["indices"])
        self._pushed = state["pushed"]
        turns = torch.arange(self._pushed - self.used, self._pushed, device=self.device)
        latest = torch.zeros_like(self._row_of, dtype=torch.int64)
        latest.scatter_reduce_(0, self.indices[turns % len(self.rows)], turns, "amax")
        self._row_of = (latest % len(self.rows)).to(torch.int32)

    def _place(self, indices: Tensor) -> Tensor:
        turns = torch.arange(self._pushed, self._pushed + len(indices), device=self.device)
        self._pushed += len(indices)
        rows = turns % len(self.rows)
        self.labels[rows] = self.samples.labels[indices]
        self.indices[rows] = indices
        self._row_of[indices] = rows.to(torch.int32)
        return rows
