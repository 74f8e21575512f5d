# One archive to publish: `snakemake bundle`; with the weights, or without lm-eval's samples, whose scores stay:
# `snakemake bundle --config bundle_checkpoints=true bundle_samples=false`.


rule bundle:
    input:
        report=rules.report.output[0],
        matrix=rules.resolve.output[0],
        tables=rules.collect.output,
        verdicts=rules.verdicts.output[0],
        figures=rules.figures.output[0],
        claims=BENCHMARK.claims_files,
        lost=lost_results(),
        locks=[
            "requirements/cpu.lock",
            "requirements/gpu.lock",
            "environment.yml",
            "environment.post-deploy.sh",
        ],
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
        checkpoints=flag("bundle_checkpoints", False),
        samples=flag("bundle_samples", True),
    message:
        "write {output}"
    script:
        "../scripts/bundle.py"
