"""The streamed pass: exact values, exact gradients where everything flows, and a store for keys and values."""

import pytest
import torch

from groupppo.errors import BadInput
from groupppo.update.network import collect, run_inside
from groupppo.update.passes import KeysValuesStore, LiveRows, Plan, caching_pass, policy_pass
from tests.update.models import dense, flat, gradients, make_batch, micro, worst


def streamed(model, batch, live=None, cached=None):
    plan = Plan("streamed", live=live or LiveRows())
    run = policy_pass(batch.layout, batch.rows, batch.labels, batch.temperature, plan, cached)
    return batch.loss(*run_inside(model, run))


@pytest.mark.parametrize("live", [LiveRows(), LiveRows(window=2), LiveRows(share=0.3)], ids=str)
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
def test_values_are_those_of_the_exact_pass(family, packed, checkpointing, live):
    model, batch = micro(family, checkpointing=checkpointing), make_batch("irregular", packed=packed)
    assert streamed(model, batch, live).item() == pytest.approx(dense(model, batch).item(), rel=1e-12)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
def test_gradients_are_exact_when_every_token_flows_and_biased_when_not(family, checkpointing):
    model, batch = micro(family, checkpointing=checkpointing), make_batch("1/5")
    expected = gradients(model, dense(model, batch))
    assert worst(gradients(model, streamed(model, batch, LiveRows(share=1.0))), expected) < 1e-12
    assert worst(gradients(model, streamed(model, batch)), expected) > 1e-3


def test_a_longer_window_brings_the_gradient_closer():
    model, batch = micro("qwen2"), make_batch("1/16")
    exact = flat(gradients(model, dense(model, batch)))
    found = [flat(gradients(model, streamed(model, batch, LiveRows(window=w)))) for w in (0, 8, 64)]
    cosines = [torch.cosine_similarity(one, exact, dim=0).item() for one in found]
    assert cosines[0] < cosines[1] < cosines[2] == pytest.approx(1.0, abs=1e-12)


def test_live_rows_are_the_rows_their_windows_and_a_share():
    batch = make_batch("1/16")
    rows = batch.rows
    assert torch.equal(LiveRows().places(batch.layout, rows), rows)
    near = LiveRows(window=2).places(batch.layout, torch.tensor([0, 8, 41]))
    assert near.tolist() == [0, 6, 7, 8, 41]  # place 41 begins the second sequence
    some = LiveRows(share=0.5).places(batch.layout, rows, seed=3)
    assert set(rows.tolist()) < set(some.tolist()) < set(range(len(batch.layout.input_ids)))
    assert torch.equal(some, LiveRows(share=0.5).places(batch.layout, rows, seed=3))
    assert not torch.equal(some, LiveRows(share=0.5).places(batch.layout, rows, seed=4))


def test_constants_of_other_weights_change_the_values():
    model, batch = micro("qwen2"), make_batch("1/5")
    _, cached = run_inside(model, lambda inner, **_: collect(inner, batch.layout))
    fresh = streamed(model, batch, cached=cached).item()
    assert fresh == pytest.approx(dense(model, batch).item(), rel=1e-12)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)
    stale, now = streamed(model, batch, cached=cached).item(), dense(model, batch).item()
    assert stale != pytest.approx(now, rel=1e-6)


def test_what_one_pass_keeps_another_batch_order_finds_again():
    model, batch = micro("qwen3"), make_batch("1/5")
    store = KeysValuesStore(2**30)
    run = caching_pass(
        batch.layout, batch.rows, batch.labels, batch.temperature, lambda kept: store.put(batch.layout, kept)
    )
    with torch.no_grad():
        assert batch.loss(*run_inside(model, run)).item() == pytest.approx(dense(model, batch).item(), rel=1e-12)
    order = [2, 0]
    parts = batch.layout.input_ids.split(batch.layout.lengths.tolist())
    turned = type(batch.layout)(torch.cat([parts[i] for i in order]), batch.layout.lengths[order], False)
    _, expected = run_inside(model, lambda inner, **_: collect(inner, turned))
    for mine, theirs in zip(store.get(turned), expected, strict=True):
        for one, other in zip(mine, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_a_budget_that_is_too_small_and_an_unknown_sequence_are_named():
    model, batch = micro("qwen2"), make_batch("1/5")
    _, cached = run_inside(model, lambda inner, **_: collect(inner, batch.layout))
    with pytest.raises(BadInput, match=r"kv_bytes = 1000\n.*bytes of keys and values to keep"):
        KeysValuesStore(1000).put(batch.layout, cached)
    store = KeysValuesStore(2**30)
    store.put(batch.layout, cached)
    assert store.nbytes == sum(part.nbytes for pair in cached for part in pair)
    store.clear()
    with pytest.raises(BadInput, match="write kv: recompute"):
        store.get(batch.layout)


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="gathered, streamed"):
        Plan("sparse")
