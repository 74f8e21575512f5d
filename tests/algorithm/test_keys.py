"""Every key of `GroupParams` changes some output: each has a witness here, and a new key without one fails."""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, fields, make_dataclass
from itertools import combinations
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from omegaconf import OmegaConf
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

from groupppo.algorithm import Cause, GroupParams, Groups, Tokens, group_tokens, known_rules, next_threshold
from groupppo.algorithm.loss import GroupBatch, group_batch
from groupppo.algorithm.params import KEYS
from groupppo.verl import trainer as trainer_module
from groupppo.verl.group_stage import Grouped, GroupStage
from groupppo.verl.passes import Asks
from groupppo.verl.trainer import GroupPPOTrainer
from tests.algorithm.strategies import fixed_batch

Output = Callable[[GroupParams], object]


@dataclass(frozen=True)
class Witness:
    """Values of a key, any two of which an output tells apart; `beside` are the keys that this needs."""

    values: tuple[object, ...]
    output: Output
    beside: dict[str, object] = field(default_factory=dict)
    stock: bool = False

    def see(self, key: str, value: object) -> object:
        return self.output(GroupParams.from_config({**self.beside, key: value}, stock=self.stock))


def _groups(params: GroupParams) -> Groups:
    return group_tokens(fixed_batch(length=40), params)


def causes(params: GroupParams) -> object:
    return _groups(params).cause.tolist()


def weights(params: GroupParams) -> object:
    found = _groups(params).weights
    return None if found is None else found.tolist()


def losses(read: Callable[[GroupBatch], Any]) -> Output:
    return lambda params: read(group_batch(fixed_batch(length=40), _groups(params), params, 0.9, 0.8)).tolist()


def threshold_after(*densities: float) -> Output:
    def run(params: GroupParams) -> float:
        tau = params.group_variance_threshold
        for density in densities:
            tau = next_threshold(tau, density, params)
        return tau

    return run


def endpoints_of_the_first_step(params: GroupParams) -> object:
    tokens = fixed_batch(length=40)
    batch = {"response_mask": tokens.mask.long(), "token_level_rewards": tokens.rewards, "values": tokens.values}
    stage = GroupStage(params, gamma=0.9, lam=0.8, seed=0)
    return stage.run(batch, [str(row) for row in range(len(tokens.mask))], step=1).groups.endpoints.tolist()


def what_the_engines_are_asked_for(params: GroupParams) -> object:
    """By the log-probability pass and by the policy's update, in a sparse step and in a dense one."""
    asks, asked = Asks(params), []
    for density in (0.2, 0.6):
        tokens = Tokens(torch.ones(1, 5, dtype=torch.bool))
        causes = torch.where(torch.arange(5) < 5 * density, Cause.CAP, Cause.NONE).to(torch.int8)[None]
        groups = Groups.from_cause(causes, tokens.mask)
        grouped = Grouped(tokens, groups, threshold=1.0, losses=None)
        asked.append((asks.log_probs(early=False), asks.policy_update(grouped, step=1)))
    return asked


def what_a_failing_grouping_ends_in(params: GroupParams) -> str:
    """The trainer's step with a grouping that raises, and verl's own stage replaced by a note that it ran."""
    trainer = GroupPPOTrainer.__new__(GroupPPOTrainer)
    trainer.global_steps, trainer.over_groups, trainer._value_fields = 1, True, []
    algorithm = {"adv_estimator": "group_ppo", "group_params": {"on_error": params.on_error}}
    trainer.config = OmegaConf.create({"algorithm": algorithm})
    mask = torch.nested.as_nested_tensor([torch.ones(2, dtype=torch.int64)], layout=torch.jagged)
    dense = lambda self, *_: f"dense with {self.config.algorithm.adv_estimator}"  # noqa: E731
    with (
        mock.patch.object(PPOTrainerSync, "_compute_advantage", dense),
        mock.patch.object(trainer_module, "put_fields"),
    ):
        try:
            return trainer._fall_back(ZeroDivisionError("nothing to divide by"), None, mask, {})
        except ZeroDivisionError as error:
            return f"raised {error}"


def run_of_density(folder: Path, density: float) -> str:
    path = folder / f"{density}.jsonl"
    path.write_text(json.dumps({"step": 1, "group/density": density}))
    return str(path)


