"""Fewer imports for runs that do not use vLLM.

verl imports vLLM wherever it is installed (checkpoint_engine/hccl_checkpoint_engine.py:20), which costs every one of
its processes more than a second. A run on the transformers rollout server hides it.
"""

import os
import sys

HIDDEN_VARIABLE = "GROUPPPO_HIDDEN_PACKAGES"


def hide_packages() -> None:
    """Make the packages named in GROUPPPO_HIDDEN_PACKAGES (comma-separated) look as if they were not installed.

    With None in the place of its module, an import of a package fails and `importlib.util.find_spec` finds none.
    """
    for package in filter(None, os.environ.get(HIDDEN_VARIABLE, "").split(",")):
        sys.modules.setdefault(package, None)  # type: ignore[arg-type]
