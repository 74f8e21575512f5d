"""Snakemake is interrupted, or its folder is full: the same command completes and repeats nothing that was done."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.conftest import PATIENCE, Start, attempts, copy_stub, eventually, said
from tests.cluster.local_slurm import Cluster
from tests.disks import remount, small_disk

pytestmark = pytest.mark.cluster


def running(folder: Path, *rules: str) -> bool:
    return all(attempts(folder, rule) for rule in rules)


@pytest.fixture
def slow_looks(cluster: Cluster, tmp_path: Path) -> Path:
    """A squeue that takes its time, and says so by a file."""
    folder = tmp_path / "programs"
    folder.mkdir()
    slow = f"touch {tmp_path}/looking; sleep 4; rm -f {tmp_path}/looking; exec {cluster.folder}/bin/squeue"
    (folder / "squeue").write_text(f'#!/bin/sh\n{slow} "$@"\n')
    (folder / "squeue").chmod(0o755)
    return folder


def test_ctrl_c_cancels_the_jobs_and_a_restart_submits_each_once(
    cluster: Cluster, start: Start, stub: Path, slow_looks: Path
) -> None:
    first = start(stub, "--", "slow1.done", programs=slow_looks)
    assert eventually(lambda: running(stub, "slow1")), said(stub)
    # While it looks, the executor's list of jobs is empty.
    assert eventually((stub / "looking").exists)
    first.send_signal(signal.SIGINT)
    assert first.wait(timeout=PATIENCE) != 0
    assert eventually(lambda: not cluster.jobs(states="pending,running,completing"))
    assert not (stub / "slow1.done").exists()
    (stub / "go1").touch()
    assert start(stub, "--", "slow1.done").wait(timeout=PATIENCE) == 0, said(stub)
    assert len(attempts(stub, "slow1")) == 2


def test_after_kill_9_jobs_that_ended_are_kept_those_that_run_are_adopted_and_changed_ones_replaced(
    cluster: Cluster, start: Start, stub: Path
) -> None:
    wanted = ("--", "slow1.done", "slow2.done", "slow3.done")
    first = start(stub, *wanted)
    assert eventually(lambda: running(stub, "slow1", "slow2", "slow3")), said(stub)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    (stub / "go1").touch()
    assert eventually(lambda: len(cluster.jobs(states="pending,running,completing")) == 2)
    second = start(stub, "--config", "word3=other", *wanted)
    assert eventually(lambda: "in the queue already" in said(stub) or second.poll() is not None), said(stub)
    for name in ("go2", "go3"):
        (stub / name).touch()
    assert second.wait(timeout=PATIENCE) == 0, said(stub)
    assert "the lock it left is lifted" in said(stub)
    assert [len(attempts(stub, f"slow{n}")) for n in (1, 2, 3)] == [1, 1, 2]
    states = dict(cluster.jobs("%A|%T"))  # type: ignore[arg-type]
    assert [states[str(attempts(stub, f"slow{n}")[0][0])] for n in (1, 2, 3)] == ["COMPLETED", "COMPLETED", "CANCELLED"]
    assert [(stub / f"slow{n}.done").read_text().strip() for n in (1, 2, 3)] == ["same", "same", "other"]
    # What ended while no Snakemake looked is on record: it is stale once its parameter changes, and the others are not.
    assert start(stub, "--config", "word3=other", "word1=new", *wanted).wait(timeout=PATIENCE) == 0, said(stub)
    assert (stub / "slow1.done").read_text().strip() == "new"
    assert [len(attempts(stub, f"slow{n}")) for n in (1, 2, 3)] == [2, 1, 2]


ARRAYS = ("--groupppo-slurm-array-jobs", "slow", "--", "slow1.done", "slow2.done", "slow3.done")


def test_under_jobs_an_array_has_the_tasks_that_may_run_and_they_are_adopted_after_kill_9(
    cluster: Cluster, start: Start, stub: Path
) -> None:
    first = start(stub, "--jobs", "2", *ARRAYS)
    assert eventually(lambda: sum(running(stub, f"slow{n}") for n in (1, 2, 3)) == 2), said(stub)
    tasks = sorted(job for (job,) in cluster.jobs("%i", states="running"))
    array = tasks[0].partition("_")[0]
    assert tasks == [f"{array}_1", f"{array}_2"]
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    second = start(stub, "--jobs", "2", *ARRAYS)
    assert eventually(lambda: "in the queue already" in said(stub) or second.poll() is not None), said(stub)
    for name in ("go1", "go2", "go3"):
        (stub / name).touch()
    assert second.wait(timeout=PATIENCE) == 0, said(stub)
    assert said(stub).count("in the queue already") == 2
    assert [len(attempts(stub, f"slow{n}")) for n in (1, 2, 3)] == [1, 1, 1]


def test_a_task_of_an_array_that_is_cancelled_is_tried_again_alone_and_touches_nothing_of_the_others(
    cluster: Cluster, start: Start, stub: Path
) -> None:
    first = start(stub, *ARRAYS)
    assert eventually(lambda: running(stub, "slow1", "slow2", "slow3")), said(stub)
    for name in ("go1", "go2"):
        (stub / name).touch()
    done = [stub / "slow1.done", stub / "slow2.done"]
    assert eventually(lambda: len(cluster.jobs(states="pending,running,completing")) == 1)
    # Snakemake touches what a job made when it sees that the job has ended.
    assert eventually(lambda: said(stub).count("Finished jobid") == 2), said(stub)
    before = [file.stat().st_mtime_ns for file in done]
    ((task,),) = cluster.jobs("%i", states="running")
    cluster.run("scancel", task)
    assert eventually(lambda: len(attempts(stub, "slow3")) == 2), said(stub)
    (stub / "go3").touch()
    assert first.wait(timeout=PATIENCE) == 0, said(stub)
    assert [len(attempts(stub, f"slow{n}")) for n in (1, 2, 3)] == [1, 1, 2]
    assert [file.stat().st_mtime_ns for file in done] == before
    assert not (stub / "superseded").exists()
    logs = [log.name for log in (stub / ".snakemake" / "slurm_logs" / "rule_slow").glob("*_*.log")]
    assert len(logs) == 3


def test_two_snakemakes_leave_each_other_alone_and_sigterm_lets_the_running_jobs_of_one_end(
    start: Start, stub: Path
) -> None:
    first = start(stub, "--", "slow1.done")
    assert eventually(lambda: running(stub, "slow1")), said(stub)
    same = start(stub, "--", "slow1.done")
    assert same.wait(timeout=PATIENCE) == 1
    assert "Directory cannot be locked" in said(stub)  # the lock of one that lives is not lifted
    (stub / "go2").touch()
    assert start(stub, "--", "slow2.done").wait(timeout=PATIENCE) == 0, said(stub)
    assert first.poll() is None
    first.send_signal(signal.SIGTERM)
    (stub / "go1").touch()
    first.wait(timeout=PATIENCE)
    assert (stub / "slow1.done").exists(), said(stub)
    assert "Nothing to be done" not in said(stub)
    assert start(stub, "--", "slow1.done", "slow2.done").wait(timeout=PATIENCE) == 0
    assert "Nothing to be done" in said(stub)
    assert [len(attempts(stub, rule)) for rule in ("slow1", "slow2")] == [1, 1]


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """The stub on a file system of 4 MB."""
    with small_disk(tmp_path / "small", "4m") as folder:
        copy_stub(folder)
        yield folder


def test_a_full_disk_ends_the_run_and_with_room_the_same_command_completes(start: Start, full_disk: Path) -> None:
    (full_disk / "go1").touch()
    wanted = ("--retries", "0", "--", "slow1.done", "large.done")
    assert start(full_disk, *wanted).wait(timeout=PATIENCE) == 1
    logs = [log.read_text() for log in (full_disk / ".snakemake" / "slurm_logs" / "rule_large").glob("*.log")]
    assert any("No space left on device" in log for log in logs), logs
    assert not (full_disk / "large.done").exists()  # half of it is no output
    assert len(attempts(full_disk, "large")) == 1
    remount(full_disk, "size=64m")
    assert start(full_disk, *wanted).wait(timeout=PATIENCE) == 0, said(full_disk)
    assert (full_disk / "large.done").stat().st_size == 16 * 1024**2
    assert len(attempts(full_disk, "large")) == 2
    assert len(attempts(full_disk, "slow1")) == 1
