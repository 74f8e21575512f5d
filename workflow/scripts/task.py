"""Build a task's Parquet splits and its card."""

from pathlib import Path
from typing import TYPE_CHECKING

from job import job

from groupppo.tasks.build import build_task

if TYPE_CHECKING:
    from snakemake.script import snakemake

with job(snakemake) as benchmark:
    build_task(benchmark.tasks[snakemake.wildcards.task], Path(snakemake.output.card).parent)
