"""Write the matrix with every file it names resolved, so that a result carries its own description."""

from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from job import job

if TYPE_CHECKING:
    from snakemake.script import snakemake

with job(snakemake) as benchmark:
    Path(snakemake.output[0]).write_text(yaml.safe_dump(benchmark.resolved(), sort_keys=False), encoding="utf-8")
