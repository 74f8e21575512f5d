"""Real verl runs, a few steps each, on the small task and model: what the whole project rests on."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from groupppo.config import REPOSITORY, Arm, Benchmark, load_arm
from groupppo.errors import BadInput
from groupppo.measure.stages import WHOLE_STEP
from groupppo.models.hub import check_model_folder
from groupppo.run.launch import TENSORBOARD, WANDB, environment, train
from groupppo.tables import MATCHED_EVALUATION, collect, load_tables
from groupppo.verl.compose import CONFIG, Cell
from groupppo.verl.network import LOOPBACK
from tests.verl.conftest import MakeCell, repeatable, rows

pytestmark = pytest.mark.verl

Run = Callable[..., Cell]
LONG = "a_folder_for_the_temporary_files_of_job_1234567_on_this_node_with_a_name_that_no_socket_can_have"


@contextlib.contextmanager
def left_by_others(folder: Path, devices: str, temporary: str) -> Iterator[None]:
    """An environment in which other programs left their variables."""
    for name in (LONG, "file"):
        (folder / name).mkdir() if name == LONG else (folder / name).touch()
    hostile = {
        # A job without GPUs on a cluster that has some.
        **{"CUDA_VISIBLE_DEVICES": devices, "ROCR_VISIBLE_DEVICES": "0", "HIP_VISIBLE_DEVICES": "1"},
        # Another cluster of Ray, with its own runtime environment.
        **{"RAY_ADDRESS": "127.0.0.1:6399", "RAY_NAMESPACE": "theirs", "RAY_RUNTIME_ENV_HOOK": "no.such.hook"},
        # A process of torchrun in a job of Slurm.
        **{"MASTER_ADDR": "10.255.255.1", "MASTER_PORT": "29500", "WORLD_SIZE": "8", "RANK": "3", "LOCAL_RANK": "3"},
        **{"SLURM_JOB_ID": "77", "SLURM_NTASKS": "8", "SLURM_PROCID": "3", "SLURM_NNODES": "2"},
        **{"TQ_NUM_THREADS": "9", "OMP_PROC_BIND": "true", "MKL_NUM_THREADS": "8", "VERL_LOGGING_LEVEL": "DEBUG"},
        **{"PYTHONWARNINGS": "error", "PYTHONOPTIMIZE": "2", "PYTHONIOENCODING": "ascii", "LC_ALL": "C"},
        # No way out but one's own addresses, and nowhere to write but the run's folder and /tmp.
        **dict.fromkeys(("http_proxy", "https_proxy", "all_proxy", "HF_ENDPOINT"), "http://127.0.0.1:9"),
        **{"HOME": str(folder / "file" / "home"), "TMPDIR": str(folder / temporary)},
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in hostile.items():
            patch.setenv(name, value)
        patch.setattr("tempfile.tempdir", None)  # it is asked for once
        yield


@pytest.fixture(scope="module")
def run(make_cell: MakeCell, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Train a cell once and keep it for all tests that ask for the same one.

    The second run of `ppo` and that of `grpo` begin where other programs left their variables; that of `group_ppo` has
    all trackers.
    """
    done: dict[tuple[str, int], Cell] = {}

    def trained(arm: str | Arm, *, again: int = 0) -> Cell:
        name = arm if isinstance(arm, str) else arm.name
        if (name, again) not in done:
            trackers = {"verl": {"trainer.logger": ["console", "tensorboard", "wandb"]}} if name == "group_ppo" else {}
            done[name, again] = cell = make_cell(arm, **trackers)
            folder = tmp_path_factory.mktemp("others")
            others = {("ppo", 1): ("NoDevFiles", LONG), ("grpo", 0): ("", "missing")}.get((name, again))
            with left_by_others(folder, *others) if others else contextlib.nullcontext():
                train(cell)
        return done[name, again]

    return trained


