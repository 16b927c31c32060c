"""Runs, from config to record."""

from graphkd.run.execute import run, run_together
from graphkd.run.parse import parse, parse_teacher, read_spec, write_spec
from graphkd.run.rehearsal import check_parts
from graphkd.run.result import RunResult
from graphkd.run.spec import RunSpec, StudentSpec, TeacherSpec

__all__ = [
    "RunResult",
    "RunSpec",
    "StudentSpec",
    "TeacherSpec",
    "check_parts",
    "parse",
    "parse_teacher",
    "read_spec",
    "run",
    "run_together",
    "write_spec",
]
