"""`snakemake --profile slurm` on a local Slurm: what jobs ask for, and what becomes of those that go wrong."""

import re
from pathlib import Path

import pytest

from groupppo.slurm.site import load_site
from tests.cluster.conftest import PATIENCE, Start, attempts, eventually, said
from tests.cluster.local_slurm import Cluster

pytestmark = pytest.mark.cluster

SITE = """
light_rules: local
partition: scavenge
gpu_partition: gpu
gpu_type: fake
most_memory_mb: 250
"""
FAULTS = ("fails", "killed", "cancelled", "timeout", "spot", "scavenge", "node_fails")


def shown(text: str) -> dict[str, str]:
    return dict(re.findall(r"(\S+?)=(\S*)", text))


def test_the_profile_is_found_and_what_rules_and_site_say_reaches_sbatch(
    cluster: Cluster, start: Start, stub: Path
) -> None:
    (stub / "benchmarks").mkdir()
    (stub / "benchmarks" / "site.yaml").write_text(SITE)
    asks = ("--set-resources", "alone:mem_mb=333")
    assert start(stub, *asks).wait(timeout=PATIENCE) == 0, said(stub)
    assert "Using profiles slurm and workflow specific profile profiles/default" in said(stub)
    asked, alone = shown((stub / "asks.txt").read_text()), shown((stub / "alone.txt").read_text())
    assert (asked["Partition"], alone["Partition"]) == ("gpu", "scavenge")
    assert asked["NumCPUs"] == "3"  # more than the two cores of local rules
    # A controller that is busy may refuse a submission; the next attempt asks for more.
    attempt = 1 + said(stub).count("Error in rule asks")
    minutes = load_site(stub / "benchmarks" / "site.yaml").grown("runtime", 7, attempt)
    assert (asked["MinMemoryNode"], asked["TimeLimit"]) == ("700M", f"00:{minutes:02}:00"), said(stub)
    assert alone["MinMemoryNode"] == "333M"  # the command line wins over the rule
    assert (asked["Visible"], alone["Visible"]) == ("0,1", "none")
    assert asked["Requeue"] == "0"
    # A job of Slurm outlives the Snakemake that submitted it, and one that a Snakemake runs itself does not.
    assert asked["EndsWith"] == "nobody"
    assert re.fullmatch(r"job=none \d+ pid:\[\d+\]\n", (stub / "report.txt").read_text())
    assert sorted((stub / "nodes.txt").read_text().split()) == ["gpu1:0", "gpu2:0"]
    logs = {log.parent.name: log.read_text() for log in (stub / ".snakemake" / "slurm_logs").rglob("*.log")}
    assert set(logs) == {"rule_asks", "rule_alone", "rule_nodes"}
    assert cluster.jobs(states="pending,running") == []


def test_a_job_that_fails_hangs_or_is_taken_away_is_tried_again_with_more(
    cluster: Cluster, start: Start, stub: Path
) -> None:
    (stub / "site.yaml").write_text("most_memory_mb: 250\n")
    snakemake = start(stub, "--config", "site=site.yaml", "--", "faults")
    assert eventually(lambda: all(attempts(stub, rule) for rule in FAULTS)), said(stub)
    soon = [f"Finished jobid: .* .Rule: {rule}." for rule in ("fails", "killed", "cancelled")]
    assert eventually(lambda: all(re.search(line, said(stub)) for line in soon)), said(stub)
    cluster.kill_node("gpu1")  # nothing but the job that is meant is on it
    # What is pre-empted has a core of gpu2 each; this wants the other three, from a partition that comes first.
    urgent = ["sbatch", "--parsable", "--partition=gpu", "--nodelist=gpu2", "--ntasks=1", "--cpus-per-task=3"]
    cluster.run(*urgent, "--time=1", "--output=/dev/null", "--wrap", "sleep 2")
    cluster.start_node("gpu1")
    assert snakemake.wait(timeout=PATIENCE) == 0, said(stub)
    for rule in FAULTS:
        (first, memory, minutes), (second, more_memory, more_minutes) = attempts(stub, rule)
        assert first != second, rule
        assert more_memory == min(round(memory * 1.5), 250), rule
        assert more_minutes == round(minutes * 1.5), rule
    assert attempts(stub, "fails")[1][1] == 250  # not the 300 that growth alone gives
    states = dict(cluster.jobs())  # type: ignore[arg-type]
    ended = {rule: states[str(attempts(stub, rule)[0][0])] for rule in FAULTS}
    assert (ended["timeout"], ended["node_fails"]) == ("TIMEOUT", "NODE_FAIL")
    assert ended["spot"] == ended["scavenge"] == "PREEMPTED"
    assert "SLURM status is: 'FAILED'. Reason: NonZeroExitCode." in said(stub)
    assert "Later jobs are not sent to gpu1." in said(stub)
    assert cluster.jobs(states="pending,running") == []


def test_a_job_that_always_fails_ends_the_run_with_its_log_named_and_the_others_done(start: Start, stub: Path) -> None:
    """Among them a light rule, which is a job of its own where the site says so."""
    site = stub / "elsewhere.yaml"
    site.write_text("light_rules: job\n")
    snakefile = stub / "Snakefile"
    snakefile.write_text(snakefile.read_text().replace("-gt 1", "-gt 99"))
    wanted = ("--config", f"site={site}", "--retries", "0", "--", "fails.done", "report.txt")
    assert start(stub, *wanted).wait(timeout=PATIENCE) == 1
    assert len(attempts(stub, "fails")) == 1
    job = attempts(stub, "fails")[0][0]
    assert f"slurm_logs/rule_fails/{job}.log" in said(stub)
    assert re.fullmatch(r"job=\d+ nobody\n", (stub / "report.txt").read_text()), said(stub)
