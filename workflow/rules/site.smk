# What the user's cluster adds to every rule, whichever file it is in; included last. Nothing here acts on a local run.

import sys
from shutil import which

from groupppo.slurm import queue
from groupppo.records.storage import room_for
from groupppo.slurm.takeover import Presence, lead, lead_none
from snakemake.persistence import PersistenceBase
from snakemake.resources import Resources
from snakemake_interface_executor_plugins.settings import ExecMode

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


def with_lost_jobs(query, by_squeue, lost, runs):
    """The executor's look at the queue, with an end for jobs that it would wait for without one.

    Where a look fails the executor drops its jobs and waits for nothing (its __init__.py:1449): sacct without a database,
    or a controller that restarts. squeue is asked then, and where that fails, too, jobs stay as they are. Jobs have the
    run id of the Snakemake that submitted them as their name: `runs` are those of adopted ones.
    """

    async def look(command, logger):
        names = ",".join([command.split()[-1], *runs])
        states, seconds = await query(f"{command.rpartition(' ')[0]} {names}", logger)
        if states is None and command.startswith("sacct"):
            states, seconds = await query(by_squeue(names), logger)
            if states is not None:
                workflow.executor_settings.status_command = "squeue"
        if states is None:
            logger.warning("The queue does not answer; its jobs are kept.")
            return {}, 0.0
        return lost.judge(states), seconds

    return look


def mark_of(job):
    """Who writes which files from what; resources are no part of it, as they grow with each attempt."""
    work = [job.rule.name, job.rule.shellcmd, [str(file) for file in job.input]]
    work += [list(job.params.keys()), list(job.params)]
    return queue.marked([str(file) for file in job.output], work)


def with_mark(submit_command):
    """The executor's sbatch call, with the job's mark at the end of its comment."""

    def call(job, params, **others):
        if not job.is_group():
            params = params | {"comment_str": f"{params['comment_str']} {mark_of(job)}"}
        return submit_command(job, params, **others)

    return call


def adopting(run_job, orphans, lost, runs, adopted):
    """The executor's submission, which waits for a job that is in the queue already in the place of a second one."""

    def submit(self, job):
        # Nobody reads the errors of this thread: Snakemake would wait for the job without end.
        try:
            found = None if job.is_group() else orphans.claim(mark_of(job))
        except Exception as error:
            failed = executor.SubmittedJobInfo(job)
            self._report_job_error_threadsafe(failed, f"Not submitted: {error}\n")
            return
        if found is None:
            run_job(self, job)
            return
        runs.add(found.run)
        adopted.add(found.id)
        lost.expect(found.id)
        folder = (
            self.slurm_logdir / f"rule_{job.name}" / executor.get_job_wildcards(job)
        )
        self.logger.info(
            f"Job {job.jobid} is in the queue already with SLURM jobid {found.id}, from an earlier start; waiting for it."
        )
        info = executor.SubmittedJobInfo(
            job,
            external_jobid=found.id,
            aux={"slurm_logfile": folder / f"{found.id}.log"},
        )
        self._report_job_submission_threadsafe(info)

    return submit


def cancelling(cancel, adopted):
    """The executor's end on Ctrl-C, which cancels every job of its own, by name, and those it adopted.

    By itself it cancels the jobs it has in a list that is empty during each look at the queue
    (snakemake_interface_executor_plugins/executors/remote.py:184), and not those it is submitting.
    """

    def cancel_all(self):
        try:
            cancel(self)
        finally:
            queue.cancel_run(self.run_uuid)
            for job in adopted:
                queue.cancel(job)

    return cancel_all


def on_record(finished):
    """A job itself puts on record what its output was made from: a Snakemake that was killed meanwhile would not.

    Without the record no later change of a parameter would make the output stale. Snakemake (persistence/__init__.py:478)
    leaves it to the main process.
    """

    async def finish(self, job):
        settings = self.dag.workflow.workflow_settings
        mode = settings.exec_mode
        # Not the Snakemake around it, which only starts the job step.
        settings.exec_mode = ExecMode.DEFAULT if workflow.local_exec else mode
        try:
            await finished(self, job)
        finally:
            settings.exec_mode = mode

    return finish


def asking_first(init):
    """The executor is made when there is something to do, before anything is submitted, marked or removed."""

    def make(self, workflow, logger):
        if NO_SLURM is not None and len(workflow.dag):
            raise WorkflowError(str(NO_SLURM))
        init(self, workflow, logger)

    return make


def in_queue_already(job):
    """Whether a job that an earlier Snakemake left is, or may be, writing the same files; asked by any plan."""
    global orphans, NO_SLURM
    submitted = Path(".snakemake", "slurm_logs").is_dir()  # from this folder, ever
    if orphans is None and NO_SLURM is None and submitted and which("squeue"):
        try:
            orphans = queue.Orphans(
                queue.in_queue(Path.cwd()), queue.cancel, queue.queued_ids
            )
        except BadInput as error:
            NO_SLURM = error
            logger.warning(
                f"Finished results that were set aside stay where they are. {error}"
            )
    if NO_SLURM is not None:
        return True
    return orphans is not None and orphans.hold(map(str, job.output))


# --jobs is given for clusters only; a job's own Snakemake must come to the same resources.
SUBMITS = workflow.is_main_process and workflow.resource_settings.nodes is not None
NO_SLURM = orphans = None

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
    executor = sys.modules.get("snakemake_executor_plugin_slurm")
    if executor is not None:
        # Before the plan is made: a job that ends in between is asked for by its id, and not submitted again.
        try:
            queue.require_programs(account=SITE.account)
            found = queue.in_queue(Path.cwd())
        except BadInput as error:
            NO_SLURM, found = error, []
            if workflow.output_settings.dryrun:
                logger.warning(f"Nothing could be submitted now. {error}")
        orphans = queue.Orphans(found, queue.cancel, queue.queued_ids)
        lost, runs, adopted = queue.LostJobs(queue.cancel), set(), set()
        executor.query_job_status = with_lost_jobs(
            executor.query_job_status, executor.query_job_status_squeue, lost, runs
        )
        executor.get_submit_command = with_mark(executor.get_submit_command)
        executor.Executor.__init__ = asking_first(executor.Executor.__init__)
        executor.Executor.run_job = adopting(
            executor.Executor.run_job, orphans, lost, runs, adopted
        )
        executor.Executor.cancel = cancelling(executor.Executor.cancel, adopted)

if workflow.remote_exec:
    PersistenceBase.finished = on_record(PersistenceBase.finished)

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
