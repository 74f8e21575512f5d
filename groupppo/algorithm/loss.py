"""Where GROUP-PPO's losses count, what divides them, and the losses themselves.

Training runs verl's own losses with these masks; the functions here are the same formulas for use without verl.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from groupppo.algorithm.estimators import Estimates, gae, published, segment_gae, share_in_group, token_gae, whiten
from groupppo.algorithm.grouping import Groups, Tokens
from groupppo.algorithm.params import GroupParams


@dataclass(frozen=True)
class LossMask:
    """One loss of a batch: the mean of its terms over `counts`, divided by the size of `divides` instead.

    Attributes:
        counts: (B, T) bool, the tokens whose terms are summed; entropy bonus and KL loss follow the policy's.
        divides: (B, T) bool, the tokens whose number divides the sum, over the whole mini-batch and all ranks.
        weights: (B, T) float64, how often each term counts; None where each counts once.
    """

    counts: Tensor
    divides: Tensor
    weights: Tensor | None = None

    def equals(self, other: "LossMask") -> bool:
        """Whether both count the same tokens alike; weights are the groups', the same for all losses of a batch."""
        return torch.equal(self.counts, other.counts) and torch.equal(self.divides, other.divides)


@dataclass(frozen=True)
class GroupBatch:
    """What the losses of a grouped batch need.

    Attributes:
        advantages: (B, T), whitened over the tokens that carry one (not so `published`, which does not whiten, and
            `stock`, which are taken as they are).
        returns: (B, T), targets of the value loss at endpoints; with `stock`, and without a critic, zeros.
        policy: mask of the policy loss.
        value: mask of the value loss.
    """

    advantages: Tensor
    returns: Tensor
    policy: LossMask
    value: LossMask


@torch.no_grad()
def group_batch(tokens: Tokens, groups: Groups, params: GroupParams, gamma: float, lam: float) -> GroupBatch:
    """Advantages, returns and loss masks of a grouped batch, as `advantage`, `spread` and `loss_normalizer` say.

    Args:
        tokens: needs rewards and values; dense `advantages` are used where given, and needed, with nothing else, for
            `stock`.
        groups: of the same tokens.
        params: the three keys above.
        gamma: discount, in [0, 1].
        lam: lambda, in [0, 1].

    Raises:
        ValueError: fewer than two tokens would carry an advantage, so that it cannot be whitened.
    """
    policy, value = loss_masks(tokens.mask, groups, params)
    if params.advantage == "stock":
        advantages = tokens.get("advantages")
        returns = torch.zeros_like(advantages) if tokens.returns is None else tokens.returns
        return GroupBatch(advantages, returns, policy, value)
    advantages, returns = _estimates(tokens, groups, params, gamma, lam)
    if params.spread == "group":
        advantages = share_in_group(advantages, groups)
    if params.advantage != "published":
        advantages = whiten(advantages, policy.counts.long())
    return GroupBatch(advantages, returns, policy, value)


def loss_masks(mask: Tensor, groups: Groups, params: GroupParams) -> tuple[LossMask, LossMask]:
    """Masks of policy and value loss for a (B, T) bool mask of valid tokens and its groups."""
    policy = mask if params.spread == "group" else groups.endpoints
    if params.loss_normalizer == "tokens":
        return LossMask(policy, mask, groups.weights), LossMask(groups.endpoints, mask, groups.weights)
    return LossMask(policy, policy), LossMask(groups.endpoints, groups.endpoints)


def _estimates(tokens: Tokens, groups: Groups, params: GroupParams, gamma: float, lam: float) -> Estimates:
    rewards, values = tokens.get("rewards"), tokens.get("values")
    if params.advantage == "segment_gae":
        return segment_gae(rewards, values, tokens.mask, groups.endpoints, gamma, lam)
    if params.advantage == "published":
        return published(rewards, values, groups)
    dense = gae(rewards, values, tokens.mask, gamma, lam) if tokens.advantages is None else tokens.advantages
    return token_gae(dense, values, groups.endpoints)


def policy_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    mask: LossMask,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float = 3.0,
) -> Tensor:
    """Clipped policy loss (Schulman et al., 2017) with a floor for negative advantages (Ye et al., 2020), a scalar.

    The formula of verl's `compute_policy_loss_vanilla` with token-mean aggregation.

    Args:
        log_probs: (B, T) float.
        old_log_probs: (B, T) float.
        advantages: (B, T) float.
        mask: where the loss counts.
        clip_low: the ratio is clipped at 1 - clip_low,
        clip_high: and at 1 + clip_high.
        dual_clip: the loss of a negative advantage is at most this many times its size.
    """
    ratio = (log_probs - old_log_probs).clamp(-20.0, 20.0).exp()
    clipped = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip_low, 1 + clip_high))
    floored = torch.minimum(-advantages * dual_clip, clipped)
    return masked_mean(torch.where(advantages < 0, floored, clipped), mask)


def masked_mean(terms: Tensor, mask: LossMask) -> Tensor:
    """Sum of (B, T) terms over `mask.counts`, each as often as its weight, over the size of `mask.divides`."""
    counted = torch.where(mask.counts, terms, 0.0)
    if mask.weights is not None:
        counted = counted * mask.weights.to(terms.dtype)
    return counted.sum() / mask.divides.sum()
