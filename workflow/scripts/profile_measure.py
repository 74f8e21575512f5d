"""Measure the seconds or the memory of one setting's updates."""

from pathlib import Path
from typing import TYPE_CHECKING

from job import job

from groupppo.profile.config import load_profile
from groupppo.profile.measure import write_measured
from groupppo.run.environment import given_gpus

if TYPE_CHECKING:
    from snakemake.script import snakemake

with job(snakemake):
    profile, out = snakemake.input[0], snakemake.output[0]
    setting = load_profile(profile).measured[snakemake.wildcards.setting]
    command = f"snakemake --cores {setting.threads} --force {out} --config profile={profile}"
    with given_gpus(int(setting.device == "cuda")):
        write_measured(Path(out), snakemake.params.what, setting, command)
