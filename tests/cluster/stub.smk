# Rules of seconds, under this repository's own site rules: what Slurm does to jobs, and what becomes of them.
# Each attempt leaves one line, `JOB MEMORY MINUTES`, in <rule>.attempts; the first goes wrong, the second is good.

from pathlib import Path

from groupppo.errors import BadInput
from groupppo.site import load_site
from snakemake.exceptions import WorkflowError

SITE = load_site(config.get("site"))
FAULTS = ("fails", "killed", "cancelled", "timeout", "spot", "scavenge")

ATTEMPT = """
echo "$SLURM_JOB_ID {resources.mem_mb} {resources.runtime}" >> {rule}.attempts
if [ $(wc -l < {rule}.attempts) -gt 1 ]; then touch {output}; exit 0; fi
"""


localrules:
    all,
    faults,


rule all:
    input:
        "asks.txt",
        "alone.txt",
        "report.txt",


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
        "(scontrol show job $SLURM_JOB_ID; echo Visible=$CUDA_VISIBLE_DEVICES) > {output}"


rule alone:
    output:
        "alone.txt",
    resources:
        mem_mb=100,
        runtime=5,
    shell:
        "(scontrol show job $SLURM_JOB_ID; echo Visible=${{CUDA_VISIBLE_DEVICES:-none}}) > {output}"


rule report:
    output:
        "report.txt",
    resources:
        mem_mb=100,
        runtime=5,
    shell:
        "echo job=${{SLURM_JOB_ID:-none}} > {output}"


rule fails:
    output:
        "fails.done",
    resources:
        mem_mb=200,
        runtime=4,
    shell:
        ATTEMPT + "exit 1"


rule killed:
    output:
        "killed.done",
    resources:
        mem_mb=100,
        runtime=4,
    shell:
        ATTEMPT + "kill -9 $$"


rule cancelled:
    output:
        "cancelled.done",
    resources:
        mem_mb=100,
        runtime=4,
    shell:
        ATTEMPT + "scancel $SLURM_JOB_ID; sleep 300"


rule timeout:
    output:
        "timeout.done",
    resources:
        mem_mb=100,
        runtime=1,
    shell:
        ATTEMPT + "sleep 300"


rule spot:
    output:
        "spot.done",
    threads: 2
    resources:
        mem_mb=100,
        runtime=4,
        slurm_partition="spot",
        slurm_extra="--nodelist=gpu2",
    shell:
        ATTEMPT + "sleep 300"


use rule spot as scavenge with:
    output:
        "scavenge.done",
    resources:
        mem_mb=100,
        runtime=4,
        slurm_partition="scavenge",
        slurm_extra="--nodelist=gpu2",


rule slow:
    output:
        "slow.done",
    resources:
        mem_mb=100,
        runtime=5,
    shell:
        "echo $SLURM_JOB_ID >> slow.attempts; sleep {config[seconds]}; touch {output}"


include: "workflow/rules/site.smk"
include: "looks.smk"
