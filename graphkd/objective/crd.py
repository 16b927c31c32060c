"""Contrastive representation distillation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphkd.batch import DistillationBatch
from graphkd.contrast import nce, nce_log_normalizer
from graphkd.contrast.options import BankOptions
from graphkd.objective.base import OBJECTIVES, teacher_output
from graphkd.objective.contrastive import ContrastiveObjective, SamplerName


@OBJECTIVES.register("crd")
class CRD(ContrastiveObjective):
    """Each network's embeddings contrasted with the other network's bank (Tian et al., arXiv 1910.10699, eq. 17).

    Positive and negatives of an embedding come from the other network's bank. The loss has the released code's form,
    `graphkd.contrast.nce`, with a constant Z for each direction; both directions are summed.

    Attributes:
        student_head: `torch.nn.Linear` on the student's embedding; `teacher_head` likewise.
        log_normalizers: log Z of the student's and the teacher's queries, [2]; fixed by the first batch that has
            negatives, None before.
    """

    name = "crd"
    needs_maps = False

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        labels: Tensor,
        dim: int = 128,
        negatives: int = 16384,
        temperature: float = 0.07,
        sampler: SamplerName = "shared",
        bank_momentum: float = 0.5,
        bank: BankOptions = BankOptions(),  # noqa: B008 (immutable)
    ) -> None:
        """Create a CRD objective.

        Args:
            student_dim: Width of the student's embedding.
            teacher_dim: Width of the teacher's.
            labels: Class of every training sample, int64 [N].
            dim: Width D of embeddings and banks.
            negatives: K, negatives of each sample.
            temperature: T, by which similarities are divided.
            sampler: Source of the negatives; see `SamplerName`.
            bank_momentum: Share of the old row in an update of a bank.
            bank: Options of both banks.

        Raises:
            UserError: An option is out of range, or the training set has one class only.
        """
        super().__init__(student_dim, teacher_dim, labels, dim, negatives, temperature, sampler, bank_momentum, bank)
        self.log_normalizers: Tensor | None = None

    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        """Return the term `crd`.

        Raises:
            UserError: The batch has negatives, but the sampler is not `explicit` or the bank is a queue.
        """
        indices = batch.indices
        student, banked_student = self._embed(batch.student, indices, self.student_head, self._student_bank)
        teacher, banked_teacher = self._embed(teacher_output(batch), indices, self.teacher_head, self._teacher_bank)
        selection = self._select(batch)
        directions = (
            (student[None], banked_teacher[None], self._teacher_bank, selection, self.temperature),
            (teacher[None], banked_student[None], self._student_bank, selection, self.temperature),
        )
        if self.log_normalizers is None:
            logs = torch.cat([nce_log_normalizer(*direction, self.samples) for direction in directions])
            # A batch whose step is skipped does not fix them.
            if self._student_bank.used > 0 and bool(logs.isfinite().all()):
                self.log_normalizers = logs
        else:
            logs = self.log_normalizers = self.log_normalizers.to(student.device)
        self._bank_later(batch, student, teacher)
        if batch.diagnostics is not None:
            parts = {"student": student}, {"student": banked_teacher}
            batch.diagnostics.update(self._similarities(*parts, self._teacher_bank, selection))
            batch.diagnostics["alignment"] = (student * teacher).detach().sum(1).mean()
        losses = [nce(*direction, log[None], self.samples) for direction, log in zip(directions, logs, strict=True)]
        return {self.name: torch.cat(losses).sum()}

    def get_extra_state(self) -> dict[str, Any]:
        return super().get_extra_state() | {"log_normalizers": self.log_normalizers}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        super().set_extra_state(state)
        self.log_normalizers = state["log_normalizers"]
