"""Options of feature banks in a config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor

from graphkd.contrast.bank import Bank, FullBank, QueueBank
from graphkd.errors import UserError, check, one_of

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class BankOptions:
    """Options of a feature bank.

    Attributes:
        kind: "full" (a row for every training sample) or "queue" (the most recent `length` samples).
        length: Rows of a queue.
        dtype: Storage type of the rows.
        on_host: Keep the rows in host memory while the training runs on another device.
        sharded: Keep N / world of a full bank's rows in each of several processes, which exchange partial sums to
            compute the same loss.
    """

    NOT_IDENTITY: ClassVar[frozenset[str]] = frozenset({"on_host", "sharded"})

    kind: Literal["full", "queue"] = "full"
    length: int | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    on_host: bool = False
    sharded: bool = False

    def build(self, labels: Tensor, dim: int, generator: Generator | None = None) -> Bank:
        """Return a bank of these options.

        Args:
            labels: Class of every training sample, int64 [N], on the device of the training.
            dim: Width D of an embedding.
            generator: Of the initial rows.

        Raises:
            UserError: An option is unknown, options contradict each other, or the labels are wrong (see `Bank`).
        """
        one_of(self.kind, ("full", "queue"), "there is no bank")
        dtype = _DTYPES[one_of(self.dtype, _DTYPES, "there is no storage of a bank")]
        if self.kind == "full":
            no_length = f"a full bank has a row for every sample and takes no length ({self.length} given)"
            check(self.length is None, no_length)
            return FullBank(
                labels, dim, dtype=dtype, on_host=self.on_host, sharded=self.sharded, generator=generator
            )  # fmt: skip
        check(not self.sharded, "bank.sharded needs bank.kind: full; a queue is kept whole by every process")
        if self.length is None:
            raise UserError("a queue needs its length (how many of the most recent samples to keep)")
        return QueueBank(labels, dim, self.length, dtype=dtype, on_host=self.on_host, generator=generator)
