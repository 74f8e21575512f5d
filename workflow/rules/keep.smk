# A finished result is never removed before its successor is there; included after all rules, on every executor.
#
# Snakemake 9.27.1 removes the outputs of a job as it starts (jobs.py:797), and of one that failed or was not submitted
# (jobs.py:955); its flag update() keeps them at the start only, for the price of a copy.

from groupppo.superseded import Superseded
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


def set_aside(job):
    records = records_of(job) if job.output else None
    if records is not None:
        results_of(job).set_aside(
            {file: record and record.model_dump() for file, record in records.items()}
        )


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
    if not results.kept or (results.there and records_of(job) is not None):
        return False
    records = results.records()
    if not await made_as_asked(job, records):
        return False
    results.put_back()
    for file in job.output:
        workflow.persistence._unmark_incomplete(file)
        record = MetadataRecord.model_validate(records[file])
        workflow.persistence._write_record(file, record)
    return True


def setting_aside(remove_existing_output):
    """As a job starts, on the machine where it does."""

    async def remove(self):
        set_aside(self)
        await remove_existing_output(self)

    return remove


def ending(postprocess):
    """A job that never began has its outputs from before; one that ended well needs no older ones."""

    async def end(self, *arguments, error=False, **others):
        # Beside older results, what is there failed when it had been made.
        if error and self.output and not results_of(self).note.exists():
            set_aside(self)
        await postprocess(self, *arguments, error=error, **others)
        if self.output and (results := results_of(self)).note.exists():
            if error and results.kept:
                logger.info(f"What it had made before is kept: {results.note.parent}")
            elif not error and results.there:
                results.drop()

    return end


def putting_back(check_incomplete):
    """Before the plan is made. Another Snakemake in this folder, or a job that it left, may be making a successor."""

    async def check(self):
        if workflow.is_main_process and not any(workflow.persistence._read_locks()):
            found = [
                job
                for job in self.jobs
                if job.output and not in_queue_already(job) and await put_back(job)
            ]
            if found:
                # Its clear() leaves it believing that it knows every folder.
                workflow.iocache = IOCache(workflow.iocache.max_wait_time)
                logger.info(
                    f"{len(found)} finished results that were set aside are asked for again, and back in their place."
                )
        await check_incomplete(self)

    return check


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
