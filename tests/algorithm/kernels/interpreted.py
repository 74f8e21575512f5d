"""What must hold of the Triton kernels, run in Triton's interpreter.

    TRITON_INTERPRET=1 python -m tests.algorithm.kernels.interpreted CHECK

`test_cuda.py` runs each check in a process of its own: Triton decides when it is imported whether it interprets.
"""

import sys

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groupppo.algorithm import kernels
from tests.algorithm.kernels.cases import (
    TAU,
    TIE_OF_FLOAT32,
    TIE_OF_ROUNDING,
    TIE_OF_TAU,
    Batch,
    batches,
    every_cause,
    same_bits,
    transcription,
)

few = settings(max_examples=40, database=None)
DOUBLES = st.one_of(batches(torch.float64), batches(torch.float64, wild=True))
SINGLES = st.one_of(batches(torch.float32), batches(torch.float32, wild=True))


@few
@given(DOUBLES, st.sampled_from([0.1, 1.0, 2.0]), st.integers(1, 6))
def ratio_rules(batch: Batch, tau: float, cap: int) -> None:
    expected = every_cause(batch, "reference", tau, cap)
    found = every_cause(batch, "triton", tau, cap)
    assert all(torch.equal(left, right) for left, right in zip(found, expected, strict=True))


def ties() -> None:
    def split(tie: tuple[torch.Tensor, ...], tau: float) -> list[int]:
        cause = kernels.variance_split(*tie, orthogonal=True, tau=tau, epsilon=0.0, cap=16, backend="triton")
        return cause[0].tolist()

    assert split(TIE_OF_TAU, TAU) == [0, 3]
    assert split(TIE_OF_TAU, float(torch.tensor(TAU))) == [1, 3]
    assert split(TIE_OF_ROUNDING, 1.0) == [0, 0, 0, 3]
    cause = kernels.published(*TIE_OF_FLOAT32, backend="triton")[0].tolist()
    response = [tensor[0] for tensor in TIE_OF_FLOAT32]
    assert cause == transcription(*response) != transcription(*response, dtype=torch.float64)


@few
@given(SINGLES)
def published(batch: Batch) -> None:
    expected = kernels.published(batch.first, batch.second, batch.mask, backend="reference")
    assert torch.equal(kernels.published(batch.first, batch.second, batch.mask, backend="triton"), expected)


@few
@given(st.data(), st.sampled_from([torch.float32, torch.float64]), st.floats(0, 1), st.floats(0, 1))
def segment_gae(data: st.DataObject, dtype: torch.dtype, gamma: float, lam: float) -> None:
    batch = data.draw(batches(dtype))
    chosen = data.draw(st.lists(st.booleans(), min_size=batch.mask.numel(), max_size=batch.mask.numel()))
    endpoints = torch.tensor(chosen).reshape(batch.mask.shape) & batch.mask
    inputs = batch.first, batch.second, batch.mask, endpoints, gamma, lam
    expected = kernels.segment_gae(*inputs, backend="reference")
    found = kernels.segment_gae(*inputs, backend="triton")
    assert same_bits(found[0], expected[0])
    assert same_bits(found[1], expected[1])


def many_rows() -> None:
    """More rows than one program has lanes, a last program that is not full, strides and nothing at all."""
    generator = torch.Generator().manual_seed(5)
    numbers = torch.randn(2, 71, 9, generator=generator, dtype=torch.float64)
    batch = Batch(numbers[0], numbers[1], torch.rand(71, 9, generator=generator) < 0.8)
    expected = every_cause(batch, "reference", 1.0, 4)
    strided = Batch(*(tensor.t().contiguous().t() for tensor in (batch.first, batch.second, batch.mask)))
    for found in (every_cause(batch, "triton", 1.0, 4), every_cause(strided, "triton", 1.0, 4)):
        assert all(torch.equal(left, right) for left, right in zip(found, expected, strict=True))
    assert not torch.equal(expected[0], every_cause(batch, "triton", 1.0, 3)[0])
    empty = torch.zeros(0, 9, dtype=torch.float64)
    assert all(cause.shape == (0, 9) for cause in every_cause(Batch(empty, empty, empty.bool()), "triton", 1.0, 4))


CHECKS = {check.__name__: check for check in (ratio_rules, ties, published, segment_gae, many_rows)}

if __name__ == "__main__":
    CHECKS[sys.argv[1]]()
    print("held")
