"""The base class of objectives that contrast embeddings with feature banks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphkd.batch import DistillationBatch, NetworkOutput
from graphkd.contrast import (
    Bank,
    ExplicitSelection,
    FullBank,
    QueueBank,
    Selection,
    build_sampler,
    mean_negative_similarity,
)
from graphkd.contrast.options import BankOptions
from graphkd.errors import check
from graphkd.objective.base import Objective, Setting, Stream

SamplerName = Literal["shared", "explicit", "all", "all_weighted"]
"""Source of the negatives: `shared` (one draw a step for all samples; unbiased, but the draws of a batch are not
independent), `explicit` (drawn for each sample, as published, or given with the batch), `all` (every sample of another
class), `all_weighted` (the same, weighted by K / their number)."""


class Seen(NamedTuple):
    """What a step leaves for the banks: its samples, both networks' embeddings, and the student's logits."""

    indices: Tensor
    student: Tensor
    teacher: Tensor
    logits: Tensor


class ContrastiveObjective(Objective):
    """An objective with a linear head and a bank of embeddings for each network.

    The forward pass of a subclass calls `_bank_later`; `after_step` then writes to the banks, of several batches where
    gradients are accumulated.

    Attributes:
        student_head: `torch.nn.Linear` on the student's embedding; `teacher_head` likewise.
        samples: N, the number of training samples.
    """

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        labels: Tensor,
        dim: int,
        negatives: int,
        temperature: float,
        sampler: SamplerName,
        bank_momentum: float,
        bank: BankOptions,
    ) -> None:
        """Create heads, banks and the sampler; the arguments are those of the subclasses.

        Raises:
            UserError: An option is out of range, or the training set has one class only.
        """
        super().__init__()
        self.check_at_least(1, dim=dim)
        self.check_positive(temperature=temperature)
        self.check_between_0_and_1(bank_momentum=bank_momentum)
        self.student_head = nn.Linear(student_dim, dim)
        self.teacher_head = nn.Linear(teacher_dim, dim)
        self._student_bank = bank.build(labels, dim)
        self._teacher_bank = self._student_bank.twin()
        # Both banks hold the same samples in the same rows, so that one draw is good for both.
        self._sampler = build_sampler(sampler, self._student_bank, negatives)
        self.negatives = negatives
        self.draws_negatives = sampler in ("shared", "explicit")
        self.samples = len(labels)
        self.temperature = temperature
        self.takes_negatives = sampler == "explicit"
        self.bank_momentum = bank_momentum
        self._generators: dict[str, torch.Generator] = {}
        self._pending: list[Seen] = []

    def check(self, setting: Setting) -> None:
        """Check that the banks are of these samples, and that a batch's negatives fit in memory (`Objective.check`)."""
        banked = self._student_bank.samples.labels
        check(
            torch.equal(banked.cpu(), setting.labels.to(banked.dtype)),
            f"objective '{self.name}': its labels, of {len(banked)} samples, are not those of the "
            f"{len(setting.labels)} training samples (labels=data.train_labels)",
        )
        needed, there = 8 * setting.largest_batch * self.negatives, psutil.virtual_memory().total
        check(
            not self.takes_negatives or needed <= there,
            f"objective '{self.name}': negatives is {self.negatives}, which for a batch of {setting.largest_batch} "
            f"takes {needed >> 30} GiB, but this machine has {there >> 30}; choose fewer, or sampler=shared",
        )

    def notes(self, setting: Setting) -> Sequence[str]:
        """Return which options of banks and negatives cannot be met (`Objective.notes`)."""
        found: list[str] = []
        if self.bank_momentum == 1:
            found.append("bank_momentum is 1, so the banks stay as they were drawn")
        rows = len(self._student_bank.rows) if isinstance(self._student_bank, QueueBank) else len(setting.labels)
        if rows < setting.largest_batch:
            found.append(f"bank.length is {rows}, but a batch of {setting.largest_batch} samples does not fit in")
        others = rows - int(setting.labels.bincount().max()) if rows == len(setting.labels) else rows
        if self.draws_negatives and self.negatives > others:
            found.append(
                f"negatives is {self.negatives}, but some samples have just {others} of another class in the bank, so "
                f"they are drawn with repeats (negatives={others} draws fewer)"
            )
        return found

    @property
    def student_bank(self) -> Tensor:
        """The student's banked embeddings, [N, dim]; with `bank.sharded` only the rows that this process keeps."""
        return self._student_bank.rows

    @property
    def teacher_bank(self) -> Tensor:
        """As `student_bank`, of the teacher."""
        return self._teacher_bank.rows

    def prepare(self, device: torch.device, stream: Stream) -> None:
        """Take the streams `negatives` and `builder`, and process 0's banks (`Objective.prepare`)."""
        super().prepare(device, stream)
        for bank in (self._student_bank, self._teacher_bank):
            bank.take_from_first(device)
        self._generators = {name: stream(name) for name in ("negatives", "builder")}

    def after_step(self) -> None:
        """Write the embeddings of the step's batches to the banks."""
        for seen in self._pending:
            self._student_bank.update(seen.indices, seen.student, self.bank_momentum)
            self._teacher_bank.update(seen.indices, seen.teacher, self.bank_momentum)
        self._pending.clear()

    def get_extra_state(self) -> dict[str, Any]:
        """Return the banks, for checkpoints; collective with `bank.sharded` (`Bank.state_dict`)."""
        return {"student_bank": self._student_bank.state_dict(), "teacher_bank": self._teacher_bank.state_dict()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the banks from a checkpoint."""
        self._student_bank.load_state_dict(state["student_bank"])
        self._teacher_bank.load_state_dict(state["teacher_bank"])

    def _embed(self, output: NetworkOutput, indices: Tensor, head: nn.Linear, bank: Bank) -> tuple[Tensor, Tensor]:
        """Return a network's normalised embeddings and the banked ones of the same samples, [B, dim] each."""
        width = output.embedding.shape[1]
        check(
            width == head.in_features,
            f"objective '{self.name}': a network's embedding has {width} features, but {head.in_features} were given "
            "as its student_dim or teacher_dim",
        )
        embedding = project(output.embedding, head)
        return embedding, bank.to(embedding.device).gather(indices, embedding.detach())

    @staticmethod
    @torch.no_grad()
    def _similarities(
        queries: Mapping[str, Tensor], positives: Mapping[str, Tensor], bank: Bank, selection: Selection
    ) -> dict[str, Tensor]:
        """Return the mean similarity of queries, [B, dim] by part, to their positives and negatives."""
        negative = mean_negative_similarity(torch.stack(list(queries.values())), bank, selection)
        found: dict[str, Tensor] = {}
        for part, of_negatives in zip(queries, negative, strict=True):
            found[f"{part}.positive_similarity"] = (queries[part] * positives[part]).sum(1).mean()
            found[f"{part}.negative_similarity"] = of_negatives
        return found

    def _bank_later(self, batch: DistillationBatch, student: Tensor, teacher: Tensor, written: bool = True) -> None:
        """Keep embeddings for `after_step`, if they are to be written; drop those of a step that was not applied."""
        if batch.progress.part == 0:
            self._pending.clear()
        if written:
            logits = batch.student.logits[: len(batch.indices)].detach()
            self._pending.append(Seen(batch.indices, student.detach(), teacher.detach(), logits))

    def _select(self, batch: DistillationBatch) -> Selection:
        """Return the batch's negatives: drawn, or those given with it."""
        if batch.negatives is None:
            return self._sampler.select(batch.labels, self._generators.get("negatives"))
        brings = f"objective '{self.name}': the batch brings negatives, which needs"
        check(self.takes_negatives, f"{brings} sampler=explicit")
        check(isinstance(self._student_bank, FullBank), f"{brings} a full bank, not a queue")
        shape, size = list(batch.negatives.shape), len(batch.labels)
        check(
            len(shape) == 2 and shape[0] == size,
            f"objective '{self.name}': the batch's negatives have shape {shape}, but must be [{size}, K]",
        )
        return ExplicitSelection(batch.negatives.long(), self.samples)


def project(embedding: Tensor, head: nn.Linear) -> Tensor:
    """Return embeddings behind a head, normalised, [B, dim]."""
    return F.normalize(head(embedding.to(head.weight.dtype)), dim=1)
