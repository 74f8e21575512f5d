# A finished result is never removed before its successor is there; included after all rules, on every executor.
#
# Three methods of Snakemake are replaced, at the end of this file. tests/workflow/test_superseded.py sees when they change.

import contextlib
import fcntl
import functools
from shutil import which

from groupppo.records.superseded import Superseded
from groupppo.slurm import queue
from snakemake.dag import DAG
from snakemake.io import IOCache
from snakemake.jobs import Job
from snakemake.persistence import MetadataRecord
from snakemake_interface_executor_plugins.settings import ExecMode

# Rules whose jobs have a folder of their own, with more in it than they declare.
OWN_FOLDER = {"train", "train_on_several_nodes", "evaluate", "evaluate_start"}


def results_of(job):
    """The job's results, after a move aside that was interrupted is undone."""
    results = Superseded(
        [Path(file) for file in job.output], own_folder=job.rule.name in OWN_FOLDER
    )
    results.settle()
    return results


def begun(job):
    """Whether a job that makes these outputs has begun and not ended."""
    store = workflow.persistence
    return bool(store._filter_incomplete_keys(map(store._get_key, job.output)))


async def records_of(job):
    """What is on record of each output, and whether what is in its place is that: a half result is of another time."""
    store = workflow.persistence
    store.deactivate_cache()
    records = {file: store.metadata(file) for file in job.output}
    finished = True
    for file, record in records.items():
        if record is None or record.endtime is None or not Path(file).exists():
            finished = False
        else:
            mtime = (await file.mtime_uncached()).local_or_storage()
            finished &= abs(mtime - record.endtime) <= 1e-3
    return records, finished


def mark_incomplete(job):
    for file in job.output:
        workflow.persistence._mark_incomplete(workflow.persistence._get_key(file), None)


def unmark_incomplete(job):
    for file in job.output:
        workflow.persistence._unmark_incomplete(workflow.persistence._get_key(file))


async def set_aside(job):
    """An older generation makes room for results that are finished, and for nothing else."""
    if not job.output:
        return
    results = results_of(job)
    if results.returning:
        restore(job, results)
    records, finished = await records_of(job)
    if finished or not (begun(job) or results.kept):
        results.set_aside(
            {file: record and record.model_dump() for file, record in records.items()}
        )


def restore(job, results):
    """Until all is in its place it is incomplete to Snakemake, so that no other job's record stands for it."""
    store, records = workflow.persistence, results.records()
    mark_incomplete(job)
    for file in job.output:
        record = MetadataRecord.model_validate(records[file])
        store._write_record(store._get_key(file), record)
    results.put_back()
    unmark_incomplete(job)


@functools.cache
def earlier_jobs():
    """Those that were submitted from this folder and are in the queue; None where none ever was."""
    submitted = Path(".snakemake", "slurm_logs").is_dir() and which("squeue")
    if not (SUBMITS or submitted):
        return None
    earlier = queue.at_start(Path.cwd(), ["squeue"])
    if earlier.problem is not None:
        logger.warning(
            f"Finished results that were set aside stay where they are. {earlier.problem}"
        )
    return earlier


def written_by_another(job):
    """Whether a job in the queue, or a process whose launcher may have been killed, writes the same files, or may."""
    earlier = earlier_jobs()
    if earlier is not None and (earlier.problem or earlier.hold(map(str, job.output))):
        return True
    lock = Path(job.output[0]).parent / ".lock"
    if job.rule.name not in OWN_FOLDER or not lock.is_file():
        return False
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # a file system without locks
            return False
    return False


async def made_as_asked(job, records):
    """Whether results with these records are what the job would make, as Snakemake tells for those in their place."""
    store = workflow.persistence
    for record in records.values():
        if record is None or record["input"] != store._input(job):
            return False
        if set(record["params"]) != set(store._params(job)):
            return False
        for file in job.input:
            newer = await file.exists() and await file.is_newer(record["endtime"])
            known = record["input_checksums"].get(file)
            limit = store.max_checksum_file_size
            if newer and not await file.is_same_checksum(known, limit):
                return False
    return True


