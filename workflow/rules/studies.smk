# Studies: one folder of tables and figures for each task and model.

from snakemake.io import glob_wildcards

# Code comes from this repository: what lies beside a benchmark of somebody else is not run.
STUDY_SCRIPTS = Path("benchmarks/studies")
ARM_FILES = BENCHMARK.source.parent / "arms" / "{arm}.yaml"


rule grouping_study:
    input:
        script=STUDY_SCRIPTS / "grouping.py",
        arms=expand(ARM_FILES, arm=sorted(glob_wildcards(ARM_FILES).arm)),
        prompts=rules.task.output.train,
        card=rules.task.output.card,
        status=of_reference(rules.train.output.status),
        policy=of_reference(rules.train.output.checkpoint),
    output:
        directory(f"{RESULTS}/studies/grouping/{{task}}.{{model}}"),
    log:
        f"{RESULTS}/logs/grouping_study/{{task}}.{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/grouping_study/{{task}}.{{model}}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2500,
        runtime=30,
    params:
        train=recorded(BENCHMARK.train),
    message:
        "study the grouping rules on {wildcards.task} with {wildcards.model}"
    script:
        "../scripts/grouping_study.py"


rule streams_study:
    input:
        script=STUDY_SCRIPTS / "streams.py",
        arms=rules.grouping_study.input.arms,
        prompts=rules.task.output.train,
        card=rules.task.output.card,
        start=rules.warmstart.output[0],
        status=rules.grouping_study.input.status,
        policy=rules.grouping_study.input.policy,
    output:
        directory(f"{RESULTS}/studies/streams/{{task}}.{{model}}"),
    log:
        f"{RESULTS}/logs/streams_study/{{task}}.{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/streams_study/{{task}}.{{model}}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2500,
        runtime=30,
    params:
        train=recorded(BENCHMARK.train),
    message:
        "study the streamed update on {wildcards.task} with {wildcards.model}"
    script:
        "../scripts/streams_study.py"


rule faults_study:
    input:
        script=STUDY_SCRIPTS / "faults.py",
        arms=rules.grouping_study.input.arms,
        prompts=rules.task.output.train,
        dev=rules.task.output.dev,
        card=rules.task.output.card,
        start=rules.warmstart.output[0],
    output:
        directory(f"{RESULTS}/studies/faults/{{task}}.{{model}}"),
    log:
        f"{RESULTS}/logs/faults_study/{{task}}.{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/faults_study/{{task}}.{{model}}.tsv"
    conda:
        "../../environment.yml"
    threads: needs("cpus", 1)
    resources:
        **ON_GPU,
        mem_mb=lambda wildcards: BENCHMARK.models[wildcards.model].resources["mem_mb"],
        runtime=60,
    params:
        train=recorded(BENCHMARK.train),
    message:
        "study what a fault does on {wildcards.task} with {wildcards.model}"
    script:
        "../scripts/faults_study.py"


STUDY_RULES = {
    "grouping": rules.grouping_study,
    "streams": rules.streams_study,
    "faults": rules.faults_study,
}
# Verdicts rest on these; the others are for readers only.
JUDGED_STUDIES = {"faults"}

for name in BENCHMARK.studies:
    if name not in STUDY_RULES:
        hint = f"no rule runs this one; run its script by itself. Studies of a benchmark: {', '.join(STUDY_RULES)}."
        raise WorkflowError(str(BadInput(BENCHMARK.source, "studies", name, hint)))

STUDIES = {name: of_cells(STUDY_RULES[name].output[0]) for name in BENCHMARK.studies}


rule studies:
    input:
        STUDIES.values(),
