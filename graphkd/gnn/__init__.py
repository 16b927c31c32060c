"""Graph encoders: how a sample's embedding takes in its neighbours'."""

from graphkd.gnn.base import GNNS, GraphEncoder

__all__ = ["GNNS", "GraphEncoder"]
