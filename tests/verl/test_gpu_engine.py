"""The engines as a run on GPUs configures them, on a CPU with a stand-in for flash-attn, against the formulas.

Flash attention on packed rows or torch's own on padded ones, FSDP2 on one and two ranks, gradient checkpointing or
none, verl's fused head, float32 and bfloat16, verl's own loader of critics. Not here: CUDA, NCCL, torch.compile, and
what flash-attn's kernels compute.
"""

from dataclasses import replace

import pytest
import torch

from tests.verl import updates
from tests.verl.plain_updates import (
    ROUNDING,
    ROUNDING_OF_CHANGE,
    Engines,
    Statistic,
    distance,
    entropy,
    log_prob,
    run_engines,
    sum_pi_squared,
    value,
)
from tests.verl.updates import ON_GPU, Role, Update

pytestmark = pytest.mark.verl

ROLES: tuple[Role, ...] = ("policy", "value")
# bfloat16 rounds to 8 bits, 4e-3, in each of a handful of sums in float32 behind a number.
BFLOAT16 = 5 * 2**-8
# Two ways to compute the same in bfloat16 round other sums; their errors have one size.
ALIKE = 1.1


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Engines:
    return run_engines(tmp_path_factory.mktemp("gpu_engines"), "gpu")


def error(engines: Engines, update: Update) -> float:
    """Of the gradient, by the formulas."""
    return distance(engines.gradients(update), engines.expected(replace(update, shift=0))[0])


@pytest.mark.parametrize("computes", ["", "gathered"])
@pytest.mark.parametrize(
    ("role", "engine"),
    [
        *((role, engine) for role in ROLES for engine in ("float32", "stored", "sdpa_float32")),
        ("policy", "fused"),
    ],
)
def test_the_gradient_is_that_of_the_formulas_masked_and_gathered(
    engines: Engines, role: Role, engine: str, computes: str
) -> None:
    ways = updates.on_gpu(role, engine, computes)
    _, change = engines.expected(ways[0])
    assert {update.ranks for update in ways} == {1, 2}
    for update in ways:
        assert error(engines, update) < ROUNDING, update
        assert distance(engines.change(update), change) < ROUNDING_OF_CHANGE, update


@pytest.mark.parametrize("computes", ["", "gathered"])
@pytest.mark.parametrize("role", ROLES)
def test_epochs_and_mini_batches_take_the_steps_of_the_formulas(engines: Engines, role: Role, computes: str) -> None:
    for update in updates.steps_on_gpu(role, computes):
        expected, change = engines.expected(update)
        for found, wanted in zip(engines.gradients(update), expected, strict=True):
            assert distance(found, wanted) < ROUNDING, update
        assert distance(engines.change(update), change) < ROUNDING_OF_CHANGE, update


@pytest.mark.parametrize("engine", ["float32", "stored"])
def test_streamed_updates_on_packed_rows_have_the_gradient_of_padded_ones_on_one_rank(
    engines: Engines, engine: str
) -> None:
    """With keys and values that are computed again or kept; the formulas are those of test_grouping_engine.py."""
    ways = updates.streamed(engine)
    assert {(update.ranks, update.kept) for update in ways} == {(1, False), (1, True), (2, False), (2, True)}
    for update in ways:
        assert error(engines, update) < ROUNDING, update
        assert distance(engines.change(update), engines.expected(update)[1]) < ROUNDING_OF_CHANGE, update


@pytest.mark.parametrize("role", ROLES)
def test_endpoints_one_token_late_and_stale_keys_and_values_would_be_seen(engines: Engines, role: Role) -> None:
    wrong = updates.mistakes_on_gpu(role)
    assert len(wrong) == (5 if role == "policy" else 3)
    for update in wrong:
        assert error(engines, update) > (0.01 if update.stale else 0.5), update


@pytest.mark.parametrize("engine", ["bfloat16", "sdpa_bfloat16"])
@pytest.mark.parametrize("role", ROLES)
def test_in_bfloat16_a_gathered_update_errs_as_verls_own_does(engines: Engines, role: Role, engine: str) -> None:
    for stock in updates.on_gpu(role, engine, ""):
        allowed = error(engines, stock)
        assert 100 * ROUNDING < allowed < BFLOAT16  # and it was in bfloat16
        assert error(engines, replace(stock, computes="gathered")) < ALIKE * allowed


def test_in_bfloat16_a_streamed_update_errs_by_rounding_alone(engines: Engines) -> None:
    for update in updates.streamed("bfloat16"):
        assert 100 * ROUNDING < error(engines, update) < BFLOAT16, update


@pytest.mark.parametrize("engine", ON_GPU)
@pytest.mark.parametrize(
    ("name", "statistic"),
    [("log_probs", log_prob), ("entropy", entropy), ("values", value), ("sum_pi_squared", sum_pi_squared)],
)
def test_what_a_pass_says_of_a_token_is_what_the_plain_model_says_of_it(
    engines: Engines, name: str, statistic: Statistic, engine: str
) -> None:
    """verl's own pass, the one that gathers and the one that keeps keys and values."""
    plain = engines.plain["value" if name == "values" else "policy"]
    plain.model.load_state_dict(plain.start)
    with torch.no_grad():
        expected = plain.statistic(engines.batch, statistic)
    counts = engines.batch.losses("endpoint_endpoints").policy.counts
    found = {
        kind: engines.tensors[f"infer-{kind}{name}-{engine}"].double()
        for kind in ("", "gathered_", "kept_")
        if f"infer-{kind}{name}-{engine}" in engines.tensors
    }
    # Without logits, or values, there is nothing to gather or to keep.
    kinds = {"log_probs": 3, "entropy": 3, "values": 2, "sum_pi_squared": 1}
    assert len(found) == (0 if engine == "fused" and name in ("values", "sum_pi_squared") else kinds[name])
    for kind, tensor in found.items():
        gathered = kind == "gathered_"
        wanted, stock = (expected * counts, found[""] * counts) if gathered else (expected, found[""])
        bound = ALIKE * distance(stock, wanted) + 1e-9 if "bfloat16" in engine else ROUNDING
        assert distance(tensor, wanted) < bound, kind
        assert distance(tensor.roll(1, dims=1), wanted) > 0.1


@pytest.mark.parametrize("engine", ON_GPU)
def test_flash_attention_was_asked_for_unless_another_was_set_and_the_fused_head_where_it_was(
    engines: Engines, engine: str
) -> None:
    flash = not engine.startswith("sdpa")
    for ranks in (1, 2):
        for kernel, used in (("attention", flash), ("cross_entropy", flash), ("fused_head", engine == "fused")):
            assert (int(engines.tensors[f"calls-{kernel}-{engine}-{ranks}"]) > 0) == used, kernel
