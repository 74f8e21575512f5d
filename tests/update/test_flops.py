"""The formulas of cost against a counter: operations and saved bytes, and what follows from them."""

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from groupppo.profile.bench import build_model, live_tokens, loss, prepare, random_batch
from groupppo.profile.measure import Counted, count
from groupppo.update import memory
from groupppo.update.flops import (
    MODES,
    Shape,
    Work,
    forward_flops,
    head_bound,
    head_share,
    needed_generation,
    needed_head_share,
    needed_speedup,
    speedup,
    step_bound,
    update_bound,
    update_flops,
)
from groupppo.update.memory import CAUSES, RunShape, host_bytes, server_bytes, step_bytes, update_bytes
from groupppo.update.variants import find

SMALL = Shape(64, 3, 160, 4, 2, 16, 1009, tied=True)
PROMPT, RESPONSE = 24, 96
VARIANTS = {
    "dense": "dense",
    "masked": "masked",
    "dense_fused": "fused",
    "gathered_head": "gathered_head",
    "gathered_head_eager": "gathered_head",
    "gathered": "gathered",
    "streamed_recompute": "streamed",
    "streamed_reuse": "streamed_reuse",
    "streamed_reuse_window3": "streamed_reuse",
}


def counted(
    family: str,
    shape: Shape,
    variant: str,
    density: Fraction,
    *,
    checkpointing: bool = False,
    dtype: torch.dtype = torch.bfloat16,
) -> tuple[Counted, Work]:
    """One update under the counter, and the sizes that the formulas take."""
    chosen = find(variant)
    model = build_model(family, shape, dtype=dtype, checkpointing=checkpointing, seed=0, device="cpu")
    batch = random_batch(shape.vocabulary, PROMPT, RESPONSE, density, 0, "cpu")
    prepared = prepare(chosen, model, batch)
    with count() as found:
        loss(chosen, model, batch, prepared).backward()
    kept = len(batch.layout.input_ids) - 1 if chosen.cut else 0
    live = live_tokens(chosen, batch)
    return found, Work(PROMPT + RESPONSE, RESPONSE, len(batch.endpoints), checkpointing, live, kept)


def total(shape: Shape, work: Work, mode: str) -> float:
    return sum(update_flops(shape, work, mode).values())


