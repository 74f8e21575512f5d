# From run folders to tables, verdicts, figures and the page.

from groupppo.records.hashing import sha256_file, sha256_folder
from groupppo.tables import SCHEMA
from groupppo.verdicts.sweep import pilot_place


rule collect:
    input:
        runs=made(of_runs(rules.train.output.status)),
        evals=made(of_runs(rules.evaluate.output[0])),
        starts=made(of_cells(rules.evaluate_start.output[0])),
    output:
        expand(f"{RESULTS}/tables/{{table}}.parquet", table=SCHEMA),
    log:
        f"{RESULTS}/logs/collect.log",
    benchmark:
        f"{RESULTS}/benchmarks/collect.tsv"
    conda:
        "../../environment.yml"
    threads: 2
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        matrix=BENCHMARK.resolved(),
    message:
        "collect tables"
    script:
        "../scripts/collect.py"


rule verdicts:
    input:
        tables=rules.collect.output,
        claims=BENCHMARK.claims_files,
        profile=rules.update_costs.output if BENCHMARK.profile else [],
        studies=[folders for name, folders in STUDIES.items() if name in JUDGED_STUDIES],
    output:
        report(
            f"{RESULTS}/verdicts.json",
            caption="../report/verdicts.rst",
            category="Verdicts",
        ),
    log:
        f"{RESULTS}/logs/verdicts.log",
    benchmark:
        f"{RESULTS}/benchmarks/verdicts.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=15,
    message:
        "decide the claims"
    script:
        "../scripts/verdicts.py"


rule figures:
    input:
        tables=rules.collect.output,
        verdicts=rules.verdicts.output[0],
    output:
        report(
            directory(f"{RESULTS}/figures"),
            patterns=["{figure}.png"],
            caption="../report/figure.rst",
            category="Figures",
            labels={"figure": "{figure}"},
        ),
    log:
        f"{RESULTS}/logs/figures.log",
    benchmark:
        f"{RESULTS}/benchmarks/figures.tsv"
    conda:
        "../../environment.yml"
    threads: 2
    resources:
        mem_mb=2000,
        runtime=15,
    message:
        "draw figures"
    script:
        "../scripts/figures.py"


# The sweep of learning rates that chose this benchmark's: of this machine's pilot where it was run, else the published one.
if BENCHMARK.pilot:

    try:
        SWEPT = pilot_place(BENCHMARK.pilot, Path("results"))
    except BadInput as error:
        raise WorkflowError(str(error)) from None

    rule pilot:
        input:
            BENCHMARK.pilot,
        output:
            directory(f"{RESULTS}/pilot"),
        log:
            f"{RESULTS}/logs/pilot.log",
        benchmark:
            f"{RESULTS}/benchmarks/pilot.tsv"
        conda:
            "../../environment.yml"
        threads: 1
        resources:
            mem_mb=1000,
            runtime=10,
        params:
            sha256=(
                sha256_folder(SWEPT.path / "tables")
                if SWEPT.path.is_dir()
                else sha256_file(SWEPT.path)
            ),
            place=SWEPT.columns(),
        message:
            "take the learning rates' sweep from {input[0]}"
        script:
            "../scripts/pilot.py"


rule report:
    input:
        verdicts=rules.verdicts.output[0],
        figures=rules.figures.output[0],
        matrix=rules.resolve.output[0],
        studies=[made(folders) for folders in STUDIES.values()],
        profile=rules.update_costs.output if BENCHMARK.profile else [],
        pilot=rules.pilot.output if BENCHMARK.pilot else [],
    output:
        page=report(
            f"{RESULTS}/report.html", caption="../report/page.rst", category="Report"
        ),
        markdown=f"{RESULTS}/report.md",
    log:
        f"{RESULTS}/logs/report.log",
    benchmark:
        f"{RESULTS}/benchmarks/report.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=15,
    message:
        "write {output.page}"
    script:
        "../scripts/report.py"
