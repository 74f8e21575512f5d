"""Finished results are there again when jobs that were to replace them are refused, wait in vain, or are killed."""

import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.cluster.conftest import PATIENCE, Start, attempts, copy_stub, eventually, said, snakemakes
from tests.cluster.local_slurm import Cluster

pytestmark = pytest.mark.cluster

AGAIN = ("--config", "word1=new")
ONCE = ("--retries", "0", "--", "slow1.done")


@pytest.fixture(scope="module")
def made(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    copy_stub(folder)
    (folder / "go1").touch()
    with snakemakes(cluster) as start:
        assert start(folder, "--", "slow1.done").wait(timeout=PATIENCE) == 0, said(folder)
    return folder


@pytest.fixture
def finished(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "finished", symlinks=True)
    return tmp_path / "finished"


def found_again(start: Start, folder: Path) -> bool:
    """Whether the same command as in the beginning finds what it made."""
    (folder / "snakemake.log").unlink()
    ended: subprocess.Popen[str] = start(folder, "--", "slow1.done")
    assert ended.wait(timeout=PATIENCE) == 0
    return "Nothing to be done" in said(folder) and (folder / "slow1.done").read_text() == "same\n"


def test_what_slurm_refuses_is_said_and_loses_nothing(start: Start, finished: Path) -> None:
    (finished / "site.yaml").write_text("partition: nowhere")
    assert start(finished, *AGAIN, "site=site.yaml", *ONCE).wait(timeout=PATIENCE) == 1
    assert "invalid partition specified: nowhere" in said(finished)
    assert found_again(start, finished)
    assert len(attempts(finished, "slow1")) == 1


def test_jobs_that_wait_or_are_killed_lose_nothing(cluster: Cluster, start: Start, finished: Path) -> None:
    later = ("--set-resources", "slow:slurm_extra='--begin=now+1hour'")
    waiting = start(finished, *later, *AGAIN, *ONCE)
    assert eventually(lambda: bool(cluster.jobs(states="pending"))), said(finished)
    assert (finished / "slow1.done").read_text() == "same\n"
    waiting.send_signal(signal.SIGINT)
    assert waiting.wait(timeout=PATIENCE) != 0
    assert found_again(start, finished)
    (finished / "go1").unlink()
    killed = start(finished, *AGAIN, *ONCE)
    assert eventually(lambda: len(attempts(finished, "slow1")) == 2), said(finished)
    assert not (finished / "slow1.done").exists()
    cluster.run("scancel", "--signal=KILL", "--full", str(attempts(finished, "slow1")[1][0]))
    assert killed.wait(timeout=PATIENCE) == 1
    assert found_again(start, finished)
    assert len(attempts(finished, "slow1")) == 2