@pytest.mark.parametrize("checkpointing", [False, True], ids=["stored", "checkpointed"])
@pytest.mark.parametrize("density", [Fraction(1, 16), Fraction(1, 5), Fraction(1)], ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_operations_of_every_mode_are_those_a_counter_finds(variant, density, checkpointing):
    found, work = counted("qwen2", SMALL, variant, density, checkpointing=checkpointing)
    mode = VARIANTS[variant]
    assert total(SMALL, work, mode) == pytest.approx(found.flops, rel=2e-3)
    longer = replace(work, tokens=work.tokens + 8, kept=work.kept and work.kept + 8, endpoints=work.endpoints + 8)
    assert total(SMALL, longer, mode) != pytest.approx(found.flops, rel=2e-2)


@pytest.mark.parametrize(
    ("family", "shape"),
    [
        ("qwen3", replace(SMALL, query_key_norm=True)),
        ("llama", replace(SMALL, tied=False)),
        ("qwen3", replace(SMALL, head_dim=24, kv_heads=4, query_key_norm=True)),
    ],
    ids=["qwen3", "llama untied", "wide heads"],
)
def test_operations_hold_for_every_family(family, shape):
    for variant in ("dense", "gathered", "streamed_recompute"):
        found, work = counted(family, shape, variant, Fraction(1, 8))
        assert total(shape, work, VARIANTS[variant]) == pytest.approx(found.flops, rel=2e-3)
        assert total(replace(shape, layers=2), work, VARIANTS[variant]) < 0.95 * found.flops


def test_a_forward_pass_is_a_third_of_an_update_in_its_products():
    work = Work(120, 96, 6)
    for mode in ("dense", "gathered_head", "gathered"):
        forward, update = forward_flops(SMALL, work, mode), update_flops(SMALL, work, mode)
        assert update["layers"] == 3 * forward["layers"]
        assert update["head"] == 3 * forward["head"]
        assert update["attention"] == 3.5 * forward["attention"]
    assert update_flops(SMALL, work, "fused")["head"] == 4 * forward_flops(SMALL, work, "fused")["head"]
    with pytest.raises(ValueError, match="streamed"):
        forward_flops(SMALL, work, "streamed_reuse")


def test_unknown_modes_are_refused():
    for function in (update_flops, forward_flops, update_bytes):
        with pytest.raises(ValueError, match="gather"):
            function(SMALL, Work(8, 4, 2), "gather")


shapes = st.builds(
    Shape,
    hidden=st.sampled_from([64, 896, 4096]),
    layers=st.integers(2, 40),
    intermediate=st.sampled_from([128, 4864, 18944]),
    heads=st.sampled_from([8, 32]),
    kv_heads=st.sampled_from([2, 8]),
    head_dim=st.sampled_from([16, 128]),
    vocabulary=st.sampled_from([1000, 151936]),
    tied=st.booleans(),
)


@st.composite
def works(draw):
    response = draw(st.integers(1, 8192))
    endpoints = draw(st.integers(1, response))
    live = draw(st.integers(endpoints, response))
    tokens = response + draw(st.integers(1, 2048))
    return Work(tokens, response, endpoints, draw(st.booleans()), live)


@given(shapes, works())
def test_no_exact_mode_beats_its_bound_and_every_bound_is_at_least_one(shape, work):
    assert 1 <= head_bound(shape, work) <= update_bound(shape, work) * (1 + 1e-12)
    assert head_bound(shape, work) == pytest.approx(speedup(shape, work, "gathered_head"))
    assert speedup(shape, work, "masked") == 1
    assert speedup(shape, work, "streamed") <= speedup(shape, work, "streamed_reuse") * (1 + 1e-12)
    assert head_bound(shape, work) < 1 / (1 - head_share(shape, work))


@given(shapes, works())
def test_more_endpoints_never_cost_less(shape, work):
    more = replace(work, endpoints=min(work.endpoints + 7, work.response), live=0)
    for mode in MODES:
        assert total(shape, more, mode) >= total(shape, replace(work, live=0), mode)


def test_a_step_is_as_fast_as_its_slowest_share_allows():
    assert step_bound(0.5, {"update": 1.0}, {"update": 1e12}) == pytest.approx(2)
    assert step_bound(0.0, {"update": 0.75, "ref": 0.25}, {"update": 3.0, "ref": 1.0}) == pytest.approx(2)
    with pytest.raises(ValueError, match="sum to 1"):
        step_bound(0.5, {"update": 0.9}, {"update": 2.0})
    with pytest.raises(ValueError, match="name the stages"):
        step_bound(0.5, {"update": 1.0}, {"ref": 2.0})


@given(st.floats(1.5, 50), st.floats(1.0, 1e4), st.floats(0.0, 0.9))
def test_what_a_speed_up_needs_gives_that_speed_up_and_less_does_not(target, rest, generation):
    share = needed_generation(target, rest)
    if share is None:
        assert step_bound(0.0, {"all": 1.0}, {"all": rest}) < target
    else:
        assert step_bound(share, {"all": 1.0}, {"all": rest}) == pytest.approx(target)
        assert step_bound(min(1.0, share + 0.1), {"all": 1.0}, {"all": rest}) <= target
    needed = needed_speedup(target, generation)
    if needed is None:
        assert step_bound(generation, {"all": 1.0}, {"all": 1e15}) <= target * (1 + 1e-6)
    else:
        assert step_bound(generation, {"all": 1.0}, {"all": needed}) == pytest.approx(target)


def test_sixteen_times_from_the_head_alone_needs_a_model_that_is_all_head():
    assert needed_head_share(16, 1 / 16) == pytest.approx(1.0)
    assert needed_head_share(16, 1 / 8) is None
    assert needed_head_share(2, 0.0) == 0.5
    assert needed_head_share(2, 1.0) is None


@pytest.mark.parametrize(
    ("family", "shape"), [("qwen2", SMALL), ("qwen3", replace(SMALL, query_key_norm=True)), ("llama", SMALL)]
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("variant", ["dense_fused", "gathered_head_eager", "gathered", "streamed_reuse"])
def test_saved_activations_are_those_that_autograd_keeps(family, shape, dtype, variant):
    found, work = counted(family, shape, variant, Fraction(1, 8), dtype=dtype)

    mode, element = VARIANTS[variant], dtype.itemsize
    flowing = work.live if mode == "streamed_reuse" else work.tokens
    kept = memory._head(shape, work, mode, False, element, 2**26, 2**27)[2]
    assert memory._saved(shape, work, mode, flowing, element) + kept == pytest.approx(found.saved_bytes, rel=0.05)
    fewer = replace(shape, layers=2)
    assert memory._saved(fewer, work, mode, flowing, element) + kept < 0.9 * found.saved_bytes


@given(shapes, works())
def test_memory_has_no_cause_below_zero_and_a_sparse_update_needs_no_more_than_a_dense_one(shape, work):
    dense = update_bytes(shape, work, "dense")
    assert tuple(dense) == CAUSES
    for mode in MODES:
        assert min(update_bytes(shape, work, mode).values()) >= 0
    assert update_bytes(shape, work, "masked") == dense


def test_a_gradient_that_autograd_holds_counts_only_with_tied_weights():
    work = Work(640, 512, 32, checkpointing=True)
    shape = Shape(896, 24, 4864, 14, 2, 64, 151936, tied=True)
    held = update_bytes(shape, work, "gathered_head", eager=False)["head_gradient"]
    assert held == 3 * 2 * shape.head
    assert update_bytes(shape, work, "gathered_head", eager=True)["head_gradient"] == 0
    assert update_bytes(replace(shape, tied=False), work, "gathered_head", eager=False)["head_gradient"] == 0


FULL = Shape(hidden=896, layers=24, intermediate=4864, heads=14, kv_heads=2, head_dim=64, vocabulary=151936, tied=True)
RUN = RunShape(
    shape=FULL,
    gpus=1,
    tensor_parallel=1,
    micro_batch=4096,
    longest=1024,
    fused=False,
    critic=True,
    reference=False,
    checkpointing=True,
    offload="none",
    server_share=0.4,
)
GPU = 80e9


def test_resting_states_are_master_weights_and_two_moments_of_both_networks() -> None:
    phases = step_bytes(RUN, GPU)
    assert phases["rollout"]["states"] == 2 * 12 * FULL.parameters
    assert phases["update_actor"]["states"] == (12 + 4 + 12) * FULL.parameters
    assert phases["rollout"]["server"] == 0.4 * GPU
    alone = step_bytes(replace(RUN, critic=False), GPU)
    assert alone["rollout"]["states"] == 12 * FULL.parameters
    assert "update_critic" not in alone


@given(gpus=st.sampled_from([1, 2, 4, 8]), offload=st.sampled_from(["none", "between", "always"]))
def test_more_gpus_and_more_offloading_never_need_more_of_one_gpu(gpus: int, offload: str) -> None:
    run = replace(RUN, gpus=gpus, offload=offload)
    for lighter in (replace(run, gpus=2 * gpus), replace(run, offload="always")):
        for phase, causes in step_bytes(lighter, GPU).items():
            assert sum(causes.values()) <= sum(step_bytes(run, GPU)[phase].values())


def test_what_leaves_the_gpu_is_in_the_machines_memory() -> None:
    assert host_bytes(RUN) == 0
    between, always = replace(RUN, offload="between"), replace(RUN, offload="always")
    assert step_bytes(between, GPU)["rollout"]["states"] == 0
    assert host_bytes(between) == 2 * 12 * FULL.parameters
    assert host_bytes(always) == 2 * 16 * FULL.parameters
    assert step_bytes(always, GPU)["update_actor"]["states"] == 0
    assert step_bytes(between, GPU)["update_actor"]["states"] == 16 * FULL.parameters


def test_only_the_policys_head_is_wide_and_a_fused_one_keeps_no_logits() -> None:
    dense, fused = step_bytes(RUN, GPU), step_bytes(replace(RUN, fused=True), GPU)
    assert dense["update_actor"]["update"] > 4 * RUN.micro_batch * FULL.vocabulary
    assert fused["update_actor"]["update"] < dense["update_actor"]["update"] / 2
    assert dense["update_critic"]["update"] < dense["update_actor"]["update"] / 2
    kept = step_bytes(replace(RUN, kept=1e9), GPU)
    assert [phase["keys_values"] for phase in kept.values()] == [0, 1e9, 1e9]


def test_the_server_needs_its_weights_and_one_responses_keys_and_values() -> None:
    assert server_bytes(RUN) == 2 * FULL.parameters + 2 * 2 * 24 * 2 * 64 * 1024
    assert server_bytes(replace(RUN, tensor_parallel=2)) == server_bytes(RUN) / 2


def test_an_unknown_offload_is_an_error() -> None:
    with pytest.raises(ValueError, match="between"):
        step_bytes(replace(RUN, offload="sometimes"), GPU)
