"""Arms differ in their algorithm, and in what the benchmark says that it compares: any other key is refused."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from groupppo.config import REPOSITORY, Benchmark, load_benchmark
from groupppo.config.arms import match_faults
from groupppo.errors import BadInput

ACTOR, ROLLOUT, MODEL = "actor_rollout_ref.actor", "actor_rollout_ref.rollout", "actor_rollout_ref.model"
# One of each kind: data, steps, model, evaluation, seeds, machine, and keys that load code.
OTHERS: dict[str, Any] = {
    "data.train_batch_size": 8,
    "data.seed": 3,
    "trainer.total_training_steps": 50,
    "trainer.resume_from_path": "elsewhere",
    f"{ACTOR}.ppo_epochs": 4,
    f"{ACTOR}.ppo_mini_batch_size": 4,
    f"{ACTOR}.data_loader_seed": 3,
    f"{ACTOR}.fsdp_config.mixed_precision.param_dtype": "bf16",
    f"{ACTOR}.optim.optimizer": "SGD",
    f"{ACTOR}.optim.optimizer_impl": "mine",
    f"{ACTOR}.optim.total_training_steps": 50,
    f"{ACTOR}.policy_loss._target_": "mine",
    f"{MODEL}.path": "elsewhere",
    f"{MODEL}.external_lib": "mine",
    f"{MODEL}.override_config": {"attention_dropout": 0.1},
    f"{ROLLOUT}.temperature": 0.7,
    f"{ROLLOUT}.n": 16,
    f"{ROLLOUT}.response_length": 9,
    f"{ROLLOUT}.val_kwargs.temperature": 0.5,
    "critic.model.path": "elsewhere",
    "critic.ppo_epochs": 4,
    "reward.custom_reward_function.path": "mine.py",
    "algorithm.filter_groups.enable": True,
    "algorithm.group_params.density_source": "elsewhere",
    "algorithm.group_params": {"density_source": "elsewhere"},
    "ray_kwargs.ray_init.num_cpus": 1,
}
OF_THE_ALGORITHM: dict[str, Any] = {
    "algorithm.lam": 0.95,
    "algorithm.kl_ctrl": {"type": "adaptive", "kl_coef": 0.01},
    "algorithm.rollout_correction.rollout_is": "token",
    "algorithm.group_params.group_max_size": 4,
    f"{ACTOR}.policy_loss.loss_mode": "gspo",
    f"{ACTOR}.clip_ratio_high": 0.28,
    f"{ACTOR}.kl_loss_coef": 0.01,
    f"{ACTOR}.entropy_coeff": 0.01,
    f"{ACTOR}.optim.lr": 1e-5,
    f"{ACTOR}.loss_agg_mode": "seq-mean-token-mean",
    "critic.cliprange_value": 0.3,
    f"{MODEL}.use_fused_kernels": True,
}


@pytest.fixture(scope="module")
def quick() -> Benchmark:
    return load_benchmark(REPOSITORY / "benchmarks/quick.yaml")


def faults(benchmark: Benchmark) -> list[BadInput]:
    return list(match_faults(benchmark.arms, benchmark.compares, benchmark.source))


def with_arm(benchmark: Benchmark, keys: dict[str, Any], **changes: Any) -> Benchmark:
    arm = benchmark.arms["grpo"]
    arms = benchmark.arms | {"grpo": replace(arm, verl=arm.verl | keys)}
    return replace(benchmark, arms=arms, **changes)


@pytest.mark.parametrize("key", OTHERS)
def test_an_arm_does_not_change_anything_else_unless_the_benchmark_compares_it(quick: Benchmark, key: str) -> None:
    value = OTHERS[key]
    leaf, said = (f"{key}.{next(iter(value))}", next(iter(value.values()))) if isinstance(value, dict) else (key, value)
    [fault] = faults(with_arm(quick, {key: value}))
    assert (fault.file, fault.key, fault.value) == (str(quick.arms["grpo"].source), leaf, said)
    assert "train.verl" in fault.hint
    assert f"{leaf} to compares" in fault.hint
    assert not faults(with_arm(quick, {key: value}, compares=(leaf,)))


@pytest.mark.parametrize("key", OF_THE_ALGORITHM)
def test_an_arm_changes_the_algorithm(quick: Benchmark, key: str) -> None:
    assert not faults(with_arm(quick, {key: OF_THE_ALGORITHM[key]}))


@pytest.mark.parametrize(
    ("keys", "named", "hint"),
    [
        ({"critic.ppo_epochs": 2}, "critic.ppo_mini_batch_size", "do not differ"),
        ({}, "critic.ppo_epochs", "do not differ"),
        ({"algorithm.lam": 0.5}, "algorithm.lam", "anyway"),
    ],
)
def test_what_is_compared_differs_and_is_not_the_algorithms(
    quick: Benchmark, keys: dict[str, Any], named: str, hint: str
) -> None:
    [fault] = faults(with_arm(quick, keys, compares=(*(key for key in keys if key != named), named)))
    assert (fault.file, fault.value) == (str(quick.source), named)
    assert fault.key.startswith("compares.")
    assert hint in fault.hint


def test_a_benchmark_says_what_it_compares_and_its_record_and_report_too(tmp_path: Path) -> None:
    home = shutil.copytree(REPOSITORY / "benchmarks", tmp_path / "benchmarks")
    arm, file = home / "arms" / "grpo.yaml", home / "quick.yaml"
    arm.write_text(f"{arm.read_text()}\n  {ACTOR}.ppo_epochs: 4\n")
    with pytest.raises(BadInput, match="ppo_epochs"):
        load_benchmark(file)
    file.write_text(f"{file.read_text()}\ncompares: [{ACTOR}.ppo_epochs]\n")
    benchmark = load_benchmark(file)
    assert benchmark.resolved()["compares"] == [f"{ACTOR}.ppo_epochs"]
    assert "compares" not in replace(benchmark, compares=()).resolved()
