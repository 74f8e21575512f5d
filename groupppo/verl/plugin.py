"""Loaded by `import verl` in every process, Ray workers included (entry-point group `verl.plugins`).

It runs on every import of verl in this environment, so it is short and does nothing unless the launcher asked by
variables: for the CPU platform, for packages to be hidden, or for stacks when it sends a signal.
"""

import os

from groupppo.verl.endings import answer

PLATFORM = "GROUPPPO_PLATFORM"
"""Variable with the platform that a run is to use; empty or missing for verl's own choice."""


def asked_for_cpu() -> bool:
    return os.environ.get(PLATFORM) == "cpu"


def require_platform() -> None:
    """Check that verl uses the platform that the launcher asked for.

    verl logs a plug-in that fails to load at debug level and goes on; this is how launcher and workers notice.

    Raises:
        RuntimeError: the plug-in was not loaded in this process.
    """
    from verl.plugin.platform import get_platform

    wanted = os.environ.get(PLATFORM, "")
    if wanted and get_platform().device_name != wanted:
        raise RuntimeError(
            f"{PLATFORM}={wanted}, but verl runs on platform {get_platform().device_name!r}: the entry point "
            "groupppo.verl.plugin was not loaded. Install this project into the environment (pip install -e .)."
        )


def _register() -> None:
    answer()
    if os.environ.get("GROUPPPO_HIDDEN_PACKAGES"):
        from groupppo.verl.patches import patch

        patch("hidden packages")
    if asked_for_cpu():
        from verl.plugin.platform import set_platform

        from groupppo.verl.cpu import PlatformCPU

        set_platform(PlatformCPU())


_register()
