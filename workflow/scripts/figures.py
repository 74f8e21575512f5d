"""Draw every figure with its data and an index."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from job import job

from groupppo.report.figures import write_figures
from groupppo.tables import load_tables

if TYPE_CHECKING:
    from snakemake.script import snakemake

with job(snakemake) as benchmark:
    judged = json.loads(Path(snakemake.input.verdicts).read_text(encoding="utf-8"))
    tables = load_tables(Path(snakemake.input.tables[0]).parent)
    write_figures(tables, benchmark, Path(snakemake.output[0]), judged)
