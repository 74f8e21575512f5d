"""A cut-down default benchmark, start to report, through a Slurm on which processes are killed; the runs again here."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import psutil
import pytest
import yaml

from tests.cluster.conftest import PATIENCE, copy_project, eventually, said, snakemakes
from tests.cluster.local_slurm import Cluster, title_of
from tests.conftest import shared_cache
from tests.verl.conftest import repeatable

pytestmark = [pytest.mark.cluster, pytest.mark.verl, pytest.mark.timeout(1800)]

# Steps enough that a look every 0.2 s finds a run between its first checkpoint and its end.
QUICK, TASK = "benchmarks/quick.yaml", "benchmarks/tasks/sorting.yaml"
CUT = (
    (QUICK, None, {"arms": ["ppo", "group_ppo"], "seeds": [1], "studies": [], "profile": None}),
    (QUICK, "train", {"steps": 8, "checkpoint_every": 1, "save_critic": False, "prompts_per_step": 4}),
    (QUICK, "evaluation", {"sampled_prompts": 16, "repeats": 2}),
    (TASK, "splits", {"train": 200, "dev": 30, "test": 60}),
    (TASK, "warmstart", {"target_accuracy": 0.01, "eval_prompts": 30}),
    (TASK, "params", {"min_length": 1, "max_length": 3}),
)
# Results that a run, or what comes after it, makes; the assets are left, for both to start from.
AFTER_ASSETS = ("runs", "evals", "tables", "figures", "verdicts.json", "report.html")


@dataclass(frozen=True)
class Study:
    """The benchmark's folder, what Slurm's runs left, what the runs on this machine left, and what was killed."""

    project: Path
    through_slurm: Path
    here: Path
    killed: dict[str, str]

    def submissions(self, rule: str) -> Counter[str]:
        """How many jobs there were of each of a rule's wildcards."""
        logs = self.project / ".snakemake" / "slurm_logs" / f"rule_{rule}"
        return Counter(log.parent.name for log in logs.rglob("*.log"))


