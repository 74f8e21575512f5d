"""Inputs on which all versions of the recursions must agree, and wrong versions that must be found out."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import torch
from hypothesis import strategies as st
from torch import Tensor

from groupppo.algorithm import kernels
from groupppo.algorithm.kernels.reference import CAP, CRITERION, END, NONE

TIES = st.sampled_from([0.0, 1.0, -1.0, 0.5, -0.5])
WILD = st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 1e-40])


@dataclass(frozen=True)
class Batch:
    """Two quantities per token and a mask; (B, T) each."""

    first: Tensor
    second: Tensor
    mask: Tensor


@st.composite
def batches(draw: st.DrawFn, dtype: torch.dtype, wild: bool = False, rows: int = 4, tokens: int = 12) -> Batch:
    """Ties, zeros, holes, padding and empty responses; with `wild`, also what is not finite, huge or subnormal."""
    shape = draw(st.integers(1, rows)), draw(st.integers(1, tokens))
    numbers = st.one_of(TIES, st.floats(-5, 5, width=32 if dtype == torch.float32 else 64))
    number = st.one_of(numbers, WILD) if wild else numbers
    first, second = (_grid(draw, number, shape) for _ in range(2))
    mask = _grid(draw, st.booleans(), shape)
    return Batch(torch.tensor(first, dtype=dtype), torch.tensor(second, dtype=dtype), torch.tensor(mask))


def _grid(draw: st.DrawFn, entry: st.SearchStrategy, shape: tuple[int, int]) -> list[list]:
    row = st.lists(entry, min_size=shape[1], max_size=shape[1])
    return draw(st.lists(row, min_size=shape[0], max_size=shape[0]))


def row(*numbers: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """One response."""
    return torch.tensor([numbers], dtype=dtype)


def same_bits(left: Tensor, right: Tensor) -> bool:
    """Equal dtype and bits, so that 0.0 and -0.0 differ."""
    integers = {torch.float32: torch.int32, torch.float64: torch.int64}[left.dtype]
    return left.dtype == right.dtype and torch.equal(left.view(integers), right.view(integers))


# tau * r_ppo is exactly r_grpo (0.7 * 10 = 7): no split. With tau rounded to float32 it is less: split.
TIE_OF_TAU = (row(2.0, 1.0), row(1.0, 6.0), torch.ones(1, 2, dtype=torch.bool))
TAU = 0.7

# Equal tokens are a tie at tau = 1 as long as every operation is rounded; contracted to one rounding it is none.
TIE_OF_ROUNDING = (row(*[0.1] * 4), row(*[0.7] * 4), torch.ones(1, 4, dtype=torch.bool))

# In float32 the first token's ratio rounds to more than 1, in float64 it is 1 and closes there.
TIE_OF_FLOAT32 = (
    row(0.1, 0.1, 1.0, dtype=torch.float32),
    row(0.3, 0.3, 1.0, dtype=torch.float32),
    torch.ones(1, 3, dtype=torch.bool),
)


def variance_split_at(advantages: list[float], scores: list[float], tau: float, epsilon: float) -> list[int]:
    """Wrong: closes at the token that passes the threshold instead of before it; orthogonal, all tokens valid."""
    cause, size, p, q = [NONE] * len(advantages), 0, 0.0, 0.0
    for t, (a, s) in enumerate(zip(advantages, scores, strict=True)):
        size, p, q = size + 1, p + a * a * s, q + s
        if size >= 2 and a * a * q > tau * (p + epsilon):
            cause[t] = CRITERION
            size, p, q = 0, 0.0, 0.0
    return [*cause[:-1], END] if size else cause


def fused(a: float, b: float, c: float) -> float:
    """a * b + c rounded once, as a fused multiply-add does."""
    return float(Fraction(a) * Fraction(b) + Fraction(c))


def variance_split_fused(advantages: list[float], scores: list[float], tau: float, cap: int) -> list[int]:
    """Wrong: products and sums contracted to fused multiply-adds; orthogonal, all tokens valid, epsilon 0."""
    cause, size, p, q = [NONE] * len(advantages), 0, 0.0, 0.0
    for t, (a, s) in enumerate(zip(advantages, scores, strict=True)):
        grown = fused(a * a, s, p)
        if size >= 1 and a * a * (q + s) > tau * grown:
            cause[t - 1] = CRITERION
            size, p, q = 1, a * a * s, s
        else:
            size, p, q = size + 1, grown, q + s
        if size == cap:
            cause[t] = CAP
            size, p, q = 0, 0.0, 0.0
    return [*cause[:-1], END] if size else cause


def transcription(
    advantages: Tensor,
    scores: Tensor,
    mask: Tensor,
    dtype: torch.dtype = torch.float32,
    through_holes: bool = False,
    steps_of_group: bool = False,
) -> list[int]:
    """The public code for one response, on 0-d tensors: running sums in arrays indexed by absolute position.

    Wrong on demand: another `dtype`; sums that go on through holes; steps counted from the start of the group.
    """
    advantages, scores = advantages.to(dtype), scores.to(dtype)
    positions = mask.nonzero().flatten().tolist()
    weighted_sums, score_sums = torch.zeros(len(mask), dtype=dtype), torch.zeros(len(mask), dtype=dtype)
    cause, group_start, nothing = [NONE] * len(mask), 0, torch.zeros((), dtype=dtype)
    for number, t in enumerate(positions):
        before = positions[number - 1] if through_holes and number else t - 1
        carries_on = number > group_start and before >= 0
        weighted = (weighted_sums[before] if carries_on else nothing) + advantages[t] * scores[t]
        plain = (score_sums[before] if carries_on else nothing) + scores[t]
        weighted_sums[t], score_sums[t] = weighted, plain
        share = torch.tensor(1.0 / len(positions), dtype=dtype)
        r_ppo = share * (weighted * weighted)
        r_grpo = (share * (plain * plain)) * (advantages[t] * advantages[t])
        step = number + 1 - (group_start if steps_of_group else 0)
        if bool(r_ppo > torch.tensor(1e-8, dtype=dtype)) and bool(torch.tensor(step, dtype=dtype) >= r_grpo / r_ppo):
            cause[t] = CRITERION
            group_start = number + 1
        elif number == len(positions) - 1:
            cause[t] = END
    return cause


def every_cause(batch: Batch, backend: str, tau: float, cap: int, epsilon: float = 1e-6) -> list[Tensor]:
    """Causes of both float64 rules with both kinds of scores; squared norms are made from the signed scores."""
    found = []
    for orthogonal in (True, False):
        scores = batch.second.abs() if orthogonal else batch.second
        run: dict[str, Callable[..., Tensor]] = {"split": kernels.variance_split, "literal": kernels.literal}
        split = {"tau": tau, "epsilon": epsilon, "cap": cap}
        for name, keys in (("split", split), ("literal", {})):
            found.append(run[name](batch.first, scores, batch.mask, orthogonal=orthogonal, backend=backend, **keys))
    return found
