"""Snakemake's executor for Slurm, in a version that loses no job and submits none twice; `executor: groupppo-slurm`.

A subclass of the executor in snakemake-executor-plugin-slurm, with its settings: `--slurm-X` there is
`--groupppo-slurm-X` here. Snakemake finds this folder by its name on Python's path.
"""

import asyncio
import contextlib
import io
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Never

from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
from snakemake_interface_executor_plugins.settings import CommonSettings

from groupppo.errors import BadInput
from groupppo.slurm import queue

try:
    import snakemake_executor_plugin_slurm as stock
except ModuleNotFoundError:  # Snakemake imports every executor that it finds, also where none of them is for Slurm
    common_settings = CommonSettings(non_local_exec=True, implies_no_shared_fs=False, job_deploy_sources=False)

    class Executor(RemoteExecutor):
        """Says what is missing."""

        def __new__(cls, *arguments: Any) -> Never:
            """Raise WorkflowError."""
            raise WorkflowError("install snakemake-executor-plugin-slurm and snakemake-executor-plugin-slurm-jobstep")

else:
    common_settings = stock.common_settings
    ExecutorSettings = stock.ExecutorSettings
    # Slurm takes comments of up to 1024 characters, and that of an array has the marks of all its tasks, of 27 each.
    MOST_TASKS, COMMENT_LENGTH = 30, 1000

    def mark_of(job: Any) -> queue.Mark:
        """Who writes which files from what; resources are no part of it, as they grow with each attempt."""
        work = [job.rule.name, job.rule.shellcmd, [str(file) for file in job.input]]
        work += [list(job.params.keys()), list(job.params)]
        return queue.marked([str(file) for file in job.output], work)

    def old_options() -> list[str]:
        """Options of the stock executor on the command line or in a profile, where Snakemake takes both kinds."""
        if "snakemake" not in Path(sys.argv[0]).parts[-2:]:  # another program, whose options are others
            return []
        from snakemake.cli import parse_args  # which imports the executors

        with contextlib.redirect_stderr(io.StringIO()):  # it names the profiles a second time
            parser, arguments = parse_args(None)
        return [
            name.replace("_", "-")
            for name, value in vars(arguments).items()
            if re.match("slurm_(?!jobstep_)", name) and value not in (None, parser.get_default(name))
        ]

    class Executor(stock.Executor):  # type: ignore[no-redef]
        """Submit jobs to Slurm, adopting those that are in the queue already, and wait until they have ended."""

        def __init__(self, workflow: Any, logger: Any):
            if old := old_options():
                raise WorkflowError(*(f"{name}: write groupppo-{name}" for name in old))
            self._earlier = queue.at_start(Path.cwd())
            if self._earlier.problem is not None and len(workflow.dag):
                raise WorkflowError(str(self._earlier.problem))
            self._lost = queue.LostJobs()
            self._adopted: dict[str, str] = {}  # run id by job id
            self._arrays: dict[Any, Sequence[Any]] = {}  # all jobs of an array that is submitted, by its first
            super().__init__(workflow, logger)

        def run_jobs(self, jobs: list[Any]) -> None:
            """Submit jobs, in arrays those of rules for which arrays are asked for.

            The stock executor lets go of a job while others of its rule are ready that Snakemake has not handed over,
            as under --jobs: nobody submits it later, and Snakemake waits for it without end.
            """
            in_arrays = [job for job in jobs if not job.is_group() and self.array_jobs & {"all", job.name}]
            super().run_jobs([job for job in jobs if job not in in_arrays])
            self._submit_array_jobs(in_arrays)

        def run_job(self, job: Any) -> None:
            """Submit a job, or adopt the one in the queue that does the same."""
            if self._is_new(job):
                super().run_job(job)

        def run_array_jobs(self, jobs: Sequence[Any]) -> None:
            """Submit jobs as arrays of one rule and equal resources, but for those to adopt.

            In the stock executor every task looks for the outputs of the first job in the end, and removes them where
            its own job fails: https://github.com/snakemake/snakemake-executor-plugin-slurm/issues/447. Here a task runs
            what its job would run alone.
            """
            alike: dict[str, list[Any]] = {}
            for job in filter(self._is_new, jobs):
                asked = sorted((name, str(value)) for name, value in job.resources.items())
                alike.setdefault(f"{job.name} {asked}", []).append(job)
            size = min(MOST_TASKS, self.max_array_size)
            for group in alike.values():
                for chunk in (group[start : start + size] for start in range(0, len(group), size)):
                    if len(chunk) > 1:
                        self._arrays[chunk[0]] = chunk
                    super().run_job(chunk[0])

        def _is_new(self, job: Any) -> bool:
            """Whether a job is to be submitted; another one waits for its like in the queue, or has failed."""
            try:
                earlier = None if job.is_group() else self._earlier.claim(mark_of(job))
            except (BadInput, OSError, subprocess.SubprocessError) as error:
                self._report_job_error_threadsafe(SubmittedJobInfo(job), f"Not submitted: {error}\n")
                return False
            if earlier is None:
                return True
            self._adopted[earlier.id] = earlier.run
            message = f"Job {job.jobid} is in the queue already with SLURM jobid {earlier.id}, from an earlier start"
            self.logger.info(f"{message}; waiting for it.")
            place = "" if "_" in earlier.id else stock.get_job_wildcards(job)
            log = self.slurm_logdir / f"rule_{job.name}" / place / f"{earlier.id}.log"
            info = SubmittedJobInfo(job, external_jobid=earlier.id, aux={"slurm_logfile": log})
            self._report_job_submission_threadsafe(info)
            return False

        def format_job_exec(self, job: Any) -> str:
            """The command of a job, or of an array that it is the first of."""
            command = super().format_job_exec
            if job not in self._arrays:
                return command(job)
            script = Path(self.tmpdir, f"array.{job.jobid}.sh")
            cases = "\n".join(f"{task}) {command(each)};;" for task, each in enumerate(self._arrays[job], 1))
            script.write_text(f"case $SLURM_ARRAY_TASK_ID in\n{cases}\nesac\n", encoding="utf-8")
            return f"sh {stock.shlex.quote(str(script))}"

        def get_partition_arg(self, job: Any) -> str:
            """The partition, a comment with marks, and what makes an array: sbatch takes the last of two options."""
            option = super().get_partition_arg(job)
            if job.is_group():
                return option
            jobs = self._arrays.get(job, [job])
            wildcards, marks = stock.get_job_wildcards(job), "".join(str(mark_of(each)) for each in jobs)
            name = f"rule_{job.name}_wildcards_{wildcards}" if wildcards else f"rule_{job.name}"
            option += f" --comment {stock.shlex.quote(f'{name[: COMMENT_LENGTH - len(marks)]} {marks}')}"
            if len(jobs) > 1:
                log = self.slurm_logdir / f"rule_{job.name}" / "%A_%a.log"
                option += f" --array=1-{len(jobs)} --output {stock.shlex.quote(str(log))}"
            return option

        def _report_job_submission_threadsafe(self, job_info: SubmittedJobInfo) -> None:
            for info in self._tasks(job_info):
                super()._report_job_submission_threadsafe(info)

        def _report_job_error_threadsafe(self, job_info: SubmittedJobInfo, msg: str) -> None:
            for info in self._tasks(job_info):
                super()._report_job_error_threadsafe(info, msg)

        def _tasks(self, info: SubmittedJobInfo) -> list[SubmittedJobInfo]:
            """One for each job of an array that was submitted or refused."""
            jobs = self._arrays.pop(info.job, None)
            if jobs is None:
                return [info]
            ids = [info.external_jobid and f"{info.external_jobid}_{task}" for task in range(1, len(jobs) + 1)]
            folder = self.slurm_logdir / f"rule_{info.job.name}"
            return [
                SubmittedJobInfo(job, external_jobid=number, aux={"slurm_logfile": folder / f"{number}.log"})
                for job, number in zip(jobs, ids, strict=True)
            ]

        def report_job_submission(self, job_info: SubmittedJobInfo, register_job: bool = True) -> None:
            """Take a job for submitted; it has begun when it runs, and until then its outputs are finished ones."""
            super().report_job_submission(job_info, register_job=False)

        async def check_active_jobs(self, active_jobs: list[SubmittedJobInfo]) -> AsyncIterator[SubmittedJobInfo]:
            """Report the jobs that have ended, and yield the others; all of them where the queue does not answer."""
            settings = self.workflow.executor_settings
            states = await self._states() if active_jobs else {}
            if states is None:
                self.logger.warning("The queue does not answer; its jobs are kept.")
                for info in active_jobs:
                    yield info
                return
            ended = not active_jobs
            for info in active_jobs:
                seen, log = states.get(info.external_jobid), info.aux["slurm_logfile"]
                state = self._lost.judge(info.external_jobid, seen.state if seen else None)
                if state in ("COMPLETED", "UNKNOWN"):
                    self.report_job_success(info)
                    if state == "COMPLETED" and not settings.keep_successful_logs:
                        with contextlib.suppress(OSError):
                            log.unlink()
                elif state in queue.FAILED and not (state == "NODE_FAIL" and settings.requeue):
                    message = f"SLURM-job '{info.external_jobid}' failed, SLURM status is: '{state}'. "
                    if seen is not None:
                        message += f"Reason: {seen.reason or 'Unknown'}. "
                        message += self._excluded(seen)
                    self.report_job_error(info, msg=message, aux_logs=[str(log)])
                else:
                    yield info
                    continue
                ended = True
            seconds: int = settings.init_seconds_before_status_checks
            if not ended:
                seconds = min(super().next_seconds_between_status_checks + 10, 180)
            self.next_seconds_between_status_checks = seconds

        def _excluded(self, seen: queue.Seen) -> str:
            """Exclude the node that failed from later submissions, and say so.

            Of several nodes of a job nobody says which one it was, and all of them may be all there are.
            """
            if seen.state != "NODE_FAIL" or not re.fullmatch(r"[\w.-]+", seen.nodes):
                return ""
            self._failed_nodes.add(seen.nodes)
            return f"Later jobs are not sent to {seen.nodes}. "

        async def _states(self) -> dict[str, queue.Seen] | None:
            """From sacct, and where that does not answer, as without a database, from squeue from then on."""
            settings = self.workflow.executor_settings
            runs = {self.run_uuid, *self._adopted.values()}
            for program in dict.fromkeys([settings.status_command or "squeue", "squeue"]):
                async with self.status_rate_limiter:
                    states = await asyncio.to_thread(queue.states, program, runs)
                if states is not None:
                    settings.status_command = program
                    return states
            return None

        def cancel(self) -> None:
            """Cancel the jobs of this run, by its name, and those that it adopted.

            RemoteExecutor.cancel knows of neither those that are just submitted nor of any during a look at the queue.
            """
            try:
                super().cancel()
            finally:
                queue.cancel_run(self.run_uuid)
                for job in self._adopted:
                    queue.cancel(job)
