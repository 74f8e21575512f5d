"""A weight sync that never ends, loaded by verl in every process: VERL_USE_EXTERNAL_MODULES=tests.verl.hang

The rollout server stops answering at the step that GROUPPPO_HANG_AT names.
"""

import importlib.abc
import importlib.machinery
import os
import sys
import time
from collections.abc import Sequence
from types import ModuleType
from typing import Any

MODULE, VARIABLE = "tests.verl.hang", "GROUPPPO_HANG_AT"
_PLACE = "groupppo.verl.rollouts"


class _AfterLoading(importlib.abc.MetaPathFinder):
    """When verl loads this module, the one to change cannot be imported yet."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _PLACE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        load = spec.loader.exec_module

        def changed(module: ModuleType) -> None:
            load(module)
            stock = module.TransformersServer.load_weights

            def load_weights(self: Any, state: Any, global_steps: int | None) -> None:
                if global_steps == int(os.environ[VARIABLE]):
                    time.sleep(10**6)
                stock(self, state, global_steps)

            module.TransformersServer.load_weights = load_weights

        spec.loader.exec_module = changed
        return spec


if VARIABLE in os.environ:
    sys.meta_path.insert(0, _AfterLoading())
