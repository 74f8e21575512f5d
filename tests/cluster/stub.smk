# Rules of seconds, under this repository's own site rules: what Slurm does to jobs, and what becomes of them.
# Each attempt leaves one line, `JOB MEMORY MINUTES`, in <rule>.attempts; the first goes wrong, the second is good.

from pathlib import Path

from groupppo.errors import BadInput
from groupppo.slurm.site import load_site
from snakemake.exceptions import WorkflowError

SITE = load_site(config.get("site"))
FAULTS = ("fails", "killed", "cancelled", "timeout", "spot", "scavenge", "node_fails")

ASKED = '"$SLURM_JOB_ID {resources.mem_mb} {resources.runtime}"'
ATTEMPT = f"""
echo {ASKED} >> {{rule}}.attempts
if [ $(wc -l < {{rule}}.attempts) -gt 1 ]; then touch {{output}}; exit 0; fi
"""
WAIT = "while [ ! -e go{wildcards.n} ]; do sleep 0.2; done; "


localrules:
    all,
    faults,


rule all:
    input:
        "asks.txt",
        "alone.txt",
        "report.txt",
        "nodes.txt",


rule faults:
    input:
        expand("{fault}.done", fault=FAULTS),


rule asks:
    output:
        "asks.txt",
    threads: 3
    resources:
        mem_mb=700,
        runtime=7,
        gpu=2,
    shell:
        "(scontrol show job $SLURM_JOB_ID; echo Visible=$CUDA_VISIBLE_DEVICES; "
        "echo EndsWith=${{GROUPPPO_SNAKEMAKE:-nobody}}) > {output}"


rule alone:
    output:
        "alone.txt",
    resources:
        mem_mb=100,
        runtime=5,
    shell:
        "(scontrol show job $SLURM_JOB_ID; echo Visible=${{CUDA_VISIBLE_DEVICES:-none}}) > {output}"


# As workflow/rules/train.smk asks for several nodes.
rule nodes:
    output:
        "nodes.txt",
    resources:
        mem_mb=100,
        runtime=5,
        nodes=2,
        tasks=2,
        mpi="srun",
        slurm_extra="--gpus-per-node=fake:1",
    shell:
        "srun --overlap sh -c 'echo $SLURMD_NODENAME:${{CUDA_VISIBLE_DEVICES:-none}}' > {output}"


rule report:
    output:
        "report.txt",
    resources:
        mem_mb=100,
        runtime=5,
    shell:
        "echo job=${{SLURM_JOB_ID:-none}} ${{GROUPPPO_SNAKEMAKE:-nobody}} > {output}"


rule fails:
    output:
        "fails.done",
    resources:
        mem_mb=200,
        runtime=4,
        slurm_extra="--nodelist=gpu1",
    shell:
        ATTEMPT + "exit 1"


rule killed:
    output:
        "killed.done",
    resources:
        mem_mb=100,
        runtime=4,
        slurm_extra="--nodelist=gpu1",
    shell:
        ATTEMPT + "kill -9 $$"


rule cancelled:
    output:
        "cancelled.done",
    resources:
        mem_mb=100,
        runtime=4,
        slurm_extra="--nodelist=gpu1",
    shell:
        ATTEMPT + "scancel $SLURM_JOB_ID; sleep 300"


rule node_fails:
    output:
        "node_fails.done",
    resources:
        mem_mb=100,
        runtime=4,
        slurm_extra=lambda wildcards, attempt: f"--nodelist=gpu{attempt}",
    shell:
        ATTEMPT + "sleep 300"


rule timeout:
    output:
        "timeout.done",
    resources:
        mem_mb=100,
        runtime=1,
        slurm_extra="--nodelist=gpu2",
    shell:
        ATTEMPT + "sleep 300"


rule spot:
    output:
        "spot.done",
    resources:
        mem_mb=100,
        runtime=4,
        slurm_partition="spot",
        slurm_extra="--nodelist=gpu2",
    shell:
        ATTEMPT + "sleep 300"


rule scavenge:
    output:
        "scavenge.done",
    resources:
        mem_mb=100,
        runtime=4,
        slurm_partition="scavenge",
        slurm_extra="--nodelist=gpu2",
    shell:
        ATTEMPT + "sleep 300"


# Waits for a file, so that a test decides when it ends; what is in its output depends on a parameter.
rule slow:
    output:
        "slow{n}.done",
    resources:
        mem_mb=100,
        runtime=5,
    params:
        word=lambda wildcards: config.get(f"word{wildcards.n}", "same"),
    shell:
        f"echo {ASKED} >> slow{{wildcards.n}}.attempts; {WAIT} echo {{params.word}} > {{output}}"


# More than the file system of its test has room for.
rule large:
    output:
        "large.done",
    resources:
        mem_mb=100,
        runtime=5,
    shell:
        f"echo {ASKED} >> large.attempts; head --bytes=16M /dev/zero > {{output}}"


include: "workflow/rules/site.smk"
include: "workflow/rules/keep.smk"
include: "looks.smk"
