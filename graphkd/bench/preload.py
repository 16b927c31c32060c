"""What a measuring process needs: imported once, by the server that forks them."""

from __future__ import annotations

from typing import Any

from graphkd.bench import PARTS
from graphkd.builder import BUILDERS
from graphkd.gnn import GNNS
from graphkd.graph import dgl_nn
from graphkd.model import MODELS
from graphkd.objective import OBJECTIVES
from graphkd.registry import Registry

__all__ = ["PARTS"]

_REGISTRIES: tuple[Registry[Any], ...] = (BUILDERS, GNNS, MODELS, OBJECTIVES)
for _registry in _REGISTRIES:
    _registry.names()
dgl_nn()
