"""How the arms of a benchmark would update the policy on a batch, and where these updates point beside dense PPO's.

What is said of directions rests on inner products of gradients, H[a, i, b, j] = <g_ai, g_bj> of arms a, b and batches
i, j. A gradient is its expectation plus noise. Inner products within a batch hold the noise that the arms share; those
between different batches do not, because batches are independent, so their mean is an unbiased estimate of
<E g_a, E g_b>.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from groupppo.algorithm import GroupParams, Tokens, group_tokens
from groupppo.algorithm.estimators import gae, whiten
from groupppo.algorithm.loss import LossMask, group_batch, policy_loss
from groupppo.config import GROUPED, Arm
from groupppo.errors import BadInput
from groupppo.stats.intervals import Estimate, jackknife
from groupppo.studies.shared.rollouts import Rollouts, Sampled, response_log_probs
from groupppo.studies.shared.study import DENSE, DENSE_OTHER, NO_RULE

PREFIX = "algorithm.group_params."
# What an arm with groups may set besides: without a critic it would not train at all.
_ESTIMATOR = "algorithm.adv_estimator"
_FOLLOWED = (_ESTIMATOR, "critic.enable")
_COLUMNS, _SAME = 16_384, 1e-6


class Update(NamedTuple):
    """An arm's policy update on a batch.

    Attributes:
        weights: (B, T), derivative of the policy loss in each token's log-probability, at ratio 1.
        density: endpoints over valid tokens.
    """

    weights: Tensor
    density: float


def group_arms(arms: Iterable[Arm]) -> tuple[list[Arm], dict[str, str]]:
    """The arms whose update depends on groups alone, and for each of the others why it is left out.

    Raises:
        BadInput: a key under `algorithm.group_params` is wrong, or an arm takes its density from one that is not here.
    """
    followed, left_out = list[Arm](), dict[str, str]()
    for arm in arms:
        foreign = [key for key in arm.verl if key not in _FOLLOWED and not key.startswith(PREFIX)]
        if not arm.grouped:
            left_out[arm.name] = NO_RULE
        elif arm.verl.get(_ESTIMATOR) != GROUPED:
            left_out[arm.name] = "takes its advantages from an estimator of verl's"
        elif foreign:
            left_out[arm.name] = f"sets {foreign[0]}, which the study does not follow"
        elif arm.verl.get(f"{PREFIX}density_source"):
            left_out[arm.name] = "takes its densities from a file of another run"
        elif arm.verl.get(f"{PREFIX}update") == "streamed":
            left_out[arm.name] = "updates with approximate gradients"
        else:
            _params(arm, 0.5)
            followed.append(arm)
    names = sorted(arm.name for arm in followed)
    for arm in followed:
        if arm.density_from is not None and arm.density_from not in names:
            hint = f"name an arm that the study follows: {', '.join(names)}."
            raise BadInput(f"arms/{arm.name}.yaml", "density_from", arm.density_from, hint)
    return followed, left_out


def _params(arm: Arm, density: float) -> GroupParams:
    """An arm's parameters at a density, which is ignored unless the arm takes it from another."""
    settings = {key.removeprefix(PREFIX): value for key, value in arm.verl.items() if key.startswith(PREFIX)}
    try:
        return GroupParams.from_config(settings | ({} if arm.density_from is None else {"density": density}))
    except BadInput as error:
        raise BadInput(arm.source, f"verl.{PREFIX}{error.key}", error.value, error.hint) from error


def dense_update(tokens: Tokens, gamma: float, lam: float) -> Update:
    """Dense PPO's: GAE on every token, whitened, policy loss on every token."""
    advantages = gae(tokens.get("rewards"), tokens.get("values"), tokens.mask, gamma, lam)
    return Update(_weights(tokens, whiten(advantages, tokens.mask.long()), LossMask(tokens.mask, tokens.mask)), 1.0)


def group_updates(arms: Iterable[Arm], tokens: Tokens, gamma: float, lam: float) -> dict[str, Update]:
    """Each arm's update of one batch: its rule, advantage, spread and normaliser, at the threshold it starts with."""
    updates: dict[str, Update] = {}
    for arm in sorted(arms, key=lambda arm: arm.density_from is not None):
        params = _params(arm, 1.0 if arm.density_from is None else updates[arm.density_from].density)
        groups = group_tokens(tokens, params)
        losses = group_batch(tokens, groups, params, gamma, lam)
        density = int(groups.endpoints.sum()) / int(tokens.mask.sum())
        updates[arm.name] = Update(_weights(tokens, losses.advantages, losses.policy), density)
    return updates


def _weights(tokens: Tokens, advantages: Tensor, mask: LossMask) -> Tensor:
    log_probs = tokens.get("log_probs")
    variable = log_probs.clone().requires_grad_()
    return torch.autograd.grad(policy_loss(variable, log_probs, advantages, mask), variable)[0]


# ---- gradients and their inner products


def arm_gradients(
    policy: Any, sampled: Sampled, arms: Sequence[Arm], *, temperature: float, gamma: float, lam: float
) -> tuple[np.ndarray, pd.DataFrame]:
    """Inner products of the gradients of dense PPO and of every arm on every batch; arm, title and mean density."""
    by_batch, densities = [], []
    for rollouts, tokens in zip(sampled.rollouts, sampled.tokens, strict=True):
        updates = {DENSE: dense_update(tokens, gamma, lam)} | group_updates(arms, tokens, gamma, lam)
        by_batch.append(loss_gradients(policy, rollouts, [own.weights for own in updates.values()], temperature))
        densities.append({name: update.density for name, update in updates.items()})
    titles = {DENSE: "PPO (dense)"} | {arm.name: arm.title for arm in arms}
    compared = pd.DataFrame(densities).mean().rename_axis("arm").reset_index(name="density")
    compared.insert(1, "title", compared["arm"].map(titles))
    return inner_products(torch.stack(by_batch, dim=1)), compared


