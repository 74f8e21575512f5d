# lm-eval on the start checkpoint and on every trained one.


rule evaluate_start:
    input:
        test=rules.task.output.test,
        checkpoint=start,
    output:
        f"{RESULTS}/evals/{{task}}/{{model}}/start/result.json",
    log:
        f"{RESULTS}/logs/evaluate/{{task}}.{{model}}.start.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluate/{{task}}.{{model}}.start.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        **ONE_GPU,
        mem_mb=2500 if BENCHMARK.device == "cpu" else 32000,
        runtime=15 if BENCHMARK.device == "cpu" else 240,
    params:
        evaluation=asdict(BENCHMARK.evaluation)
        | {"temperature": BENCHMARK.train.temperature},
    message:
        "evaluate the start of {wildcards.model} on {wildcards.task}"
    script:
        "../scripts/evaluate.py"


use rule evaluate_start as evaluate with:
    input:
        test=rules.task.output.test,
        checkpoint=rules.train.output.checkpoint,
    output:
        f"{RESULTS}/evals/{RUN}/result.json",
    log:
        f"{RESULTS}/logs/evaluate/{{task}}.{{model}}.{{arm}}.seed{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluate/{{task}}.{{model}}.{{arm}}.seed{{seed}}.tsv"
    message:
        "evaluate {wildcards.arm} seed {wildcards.seed} on {wildcards.task} with {wildcards.model}"
