"""Networks: students and teachers by name."""

from __future__ import annotations

from graphkd.model.adapter import OwnInput, Wrapped, adapt_input, wrap
from graphkd.model.base import MODELS, Network, Shapes, output_shapes

__all__ = ["MODELS", "Network", "OwnInput", "Shapes", "Wrapped", "adapt_input", "output_shapes", "wrap"]
