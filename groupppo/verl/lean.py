"""Fewer imports for runs that do not use vLLM.

verl imports vLLM wherever it is installed (checkpoint_engine/hccl_checkpoint_engine.py:20), which costs every one of
its processes more than a second. A run on the transformers rollout server hides it.
"""

import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Sequence
from types import ModuleType

HIDDEN_VARIABLE = "GROUPPPO_HIDDEN_PACKAGES"


class _Hidden(importlib.abc.MetaPathFinder):
    def __init__(self, packages: frozenset[str]):
        self.packages = packages

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] in self.packages:
            raise ModuleNotFoundError(f"{fullname} is hidden by {HIDDEN_VARIABLE}", name=fullname)
        return None


def hide_packages() -> None:
    """Make the packages named in GROUPPPO_HIDDEN_PACKAGES (comma-separated) look as if they were not installed."""
    packages = frozenset(filter(None, os.environ.get(HIDDEN_VARIABLE, "").split(",")))
    if packages and not any(isinstance(finder, _Hidden) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Hidden(packages))
