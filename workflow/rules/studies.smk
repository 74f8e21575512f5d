# Studies: one folder of tables and figures for each task and model. A study is a file in groupppo/studies/.

from snakemake.io import glob_wildcards

from groupppo.studies.shared.study import find_study, known_names
from groupppo.verdicts.quantities import SHARES

ARM_FILES = BENCHMARK.source.parent / "arms" / "{arm}.yaml"
STUDY_FOLDER = f"{RESULTS}/studies/{{study}}/{{{{task}}}}.{{{{model}}}}"

# A study is loaded where it is planned: what it imports takes a second.
for name in set(BENCHMARK.studies) - set(known_names()):
    hint = f"no such study. Studies: {', '.join(known_names())}."
    raise WorkflowError(str(BadInput(BENCHMARK.source, "studies", name, hint)))

for name in BENCHMARK.studies:

    rule:
        name:
            f"{name}_study"
        input:
            arms=expand(ARM_FILES, arm=sorted(glob_wildcards(ARM_FILES).arm)),
            prompts=rules.task.output.train,
            dev=rules.task.output.dev,
            card=rules.task.output.card,
            start=start,
            status=trained(name, rules.train.output.status),
            policy=trained(name, rules.train.output.checkpoint),
        output:
            directory(STUDY_FOLDER.format(study=name)),
        log:
            f"{RESULTS}/logs/{name}_study/{{task}}.{{model}}.log",
        benchmark:
            f"{RESULTS}/benchmarks/{name}_study/{{task}}.{{model}}.tsv"
        conda:
            "../../environment.yml"
        threads: of_a_run(name, "cpus", 1)
        resources:
            **(ON_GPU if ON_GPU and find_study(name).trains else {}),
            mem_mb=of_a_run(name, "mem_mb", 2500),
            runtime=minutes(name),
        params:
            study=name,
            train=recorded(BENCHMARK.train),
        message:
            f"study {name} on {{wildcards.task}} with {{wildcards.model}}"
        script:
            "../scripts/study.py"


STUDIES = {
    name: of_cells(STUDY_FOLDER.format(study=name)) for name in BENCHMARK.studies
}
# Verdicts rest on these; the others are for readers only.
JUDGED_STUDIES = {share.study for share in SHARES.values()}


rule studies:
    input:
        STUDIES.values(),
