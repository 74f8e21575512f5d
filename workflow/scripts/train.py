"""Train one cell with verl."""

from pathlib import Path
from typing import TYPE_CHECKING

from job import job

from groupppo.verdicts.preregistration import register
from groupppo.verl.compose import Cell
from groupppo.verl.launch import train

if TYPE_CHECKING:
    from snakemake.script import snakemake

with job(snakemake, own_log=True) as benchmark:
    names, out = snakemake.wildcards, Path(snakemake.output.status).parent.resolve()
    register(out.parents[4], benchmark)
    train(
        Cell(
            task=benchmark.tasks[names.task],
            model=benchmark.models[names.model],
            arm=benchmark.arms[names.arm],
            seed=int(names.seed),
            train=benchmark.train,
            task_folder=Path(snakemake.input.train).parent.resolve(),
            start=Path(snakemake.input.start).resolve(),
            out=out,
            device=benchmark.device,
            ranks=benchmark.models[names.model].ranks,
            nodes=benchmark.models[names.model].nodes,
            density_source=Path(snakemake.input.density).resolve() if snakemake.input.density else None,
            matrix=benchmark.source,
        )
    )
