"""The sampler of warm starts and of the transformers rollout server, against a forward pass and `generate`."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from groupppo.models.sampling import Request, Response, decode, end_tokens

EOS, PAD = 4, 0


@pytest.fixture(scope="module")
def model(small_model_folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(small_model_folder, dtype=torch.float32).eval()


def requests(temperature: float = 1.0) -> list[Request]:
    prompts = [[7, 9, 11], [8], [20, 21, 22, 23, 24], [30, 31]]
    return [Request(prompt, 12, temperature, seed=100 + row) for row, prompt in enumerate(prompts)]


def log_probs(model: PreTrainedModel, request: Request, response: Response) -> torch.Tensor:
    """What a trainer computes: one full forward pass of prompt and response, no padding, no cache."""
    ids = torch.tensor([request.prompt_ids + response.token_ids])
    with torch.no_grad():
        logits = model(ids).logits[0, :-1] / (request.temperature or 1.0)
    return torch.log_softmax(logits, -1).gather(1, ids[0, 1:, None])[len(request.prompt_ids) - 1 :, 0]


def test_log_probs_are_those_of_a_full_forward_pass(model: PreTrainedModel) -> None:
    for request in (*requests(0.7), *requests(1.0)):
        (response,) = decode(model, [request], eos=[EOS], pad=PAD)
        expected = log_probs(model, request, response)
        assert torch.allclose(torch.tensor(response.log_probs), expected, atol=1e-5)
        shifted = expected.roll(1)
        assert len(shifted) == 1 or not torch.allclose(torch.tensor(response.log_probs), shifted, atol=1e-5)


def test_greedy_decoding_is_that_of_generate(model: PreTrainedModel) -> None:
    for request, response in zip(requests(0.0), decode(model, requests(0.0), eos=[EOS], pad=PAD), strict=True):
        ids = torch.tensor([request.prompt_ids])
        expected = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=EOS,
            pad_token_id=PAD,
        )
        assert response.token_ids == expected[0, len(request.prompt_ids) :].tolist()


def test_a_response_follows_its_seed_and_not_its_place_in_the_batch(model: PreTrainedModel) -> None:
    forward = decode(model, requests(), eos=[EOS], pad=PAD)
    backward = decode(model, requests()[::-1], eos=[EOS], pad=PAD)[::-1]
    assert [response.token_ids for response in forward] == [response.token_ids for response in backward]
    alone = [decode(model, [request], eos=[EOS], pad=PAD)[0].token_ids for request in requests()]
    assert [response.token_ids for response in forward] == alone
    reseeded = [Request(request.prompt_ids, 12, 1.0, request.seed + 50) for request in requests()]
    other = decode(model, reseeded, eos=[EOS], pad=PAD)
    assert [response.token_ids for response in forward] != [response.token_ids for response in other]


def test_samples_have_the_models_distribution(model: PreTrainedModel) -> None:
    many = [Request([7, 9, 11], 1, 1.0, seed) for seed in range(4000)]
    drawn = torch.tensor([response.token_ids[0] for response in decode(model, many, eos=[EOS], pad=PAD)])
    with torch.no_grad():
        expected = torch.softmax(model(torch.tensor([[7, 9, 11]])).logits[0, -1], -1)
    counts = torch.bincount(drawn, minlength=len(expected)).double()
    spread = (4000 * expected * (1 - expected)).sqrt()
    assert ((counts - 4000 * expected).abs() < 5 * spread + 1).all()


def test_a_response_ends_at_the_first_of_several_end_tokens(model: PreTrainedModel) -> None:
    (whole,) = decode(model, [Request([7, 9, 11], 12, 1.0, seed=3)], eos=[EOS], pad=PAD)
    stop = whole.token_ids[5]
    (ended,) = decode(model, [Request([7, 9, 11], 12, 1.0, seed=3)], eos=[EOS, stop], pad=PAD)
    assert ended.token_ids == whole.token_ids[: whole.token_ids.index(stop) + 1]


def test_end_tokens_are_the_tokenizers_and_those_of_the_generation_config(small_model_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(small_model_folder)
    for published, expected in ((EOS, [EOS]), ([9, 5], [EOS, 5, 9]), (7, [EOS, 7]), (None, [EOS])):
        model = AutoModelForCausalLM.from_pretrained(small_model_folder)
        model.generation_config.eos_token_id = published
        assert end_tokens(model, tokenizer) == expected


def test_a_response_ends_at_the_end_token_or_at_its_own_limit(model: PreTrainedModel) -> None:
    limits = [Request([7, 9, 11], limit, 1.0, seed=limit) for limit in (1, 3, 30)]
    for request, response in zip(limits, decode(model, limits, eos=[EOS], pad=PAD), strict=True):
        assert len(response.token_ids) == len(response.log_probs) <= request.max_tokens
        assert EOS not in response.token_ids[:-1]
        assert response.token_ids[-1] == EOS or len(response.token_ids) == request.max_tokens
