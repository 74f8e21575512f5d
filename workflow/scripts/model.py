"""Build a model's Hugging Face folder."""

from pathlib import Path
from typing import TYPE_CHECKING

from job import job

from groupppo.models import build_model

if TYPE_CHECKING:
    from snakemake.script import snakemake

with job(snakemake) as benchmark:
    parameters = build_model(benchmark.weights(snakemake.wildcards.model), Path(snakemake.output[0]))
    print(f"{parameters:,} parameters")
