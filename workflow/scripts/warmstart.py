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
    task_folder = Path(snakemake.input.train).parent
    if task.warmstart is None:
        lengths = start_as_published(task, model, task_folder, out)
        print(f"{task.name} has no warm start: {out} is {model}; its lengths are {lengths}")
    else:
        print(warm_start(task, model, task_folder, out, padded=padded))
