"""vLLM's engine, a process whose end is the end of no actor, is killed in a job: the next attempt goes on."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.cluster.conftest import PATIENCE, copy_project, eventually, make_assets, said, snakemakes
from tests.cluster.local_slurm import Cluster, title_of

RUN = Path("results/served/runs/sorting/tiny/ppo/seed1")
# More than any machine takes before a look finds the run between its first checkpoint and its end.
STEPS = 1000


@dataclass(frozen=True)
class Killed:
    """What the attempt that lost its engine left, the rows of the attempt after it, and how many jobs it took."""

    first: dict[str, Any]
    before: list[dict[str, Any]]
    steps: list[dict[str, Any]]
    jobs: int


def served(project: Path) -> None:
    """A benchmark with vLLM's rollouts, with all that its run needs made beforehand."""
    copy_project(project)
    benchmarks = project / "benchmarks"
    matrix = yaml.safe_load((benchmarks / "quick.yaml").read_text())
    matrix |= {"name": "served", "arms": ["ppo"], "seeds": [1], "studies": []}
    matrix["train"] |= {"rollout": "vllm", "steps": STEPS, "checkpoint_every": 1, "prompts_per_step": 4}
    (benchmarks / "served.yaml").write_text(yaml.safe_dump(matrix))
    make_assets(project, "served")


def kill_engine(cluster: Cluster, run: Path) -> bool:
    """Once the run has a checkpoint: the engine that one of the cluster's jobs started."""
    if not any(run.glob("global_step_*/seal/seal.json")):
        return False
    engines = [each for each in cluster.processes() if title_of(each).startswith("VLLM::EngineCore")]
    for engine in engines:
        engine.kill()
    psutil.wait_procs(engines, timeout=20)
    return bool(engines)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    file = folder / "steps.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


@pytest.fixture(scope="module")
def killed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    project = tmp_path_factory.mktemp("served")
    served(project)
    run = project / RUN
    aside = run / "failed"
    with snakemakes(cluster) as start:
        snakemake = start(project, "--config", "benchmark=benchmarks/served.yaml", "--", str(RUN / "status.json"))

        def ended() -> bool:
            return snakemake.poll() is not None

        assert eventually(lambda: kill_engine(cluster, run) or ended(), 3 * PATIENCE), said(project)[-5000:]
        assert eventually(lambda: (aside / "status.json").is_file() or ended()), said(project)[-5000:]
        assert not ended(), said(project)[-5000:]
        before = rows_of(aside)
        assert eventually(lambda: len(rows_of(run)) >= len(before) + 2 or ended(), 3 * PATIENCE), said(project)[-5000:]
        assert not ended(), said(project)[-5000:]
        steps = rows_of(run)
    jobs = len(list((project / ".snakemake" / "slurm_logs" / "rule_train").rglob("*.log")))
    return Killed(json.loads((aside / "status.json").read_text()), before, steps, jobs)


@pytest.mark.cluster
@pytest.mark.verl
@pytest.mark.timeout(1800)
class TestARunThatLostItsEngine:
    def test_its_job_fails_at_once_and_says_why(self, killed: Killed) -> None:
        # A request fails with the first, a weight sync waits and is ended with the second; no limit on time is met.
        assert re.search("EngineDeadError|the engine of the vLLM server at .* has died", killed.first["cause"])
        assert 1 <= killed.first["steps"] < STEPS

    def test_the_next_one_goes_on_from_its_last_checkpoint(self, killed: Killed) -> None:
        assert killed.jobs == 2
        assert [row["step"] for row in killed.steps] == list(range(1, len(killed.steps) + 1))
        # Seconds since training began are in each row: one that had started anew would have other ones.
        assert killed.steps[0] == killed.before[0]

    def test_its_rollouts_agree_with_the_trainer_before_and_after_weight_syncs(self, killed: Killed) -> None:
        assert killed.first["rollout"] == "vllm"
        # From the second step on it samples with trained weights; a sync that did not happen shows as 4e-3 and more.
        assert all(row["training/rollout_probs_diff_max"] < 1e-5 for row in killed.steps)
        assert killed.steps[0]["actor/grad_norm"] > 0
