"""Ray across the nodes of an allocation: a run spans them, another cluster shares them, and nothing of it is left."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml

from groupppo.config import REPOSITORY
from groupppo.run.family import started_with
from groupppo.run.ray_cluster import across_allocation, nodes_of_allocation
from groupppo.verl.network import OURS
from tests.cluster.conftest import PATIENCE, copy_project, eventually, make_assets, said, snakemakes, strangers
from tests.cluster.local_slurm import Cluster, title_of

NODES = {"gpu1", "gpu2"}
RUN = Path("results/spread/runs/sorting/spread/ppo/seed1")

# Two clusters at once would be one if they shared a port or a folder: each must see its own two nodes only.
BODY = """
import os, sys, time
from pathlib import Path
from groupppo.run.ray_cluster import across_allocation, nodes_of_allocation

folder = Path(sys.argv[1])
with across_allocation(cpus=1, gpus=1, scratch=folder) as variables:
    os.environ.update(variables)
    import ray
    ray.init(log_to_driver=False)
    (folder / "up").touch()
    while not (folder / "go").exists():
        time.sleep(0.1)
    alive = [node for node in ray.nodes() if node["Alive"]]
    total = ray.cluster_resources()
    print("nodes", len(alive), "GPU", total["GPU"], "CPU", total["CPU"], nodes_of_allocation(), flush=True)
    ray.shutdown()
    raise RuntimeError("on purpose")
"""


@dataclass(frozen=True)
class SideBySide:
    """A training run over both nodes, and a job that has a Ray on both of its own and then fails.

    Attributes:
        project: the run's folder. run, other: their jobs. log: of the other.
        workers: nodes on which each job had verl's workers. seen: how many Ray processes each had.
    """

    project: Path
    run: str
    other: str
    log: Path
    workers: dict[str, set[str]]
    seen: dict[str, int]


def ray_processes(job: str) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(f"/tmp/ray-{job}-" in word for word in process.info["cmdline"] or ())
    ]


def nodes_with_workers(job: str) -> set[str]:
    """Nodes whose Ray, known by its folder, has a process that holds one of verl's networks."""
    return {
        place.name.split("-")[2]
        for place in Path("/tmp").glob(f"ray-{job}-*")
        if any(title_of(process).startswith("ray::WorkerDict") for process in started_with(place))
    }


def spread(project: Path) -> None:
    """A benchmark whose model is trained on two nodes, with all that a run needs made beforehand."""
    copy_project(project)
    benchmarks = project / "benchmarks"
    model = yaml.safe_load((benchmarks / "models" / "tiny.yaml").read_text())
    model |= {"name": "spread", "resources": {"mem_mb": 3000, "nodes": 2}}
    (benchmarks / "models" / "spread.yaml").write_text(yaml.safe_dump(model))
    matrix = yaml.safe_load((benchmarks / "quick.yaml").read_text())
    matrix |= {"name": "spread", "models": ["spread"], "arms": ["ppo"], "seeds": [1], "studies": []}
    matrix["train"] |= {"steps": 2, "prompts_per_step": 4, "responses_per_prompt": 4, "time_limit_s": 600}
    (benchmarks / "spread.yaml").write_text(yaml.safe_dump(matrix))
    (benchmarks / "site.yaml").write_text("network_is_ours: true\n")
    make_assets(project, "spread")


def submit(cluster: Cluster, folder: Path) -> str:
    (folder / "body.py").write_text(BODY)
    # Both nodes, and half of each: there is room for the run beside it.
    ask = ["sbatch", "--parsable", "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=2", "--mem=2000", "--gpus=2"]
    command = f"exec env PYTHONPATH={REPOSITORY} {sys.executable} body.py {folder}"
    out = f"--output={folder}/%j.log"
    return cluster.run(*ask, "--time=10", f"--chdir={folder}", out, f"--wrap={command}").strip()


