"""Density and cause of closing of every rule, and what rule `published` makes of the gap between log-probabilities."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import torch

from groupppo.algorithm import GroupParams, Tokens, group_tokens, known_rules
from groupppo.algorithm.grouping import SCORES
from groupppo.algorithm.metrics import group_metrics, log_prob_gap

TAU = "group_variance_threshold"
TAUS = tuple(10 ** (k / 6) for k in range(-6, 7))


def density_table(rollouts: Mapping[str, Tokens], taus: Sequence[float] = TAUS) -> pd.DataFrame:
    """Every rule with every score, and with every tau where it has one; columns of table `density`.

    Rules that take a density are given that of `variance_split` with its defaults on the same tokens.

    Args:
        rollouts: tokens by the precision that they were sampled in. taus: thresholds, in the range of the parameter;
            the default is always among the rows.
    """
    rows = []
    for rollout, tokens in rollouts.items():
        matched = _row(tokens, GroupParams())["density"]
        for params in _variants(matched, taus):
            uses = params.definition.uses
            tau = params.group_variance_threshold if TAU in uses else None
            named: dict[str, Any] = {
                "rollout": rollout,
                "rule": params.rule,
                "score": params.score if "score" in uses else "",
                "threshold": tau,
                "default": tau in (None, GroupParams.group_variance_threshold),
            }
            rows.append(named | _row(tokens, params))
    return pd.DataFrame(rows)


def published_table(rollouts: Mapping[str, Tokens], factors: Mapping[str, Sequence[float]]) -> pd.DataFrame:
    """Density of rule `published` with the real gaps multiplied by each factor; columns of table `published`.

    Args:
        rollouts: tokens by the precision that they were sampled in. factors: at least 0, for each of them.
    """
    rows = []
    for rollout, tokens in rollouts.items():
        for factor in factors[rollout]:
            scaled = with_gap(tokens, factor)
            row = _row(scaled, GroupParams(rule="published"))
            gap = log_prob_gap(scaled.get("rollout_log_probs"), scaled.get("log_probs"), scaled.mask)
            kept = {key: row[key] for key in ("density", "criterion", "tokens")}
            rows.append({"rollout": rollout, "factor": factor, "mean_gap": gap["rollout/logp_gap/mean"], **kept})
    return pd.DataFrame(rows)


def with_gap(tokens: Tokens, factor: float) -> Tokens:
    """The same tokens with their gap between rollout and trainer log-probabilities multiplied by `factor`.

    The trainer's side is set to zero, because a gap far below a log-probability's own rounding would be lost in a
    difference of two. Only for rules that read nothing but the difference.
    """
    gap = tokens.get("rollout_log_probs") - tokens.get("log_probs")
    return replace(tokens, rollout_log_probs=gap * factor, log_probs=torch.zeros_like(gap))


def _variants(density: float, taus: Sequence[float]) -> Iterator[GroupParams]:
    """Every rule with all values of the score and of tau, where it has them."""
    for name, rule in known_rules().items():
        fixed: dict[str, Any] = {"rule": name} | ({"density": density} if "density" in rule.uses else {})
        thresholds = sorted({GroupParams.group_variance_threshold, *taus})
        for score in SCORES if "score" in rule.uses else (GroupParams.score,):
            for tau in thresholds if TAU in rule.uses else (GroupParams.group_variance_threshold,):
                yield GroupParams.from_config({**fixed, "score": score, TAU: tau})


def _row(tokens: Tokens, params: GroupParams) -> dict[str, float]:
    groups = group_tokens(tokens, params)
    metrics = group_metrics(groups, tokens, params, params.group_variance_threshold)
    return {
        "density": metrics["group/density"],
        "criterion": metrics["group/closed_by/criterion"],
        "cap": metrics["group/closed_by/cap"],
        "end": metrics["group/closed_by/end"],
        "size_p50": metrics["group/size/p50"],
        "r_ratio_p50": metrics.get("group/r_ratio/p50", float("nan")),
        "tokens": metrics["group/total_tokens"],
    }
