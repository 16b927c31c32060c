"""How banks are kept, as a config says it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from graphkd.contrast.bank import Bank, build_bank


@dataclass(frozen=True)
class BankOptions:
    """Options of a feature bank.

    Attributes:
        kind: "full" (a row for every training sample) or "queue" (the most recent `length` samples).
        length: Rows of a queue.
        dtype: How the rows are stored.
        on_host: Keep the rows in host memory while the training runs on another device.
        sharded: Keep N / world of a full bank's rows in each of several processes, which compute the same loss by
            exchanging partial sums.
    """

    NOT_IDENTITY: ClassVar[frozenset[str]] = frozenset({"on_host", "sharded"})

    kind: Literal["full", "queue"] = "full"
    length: int | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    on_host: bool = False
    sharded: bool = False

    def build(self, labels: Tensor, dim: int) -> Bank:
        """Return a bank for the training samples with these labels, int64 [N], of embeddings of width `dim`.

        Raises:
            UserError: The options contradict each other, or the labels are all of one class.
        """
        return build_bank(
            self.kind, labels, dim,
            length=self.length, dtype=self.dtype, on_host=self.on_host, sharded=self.sharded,
        )  # fmt: skip