@pytest.fixture(scope="module")
def side_by_side(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> SideBySide:
    project, folder = tmp_path_factory.mktemp("spread"), tmp_path_factory.mktemp("other")
    spread(project)
    other = submit(cluster, folder)
    with snakemakes(cluster) as start:
        target = str(RUN / "status.json")
        # Three Rays that start at once on two cores may each meet Ray's own limit of 30 s.
        assert eventually((folder / "up").exists), (folder / f"{other}.log").read_text()
        snakemake = start(project, "--config", "benchmark=benchmarks/spread.yaml", "--", target)
        run = ""
        workers: dict[str, set[str]] = {}

        def spans() -> bool:
            nonlocal run
            run = next((job for job, place in cluster.jobs("%i|%N", "running") if job != other), "")
            workers.update({job: nodes_with_workers(job) for job in (run, other) if job})
            return bool(run) and workers[run] == NODES

        assert eventually(lambda: spans() or snakemake.poll() is not None, 3 * PATIENCE), what_went_wrong(project)
        seen = {job: len(ray_processes(job)) for job in (run, other)}
        (folder / "go").touch()
        assert snakemake.wait(timeout=2 * PATIENCE) == 0, what_went_wrong(project)
    assert eventually(lambda: not cluster.jobs(states="pending,running,completing"))
    # Ray's own daemons end by themselves a minute after their cluster.
    assert eventually(lambda: not strangers(cluster), 20), strangers(cluster)
    return SideBySide(project, run, other, folder / f"{other}.log", workers, seen)


def what_went_wrong(project: Path) -> str:
    logs = [*project.glob(".snakemake/slurm_logs/**/*.log"), *(project / RUN).glob("**/log.txt")]
    return "\n".join([said(project)[-3000:], *(f"{log}:\n{log.read_text()[-3000:]}" for log in logs)])


@pytest.mark.cluster
@pytest.mark.verl
class TestARunOverTwoNodes:
    def test_it_finishes_all_its_steps(self, side_by_side: SideBySide) -> None:
        folder = side_by_side.project / RUN
        status = json.loads((folder / "status.json").read_text())
        assert (status["status"], status["steps"], status["cause"]) == ("finished", 2, None)
        rows = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows] == [1, 2]
        # Step 2 samples on both nodes with the weights that step 1 trained.
        assert all(row["training/rollout_probs_diff_max"] < 1e-5 for row in rows)
        assert rows[0]["actor/grad_norm"] > 0
        assert (folder / "checkpoint" / "model.safetensors").is_file()
        assert json.loads((folder / "provenance.json").read_text())["network"] == OURS  # and so the report's page

    def test_it_has_workers_on_both_nodes_and_a_cluster_beside_it_has_none(self, side_by_side: SideBySide) -> None:
        assert side_by_side.workers == {side_by_side.run: NODES, side_by_side.other: set()}

    def test_a_cluster_on_the_same_nodes_sees_itself_only_and_fails_alone(
        self, cluster: Cluster, side_by_side: SideBySide
    ) -> None:
        log = side_by_side.log.read_text()
        assert "nodes 2 GPU 2.0 CPU 2.0 ['gpu1', 'gpu2']" in log
        assert "on purpose" in log
        states = dict(cluster.jobs())  # type: ignore[arg-type]
        assert (states[side_by_side.run], states[side_by_side.other]) == ("COMPLETED", "FAILED")

    def test_nothing_of_either_is_left(self, side_by_side: SideBySide) -> None:
        for job in (side_by_side.run, side_by_side.other):
            assert side_by_side.seen[job] > 0  # the look itself finds them while they are there
            assert eventually(lambda job=job: not ray_processes(job), 20)
            assert not list(Path("/tmp").glob(f"ray-{job}-*"))
        assert not list((side_by_side.project / ".snakemake").glob("ray/*"))
        assert not list(side_by_side.log.parent.glob("ray/*"))


def test_outside_of_an_allocation_there_is_no_cluster_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert nodes_of_allocation() == []
    with across_allocation(cpus=1, gpus=0) as variables:
        assert variables == {}
