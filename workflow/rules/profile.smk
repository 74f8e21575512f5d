# What an update costs at real model shapes: seconds and memory of variants, counted bounds, figures, a page of its own.
# It needs no benchmark's runs: `snakemake profile`, with --config profile=<file> for another one.

from groupppo.records.hashing import sha256_folder
from groupppo.profile.config import DEFAULT, load_profile, measured_folder

try:
    PROFILE = load_profile(config.get("profile", DEFAULT))
except BadInput as error:
    raise WorkflowError(str(error)) from None

PROFILED = f"results/{PROFILE.name}"


rule profile_seconds:
    input:
        PROFILE.source,
    output:
        f"{PROFILED}/measured/{{setting}}.seconds.json",
    log:
        f"{PROFILED}/logs/{{setting}}.seconds.log",
    benchmark:
        f"{PROFILED}/benchmarks/{{setting}}.seconds.tsv"
    wildcard_constraints:
        setting="|".join(PROFILE.measured),
    conda:
        "../../environment.yml"
    # Alone on the machine: whatever else runs would be timed too.
    threads: workflow.cores
    resources:
        mem_mb=lambda wildcards: PROFILE.measured[wildcards.setting].memory_mb,
        runtime=30,
    params:
        what="seconds",
    message:
        "time the updates of {wildcards.setting}"
    script:
        "../scripts/profile_measure.py"


use rule profile_seconds as profile_memory with:
    output:
        f"{PROFILED}/measured/{{setting}}.memory.json",
    log:
        f"{PROFILED}/logs/{{setting}}.memory.log",
    benchmark:
        f"{PROFILED}/benchmarks/{{setting}}.memory.tsv"
    threads: 1
    params:
        what="memory",
    message:
        "read the memory of the updates of {wildcards.setting}"


rule profile_tables:
    input:
        PROFILE.source,
        expand(rules.profile_seconds.output, setting=PROFILE.measured),
        expand(rules.profile_memory.output, setting=PROFILE.measured),
    output:
        directory(f"{PROFILED}/tables"),
    log:
        f"{PROFILED}/logs/tables.log",
    benchmark:
        f"{PROFILED}/benchmarks/tables.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        measured=subpath(input[1], parent=True),
    message:
        "put the profile into tables"
    script:
        "../scripts/profile_tables.py"


rule profile_report:
    input:
        profile=PROFILE.source,
        tables=rules.profile_tables.output[0],
    output:
        figures=directory(f"{PROFILED}/figures"),
        page=f"{PROFILED}/report.html",
    log:
        f"{PROFILED}/logs/report.log",
    benchmark:
        f"{PROFILED}/benchmarks/report.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        measured=f"{PROFILED}/measured",
    message:
        "draw the profile's figures and write {output.page}"
    script:
        "../scripts/profile_report.py"


# The report of a benchmark that names a profile shows this machine's measurements where there are some, else those that
# are published. Neither is an input: a report must not set off an hour of measuring.
if BENCHMARK.profile:

    try:
        MEASURED = measured_folder(load_profile(BENCHMARK.profile), Path("results"))
    except BadInput as error:
        raise WorkflowError(str(error)) from None

    rule update_costs:
        input:
            BENCHMARK.profile,
        output:
            directory(f"{RESULTS}/profile"),
        log:
            f"{RESULTS}/logs/update_costs.log",
        benchmark:
            f"{RESULTS}/benchmarks/update_costs.tsv"
        conda:
            "../../environment.yml"
        threads: 1
        resources:
            mem_mb=1000,
            runtime=10,
        params:
            measured=str(MEASURED.path),
            published=MEASURED.published,
            sha256=sha256_folder(MEASURED.path),
        message:
            "draw the costs of an update measured in {params.measured}"
        script:
            "../scripts/update_costs.py"


localrules:
    profile,


rule profile:
    input:
        rules.profile_report.output.page,
