"""`variance_split`: our reading of the origin's config, "Variance threshold for group splitting decision"."""

from torch import Tensor

from groupppo.algorithm import kernels
from groupppo.algorithm.grouping import SCORES, Score, Tokens
from groupppo.algorithm.params import GroupParams, StepValues, rule

ADAPTIVE = ("adaptive_threshold", "threshold_lr", "min_threshold", "max_threshold", "target_density")


def ratio_evidence(tokens: Tokens, params: GroupParams) -> tuple[Tensor, Score]:
    """The advantages and scores whose variance ratio the rule compares with the threshold."""
    residual = params.rule_advantage == "residual"
    advantages = tokens.get("rewards") - tokens.get("values") if residual else tokens.get("advantages")
    return advantages, SCORES[params.score](tokens)


@rule(
    uses=("score", "rule_advantage", "close", "group_variance_threshold", "group_max_size", "group_epsilon", *ADAPTIVE),
    needs=("advantages",),
    evidence=ratio_evidence,
)
def variance_split(tokens: Tokens, params: GroupParams, step: StepValues) -> Tensor:
    """Split where the variance ratio passes the threshold, and at the cap.

    For a group of n tokens that started at s, with score vectors g: r_ppo(t) = |sum_{k=s..t} A_k g_k|^2 and
    r_grpo(t) = |sum_{k=s..t} g_k|^2 A_t^2; with orthogonal scores of squared norm w that is sum A_k^2 w_k and
    A_t^2 sum w_k. When n >= 2 and r_grpo > tau * (r_ppo + eps), the group closes before t, so that every closed group
    of two or more tokens satisfies r_grpo <= tau * (r_ppo + eps) at its endpoint; or, with `close: at`, at t, an
    endpoint because the ratio passed there. Else it closes at t when n reaches `group_max_size`, else at the last valid
    token. A group that reaches the cap at the last token counts as closed by the cap. Comparisons run in float64, so
    that ties are ties.

    With lambda 1, A_t = R - V_t: the ratio passes at the token AFTER which the critic moved away from the outcome, and
    `close: before` ends the group at the one before it.
    """
    advantages, score = ratio_evidence(tokens, params)
    return kernels.variance_split(
        advantages.double(),
        score.values,
        tokens.mask,
        orthogonal=score.orthogonal,
        tau=step.threshold,
        epsilon=params.group_epsilon,
        cap=params.group_max_size,
        at=params.close == "at",
    )
