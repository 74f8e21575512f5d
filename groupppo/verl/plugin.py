"""Loaded by `import verl` in every process, Ray workers included (entry-point group `verl.plugins`).

It runs on every verl import of this environment, so it is short and does nothing unless the launcher asked for the CPU
platform through GROUPPPO_PLATFORM=cpu. verl swallows an error raised here; `require_platform` is how the launcher and
the workers find out.
"""

import os

from groupppo.verl.lean import hide_packages

PLATFORM_VARIABLE = "GROUPPPO_PLATFORM"


def _register() -> None:
    hide_packages()
    if os.environ.get(PLATFORM_VARIABLE) == "cpu":
        from verl.plugin.platform import set_platform

        from groupppo.verl.cpu.platform import PlatformCPU

        set_platform(PlatformCPU())


def require_platform() -> None:
    """Raise when the platform asked for is not the one verl uses, which verl itself would log at debug level only.

    Raises:
        RuntimeError: the plug-in was not loaded in this process.
    """
    from verl.plugin.platform import get_platform

    wanted = os.environ.get(PLATFORM_VARIABLE, "")
    if wanted and get_platform().device_name != wanted:
        raise RuntimeError(
            f"{PLATFORM_VARIABLE}={wanted}, but verl runs on platform {get_platform().device_name!r}: the entry point "
            "groupppo.verl.plugin was not loaded. Install this project into the environment (pip install -e .)."
        )


_register()
