"""The compiled recursions against the loops they are made of, wrong versions of them, and what they refuse."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from groupppo.algorithm import Cause, kernels
from groupppo.algorithm.kernels import reference
from groupppo.config import REPOSITORY

TIES = st.sampled_from([0.0, 1.0, -1.0, 0.5, -0.5])
WILD = st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 1e-40])
TAUS = st.sampled_from([0.1, 0.5, 1.0, 2.0, 10.0])
RATES = st.one_of(st.sampled_from([1.0, 0.99, 0.95, 0.5, 0.0]), st.floats(0, 1))
Batch = tuple[Tensor, Tensor, Tensor]


@st.composite
def batches(draw: st.DrawFn, dtype: torch.dtype, wild: bool = True) -> Batch:
    """Two numbers per token and a mask: ties, holes, empty responses; if wild, not finite, huge and subnormal ones."""
    shape = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    number = st.one_of(TIES, st.floats(-5, 5, width=32 if dtype == torch.float32 else 64), *([WILD] if wild else []))

    def grid(entries: st.SearchStrategy, of: torch.dtype) -> Tensor:
        row = st.lists(entries, min_size=shape[1], max_size=shape[1])
        return torch.tensor(draw(st.lists(row, min_size=shape[0], max_size=shape[0])), dtype=of)

    return grid(number, dtype), grid(number, dtype), grid(st.booleans(), torch.bool)


def row(*numbers: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor([numbers], dtype=dtype)


def valid(length: int) -> Tensor:
    return torch.ones(1, length, dtype=torch.bool)


def plain(loop: Callable[..., None], *tensors: Tensor, settings: tuple = ()) -> Tensor:
    """The causes that a loop writes when Python itself runs it."""
    cause = torch.zeros(tensors[0].shape, dtype=torch.int8)
    with np.errstate(all="ignore"):
        loop(*(tensor.numpy() for tensor in tensors), *settings, cause.numpy())
    return cause


@pytest.mark.parametrize("orthogonal", [True, False])
@settings(max_examples=100)
@given(
    batch=batches(torch.float64),
    tau=TAUS,
    cap=st.integers(1, 6),
    epsilon=st.sampled_from([0.0, 1e-6]),
    at=st.booleans(),
)
def test_compiled_the_ratio_rules_are_their_loops(
    orthogonal: bool, batch: Batch, tau: float, cap: int, epsilon: float, at: bool
) -> None:
    advantages, scores, mask = batch
    scores = scores.abs() if orthogonal else scores
    settings = {"orthogonal": orthogonal, "tau": tau, "epsilon": epsilon, "cap": cap, "at": at}
    split = kernels.variance_split(advantages, scores, mask, **settings)
    expected = plain(reference.variance_split, advantages, scores, mask, settings=tuple(settings.values()))
    assert torch.equal(split, expected)
    literal = kernels.literal(advantages, scores, mask, orthogonal=orthogonal)
    assert torch.equal(literal, plain(reference.literal, advantages, scores, mask, settings=(orthogonal,)))


@settings(max_examples=100)
@given(batch=batches(torch.float32))
def test_compiled_the_published_rule_is_its_loop(batch: Batch) -> None:
    assert torch.equal(kernels.published(*batch), plain(reference.published, *batch))


def same_bits(left: Tensor, right: Tensor) -> bool:
    """Equal dtype and bits, so that 0.0 and -0.0 differ."""
    integers = {torch.float32: torch.int32, torch.float64: torch.int64}[left.dtype]
    return left.dtype == right.dtype and torch.equal(left.view(integers), right.view(integers))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(max_examples=100)
@given(data=st.data(), gamma=RATES, lam=RATES)
def test_compiled_segment_gae_is_its_loop_to_the_bit(
    dtype: torch.dtype, data: st.DataObject, gamma: float, lam: float
) -> None:
    rewards, values, mask = data.draw(batches(dtype))
    chosen = data.draw(st.lists(st.booleans(), min_size=mask.numel(), max_size=mask.numel()))
    endpoints = torch.tensor(chosen).reshape(mask.shape) & mask
    powers = [gamma**n for n in range(mask.shape[1] + 1)]
    tables = (np.array(table, dtype=rewards.numpy().dtype) for table in ([gamma], powers, [lam * p for p in powers]))
    scalar, *discounts = tables
    expected = torch.zeros_like(rewards), torch.zeros_like(rewards)
    arrays = (tensor.numpy() for tensor in (rewards, values, mask, endpoints))
    with np.errstate(all="ignore"):
        reference.segment_gae(*arrays, scalar[0], *discounts, *(tensor.numpy() for tensor in expected))
    found = kernels.segment_gae(rewards, values, mask, endpoints, gamma, lam)
    assert all(same_bits(left, right) for left, right in zip(found, expected, strict=True))


# ---- ties that other arithmetic would break


def causes(advantages: Tensor, scores: Tensor, tau: float = 1.0, epsilon: float = 0.0) -> list[int]:
    split = kernels.variance_split(
        advantages, scores, valid(advantages.shape[1]), orthogonal=True, tau=tau, epsilon=epsilon, cap=16
    )
    return split[0].tolist()


def fused(a: float, b: float, c: float) -> float:
    """a * b + c rounded once, as a fused multiply-add does."""
    return float(Fraction(a) * Fraction(b) + Fraction(c))


def split_fused(advantages: list[float], scores: list[float]) -> list[int]:
    """Wrong: products and sums contracted to fused multiply-adds; orthogonal, tau 1, epsilon 0, no cap."""
    cause, size, p, q = [0] * len(advantages), 0, 0.0, 0.0
    for t, (a, s) in enumerate(zip(advantages, scores, strict=True)):
        grown = fused(a * a, s, p)
        if size >= 1 and a * a * (q + s) > grown:
            cause[t - 1] = Cause.CRITERION
            size, p, q = 1, a * a * s, s
        else:
            size, p, q = size + 1, grown, q + s
    return [*cause[:-1], Cause.END] if size else cause


def test_equal_tokens_are_a_tie_which_a_fused_multiply_add_would_break() -> None:
    advantages, scores = row(*[0.1] * 4), row(*[0.7] * 4)
    assert causes(advantages, scores) == [0, 0, 0, Cause.END]
    assert split_fused(advantages[0].tolist(), scores[0].tolist()) != [0, 0, 0, Cause.END]


def test_tau_is_a_double_which_float32_would_change() -> None:
    # tau * r_ppo is exactly r_grpo (0.7 * 10 = 7): no split. With tau rounded to float32 it is less: split.
    advantages, scores = row(2.0, 1.0), row(1.0, 6.0)
    assert causes(advantages, scores, tau=0.7) == [0, Cause.END]
    assert causes(advantages, scores, tau=float(torch.tensor(0.7))) == [Cause.CRITERION, Cause.END]


def test_the_literal_rule_is_a_comparison_which_a_number_that_is_none_fails() -> None:
    cause = kernels.literal(row(1.0, float("nan"), 2.0), row(1.0, 1.0, 1.0), valid(3), orthogonal=True)
    assert cause[0].tolist() == [Cause.CRITERION, 0, Cause.END]


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
    cause, group_start, nothing = [0] * len(mask), 0, torch.zeros((), dtype=dtype)
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
            cause[t] = Cause.CRITERION
            group_start = number + 1
        elif number == len(positions) - 1:
            cause[t] = Cause.END
    return cause


@settings(max_examples=80)
@given(batch=batches(torch.float32, wild=False))
def test_the_published_rule_is_the_public_code_on_tensors_without_dimensions(batch: Batch) -> None:
    cause = kernels.published(*batch)
    for number, response in enumerate(zip(*batch, strict=True)):
        assert cause[number].tolist() == transcription(*response)


@pytest.mark.parametrize(
    ("advantages", "scores", "mask", "wrong"),
    [
        # In float32 the first token's ratio rounds to more than 1, in float64 it is 1 and closes there.
        ((0.1, 0.1, 1.0), (0.3, 0.3, 1.0), (1, 1, 1), {"dtype": torch.float64}),
        ((0.0, 0.0, 1.0, 2.0), (1.0, 0.0, 1.0, 1.0), (1, 0, 1, 1), {"through_holes": True}),
        # The second group's ratio at its second token is 3^2 / 2^2 = 2.25: below step 3, above its own size 2.
        ((1.0, 0.0, 1.0), (1.0, 1.0, 2.0), (1, 1, 1), {"steps_of_group": True}),
    ],
    ids=["float64", "through holes", "steps of the group"],
)
def test_another_reading_of_the_public_code_would_be_noticed(
    advantages: tuple, scores: tuple, mask: tuple, wrong: dict[str, Any]
) -> None:
    response = row(*advantages, dtype=torch.float32), row(*scores, dtype=torch.float32), torch.tensor([mask]).bool()
    cause = kernels.published(*response)[0].tolist()
    assert cause == transcription(*(tensor[0] for tensor in response))
    assert cause != transcription(*(tensor[0] for tensor in response), **wrong)


# ---- what all of them take and refuse


def run_split(first: Tensor, second: Tensor, mask: Tensor) -> Tensor:
    return kernels.variance_split(first, second, mask, orthogonal=False, tau=1.0, epsilon=1e-6, cap=4)


def run_literal(first: Tensor, second: Tensor, mask: Tensor) -> Tensor:
    return kernels.literal(first, second, mask, orthogonal=True)


def run_published(first: Tensor, second: Tensor, mask: Tensor) -> Tensor:
    return kernels.published(first.float(), second.float(), mask)


def run_gae(first: Tensor, second: Tensor, mask: Tensor) -> Tensor:
    return torch.stack(kernels.segment_gae(first, second, mask, mask, 0.99, 0.95))


EVERY_KERNEL = pytest.mark.parametrize("run", [run_split, run_literal, run_published, run_gae])


def random_batch() -> Batch:
    generator = torch.Generator().manual_seed(7)
    numbers = torch.randn(2, 5, 16, generator=generator, dtype=torch.float64)
    return numbers[0], numbers[1], torch.rand(5, 16, generator=generator) < 0.8


@EVERY_KERNEL
def test_tokens_outside_the_mask_are_never_read(run: Callable[..., Tensor]) -> None:
    first, second, mask = random_batch()
    poisoned = [torch.where(mask, tensor, float("nan")) for tensor in (first, second)]
    clean = run(first, second, mask)
    assert torch.equal(run(*poisoned, mask), clean)
    assert not torch.equal(run(*poisoned, torch.ones_like(mask)), clean)


@EVERY_KERNEL
def test_strides_and_the_masks_type_do_not_matter_and_inputs_stay_as_they_are(run: Callable[..., Tensor]) -> None:
    batch = random_batch()
    expected = run(*batch)
    strided = [tensor.t().contiguous().t() for tensor in batch]
    assert torch.equal(run(*strided), expected)
    assert all(torch.equal(left, right) for left, right in zip(strided, batch, strict=True))
    assert torch.equal(run(*batch[:2], batch[2].long() * 2), expected)
    assert not torch.equal(run(*batch[:2], ~batch[2]), expected)
    expanded = torch.ones((), dtype=torch.float64).expand(5, 16)
    assert torch.equal(run(batch[0], expanded, batch[2]), run(batch[0], expanded.contiguous(), batch[2]))


@EVERY_KERNEL
@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0)])
def test_nothing_in_gives_nothing_out(run: Callable[..., Tensor], shape: tuple[int, int]) -> None:
    empty = torch.zeros(shape, dtype=torch.float64)
    assert run(empty, empty, empty.bool()).numel() == 0


@EVERY_KERNEL
def test_shapes_must_match(run: Callable[..., Tensor]) -> None:
    first, second, mask = random_batch()
    with pytest.raises(ValueError, match="has shape"):
        run(first, second[:, :-1], mask)
    with pytest.raises(ValueError, match="two dimensions"):
        run(first[0], second[0], mask[0])
    with pytest.raises(ValueError, match="is on meta"):
        run(first.to("meta"), second.to("meta"), mask)


def test_a_dtype_that_would_round_elsewhere_is_refused() -> None:
    first, second, mask = random_batch()
    with pytest.raises(TypeError, match=r"advantages is torch\.float32, needed is torch\.float64"):
        run_split(first.float(), second, mask)
    with pytest.raises(TypeError, match=r"scores is torch\.float64, needed is torch\.float32"):
        kernels.published(first.float(), second, mask)
    with pytest.raises(TypeError, match=r"rewards is torch\.int64, needed is a float"):
        run_gae(first.long(), second, mask)


def test_gae_widens_the_narrow_values_of_an_autocast_critic_and_rounds_nothing() -> None:
    first, second, mask = random_batch()
    narrow = second.bfloat16()
    found = run_gae(first.float(), narrow, mask)
    assert found.dtype == torch.float32
    assert torch.equal(found, run_gae(first.float(), narrow.float(), mask))
    assert not torch.equal(found, run_gae(first.float(), second.float(), mask))
    assert run_gae(first, second.float(), mask).dtype == torch.float64


class Elsewhere(Tensor):
    """A CPU tensor that says that it is on a GPU, and is moved as one: there is none where tests run."""

    moved: tuple[int, int] = (0, 0)  # to the CPU, and to the GPU

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == Tensor.device.__get__:
            return torch.device("cuda", 0)
        if func is Tensor.numpy:
            cls.moved = cls.moved[0] + 1, cls.moved[1]
            assert kwargs == {"force": True}
        return super().__torch_function__(func, types, args, kwargs)


@EVERY_KERNEL
def test_tensors_of_another_device_run_on_the_cpu_and_the_result_goes_back(
    run: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = random_batch()
    stock = Tensor.to

    def to(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if args and args[0] == torch.device("cuda", 0):
            Elsewhere.moved = Elsewhere.moved[0], Elsewhere.moved[1] + 1
            return tensor.as_subclass(Elsewhere)
        return stock(tensor, *args, **kwargs)

    expected = run(*batch)
    monkeypatch.setattr(Tensor, "to", to)
    monkeypatch.setattr(Elsewhere, "moved", (0, 0))
    found = run(*(tensor.as_subclass(Elsewhere) for tensor in batch))
    assert found.device.type == "cuda"
    assert torch.equal(found.as_subclass(Tensor), expected)
    assert Elsewhere.moved == ((4, 2) if run is run_gae else (3, 1))


GROUPS = """
import sys, torch
from groupppo.algorithm import kernels
before = "numba" in sys.modules
ones = torch.ones(1, 4, dtype=torch.float64)
options = {"orthogonal": True, "tau": 0.5, "epsilon": 1e-8, "cap": 2}
print(before, kernels.variance_split(ones, ones, ones.bool(), **options).tolist(), "numba" in sys.modules)
"""


def test_kernels_run_where_no_cache_can_be_written_and_import_numba_late(tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "groupppo", tmp_path / "groupppo", ignore=shutil.ignore_patterns("__pycache__"))
    # Files in the place of folders, which nobody can write into, root included.
    for name in ("groupppo/algorithm/kernels/__pycache__", "home"):
        (tmp_path / name).touch()
    places = {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "home"), "PYTHONPATH": str(tmp_path)}
    variables = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"} | places
    command = [sys.executable, "-c", GROUPS]
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("False [[1, 1, 1, 3]] True\n", "")
