"""A weight sync that never ends, loaded by verl in every process: VERL_USE_EXTERNAL_MODULES=tests.run.hang

The rollout server stops answering at the step that GROUPPPO_HANG_AT names.
"""

import os
import time
from types import ModuleType
from typing import Any

import wrapt

MODULE, VARIABLE = "tests.run.hang", "GROUPPPO_HANG_AT"


def _change(rollouts: ModuleType) -> None:
    stock = rollouts.TransformersServer.load_weights

    def load_weights(self: Any, state: Any, global_steps: int | None) -> None:
        if global_steps == int(os.environ[VARIABLE]):
            time.sleep(10**6)
        stock(self, state, global_steps)

    rollouts.TransformersServer.load_weights = load_weights


if VARIABLE in os.environ:  # when verl loads this module, the one to change cannot be imported yet
    wrapt.register_post_import_hook(_change, "groupppo.verl.rollouts")
