"""The formulas of cost against a counter: operations within 2 %, saved bytes within 3 %, and what follows from them."""

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from groupppo.config import REPOSITORY
from groupppo.profile.batch import build_model, random_batch
from groupppo.profile.config import load_profile
from groupppo.profile.counter import Counted, count
from groupppo.profile.passes import live_tokens, loss, prepare
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
from groupppo.update.memory import CAUSES, saved_bytes, update_bytes
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
FULL = load_profile(REPOSITORY / "benchmarks" / "profile.yaml").shapes


def counted(
    family: str,
    shape: Shape,
    variant: str,
    density: Fraction,
    *,
    checkpointing: bool = False,
    device: str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
) -> tuple[Counted, Work]:
    """One update under the counter, and the sizes that the formulas take."""
    chosen = find(variant)
    model = build_model(family, shape, dtype=dtype, checkpointing=checkpointing, seed=0, device=device)
    batch = random_batch(shape.vocabulary, PROMPT, RESPONSE, density, 0, "cpu")
    on_meta = device == "meta"
    if on_meta and chosen.mode == "streamed_reuse":
        pytest.skip("a store of keys and values holds real tensors")
    prepared = prepare(chosen, model, batch)
    with count(on_meta=on_meta) as found:
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


@pytest.mark.parametrize(
    ("name", "variant", "checkpointing"),
    [
        *((name, "gathered", True) for name in FULL),
        ("qwen2_5_0_5b", "dense", False),
        ("qwen2_5_0_5b", "dense_fused", False),
        ("qwen2_5_0_5b", "streamed_recompute", False),
    ],
)
def test_operations_at_full_shapes_are_those_counted_on_the_meta_device(name, variant, checkpointing):
    model, shape = FULL[name], FULL[name].shape
    density = Fraction(1, 16)
    found, work = counted(model.family, shape, variant, density, checkpointing=checkpointing, device="meta")
    assert total(shape, work, VARIANTS[variant]) == pytest.approx(found.flops, rel=2e-3)
    assert total(replace(shape, layers=shape.layers - 1), work, VARIANTS[variant]) < 0.99 * found.flops


@pytest.mark.parametrize("variant", ["dense", "dense_fused", "gathered_head", "gathered", "streamed_recompute"])
def test_the_meta_device_counts_what_real_tensors_count(variant):
    for checkpointing in (False, True):
        real, _ = counted("qwen2", SMALL, variant, Fraction(1, 8), checkpointing=checkpointing)
        meta, _ = counted("qwen2", SMALL, variant, Fraction(1, 8), checkpointing=checkpointing, device="meta")
        assert meta.flops == real.flops
        assert meta.saved_bytes == pytest.approx(real.saved_bytes, rel=0.03)


def test_a_counter_without_our_formulas_misses_attention_and_products_in_place():
    from torch.utils.flop_counter import FlopCounterMode

    found, work = counted("qwen2", SMALL, "gathered", Fraction(1, 8))
    model = build_model("qwen2", SMALL, dtype=torch.bfloat16, checkpointing=False, seed=0, device="cpu")
    batch = random_batch(SMALL.vocabulary, PROMPT, RESPONSE, Fraction(1, 8), 0, "cpu")
    with FlopCounterMode(display=False) as plain:
        loss(find("gathered"), model, batch, None).backward()
    missed = update_flops(SMALL, work, "gathered")["attention"] + 2 * SMALL.head * work.endpoints
    assert found.flops - plain.get_total_flops() == pytest.approx(missed, rel=1e-3)


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
    assert saved_bytes(shape, work, mode, element=element) == pytest.approx(found.saved_bytes, rel=0.05)
    assert saved_bytes(replace(shape, layers=2), work, mode, element=element) < 0.9 * found.saved_bytes


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
