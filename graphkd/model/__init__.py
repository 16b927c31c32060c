"""Networks: students and teachers by name."""

from __future__ import annotations

from graphkd.model.adapter import Wrapped, wrap
from graphkd.model.base import MODELS, Network, Shapes, output_shapes

__all__ = ["MODELS", "Network", "Shapes", "Wrapped", "output_shapes", "wrap"]
