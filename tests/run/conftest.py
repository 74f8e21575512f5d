"""Cells as in tests/verl."""

from tests.verl.conftest import allowed_reward, make_cell, paid_task, paid_task_folder, quick

__all__ = ["allowed_reward", "make_cell", "paid_task", "paid_task_folder", "quick"]
