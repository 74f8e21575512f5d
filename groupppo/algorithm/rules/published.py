"""`published`: what the public code of GROUP-PPO computes, whatever its text says."""

from torch import Tensor

from groupppo.algorithm import kernels
from groupppo.algorithm.grouping import Score, Tokens, log_ratio
from groupppo.algorithm.params import GroupParams, StepValues, rule


def published_evidence(tokens: Tokens, params: GroupParams) -> tuple[Tensor, Score]:
    """A_t = r_t - V_t, and the signed scalar log-ratio in the place of the score vector."""
    return tokens.get("rewards") - tokens.get("values"), log_ratio(tokens)


@rule(needs=("rewards", "values", "log_probs", "rollout_log_probs"), evidence=published_evidence)
def published(tokens: Tokens, params: GroupParams, step: StepValues) -> Tensor:
    """Close at t when r_ppo > 1e-8 and t >= r_grpo / r_ppo, t counted from the start of the response; no cap.

    A_t = r_t - V_t, g_t = rollout log-prob - trainer log-prob, both sums divided by the number N of valid tokens: the
    division cancels in the ratio but not in the comparison with 1e-8. Everything in float32 in the order of the public
    code, because at a group's first token the ratio is 1 up to rounding. Its accumulators are arrays over absolute
    positions, so they restart after a hole in the mask. With g = 0, which is what a rollout and a trainer of equal
    numerics give, the last token is the only endpoint.
    """
    gap = tokens.get("rollout_log_probs").float() - tokens.get("log_probs").float()
    advantages = tokens.get("rewards").float() - tokens.get("values").float()
    return kernels.published(advantages, gap, tokens.mask)
