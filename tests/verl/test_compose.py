"""From a cell to verl's config: arms differ in what their files say, and a wrong key is an error."""

from dataclasses import replace
from typing import Any

import pytest
from omegaconf import OmegaConf

from groupppo.config import Arm
from groupppo.errors import BadInput
from groupppo.verl.compose import Cell, compose
from tests.verl.conftest import MakeCell


def flat(cell: Cell) -> dict[str, Any]:
    found, queue = {}, [("", OmegaConf.to_container(compose(cell), resolve=True))]
    while queue:
        prefix, node = queue.pop()
        if isinstance(node, dict) and node:
            queue.extend((f"{prefix}.{key}", value) for key, value in node.items())
        else:
            found[prefix.lstrip(".")] = node
    return found


def test_arms_differ_in_what_their_files_say_and_in_nothing_else(make_cell: MakeCell) -> None:
    ppo, group = make_cell("ppo"), make_cell("group_ppo")
    left, right = flat(ppo), flat(replace(group, out=ppo.out))
    differing = {key for key in left if left[key] != right[key]}
    differing -= {"trainer.experiment_name", "actor_rollout_ref.rollout.trace.experiment_name"}
    assert differing == {"algorithm.adv_estimator"}
    assert left["algorithm.adv_estimator"] == "gae"
    assert right["algorithm.adv_estimator"] == "group_ppo"


def test_every_source_of_randomness_follows_the_cells_seed(make_cell: MakeCell) -> None:
    config = flat(make_cell("ppo", seed=7))
    seeds = {key for key, value in config.items() if key.rsplit(".", 1)[-1].endswith("seed") and value == 7}
    assert seeds >= {
        "data.seed",
        "actor_rollout_ref.rollout.seed",
        "actor_rollout_ref.actor.data_loader_seed",
        "actor_rollout_ref.actor.fsdp_config.seed",
        "critic.data_loader_seed",
        "critic.fsdp.seed",
    }


def with_keys(arm: Arm, **keys: object) -> Arm:
    return replace(arm, verl=arm.verl | {key.replace("__", "."): value for key, value in keys.items()})


def test_a_key_verl_does_not_have_is_an_error_that_names_file_key_and_neighbour(make_cell: MakeCell) -> None:
    cell = make_cell("ppo")
    with pytest.raises(BadInput) as error:
        compose(replace(cell, arm=with_keys(cell.arm, algorithm__adv_estimatr="gae")))
    assert error.value.file.endswith("arms/ppo.yaml")
    assert error.value.key == "algorithm.adv_estimatr"
    assert "algorithm.adv_estimator" in error.value.mend


@pytest.mark.parametrize(("key", "value"), [("group_max_size", 0), ("rule", "varaince_split"), ("threshold_lr", -1.0)])
def test_a_group_parameter_out_of_range_is_an_error_that_names_it(make_cell: MakeCell, key: str, value: object) -> None:
    cell = make_cell("group_ppo")
    with pytest.raises(BadInput) as error:
        compose(replace(cell, arm=with_keys(cell.arm, **{f"algorithm__group_params__{key}": value})))
    assert error.value.key == f"algorithm.group_params.{key}"
    assert error.value.value == value


def test_an_unknown_group_parameter_is_an_error(make_cell: MakeCell) -> None:
    cell = make_cell("group_ppo")
    with pytest.raises(BadInput, match="group_max_szie"):
        compose(replace(cell, arm=with_keys(cell.arm, algorithm__group_params__group_max_szie=3)))


def test_mini_batches_must_divide_the_prompts_of_a_step(make_cell: MakeCell) -> None:
    assert flat(make_cell("ppo", mini_batches=2))["actor_rollout_ref.actor.ppo_mini_batch_size"] == 2
    with pytest.raises(BadInput, match="mini_batches"):
        compose(make_cell("ppo", mini_batches=3))


@pytest.mark.parametrize("name", ["rollout_is", "rollout_rs"])
def test_a_correction_that_grouping_does_not_apply_is_refused_and_dense_ppo_keeps_it(
    make_cell: MakeCell, name: str
) -> None:
    keys = {f"algorithm__rollout_correction__{name}": "token"}
    dense, grouped = make_cell("ppo"), make_cell("group_ppo")
    assert flat(replace(dense, arm=with_keys(dense.arm, **keys)))[f"algorithm.rollout_correction.{name}"] == "token"
    with pytest.raises(BadInput, match=name):
        compose(replace(grouped, arm=with_keys(grouped.arm, **keys)))


@pytest.mark.parametrize(
    ("setting", "value", "key", "arrives"),
    [
        ("steps", 5, "trainer.total_training_steps", 5),
        ("steps", 5, "trainer.save_freq", 5),
        ("prompts_per_step", 6, "data.train_batch_size", 6),
        ("responses_per_prompt", 3, "actor_rollout_ref.rollout.n", 3),
        ("epochs", 2, "actor_rollout_ref.actor.ppo_epochs", 2),
        ("epochs", 2, "critic.ppo_epochs", 2),
        ("mini_batches", 2, "critic.ppo_mini_batch_size", 2),
        ("actor_lr", 3e-5, "actor_rollout_ref.actor.optim.lr", 3e-5),
        ("critic_lr", 3e-5, "critic.optim.lr", 3e-5),
        ("temperature", 0.7, "actor_rollout_ref.rollout.temperature", 0.7),
        ("gamma", 0.9, "algorithm.gamma", 0.9),
        ("lam", 0.8, "algorithm.lam", 0.8),
        ("rollout", "vllm", "actor_rollout_ref.rollout.name", "vllm"),
        ("verl", {"critic.cliprange_value": 0.3}, "critic.cliprange_value", 0.3),
    ],
)
def test_every_matched_setting_reaches_verl(
    make_cell: MakeCell, setting: str, value: object, key: str, arrives: object
) -> None:
    assert flat(make_cell("ppo", **{setting: value}))[key] == arrives
    assert flat(make_cell("ppo"))[key] != arrives  # it is the setting that put it there
