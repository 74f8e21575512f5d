"""Collect run folders and evaluations into tidy Parquet tables."""

from pathlib import Path
from typing import TYPE_CHECKING

from job import job

from groupppo.tables import collect

if TYPE_CHECKING:
    from snakemake.script import snakemake

with job(snakemake) as benchmark:
    collect(Path(snakemake.output[0]).parents[1], benchmark, processes=snakemake.threads)
