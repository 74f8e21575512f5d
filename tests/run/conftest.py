"""Cells as in tests/verl."""

from tests.verl.conftest import make_cell, quick

__all__ = ["make_cell", "quick"]
