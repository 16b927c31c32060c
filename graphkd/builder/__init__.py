"""Graph builders: which samples of a batch are neighbours."""

from graphkd.builder.base import BUILDERS, GraphBuilder

__all__ = ["BUILDERS", "GraphBuilder"]
