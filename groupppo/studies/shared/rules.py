"""What grouping rules do on real tokens: how dense they are, and how well proxies agree with the exact score vectors.

g_t is the gradient of ln pi(y_t | s_t) with respect to ALL parameters: what every proxy of `groupppo.algorithm.scores`
stands for, at a price that only a study can pay (one backward pass for each token).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from groupppo.algorithm import Cause, GroupParams, Tokens, group_tokens, kernels, known_rules, last_valid
from groupppo.algorithm.grouping import SCORES, Score
from groupppo.algorithm.metrics import group_metrics
from groupppo.stats.intervals import jackknife
from groupppo.studies.shared.rollouts import Rollouts, Sampled, load_policy, pool, response_log_probs, select
from groupppo.studies.shared.updates import columns

TAU = "group_variance_threshold"
TAUS = tuple(10 ** (k / 6) for k in range(-6, 7))
# Keeps draws apart from each other and from the seeds of other responses.
_NEXT_DRAW = 1 << 32


def density_table(rollouts: Mapping[str, Tokens], taus: Sequence[float] = TAUS) -> pd.DataFrame:
    """Every rule with every score, and with every tau where it has one; columns of table `density`.

    Rules that take a density are given that of `variance_split` with its defaults on the same tokens.

    Args:
        rollouts: tokens by the precision that they were sampled in.
        taus: thresholds; the default is always among the rows.
    """
    standard, rows = GroupParams.group_variance_threshold, []
    for rollout, tokens in rollouts.items():
        density = _density_row(tokens, GroupParams())["density"]
        for name, rule in known_rules().items():
            fixed: dict[str, Any] = {"rule": name} | ({"density": density} if "density" in rule.uses else {})
            for score in SCORES if "score" in rule.uses else ("",):
                for tau in sorted({standard, *taus}) if TAU in rule.uses else (None,):
                    chosen = {"score": score or GroupParams.score, TAU: standard if tau is None else tau}
                    named = {"rollout": rollout, "rule": name, "score": score, "threshold": tau}
                    default = {"default": tau in (None, standard)}
                    rows.append(named | default | _density_row(tokens, GroupParams.from_config(fixed | chosen)))
    return pd.DataFrame(rows)


def _density_row(tokens: Tokens, params: GroupParams) -> dict[str, Any]:
    metrics = group_metrics(group_tokens(tokens, params), tokens, params, params.group_variance_threshold)
    return {
        "density": metrics["group/density"],
        **{cause: metrics[f"group/closed_by/{cause}"] for cause in ("criterion", "cap", "end")},
        "size_p50": metrics["group/size/p50"],
        "r_ratio_p50": metrics.get("group/r_ratio/p50", float("nan")),
        "tokens": metrics["group/total_tokens"],
    }


# ---- exact score vectors


def token_gram(model: Any, response: Rollouts, temperature: float) -> Tensor:
    """G_mn = <g_m, g_n> over the n tokens of one response, (n, n) float64; tied parameters count once.

    The model's attention must be the eager one, whose backward pass torch can batch; a float64 one gives G to 1e-12.
    """
    chosen = response_log_probs(model, response, temperature)[response.mask]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    each = torch.eye(len(chosen), dtype=chosen.dtype)
    gradients = torch.autograd.grad(chosen, parameters, each, is_grads_batched=True)
    gram = torch.zeros(len(chosen), len(chosen), dtype=torch.float64)
    for gradient in gradients:
        flat = gradient.flatten(1).double()
        gram += flat @ flat.T
    return gram


def off_diagonal_cosines(gram: Tensor) -> Tensor:
    """Cosines between the score vectors of different tokens, each pair once; those of length zero are left out."""
    lengths = torch.outer(gram.diagonal().sqrt(), gram.diagonal().sqrt())
    return (gram / lengths)[(lengths > 0).triu(1)]


def exact_split(gram: Tensor, advantages: Tensor, *, tau: float, epsilon: float, cap: int) -> Tensor:
    """`variance_split` with the vectors themselves in place of a proxy.

    For the group of tokens s..t with advantages A: r_ppo(t) = A' G A, the squared norm of sum_k A_k g_k, and
    r_grpo(t) = A_t^2 1' G 1. As in the rule, a group closes before t when r_grpo > tau * (r_ppo + epsilon), else at t
    when it has `cap` tokens, else at the response's end.

    Args:
        gram: (n, n) float64, positive semidefinite.
        advantages: (n,) float.
        tau: the threshold.
        epsilon: added to r_ppo.
        cap: largest group size.

    Returns:
        (n,) int8 `Cause` of closing at each token.
    """
    inner, advantage = gram.double().numpy(), advantages.double().numpy()
    cause = np.zeros(len(advantage), dtype=np.int8)
    start, r_ppo, norm = 0, 0.0, 0.0
    for t, a in enumerate(advantage):
        with_t = inner[start:t, t]
        grown_ppo = r_ppo + 2.0 * a * (advantage[start:t] @ with_t) + (a * a) * inner[t, t]
        grown_norm = norm + 2.0 * with_t.sum() + inner[t, t]
        if t > start and (a * a) * grown_norm > tau * (grown_ppo + epsilon):
            cause[t - 1] = Cause.CRITERION
            start, grown_ppo, grown_norm = t, (a * a) * inner[t, t], inner[t, t]
        r_ppo, norm = grown_ppo, grown_norm
        if t + 1 - start == cap:
            cause[t] = Cause.CAP
            start, r_ppo, norm = t + 1, 0.0, 0.0
    if len(cause) and cause[-1] == Cause.NONE:
        cause[-1] = Cause.END
    return torch.from_numpy(cause)


@dataclass(frozen=True)
class ExactScores:
    """B responses with the Gram matrices of their score vectors.

    Attributes:
        tokens: (B, T), with what the proxies read; its rollout log-probabilities are a float32 sampler's.
        coarse: the same with the rollout log-probabilities of a bfloat16 sampler.
        grams: one (n, n) matrix for each response, n its number of valid tokens.
    """

    tokens: Tokens
    coarse: Tokens
    grams: list[Tensor]

    def proxies(self) -> dict[str, Score]:
        """Every score of the package, `log_ratio` in both precisions, and exact norms without the inner products."""
        norms = torch.zeros_like(self.tokens.mask, dtype=torch.float64)
        norms[self.tokens.mask] = torch.cat([gram.diagonal() for gram in self.grams])
        proxies = {"true_norm": Score(norms, orthogonal=True)}
        proxies |= {name: score(self.tokens) for name, score in SCORES.items() if name != "log_ratio"}
        for name, tokens in {"float32": self.tokens, "bfloat16": self.coarse}.items():
            proxies[f"log_ratio_{name}"] = SCORES["log_ratio"](tokens)
        return proxies

    def endpoints(self, *, tau: float, epsilon: float, cap: int) -> Tensor:
        """(B, T) bool: the endpoints of `variance_split` on the exact score vectors."""
        mask, endpoints = self.tokens.mask, torch.zeros_like(self.tokens.mask)
        for row, gram in enumerate(self.grams):
            advantages = self.tokens.get("advantages")[row][mask[row]]
            endpoints[row, mask[row]] = exact_split(gram, advantages, tau=tau, epsilon=epsilon, cap=cap) > 0
        return endpoints


def exact_scores(policy: Path, sampled: Sampled, every: int, count: int, temperature: float) -> ExactScores:
    """Float64 score vectors of one response to each of the first prompts: responses to one prompt are much alike.

    There are `every` responses to a prompt, and `count` are taken in all.
    """
    exact, coarse = load_policy(policy, torch.float64, attention="eager"), load_policy(policy, torch.bfloat16)
    fine_parts, coarse_parts, grams = [], [], list[Tensor]()
    for rollouts, tokens in zip(sampled.rollouts, sampled.tokens, strict=True):
        rows = torch.arange(0, len(rollouts.mask), every)[: count - len(grams)]
        with torch.no_grad():
            rounded = response_log_probs(coarse, rollouts, temperature).float()
        fine_parts.append(select(tokens, rows))
        coarse_parts.append(select(replace(tokens, rollout_log_probs=rounded), rows))
        grams += [token_gram(exact, rollouts.rows(row[None]), temperature) for row in rows]
        if len(grams) == count:
            break
    return ExactScores(pool(fine_parts), pool(coarse_parts), grams)


def agreement_table(
    scores: ExactScores, *, caps: Sequence[int | None], epsilons: Sequence[float], draws: int, tau: float = 1.0
) -> pd.DataFrame:
    """Precision, recall and F1 of every proxy's endpoints, columns of table `agreement`.

    Controls are `stride` and `random` at the exact rule's density, the latter as the mean over `draws`: what a rule
    that knows nothing but the density reaches.
    """
    tokens, rows = scores.tokens, []
    advantages, seeds = tokens.get("advantages").double(), tokens.get("seeds")
    drawn = [replace(tokens, seeds=seeds + draw * _NEXT_DRAW) for draw in range(draws)]
    for cap, epsilon in product(caps, epsilons):
        settings: dict[str, Any] = {"tau": tau, "epsilon": epsilon, "cap": cap or tokens.mask.shape[1]}
        exact = scores.endpoints(**settings)
        density = int(exact.sum()) / int(tokens.mask.sum())
        found = {
            name: [
                kernels.variance_split(advantages, one.values, tokens.mask, orthogonal=one.orthogonal, **settings) > 0
            ]
            for name, one in scores.proxies().items()
        }
        random = GroupParams(rule="random", density=density)
        found["random"] = [group_tokens(draw, random).endpoints for draw in drawn]
        stride = GroupParams(rule="stride", group_max_size=max(1, round(1 / density)))
        found["stride"] = [group_tokens(tokens, stride).endpoints]
        for name, endpoints in found.items():
            row: dict[str, Any] = {"proxy": name, "cap": cap, "epsilon": epsilon, "exact_density": density}
            rows.append(row | _agreement(exact, torch.stack(endpoints), tokens.mask))
    return pd.DataFrame(rows).astype({"cap": "Int64"})


def cosine_table(grams: Sequence[Tensor]) -> pd.DataFrame:
    """How far from orthogonal the exact score vectors of a response are, columns of table `cosines`."""
    pairs, rows = [off_diagonal_cosines(gram).numpy() for gram in grams], []
    for name, own in {"mean": pairs, "mean_abs": [np.abs(one) for one in pairs]}.items():
        rows.append({"statistic": name, **jackknife(partial(_pooled_mean, own), len(grams))._asdict()})
    return pd.DataFrame(rows).assign(responses=len(grams))


def _pooled_mean(parts: Sequence[np.ndarray], kept: np.ndarray) -> float:
    return float(np.concatenate([parts[number] for number in kept]).mean())


def _agreement(exact: Tensor, proxy: Tensor, mask: Tensor) -> dict[str, float]:
    """Of (D, B, T) endpoints in D draws with the exact (B, T) ones; every ratio is taken in a draw, then averaged."""

    def counts(counted: Tensor) -> list[np.ndarray]:
        both, chosen, wanted = proxy & exact & counted, proxy & counted, exact & counted
        return [marked.sum(-1).numpy() for marked in (both, chosen, wanted)]

    def f1(counted: list[np.ndarray], kept: np.ndarray) -> float:
        both, chosen, wanted = (each[..., kept].sum(-1) for each in counted)
        total = chosen + wanted
        return float((2 * both / total).mean()) if total.all() else float("nan")

    everything = counts(mask)
    both, chosen, wanted = (each.sum(-1) for each in everything)
    estimate = jackknife(lambda kept: f1(everything, kept), len(mask)).within(0.0, 1.0)
    return {
        "precision": float((both / chosen).mean()),
        "recall": float((both / wanted).mean()),
        **columns("f1", estimate),
        "f1_inner": f1(counts(mask & ~last_valid(mask)), np.arange(len(mask))),
        "density": float(chosen.mean() / int(mask.sum())),
        "draws": len(proxy),
        "responses": len(mask),
        "tokens": int(mask.sum()),
    }
