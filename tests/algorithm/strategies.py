"""Batches on which statements about grouping must hold, every reading of the algorithm, and rearranged batches."""

from collections.abc import Callable, Iterator
from dataclasses import fields

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from groupppo.algorithm import Cause, GroupParams, Groups, Tokens, known_rules
from groupppo.algorithm.grouping import SCORES

CAP = 3  # small enough for short responses to meet it
DENSITY = 0.4

TIES = st.sampled_from([0.0, 1.0, -1.0, 0.5])
NUMBERS = st.one_of(TIES, st.floats(-5, 5, width=32))
GAPS = st.one_of(st.sampled_from([0.0, 0.125, -0.125, 1e-3, -1e-5]), st.floats(-1, 1, width=32))
# Sums and products of a few of these, and their squares, are exact in float64.
EIGHTHS = st.integers(-32, 32).map(lambda count: count / 8)


@st.composite
def batches(
    draw: st.DrawFn, rows: int = 3, length: int = 7, numbers: st.SearchStrategy[float] = NUMBERS, least: int = 0
) -> Tokens:
    """All that is known about up to `rows` responses: padding, holes, empty responses, ties and zeros; float32.

    Args:
        numbers: of advantages, rewards and values. least: valid tokens that there are at least.
    """
    shape = draw(st.integers(1, rows)), draw(st.integers(max(1, least), length))
    size = shape[0] * shape[1]

    def grid(entries: st.SearchStrategy) -> Tensor:
        return torch.tensor(draw(st.lists(entries, min_size=size, max_size=size))).reshape(shape)

    mask = grid(st.booleans())
    mask[0, :least] = True
    log_probs = grid(st.one_of(st.sampled_from([0.0, -0.1, -0.2]), st.floats(-20, 0, width=32)))
    seeds = st.lists(st.integers(0, 2**63 - 1), min_size=shape[0], max_size=shape[0], unique=True)
    return Tokens(
        mask,
        advantages=grid(numbers),
        returns=grid(numbers),
        rewards=grid(numbers),
        values=grid(numbers),
        log_probs=log_probs,
        rollout_log_probs=log_probs + grid(GAPS),
        entropies=grid(st.one_of(TIES, st.floats(0, 5, width=32))),
        sum_pi_squared=grid(st.floats(0, 1, width=32)),
        seeds=torch.tensor(draw(seeds)),
    )


def fixed_batch(seed: int = 0, rows: int = 4, length: int = 32) -> Tokens:
    """A batch without ties, padded on the right and with holes; the last response is empty."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(length // 2, length + 1, (rows, 1), generator=generator)
    mask = (torch.arange(length) < lengths) & (torch.rand(rows, length, generator=generator) < 0.9)
    mask[-1] = False
    log_probs = -torch.rand(rows, length, generator=generator)
    return Tokens(
        mask,
        advantages=torch.randn(rows, length, generator=generator),
        returns=torch.zeros(rows, length),
        rewards=torch.randn(rows, length, generator=generator),
        values=torch.randn(rows, length, generator=generator),
        log_probs=log_probs,
        rollout_log_probs=log_probs + 0.1 * torch.randn(rows, length, generator=generator),
        entropies=torch.rand(rows, length, generator=generator),
        sum_pi_squared=torch.rand(rows, length, generator=generator),
        seeds=torch.arange(rows) + 1000 * seed,
    )


def readings() -> Iterator[GroupParams]:
    """Every rule that there is with every score it takes."""
    for name, rule in known_rules().items():
        keys: dict[str, object] = {"rule": name}
        keys |= {"density": DENSITY} if "density" in rule.uses else {}
        keys |= {"group_max_size": CAP} if "group_max_size" in rule.uses else {}
        for score in SCORES if "score" in rule.uses else ("unit",):
            yield GroupParams.from_config(keys | {"score": score})


def name_of(params: GroupParams) -> str:
    return f"{params.rule}-{params.score}" if "score" in params.definition.uses else params.rule


EVERY_READING = pytest.mark.parametrize("params", list(readings()), ids=name_of)
EVERY_SCORE = pytest.mark.parametrize("score", list(SCORES))


def valid_tokens(mask: Tensor, row: int) -> list[int]:
    return mask[row].nonzero().flatten().tolist()


def closings(groups: Groups, row: int = 0) -> dict[int, Cause]:
    """Position and cause of every endpoint of one response."""
    return {t: Cause(int(groups.cause[row, t])) for t in valid_tokens(groups.endpoints, row)}


def members(groups: Groups) -> Iterator[tuple[int, list[int]]]:
    """Row and positions of every group."""
    for row in range(len(groups.index)):
        for number in range(int(groups.index[row].max()) + 1):
            yield row, (groups.index[row] == number).nonzero().flatten().tolist()


def map_tensors(tokens: Tokens, change: Callable[[str, Tensor], Tensor]) -> Tokens:
    """The batch with every tensor changed; `change` gets a field's name too."""
    return Tokens(**{field.name: change(field.name, tokens.get(field.name)) for field in fields(Tokens)})


def reordered(tokens: Tokens, order: list[int]) -> Tokens:
    return map_tensors(tokens, lambda _, tensor: tensor[order])


def padded(tokens: Tokens, left: int, right: int, filling: float = float("nan")) -> Tokens:
    """The batch with tokens outside the mask on both sides, which hold `filling`."""

    def pad(name: str, tensor: Tensor) -> Tensor:
        if name == "seeds":
            return tensor
        return torch.nn.functional.pad(tensor, (left, right), value=False if name == "mask" else filling)

    return map_tensors(tokens, pad)
