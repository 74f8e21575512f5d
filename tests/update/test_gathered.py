"""The gathered pass has the gradients of the dense one, parameter by parameter."""

import copy

import pytest
import torch
from torch.nn.attention import SDPBackend

from groupppo.errors import BadInput
from groupppo.update import network
from groupppo.update.layout import Rows
from groupppo.update.network import as_attended, hidden_at_rows, run_inside
from groupppo.update.passes import Plan, policy_pass, value_pass
from tests.update.models import Batch, dense, gradients, make_batch, micro, worst
from tests.update.models import critic as make_critic

DENSITIES = ("1/16", "1/5", "irregular", "singleton")


def gathered(model, batch: Batch, **parts) -> torch.Tensor:
    run = policy_pass(batch.layout, batch.rows, batch.labels, batch.temperature, Plan("gathered", **parts))
    return batch.loss(*run_inside(model, run))


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
def test_gathered_equals_dense_in_float64(family, tied, packed, checkpointing, density):
    model, batch = micro(family, tied=tied, checkpointing=checkpointing), make_batch(density, packed=packed)
    expected_loss = dense(model, batch)
    expected = gradients(model, expected_loss)
    loss = gathered(model, batch)
    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-12)
    assert worst(gradients(model, loss), expected) < 1e-12


@pytest.mark.parametrize("density", ["1/16", "irregular"])
@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
def test_endpoints_one_row_later_have_other_gradients(family, density):
    model, batch = micro(family), make_batch(density, lengths=(40, 20, 38))
    batch = Batch(batch.layout, batch.rows[:-1], batch.weights[:-1], batch.entropy_weights[:-1])
    later = batch.one_row_later()
    run = policy_pass(batch.layout, later.rows, batch.labels, batch.temperature, Plan("gathered"))
    wrong = gradients(model, batch.loss(*run_inside(model, run)))
    assert worst(wrong, gradients(model, dense(model, batch))) > 0.1


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("last_layer", [False, True])
def test_every_part_can_be_left_out_and_changes_no_gradient(cut, last_layer):
    model, batch = micro("qwen2"), make_batch("irregular")
    found = gradients(model, gathered(model, batch, cut=cut, last_layer=last_layer))
    assert worst(found, gradients(model, dense(model, batch))) < 1e-12


def test_a_sequence_without_an_endpoint_is_left_out():
    model, batch = micro("qwen3"), make_batch("1/5")
    middle = (batch.layout.sequence[batch.rows] != 1).nonzero().flatten()
    some = Batch(batch.layout, batch.rows[middle], batch.weights[middle], batch.entropy_weights[middle])
    assert worst(gradients(model, gathered(model, some)), gradients(model, dense(model, some))) < 1e-12
    shorter, _ = batch.layout.cut(some.rows)
    assert len(shorter.lengths) == 2


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 5e-2)])
def test_single_and_half_precision_agree_within_rounding(dtype, tolerance):
    model, batch = micro("qwen2", dtype=dtype), make_batch("1/5")
    found = gradients(model, gathered(model, batch).float())
    assert worst(found, gradients(model, dense(model, batch).float())) < tolerance


def test_a_second_backward_pass_adds_to_the_first_one():
    model, batch = micro("qwen2"), make_batch("1/5")
    once = gradients(model, gathered(model, batch))
    model.zero_grad()
    for _ in range(2):
        gathered(model, batch).backward()
    twice = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert worst(twice, {name: 2 * gradient for name, gradient in once.items()}) < 1e-12


def test_a_critic_has_its_dense_gradients_at_endpoints():
    critic, batch = make_critic(), make_batch("irregular")

    def loss(values: torch.Tensor) -> torch.Tensor:
        return (batch.weights * values).sum()

    every = [
        critic(input_ids=ids[None]).logits[0, :, 0]
        for ids in batch.layout.input_ids.split(batch.layout.lengths.tolist())
    ]
    expected = gradients(critic, loss(torch.cat(every)[batch.rows]))
    found = gradients(critic, loss(run_inside(critic, value_pass(batch.layout, batch.rows, Plan("gathered")))))
    assert worst(found, expected) < 1e-12
    moved = run_inside(critic, value_pass(batch.layout, batch.rows - 1, Plan("gathered")))
    assert worst(gradients(critic, loss(moved)), expected) > 0.1


