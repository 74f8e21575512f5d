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
from collections.abc import AsyncIterator
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
    COMMENT_LENGTH = 1000  # Slurm takes up to 1024 characters

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
            if workflow.executor_settings.array_jobs:
                # https://github.com/snakemake/snakemake-executor-plugin-slurm/issues/447
                hint = "tasks of an array look for the first one's outputs, and remove them when they fail"
                raise WorkflowError(f"groupppo-slurm-array-jobs: leave it out: {hint}")
            self._earlier = queue.at_start(Path.cwd())
            if self._earlier.problem is not None and len(workflow.dag):
                raise WorkflowError(str(self._earlier.problem))
            self._lost = queue.LostJobs()
            self._adopted: dict[str, str] = {}  # run id by job id
            super().__init__(workflow, logger)

        def run_job(self, job: Any) -> None:
            """Submit a job, or adopt the one in the queue that does the same."""
            try:
                earlier = None if job.is_group() else self._earlier.claim(mark_of(job))
            except (BadInput, OSError, subprocess.SubprocessError) as error:
                self._report_job_error_threadsafe(SubmittedJobInfo(job), f"Not submitted: {error}\n")
                return
            if earlier is None:
                super().run_job(job)
                return
            self._adopted[earlier.id] = earlier.run
            message = f"Job {job.jobid} is in the queue already with SLURM jobid {earlier.id}, from an earlier start"
            self.logger.info(f"{message}; waiting for it.")
            log = self.slurm_logdir / f"rule_{job.name}" / stock.get_job_wildcards(job) / f"{earlier.id}.log"
            info = SubmittedJobInfo(job, external_jobid=earlier.id, aux={"slurm_logfile": log})
            self._report_job_submission_threadsafe(info)

        def get_partition_arg(self, job: Any) -> str:
            """The partition, and a comment with the job's mark: sbatch takes the last of two options."""
            option = super().get_partition_arg(job)
            if job.is_group():
                return option
            wildcards, mark = stock.get_job_wildcards(job), str(mark_of(job))
            name = f"rule_{job.name}_wildcards_{wildcards}" if wildcards else f"rule_{job.name}"
            return option + f" --comment {stock.shlex.quote(f'{name[: COMMENT_LENGTH - len(mark)]} {mark}')}"

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
            judged = self._lost.judge(
                [info.external_jobid for info in active_jobs], {job: seen.state for job, seen in states.items()}
            )
            ended = not active_jobs
            for info in active_jobs:
                state, log = judged[info.external_jobid], info.aux["slurm_logfile"]
                if state in ("COMPLETED", "UNKNOWN"):
                    self.report_job_success(info)
                    if state == "COMPLETED" and not settings.keep_successful_logs:
                        with contextlib.suppress(OSError):
                            log.unlink()
                elif state in queue.FAILED and not (state == "NODE_FAIL" and settings.requeue):
                    message = f"SLURM-job '{info.external_jobid}' failed, SLURM status is: '{state}'. "
                    if (seen := states.get(info.external_jobid)) is not None:
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
