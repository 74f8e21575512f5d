"""Put a profile's measurements, tables and figures into a benchmark's results."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from job import job

from groupppo.profile.config import load_profile
from groupppo.profile.tables import FOUND, write_tables
from groupppo.report.figures.profile import draw_profile
from groupppo.where import Found

if TYPE_CHECKING:
    from snakemake.script import snakemake

with job(snakemake):
    profile, out = load_profile(snakemake.input[0]), Path(snakemake.output[0])
    found = Found(Path(snakemake.params.measured), snakemake.params.published)
    shutil.copytree(found.path, out / "measured")
    (out / FOUND).write_text(json.dumps(found.columns()) + "\n", encoding="utf-8")
    tables = write_tables(profile, out / "measured", out / "tables", found)
    draw_profile(tables, profile, out / "figures")
