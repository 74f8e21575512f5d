"""groupppo gpu-check, and python3 -m groupppo.cli.gpu_check where typer or pydantic is not installed: what of the
project works on this machine's GPU, in ten minutes."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from groupppo.errors import BadInput, suggest

_ABOUT = """See in ten minutes what of the project works on this machine's GPU.

Needs torch, transformers, numba and psutil; runs of verl need the whole lock, and are else named as not tried. Writes
gpu_check.json, which `groupppo verify` checks, and report.html."""
_END = """Examples:
  groupppo gpu-check
  groupppo gpu-check --only machine,attention,updates
  groupppo gpu-check --device cpu --small --only exact

Exit code 1 where something fails, crashes or runs out of time. What does not fit into memory is a result."""


def main(arguments: Sequence[str]) -> int:
    """Run the checks, write record and page, and say what was found.

    Args:
        arguments: of the command line.

    Returns:
        the exit code.

    Raises:
        BadInput: there is no such check.
    """
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("groupppo gpu-check", description=_ABOUT, epilog=_END, formatter_class=form)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu to see the command itself")
    parser.add_argument("--small", action="store_true", help="tiny shapes, which a CPU runs in a minute")
    parser.add_argument("--only", default="", help="checks to run, with commas between them; all unless given")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all checks together; 10 unless given")
    parser.add_argument("--out", type=Path, default=Path("results/gpu"), help="folder of record and page")
    parser.add_argument("--model", type=Path, help="Qwen2.5-0.5B-Instruct on disk, for the runs of verl")
    parser.add_argument("--data", type=Path, help="GSM8K on disk, likewise")
    asked = parser.parse_args(arguments)
    # What is imported may ask whether there is a GPU; asked in CUDA, no fork of this process could use one.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    # Imports of seconds, which no help waits for.
    from groupppo.profile.gpu import Place, Row
    from groupppo.profile.gpu_check import FILE, NAMES, WRONG, run_checks
    from groupppo.records.storage import write_whole
    from groupppo.report.gpu import gpu_page

    names = [name.strip() for name in asked.only.split(",")] if asked.only else list(NAMES)
    for name in names:
        if name not in NAMES:
            raise BadInput("--only", "check", name, f"{suggest(name, NAMES)}Write some of {', '.join(NAMES)}.")

    def say(row: Row) -> None:
        print(f"{row.check:12}{row.status:15}{row.name}{f': {row.reason}' if row.reason else ''}", flush=True)

    until = time.monotonic() + 60 * asked.minutes
    place = Place(asked.device, asked.small, asked.out, until, asked.model, asked.data)
    record = run_checks(place, names, say)
    page = asked.out / "report.html"
    write_whole(page, gpu_page(record))
    print(f"\n{record.answer}\n{asked.out / FILE}\n{page}")
    return int(any(row.status in WRONG for row in record.rows))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except BadInput as error:
        sys.exit(str(error))
