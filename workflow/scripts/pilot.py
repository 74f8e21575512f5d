"""Put the pilot's sweep of learning rates into the results of the benchmark whose rates it chose."""

from pathlib import Path
from typing import TYPE_CHECKING

from job import job

from groupppo.report.figures.sweep import draw_sweep
from groupppo.verdicts.sweep import write_sweep

if TYPE_CHECKING:
    from snakemake.script import snakemake

with job(snakemake) as benchmark:
    out = Path(snakemake.output[0])
    draw_sweep(write_sweep(benchmark, Path("results"), out), benchmark, out)
