"""Networks: students and teachers by name."""

from __future__ import annotations

from graphkd.model.adapter import Wrapped, wrap
from graphkd.model.base import MODELS, Network, Shapes, output_shapes
from graphkd.model.own_input import OwnInput, adapt_input

__all__ = ["MODELS", "Network", "OwnInput", "Shapes", "Wrapped", "adapt_input", "output_shapes", "wrap"]
