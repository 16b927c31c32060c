"""Correlation congruence, in the form of the benchmark."""

from __future__ import annotations

from torch import Tensor, nn

from graphkd.batch import DistillationBatch
from graphkd.objective.base import OBJECTIVES, Objective, teacher_output


@OBJECTIVES.register("cc")
class CC(Objective):
    """Differences of embeddings, correlated between neighbours in the batch (Peng et al., arXiv 1904.01802).

    The CRD benchmark's form of the method: the mean over i of sum_c d_i d_{i+1} with d = |student - teacher|, after a
    linear head on each network's embedding.

    Attributes:
        student_head: `torch.nn.Linear` on the student's embedding; `teacher_head` likewise. Both are trained.
    """

    name = "cc"
    needs_maps = False
    is_relational = True

    def __init__(self, student_dim: int, teacher_dim: int, dim: int = 128) -> None:
        """Create a CC objective.

        Args:
            student_dim: Width of the student's embedding.
            teacher_dim: Width of the teacher's.
            dim: Output width of both heads.

        Raises:
            UserError: `dim` is below 1.
        """
        super().__init__()
        self.check_at_least(1, dim=dim)
        self.student_head = nn.Linear(student_dim, dim)
        self.teacher_head = nn.Linear(teacher_dim, dim)

    def forward(self, batch: DistillationBatch) -> dict[str, Tensor]:
        """Return the term `cc`; 0 for a batch of one."""
        student = self.student_head(batch.student.embedding.float())
        teacher = self.teacher_head(teacher_output(batch).embedding.float())
        return {self.name: congruence(student.float(), teacher.float())}


def congruence(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean over i of sum_c d_i d_{i+1} with d = |student - teacher|, from two matrices [B, D]."""
    difference = (student - teacher).abs()
    return (difference[:-1] * difference[1:]).sum() / max(1, len(difference) - 1)