def weights(cell: Cell) -> dict[str, torch.Tensor]:
    return load_file(cell.out / "checkpoint" / "model.safetensors")


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("arm", ["ppo", "grpo", "group_ppo"])
def test_every_arm_trains_and_leaves_what_the_tables_read(run: Run, arm: str) -> None:
    cell = run(arm)
    status = json.loads((cell.out / "status.json").read_text())
    assert (status["status"], status["steps"], status["fallbacks"], status["cause"]) == ("finished", 3, 0, None)
    assert 0 < status["startup_seconds"] < status["wall_seconds"]
    steps = rows(cell)
    assert [row["step"] for row in steps] == [1, 2, 3]
    for row in steps:
        assert 0.0 <= row["reward/mean"] <= 1.0
        assert row["group/total_tokens"] == row["tokens/response"] > 0
        assert row["group/density"] == pytest.approx(row["group/total_endpoints"] / row["group/total_tokens"])
        assert row["training/rollout_probs_diff_max"] < 1e-5  # rollout and trainer agree, so weight sync works
        assert (row["group/density"] < 1.0) == (arm == "group_ppo")
    check_model_folder(cell.out / "checkpoint")
    assert not list(cell.out.glob("global_step_*"))
    origin = json.loads((cell.out / "provenance.json").read_text())
    assert (origin["device"], origin["network"]) == ("cpu", LOOPBACK)


@pytest.mark.parametrize("arm", ["ppo", "grpo", "group_ppo"])
def test_stages_are_those_of_the_algorithm_and_sum_to_no_more_than_the_step(run: Run, arm: str) -> None:
    stages = ["gen", "old_log_prob", "adv", "update_actor", "update_weights"]
    if arm != "grpo":
        stages[2:2] = ["values"]
        stages[4:4] = ["update_critic"]
    measured = rows(run(arm), "stages.jsonl")
    for step in (1, 2, 3):
        of_step = [row for row in measured if row["step"] == step]
        expected = [*stages[:-1], *(["save_checkpoint"] if step == 3 else []), stages[-1], WHOLE_STEP]
        assert [row["stage"] for row in of_step] == expected
        assert sum(row["seconds"] for row in of_step[:-1]) <= of_step[-1]["seconds"]
        assert all(row["completed"] and row["peak_bytes"] > row["rise_bytes"] >= 0 for row in of_step)
        assert len({(row["tokens"], row["endpoints"]) for row in of_step}) == 1


