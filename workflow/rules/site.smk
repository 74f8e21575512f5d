# What the user's cluster adds to every rule, whichever file it is in; included last. Nothing here acts on a local run.

from groupppo.records.storage import room_for
from groupppo.slurm import queue
from groupppo.slurm.takeover import Presence, lead, lead_none
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


# --jobs is given for clusters only; a job's own Snakemake must come to the same resources.
SUBMITS = workflow.is_main_process and workflow.resource_settings.nodes is not None

if workflow.remote_exec:
    lead_none()

if workflow.is_main_process:
    lead()
    try:
        with room_for(Path(".snakemake")):
            PRESENCE = Presence(Path(".snakemake"), submits=SUBMITS)
    except BadInput as error:
        raise WorkflowError(str(error)) from None
    if PRESENCE.lifted:
        logger.warning(
            "An earlier Snakemake was killed here; the lock it left is lifted."
        )

if SUBMITS:
    # Before the plan is made: a job that ends in between is asked for by its id, and not submitted again.
    earlier = queue.at_start(Path.cwd(), queue.programs_for(SITE.account))
    if earlier.problem is not None and workflow.output_settings.dryrun:
        logger.warning(f"Nothing could be submitted now. {earlier.problem}")

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