@pytest.fixture(scope="module")
def study(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Study:
    project = tmp_path_factory.mktemp("matrix")
    copy_project(project)
    for file, section, changes in CUT:
        edit(project / file, section, changes)
    (project / "benchmarks" / "site.yaml").write_text("light_rules: local\npartition: gpu\n")
    results = project / "results" / "quick"
    with snakemakes(cluster) as start:
        snakemake = start(project)
        killed: dict[str, str] = {}
        assert eventually(lambda: strike(results, killed) or snakemake.poll() is not None, 3 * PATIENCE)
        assert snakemake.wait(timeout=3 * PATIENCE) == 0, said(project)[-5000:]
    through_slurm, here = project / "through_slurm", results
    through_slurm.mkdir()
    for part in AFTER_ASSETS:
        (results / part).rename(through_slurm / part)
    start = Path("evals", "sorting", "tiny", "start")  # of what both start from
    shutil.copytree(through_slurm / start, results / start)
    variables = os.environ | {"XDG_CACHE_HOME": shared_cache(project)}
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--", "results/quick/verdicts.json"]
    done = subprocess.run(command, cwd=project, env=variables, capture_output=True, text=True, timeout=3 * PATIENCE)
    assert done.returncode == 0, done.stderr[-5000:]
    assert "warm start" not in done.stderr  # the start is the one that a job made
    assert "evaluate the start" not in done.stderr
    return Study(project, through_slurm, here, killed)


def edit(file: Path, section: str | None, changes: dict[str, object]) -> None:
    data = yaml.safe_load(file.read_text())
    part = data if section is None else data[section]
    part.update(changes)
    for key in [key for key, value in changes.items() if value is None]:
        del part[key]
    file.write_text(yaml.safe_dump(data))


def strike(results: Path, killed: dict[str, str]) -> bool:
    """Kill -9, in runs that have made a checkpoint: PPO's trainer, and the process that holds the other's policy."""
    for arm in {"ppo", "group_ppo"} - set(killed):
        folder = results / "runs" / "sorting" / "tiny" / arm / "seed1"
        if any(folder.glob("global_step_*/seal/seal.json")):
            trainer = trainer_in(folder)
            victim = trainer if arm == "ppo" else policy_of(trainer)
            killed[arm] = title_of(victim)
            victim.kill()
    return len(killed) == 2


def trainer_in(folder: Path) -> psutil.Process:
    """The process that trains; the server that it forks has the same command line, and may have a lower number."""
    found = {
        process.pid: process
        for process in psutil.process_iter(["ppid", "cmdline"])
        if {"groupppo.verl.main", str(folder)} <= set(process.info["cmdline"] or [])
    }
    (trainer,) = [process for process in found.values() if process.info["ppid"] not in found]
    return trainer


def policy_of(trainer: psutil.Process) -> psutil.Process:
    titles = {each: title_of(each) for each in trainer.children(recursive=True)}
    workers = [each for each, title in titles.items() if title.startswith("ray::WorkerDict")]
    assert workers, sorted(titles.values())
    return workers[0]


def status(folder: Path, arm: str) -> dict[str, object]:
    return json.loads((folder / "runs" / "sorting" / "tiny" / arm / "seed1" / "status.json").read_text())


def steps(folder: Path, arm: str) -> list[dict[str, object]]:
    file = folder / "runs" / "sorting" / "tiny" / arm / "seed1" / "steps.jsonl"
    return [repeatable(json.loads(line)) for line in file.read_text().splitlines()]


def claims(folder: Path) -> list[dict[str, object]]:
    return json.loads((folder / "verdicts.json").read_text())["verdicts"]


def verdict_table(folder: Path) -> dict[object, object]:
    """The verdict of each claim; with one seed none has an estimate."""
    return {claim["id"]: claim["verdict"] for claim in claims(folder)}


def test_what_was_killed_goes_on_from_its_checkpoint_and_nothing_else_is_repeated(study: Study) -> None:
    assert "groupppo.verl.main" in study.killed["ppo"]
    assert "ray::WorkerDict" in study.killed["group_ppo"]
    assert dict(study.submissions("train")) == {"sorting_tiny_ppo_1": 2, "sorting_tiny_group_ppo_1": 2}
    for arm in study.killed:
        assert status(study.through_slurm, arm)["resumed_after"] != []
        assert status(study.here, arm)["resumed_after"] == []
    for rule in ("task", "model", "warmstart", "evaluate_start", "evaluate", "collect"):
        assert set(study.submissions(rule).values()) == {1}, rule


@pytest.mark.parametrize("arm", ["ppo", "group_ppo"])
def test_the_steps_are_those_of_a_run_that_nobody_disturbed(study: Study, arm: str) -> None:
    there = steps(study.through_slurm, arm)
    assert there == steps(study.here, arm)
    assert [row["step"] for row in there] == list(range(1, 9))
    assert {**there[0], "step": 0} != {**there[1], "step": 0}  # what is compared does vary
    assert there != steps(study.here, {"ppo": "group_ppo", "group_ppo": "ppo"}[arm])


def test_the_verdict_table_is_that_of_the_runs_on_this_machine(study: Study) -> None:
    assert verdict_table(study.through_slurm) == verdict_table(study.here)
    assert {"compression", "endpoint-share"} <= set(verdict_table(study.here))
    assert (study.through_slurm / "report.html").is_file()


def test_the_evaluations_are_those_of_the_runs_on_this_machine(study: Study) -> None:
    there, here = (pd.read_parquet(folder / "tables" / "evals.parquet") for folder in (study.through_slurm, study.here))
    pd.testing.assert_frame_equal(there, here)
    assert set(here["arm"]) == {"start", "ppo", "group_ppo"}
    trained = here[here["metric"] == "accuracy"].set_index("arm")["value"]
    assert trained.notna().all()


def test_no_run_is_left_out_as_evidence(study: Study) -> None:
    for folder in (study.through_slurm, study.here):
        assert not [claim["id"] for claim in claims(folder) if "no evidence" in str(claim["reason"])]


def test_nothing_of_a_run_is_left(cluster: Cluster, study: Study) -> None:
    assert cluster.jobs(states="pending,running,completing") == []
    assert not [
        p.pid for p in psutil.process_iter(["cmdline"]) if str(study.project) in " ".join(p.info["cmdline"] or [])
    ]
