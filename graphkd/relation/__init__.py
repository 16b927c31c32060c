"""Relations: how the samples of a batch, or the classes, stand to each other."""

from graphkd.relation.base import RELATIONS, Relation

__all__ = ["RELATIONS", "Relation"]
