"""Train the supervised start of a task."""

from pathlib import Path
from typing import TYPE_CHECKING

from job import job

from groupppo.models.warmstart import start_as_published, warm_start

if TYPE_CHECKING:
    from snakemake.script import snakemake

with job(snakemake) as benchmark:
    names, model, out = snakemake.wildcards, Path(snakemake.input.model), Path(snakemake.output[0])
    task, padded = benchmark.tasks[names.task], benchmark.weights(names.model).published
    if task.warmstart is None:
        start_as_published(model, out)
        print(f"{task.name} has no warm start: {out} is {model}")
    else:
        print(warm_start(task, model, Path(snakemake.input.train).parent, out, padded=padded))
