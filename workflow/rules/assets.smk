# Tasks, models and the supervised start that all arms and seeds of a task share.


rule resolve:
    output:
        f"{RESULTS}/benchmark.yaml",
    log:
        f"{RESULTS}/logs/resolve.log",
    conda:
        "../../environment.yml"
    params:
        matrix=BENCHMARK.resolved(),
    message:
        "write the resolved matrix"
    script:
        "../scripts/resolve.py"


rule task:
    output:
        train=f"{RESULTS}/assets/tasks/{{task}}/train.parquet",
        dev=f"{RESULTS}/assets/tasks/{{task}}/dev.parquet",
        test=f"{RESULTS}/assets/tasks/{{task}}/test.parquet",
        card=f"{RESULTS}/assets/tasks/{{task}}/card.json",
    log:
        f"{RESULTS}/logs/task/{{task}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/task/{{task}}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        spec=lambda wildcards: recorded(BENCHMARK.tasks[wildcards.task]),
    message:
        "build task {wildcards.task}"
    script:
        "../scripts/task.py"


rule model:
    output:
        directory(f"{RESULTS}/assets/models/{{model}}"),
    log:
        f"{RESULTS}/logs/model/{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/model/{{model}}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10 if BENCHMARK.device == "cpu" else 120,
    params:
        spec=lambda wildcards: recorded(BENCHMARK.weights(wildcards.model)),
    message:
        "build model {wildcards.model}"
    script:
        "../scripts/model.py"


rule warmstart:
    input:
        train=rules.task.output.train,
        dev=rules.task.output.dev,
        model=rules.model.output[0],
    output:
        directory(f"{RESULTS}/assets/starts/{{task}}/{{model}}"),
    log:
        f"{RESULTS}/logs/warmstart/{{task}}.{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/warmstart/{{task}}.{{model}}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        spec=lambda wildcards: recorded(BENCHMARK.tasks[wildcards.task])["warmstart"],
    message:
        "warm start {wildcards.model} on {wildcards.task}"
    script:
        "../scripts/warmstart.py"
