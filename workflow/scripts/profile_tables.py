"""Put a profile's results into tidy tables."""

from pathlib import Path
from typing import TYPE_CHECKING

from job import job

from groupppo.profile.config import load_profile
from groupppo.profile.tables import write_tables

if TYPE_CHECKING:
    from snakemake.script import snakemake

with job(snakemake):
    write_tables(load_profile(snakemake.input[0]), Path(snakemake.params.measured), Path(snakemake.output[0]))
