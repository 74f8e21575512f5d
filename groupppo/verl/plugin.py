"""Loaded by `import verl` in every process, Ray workers included (entry-point group `verl.plugins`).

It runs on every import of verl in this environment, so it is short and does nothing unless the launcher asked by
variables: for the CPU platform, for packages to be hidden, or for stacks when it sends a signal.
"""

import os
import sys

from groupppo.verl import asked_for_cpu
from groupppo.verl.endings import answer

HIDDEN = "GROUPPPO_HIDDEN_PACKAGES"
"""Variable with packages, separated by commas, that look as if they were not installed."""


def _register() -> None:
    answer()
    # verl imports vLLM wherever it is installed (checkpoint_engine/hccl_checkpoint_engine.py:20), which costs every
    # process more than a second. With None in the place of its module, Python finds no such package.
    for package in filter(None, os.environ.get(HIDDEN, "").split(",")):
        sys.modules.setdefault(package, None)  # type: ignore[arg-type]
    if asked_for_cpu():
        from verl.plugin.platform import set_platform

        from groupppo.verl.cpu import PlatformCPU

        set_platform(PlatformCPU())


_register()
