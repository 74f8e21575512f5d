"""`snakemake --profile slurm` on a local Slurm: what jobs ask for, and what becomes of those that go wrong."""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.cluster.conftest import attempts, eventually, said, start
from tests.cluster.local_slurm import Cluster

pytestmark = pytest.mark.cluster

SITE = """
light_rules: local
partition: scavenge
gpu_partition: gpu
gpu_type: fake
most_memory_mb: 250
"""


def shown(text: str) -> dict[str, str]:
    return dict(re.findall(r"(\S+?)=(\S*)", text))


def test_the_profile_is_found_and_what_rules_and_site_say_reaches_sbatch(cluster: Cluster, stub: Path) -> None:
    (stub / "benchmarks").mkdir()
    (stub / "benchmarks" / "site.yaml").write_text(SITE)
    assert start(cluster, stub).wait(timeout=180) == 0, said(stub)
    assert "Using profiles slurm and workflow specific profile profiles/default" in said(stub)
    asked, alone = shown((stub / "asks.txt").read_text()), shown((stub / "alone.txt").read_text())
    assert (asked["Partition"], alone["Partition"]) == ("gpu", "scavenge")
    assert asked["NumCPUs"] == "3"  # more than the two cores of local rules
    assert (asked["MinMemoryNode"], asked["TimeLimit"]) == ("700M", "00:07:00")
    assert (asked["Visible"], alone["Visible"]) == ("0,1", "none")
    assert asked["Requeue"] == "0"
    assert (stub / "report.txt").read_text() == "job=none\n"
    logs = {log.parent.name: log.read_text() for log in (stub / ".snakemake" / "slurm_logs").rglob("*.log")}
    assert set(logs) == {"rule_asks", "rule_alone"}
    assert cluster.jobs(states="pending,running") == []


def test_light_rules_are_jobs_where_the_site_says_so(cluster: Cluster, stub: Path) -> None:
    site = stub / "elsewhere.yaml"
    site.write_text("light_rules: job\n")
    done = start(cluster, stub, "--config", f"site={site}", "--", "report.txt")
    assert done.wait(timeout=120) == 0, said(stub)
    assert re.fullmatch(r"job=\d+\n", (stub / "report.txt").read_text())


def test_a_job_that_fails_hangs_or_is_taken_away_is_tried_again_with_more(cluster: Cluster, stub: Path) -> None:
    (stub / "site.yaml").write_text("most_memory_mb: 250\n")
    snakemake = start(cluster, stub, "--config", "site=site.yaml", "--", "faults")
    try:
        assert eventually(lambda: bool(attempts(stub, "spot") and attempts(stub, "scavenge")), 120), said(stub)
        # Both are on gpu2 with two cores each; this wants all four, from a partition that comes first.
        urgent = ["sbatch", "--parsable", "--partition=gpu", "--nodelist=gpu2", "--ntasks=1", "--cpus-per-task=4"]
        cluster.run(*urgent, "--time=1", "--output=/dev/null", "--wrap", "sleep 2")
        assert snakemake.wait(timeout=400) == 0, said(stub)
    finally:
        snakemake.kill()
    for rule in ("fails", "killed", "cancelled", "timeout", "spot", "scavenge"):
        (first, memory, minutes), (second, more_memory, more_minutes) = attempts(stub, rule)
        assert first != second, rule
        assert more_memory == min(round(memory * 1.5), 250), rule
        assert more_minutes == round(minutes * 1.5), rule
    assert attempts(stub, "fails")[1][1] == 250  # not the 300 that growth alone gives
    states = dict(cluster.jobs())  # type: ignore[arg-type]
    assert states[str(attempts(stub, "timeout")[0][0])] == "TIMEOUT"
    for rule in ("spot", "scavenge"):
        assert states[str(attempts(stub, rule)[0][0])] == "PREEMPTED"
    assert cluster.jobs(states="pending,running") == []


