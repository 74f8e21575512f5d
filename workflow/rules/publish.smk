# One archive to publish: `snakemake bundle`; with the weights: `snakemake bundle --config bundle_checkpoints=true`.

CHECKPOINTS = str(config.get("bundle_checkpoints", "false")).lower()

if CHECKPOINTS not in ("true", "false"):
    raise WorkflowError(
        str(
            BadInput(
                "--config", "bundle_checkpoints", CHECKPOINTS, "write true or false."
            )
        )
    )


rule bundle:
    input:
        report=rules.report.output[0],
        matrix=rules.resolve.output[0],
        tables=rules.collect.output,
        verdicts=rules.verdicts.output[0],
        figures=rules.figures.output[0],
        claims=BENCHMARK.claims,
        locks=["requirements/cpu.lock", "requirements/gpu.lock", "environment.yml"],
    output:
        f"{RESULTS}/bundle.zip",
    log:
        f"{RESULTS}/logs/bundle.log",
    benchmark:
        f"{RESULTS}/benchmarks/bundle.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        checkpoints=CHECKPOINTS == "true",
    message:
        "write {output}"
    script:
        "../scripts/bundle.py"
