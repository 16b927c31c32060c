"""Information-theoretic representation distillation: correlated features, and similar samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from graphkd.batch import DistillationBatch
from graphkd.objective.base import OBJECTIVES, Objective, Setting, teacher_output

_ROUNDING = 1e-6
"""A column that varies by a smaller share of its size counts as constant."""
_SMALLEST_LENGTH = 1e-12


@OBJECTIVES.register("itrd")
class ITRD(Objective):
    """Correlation and mutual information of the embeddings (Miles et al., arXiv 2112.00459).

    `correlation` is log2 sum_x |c_x - 1|^(2 alpha), where c_x is the correlation over the batch between feature x of
    both networks. `mutual` is sum (G_s^2 - G_st^2), where G_s is the Gram matrix of the student's L2-normalised rows,
    G_st its product, entry by entry, with the teacher's; both are divided by their trace.

    As in the released code, the covariance in c_x is divided by B and the standard deviations by B - 1, so that c_x is
    at most (B - 1) / B; and `mutual` compares embeddings of equal width without the linear layer.

    Attributes:
        embed: `torch.nn.Linear` from the student's width to the teacher's.
    """

    name = "itrd"
    needs_maps = False
    parts = ("correlation", "mutual")
    is_relational = True

    def __init__(self, student_dim: int, teacher_dim: int, alpha: float = 1.01) -> None:
        """Create an ITRD objective.

        Args:
            student_dim: Width of the student's embedding.
            teacher_dim: Width of the teacher's.
            alpha: Order of Renyi's entropy, in `correlation`.

        Raises:
            UserError: `alpha` is not positive.
        """
        super().__init__()
        self.check_positive(alpha=alpha)
        self.alpha = alpha
        self.embed = nn.Linear(student_dim, teacher_dim)
        self._same_width = student_dim == teacher_dim

    def notes(self, setting: Setting) -> Sequence[str]:
        if setting.largest_batch == 2:
            return ["a batch has 2 samples, which correlate fully in any case, so `correlation` teaches nothing"]
        return super().notes(setting)

    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        """Return the terms `correlation` and `mutual`, both without gradient for a batch of one."""
        student, teacher = batch.student.embedding.float(), teacher_output(batch).embedding.float()
        with torch.autocast(student.device.type, enabled=False):
            embedded = self.embed(student)
            return {
                "correlation": self._correlation(embedded, teacher),
                "mutual": _mutual(student if self._same_width else embedded, teacher),
            }

    def _correlation(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of two matrices float32 [B, D]; a constant column has correlation 0."""
        samples = len(student)
        correlations = (_unit_columns(student) * _unit_columns(teacher)).sum(0) * ((samples - 1) / samples)
        return (correlations - 1).abs().pow(2 * self.alpha).sum().log2()


def _mutual(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the loss of two matrices float32 [B, D] and [B, D']; a row of zeros is similar to none."""
    student, teacher = (_divided(rows, _lengths(rows, 1), _SMALLEST_LENGTH) for rows in (student, teacher))
    gram = student @ student.T
    joint = gram * (teacher @ teacher.T)
    return _over_trace(gram).square().sum() - _over_trace(joint).square().sum()


def _over_trace(gram: Tensor) -> Tensor:
    """Divide a Gram matrix by its trace, which is 1 for each row that is not 0."""
    trace = gram.diagonal().sum()  # the gradient of `trace` waits for a GPU
    return gram / trace.clamp_min(1)


def _unit_columns(x: Tensor) -> Tensor:
    """Return the columns of a matrix [B, D] minus their mean, of length 1; zeros for a constant column."""
    centred = x - x.mean(0)
    return _divided(centred, _lengths(centred, 0), _ROUNDING * _lengths(x, 0))


def _lengths(x: Tensor, dim: int) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    return lengths


def _divided(x: Tensor, lengths: Tensor, smallest: Tensor | float) -> Tensor:
    """Return x / lengths where the length is above the smallest; elsewhere 0, without gradient."""
    long = lengths > smallest
    return x * (long / torch.where(long, lengths, 1))
