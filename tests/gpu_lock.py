"""`make gpu-lock`: what requirements/gpu.lock installs, looked at from inside, on a machine that needs no GPU.

.venv-gpu/bin/python -m tests.gpu_lock      # a line a check; ends with 1 if one fails
"""

import contextlib
import importlib
import pkgutil
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from io import StringIO

import groupppo
from groupppo.config import REPOSITORY
from tests.verl.vllm_engine import engines_of, faults

LOCK = REPOSITORY / "requirements" / "gpu.lock"
SHOWN = ("verl", "vllm", "torch", "transformers", "ray", "triton", "numpy")


def pip_check() -> tuple[str, list[str]]:
    """Of all packages' bounds."""
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[-1] if lines else "", lines if done.returncode else []


def versions() -> tuple[str, list[str]]:
    """Whether what is installed is what the lock names."""
    locked = dict(re.findall(r"^([A-Za-z0-9][\w.-]*)==([^\s;]+)", LOCK.read_text(), re.MULTILINE))
    wrong = []
    for name, wanted in locked.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            found = "missing"
        if found != wanted:
            wrong.append(f"{name}: {found}, not {wanted}")
    shown = ", ".join(f"{name} {locked[name]}" for name in SHOWN)
    return f"{len(locked)} packages, Python {platform.python_version()}: {shown}", wrong


def modules() -> tuple[str, list[str]]:
    """Whether every module of the package can be imported."""
    names = [module.name for module in pkgutil.walk_packages(groupppo.__path__, "groupppo.")]
    wrong = []
    said = StringIO()  # of packages that are not there for engines that nobody asks for, and of a driver
    for name in names:
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                importlib.import_module(name)
        except (ImportError, AttributeError, OSError, RuntimeError) as error:
            wrong.append(f"{name}: {type(error).__name__}: {error}")
    return f"{len(names)} modules", wrong


def engines() -> tuple[str, list[str]]:
    """vLLM's engine config of every kind of cell of the GPU matrices."""
    made, said = engines_of(sys.executable)
    wrong = faults(made) if made else said.splitlines()[-5:]
    return f"{len(made)} kinds of cells and controls, model runner {made[0].runner if made else None}", wrong


CHECKS: dict[str, Callable[[], tuple[str, list[str]]]] = {
    "pip check": pip_check,
    "versions": versions,
    "imports": modules,
    "vLLM's engines": engines,
}


def main() -> int:
    failed = 0
    for name, look in CHECKS.items():
        seen, wrong = look()
        print(f"{'FAILED' if wrong else 'ok':8}{name}: {seen}", *wrong, sep="\n        ", flush=True)
        failed += bool(wrong)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