def test_a_job_that_always_fails_ends_the_run_with_its_log_named(cluster: Cluster, stub: Path) -> None:
    snakefile = stub / "Snakefile"
    snakefile.write_text(snakefile.read_text().replace("-gt 1", "-gt 99"))
    assert start(cluster, stub, "--retries", "0", "--", "fails.done").wait(timeout=120) == 1
    assert len(attempts(stub, "fails")) == 1
    job = attempts(stub, "fails")[0][0]
    assert f"slurm_logs/rule_fails/{job}.log" in said(stub)


def test_ctrl_c_cancels_the_jobs_and_a_restart_submits_each_once(cluster: Cluster, stub: Path) -> None:
    first = start(cluster, stub, "--config", "seconds=300", "--", "slow.done")
    assert eventually(lambda: (stub / "slow.attempts").exists()), said(stub)
    first.send_signal(signal.SIGINT)
    assert first.wait(timeout=60) != 0
    assert eventually(lambda: not cluster.jobs(states="pending,running,completing"), 30)
    assert start(cluster, stub, "--config", "seconds=0", "--", "slow.done").wait(timeout=120) == 0, said(stub)
    assert len((stub / "slow.attempts").read_text().splitlines()) == 2


def test_sigterm_lets_running_jobs_end_and_a_restart_has_nothing_to_do(cluster: Cluster, stub: Path) -> None:
    first = start(cluster, stub, "--config", "seconds=8", "--", "slow.done")
    assert eventually(lambda: (stub / "slow.attempts").exists()), said(stub)
    first.send_signal(signal.SIGTERM)
    first.wait(timeout=90)
    assert (stub / "slow.done").exists(), said(stub)
    assert start(cluster, stub, "--config", "seconds=8", "--", "slow.done").wait(timeout=60) == 0
    assert len((stub / "slow.attempts").read_text().splitlines()) == 1


def test_after_a_snakemake_that_was_killed_its_jobs_are_named_and_nothing_is_submitted_twice(
    cluster: Cluster, stub: Path
) -> None:
    first = start(cluster, stub, "--config", "seconds=300", "--", "slow.done")
    assert eventually(lambda: (stub / "slow.attempts").exists()), said(stub)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    job = (stub / "slow.attempts").read_text().strip()
    assert start(cluster, stub, "--unlock").wait(timeout=60) == 0
    assert start(cluster, stub, "--config", "seconds=0", "--", "slow.done").wait(timeout=60) == 1
    assert f"mend: `scancel {job}`" in said(stub)
    assert [each[0] for each in cluster.jobs(states="pending,running")] == [job]
    cluster.run("scancel", job)
    assert eventually(lambda: not cluster.jobs(states="pending,running,completing"), 30)
    assert start(cluster, stub, "--config", "seconds=0", "--", "slow.done").wait(timeout=120) == 0, said(stub)


def test_a_bad_site_file_stops_the_plan_with_file_key_value_and_mend(cluster: Cluster, stub: Path) -> None:
    (stub / "site.yaml").write_text("gpu_typ: h100\n")
    assert start(cluster, stub, "--dry-run", "--config", "site=site.yaml").wait(timeout=60) == 1
    assert "site.yaml: gpu_typ = 'h100'" in said(stub)
    assert "did you mean gpu_type?" in said(stub)


def test_nothing_of_a_cluster_outlives_it_even_when_its_user_is_killed(tmp_path: Path) -> None:
    """The negative control: while it is up, the same look does find its processes."""
    import sys
    import time

    from tests.cluster.local_slurm import _processes

    code = (
        "import time\nfrom tests.cluster.local_slurm import running\n"
        "with running() as cluster:\n"
        "    cluster.run('sbatch', '--output=/dev/null', '--wrap', 'setsid sleep 600 & sleep 600')\n"
        "    print(cluster.folder, flush=True)\n    time.sleep(600)\n"
    )
    user = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert user.stdout is not None
    folder = Path(user.stdout.readline().strip())
    assert eventually(lambda: sum(p.name() == "sleep" for p in _processes(folder)) >= 2, 30)
    user.kill()
    user.wait()
    assert eventually(lambda: not _processes(folder), 40)
    time.sleep(1)
    assert not _processes(folder)