@pytest.fixture(scope="module")
def knocked(run: Run) -> list[list]:
    """What another user's program met that tried each socket of a cell's second run, from its start to its end.

    Rows of process, address, port (0 for a Unix socket, whose address is a path) and answer.
    """
    command = [sys.executable, "-m", "tests.verl.knock", str(os.getpid())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other_user:
        try:
            run("ppo", again=1)
        finally:
            said = other_user.communicate()[0]
    return json.loads(said)


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED WITH A SECOND USER: needs root")
def test_another_user_of_the_node_can_talk_to_no_process_of_a_run(knocked: list[list]) -> None:
    found = {(name.split(".")[0].split(":")[-1], address, port): answer for name, address, port, answer in knocked}
    inet = {key: answer for key, answer in found.items() if key[2] and answer is not None}
    assert {"gcs_server", "raylet", "TransferQueueController", "SimpleStorageUnit", "WorkerDict"} <= {
        name for name, _, _ in inet
    }
    assert {ip_address(address.removeprefix("::ffff:")).is_loopback for _, address, _ in inet} == {True}
    calls = {code for answer in inet.values() for code in answer["grpc"]}
    assert "UNAUTHENTICATED" in calls
    assert calls <= {"UNAUTHENTICATED", "UNIMPLEMENTED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"}
    assert {answer for each in inet.values() for answer in each["zmq"]} <= {"refused", "silent"}
    for (name, _, _), answer in inet.items():
        # Numbers of Ray's own, which anybody may read: prometheus_client answers any page with them.
        shown = {code for page, code in answer["http"].items() if page.startswith("GET")}
        assert shown <= ({200} if name == "python" else {401}), (name, answer)
        assert all(code >= 400 for page, code in answer["http"].items() if page.startswith("POST")), (name, answer)
    unix = {address: answer for (_, address, port), answer in found.items() if not port}
    assert {Path(address).name for address in unix} >= {"raylet", "plasma_store", "fork.socket"}
    assert set(unix.values()) == {"PermissionError"}
    assert len({re.match(r".*?/gppo_\w{8}/", address)[0] for address in unix}) == 1  # and all are in the run's folder


def test_the_same_seed_gives_the_same_steps_to_the_bit(run: Run, knocked: list[list]) -> None:
    """Whoever knocks meanwhile, and whatever other programs left in the environment."""
    assert knocked
    first, again = run("ppo"), run("ppo", again=1)
    assert [repeatable(row) for row in rows(first)] == [repeatable(row) for row in rows(again)]
    assert same(weights(first), weights(again))


def test_singleton_groups_train_the_parameters_of_dense_ppo_to_the_bit(run: Run, singleton: Arm) -> None:
    dense, grouped = run("ppo"), run(singleton)
    assert same(weights(dense), weights(grouped))
    assert not same(weights(dense), weights(run("group_ppo")))  # the comparison can fail
    start = load_file(dense.start / "model.safetensors")
    assert not same(weights(dense), start)


def choosing(arm: Arm, name: str, **keys: object) -> Arm:
    """An arm that trains on tokens that a rule chooses."""
    return replace(arm, name=name, verl=arm.verl | {f"algorithm.group_params.{key}": keys[key] for key in keys})


HALF = {"rule": "bernoulli", "weights": "horvitz_thompson", "loss_normalizer": "tokens"}


@pytest.mark.parametrize("arm", ["ppo", "grpo"])
def test_all_tokens_chosen_with_weights_train_the_parameters_of_the_dense_arm_to_the_bit(
    run: Run, quick: Benchmark, arm: str
) -> None:
    every = run(choosing(quick.arms[arm], f"{arm}_every", **HALF, density=1.0))
    assert same(weights(run(arm)), weights(every))
    assert all(row["actor/grad_norm"] > 0 for row in rows(every))
    for dense, chosen in zip(map(repeatable, rows(run(arm))), map(repeatable, rows(every)), strict=True):
        assert {key: chosen[key] for key in dense} == dense
        assert chosen["group/weights/effective_tokens"] == chosen["group/total_tokens"]


def test_sparse_updates_without_a_critic_and_with_weights_are_the_masked_one(
    make_cell: MakeCell, quick: Benchmark
) -> None:
    """The streamed one where every token flows; with endpoints alone its gradient has its known bias."""
    keys = {
        "masked": {"update": "masked"},
        "gathered": {"update": "gathered"},
        "streamed": {"update": "streamed", "live_share": 1.0},
        "biased": {"update": "streamed"},
    }
    found = {}
    for name, update in keys.items():
        cell = make_cell(choosing(quick.arms["grpo"], name, **HALF | {"rule": "prefix_cut"} | update), steps=1)
        train(cell)
        (found[name],) = rows(cell)
    masked = found.pop("masked")
    assert 0.0 < masked["group/density"] < 1.0 == masked["group/update_density"]
    assert masked["actor/grad_norm"] > 0.0
    for row in found.values():
        assert row["actor/pg_loss"] == pytest.approx(masked["actor/pg_loss"], rel=1e-5)
        assert row["group/update_density"] == masked["group/density"]
    norm = masked["actor/grad_norm"]
    assert [row["actor/grad_norm"] == pytest.approx(norm, rel=1e-5) for row in found.values()] == [True, True, False]


SAVINGS = {"shared_prompts": True, "skip_zero_advantage": True, "old_log_probs": "update"}


def test_savings_of_dense_grpo_leave_its_gradients_and_its_rollouts_as_they_were(run: Run, quick: Benchmark) -> None:
    dense = rows(run("grpo"))
    saving = rows(run(choosing(quick.arms["grpo"], "saving", rule="singleton", update="gathered", **SAVINGS)))
    assert [row["group/density"] for row in saving] == [1.0] * 3
    for first, second in zip(dense, saving, strict=True):
        assert first["actor/grad_norm"] > 0
        for key in ("actor/grad_norm", "actor/pg_loss", "reward/mean", "response_length/mean"):
            assert second[key] == pytest.approx(first[key], rel=1e-4, abs=1e-9), key
    assert min(row["group/update_density"] for row in saving) < 1.0  # a prompt that every response was paid for
    assert "actor/entropy" in dense[0]
    assert not {name for row in saving for name in row} & {"actor/entropy", "rollout/logp_gap/mean"}


def test_all_arms_see_the_same_prompts_and_draw_the_same_first_responses(run: Run) -> None:
    first = {arm: rows(run(arm))[0] for arm in ("ppo", "grpo", "group_ppo")}
    for key in ("prompt_length/mean", "response_length/mean", "reward/mean", "actor/entropy"):
        assert len({row[key] for row in first.values()}) == 1, key
    assert len({row["actor/grad_norm"] for row in first.values()} - {0.0}) == 3


@pytest.mark.parametrize("lacking", ["half of train.parquet", "the start"])
def test_inputs_that_are_not_whole_stop_a_run_before_verl_starts(
    make_cell: MakeCell, tmp_path: Path, lacking: str
) -> None:
    cell = make_cell("ppo")
    if lacking == "the start":
        cell = replace(cell, start=tmp_path / "nowhere")
    else:
        cell = replace(cell, task_folder=shutil.copytree(cell.task_folder, tmp_path / "task"))
        data = (cell.task_folder / "train.parquet").read_bytes()
        (cell.task_folder / "train.parquet").write_bytes(data[: len(data) // 2])
    with pytest.raises(BadInput, match=r"train\.parquet|nowhere"):
        train(cell)
    assert not (cell.out / "log.txt").exists()


# ---- how a run on GPUs is scheduled

AS_ON_GPUS = {
    "reward.num_workers": yaml.safe_load((CONFIG / "cuda.yaml").read_text())["reward.num_workers"],
    # verl's own agent loops, which score in other processes, and as many storage units as verl makes.
    "actor_rollout_ref.rollout.agent.agent_loop_manager_class": None,
    "transfer_queue.backend.SimpleStorage.num_data_storage_units": 8,
}


def test_a_run_scheduled_as_one_on_gpus_takes_the_steps_of_the_quick_one_with_no_place_to_spare(
    run: Run, make_cell: MakeCell
) -> None:
    """With fewer places it would wait for ever, so it is not started."""
    held = {"ray_kwargs.ray_init.num_cpus": 12}
    cell = make_cell("group_ppo", verl=AS_ON_GPUS | held)
    train(cell)
    assert [repeatable(row) for row in rows(cell)] == [repeatable(row) for row in rows(run("group_ppo"))]
    with pytest.raises(BadInput, match="hold 12 of Ray's 11 CPUs") as error:
        train(make_cell("group_ppo", verl=AS_ON_GPUS | {key: places - 1 for key, places in held.items()}))
    assert [error.value.key] == [*held]


# ---- a grouping that fails in a run


def test_a_step_that_falls_back_is_dense_counted_logged_and_makes_the_run_inadmissible(
    run: Run, make_cell: MakeCell, quick: Benchmark, tmp_path: Path
) -> None:
    """Rule `random` at the density of another run, which lacks a step."""
    source = tmp_path / "steps.jsonl"
    source.write_text("".join(json.dumps({"step": step, "group/density": 0.3}) + "\n" for step in (1, 3)))
    arm = load_arm(REPOSITORY / "benchmarks" / "arms" / "random.yaml")
    arm = replace(arm, verl=arm.verl | {"algorithm.group_params.on_error": "dense"})
    cell = replace(make_cell(arm, seed=2), density_source=source)
    train(cell)
    steps = rows(cell)
    assert steps[0]["response_length/mean"] != rows(run("ppo"))[0]["response_length/mean"]  # seed 1's
    assert [row["group/fallbacks"] for row in steps] == [0, 1, 0]
    assert [row["group/density"] == 1.0 for row in steps] == [False, True, False]
    assert steps[0]["group/density"] == pytest.approx(0.3, abs=0.02)
    assert all(row["actor/grad_norm"] > 0 for row in steps)
    status = json.loads((cell.out / "status.json").read_text())
    assert (status["status"], status["steps"], status["fallbacks"]) == ("finished", 3, 1)
    log = (cell.out / "log.txt").read_text()
    assert "step 2: grouping failed" in log
    assert f"{cell.density_source}: step 2 group/density" in log
    ran = tables_of(cell, quick, tmp_path / "fell back")
    assert (ran["fallbacks"], ran["admissible"], ran["reason"]) == (1, False, "1 fallbacks to dense PPO")
    assert tables_of(run("group_ppo"), quick, tmp_path / "did not")["admissible"]


def tables_of(cell: Cell, quick: Benchmark, results: Path) -> pd.Series:
    """The run's row in the tables of a benchmark that is this one run, with a made-up evaluation."""
    arm, place = cell.arm, Path(cell.task.name, cell.model.name)
    benchmark = replace(
        quick, tasks={cell.task.name: cell.task}, arms={arm.name: arm}, seeds=(cell.seed,), train=cell.train
    )
    shutil.copytree(cell.out, results / "runs" / place / arm.name / f"seed{cell.seed}")
    for name, seed in ((arm.name, cell.seed), ("start", None)):
        keys = {"task": cell.task.name, "model": cell.model.name, "arm": name, "seed": seed}
        matched = {key: 8 if key in ("n", "batch_size", "repeats", "eval_seed") else "x" for key in MATCHED_EVALUATION}
        metrics = {"metrics": {"accuracy": {"value": 0.5, "stderr": 0.1, "n": 8}}}
        folder = results / "evals" / place / name / (f"seed{seed}" if seed is not None else "")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "result.json").write_text(json.dumps(keys | matched | metrics))
    collect(results, benchmark)
    return load_tables(results / "tables").runs.iloc[0]


# ---- trackers

OURS = ("group/", "rollout/")
Tracked = dict[int, dict[str, float]]
"""Metrics by step."""


def on_tensorboard(cell: Cell) -> Tracked:
    events = EventAccumulator(str(cell.out / TENSORBOARD)).Reload()
    found: Tracked = {}
    for name in events.Tags()["scalars"]:
        for event in events.Scalars(name):
            found.setdefault(event.step, {})[name] = event.value
    return found


def test_a_tracker_has_every_metric_of_ours_with_its_value_at_every_step(run: Run) -> None:
    cell = run("group_ppo")
    logged = {row["step"]: row for row in rows(cell)}
    expected = {
        step: {name: value for name, value in row.items() if name.startswith(OURS)} for step, row in logged.items()
    }
    found = on_tensorboard(cell)
    assert sorted(expected) == [1, 2, 3]
    assert set(found) == set(expected)
    for step, metrics in expected.items():
        assert {"group/density", "group/threshold", "group/r_ratio/p50", "group/fallbacks"} <= set(metrics)
        assert {"rollout/logp_gap/mean", "rollout/logp_gap/p99"} <= set(metrics)
        of_ours = {name: value for name, value in found[step].items() if name.startswith(OURS)}
        assert of_ours == pytest.approx(metrics, rel=1e-6, abs=1e-30)
    assert expected[1] != pytest.approx(expected[2], rel=1e-6)  # a tracker that mixed the steps up would be seen


def test_trackers_write_into_the_runs_folder_wandb_too(run: Run) -> None:
    cell = run("group_ppo")
    [file] = (cell.out / WANDB).glob("offline-run-*/run-*.wandb")
    names = {name.encode() for name in rows(cell)[0] if name.startswith(OURS)}
    assert names == {name for name in names if name in file.read_bytes()}
    assert b"group/nothing" not in file.read_bytes()
    assert not [*Path().glob("*wandb*"), *Path.home().glob("wandb*")]


def test_runs_track_offline_unless_the_user_says_otherwise(
    make_cell: MakeCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = make_cell("ppo")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("TENSORBOARD_DIR", "/elsewhere")
    assert environment(cell)["WANDB_MODE"] == "offline"
    assert environment(cell)["TENSORBOARD_DIR"] == str(cell.out / TENSORBOARD)
    monkeypatch.setenv("WANDB_MODE", "online")
    assert environment(cell)["WANDB_MODE"] == "online"
    assert "TENSORBOARD_DIR" in os.environ