def loss_gradients(
    model: Any, rollouts: Rollouts, weights: Sequence[Tensor], temperature: float, micro_batch: int = 32
) -> Tensor:
    """Gradients of several losses of one batch in all parameters, (losses, parameters); tied ones count once.

    Args:
        weights: for each loss its derivatives in the tokens' log-probabilities, (B, T).
        micro_batch: responses in one forward pass, which all losses share.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # Arms that differ only in what an update computes have the same weights to the bit, and so the same gradient.
    twins = [next(k for k, other in enumerate(weights) if torch.equal(other, weight)) for weight in weights]
    distinct = sorted(set(twins))
    total = torch.zeros(len(distinct), sum(parameter.numel() for parameter in parameters), dtype=parameters[0].dtype)
    # Rows of like length together leave less padding to compute.
    for rows in rollouts.mask.sum(1).argsort().split(micro_batch):
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
    return total.reshape(*gradients.shape[:2], *gradients.shape[:2]).numpy()


# ---- what they say


def disjoint_cosines(inner: np.ndarray) -> np.ndarray:
    """(M // 2,): cosine of the first arm's gradients on two different batches, each batch in one pair.

    The noise floor: what a cosine between two arms has to be compared with.
    """
    between = inner[0, :, 0, :]
    first = np.arange(0, len(between) - 1, 2)
    norms = np.sqrt(np.diagonal(between))
    return np.asarray(between[first, first + 1] / (norms[first] * norms[first + 1]))


def expected_cosine(inner: np.ndarray, arm: int) -> Estimate:
    """Cosine of an arm's and the first one's expected gradients with its jackknife interval over batches.

    1 for an unbiased direction; NaN where an expectation cannot be told from zero, that is, where its squared norm is
    estimated at zero or below.
    """

    def cosine(kept: np.ndarray) -> float:
        own, first = _between(inner, kept, arm, arm), _between(inner, kept, 0, 0)
        return float(_between(inner, kept, arm, 0) / np.sqrt(own * first)) if min(own, first) > 0 else float("nan")

    return jackknife(cosine, inner.shape[1]).within(-1.0, 1.0)


def relative_variance(inner: np.ndarray, arm: int) -> Estimate:
    """Trace of a batch gradient's covariance over the squared norm of its expectation, with its jackknife interval."""

    def ratio(kept: np.ndarray) -> float:
        squared = _between(inner, kept, arm, arm)
        mean_square = float(np.diagonal(inner[arm, :, arm, :])[kept].mean())
        return (mean_square - squared) / squared if squared > 0 else float("nan")

    return jackknife(ratio, inner.shape[1]).within(0.0, float("inf"))


def _between(inner: np.ndarray, kept: np.ndarray, arm: int, other: int) -> float:
    """Mean inner product of two arms' gradients over ordered pairs of different batches."""
    pairs = inner[arm][kept][:, other][:, kept]
    return float((pairs.sum() - np.trace(pairs)) / (len(kept) * (len(kept) - 1)))


def direction_summary(inner: np.ndarray, arms: pd.DataFrame) -> pd.DataFrame:
    """Every arm over all batches, columns of table `direction_summary`; `dense_other` is the noise floor.

    Args:
        inner: (A, M, A, M) inner products of gradients, of dense PPO first.
        arms: A rows of arm, title and density.
    """
    batches, within, means, rows = inner.shape[1], np.einsum("aibi->abi", inner), inner.mean(axis=(1, 3)), []
    for number, arm in enumerate(arms.to_dict("records")):
        own, dense, between = within[number, number], within[0, 0], within[number, 0]
        alike = [
            name
            for other, name in enumerate(arms["arm"][:number])
            if np.all(own + within[other, other] - 2 * within[number, other] <= _SAME**2 * within[other, other])
        ]
        row = {
            **arm,
            **columns("cosine", mean_of(np.asarray(between / np.sqrt(own * dense)))),
            **columns("norm_ratio", mean_of(np.sqrt(own / dense))),
            "mean_cosine": means[number, 0] / np.sqrt(means[number, number] * means[0, 0]),
            **columns("expected_cosine", expected_cosine(inner, number)),
            **columns("relative_variance", relative_variance(inner, number)),
            "same_as": alike[0] if alike else "",
        }
        rows.append(row)
    half = batches // 2
    one, other = slice(half), slice(half, 2 * half)
    between, first, second = (inner[0, i, 0, j].mean() for i, j in ((one, other), (one, one), (other, other)))
    floor = {"arm": DENSE_OTHER, "title": f"{arms['title'][0]}, another batch", "density": 1.0, "same_as": ""}
    floor["mean_cosine"] = between / np.sqrt(first * second)
    rows.append(floor | columns("cosine", mean_of(disjoint_cosines(inner))))
    return pd.DataFrame(rows).assign(draws=1, batches=batches)


def columns(name: str, estimate: Estimate) -> dict[str, float]:
    """A value and the ends of its interval, by the names of their columns."""
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def mean_of(values: np.ndarray) -> Estimate:
    """The mean with its t interval, NaN for one value."""
    return jackknife(lambda kept: float(values[kept].mean()), len(values))
