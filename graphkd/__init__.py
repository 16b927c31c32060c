"""graphkd: graph-based knowledge distillation, assembled by configuration alone.

Names are imported when they are first used, so that `import graphkd.report` loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphkd.batch import DistillationBatch, NetworkOutput, Progress
    from graphkd.builder import BUILDERS
    from graphkd.data import DATASETS
    from graphkd.discrepancy import DISCREPANCIES
    from graphkd.engine.distill import Result, distill
    from graphkd.engine.trainer import Trainer
    from graphkd.errors import UserError
    from graphkd.gnn import GNNS
    from graphkd.graph import BatchGraph, Nodes
    from graphkd.logger import LOGGERS
    from graphkd.model import MODELS, wrap
    from graphkd.objective import OBJECTIVES, WeightedSum
    from graphkd.relation import RELATIONS
    from graphkd.run.export import export
    from graphkd.run.finished import load

__all__ = [
    "BUILDERS",
    "DATASETS",
    "DISCREPANCIES",
    "GNNS",
    "LOGGERS",
    "MODELS",
    "OBJECTIVES",
    "RELATIONS",
    "BatchGraph",
    "DistillationBatch",
    "NetworkOutput",
    "Nodes",
    "Progress",
    "Result",
    "Trainer",
    "UserError",
    "WeightedSum",
    "distill",
    "export",
    "load",
    "wrap",
]

_HOMES = {
    "BUILDERS": "builder",
    "DATASETS": "data",
    "DISCREPANCIES": "discrepancy",
    "GNNS": "gnn",
    "LOGGERS": "logger",
    "MODELS": "model",
    "OBJECTIVES": "objective",
    "RELATIONS": "relation",
    "BatchGraph": "graph",
    "DistillationBatch": "batch",
    "NetworkOutput": "batch",
    "Nodes": "graph",
    "Progress": "batch",
    "Result": "engine.distill",
    "Trainer": "engine.trainer",
    "UserError": "errors",
    "WeightedSum": "objective",
    "distill": "engine.distill",
    "export": "run.export",
    "load": "run.finished",
    "wrap": "model",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'graphkd' has no attribute '{name}'")
    return getattr(importlib.import_module(f"graphkd.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
