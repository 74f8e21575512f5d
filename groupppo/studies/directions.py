"""Where each arm's policy update points, beside dense PPO's: gradients, and what their inner products say.

Everything is computed from the inner products of gradients, H[a, i, b, j] = <g_ai, g_bj> of arms a, b and batches
i, j. A gradient is its expectation plus noise. Inner products within a batch hold the noise that the arms share; those
between different batches do not, because batches are independent, so their mean is an unbiased estimate of
<E g_a, E g_b>.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from groupppo.stats.intervals import Estimate, jackknife
from groupppo.studies.rollouts import Rollouts, response_log_probs
from groupppo.studies.tables import DENSE_OTHER

_COLUMNS = 16_384
_SAME = 1e-6


@dataclass(frozen=True)
class Compared:
    """An arm whose gradients were taken; dense PPO is the first of them.

    Attributes:
        name, title: of the arm. draws: draws averaged in each batch.
        densities: endpoints over valid tokens of each batch.
    """

    name: str
    title: str
    densities: tuple[float, ...]
    draws: int = 1


def loss_gradients(
    model: Any, rollouts: Rollouts, weights: Sequence[Tensor], temperature: float, micro_batch: int = 32
) -> Tensor:
    """Gradients of several losses of one batch in all parameters.

    Args:
        model: causal language model. rollouts: the batch.
        weights: for each loss its derivatives in the tokens' log-probabilities, (B, T).
        temperature: of the sampling. micro_batch: responses in one forward pass, which all losses share.

    Returns:
        (len(weights), number of parameters), tied parameters once, in the model's dtype.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # Arms that differ only in what an update computes have the same weights to the bit, and so the same gradient.
    twins = [next(k for k, other in enumerate(weights) if torch.equal(other, weight)) for weight in weights]
    distinct = sorted(set(twins))
    total = torch.zeros(len(distinct), sum(parameter.numel() for parameter in parameters), dtype=parameters[0].dtype)
    # Rows of like length together leave less padding to compute.
    order = rollouts.mask.sum(1).argsort()
    for start in range(0, len(order), micro_batch):
        rows = order[start : start + micro_batch]
        log_probs = response_log_probs(model, rollouts.rows(rows), temperature)
        for number, chosen in enumerate(distinct):
            each = weights[chosen][rows, : log_probs.shape[1]].to(log_probs.dtype)
            gradients = torch.autograd.grad(log_probs, parameters, each, retain_graph=number + 1 < len(distinct))
            total[number] += torch.cat([gradient.flatten() for gradient in gradients])
    return total[[distinct.index(twin) for twin in twins]]


def inner_products(gradients: Tensor) -> np.ndarray:
    """H of (A, M, P) gradients: (A, M, A, M) float64, summed in float64."""
    flat = gradients.flatten(0, 1)
    total = torch.zeros(len(flat), len(flat), dtype=torch.float64)
    for columns in flat.split(_COLUMNS, dim=1):
        wide = columns.double()
        total += wide @ wide.T
    shape = gradients.shape[:2]
    return total.reshape(*shape, *shape).numpy()


def batch_cosines(inner: np.ndarray, arm: int, other: int) -> np.ndarray:
    """(M,): cosine of two arms' gradients on the same batch."""
    within = np.einsum("aibi->abi", inner)
    return np.asarray(within[arm, other] / np.sqrt(within[arm, arm] * within[other, other]))


def norm_ratios(inner: np.ndarray, arm: int, other: int) -> np.ndarray:
    """(M,): norm of one arm's gradient over another's on the same batch."""
    within = np.einsum("aibi->abi", inner)
    return np.asarray(np.sqrt(within[arm, arm] / within[other, other]))


def disjoint_cosines(inner: np.ndarray, arm: int) -> np.ndarray:
    """(M // 2,): cosine of one arm's gradients on two different batches, each batch in one pair.

    The noise floor: what a cosine between two arms has to be compared with.
    """
    between = inner[arm, :, arm, :]
    first = np.arange(0, len(between) - 1, 2)
    norms = np.sqrt(np.diagonal(between))
    return np.asarray(between[first, first + 1] / (norms[first] * norms[first + 1]))


def mean_cosine(inner: np.ndarray, arm: int, other: int) -> float:
    """Cosine of the two gradients averaged over all batches; what noise they share is in it."""
    means = inner.mean(axis=(1, 3))
    return float(means[arm, other] / np.sqrt(means[arm, arm] * means[other, other]))