async def put_back(job):
    """Whether what is set aside is what the job would make; it is in its place again then."""
    results = results_of(job)
    if not (results.kept or begun(job)) or written_by_another(job):
        return False
    if not results.returning:
        if begun(job) and (await records_of(job))[1]:
            unmark_incomplete(job)  # of a job that was killed before it touched them
        if not results.kept or (results.there and not begun(job)):
            return False
    records = results.records()
    if records is None:
        logger.warning(
            f"{results.generation}: nobody knows what these results are; remove them, or move them to where they belong."
        )
        return False
    if not results.returning and not await made_as_asked(job, records):
        return False
    restore(job, results)
    return True


@contextlib.contextmanager
def alone_in(lock):
    with lock.open("a") as file:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def replace(owner):
    """Replace a method by a function of the method and its arguments, once in a process."""

    def decorate(function):
        original = getattr(owner, function.__name__)
        if not hasattr(original, "replaces"):

            def call(*arguments, **others):
                return function(original, *arguments, **others)

            call.replaces = original
            setattr(owner, function.__name__, call)
        return function

    return decorate


# Snakemake 9.27.1 removes the outputs of a job as it starts (jobs.py:797). They are set aside first, on the machine where
# the job runs. Its flag update() keeps them for the price of a copy. To go when Snakemake can keep outputs until their
# successors are there: https://github.com/snakemake/snakemake/issues/509
@replace(Job)
async def remove_existing_output(original, job):
    await set_aside(job)
    await original(job)


# It removes, too, the outputs of a job that failed or was not submitted (jobs.py:955), which has those from before if it
# never began; and it leaves to the main process to record what outputs were made from (persistence/__init__.py:478),
# which may have been killed: no later change of a parameter would make them stale. To go with the one above, and when
# a job's own process writes the record.
@replace(Job)
async def postprocess(original, job, *arguments, error=False, **others):
    if error:
        await set_aside(job)
    settings = workflow.workflow_settings
    mode = settings.exec_mode
    # Not the Snakemake around it, which only starts the job step.
    if workflow.remote_exec and workflow.local_exec and not error:
        settings.exec_mode = ExecMode.DEFAULT
    try:
        await original(job, *arguments, error=error, **others)
    finally:
        settings.exec_mode = mode
    if not job.output:
        return
    results = results_of(job)
    if error and workflow.execution_settings.keep_incomplete:
        # Else they are finished ones at the next start: the record of what failed is that of what finished.
        for file in job.output:
            workflow.persistence.cleanup_metadata(file)
        mark_incomplete(job)
    if error and results.kept:
        logger.info(f"What it had made before is kept: {results.generation.parent}")
    elif not error and results.kept and results.there:
        try:
            results.drop()
        except OSError as problem:  # the new results are there all the same
            logger.warning(f"{results.generation} could not be removed: {problem}")


# Snakemake has no hook between reading the rules and planning. Another Snakemake in this folder, or a job that it left,
# may be making a successor. To go with the two above.
@replace(DAG)
async def check_incomplete(original, dag):
    plugin = workflow.executor_plugin
    if plugin is not None and plugin.name == "slurm":
        hint = "and groupppo-slurm-X for each option slurm-X"
        raise WorkflowError(f"executor: slurm: write groupppo-slurm, {hint}")
    if workflow.is_main_process and not any(workflow.persistence._read_locks()):
        # Of two plans at once one puts back, and the other finds it done.
        with alone_in(Path(".snakemake") / "superseded.lock"):
            again = [job for job in dag.jobs if job.output and await put_back(job)]
        if again:
            # Its clear() leaves it believing that it knows every folder.
            workflow.iocache = IOCache(workflow.iocache.max_wait_time)
            logger.info(
                f"{len(again)} finished results that were set aside are asked for again, and back in their place."
            )
    await original(dag)
