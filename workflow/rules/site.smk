# What the user's cluster adds to every rule, whichever file it is in; included last. Nothing here acts on a local run.

import sys

from groupppo.queue import LostJobs, cancel, forgotten
from snakemake.resources import Resources

LIGHT = ("verdicts", "figures", "report", "update_costs", "bundle")

if SITE.light_rules == "local":

    workflow.localrules(*(each.name for each in workflow.rules if each.name in LIGHT))


def growing(resource, first):
    """What a rule asks for, half as much again with each retry."""

    def evaluate(wildcards, input, attempt):
        value = first.evaluate(wildcards, input=input, attempt=attempt).value
        # Unknown until an input exists, when it is some text.
        return SITE.grown(resource, value, attempt) if isinstance(value, int) else value

    return evaluate


def uncapped_threads(threads):
    """A job has the cores its rule names, however few this machine gives to local rules."""
    return lambda wildcards: threads.evaluate(wildcards).value


def with_lost_jobs(query, by_squeue):
    """The executor's look at the queue, with an end for jobs that it would wait for without one.

    Where a look fails the executor drops its jobs and waits for nothing (its __init__.py:1449): sacct without a database,
    or a controller that restarts. squeue is asked then, and where that fails, too, jobs stay as they are.
    """
    lost = LostJobs(cancel)

    async def look(command, logger):
        states, seconds = await query(command, logger)
        if states is None and command.startswith("sacct"):
            states, seconds = await query(by_squeue(command.split()[-1]), logger)
            if states is not None:
                workflow.executor_settings.status_command = "squeue"
        if states is None:
            logger.warning("The queue does not answer; its jobs are kept.")
            return {}, 0.0
        return lost.judge(states), seconds

    return look


# --jobs is given for clusters only; a job's own Snakemake must come to the same resources.
SUBMITS = workflow.is_main_process and workflow.resource_settings.nodes is not None

if SUBMITS:
    executor = sys.modules.get("snakemake_executor_plugin_slurm")
    if executor is not None:
        executor.query_job_status = with_lost_jobs(
            executor.query_job_status, executor.query_job_status_squeue
        )

if SUBMITS or workflow.remote_exec:
    for each in workflow.rules:
        own = each.resources
        added = {
            name: value
            for name, value in SITE.resources(own).items()
            if name not in own
        }
        for name in ("mem_mb", "runtime"):
            if name in own:
                added[name] = growing(name, own[name])
        added.setdefault("cpus_per_task", uncapped_threads(own["_cores"]))
        each.resources.update(Resources.from_mapping(added))


onstart:
    # They would write the same files as the jobs that are about to be submitted.
    if SUBMITS and config.get("others") != "keep":
        others = " ".join(forgotten(Path.cwd()))
        if others:
            raise WorkflowError(
                f"Jobs of another Snakemake in this folder are in the queue: {others}\n"
                f"  mend: `scancel {others}` if it was killed; add --config others=keep if it works on other files."
            )
