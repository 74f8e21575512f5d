"""Draw a profile's figures and write its page."""

from pathlib import Path
from typing import TYPE_CHECKING

from job import job

from groupppo.profile.config import load_profile
from groupppo.profile.tables import read_tables
from groupppo.report.figures.profile import draw_profile
from groupppo.report.sections.profile import write_profile_page

if TYPE_CHECKING:
    from snakemake.script import snakemake

with job(snakemake):
    profile, tables = load_profile(snakemake.input.profile), read_tables(Path(snakemake.input.tables))
    draw_profile(tables, profile, Path(snakemake.output.figures))
    write_profile_page(Path(snakemake.output.page).parent, profile, tables, Path(snakemake.params.measured))
