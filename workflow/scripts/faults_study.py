"""Run the study of faults with the task, model and settings of the benchmark."""

import runpy
from pathlib import Path
from typing import TYPE_CHECKING

from job import job

if TYPE_CHECKING:
    from snakemake.script import snakemake

with job(snakemake) as benchmark:
    options = {
        "benchmark": benchmark.source,
        "task": Path(snakemake.input.card).parent,
        "model": snakemake.wildcards.model,
        "start": snakemake.input.start,
        "out": snakemake.output[0],
        "seed": benchmark.plan(snakemake.wildcards.task, snakemake.wildcards.model).seeds[0],
    }
    arguments = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    runpy.run_path(snakemake.input.script)["main"](arguments)
