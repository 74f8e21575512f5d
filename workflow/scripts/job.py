"""What every rule's script shares: one thread, a log, and errors a user can read.

with job(snakemake) as benchmark:
    ...
"""

import os
from pathlib import Path

import __main__

os.environ.setdefault("OMP_NUM_THREADS", "1")
# Read when huggingface_hub is imported. Two jobs download, unless who starts them has the hub offline.
if Path(getattr(__main__, "__file__", "")).name not in ("model.py", "task.py"):
    os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import contextlib
import signal
import sys
import traceback
from collections.abc import Iterator
from typing import Any

from groupppo.config import Benchmark, load_benchmark
from groupppo.errors import GroupPPOError
from groupppo.records.storage import no_room
from groupppo.slurm.takeover import end_with_snakemake

DEFAULT_BENCHMARK = "benchmarks/quick.yaml"


@contextlib.contextmanager
def job(snakemake: Any, *, own_log: bool = False) -> Iterator[Benchmark]:
    """Give the benchmark to the script's body; its output goes to the rule's log, its error also to the screen.

    Args:
        snakemake: the object Snakemake gives a script.
        own_log: the body writes the log itself.
    """
    # Snakemake ends jobs with SIGTERM; as an exception it lets the body end what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    end_with_snakemake(Path(".snakemake"))
    screen = sys.stderr
    log = Path(snakemake.log[0])
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            if not own_log:
                file = stack.enter_context(log.open("w", encoding="utf-8", buffering=1))
                stack.enter_context(contextlib.redirect_stdout(file))
                stack.enter_context(contextlib.redirect_stderr(file))
            yield load_benchmark(snakemake.config.get("benchmark", DEFAULT_BENCHMARK))
    except GroupPPOError as error:
        print(error, file=screen)
        sys.exit(1)
    except BaseException as error:
        lack = no_room(Path(snakemake.output[0]), _text(error)) if isinstance(error, Exception) else None
        if lack is not None:
            print(lack, file=screen)
            sys.exit(1)
        with log.open("a", encoding="utf-8") as file:
            file.write(traceback.format_exc())
        raise


def _text(error: BaseException) -> str:
    """Of an error and of those that it came from: a library may hand on the system's in one of its own."""
    before = error.__cause__ or error.__context__
    return f"{error}\n{_text(before)}" if before else str(error)
