"""The CPU versions of the recursions against their definitions, to the bit."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groupppo.algorithm import kernels
from groupppo.algorithm.groups import Cause
from groupppo.algorithm.kernels import reference
from tests.algorithm.kernels.cases import (
    TAU,
    TIE_OF_FLOAT32,
    TIE_OF_ROUNDING,
    TIE_OF_TAU,
    Batch,
    batches,
    every_cause,
    row,
    same_bits,
    transcription,
    variance_split_at,
    variance_split_fused,
)

COMPARED = pytest.mark.parametrize("backend", ["numba", "torch"])
ALL = pytest.mark.parametrize("backend", ["numba", "torch", "reference"])
TAUS = st.sampled_from([0.1, 0.5, 1.0, 2.0, 10.0])
EPSILONS = st.sampled_from([0.0, 1e-6])
RATES = st.one_of(st.sampled_from([1.0, 0.99, 0.95, 0.5, 0.0]), st.floats(0, 1))


def test_causes_are_those_of_the_grouping() -> None:
    codes = [reference.NONE, reference.CRITERION, reference.CAP, reference.END]
    assert codes == [Cause.NONE, Cause.CRITERION, Cause.CAP, Cause.END]


# ---- variance_split and literal


@COMPARED
@settings(max_examples=100)
@given(batch=batches(torch.float64), tau=TAUS, cap=st.integers(1, 6), epsilon=EPSILONS)
def test_the_ratio_rules_are_their_definitions(
    backend: str, batch: Batch, tau: float, cap: int, epsilon: float
) -> None:
    expected = every_cause(batch, "reference", tau, cap, epsilon)
    found = every_cause(batch, backend, tau, cap, epsilon)
    assert all(torch.equal(left, right) for left, right in zip(found, expected, strict=True))
    assert all(cause.dtype == torch.int8 for cause in found)


@COMPARED
@settings(max_examples=100)
@given(batch=batches(torch.float64, wild=True), tau=TAUS, cap=st.integers(1, 6), epsilon=EPSILONS)
def test_numbers_that_are_not_finite_are_treated_alike(
    backend: str, batch: Batch, tau: float, cap: int, epsilon: float
) -> None:
    expected = every_cause(batch, "reference", tau, cap, epsilon)
    found = every_cause(batch, backend, tau, cap, epsilon)
    assert all(torch.equal(left, right) for left, right in zip(found, expected, strict=True))


@ALL
def test_variance_split_closes_before_the_token_and_not_at_it(backend: str) -> None:
    advantages, scores = row(0.1, 5.0, 0.1, 0.1), torch.ones(1, 4, dtype=torch.float64)
    mask = torch.ones(1, 4, dtype=torch.bool)
    cause = kernels.variance_split(
        advantages, scores, mask, orthogonal=True, tau=1.0, epsilon=1e-6, cap=16, backend=backend
    )
    assert cause[0].tolist() == [Cause.CRITERION, Cause.NONE, Cause.NONE, Cause.END]
    assert variance_split_at([0.1, 5.0, 0.1, 0.1], [1.0] * 4, 1.0, 1e-6) != cause[0].tolist()


@ALL
def test_equal_tokens_are_a_tie_which_a_fused_multiply_add_would_break(backend: str) -> None:
    cause = kernels.variance_split(*TIE_OF_ROUNDING, orthogonal=True, tau=1.0, epsilon=0.0, cap=16, backend=backend)
    assert cause[0].tolist() == [Cause.NONE, Cause.NONE, Cause.NONE, Cause.END]
    advantages, scores, _ = TIE_OF_ROUNDING
    assert variance_split_fused(advantages[0].tolist(), scores[0].tolist(), 1.0, 16) != cause[0].tolist()


@ALL
def test_tau_is_a_double_which_float32_would_change(backend: str) -> None:
    def causes(tau: float) -> list[int]:
        cause = kernels.variance_split(*TIE_OF_TAU, orthogonal=True, tau=tau, epsilon=0.0, cap=16, backend=backend)
        return cause[0].tolist()

    assert causes(TAU) == [Cause.NONE, Cause.END]
    assert causes(float(torch.tensor(TAU))) == [Cause.CRITERION, Cause.END]


@ALL
def test_a_group_closed_by_the_cap_at_the_last_token_is_closed_by_the_cap(backend: str) -> None:
    ones, mask = torch.ones(1, 5, dtype=torch.float64), torch.tensor([[1, 1, 0, 1, 1]]).bool()
    by_cap = [
        kernels.variance_split(ones, ones, mask, orthogonal=True, tau=1.0, epsilon=0.0, cap=cap, backend=backend)
        for cap in (2, 3)
    ]
    assert by_cap[0][0].tolist() == [Cause.NONE, Cause.CAP, Cause.NONE, Cause.NONE, Cause.CAP]
    assert by_cap[1][0].tolist() == [Cause.NONE, Cause.NONE, Cause.NONE, Cause.CAP, Cause.END]


@ALL
@settings(max_examples=50)
@given(batch=batches(torch.float64), orthogonal=st.booleans())
def test_the_literal_rule_closes_at_every_token(backend: str, batch: Batch, orthogonal: bool) -> None:
    cause = kernels.literal(batch.first, batch.second, batch.mask, orthogonal=orthogonal, backend=backend)
    assert torch.equal(cause == Cause.CRITERION, batch.mask)


@ALL
def test_the_literal_rule_is_a_comparison_which_a_number_that_is_none_fails(backend: str) -> None:
    advantages, scores = row(1.0, float("nan"), 2.0), torch.ones(1, 3, dtype=torch.float64)
    mask = torch.ones(1, 3, dtype=torch.bool)
    cause = kernels.literal(advantages, scores, mask, orthogonal=True, backend=backend)
    assert cause[0].tolist() == [Cause.CRITERION, Cause.NONE, Cause.END]


# ---- published


@COMPARED
@settings(max_examples=100)
@given(batch=st.one_of(batches(torch.float32), batches(torch.float32, wild=True)))
def test_the_published_rule_is_its_definition(backend: str, batch: Batch) -> None:
    expected = kernels.published(batch.first, batch.second, batch.mask, backend="reference")
    assert torch.equal(kernels.published(batch.first, batch.second, batch.mask, backend=backend), expected)


@ALL
@settings(max_examples=80)
@given(batch=batches(torch.float32))
def test_the_published_rule_is_the_public_code_on_tensors_without_dimensions(backend: str, batch: Batch) -> None:
    cause = kernels.published(batch.first, batch.second, batch.mask, backend=backend)
    for response in range(len(batch.mask)):
        expected = transcription(batch.first[response], batch.second[response], batch.mask[response])
        assert cause[response].tolist() == expected


@ALL
def test_the_published_rule_computes_in_float32(backend: str) -> None:
    cause = kernels.published(*TIE_OF_FLOAT32, backend=backend)[0].tolist()
    response = [tensor[0] for tensor in TIE_OF_FLOAT32]
    assert cause == transcription(*response)
    assert cause != transcription(*response, dtype=torch.float64)


@ALL
def test_the_published_sums_restart_after_a_hole(backend: str) -> None:
    advantages, scores = row(0.0, 0.0, 1.0, 2.0, dtype=torch.float32), row(1.0, 0.0, 1.0, 1.0, dtype=torch.float32)
    mask = torch.tensor([[1, 0, 1, 1]]).bool()
    cause = kernels.published(advantages, scores, mask, backend=backend)[0].tolist()
    assert cause == [Cause.NONE, Cause.NONE, Cause.CRITERION, Cause.CRITERION]
    assert cause == transcription(advantages[0], scores[0], mask[0])
    assert cause != transcription(advantages[0], scores[0], mask[0], through_holes=True)


@ALL
def test_the_published_steps_count_from_the_start_of_the_response(backend: str) -> None:
    advantages, scores = row(1.0, 0.0, 1.0, dtype=torch.float32), row(1.0, 1.0, 2.0, dtype=torch.float32)
    mask = torch.ones(1, 3, dtype=torch.bool)
    cause = kernels.published(advantages, scores, mask, backend=backend)[0].tolist()
    # The second group's ratio at its second token is 3^2 / 2^2 = 2.25: below step 3, above its own size 2.
    assert cause == [Cause.CRITERION, Cause.NONE, Cause.CRITERION]
    assert cause == transcription(advantages[0], scores[0], mask[0])
    assert cause != transcription(advantages[0], scores[0], mask[0], steps_of_group=True)


@ALL
def test_without_a_gap_between_the_log_probabilities_a_response_is_one_group(backend: str) -> None:
    mask = torch.tensor([[1, 1, 1, 0], [0, 0, 0, 0], [1, 0, 1, 0]]).bool()
    cause = kernels.published(torch.ones(3, 4), torch.zeros(3, 4), mask, backend=backend)
    assert cause.tolist() == [[0, 0, Cause.END, 0], [0, 0, 0, 0], [0, 0, Cause.END, 0]]
    some = kernels.published(torch.ones(3, 4), torch.ones(3, 4), mask, backend=backend)
    assert (some == Cause.CRITERION).any()


# ---- segment_gae


@COMPARED
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(max_examples=100)
@given(data=st.data(), gamma=RATES, lam=RATES)
def test_segment_gae_is_its_definition_to_the_bit(
    backend: str, dtype: torch.dtype, data: st.DataObject, gamma: float, lam: float
) -> None:
    batch = data.draw(batches(dtype))
    chosen = data.draw(st.lists(st.booleans(), min_size=batch.mask.numel(), max_size=batch.mask.numel()))
    endpoints = torch.tensor(chosen).reshape(batch.mask.shape) & batch.mask
    inputs = batch.first, batch.second, batch.mask, endpoints, gamma, lam
    expected = kernels.segment_gae(*inputs, backend="reference")
    found = kernels.segment_gae(*inputs, backend=backend)
    assert same_bits(found[0], expected[0])
    assert same_bits(found[1], expected[1])


@ALL
def test_float32_advantages_are_not_rounded_doubles(backend: str) -> None:
    generator = torch.Generator().manual_seed(1)
    rewards, values = torch.randn(3, 20, generator=generator), torch.randn(3, 20, generator=generator)
    mask = torch.ones(3, 20, dtype=torch.bool)
    found = kernels.segment_gae(rewards, values, mask, mask, 0.99, 0.95, backend=backend)
    double = kernels.segment_gae(rewards.double(), values.double(), mask, mask, 0.99, 0.95, backend=backend)
    assert torch.allclose(found[0].double(), double[0], atol=1e-4)
    assert not same_bits(found[0], double[0].float())


@ALL
def test_segment_gae_discounts_by_valid_tokens_and_not_by_positions(backend: str) -> None:
    rewards, values = row(0.0, 0.0, 9.0, 1.0), row(0.0, 9.0, 9.0, 0.0)
    mask, endpoints = torch.tensor([[1, 1, 0, 1]]).bool(), torch.tensor([[1, 0, 0, 1]]).bool()
    advantages, _ = kernels.segment_gae(rewards, values, mask, endpoints, 0.5, 1.0, backend=backend)
    assert advantages[0].tolist() == [0.25, 0.0, 0.0, 1.0]  # two valid tokens lie between; by positions 0.125


# ---- all of them


def run_all(first: torch.Tensor, second: torch.Tensor, mask: torch.Tensor, backend: str | None) -> list[torch.Tensor]:
    """Every result for float64 inputs."""
    split = kernels.variance_split(first, second, mask, orthogonal=False, tau=1.0, epsilon=1e-6, cap=4, backend=backend)
    return [
        split,
        kernels.literal(first, second, mask, orthogonal=False, backend=backend),
        kernels.published(first.float(), second.float(), mask, backend=backend),
        *kernels.segment_gae(first, second, mask, mask, 0.99, 0.95, backend=backend),
    ]


def random_batch() -> Batch:
    generator = torch.Generator().manual_seed(7)
    numbers = torch.randn(2, 5, 16, generator=generator, dtype=torch.float64)
    return Batch(numbers[0], numbers[1], torch.rand(5, 16, generator=generator) < 0.8)


@ALL
def test_tokens_outside_the_mask_are_never_read(backend: str) -> None:
    batch = random_batch()
    poisoned = [torch.where(batch.mask, tensor, float("nan")) for tensor in (batch.first, batch.second)]
    clean = run_all(batch.first, batch.second, batch.mask, backend)
    found = run_all(*poisoned, batch.mask, backend)
    assert all(torch.equal(left, right) for left, right in zip(found, clean, strict=True))
    read = run_all(*poisoned, torch.ones_like(batch.mask), backend)
    assert not all(torch.equal(left, right) for left, right in zip(read, clean, strict=True))


@ALL
def test_strides_do_not_matter_and_inputs_stay_as_they_are(backend: str) -> None:
    batch = random_batch()
    expected = run_all(batch.first, batch.second, batch.mask, backend)
    strided = [tensor.t().contiguous().t() for tensor in (batch.first, batch.second, batch.mask)]
    found = run_all(*strided, backend)
    assert all(torch.equal(left, right) for left, right in zip(found, expected, strict=True))
    assert [torch.equal(left, right) for left, right in zip(strided, vars(batch).values(), strict=True)] == [True] * 3
    transposed = run_all(*(tensor.reshape(16, 5).t() for tensor in (batch.first, batch.second, batch.mask)), backend)
    assert not torch.equal(transposed[0], expected[0])


@ALL
def test_scores_may_be_one_number_expanded(backend: str) -> None:
    batch = random_batch()
    one = torch.ones((), dtype=torch.float64)
    expanded, written_out = (
        run_all(batch.first, scores, batch.mask, backend)
        for scores in (one.expand(5, 16), torch.ones(5, 16, dtype=torch.float64))
    )
    assert all(torch.equal(left, right) for left, right in zip(expanded, written_out, strict=True))
    assert not torch.equal(expanded[0], run_all(batch.first, batch.second, batch.mask, backend)[0])


@ALL
@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0)])
def test_nothing_in_gives_nothing_out(backend: str, shape: tuple[int, int]) -> None:
    empty = torch.zeros(shape, dtype=torch.float64)
    for result in run_all(empty, empty, empty.bool(), backend):
        assert result.shape == shape


@ALL
def test_masks_may_be_integers(backend: str) -> None:
    batch = random_batch()
    expected = run_all(batch.first, batch.second, batch.mask, backend)
    found = run_all(batch.first, batch.second, batch.mask.long() * 2, backend)
    assert all(torch.equal(left, right) for left, right in zip(found, expected, strict=True))
    inverted = run_all(batch.first, batch.second, ~batch.mask, backend)
    assert not torch.equal(inverted[0], expected[0])


def test_importing_the_package_imports_neither_numba_nor_triton() -> None:
    code = (
        "import sys, torch; from groupppo import kernels\n"
        "present = lambda: sorted({'numba', 'triton'} & set(sys.modules))\n"
        "before = present(); ones = torch.ones(1, 2)\n"
        "kernels.published(ones, ones, ones.bool()); print(before, present())"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[] ['numba']"
