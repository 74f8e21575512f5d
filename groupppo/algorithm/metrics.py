"""Statistics of a grouping, under the origin's names where it has them.

`compression_ratio`, `efficiency_gain` and `algorithm_effectiveness` are identities of one measurement, tokens over
endpoints: none of them says that anything was saved.
"""

import torch
from torch import Tensor

from groupppo.algorithm.grouping import Cause, Groups, Score, Tokens
from groupppo.algorithm.params import GroupParams


def group_metrics(groups: Groups, tokens: Tokens, params: GroupParams, threshold: float) -> dict[str, float]:
    """Metrics of one batch; `closed_by/*` are shares of groups, sizes are in tokens.

    A metric that does not exist for a rule (a threshold, a variance ratio) is left out.

    Args:
        groups: the batch's groups.
        tokens: with at least one valid token, and what the rule needs.
        params: rule and score.
        threshold: tau used.
    """
    count, endpoints = int(tokens.mask.sum()), int(groups.endpoints.sum())
    if not endpoints:  # a rule that draws may choose nothing at all
        return dense_metrics(count) | {"group/total_endpoints": 0, "group/density": 0.0, "group/empty_responses": 1.0}
    compression = 1.0 - endpoints / count
    sizes = group_sizes(groups).double()
    closed = groups.cause[groups.endpoints]
    rule = params.definition
    metrics = {
        **dense_metrics(count),
        "group/total_endpoints": endpoints,
        "group/density": endpoints / count,
        "group/compression_ratio": compression,
        "group/efficiency_gain": count / endpoints,
        "group/algorithm_effectiveness": max(0.0, compression - 0.1) / 0.9,
        "group/closed_by/criterion": float((closed == Cause.CRITERION).double().mean()),
        "group/closed_by/cap": float((closed == Cause.CAP).double().mean()),
        "group/closed_by/end": float((closed == Cause.END).double().mean()),
        "group/size/mean": float(sizes.mean()),
        "group/size/p10": _quantile(sizes, 0.1),
        "group/size/p50": _quantile(sizes, 0.5),
        "group/size/p90": _quantile(sizes, 0.9),
        "group/endpoints_per_response/mean": endpoints / int(tokens.mask.any(dim=1).sum()),
    }
    if not params.ends:
        some = groups.endpoints.any(dim=1)[tokens.mask.any(dim=1)]
        metrics["group/empty_responses"] = 1.0 - float(some.double().mean())
    if groups.weights is not None:
        weights = groups.weights[groups.endpoints]
        metrics["group/weights/effective_tokens"] = effective_tokens(weights)
        metrics["group/weights/gini"] = gini(weights)
    if "group_variance_threshold" in rule.uses:
        metrics["group/threshold"] = threshold
    if rule.evidence is not None:
        ratios = variance_ratios(groups, *rule.evidence(tokens, params))
        metrics["group/r_ratio/p50"] = _quantile(ratios, 0.5)
    return metrics


def dense_metrics(tokens: int) -> dict[str, float]:
    """The same counts for a step that trains on every token.

    `update_density` is the share of valid response tokens that the policy update computes, masked or not.
    """
    return {
        "group/total_tokens": tokens,
        "group/total_endpoints": tokens,
        "group/density": 1.0,
        "group/update_density": 1.0,
        "group/fallbacks": 0,
    }


def critic_metrics(values: Tensor, returns: Tensor, mask: Tensor) -> dict[str, float]:
    """verl's metrics of the critic, over all valid tokens whatever the arm.

    verl takes its own over the batch's mask: in a grouped arm over endpoints, which a rule that reads values or
    advantages did not choose blindly. Formulas of verl's `compute_data_metrics`, operation by operation.

    Args:
        values: (B, T) float.
        returns: (B, T) float, dense GAE's: A_t + V_t before whitening.
        mask: (B, T) bool, at least two valid tokens, below which a variance is not finite.
    """
    values, returns = values[mask], returns[mask]
    unexplained = torch.var(returns - values) / (torch.var(returns) + 1e-5)
    metrics = {"critic/vf_explained_var/all_tokens": float(1.0 - unexplained)}
    for name, of_tokens in (("values", values), ("returns", returns)):
        for statistic in (torch.mean, torch.max, torch.min):
            metrics[f"critic/{name}/{statistic.__name__}/all_tokens"] = float(statistic(of_tokens))
    return metrics


def log_prob_gap(rollout_log_probs: Tensor, log_probs: Tensor, mask: Tensor) -> dict[str, float]:
    """How far the rollout server's log-probabilities are from the trainer's, in nats: what drives rule `published`.

    Args:
        rollout_log_probs: (B, T) float.
        log_probs: (B, T) float.
        mask: (B, T) bool, at least one valid token.
    """
    gap = (rollout_log_probs.double() - log_probs.double())[mask].abs()
    return {"rollout/logp_gap/mean": float(gap.mean()), "rollout/logp_gap/p99": _quantile(gap, 0.99)}


def variance_ratios(groups: Groups, advantages: Tensor, score: Score) -> Tensor:
    """r_grpo / r_ppo of every group at its endpoint, whatever rule closed it; 1 where both are zero.

    Args:
        groups: the batch's groups.
        advantages: (B, T) float.
        score: of the same tokens.

    Returns:
        (number of groups,) float64.
    """
    advantages, at_endpoint = advantages.double(), groups.endpoints
    # The operations of `kernels.variance_split` in its order: a group of one token has a ratio of exactly 1.
    if score.orthogonal:
        squared = advantages * advantages
        r_ppo = groups.sums(squared * score.values)[at_endpoint]
        r_grpo = squared[at_endpoint] * groups.sums(score.values)[at_endpoint]
    else:
        r_ppo = groups.sums(advantages * score.values)[at_endpoint] ** 2
        r_grpo = (advantages[at_endpoint] * groups.sums(score.values)[at_endpoint]) ** 2
    return torch.where(r_grpo == r_ppo, 1.0, r_grpo / r_ppo)


def effective_tokens(weights: Tensor) -> float:
    """Kish's effective number of tokens, (sum w)^2 / sum w^2, of (K,) weights; 0 of none."""
    squares = float((weights.double() ** 2).sum())
    return float(weights.double().sum()) ** 2 / squares if squares else 0.0


def gini(weights: Tensor) -> float:
    """Gini coefficient of (K,) non-negative weights: 0 where all are equal, towards 1 where one has everything."""
    count, total = len(weights), float(weights.double().sum())
    if not total:
        return 0.0
    ranked = weights.double().sort().values
    rank = torch.arange(1, count + 1, dtype=torch.float64)
    return float((2 * rank - count - 1) @ ranked) / (count * total)


def group_sizes(groups: Groups) -> Tensor:
    """Tokens of every group of the batch, (number of groups,) int64."""
    index = groups.index
    most = int(index.max()) + 1
    counts = torch.zeros(index.shape[0], most, dtype=torch.long, device=index.device)
    counts.scatter_add_(1, index.clamp(min=0), (index >= 0).long())
    return counts[counts > 0]


def _quantile(values: Tensor, share: float) -> float:
    """The smallest value that at least `share` of them do not exceed; torch.quantile takes 16 M values at most."""
    rank = max(1, int(-(-share * len(values) // 1)))
    return float(values.kthvalue(rank).values)
