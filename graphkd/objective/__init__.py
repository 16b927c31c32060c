"""Objectives: what the student learns from, alone and as weighted sums."""

from graphkd.objective.base import OBJECTIVES, Objective
from graphkd.objective.stage import Stage
from graphkd.objective.weighted_sum import Losses, WeightedSum

__all__ = ["OBJECTIVES", "Losses", "Objective", "Stage", "WeightedSum"]
