"""Run a study with the settings of the benchmark."""

from pathlib import Path
from typing import TYPE_CHECKING

from job import job

from groupppo.studies.shared.study import find_study, planned, run_study

if TYPE_CHECKING:
    from snakemake.script import snakemake

with job(snakemake) as benchmark:
    study, wildcards = find_study(snakemake.params.study), snakemake.wildcards
    folders = {"task": Path(snakemake.input.card).parent, "out": Path(snakemake.output[0])}
    folders["start"] = Path(snakemake.input.start)
    if study.needs_trained:
        folders["policy"] = Path(snakemake.input.policy)
        # Beside the policy, and no output of the training rule: not every arm has one.
        folders["critic"] = folders["policy"].parent / "critic"
    run_study(study, study.given(planned(benchmark, wildcards.task, wildcards.model, folders)))