@pytest.mark.parametrize(("group", "exact"), [(2, True), (4, False)])
def test_heads_that_are_rows_of_one_head_have_the_same_gradient(monkeypatch, group, exact):
    model, batch = micro("qwen3"), make_batch("irregular")
    expected = gradients(model, dense(model, batch))
    monkeypatch.setattr(network, "group_of", lambda base: group)
    if exact:  # as on a GPU
        assert worst(gradients(model, gathered(model, batch)), expected) < 1e-12
    else:  # more heads than share keys
        with pytest.raises(RuntimeError):
            gathered(model, batch)


def kernel_of(query, keys, values, mask) -> str:
    """Which kernel torch takes: a name of `SDPBackend`, in lower case."""
    return SDPBackend(torch._fused_sdp_choice(query, keys, values, attn_mask=mask)).name.lower()


def test_a_fused_kernel_serves_rows_and_no_keys_are_repeated_for_it():
    batch, heads, groups = make_batch("1/5"), 6, 2
    rows = Rows.of(batch.layout, batch.rows, heads // groups)
    query, keys = torch.randn(len(batch.rows), heads, 8), torch.randn(len(batch.layout.input_ids), groups, 8)
    asked = as_attended(query, keys, keys, rows)
    sequences, longest = len(batch.layout.lengths), int(batch.layout.position[batch.rows].max()) + 1
    assert asked[1].shape == asked[2].shape == (sequences, groups, longest, 8)
    assert asked[0].shape == (sequences, groups, asked[3].shape[2], 8)
    assert kernel_of(*asked) == "flash_attention"  # torch's for CPUs, which takes a mask
    learned = torch.zeros(asked[3].shape, requires_grad=True)
    assert kernel_of(*asked[:3], learned) == "math"


def test_without_a_keyword_the_model_is_what_it_was():
    model, batch = micro("qwen2"), make_batch("1/5")
    ids = batch.layout.input_ids[None, :19]
    before = model(input_ids=ids).logits
    gathered(model, batch)
    assert torch.equal(model(input_ids=ids).logits, before)


def test_a_copy_of_the_model_runs_its_own_weights():
    model, batch = micro("qwen2"), make_batch("1/5")
    before = gathered(model, batch).item()
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.model.layers[0].mlp.down_proj.weight.mul_(2.0)
    assert gathered(other, batch).item() == pytest.approx(dense(other, batch).item(), rel=1e-12)
    assert gathered(other, batch).item() != pytest.approx(before, rel=1e-3)
    assert gathered(model, batch).item() == before


def test_an_architecture_that_is_not_known_is_refused():
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=11))
    with pytest.raises(BadInput, match="use update: masked"):
        run_inside(model, lambda inner, **_: None)


def test_a_sliding_window_is_refused():
    model = micro("qwen2")
    model.model.layers[1].self_attn.sliding_window = 16
    with pytest.raises(BadInput, match=r"layers\.1\.sliding_window = 16"):
        run_inside(model, lambda inner, **_: None)


def test_hidden_rows_do_not_see_what_comes_after_them():
    model, batch = micro("llama"), make_batch("1/16")
    changed = batch.layout.input_ids.clone()
    last = batch.rows[-1]
    changed[last + 1 :] = (changed[last + 1 :] + 1) % 97
    other = type(batch.layout)(changed, batch.layout.lengths, batch.layout.packed)
    first, second = (
        run_inside(model, lambda inner, layout=layout, **_: hidden_at_rows(inner, layout, batch.rows, cut=False))
        for layout in (batch.layout, other)
    )
    assert torch.equal(first, second)
