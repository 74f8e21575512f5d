# A finished result is never removed before its successor is there; included after all rules, on every executor.
#
# Snakemake 9.27.1 removes the outputs of a job as it starts (jobs.py:797), and of one that failed or was not submitted
# (jobs.py:955); its flag update() keeps them at the start only, for the price of a copy.

import contextlib
import fcntl

from groupppo.records.superseded import Superseded
from snakemake.dag import DAG
from snakemake.io import IOCache
from snakemake.jobs import Job
from snakemake.persistence import MetadataRecord, PersistenceBase

# Rules whose jobs have a folder of their own, with more in it than they declare.
OWN_FOLDER = {"train", "train_on_several_nodes", "evaluate", "evaluate_start"}


def results_of(job):
    return Superseded(
        [Path(file) for file in job.output], own_folder=job.rule.name in OWN_FOLDER
    )


def records_of(job):
    """What is on record of each output of a job; None of all if the job has begun and not ended."""
    store = workflow.persistence
    store.deactivate_cache()
    if store._filter_incomplete_keys(job.output):
        return None
    return {file: store.metadata(file) for file in job.output}


async def finished(job, records):
    """Whether what is in its place is what is on record: a half result is of another time than its record."""
    for file in job.output:
        record = records[file]
        if record is None or not Path(file).exists():
            return False
        mtime = (await file.mtime_uncached()).local_or_storage()
        if record.endtime is None or abs(mtime - record.endtime) > 1e-3:
            return False
    return True


async def set_aside(job):
    """An older generation makes room for results that are finished, and for nothing else."""
    if not job.output:
        return
    results = results_of(job)
    results.settle()
    if results.returning:
        restore(job, results)
    records = records_of(job)
    if records is None or (results.kept and not await finished(job, records)):
        return
    results.set_aside(
        {file: record and record.model_dump() for file, record in records.items()}
    )


def restore(job, results):
    """Until all is in its place it is incomplete to Snakemake, so that no other job's record stands for it."""
    store, records = workflow.persistence, results.records()
    for file in job.output:
        key = store._get_key(file)
        store._mark_incomplete(key, None)
        store._write_record(key, MetadataRecord.model_validate(records[file]))
    results.put_back()
    for file in job.output:
        store._unmark_incomplete(store._get_key(file))


def held(job):
    """Whether a process trains in the folder, whoever started it: its launcher may have been killed."""
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
    results.settle()
    if not results.kept or in_queue_already(job) or held(job):
        return False
    records = results.records()
    if records is None:
        logger.warning(
            f"{results.generation}: nobody knows what these results are; remove them, or move them to where they belong."
        )
        return False
    if not results.returning:
        if results.there and records_of(job) is not None:
            return False
        if None in records.values() or not await made_as_asked(job, records):
            return False
    restore(job, results)
    return True


def setting_aside(remove_existing_output):
    """As a job starts, on the machine where it does."""

    async def remove(self):
        await set_aside(self)
        await remove_existing_output(self)

    return remove


def ending(postprocess):
    """A job that never began has its outputs from before; one that ended well needs no older ones."""

    async def end(self, *arguments, error=False, **others):
        if error:
            await set_aside(self)
        await postprocess(self, *arguments, error=error, **others)
        if not self.output:
            return
        results = results_of(self)
        if error and workflow.execution_settings.keep_incomplete:
            # Snakemake would take them for finished ones at the next start.
            for file in self.output:
                workflow.persistence._mark_incomplete(
                    workflow.persistence._get_key(file), None
                )
        if error and results.kept:
            logger.info(f"What it had made before is kept: {results.generation.parent}")
        elif not error and results.kept and results.there:
            try:
                results.drop()
            except OSError as problem:  # the new results are there all the same
                logger.warning(f"{results.generation} could not be removed: {problem}")

    return end


def putting_back(check_incomplete):
    """Before the plan is made. Another Snakemake in this folder, or a job that it left, may be making a successor."""

    async def check(self):
        if workflow.is_main_process and not any(workflow.persistence._read_locks()):
            # Of two plans at once one puts back, and the other finds it done.
            with alone_in(Path(".snakemake") / "superseded.lock"):
                found = [job for job in self.jobs if job.output and await put_back(job)]
            if found:
                # Its clear() leaves it believing that it knows every folder.
                workflow.iocache = IOCache(workflow.iocache.max_wait_time)
                logger.info(
                    f"{len(found)} finished results that were set aside are asked for again, and back in their place."
                )
        await check_incomplete(self)

    return check


@contextlib.contextmanager
def alone_in(lock):
    with lock.open("a") as file:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def where_it_runs(started):
    """A job has begun when it runs, not when it is submitted: until then its outputs are finished ones."""

    def start(self, job, external_jobid=None):
        if workflow.local_exec or job.is_local:
            started(self, job, external_jobid)

    return start


Job.remove_existing_output = setting_aside(Job.remove_existing_output)
Job.postprocess = ending(Job.postprocess)
DAG.check_incomplete = putting_back(DAG.check_incomplete)
PersistenceBase.started = where_it_runs(PersistenceBase.started)
