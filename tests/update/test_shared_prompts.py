"""Prompts that several responses share are computed once, with the gradients of the dense pass."""

import pytest
import torch

from groupppo.profile.bench import build_model
from groupppo.profile.measure import count
from groupppo.update.flops import Shape, Work, update_bound, update_flops
from groupppo.update.layout import Layout
from groupppo.update.network import run_inside
from groupppo.update.passes import Plan, policy_pass, value_pass
from tests.update.models import VOCABULARY, Batch, critic, dense, gradients, micro, worst

# Three prompts, the second begins with the first; responses of one prompt are not neighbours.
PROMPTS, RESPONSES = (0, 1, 0, 2, 1, 0), (9, 4, 1, 6, 12, 5)
LENGTHS = (5, 8, 8)


def shared_batch(share: float) -> Batch:
    """Six responses to three prompts; about `share` of the responses' tokens are asked, of some responses none."""
    generator = torch.Generator().manual_seed(3)
    texts = [torch.randint(0, VOCABULARY, (length,), generator=generator) for length in LENGTHS]
    texts[1][: LENGTHS[0]] = texts[0]
    parts = [
        torch.cat([texts[prompt], torch.randint(0, VOCABULARY, (response,), generator=generator)])
        for prompt, response in zip(PROMPTS, RESPONSES, strict=True)
    ]
    lengths, prompts = torch.tensor([len(part) for part in parts]), torch.tensor([LENGTHS[i] for i in PROMPTS])
    layout = Layout(torch.cat(parts), lengths, False, prompts)
    position = layout.position
    rows = (position >= (prompts - 1)[layout.sequence]) & (position < (lengths - 1)[layout.sequence])
    chosen = (rows & (torch.rand(len(rows), generator=generator) < share)).nonzero().flatten()
    weights, entropy_weights = torch.randn(2, len(chosen), generator=generator, dtype=torch.float64)
    return Batch(layout, chosen, weights, entropy_weights)


def gathered(model, batch: Batch, **parts) -> torch.Tensor:
    run = policy_pass(batch.layout, batch.rows, batch.labels, batch.temperature, Plan("gathered", **parts))
    return batch.loss(*run_inside(model, run))


@pytest.mark.parametrize("share", [1.0, 0.3])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
def test_gradients_are_those_of_the_dense_pass(family, checkpointing, share):
    model, batch = micro(family, checkpointing=checkpointing), shared_batch(share)
    expected_loss = dense(model, batch)
    loss = gathered(model, batch)
    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-12)
    assert worst(gradients(model, loss), gradients(model, dense(model, batch))) < 1e-12


@pytest.mark.parametrize("parts", [{"cut": False}, {"last_layer": False}], ids=str)
def test_it_goes_with_every_part_of_the_gathered_pass(parts):
    model, batch = micro("qwen2"), shared_batch(0.5)
    assert worst(gradients(model, gathered(model, batch, **parts)), gradients(model, dense(model, batch))) < 1e-12


def test_tokens_of_a_prompt_are_computed_once_and_a_prompt_that_begins_another_is_its_own():
    layout = shared_batch(1.0).layout
    kept, where = layout.sharing()
    assert len(kept) == sum(LENGTHS) + sum(RESPONSES)
    assert torch.equal(layout.input_ids[kept][where], layout.input_ids)
    assert torch.equal(layout.position[kept][where], layout.position)
    other = layout.input_ids.clone()
    other[layout.starts[2] + 1] += 1  # one token of the second sequence of the first prompt
    assert len(Layout(other, layout.lengths, False, layout.prompts).sharing()[0]) == len(kept) + LENGTHS[0]


def test_a_prompt_taken_for_another_one_changes_the_gradients():
    model, batch = micro("qwen2"), shared_batch(1.0)
    ids = batch.layout.input_ids.clone()
    ids[batch.layout.starts[2] + 1] += 1

    class Blind(Layout):
        def sharing(self):
            return batch.layout.sharing()

    given = (batch.layout.lengths, False, batch.layout.prompts)
    found, right = (
        Batch(kind(ids, *given), batch.rows, batch.weights, batch.entropy_weights) for kind in (Blind, Layout)
    )
    expected = gradients(model, dense(model, right))
    assert worst(gradients(model, gathered(model, right, cut=False)), expected) < 1e-12
    assert worst(gradients(model, gathered(model, found, cut=False)), expected) > 1e-3


def test_a_critic_shares_prompts_too():
    model, batch = critic(), shared_batch(0.5)
    alone = Layout(batch.layout.input_ids, batch.layout.lengths, False)
    found, expected = (
        gradients(model, (batch.weights * run_inside(model, value_pass(layout, batch.rows, Plan("gathered")))).sum())
        for layout in (batch.layout, alone)
    )
    assert worst(found, expected) < 1e-12


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize(("prompt", "response"), [(48, 12), (12, 48)])
def test_operations_are_those_that_are_counted_by_formula(prompt, response, checkpointing):
    shape, sharers = Shape(64, 3, 160, 4, 2, 16, 1009, tied=True), 4
    model = build_model("qwen2", shape, dtype=torch.float32, checkpointing=checkpointing, seed=0, device="cpu")
    ids = torch.randint(0, 1009, (prompt,)).repeat(sharers, 1)
    ids = torch.cat([ids, torch.randint(0, 1009, (sharers, response))], dim=1)
    lengths, prompts = torch.full((sharers,), prompt + response), torch.full((sharers,), prompt)
    layout = Layout(ids.flatten(), lengths, False, prompts)
    rows = (torch.arange(prompt - 1, prompt + response - 1) + layout.starts[:, None]).flatten()
    run = policy_pass(layout, rows, layout.input_ids[rows + 1], 1.0, Plan("gathered"))
    with count() as found:
        run_inside(model, run)[0].sum().backward()
    work = Work(prompt + response, response, response, checkpointing, kept=prompt + response - 1, sharers=sharers)
    assert found.flops == pytest.approx(sharers * sum(update_flops(shape, work, "gathered").values()), rel=0.02)
    alone = Work(prompt + response, response, response, checkpointing, kept=prompt + response - 1)
    assert found.flops < 0.95 * sharers * sum(update_flops(shape, alone, "gathered").values())
    assert update_bound(shape, work) > update_bound(shape, alone)
