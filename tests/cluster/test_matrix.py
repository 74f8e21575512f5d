"""A cut-down default benchmark, start to report, through a Slurm on which processes are killed.

That a run which goes on ends as one that was left alone is in tests/run/test_interrupted.py.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import psutil
import pytest
import yaml

from tests.cluster.conftest import PATIENCE, copy_project, eventually, said, snakemakes
from tests.cluster.local_slurm import Cluster, title_of

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


@dataclass(frozen=True)
class Study:
    """The benchmark's folder, and what was killed."""

    project: Path
    killed: dict[str, str]

    @property
    def results(self) -> Path:
        return self.project / "results" / "quick"

    def run(self, arm: str) -> Path:
        return self.results / "runs" / "sorting" / "tiny" / arm / "seed1"

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
    study = Study(project, {})
    with snakemakes(cluster) as start:
        snakemake = start(project)
        assert eventually(lambda: strike(study) or snakemake.poll() is not None, 3 * PATIENCE)
        assert snakemake.wait(timeout=3 * PATIENCE) == 0, said(project)[-5000:]
    return study


def edit(file: Path, section: str | None, changes: dict[str, object]) -> None:
    data = yaml.safe_load(file.read_text())
    part = data if section is None else data[section]
    part.update(changes)
    for key in [key for key, value in changes.items() if value is None]:
        del part[key]
    file.write_text(yaml.safe_dump(data))


def strike(study: Study) -> bool:
    """Kill -9, in runs that have made a checkpoint: PPO's trainer, and the process that holds the other's policy."""
    for arm in {"ppo", "group_ppo"} - set(study.killed):
        folder = study.run(arm)
        if any(folder.glob("global_step_*/seal/seal.json")):
            trainer = trainer_in(folder)
            victim = trainer if arm == "ppo" else policy_of(trainer)
            study.killed[arm] = title_of(victim)
            victim.kill()
    return len(study.killed) == 2


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


def test_what_was_killed_goes_on_from_its_checkpoint_and_nothing_else_is_repeated(study: Study) -> None:
    assert "groupppo.verl.main" in study.killed["ppo"]
    assert "ray::WorkerDict" in study.killed["group_ppo"]
    assert dict(study.submissions("train")) == {"sorting_tiny_ppo_1": 2, "sorting_tiny_group_ppo_1": 2}
    for arm in study.killed:
        assert json.loads((study.run(arm) / "status.json").read_text())["resumed_after"] != []
        lines = (study.run(arm) / "steps.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(1, 9))
    for rule in ("task", "model", "warmstart", "evaluate_start", "evaluate", "collect"):
        assert set(study.submissions(rule).values()) == {1}, rule


def test_every_run_is_evaluated_and_evidence_for_the_verdicts_on_the_page(study: Study) -> None:
    evals = pd.read_parquet(study.results / "tables" / "evals.parquet")
    assert set(evals["arm"]) == {"start", "ppo", "group_ppo"}
    assert evals[evals["metric"] == "accuracy"]["value"].notna().all()
    claims = json.loads((study.results / "verdicts.json").read_text())["verdicts"]
    assert {"compression", "endpoint-share"} <= {claim["id"] for claim in claims}
    assert not [claim["id"] for claim in claims if "no evidence" in str(claim["reason"])]
    assert (study.results / "report.html").is_file()


def test_nothing_of_a_run_is_left(cluster: Cluster, study: Study) -> None:
    assert cluster.jobs(states="pending,running,completing") == []
    assert not [
        p.pid for p in psutil.process_iter(["cmdline"]) if str(study.project) in " ".join(p.info["cmdline"] or [])
    ]
