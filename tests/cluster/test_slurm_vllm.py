"""vLLM's engine, a process whose end is the end of no actor, is killed in a job: the next attempt goes on."""

import json
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest
import yaml

from groupppo.config import load_benchmark, load_task
from groupppo.models import build_model
from groupppo.tasks.build import build_task
from groupppo.verl.launch import FAILED
from tests.cluster.conftest import PATIENCE, copy_project, eventually, said, snakemakes
from tests.cluster.local_slurm import Cluster, title_of

RUN = Path("results/served/runs/sorting/tiny/ppo/seed1")
STEPS = 8


@dataclass(frozen=True)
class Killed:
    """What the attempt that lost its engine said of itself, what the run said in the end, and how many jobs it took."""

    first: dict[str, object]
    status: dict[str, object]
    steps: list[int]
    jobs: int


def served(project: Path) -> None:
    """A benchmark with vLLM's rollouts, with all that its run needs made beforehand."""
    copy_project(project)
    benchmarks = project / "benchmarks"
    matrix = yaml.safe_load((benchmarks / "quick.yaml").read_text())
    matrix |= {"name": "served", "arms": ["ppo"], "seeds": [1], "studies": []}
    matrix["train"] |= {"rollout": "vllm", "steps": STEPS, "checkpoint_every": 1, "prompts_per_step": 4}
    (benchmarks / "served.yaml").write_text(yaml.safe_dump(matrix))
    assets = project / "results" / "served" / "assets"
    task = load_task(benchmarks / "tasks" / "sorting.yaml")
    build_task(replace(task, splits={"train": 60, "dev": 10, "test": 10}), assets / "tasks" / "sorting")
    build_model(load_benchmark(benchmarks / "served.yaml").models["tiny"], assets / "models" / "tiny")
    shutil.copytree(assets / "models" / "tiny", assets / "starts" / "sorting" / "tiny")


def kill_engine(cluster: Cluster, run: Path) -> bool:
    """Once the run has a checkpoint: the engine that one of the cluster's jobs started."""
    if not any(run.glob("global_step_*/seal/seal.json")):
        return False
    engines = [each for each in cluster.processes() if title_of(each).startswith("VLLM::EngineCore")]
    for engine in engines:
        engine.kill()
    psutil.wait_procs(engines, timeout=20)
    return bool(engines)


@pytest.fixture(scope="module")
def killed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    project = tmp_path_factory.mktemp("served")
    served(project)
    run = project / RUN
    aside = run / FAILED / "status.json"
    with snakemakes(cluster) as start:
        snakemake = start(project, "--config", "benchmark=benchmarks/served.yaml", "--", str(RUN / "status.json"))
        assert eventually(lambda: kill_engine(cluster, run) or snakemake.poll() is not None, 3 * PATIENCE), said(
            project
        )
        assert eventually(lambda: aside.is_file() or snakemake.poll() is not None), said(project)
        first = json.loads(aside.read_text())
        assert snakemake.wait(timeout=3 * PATIENCE) == 0, said(project)[-5000:]
    rows = [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]
    jobs = len(list((project / ".snakemake" / "slurm_logs" / "rule_train").rglob("*.log")))
    return Killed(first, json.loads((run / "status.json").read_text()), [row["step"] for row in rows], jobs)


@pytest.mark.cluster
@pytest.mark.verl
@pytest.mark.timeout(1800)
class TestARunThatLostItsEngine:
    def test_its_job_fails_at_once_and_says_why(self, killed: Killed) -> None:
        # A request fails with the first, a weight sync waits and is ended with the second; no limit on time is met.
        assert re.search("EngineDeadError|the engine of the vLLM server at .* has died", str(killed.first["cause"]))
        assert 1 <= int(str(killed.first["steps"])) < STEPS

    def test_the_next_one_goes_on_from_its_last_checkpoint(self, killed: Killed) -> None:
        assert killed.jobs == 2
        assert (killed.status["status"], killed.status["steps"]) == ("finished", STEPS)
        assert killed.status["resumed_after"] != []
        assert killed.steps == list(range(1, STEPS + 1))
