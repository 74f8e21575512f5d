"""Arms as the study follows them: their own settings, dense PPO's weights, and what is left out with its reason."""

from pathlib import Path

import pytest
import torch
from groupppo.studies.shared.arms import dense_update, group_arms, group_updates

from groupppo.algorithm import Tokens
from groupppo.algorithm.estimators import gae, whiten
from groupppo.config import REPOSITORY, Arm, load_arm
from groupppo.errors import BadInput
from groupppo.studies.shared.study import NO_RULE
from tests.studies.conftest import GAMMA, LAM

SHIPPED = [load_arm(file) for file in sorted((REPOSITORY / "benchmarks" / "arms").glob("*.yaml"))]


def arm(name: str = "mine", density_from: str | None = None, **verl: object) -> Arm:
    keys = {"algorithm.adv_estimator": "group_ppo", "critic.enable": True} | {
        key.replace("__", "."): value for key, value in verl.items()
    }
    return Arm(name, name, "For a test.", keys, Path(f"arms/{name}.yaml"), density_from)


def test_every_shipped_arm_with_a_rule_is_followed_and_the_others_are_left_out_with_a_reason() -> None:
    followed, left_out = group_arms(SHIPPED)
    assert {arm.name for arm in followed} | set(left_out) == {arm.name for arm in SHIPPED}
    without_a_rule = {arm.name for arm in SHIPPED if arm.verl["algorithm.adv_estimator"] != "group_ppo"}
    assert {name for name, reason in left_out.items() if reason == NO_RULE} == without_a_rule
    streamed = {arm.name for arm in SHIPPED if arm.verl.get("algorithm.group_params.update") == "streamed"}
    fused = {arm.name for arm in SHIPPED if arm.verl.get("actor_rollout_ref.model.use_fused_kernels")}
    other_lambda = {arm.name for arm in SHIPPED if "algorithm.lam" in arm.verl}
    assert set(left_out) == without_a_rule | streamed | fused | other_lambda
    assert {arm.name: arm.density_from for arm in followed if arm.density_from} == {
        "random": "group_ppo",
        "entropy": "group_ppo",
        "entropy_gathered": "group_ppo",
    }


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"algorithm__gamma": 0.9}, "algorithm.gamma"),
        ({"algorithm__group_params__update": "streamed"}, "approximate"),
        ({"algorithm__group_params__rule": "random", "algorithm__group_params__density_source": "a.jsonl"}, "file"),
    ],
)
def test_an_arm_that_the_study_would_misrepresent_is_left_out(changed: dict, reason: str) -> None:
    followed, left_out = group_arms([arm(**changed)])
    assert not followed
    assert reason in left_out["mine"]
    assert not group_arms([arm()])[1]


def test_a_wrong_key_is_named_with_its_file_and_mend() -> None:
    with pytest.raises(BadInput, match=r"arms/mine.yaml: verl.algorithm.group_params.group_max_sizes = 4(.|\n)*hint"):
        group_arms([arm(algorithm__group_params__group_max_sizes=4)])


def test_an_arm_whose_density_comes_from_nowhere_is_named() -> None:
    control = arm("control", density_from="group_ppo", algorithm__group_params__rule="random")
    with pytest.raises(BadInput, match=r"arms/control.yaml: density_from = 'group_ppo'"):
        group_arms([control])
    assert len(group_arms([control, arm("group_ppo")])[0]) == 2


def test_dense_weights_are_minus_the_whitened_advantage_over_the_number_of_tokens(tokens: Tokens) -> None:
    """At ratio 1 the derivative of -A * ratio in the log-probability is -A."""
    advantages = gae(tokens.get("rewards"), tokens.get("values"), tokens.mask, GAMMA, LAM)
    expected = -whiten(advantages, tokens.mask.long()) / int(tokens.mask.sum())
    weights = dense_update(tokens, GAMMA, LAM).weights
    assert torch.allclose(weights, expected, atol=1e-9)
    assert not torch.allclose(dense_update(tokens, GAMMA, 1.0).weights, expected, atol=1e-4)


def test_singleton_has_dense_weights_to_the_bit_and_other_arms_have_not(tokens: Tokens) -> None:
    updates = group_updates(group_arms(SHIPPED)[0], tokens, GAMMA, LAM)
    dense = dense_update(tokens, GAMMA, LAM)
    assert torch.equal(updates["singleton"].weights, dense.weights)
    assert updates["singleton"].density == 1.0
    same = [name for name, update in updates.items() if torch.equal(update.weights, dense.weights)]
    # The micro policy is sure of none of its tokens, so that low_prob cuts at each.
    assert same == ["low_prob", "singleton"]


def test_weights_sit_on_endpoints_or_on_all_tokens_as_the_arm_spreads_them(tokens: Tokens) -> None:
    updates = group_updates(group_arms(SHIPPED)[0], tokens, GAMMA, LAM)
    count = int(tokens.mask.sum())
    assert int((updates["sequence"].weights != 0).sum()) == len(tokens.mask)
    assert int((updates["group_ppo"].weights != 0).sum()) == round(updates["group_ppo"].density * count) < count
    assert int((updates["group_ppo_broadcast"].weights != 0).sum()) == count
    for update in updates.values():
        assert not update.weights[~tokens.mask].any()


def test_a_control_has_the_density_of_its_arm_on_the_same_batch(tokens: Tokens) -> None:
    updates = group_updates(group_arms(SHIPPED)[0], tokens, GAMMA, LAM)
    half_a_token = 0.5 / int(tokens.mask.sum())
    for control in ("random", "entropy"):
        assert abs(updates[control].density - updates["group_ppo"].density) <= half_a_token + 1e-12
    assert abs(updates["stride"].density - updates["group_ppo"].density) > half_a_token
