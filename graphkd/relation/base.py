"""The base class of all relations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor

from graphkd.registry import Registry

Form = Literal["tensors", "matrices", "distributions"]
"""What relations of N rows are: tensors [N, N, ...], matrices [N, N], or matrices whose rows are distributions."""
_EPS = 1e-12


class Relation(ABC):
    """Relates the rows of a matrix to each other, without parameters; the rows are samples or classes.

    Values and gradients are finite for any input, also where rows are equal or zero, and for a single row.
    """

    name: ClassVar[str] = ""
    """Name under which it is registered, for messages."""
    form: Form = "matrices"
    """What it returns with the defaults; an option may change it."""
    fewest: int = 2
    """Smallest number of rows whose relations can differ at all, with the defaults; an option may change it."""
    needs_logits: ClassVar[bool] = False
    keeps_width: ClassVar[bool] = False
    """Whether its relations are vectors as wide as the rows, so that both networks' rows must be of one width."""

    def represent(self, outputs: Tensor) -> Tensor:
        """Return what is related of a network's outputs, float64 [B, D] to [B, D]; its columns are the classes."""
        return outputs

    @abstractmethod
    def relate(self, rows: Tensor) -> Tensor:
        """Return the relations of rows, float64 [N, D] to [N, N] or [N, N, ...]."""


RELATIONS: Registry[Relation] = Registry("relation", "graphkd.relation")


def cosines(rows: Tensor) -> Tensor:
    """Return the cosine of each pair of rows, float64 [N, D] to [N, N]; 0 (gradient too) for a row of zeros."""
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    unit = rows / torch.where(norms > _EPS, norms, torch.inf)
    return unit @ unit.T


def over_sum(rows: Tensor) -> Tensor:
    """Return rows that are not negative, float64 [N, N], each divided by its sum; a row of zeros stays one."""
    return rows / rows.sum(1, keepdim=True).clamp_min(_EPS)
