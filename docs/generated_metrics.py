"""The metrics of a training step that are this project's: names from the functions that log them, by running them."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from groupppo.algorithm import GroupParams, Tokens, group_tokens, known_rules
from groupppo.algorithm.metrics import critic_metrics, dense_metrics, group_metrics, log_prob_gap

TOLD = {
    "group/total_tokens": "Valid response tokens of the step, N.",
    "group/total_endpoints": "Group endpoints, K; N for a dense arm.",
    "group/density": "K / N.",
    "group/compression_ratio": "1 - K / N, under the origin's name.",
    "group/efficiency_gain": "N / K, under the origin's name: the origin's 16.0x. No cost is measured.",
    "group/algorithm_effectiveness": "max(0, compression_ratio - 0.1) / 0.9, under the origin's name.",
    "group/update_density": "Share of the valid response tokens that the policy update computes, masked or not.",
    "group/fallbacks": "1 where the step fell back to dense PPO, else 0.",
    "group/closed_by/criterion": "Share of groups closed by the rule's criterion.",
    "group/closed_by/cap": "Share of groups closed by the largest group size.",
    "group/closed_by/end": "Share of groups closed by the end of the response.",
    "group/size/mean": "Mean group size, in tokens.",
    "group/size/p10": "10th percentile of group sizes, in tokens.",
    "group/size/p50": "Median group size, in tokens.",
    "group/size/p90": "90th percentile of group sizes, in tokens.",
    "group/endpoints_per_response/mean": "K / responses.",
    "group/threshold": "tau, the threshold that the step used.",
    "group/r_ratio/p50": "Median over groups of r_grpo / r_ppo at the endpoint.",
    "group/empty_responses": "Share of responses without a chosen token.",
    "group/weights/effective_tokens": "(sum w)^2 / sum w^2 over chosen tokens, Kish's effective sample.",
    "group/weights/gini": "Gini coefficient of the chosen tokens' weights, 0 where all are equal.",
    "critic/vf_explained_var/all_tokens": "1 - Var(R - V) / Var(R) over all valid tokens, R = A + V of dense GAE.",
    "critic/values/mean/all_tokens": "Mean of the values V over all valid tokens.",
    "critic/values/max/all_tokens": "Their largest.",
    "critic/values/min/all_tokens": "Their smallest.",
    "critic/returns/mean/all_tokens": "Mean of the returns R over all valid tokens.",
    "critic/returns/max/all_tokens": "Their largest.",
    "critic/returns/min/all_tokens": "Their smallest.",
    "rollout/logp_gap/mean": "Mean |rollout - trainer log-probability| over valid tokens, in nats.",
    "rollout/logp_gap/p99": "Its 99th percentile.",
}


def metrics() -> Iterator[tuple[str, str, str]]:
    """Name, meaning, and the arms that log it.

    Raises:
        ValueError: a metric is logged that has no description here, or one is described that nothing logs.
    """
    by_rule = {
        name: _logged(GroupParams(rule=name, density=0.5 if "density" in rule.uses else None))
        for name, rule in known_rules().items()
    }
    chosen = GroupParams(rule="prefix_cut", advantage="stock")
    weighted = replace(chosen, weights="horvitz_thompson", loss_normalizer="tokens")
    of_choice = _logged(chosen) - by_rule["prefix_cut"]
    of_weights = _logged(weighted) - _logged(chosen)
    pair = torch.zeros(1, 2), torch.zeros(1, 2), _mask(1, 2)
    dense, gap, critic = set(dense_metrics(1)), set(log_prob_gap(*pair)), set(critic_metrics(*pair))
    logged = dense | gap | critic | of_choice | of_weights | set().union(*by_rule.values())
    if logged != set(TOLD):
        raise ValueError(f"docs/generated_metrics.py: described and logged differ in {sorted(logged ^ set(TOLD))}")
    for name, text in TOLD.items():
        having = [rule for rule, found in by_rule.items() if name in found]
        everywhere = name in dense or len(having) == len(by_rule)
        rules = ", ".join(f"`{rule}`" for rule in having)
        # Of the rollout's numbers, which no rule makes.
        where = "where the rollout server returns log-probabilities" if name in gap else f"rules {rules}"
        if name in of_choice:
            where = "arms with a rule and an estimator of verl's"
        if name in of_weights:
            where = "arms with weights"
        if name in critic:
            where = "arms with a critic, but not where it values endpoints alone"
        yield f"`{name}`", text, ("every arm" if name in dense else "grouped arms" if everywhere else where)


def _logged(params: GroupParams) -> set[str]:
    values = torch.linspace(-1.0, 1.0, 12).view(2, 6)
    columns = dict.fromkeys(("advantages", "rewards", "values", "log_probs", "rollout_log_probs"), values)
    tokens = Tokens(_mask(2, 6), **columns, entropies=values.abs(), sum_pi_squared=values.abs(), seeds=torch.arange(2))
    threshold = params.group_variance_threshold
    return set(group_metrics(group_tokens(tokens, params), tokens, params, threshold))


def _mask(responses: int, tokens: int) -> torch.Tensor:
    return torch.ones(responses, tokens, dtype=torch.bool)
