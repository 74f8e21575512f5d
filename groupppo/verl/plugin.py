"""Loaded by `import verl` in every process, Ray workers included (entry-point group `verl.plugins`).

It runs on every verl import of this environment, so it is short and does nothing unless the launcher asked for the CPU
platform through GROUPPPO_PLATFORM=cpu, for packages to be hidden, or for stacks when it sends a signal.
"""

from groupppo.verl.lean import hide_packages
from groupppo.verl.platform import asked_for_cpu
from groupppo.verl.stacks import answer


def _register() -> None:
    hide_packages()
    answer()
    if asked_for_cpu():
        from verl.plugin.platform import set_platform

        from groupppo.verl.cpu.platform import PlatformCPU

        set_platform(PlatformCPU())


_register()
