"""Train one cell with verl."""

from pathlib import Path
from typing import TYPE_CHECKING

from job import job

from groupppo.run.launch import train
from groupppo.slurm.site import load_site
from groupppo.verdicts.preregistration import register
from groupppo.verl.compose import Cell

if TYPE_CHECKING:
    from snakemake.script import snakemake

with job(snakemake, own_log=True) as benchmark:
    # Absolute, and through no link: runs/ may lie on another disk, and the stamp beside it is this benchmark's.
    names, out = snakemake.wildcards, Path(snakemake.output.status).parent.absolute()
    register(out.parents[4], benchmark)
    train(
        Cell(
            task=benchmark.tasks[names.task],
            model=benchmark.models[names.model],
            arm=benchmark.arms[names.arm],
            seed=int(names.seed),
            train=benchmark.train,
            task_folder=Path(snakemake.input.train).parent.absolute(),
            start=Path(snakemake.input.start).absolute(),
            out=out,
            device=benchmark.device,
            ranks=benchmark.models[names.model].ranks,
            nodes=benchmark.models[names.model].nodes,
            density_source=Path(snakemake.input.density).absolute() if snakemake.input.density else None,
            matrix=benchmark.source,
            network_is_ours=load_site(snakemake.config.get("site")).network_is_ours,
        )
    )
