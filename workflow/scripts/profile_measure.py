"""Measure the seconds or the memory of one setting's updates."""

from pathlib import Path
from typing import TYPE_CHECKING

from job import job

from groupppo.profile.config import load_profile
from groupppo.profile.measure import MEASURES, write

if TYPE_CHECKING:
    from snakemake.script import snakemake

with job(snakemake):
    profile, setting, out = snakemake.input[0], snakemake.wildcards.setting, snakemake.output[0]
    command = f"python -m groupppo.profile.measure {snakemake.params.what} {profile} {setting} {out}"
    measured = MEASURES[snakemake.params.what](load_profile(profile).measured[setting], command=command)
    write(Path(out), measured)
