# One rule trains every cell: stock verl with the arm's config.


rule train:
    input:
        train=rules.task.output.train,
        dev=rules.task.output.dev,
        start=start,
        density=density_source,
    output:
        status=f"{RESULTS}/runs/{RUN}/status.json",
        config=f"{RESULTS}/runs/{RUN}/config.yaml",
        steps=f"{RESULTS}/runs/{RUN}/steps.jsonl",
        stages=f"{RESULTS}/runs/{RUN}/stages.jsonl",
        provenance=f"{RESULTS}/runs/{RUN}/provenance.json",
        checkpoint=directory(f"{RESULTS}/runs/{RUN}/checkpoint"),
    log:
        f"{RESULTS}/runs/{RUN}/log.txt",
    benchmark:
        f"{RESULTS}/benchmarks/train/{{task}}.{{model}}.{{arm}}.seed{{seed}}.tsv"
    conda:
        "../../environment.yml"
    threads: needs("cpus", 1)
    resources:
        **ON_GPU,
        mem_mb=lambda wildcards: BENCHMARK.models[wildcards.model].resources["mem_mb"],
        runtime=needs("runtime", -(-BENCHMARK.train.time_limit_s // 60) + 5),
    params:
        train=recorded(BENCHMARK.train),
        arm=lambda wildcards: BENCHMARK.arms[wildcards.arm].verl,
        model=lambda wildcards: BENCHMARK.models[wildcards.model].verl,
    message:
        "train {wildcards.arm} seed {wildcards.seed} on {wildcards.task} with {wildcards.model}"
    script:
        "../scripts/train.py"


SEVERAL_NODES = [name for name, model in BENCHMARK.models.items() if model.nodes > 1]

if SEVERAL_NODES:
    asked = {}
    if ON_GPU:
        asked["slurm_extra"] = (
            lambda wildcards: f"--gpus-per-node={SITE.gpu_type + ':' if SITE.gpu_type else ''}{needs('gpu', 1)(wildcards)}"
        )
    if ON_GPU and (SITE.gpu_partition or SITE.partition):
        asked["slurm_partition"] = SITE.gpu_partition or SITE.partition

    # Without a job step of one node around it, which would be given the GPUs of all nodes: Ray's steps have their own.
    use rule train as train_on_several_nodes with:
        wildcard_constraints:
            model="|".join(SEVERAL_NODES),
        resources:
            **asked,
            nodes=nodes_on_a_network,
            tasks=needs("nodes", 1),
            mpi="srun",
            mem_mb=lambda wildcards: BENCHMARK.models[wildcards.model].resources[
                "mem_mb"
            ],
            runtime=needs("runtime", -(-BENCHMARK.train.time_limit_s // 60) + 5),

    ruleorder: train_on_several_nodes > train
