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


def put_back(job):
    """Whether what is set aside was made from what this job would be made from, in its place again now."""
    results = results_of(job)
    if not results.kept or (results.there and records_of(job) is not None):
        return False
    store, records = workflow.persistence, results.records()
    for record in records.values():
        if record is None or record["input"] != store._input(job):
            return False
        if set(record["params"]) != set(store._params(job)):
            return False
    results.put_back()
    for file in job.output:
        store._unmark_incomplete(file)
        store._write_record(file, MetadataRecord.model_validate(records[file]))
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
                if job.output and not in_queue_already(job) and put_back(job)
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
