"""What variants compute: exact ones have the gradient they say they have, and no ratio meets the clip."""

from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from groupppo.profile import work_of
from groupppo.profile.bench import (
    CLIP_SAFE,
    build_model,
    fused_log_probs,
    live_tokens,
    log_probs_of,
    loss,
    prepare,
    random_batch,
)
from groupppo.update.flops import Shape
from groupppo.update.variants import VARIANTS, find

SHAPE = Shape(32, 3, 48, 4, 2, 8, 97, tied=True)
RUNNABLE = [name for name, variant in VARIANTS.items() if not variant.missing("cpu")]
EXACT = [name for name in RUNNABLE if VARIANTS[name].exact]


def bench(family="qwen2", checkpointing=False):
    model = build_model(family, SHAPE, dtype=torch.float32, checkpointing=checkpointing, seed=0, device="cpu")
    batch = random_batch(SHAPE.vocabulary, 8, 32, Fraction(1, 5), 0, "cpu")
    with torch.no_grad():
        return model, batch.with_old(fused_log_probs(model, batch), seed=1)


def gradient(model, batch, variant):
    for parameter in model.parameters():
        parameter.grad.zero_()
    value = loss(variant, model, batch, prepare(variant, model, batch))
    value.backward()
    return float(value), torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def distance(one, other):
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("checkpointing", [False, True], ids=["stored", "checkpointed"])
@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
def test_exact_variants_have_the_gradient_of_the_dense_or_the_masked_update(family, checkpointing):
    model, batch = bench(family, checkpointing)
    reference = {"response": gradient(model, batch, find("dense")), "endpoints": gradient(model, batch, find("masked"))}
    reference["masked"] = reference["endpoints"]
    assert distance(reference["response"][1], reference["masked"][1]) > 0.1
    for name in EXACT:
        value, found = gradient(model, batch, find(name))
        expected = reference[find(name).on]
        assert value == pytest.approx(expected[0], rel=1e-4, abs=1e-6), name
        assert distance(found, expected[1]) < 1e-4, name


def test_a_variant_at_endpoints_one_off_has_another_gradient():
    model, batch = bench()
    _, right = gradient(model, batch, find("gathered"))
    moved = replace(batch, endpoints=(batch.endpoints - 1))
    _, wrong = gradient(model, moved, find("gathered"))
    assert distance(wrong, right) > 0.1


@pytest.mark.parametrize("name", [*RUNNABLE, "streamed_reuse_window3", "streamed_reuse_share25"])
def test_no_ratio_meets_the_clip(name):
    model, batch = bench()
    variant = find(name)
    old = batch.old_log_probs if variant.on != "endpoints" else batch.old_log_probs[batch.endpoints]
    with torch.no_grad():
        gap = log_probs_of(variant, model, batch, prepare(variant, model, batch)) - old
    assert gap.abs().max() < CLIP_SAFE + 1e-3
    assert gap.abs().max() > 0.2 * CLIP_SAFE
    assert gap.exp().min() > 0.8
    assert gap.exp().max() < 1.2


def test_live_tokens_grow_with_windows_and_shares():
    _, batch = bench()
    alone, window, share = (live_tokens(find(f"streamed_reuse{part}"), batch) for part in ("", "_window3", "_share25"))
    assert alone == len(batch.endpoints)
    assert alone < window <= 4 * alone
    assert alone < share
    assert live_tokens(find("gathered"), batch) == 0


@pytest.mark.parametrize(
    ("response", "density", "expected"),
    [(16, "1/16", 1), (17, "1/16", 2), (32, "1/5", 7), (9, "1", 9), (8192, "1/5", 1639)],
)
def test_every_nth_token_and_the_last_are_endpoints(response, density, expected):
    batch = random_batch(50, 4, response, Fraction(density), 0, "cpu")
    assert len(batch.endpoints) == work_of(4, response, density, False).endpoints == expected
    assert batch.endpoints[-1] == response - 1
    assert batch.endpoints.unique().equal(batch.endpoints)
    torch.testing.assert_close(batch.labels, batch.layout.input_ids[4:])
