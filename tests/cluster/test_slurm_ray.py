"""Ray across the nodes of an allocation: it spans them, two of them share a node, and none of it is left."""

import sys
from pathlib import Path

import psutil
import pytest

from groupppo.config import REPOSITORY
from groupppo.verl.ray_cluster import across_allocation, nodes_of_allocation
from tests.cluster.conftest import eventually
from tests.cluster.local_slurm import Cluster

pytestmark = pytest.mark.cluster

# Two clusters at once would be one if they shared a port or a folder: each must see its own two nodes only.
BODY = """
import os, sys
from pathlib import Path
from groupppo.verl.ray_cluster import across_allocation, nodes_of_allocation

with across_allocation(cpus=1, gpus=1, scratch=Path(sys.argv[1])) as variables:
    os.environ.update(variables)
    import ray
    ray.init(log_to_driver=False)
    alive = [node for node in ray.nodes() if node["Alive"]]
    total = ray.cluster_resources()
    print("nodes", len(alive), "GPU", total["GPU"], "CPU", total["CPU"], nodes_of_allocation(), flush=True)
    ray.shutdown()
    if sys.argv[2] == "fail":
        raise RuntimeError("on purpose")
print("after", flush=True)
"""


def ray_processes(job: str) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(f"/tmp/ray-{job}-" in word for word in process.info["cmdline"] or ())
    ]


def submit(cluster: Cluster, folder: Path, ending: str) -> str:
    (folder / "body.py").write_text(BODY)
    # Both nodes, and half of each: two such jobs run side by side.
    ask = ["sbatch", "--parsable", "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=2", "--mem=2000", "--gpus=2"]
    command = f"exec env PYTHONPATH={REPOSITORY} {sys.executable} body.py {folder} {ending}"
    out = f"--output={folder}/%j.log"
    return cluster.run(*ask, "--time=5", f"--chdir={folder}", out, f"--wrap={command}").strip()


def test_ray_spans_two_nodes_twice_at_once_and_nothing_of_it_is_left(cluster: Cluster, tmp_path: Path) -> None:
    good, bad = submit(cluster, tmp_path, "end"), submit(cluster, tmp_path, "fail")
    logs = {job: tmp_path / f"{job}.log" for job in (good, bad)}
    assert eventually(lambda: bool(ray_processes(good)), 60)  # the look itself finds them while they are there
    assert eventually(lambda: not cluster.jobs(states="pending,running,completing"), 150)
    for log in logs.values():
        assert "nodes 2 GPU 2.0 CPU 2.0 ['gpu1', 'gpu2']" in log.read_text(), log.read_text()
    assert "after" in logs[good].read_text()
    assert "on purpose" in logs[bad].read_text()
    assert dict(cluster.jobs())[bad] == "FAILED"  # type: ignore[arg-type]
    for job in (good, bad):
        assert eventually(lambda job=job: not ray_processes(job), 20)
        assert not list(Path("/tmp").glob(f"ray-{job}-*"))
        assert not (tmp_path / "ray" / job).exists()


def test_outside_of_an_allocation_there_is_no_cluster_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert nodes_of_allocation() == []
    with across_allocation(cpus=1, gpus=0) as variables:
        assert variables == {}