def expected_cosine(inner: np.ndarray, arm: int, other: int) -> Estimate:
    """Cosine of the two expected gradients with its jackknife interval over batches: 1 for an unbiased direction.

    NaN where an expectation cannot be told from zero, that is, where its squared norm is estimated at zero or below.
    """

    def cosine(kept: np.ndarray) -> float:
        between = _between(inner, kept)
        squared = between(arm, arm) * between(other, other)
        usable = between(arm, arm) > 0 and between(other, other) > 0
        return float(between(arm, other) / np.sqrt(squared)) if usable else float("nan")

    return jackknife(cosine, inner.shape[1]).within(-1.0, 1.0)


def relative_variance(inner: np.ndarray, arm: int) -> Estimate:
    """Trace of a batch gradient's covariance over the squared norm of its expectation, with its jackknife interval."""

    def ratio(kept: np.ndarray) -> float:
        squared = _between(inner, kept)(arm, arm)
        mean_square = float(np.diagonal(inner[arm, :, arm, :])[kept].mean())
        return (mean_square - squared) / squared if squared > 0 else float("nan")

    return jackknife(ratio, inner.shape[1]).within(0.0, float("inf"))


def same_as(inner: np.ndarray, arm: int) -> int | None:
    """The first arm before this one whose gradients differ from its own by less than 1e-6 of their norm, if any."""
    within = np.einsum("aibi->abi", inner)
    for other in range(arm):
        apart = within[arm, arm] + within[other, other] - 2 * within[arm, other]
        if np.all(apart <= _SAME**2 * within[other, other]):
            return other
    return None


def direction_table(inner: np.ndarray, arms: Sequence[Compared]) -> pd.DataFrame:
    """Every arm on every batch against dense PPO, columns of table `directions`."""
    rows = [
        {"arm": arm.name, "batch": batch, "density": arm.densities[batch], "cosine": cosine, "norm_ratio": ratio}
        for number, arm in enumerate(arms[1:], start=1)
        for batch, (cosine, ratio) in enumerate(
            zip(batch_cosines(inner, number, 0), norm_ratios(inner, number, 0), strict=True)
        )
    ]
    floor = [
        {"arm": DENSE_OTHER, "batch": 2 * pair, "density": 1.0, "cosine": cosine, "norm_ratio": np.nan}
        for pair, cosine in enumerate(disjoint_cosines(inner, 0))
    ]
    return pd.DataFrame([*rows, *floor])


def direction_summary(inner: np.ndarray, arms: Sequence[Compared]) -> pd.DataFrame:
    """Every arm over all batches, columns of table `direction_summary`; `dense_other` is the noise floor."""
    rows = [_summary(inner, arms, number) for number in range(len(arms))]
    floor = disjoint_cosines(inner, 0)
    half = inner.shape[1] // 2
    halves = inner[0, :half, 0, half : 2 * half].mean() / np.sqrt(
        inner[0, :half, 0, :half].mean() * inner[0, half : 2 * half, 0, half : 2 * half].mean()
    )
    rows.append(
        {"arm": DENSE_OTHER, "title": f"{arms[0].title}, another batch", "density": 1.0, "mean_cosine": halves}
        | _columns("cosine", jackknife(lambda kept: float(floor[kept].mean()), len(floor)))
        | {"same_as": "", "draws": 1, "batches": inner.shape[1]}
    )
    return pd.DataFrame(rows)


def _summary(inner: np.ndarray, arms: Sequence[Compared], number: int) -> dict[str, Any]:
    cosines, ratios = batch_cosines(inner, number, 0), norm_ratios(inner, number, 0)
    twin = same_as(inner, number)
    return {
        "arm": arms[number].name,
        "title": arms[number].title,
        "density": float(np.mean(arms[number].densities)),
        **_columns("cosine", jackknife(lambda kept: float(cosines[kept].mean()), len(cosines))),
        **_columns("norm_ratio", jackknife(lambda kept: float(ratios[kept].mean()), len(ratios))),
        "mean_cosine": mean_cosine(inner, number, 0),
        **_columns("expected_cosine", expected_cosine(inner, number, 0)),
        **_columns("relative_variance", relative_variance(inner, number)),
        "same_as": "" if twin is None else arms[twin].name,
        "draws": arms[number].draws,
        "batches": inner.shape[1],
    }


def _columns(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def _between(inner: np.ndarray, kept: np.ndarray) -> Callable[[int, int], float]:
    """Mean inner product of two arms' gradients over ordered pairs of different batches."""
    count = len(kept)

    def mean(arm: int, other: int) -> float:
        pairs = inner[arm][kept][:, other][:, kept]
        return float((pairs.sum() - np.trace(pairs)) / (count * (count - 1)))

    return mean
