"""How fast and how small graphkd is on this machine, beside the published arrangement of the same computation."""

from graphkd.bench.case import Case, Settings, Sides
from graphkd.bench.measurement import FULL, QUICK, Effort, Row, measure
from graphkd.bench.parts import PARTS, select_cases
from graphkd.bench.results import Results, hardware

__all__ = [
    "FULL",
    "PARTS",
    "QUICK",
    "Case",
    "Effort",
    "Results",
    "Row",
    "Settings",
    "Sides",
    "hardware",
    "measure",
    "select_cases",
]
