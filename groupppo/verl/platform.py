"""Which platform a run asks for, and the check that verl really uses it."""

import os

PLATFORM_VARIABLE = "GROUPPPO_PLATFORM"


def asked_for_cpu() -> bool:
    return os.environ.get(PLATFORM_VARIABLE) == "cpu"


def require_platform() -> None:
    """Raise when the platform asked for is not the one verl uses.

    verl logs a plug-in that fails to load at debug level and goes on; this is how launcher and workers find out.

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
