"""Decide each claim from the tables."""

from pathlib import Path
from typing import TYPE_CHECKING

from job import job

from groupppo.profile.tables import read_tables
from groupppo.tables import load_tables
from groupppo.verdicts.claims import load_claims
from groupppo.verdicts.engine import NEEDED, decide, read_studied, verdicts_text

if TYPE_CHECKING:
    from snakemake.script import snakemake

with job(snakemake) as benchmark:
    claims = load_claims(benchmark.claims)
    tables = load_tables(Path(snakemake.input.tables[0]).parent, NEEDED)
    variants = read_tables(Path(snakemake.input.profile[0]) / "tables").variants if benchmark.profile else None
    studied = read_studied(Path(snakemake.output[0]).parent, benchmark, claims)
    judged = decide(claims, tables, benchmark, variants, studied)
    Path(snakemake.output[0]).write_text(verdicts_text(judged), encoding="utf-8")
