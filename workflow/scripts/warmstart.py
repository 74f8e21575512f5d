"""Train the supervised start of a task."""

from pathlib import Path
from typing import TYPE_CHECKING

from job import job

from groupppo.models.warmstart import warm_start

if TYPE_CHECKING:
    from snakemake.script import snakemake

with job(snakemake) as benchmark:
    task = benchmark.tasks[snakemake.wildcards.task]
    end = warm_start(task, Path(snakemake.input.model), Path(snakemake.input.train).parent, Path(snakemake.output[0]))
    print(end)
