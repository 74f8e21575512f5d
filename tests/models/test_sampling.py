"""The sampler agrees with Hugging Face `generate` and does not let padding or neighbours change a response."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from groupppo.models.sampling import sample

EOS, PAD = 4, 0
PROMPTS = [[2, 10, 11, 3], [2, 20, 3], [2, 30, 31, 32, 33, 34, 3], [2, 3]]


@pytest.fixture(scope="module")
def model(small_model_folder):
    """Random weights, the end token's logit raised so that responses end at different places."""
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_pretrained(small_model_folder, dtype=torch.float64).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6)
    return model


def draw(model, prompts, *, temperature, seed=0, length=24):
    return sample(
        model,
        prompts,
        max_new_tokens=length,
        temperature=temperature,
        eos_token_id=EOS,
        pad_token_id=PAD,
        generator=torch.Generator().manual_seed(seed),
    )


def test_greedy_responses_are_those_of_generate(model):
    responses = draw(model, PROMPTS, temperature=0)
    for prompt, response in zip(PROMPTS, responses, strict=True):
        expected = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=24,
            eos_token_id=EOS,
            pad_token_id=PAD,
        )[0, len(prompt) :]
        assert response == expected.tolist()
    assert len({tuple(response) for response in responses}) == len(PROMPTS)


def test_a_response_ends_at_its_first_end_token_and_never_beyond_the_limit(model):
    responses = draw(model, PROMPTS * 40, temperature=1.0)
    assert any(response[-1] == EOS for response in responses)
    for response in responses:
        assert EOS not in response[:-1]
        assert len(response) == 24 or (len(response) < 24 and response[-1] == EOS)


def test_the_same_generator_state_gives_the_same_responses_and_another_gives_others(model):
    assert draw(model, PROMPTS, temperature=1.0) == draw(model, PROMPTS, temperature=1.0)
    assert draw(model, PROMPTS, temperature=1.0) != draw(model, PROMPTS, temperature=1.0, seed=1)


def test_first_tokens_come_with_the_models_own_probabilities(model):
    count = 4000
    responses = draw(model, [PROMPTS[0]] * count, temperature=0.7, length=1)
    logits = model(torch.tensor([PROMPTS[0]])).logits[0, -1].detach()
    counts = torch.bincount(torch.tensor(responses).squeeze(1), minlength=logits.numel()) / count
    expected, other = (logits / 0.7).softmax(-1), logits.softmax(-1)
    assert (counts - expected).abs().sum() < (counts - other).abs().sum()
    assert (counts - expected).abs().max() < 5 * (0.25 / count) ** 0.5
