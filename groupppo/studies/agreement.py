"""How well the endpoints of a proxy agree with those of the exact rule, and proxies with exact norms."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor

from groupppo.algorithm import GroupParams, Tokens, group_tokens, kernels, last_valid
from groupppo.algorithm.grouping import SCORES, Score
from groupppo.stats.intervals import jackknife
from groupppo.studies.gram import exact_split, off_diagonal_cosines

TRUE_NORM = "true_norm"
# Keeps draws apart from each other and from the seeds of other responses.
_NEXT_DRAW = 1 << 32


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

    @property
    def squared_norms(self) -> Tensor:
        """(B, T) float64, zero outside the mask."""
        norms = torch.zeros_like(self.tokens.mask, dtype=torch.float64)
        norms[self.tokens.mask] = torch.cat([gram.diagonal() for gram in self.grams])
        return norms

    def proxies(self) -> dict[str, Score]:
        """Every score of the package, `log_ratio` in both precisions, and exact norms without the inner products."""
        precisions = {"float32": self.tokens, "bfloat16": self.coarse}
        proxies = {name: score(self.tokens) for name, score in SCORES.items() if name != "log_ratio"}
        proxies |= {f"log_ratio_{name}": SCORES["log_ratio"](of) for name, of in precisions.items()}
        return {TRUE_NORM: Score(self.squared_norms, orthogonal=True), **proxies}


def exact_endpoints(scores: ExactScores, *, tau: float, epsilon: float, cap: int) -> Tensor:
    """(B, T) bool: the endpoints of `variance_split` on the exact score vectors."""
    mask, endpoints = scores.tokens.mask, torch.zeros_like(scores.tokens.mask)
    for row, gram in enumerate(scores.grams):
        advantages = scores.tokens.get("advantages")[row][mask[row]]
        endpoints[row, mask[row]] = exact_split(gram, advantages, tau=tau, epsilon=epsilon, cap=cap) > 0
    return endpoints


def agreement_table(
    scores: ExactScores, *, caps: Sequence[int | None], epsilons: Sequence[float], draws: int, tau: float = 1.0
) -> pd.DataFrame:
    """Precision, recall and F1 of every proxy's endpoints, columns of table `agreement`.

    Controls are `stride` and `random` at the exact rule's density, the latter as the mean over `draws`: what a rule
    that knows nothing but the density reaches.
    """
    tokens, rows = scores.tokens, []
    for cap in caps:
        largest = tokens.mask.shape[1] if cap is None else cap
        for epsilon in epsilons:
            exact = exact_endpoints(scores, tau=tau, epsilon=epsilon, cap=largest)
            density = int(exact.sum()) / int(tokens.mask.sum())
            found = {
                name: [_split(tokens, score, tau, epsilon, largest)] for name, score in scores.proxies().items()
            } | _controls(tokens, density, draws)
            for name, endpoints in found.items():
                row: dict[str, Any] = {"proxy": name, "cap": cap, "epsilon": epsilon, "exact_density": density}
                rows.append(row | _agreement(exact, torch.stack(endpoints), tokens.mask))
    return pd.DataFrame(rows).astype({"cap": "Int64"})


def score_table(scores: ExactScores) -> pd.DataFrame:
    """Rank correlation of each proxy of a squared norm with the exact one, columns of table `scores`.

    `entropy` and `low_prob` are what those rules choose by: the policy's entropy, and minus the log-probability.
    """
    tokens, exact = scores.tokens, scores.squared_norms
    proxies = {
        name: score.values if score.orthogonal else score.values.square()
        for name, score in scores.proxies().items()
        if name not in (TRUE_NORM, "unit")
    } | {"entropy": tokens.get("entropies"), "low_prob": -tokens.get("log_probs")}
    rows = []
    for name, proxy in proxies.items():

        def rank(kept: np.ndarray, proxy: Tensor = proxy) -> float:
            return _spearman(proxy, exact, tokens.mask, kept)

        estimate = jackknife(rank, len(tokens.mask)).within(-1.0, 1.0)
        rows.append({"proxy": name, "spearman": estimate.value, "low": estimate.low, "high": estimate.high})
    return pd.DataFrame(rows).assign(responses=len(tokens.mask), tokens=int(tokens.mask.sum()))


def cosine_table(grams: Sequence[Tensor]) -> pd.DataFrame:
    """How far from orthogonal the exact score vectors of a response are, columns of table `cosines`."""
    pairs = [off_diagonal_cosines(gram).numpy() for gram in grams]
    norms = [gram.diagonal().sqrt() for gram in grams]
    adjacent = [
        (gram.diagonal(1) / (norm[1:] * norm[:-1]))[(norm[1:] > 0) & (norm[:-1] > 0)].numpy()
        for gram, norm in zip(grams, norms, strict=True)
    ]
    squares = [gram.diagonal().numpy() for gram in grams]
    coherence = np.array([float(gram.sum() / gram.trace()) for gram in grams])
    together = np.concatenate(pairs)
    sampled = {
        "mean": lambda kept: float(np.concatenate([pairs[i] for i in kept]).mean()),
        "mean_abs": lambda kept: float(np.abs(np.concatenate([pairs[i] for i in kept])).mean()),
        "mean_adjacent": lambda kept: float(np.concatenate([adjacent[i] for i in kept]).mean()),
        "top_tenth": lambda kept: _top_share(np.concatenate([squares[i] for i in kept]), 0.1),
    }
    rows = [{"statistic": name, **_named(jackknife(statistic, len(grams)))} for name, statistic in sampled.items()]
    plain = {"p05": np.quantile(together, 0.05), "p95": np.quantile(together, 0.95), "coherence": np.median(coherence)}
    rows += [{"statistic": name, "value": value, "low": np.nan, "high": np.nan} for name, value in plain.items()]
    return pd.DataFrame(rows).assign(responses=len(grams))


def _split(tokens: Tokens, score: Score, tau: float, epsilon: float, cap: int) -> Tensor:
    advantages = tokens.get("advantages").double()
    return (
        kernels.variance_split(
            advantages, score.values, tokens.mask, orthogonal=score.orthogonal, tau=tau, epsilon=epsilon, cap=cap
        )
        > 0
    )


def _controls(tokens: Tokens, density: float, draws: int) -> dict[str, list[Tensor]]:
    seeds = tokens.get("seeds")
    random = GroupParams(rule="random", density=density)
    stride = GroupParams(rule="stride", group_max_size=max(1, round(1 / density)))
    drawn = [replace(tokens, seeds=seeds + draw * _NEXT_DRAW) for draw in range(draws)]
    return {
        "random": [group_tokens(draw, random).endpoints for draw in drawn],
        "stride": [group_tokens(tokens, stride).endpoints],
    }


def _agreement(exact: Tensor, proxy: Tensor, mask: Tensor) -> dict[str, float]:
    """Of (D, B, T) endpoints in D draws with the exact (B, T) ones; every ratio is taken in a draw, then averaged."""

    def counts(counted: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        both = (proxy & exact & counted).sum(2)
        return both.numpy(), (proxy & counted).sum(2).numpy(), (exact & counted).sum(1).numpy()

    def f1(counted: tuple[np.ndarray, np.ndarray, np.ndarray], kept: np.ndarray) -> float:
        both, chosen, wanted = counted
        total = chosen[:, kept].sum(1) + wanted[kept].sum()
        return float((2 * both[:, kept].sum(1) / total).mean()) if total.all() else float("nan")

    both, chosen, wanted = counts(mask)
    estimate = jackknife(lambda kept: f1((both, chosen, wanted), kept), len(mask)).within(0.0, 1.0)
    return {
        "precision": float((both.sum(1) / chosen.sum(1)).mean()),
        "recall": float((both.sum(1) / wanted.sum()).mean()),
        "f1": estimate.value,
        "f1_low": estimate.low,
        "f1_high": estimate.high,
        "f1_inner": f1(counts(mask & ~last_valid(mask)), np.arange(len(mask))),
        "density": float(chosen.sum(1).mean() / int(mask.sum())),
        "draws": len(proxy),
        "responses": len(mask),
        "tokens": int(mask.sum()),
    }


def _top_share(values: np.ndarray, share: float) -> float:
    """Part of the sum that the largest `share` of the values make up."""
    count = round(share * len(values))
    return float(np.sort(values)[len(values) - count :].sum() / values.sum())


def _spearman(proxy: Tensor, exact: Tensor, mask: Tensor, kept: np.ndarray) -> float:
    inside = mask[kept]
    return float(stats.spearmanr(proxy[kept][inside].numpy(), exact[kept][inside].numpy()).statistic)


def _named(estimate: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip(("value", "low", "high"), estimate, strict=True))
