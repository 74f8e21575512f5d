"""Measure a checkpoint's held-out accuracy with lm-eval."""

from pathlib import Path
from typing import TYPE_CHECKING

from job import job

from groupppo.evaluate import evaluate
from groupppo.run.environment import given_gpus

if TYPE_CHECKING:
    from snakemake.script import snakemake

with job(snakemake) as benchmark, given_gpus(int(benchmark.device == "cuda")):
    names = snakemake.wildcards
    evaluate(
        Path(snakemake.input.checkpoint),
        benchmark.tasks[names.task],
        Path(snakemake.input.test).parent,
        Path(snakemake.output[0]).parent,
        benchmark.evaluation,
        model=names.model,
        arm=names.get("arm", "start"),
        training_seed=int(names.seed) if names.get("seed") else None,
        published=benchmark.models[names.model].published,
        temperature=benchmark.train.temperature,
        device=benchmark.device,
    )
