"""The Mahalanobis distance of relations."""

from __future__ import annotations

import torch
from torch import Tensor

from graphkd.discrepancy.base import DISCREPANCIES, Discrepancy
from graphkd.errors import check

_ROUNDING = 1e-12


@DISCREPANCIES.register("mahalanobis")
class Mahalanobis(Discrepancy):
    """The mean over rows of sqrt(d^T (cov(d) + ridge I)^-1 d), d = a row's difference (streamlined KD, CVPR 2026)."""

    name = "mahalanobis"
    takes = ("matrices", "distributions")

    def __init__(self, ridge: float = 0.1) -> None:
        """Create a Mahalanobis distance.

        Args:
            ridge: What is added to the diagonal of the covariance. `skd` divides its cosines by the number of classes
                C, which comes to 0.1 C^2 here.

        Raises:
            UserError: `ridge` is not positive.
        """
        check(ridge > 0, f"discrepancy 'mahalanobis': ridge is {ridge}, but must be positive")
        self.ridge = ridge

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        return mahalanobis(student - teacher, self.ridge).mean()


def mahalanobis(rows: Tensor, ridge: float) -> Tensor:
    """Return sqrt(d^T (cov + ridge I)^-1 d) of each row d, float64 [B, D] to [B]; a row of zeros has gradient 0."""
    centred = rows - rows.mean(0)
    covariance = centred.T @ centred / max(1, len(rows) - 1)
    smallest = (_ROUNDING * covariance.diagonal().sum()).clamp_min(ridge)  # else very large rows leave it singular
    factor = torch.linalg.cholesky_ex(
        covariance + smallest.expand(len(covariance)).diag()
    ).L  # cholesky() would make the host wait for a GPU
    whitened = torch.linalg.solve_triangular(factor, rows.T, upper=False)
    distances: Tensor = torch.linalg.vector_norm(whitened, dim=0)
    return distances
