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
from groupppo.studies.shared.arms import GroupArm, dense_update, group_updates
from groupppo.studies.shared.rollouts import Rollouts, Sampled, response_log_probs
from groupppo.studies.shared.study import DENSE, DENSE_OTHER

_COLUMNS = 16_384
_SAME = 1e-6


@dataclass(frozen=True)
class Compared:
    """An arm whose gradients were taken, and its endpoints over valid tokens; dense PPO is the first of them."""

    name: str
    title: str
    density: float


def arm_gradients(
    policy: Any, sampled: Sampled, arms: Sequence[GroupArm], *, temperature: float, gamma: float, lam: float
) -> tuple[np.ndarray, list[Compared]]:
    """Inner products of the gradients of dense PPO and of every arm on every batch; dense PPO comes first."""
    by_batch, densities = [], []
    for rollouts, tokens in zip(sampled.rollouts, sampled.tokens, strict=True):
        updates = {DENSE: dense_update(tokens, gamma, lam)} | group_updates(arms, tokens, gamma, lam)
        by_batch.append(loss_gradients(policy, rollouts, [own.weights for own in updates.values()], temperature))
        densities.append({name: update.density for name, update in updates.items()})
    titles = {DENSE: "PPO (dense)"} | {arm.name: arm.title for arm in arms}
    means = pd.DataFrame(densities).mean()
    compared = [Compared(str(name), titles[str(name)], density) for name, density in means.items()]
    return inner_products(torch.stack(by_batch, dim=1)), compared


def loss_gradients(
    model: Any, rollouts: Rollouts, weights: Sequence[Tensor], temperature: float, micro_batch: int = 32
) -> Tensor:
    """Gradients of several losses of one batch in all parameters.

    Args:
        model: causal language model.
        rollouts: the batch.
        weights: for each loss its derivatives in the tokens' log-probabilities, (B, T).
        temperature: of the sampling.
        micro_batch: responses in one forward pass, which all losses share.

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


def direction_summary(inner: np.ndarray, arms: Sequence[Compared]) -> pd.DataFrame:
    """Every arm over all batches, columns of table `direction_summary`; `dense_other` is the noise floor."""
    batches, rows = inner.shape[1], []
    for number, arm in enumerate(arms):
        twin = same_as(inner, number)
        row = {
            "arm": arm.name,
            "title": arm.title,
            "density": arm.density,
            **columns("cosine", mean_of(batch_cosines(inner, number, 0))),
            **columns("norm_ratio", mean_of(norm_ratios(inner, number, 0))),
            "mean_cosine": mean_cosine(inner, number, 0),
            **columns("expected_cosine", expected_cosine(inner, number, 0)),
            **columns("relative_variance", relative_variance(inner, number)),
            "same_as": "" if twin is None else arms[twin].name,
        }
        rows.append(row)
    half = batches // 2
    one, other = slice(half), slice(half, 2 * half)
    between, first, second = (inner[0, i, 0, j].mean() for i, j in ((one, other), (one, one), (other, other)))
    floor = {"arm": DENSE_OTHER, "title": f"{arms[0].title}, another batch", "density": 1.0, "same_as": ""}
    floor["mean_cosine"] = between / np.sqrt(first * second)
    rows.append(floor | columns("cosine", mean_of(disjoint_cosines(inner, 0))))
    return pd.DataFrame(rows).assign(draws=1, batches=batches)


def columns(name: str, estimate: Estimate) -> dict[str, float]:
    """A value and the ends of its interval, by the names of their columns."""
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def mean_of(values: np.ndarray) -> Estimate:
    """The mean with its t interval, NaN for one value."""
    return jackknife(lambda kept: float(values[kept].mean()), len(values))


def _between(inner: np.ndarray, kept: np.ndarray) -> Callable[[int, int], float]:
    """Mean inner product of two arms' gradients over ordered pairs of different batches."""
    count = len(kept)

    def mean(arm: int, other: int) -> float:
        pairs = inner[arm][kept][:, other][:, kept]
        return float((pairs.sum() - np.trace(pairs)) / (count * (count - 1)))

    return mean
