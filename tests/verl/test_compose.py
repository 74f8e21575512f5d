"""From a cell to verl's config: arms differ in what their files say, and a wrong key is an error."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from groupppo.algorithm import known_rules
from groupppo.config import REPOSITORY, Arm, load_arm
from groupppo.config.arms import ALGORITHM
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
    # What ppo has by default is said in group_ppo's file too, so that it can be read there.
    assert differing == {key for key, value in group.arm.verl.items() if left[key] != value}
    assert "algorithm.adv_estimator" in differing
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


def test_of_all_keys_of_verl_an_arm_may_set_the_algorithms_alone(make_cell: MakeCell) -> None:
    """The rule is closed: what verl adds is refused until somebody says that it belongs to the algorithm."""
    keys = set(flat(make_cell("ppo")))
    allowed = {key for key in keys if ALGORITHM.fullmatch(key)}
    assert len(keys) > 500
    assert 60 < len(allowed) < 100
    assert all(key.startswith(("algorithm.", "critic.", "actor_rollout_ref.")) for key in allowed)
    kinds = r"seed|path|epochs|batch(?!_normalize)|(?<!warmup_)steps|_target_|source|device|impl|len_per|fsdp|rollout\."
    assert not [key for key in allowed if re.search(kinds, key)]
    # What of the algorithm would be forgotten, were the pattern narrower.
    assert {"algorithm.lam", "algorithm.kl_ctrl.kl_coef", "critic.cliprange_value", "critic.optim.lr"} <= allowed


def with_keys(arm: Arm, **keys: object) -> Arm:
    return replace(arm, verl=arm.verl | {key.replace("__", "."): value for key, value in keys.items()})


def test_a_key_verl_does_not_have_is_an_error_that_names_file_key_and_neighbour(make_cell: MakeCell) -> None:
    cell = make_cell("ppo")
    with pytest.raises(BadInput) as error:
        compose(replace(cell, arm=with_keys(cell.arm, algorithm__adv_estimatr="gae")))
    assert error.value.file.endswith("arms/ppo.yaml")
    assert error.value.key == "algorithm.adv_estimatr"
    assert "algorithm.adv_estimator" in error.value.hint


@pytest.mark.parametrize(
    ("key", "value"), [("group_max_size", 0), ("rule", "varaince_split"), ("threshold_lr", -1.0), ("group_max_szie", 3)]
)
def test_a_group_parameter_out_of_range_or_unknown_is_an_error_that_names_it(
    make_cell: MakeCell, key: str, value: object
) -> None:
    cell = make_cell("group_ppo")
    with pytest.raises(BadInput) as error:
        compose(replace(cell, arm=with_keys(cell.arm, **{f"algorithm__group_params__{key}": value})))
    assert error.value.key == f"algorithm.group_params.{key}"
    assert error.value.value == value


def test_mini_batches_must_divide_the_prompts_of_a_step(make_cell: MakeCell) -> None:
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


def test_every_matched_setting_reaches_verl(make_cell: MakeCell) -> None:
    settings = {
        "steps": (5, "trainer.total_training_steps", "trainer.save_freq"),
        "prompts_per_step": (6, "data.train_batch_size"),
        "responses_per_prompt": (3, "actor_rollout_ref.rollout.n"),
        "epochs": (2, "actor_rollout_ref.actor.ppo_epochs", "critic.ppo_epochs"),
        "actor_lr": (3e-5, "actor_rollout_ref.actor.optim.lr"),
        "critic_lr": (4e-5, "critic.optim.lr"),
        "temperature": (0.7, "actor_rollout_ref.rollout.temperature"),
        "gamma": (0.9, "algorithm.gamma"),
        "lam": (0.8, "algorithm.lam"),
        "rollout": ("vllm", "actor_rollout_ref.rollout.name"),
    }
    set_so = {name: value for name, (value, *_) in settings.items()} | {"verl": {"critic.cliprange_value": 0.3}}
    before, after = flat(make_cell("ppo")), flat(make_cell("ppo", mini_batches=2, **set_so))
    expected = {key: value for value, *keys in settings.values() for key in keys}
    expected |= {"critic.cliprange_value": 0.3, "critic.ppo_mini_batch_size": 3}
    expected["actor_rollout_ref.actor.ppo_mini_batch_size"] = 3
    assert {key: after[key] for key in expected} == expected
    assert not [key for key in expected if before[key] == after[key]]  # it is the setting that put it there


# ---- the arms of the registry

# `variance_split` and `published` are parts of arms that have names of their own; `literal` is dense PPO, a theorem; of
# the last four there is no arm yet.
UNNAMED_RULES = {"variance_split", "published", "literal", "abs_advantage", "bernoulli", "gap", "prefix_cut"}
ARMS = sorted((REPOSITORY / "benchmarks" / "arms").glob("*.yaml"))


@pytest.fixture(scope="module")
def steps_of_another_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("other") / "steps.jsonl"
    file.write_text('{"step": 1, "group/density": 0.2}\n')
    return file


def test_arms_of_one_algorithm_differ_so_that_none_is_another_under_a_second_name() -> None:
    arms = [load_arm(file) for file in ARMS]
    assert {arm.name for arm in arms} >= {"ppo", "grpo", "group_ppo", *(set(known_rules()) - UNNAMED_RULES)}
    found = [tuple(sorted(arm.verl.items())) for arm in arms]
    assert len(set(found)) == len(found)


GROUP = "algorithm.group_params."
CALCULATES = "actor_rollout_ref.rollout.calculate_log_probs"
FUSES = "actor_rollout_ref.model.use_fused_kernels"
ACTOR = "actor_rollout_ref.actor"
LOSS_KEYS = f"{ACTOR}.policy_loss."
LOSS = f"{LOSS_KEYS}loss_mode"
ACTOR_MODE, CRITIC_MODE = f"{ACTOR}.loss_agg_mode", "critic.loss_agg_mode"
BYPASS = "algorithm.rollout_correction.bypass_mode"
# What an arm says, and the key that has to go, or to be mended, for it to be taken.
WRONG: dict[str, tuple[dict[str, object], str]] = {
    "a score of log-ratios without the rollout's": ({f"{GROUP}score": "log_ratio", CALCULATES: False}, CALCULATES),
    "the published rule without the rollout's": ({f"{GROUP}rule": "published", CALCULATES: False}, CALCULATES),
    "logits that fused kernels do not keep": ({f"{GROUP}score": "logit_norm", FUSES: True}, FUSES),
    "the rollout's log-probs for the policy's": ({BYPASS: True}, BYPASS),
    "tokens to divide a mean over responses by": (
        {f"{GROUP}loss_normalizer": "tokens", ACTOR_MODE: "seq-mean-token-mean"},
        ACTOR_MODE,
    ),
    "tokens to divide the critic's mean over responses by": (
        {f"{GROUP}loss_normalizer": "tokens", CRITIC_MODE: "seq-mean-token-sum"},
        CRITIC_MODE,
    ),
    "advantages without values": ({"critic.enable": False}, "critic.enable"),
    "a density for a rule that has none": ({f"{GROUP}density": 0.1}, f"{GROUP}density"),
    "a cut-off for a rule that has none": ({f"{GROUP}probability_cutoff": 0.5}, f"{GROUP}probability_cutoff"),
    "tokens left out that an entropy needs": (
        {f"{GROUP}update": "gathered", f"{GROUP}skip_zero_advantage": True, f"{ACTOR}.entropy_coeff": 0.01},
        f"{ACTOR}.entropy_coeff",
    ),
    "tokens left out that a mean entropy needs": (
        {f"{GROUP}update": "gathered", f"{GROUP}skip_zero_advantage": True, f"{ACTOR}.calculate_entropy": True},
        f"{ACTOR}.calculate_entropy",
    ),
    "tokens left out that a loss pulls back without an advantage": (
        {f"{GROUP}update": "gathered", f"{GROUP}skip_zero_advantage": True, LOSS: "dro", f"{LOSS_KEYS}dro_beta": 0.1},
        LOSS,
    ),
    "tokens left out that a loss may choose to punish": (
        {f"{GROUP}update": "gathered", f"{GROUP}skip_zero_advantage": True, LOSS: "kl_cov"},
        LOSS,
    ),
    "tokens left out of an update that computes all": (
        {f"{GROUP}skip_zero_advantage": True},
        f"{GROUP}skip_zero_advantage",
    ),
    "prompts shared by fewer than all responses": (
        {f"{GROUP}update": "gathered", f"{GROUP}shared_prompts": True, f"{ACTOR}.ppo_max_token_len_per_gpu": 64},
        f"{ACTOR}.ppo_max_token_len_per_gpu",
    ),
    "prompts shared by a pass that takes logits": (
        {f"{GROUP}update": "gathered", f"{GROUP}shared_prompts": True, f"{GROUP}score": "logit_norm"},
        f"{GROUP}shared_prompts",
    ),
    "old log-probs of the update for the rollouts' that there are not": (
        {f"{GROUP}old_log_probs": "update", CALCULATES: False},
        CALCULATES,
    ),
    "old log-probs of the update in its second epoch": (
        {f"{ACTOR}.ppo_epochs": 2, f"{GROUP}old_log_probs": "update"},
        f"{GROUP}old_log_probs",
    ),
    "old log-probs of the update for a rule that reads them": (
        {f"{GROUP}score": "logit_norm", f"{GROUP}old_log_probs": "update"},
        f"{GROUP}old_log_probs",
    ),
    "old log-probs of the update for a penalty in the reward": (
        {"algorithm.use_kl_in_reward": True, f"{GROUP}old_log_probs": "update"},
        f"{GROUP}old_log_probs",
    ),
    "a rate of a threshold that stands still": (
        {f"{GROUP}adaptive_threshold": False, f"{GROUP}threshold_lr": 0.1},
        f"{GROUP}threshold_lr",
    ),
}


@pytest.mark.parametrize(("keys", "wrong"), WRONG.values(), ids=WRONG)
def test_a_wrong_combination_is_an_error_with_file_key_value_and_mend(
    make_cell: MakeCell, keys: dict[str, object], wrong: str
) -> None:
    cell = make_cell("group_ppo")
    with pytest.raises(BadInput) as error:
        compose(replace(cell, arm=replace(cell.arm, verl=cell.arm.verl | keys)))
    assert error.value.file.endswith("arms/group_ppo.yaml")
    assert error.value.key == wrong
    assert error.value.value == keys[wrong]
    assert error.value.hint
    rest = {key: value for key, value in keys.items() if key != wrong}
    assert compose(replace(cell, arm=replace(cell.arm, verl=cell.arm.verl | rest)))


def test_several_ranks_share_prompts_without_room_for_all_responses_of_one(make_cell: MakeCell) -> None:
    """verl deals sequences out by length then; one rank with so little room is among the wrong combinations."""
    keys, wrong = WRONG["prompts shared by fewer than all responses"]
    cell = make_cell("group_ppo")
    config = compose(replace(cell, ranks=2, arm=replace(cell.arm, verl=cell.arm.verl | keys)))
    assert OmegaConf.select(config, wrong) == keys[wrong]


def test_old_log_probs_of_the_update_leave_no_correction_of_the_rollouts(make_cell: MakeCell) -> None:
    keys = {"rule": "singleton", "old_log_probs": "update"}
    arm = with_keys(make_cell("grpo").arm, **{f"algorithm__group_params__{key}": value for key, value in keys.items()})
    assert compose(make_cell(arm))
    with pytest.raises(BadInput, match="rollout_is reads them"):
        compose(make_cell(with_keys(arm, algorithm__rollout_correction__rollout_is="token")))


@pytest.mark.parametrize("rule", ["random", "entropy"])
def test_a_rule_that_needs_a_density_is_an_error_without_one_and_with_two(
    make_cell: MakeCell, steps_of_another_run: Path, rule: str
) -> None:
    arm = load_arm(REPOSITORY / "benchmarks" / "arms" / f"{rule}.yaml")
    cell = make_cell(arm)
    number = replace(cell, arm=with_keys(arm, algorithm__group_params__density=0.2))
    assert compose(number).algorithm.group_params.density == 0.2
    for wrong, value in ((cell, None), (replace(number, density_source=steps_of_another_run), 0.2)):
        with pytest.raises(BadInput) as error:
            compose(wrong)
        assert (error.value.key, error.value.value) == ("algorithm.group_params.density", value)
        assert "density_source" in error.value.hint


@pytest.mark.parametrize(
    ("place", "keys", "wrong"),
    [
        ("arm", {"algorithm.group_params": {"rule": "stride"}}, "algorithm.group_params"),
        ("matrix", {"algorithm.group_params": {"rule": "stride"}}, "algorithm.group_params"),
        ("matrix", {"algorithm.group_params.rule": "stride"}, "algorithm.group_params.rule"),
    ],
)
def test_what_an_arm_trains_on_is_said_in_its_own_file_by_dotted_keys(
    make_cell: MakeCell, place: str, keys: dict[str, object], wrong: str
) -> None:
    for arm in ("grpo", "group_ppo"):
        own = load_arm(REPOSITORY / "benchmarks" / "arms" / f"{arm}.yaml")
        cell = make_cell(arm, verl=keys) if place == "matrix" else make_cell(replace(own, verl=own.verl | keys))
        with pytest.raises(BadInput) as error:
            compose(cell)
        assert error.value.file == str(cell.matrix if place == "matrix" else cell.arm.source)
        assert (error.value.key, error.value.value) == (wrong, keys[wrong])
        dotted = replace(own, verl=own.verl | {"algorithm.group_params.rule": "stride"})
        assert dotted.grouped
        assert compose(make_cell(dotted)).algorithm.group_params.rule == "stride"


def test_a_dense_arm_that_speaks_of_groups_is_an_error_and_a_matrix_that_does_is_none(make_cell: MakeCell) -> None:
    cell = make_cell("ppo")
    with pytest.raises(BadInput) as error:
        compose(replace(cell, arm=with_keys(cell.arm, algorithm__group_params__group_max_size=8)))
    assert error.value.file.endswith("arms/ppo.yaml")
    assert error.value.key == "algorithm.group_params.group_max_size"
    for arm in ("ppo", "group_ppo"):
        config = compose(make_cell(arm, verl={"algorithm.group_params.on_error": "dense"}))
        assert config.algorithm.group_params.on_error == "dense"
