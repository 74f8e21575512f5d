"""Pack the results into one archive."""

from pathlib import Path
from typing import TYPE_CHECKING

from job import job

from groupppo.publish.bundle import make_bundle

if TYPE_CHECKING:
    from snakemake.script import snakemake

with job(snakemake):
    out = Path(snakemake.output[0])
    make_bundle(out.parent, out, checkpoints=snakemake.params.checkpoints, samples=snakemake.params.samples)
