"""The arms of a benchmark as studies follow them: how each would train on a batch of responses."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from groupppo.algorithm import GroupParams, Groups, Tokens, group_tokens
from groupppo.algorithm.estimators import gae, whiten
from groupppo.algorithm.loss import LossMask, group_batch, policy_loss
from groupppo.config import Arm
from groupppo.errors import BadInput
from groupppo.studies.shared.study import NO_RULE

ESTIMATOR = "algorithm.adv_estimator"
PREFIX = "algorithm.group_params."
# What an arm with groups may set besides: without a critic it would not train at all.
_FOLLOWED = (ESTIMATOR, "critic.enable")


@dataclass(frozen=True)
class GroupArm:
    """An arm with a grouping rule.

    Attributes:
        name: of the arm.
        title: its label.
        settings: its keys under `algorithm.group_params`, without that prefix.
        density_from: the arm whose density on the same batch it takes, where it takes one.
    """

    name: str
    title: str
    settings: Mapping[str, Any]
    density_from: str | None

    def params(self, density: float | None) -> GroupParams:
        """Its parameters at a density, which is ignored unless the arm takes it from another."""
        return GroupParams.from_config(
            self.settings if self.density_from is None else {**self.settings, "density": density}
        )


@dataclass(frozen=True)
class Update:
    """What an arm's policy update on a batch is made of.

    Attributes:
        weights: (B, T), derivative of the policy loss in each token's log-probability, at ratio 1.
        density: endpoints over valid tokens.
    """

    weights: Tensor
    density: float


def group_arms(arms: Iterable[Arm]) -> tuple[list[GroupArm], dict[str, str]]:
    """The arms whose update depends on groups alone, and for each of the others why it is left out.

    Raises:
        BadInput: a key under `algorithm.group_params` is wrong, or an arm takes its density from one that is not here.
    """
    followed, left_out = [], {}
    for arm in arms:
        foreign = [key for key in arm.verl if key not in _FOLLOWED and not key.startswith(PREFIX)]
        settings = {key.removeprefix(PREFIX): value for key, value in arm.verl.items() if key.startswith(PREFIX)}
        if not arm.grouped:
            left_out[arm.name] = NO_RULE
        elif foreign:
            left_out[arm.name] = f"sets {foreign[0]}, which the study does not follow"
        elif settings.get("density_source"):
            left_out[arm.name] = "takes its densities from a file of another run"
        elif settings.get("update") == "streamed":
            left_out[arm.name] = "updates with approximate gradients"
        else:
            followed.append(GroupArm(arm.name, arm.title, settings, arm.density_from))
            _check(arm, followed[-1])
    names = {arm.name for arm in followed}
    for control in followed:
        if control.density_from is not None and control.density_from not in names:
            hint = f"name an arm that the study follows: {', '.join(sorted(names))}."
            raise BadInput(f"arms/{control.name}.yaml", "density_from", control.density_from, hint)
    return followed, left_out


def dense_update(tokens: Tokens, gamma: float, lam: float) -> Update:
    """Dense PPO's: GAE on every token, whitened, policy loss on every token."""
    advantages = gae(tokens.get("rewards"), tokens.get("values"), tokens.mask, gamma, lam)
    mask = LossMask(tokens.mask, tokens.mask)
    return Update(_weights(tokens.get("log_probs"), whiten(advantages, tokens.mask.long()), mask), 1.0)


def group_updates(arms: Iterable[GroupArm], tokens: Tokens, gamma: float, lam: float) -> dict[str, Update]:
    """Each arm's update of one batch: its rule, advantage, spread and normaliser, at the threshold it starts with."""
    updates: dict[str, Update] = {}
    ordered = sorted(arms, key=lambda arm: arm.density_from is not None)
    for arm in ordered:
        density = None if arm.density_from is None else updates[arm.density_from].density
        updates[arm.name] = _update(tokens, arm.params(density), gamma, lam)
    return updates


def _update(tokens: Tokens, params: GroupParams, gamma: float, lam: float) -> Update:
    groups: Groups = group_tokens(tokens, params)
    losses = group_batch(tokens, groups, params, gamma, lam)
    density = int(groups.endpoints.sum()) / int(tokens.mask.sum())
    return Update(_weights(tokens.get("log_probs"), losses.advantages, losses.policy), density)


def _weights(log_probs: Tensor, advantages: Tensor, mask: LossMask) -> Tensor:
    variable = log_probs.clone().requires_grad_()
    loss = policy_loss(variable, log_probs, advantages, mask)
    return torch.autograd.grad(loss, variable)[0]


def _check(arm: Arm, followed: GroupArm) -> None:
    try:
        followed.params(density=0.5)
    except BadInput as error:
        raise BadInput(arm.source, f"verl.{PREFIX}{error.key}", error.value, error.hint) from error
