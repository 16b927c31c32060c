"""Discrepancies: how far the student's relations are from the teacher's."""

from graphkd.discrepancy.base import DISCREPANCIES, Discrepancy

__all__ = ["DISCREPANCIES", "Discrepancy"]
