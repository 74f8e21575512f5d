"""Draw every figure with its data and an index."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from job import job

from groupppo.report.figures import draw_figures, needed
from groupppo.tables import StoredTables

if TYPE_CHECKING:
    from snakemake.script import snakemake

with job(snakemake) as benchmark:
    judged = json.loads(Path(snakemake.input.verdicts).read_text(encoding="utf-8"))
    tables = StoredTables(Path(snakemake.input.tables[0]).parent, needed(benchmark))
    draw_figures(tables, benchmark, Path(snakemake.output[0]), judged, processes=snakemake.threads)
