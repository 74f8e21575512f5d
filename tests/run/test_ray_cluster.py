"""A run over several nodes: Slurm is asked for one step on each, and told nothing where one node is enough.

srun, squeue and scontrol are scripts here; tests/cluster has the real ones, and Ray.
"""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from groupppo.errors import BadInput, RunFailed
from groupppo.run import family, launch, ray_cluster
from groupppo.run.ray_cluster import across_allocation
from groupppo.verl.compose import compose
from groupppo.verl.endings import STACKS
from groupppo.verl.network import ON_ONE_NODE, OURS
from tests.verl.conftest import MakeCell

# Notes how it was called, says that the node is up, and stays until it is told to stop.
SRUN = """#!{python}
import json, os, sys, time
from pathlib import Path
words = sys.argv[1:]
at = words.index("groupppo.run.ray_cluster")
folder, node = Path(words[at + 1]), words[at + 2]
call = {{"options": words[: at - 2], "offer": words[at + 3 :], "environment": dict(os.environ)}}
Path("{notes}", node).write_text(json.dumps(call))
if node != "{broken}":
    (folder / "address").write_text("10.0.0.1:6379")
    (folder / (node + ".up")).touch()
    while not (folder / "stop").exists():
        time.sleep(0.02)
else:
    print("no network on this node")
"""


