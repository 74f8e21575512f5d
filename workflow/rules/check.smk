# Nothing is planned that cannot run: what --config says, and all that `groupppo validate` finds in the benchmark.

import os
import subprocess
import sys

from groupppo.cli.check import note_of_no_faults
from groupppo.errors import suggest

CONFIG_KEYS = (
    "benchmark",
    "site",
    "allow",
    "profile",
    "partial",
    "bundle_checkpoints",
    "bundle_samples",
)


def flag(key, default):
    """A value of --config that is true or false."""
    value = str(config.get(key, default)).lower()
    if value not in ("true", "false"):
        error = BadInput("--config", key, value, "write true or false.")
        raise WorkflowError(str(error))
    return value == "true"


def require_checked():
    """`groupppo validate` in a process of its own, for it loads verl and torch; what was found good is asked once.

    Raises:
        WorkflowError: with every fault.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    good = note_of_no_faults(BENCHMARK, cache)
    if good.is_file():
        return
    done = subprocess.run(
        [sys.executable, "-m", "groupppo.cli", "validate", str(BENCHMARK.source)],
        env=os.environ | {"GROUPPPO_HIDDEN_PACKAGES": "vllm"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise WorkflowError(done.stderr.strip())
    try:
        good.parent.mkdir(parents=True, exist_ok=True)
        good.touch()
    except OSError:
        logger.debug(f"{good} cannot be written: the next plan checks again.")


for key in config:
    if key not in CONFIG_KEYS:
        hint = f"{suggest(key, CONFIG_KEYS)}Known: {', '.join(CONFIG_KEYS)}."
        raise WorkflowError(str(BadInput("--config", key, config[key], hint)))

# Jobs on other machines run what was checked here; of finished runs a report is made in any case.
if workflow.is_main_process and not flag("partial", False):

    require_checked()

if workflow.is_main_process:
    for note in BENCHMARK.notes():
        logger.warning(f"{BENCHMARK.source}: {note}")
