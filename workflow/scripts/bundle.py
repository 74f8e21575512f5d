"""Pack the results into one archive."""

from pathlib import Path
from typing import TYPE_CHECKING

from job import job

from groupppo.publish.bundle import make_bundle

if TYPE_CHECKING:
    from snakemake.script import snakemake

with job(snakemake):
    out = Path(snakemake.output[0])
    asked = {name: snakemake.params[name] for name in ("checkpoints", "samples")}
    make_bundle(out.parent, out, **asked)
