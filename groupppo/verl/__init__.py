"""The only room that imports verl: plug-in, trainer, rollouts and the launcher. verl itself is stock."""

import os

PLATFORM = "GROUPPPO_PLATFORM"
"""Variable with the platform that a run is to use; empty or missing for verl's own choice."""


def asked_for_cpu() -> bool:
    return os.environ.get(PLATFORM) == "cpu"


def require_platform() -> None:
    """Raise RuntimeError unless verl uses the platform that the launcher asked for.

    verl logs a plug-in that fails to load at debug level and goes on; this is how launcher and workers notice.
    """
    from verl.plugin.platform import get_platform

    wanted = os.environ.get(PLATFORM, "")
    if wanted and get_platform().device_name != wanted:
        raise RuntimeError(
            f"{PLATFORM}={wanted}, but verl runs on platform {get_platform().device_name!r}: the entry point "
            "groupppo.verl.plugin was not loaded. Install this project into the environment (pip install -e .)."
        )


# Where verl is to load the trainer by itself (register.py), verl comes first: a worker may ask for one of our modules
# before it imports verl, which would then import the trainer while that module is half made.
if "groupppo.verl.register" in os.environ.get("VERL_USE_EXTERNAL_MODULES", ""):
    import verl  # noqa: F401