class Slurm:
    """A job of two nodes; `call` tells how a node's step was started."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.folder, self.monkeypatch = folder, monkeypatch
        self.script("squeue", "#!/bin/sh\necho 'gpu[1-2]'\n")
        self.script("scontrol", "#!/bin/sh\nprintf 'gpu1\\ngpu2\\n'\n")
        self.with_srun()
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        monkeypatch.setenv("SLURM_NTASKS", "64")
        monkeypatch.setenv("SLURM_CONF", "/etc/elsewhere.conf")

    def with_srun(self, broken: str = "") -> None:
        self.script("srun", SRUN.format(python=ray_cluster.sys.executable, notes=self.folder, broken=broken))

    def script(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(0o755)

    def call(self, node: str) -> dict:
        return json.loads((self.folder / node).read_text())


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    folder = tmp_path / "bin"
    folder.mkdir()
    return Slurm(folder, monkeypatch)


def test_every_node_gets_one_step_with_its_gpus_and_the_others_join_the_first(slurm: Slurm, tmp_path: Path) -> None:
    with across_allocation(cpus=16, gpus=4, scratch=tmp_path, nodes=2) as variables:
        assert variables["RAY_ADDRESS"] == "10.0.0.1:6379"
        folder = Path(variables["RAY_AUTH_TOKEN_PATH"]).parent
        assert folder.stat().st_mode & 0o077 == 0  # the secret is the user's own
    head, worker = slurm.call("gpu1"), slurm.call("gpu2")
    for node, call in (("gpu1", head), ("gpu2", worker)):
        assert {f"--nodelist={node}", "--cpus-per-task=16", "--gpus=4", "--ntasks=1"} <= set(call["options"])
        assert "SLURM_NTASKS" not in call["environment"]
        assert call["environment"]["SLURM_CONF"] == "/etc/elsewhere.conf"
        assert call["environment"]["RAY_AUTH_MODE"] == "token"
    assert (head["offer"], worker["offer"]) == (["16", "4"], ["16", "4", "10.0.0.1:6379"])
    assert not folder.exists()


@pytest.mark.parametrize(("device", "gpus", "places"), [("cpu", [], "12"), ("cuda", ["--gpus=2"], "19")])
def test_slurm_is_asked_for_the_gpus_of_a_run_and_ray_is_told_of_places_for_processes(
    slurm: Slurm, make_cell: MakeCell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device, gpus, places
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".snakemake").mkdir()
    cell = replace(make_cell("ppo"), nodes=2, ranks=2, device=device)
    environment = launch.environment(cell) | {"RAY_TMPDIR": "/tmp/x", STACKS: "/shared/stacks.txt"}
    environment |= family.marked(tmp_path)
    with launch._ray(cell, environment) as variables:
        assert set(variables) == {"RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"}
    call = slurm.call("gpu2")
    assert [option for option in call["options"] if option.startswith("--gpus")] == gpus
    assert call["offer"][:2] == [places, "2"]
    # What verl's processes need to know reaches those on other nodes, and what is of this node does not.
    assert call["environment"].get("GROUPPPO_PLATFORM") == ("cpu" if device == "cpu" else None)
    assert call["environment"].get("CUDA_DEVICE_ORDER") == ("PCI_BUS_ID" if device == "cuda" else None)
    assert call["environment"][STACKS] == "/shared/stacks.txt"
    assert not {"RAY_TMPDIR", family.MARK} & call["environment"].keys()


def test_a_run_on_one_node_asks_slurm_for_nothing(slurm: Slurm, tmp_path: Path) -> None:
    with across_allocation(cpus=1, gpus=0, scratch=tmp_path, nodes=1) as variables:
        assert variables == {}
    assert not (slurm.folder / "gpu1").exists()


def test_a_job_with_too_few_nodes_is_refused(slurm: Slurm, tmp_path: Path) -> None:
    with (
        pytest.raises(RunFailed, match="planned for 3 nodes and its job has 2"),
        across_allocation(cpus=1, gpus=0, scratch=tmp_path, nodes=3),
    ):
        pass


def test_a_node_that_does_not_join_is_named_with_its_log(slurm: Slurm, tmp_path: Path) -> None:
    slurm.with_srun(broken="gpu2")
    with (
        pytest.raises(RunFailed, match=r"node gpu2(.|\n)*no network on this node"),
        across_allocation(cpus=1, gpus=0, scratch=tmp_path),
    ):
        pass
    assert not (tmp_path / "ray" / "7").exists()


def test_all_nodes_are_asked_for_stacks_by_a_file(
    slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "_ANSWER_SECONDS", 0.0)
    with across_allocation(cpus=1, gpus=0, scratch=tmp_path) as variables:
        folder = Path(variables["RAY_AUTH_TOKEN_PATH"]).parent
        ray_cluster.ask_for_stacks({"RAY_AUTH_TOKEN_PATH": str(folder / "token")})  # a run on one node
        assert not (folder / "ask").exists()
        ray_cluster.ask_for_stacks(variables)
        assert (folder / "ask").exists()


@pytest.mark.parametrize("asked", [True, False])
def test_a_node_that_is_asked_writes_the_stacks_of_its_processes_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    written: list[tuple[Path, list[str]]] = []
    answers = [["a worker"], ["a worker"], []]
    monkeypatch.setattr(ray_cluster, "_start", lambda *_: (tmp_path / "ask").touch() if asked else None)
    monkeypatch.setattr(ray_cluster, "started_with", lambda _: answers.pop(0))
    monkeypatch.setattr(ray_cluster, "end_all", lambda _: None)
    monkeypatch.setattr(ray_cluster, "ask", lambda file, family: written.append((file, family)))
    monkeypatch.setattr(ray_cluster.signal, "signal", lambda *_: None)
    for name, value in {"SLURM_JOB_ID": "7", STACKS: "/shared/stacks.txt", "TMPDIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(family.MARK, "restored afterwards")
    ray_cluster.serve(tmp_path, "gpu2", 1, 0, "10.0.0.1:6379")
    assert written == ([(Path("/shared/stacks.txt"), ["a worker"])] if asked else [])


@pytest.mark.parametrize(("starts_at", "attempts"), [(1, 1), (3, 3), (4, None)])
def test_a_node_whose_ray_does_not_start_tries_again_twice(
    tmp_path: Path, starts_at: int, attempts: int | None
) -> None:
    script = tmp_path / "ray"
    script.write_text(f"#!/bin/sh\necho >> {tmp_path}/attempts\ntest $(wc -l < {tmp_path}/attempts) -ge {starts_at}\n")
    script.chmod(0o755)
    if attempts is None:
        with pytest.raises(subprocess.CalledProcessError):
            ray_cluster._start([str(script)], tmp_path)
    else:
        ray_cluster._start([str(script)], tmp_path)
    assert len((tmp_path / "attempts").read_text().splitlines()) == (attempts or 3)


def test_several_nodes_are_refused_before_anything_starts_unless_the_network_is_said_to_be_ours(
    make_cell: MakeCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "_train", lambda cell, config, net: started.append(net))
    started: list[str] = []
    cell = replace(make_cell("ppo"), nodes=2)
    with pytest.raises(BadInput, match=r"site\.yaml: network_is_ours = False\n.*hint: write true if nobody else"):
        launch.train(cell)
    assert not started
    launch.train(replace(cell, network_is_ours=True))
    assert started == [OURS]
    one, two = launch.environment(replace(cell, nodes=1)), launch.environment(cell)
    assert ON_ONE_NODE.items() <= one.items()
    assert not ON_ONE_NODE.keys() & two.keys()


# ---- what a run on several nodes is composed of


def test_ray_is_not_told_again_what_its_nodes_have(make_cell: MakeCell) -> None:
    one = make_cell("ppo")
    alone, spread = compose(one), compose(replace(one, nodes=2))
    assert (alone.trainer.nnodes, spread.trainer.nnodes) == (1, 2)
    for key in ("num_cpus", "num_gpus", "object_store_memory"):
        assert alone.ray_kwargs.ray_init[key] is not None
        assert spread.ray_kwargs.ray_init[key] is None


def test_responses_are_shared_among_the_processes_of_all_nodes(make_cell: MakeCell) -> None:
    cell = make_cell("ppo", prompts_per_step=3, responses_per_prompt=2)
    assert compose(replace(cell, nodes=3))
    with pytest.raises(BadInput, match="a multiple of the 4 processes"):
        compose(replace(cell, nodes=2, ranks=2))


def test_a_node_with_a_long_name_has_a_short_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found: list[Path] = []

    def start(command: list[str], *, check: bool) -> None:
        found.append(Path(command[-3].removeprefix("--temp-dir=")))
        assert found[0].is_dir()
        raise RuntimeError("started")

    monkeypatch.setattr(ray_cluster.subprocess, "run", start)
    monkeypatch.setattr(ray_cluster.signal, "signal", lambda *_: None)
    monkeypatch.setenv("SLURM_JOB_ID", "12345678")
    monkeypatch.setenv("TMPDIR", "restored afterwards")
    with pytest.raises(RuntimeError, match="started"):
        ray_cluster.serve(tmp_path, "queue1-dy-compute-resource-1-123", 1, 0, "10.0.0.1:6379")
    assert len(str(found[0] / family._SOCKET)) <= family._SOCKET_PATH
    assert found[0].name.startswith("ray-12345678-queue1")
    assert not found[0].exists()
