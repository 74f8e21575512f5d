"""Write the report page."""

from pathlib import Path
from typing import TYPE_CHECKING

from job import job

from groupppo.report.page import write_report

if TYPE_CHECKING:
    from snakemake.script import snakemake

with job(snakemake) as benchmark:
    write_report(Path(snakemake.output[0]).parent, benchmark)