def witnesses(folder: Path) -> dict[str, Witness]:
    few_and_many = tuple(run_of_density(folder, density) for density in (0.2, 0.6))
    draws, streams = {"rule": "random"}, {"update": "streamed"}
    # The others need a density, which these refuse; `gap` keeps every token of this batch, as `literal` does.
    rules = tuple(name for name, rule in known_rules().items() if "density" not in rule.uses and name != "gap")
    weighted = {"rule": "bernoulli", "density": 0.3, "loss_normalizer": "tokens"}
    estimators = tuple(value for value in KEYS["advantage"].choices if value != "stock")
    return {
        "rule": Witness(rules, causes),
        "score": Witness(KEYS["score"].choices, causes),
        "weights": Witness(KEYS["weights"].choices, weights, weighted, stock=True),
        "advantage": Witness(estimators, losses(lambda batch: batch.advantages)),
        "spread": Witness(KEYS["spread"].choices, losses(lambda batch: batch.policy.counts)),
        "loss_normalizer": Witness(KEYS["loss_normalizer"].choices, losses(lambda batch: batch.policy.divides)),
        "update": Witness(KEYS["update"].choices, what_the_engines_are_asked_for),
        "kv": Witness(KEYS["kv"].choices, what_the_engines_are_asked_for, streams),
        "kv_bytes": Witness((2**20, 2**30), what_the_engines_are_asked_for, streams),
        "live_window": Witness((0, 2), what_the_engines_are_asked_for, streams),
        "live_share": Witness((0.0, 0.1), what_the_engines_are_asked_for, streams),
        "skip_zero_advantage": Witness((False, True), what_the_engines_are_asked_for, {"update": "gathered"}),
        "shared_prompts": Witness((False, True), what_the_engines_are_asked_for, {"update": "gathered"}),
        "old_log_probs": Witness(KEYS["old_log_probs"].choices, what_the_engines_are_asked_for),
        "on_error": Witness(KEYS["on_error"].choices, what_a_failing_grouping_ends_in),
        "group_variance_threshold": Witness((1.0, 0.5, 2.0), causes),
        "group_max_size": Witness((16, 2, 3), causes),
        "group_epsilon": Witness((1e-6, 1.0), causes),
        "adaptive_threshold": Witness((True, False), threshold_after(0.5)),
        "threshold_lr": Witness((0.01, 0.0, 0.1), threshold_after(0.5)),
        "min_threshold": Witness((0.1, 0.99), threshold_after(0.01, 0.01)),
        "max_threshold": Witness((10.0, 1.01), threshold_after(0.5, 0.5)),
        "target_density": Witness((0.125, 0.25), threshold_after(0.5)),
        "density": Witness((0.2, 0.6), causes, draws),
        "density_source": Witness(few_and_many, endpoints_of_the_first_step, draws),
        "probability_cutoff": Witness((0.9, 0.5), causes, {"rule": "low_prob"}),
        "close": Witness(KEYS["close"].choices, causes),
        "rule_advantage": Witness(KEYS["rule_advantage"].choices, causes),
        "entropy_over": Witness(KEYS["entropy_over"].choices, causes, {"rule": "entropy", "density": 0.3}),
        "side": Witness(KEYS["side"].choices, causes, {"rule": "abs_advantage", "density": 0.3}),
        "prefix_min": Witness((1, 20), causes, {"rule": "prefix_cut"}),
        "gap_low": Witness((0.5, 0.9), causes, {"rule": "gap"}),
        "gap_high": Witness((5.0, 1.1), causes, {"rule": "gap"}),
    }


def without_witness(params: type, known: dict[str, Witness]) -> set[str]:
    """Keys that nobody shows to change anything."""
    return {key.name for key in fields(params)} - set(known)


def test_every_key_has_a_witness(tmp_path: Path) -> None:
    assert without_witness(GroupParams, witnesses(tmp_path)) == set()


def test_a_new_key_would_be_found_to_have_none(tmp_path: Path) -> None:
    grown = make_dataclass("Grown", [("group_colour", str, "red")], bases=(GroupParams,), frozen=True)
    assert without_witness(grown, witnesses(tmp_path)) == {"group_colour"}


@pytest.mark.parametrize("key", [field.name for field in fields(GroupParams)])
def test_values_of_the_key_differ_in_an_output_and_each_repeats_it(
    key: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)  # a fallback is logged, which is not what is tested here
    witness = witnesses(tmp_path)[key]
    assert len(witness.values) >= 2
    for one, other in combinations(witness.values, 2):
        assert witness.see(key, one) != witness.see(key, other)
    for value in witness.values:
        assert witness.see(key, value) == witness.see(key, value)
