"""Responses sampled from a trained policy, batch by batch, and what a trainer would know about each of their tokens."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from groupppo.algorithm import Tokens, last_valid
from groupppo.algorithm.estimators import gae
from groupppo.errors import BadInput
from groupppo.models.hub import check_model_folder
from groupppo.models.sampling import Request, decode, end_tokens
from groupppo.records.plain_json import read_object
from groupppo.studies.shared.study import RolloutParameters
from groupppo.tasks.base import Example
from groupppo.tasks.reward import score
from groupppo.tasks.rows import read_examples
from groupppo.tasks.tokenizer import chat_ids

TRAIN_CRITIC = "train the reference arm with train.save_critic: true."


def load_policy(folder: Path, dtype: torch.dtype, attention: str = "sdpa") -> Any:
    """The policy of a folder in evaluation mode; BadInput where it is no complete model."""
    check_model_folder(folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention).eval()


def load_critic(folder: Path) -> Any:
    """The trained critic, a token classifier with one label, in float32 and evaluation mode.

    Raises:
        BadInput: there is none, or another kind of model, whose value head would be random.
    """
    if not (folder / "config.json").is_file():
        raise BadInput(folder, "folder", None, TRAIN_CRITIC)
    config = AutoConfig.from_pretrained(folder)
    kinds = config.architectures or []
    if config.num_labels != 1 or not any(kind.endswith("ForTokenClassification") for kind in kinds):
        raise BadInput(folder / "config.json", "architectures", kinds, f"not a critic of one label; {TRAIN_CRITIC}")
    return AutoModelForTokenClassification.from_pretrained(folder, dtype=torch.float32).eval()


def max_response_tokens(task: Path) -> int:
    """The longest response of a built task; BadInput where its card is missing or does not say."""
    card = task / "card.json"
    try:
        return int(read_object(card, "build the task first.")["spec"]["max_response_tokens"])
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(card, "spec.max_response_tokens", None, "build the task again.") from error


@dataclass(frozen=True)
class Rollouts:
    """B responses of at most T tokens, each behind its prompt in a row of L ids.

    Attributes:
        ids: (B, L) int64, prompt then response, padded on the right, where causal attention never looks back at it.
        prompt_lengths: (B,) int64.
        mask: (B, T) bool, the response's tokens, its end token included.
        rewards: (B, T) float32, the task's 0/1 reward at the last token, zero elsewhere.
        rollout_log_probs: (B, T) float32, as the sampler computed them.
        seeds: (B,) int64, the seed that each response was drawn with.
    """

    ids: Tensor
    prompt_lengths: Tensor
    mask: Tensor
    rewards: Tensor
    rollout_log_probs: Tensor
    seeds: Tensor

    @property
    def states(self) -> Tensor:
        """(B, T) int64: where in a row a model's output belongs to the state BEFORE each response token."""
        before = self.prompt_lengths[:, None] - 1 + torch.arange(self.mask.shape[1])
        return before.clamp(max=self.ids.shape[1] - 1)

    def rows(self, chosen: slice | Tensor) -> "Rollouts":
        """Some of the responses, without the padding that only the others needed."""
        parts = {field.name: getattr(self, field.name)[chosen] for field in fields(self)}
        kept = parts["mask"].sum(1)
        parts["ids"] = parts["ids"][:, : int((parts["prompt_lengths"] + kept).max())]
        for name in ("mask", "rewards", "rollout_log_probs"):
            parts[name] = parts[name][:, : int(kept.max())]
        return Rollouts(**parts)


@dataclass(frozen=True)
class Sampled:
    """Rollouts, batch by batch, with what a trainer knows about their tokens."""

    rollouts: list[Rollouts]
    tokens: list[Tokens]

    def counts(self) -> dict[str, float]:
        responses = sum(len(batch.mask) for batch in self.rollouts)
        tokens = sum(int(batch.mask.sum()) for batch in self.rollouts)
        reward = sum(float(batch.rewards.sum()) for batch in self.rollouts)
        return {"responses": responses, "tokens": tokens, "mean_reward": reward / responses}


def draw_batches(
    parameters: RolloutParameters, folder: Path, dtype: torch.dtype = torch.float32, batches: int | None = None
) -> Sampled:
    """Batches of responses to distinct training prompts; the same parameters draw the same prompts and seeds.

    The trainer's side, values included, is float32 whatever the sampler of the policy's folder computes in.

    Raises:
        BadInput: the split has too few prompts, policy or critic is none, or the task's card does not say how long a
            response may be.
    """
    file = parameters.task / "train.parquet"
    examples, wanted = read_examples(file), parameters.batches * parameters.prompts
    if len(examples) < wanted:
        raise BadInput(file, "prompts", len(examples), f"{wanted} are needed: lower --batches or --prompts.")
    examples = random.Random(parameters.seed).sample(examples, wanted)
    policy, critic = load_policy(folder, torch.float32), load_critic(parameters.critic)
    sampler = policy if dtype == torch.float32 else load_policy(folder, dtype)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    longest, temperature = max_response_tokens(parameters.task), parameters.temperature
    rollouts, per_batch = [], parameters.prompts * parameters.responses
    for batch in range(batches or parameters.batches):
        prompts = examples[batch * parameters.prompts :][: parameters.prompts]
        asked = [example for example in prompts for _ in range(parameters.responses)]
        seed = (parameters.seed * parameters.batches + batch) * per_batch
        rollouts.append(sample_rollouts(sampler, tokenizer, asked, longest, temperature, seed))
    settings = {"temperature": temperature, "gamma": parameters.gamma, "lam": parameters.lam}
    return Sampled(rollouts, [trainer_tokens(policy, critic, drawn, **settings) for drawn in rollouts])


def sample_rollouts(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    max_tokens: int,
    temperature: float,
    seed: int,
) -> Rollouts:
    """Draw a response to every example, number i with seed + i, and score it with the task's own reward."""
    prompts = [chat_ids(tokenizer, example.prompt) for example in examples]
    requests = [Request(ids, max_tokens, temperature, seed + number) for number, ids in enumerate(prompts)]
    pad_id = tokenizer.pad_token_id
    responses = decode(model, requests, eos=end_tokens(model, tokenizer), pad=pad_id)
    texts = tokenizer.batch_decode([response.token_ids for response in responses], skip_special_tokens=True)
    lengths = torch.tensor([len(response.token_ids) for response in responses])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    scores = torch.tensor([score(text, example.answer) for text, example in zip(texts, examples, strict=True)])
    whole = [torch.tensor(ids + response.token_ids) for ids, response in zip(prompts, responses, strict=True)]
    log_probs = [torch.tensor(response.log_probs) for response in responses]
    return Rollouts(
        ids=pad_sequence(whole, batch_first=True, padding_value=pad_id),
        prompt_lengths=torch.tensor([len(prompt) for prompt in prompts]),
        mask=mask,
        rewards=torch.where(last_valid(mask), scores[:, None].float(), 0.0),
        rollout_log_probs=pad_sequence(log_probs, batch_first=True),
        seeds=torch.tensor([request.seed for request in requests]),
    )


def response_log_probs(model: Any, rollouts: Rollouts, temperature: float) -> Tensor:
    """Log-probability of every response token in one forward pass, (B, T), zero outside the mask; differentiable."""
    return _chosen(_log_softmax(model, rollouts, temperature), rollouts)


@torch.no_grad()
def trainer_tokens(
    policy: Any, critic: Any, rollouts: Rollouts, *, temperature: float, gamma: float, lam: float
) -> Tokens:
    """Everything a grouping rule may look at, (B, T) float32 each; gamma and lambda are of the dense advantages."""
    log_softmax, mask = _log_softmax(policy, rollouts, temperature), rollouts.mask
    probabilities, values = log_softmax.exp(), response_values(critic, rollouts)
    return Tokens(
        mask,
        advantages=gae(rollouts.rewards, values, mask, gamma, lam),
        rewards=rollouts.rewards,
        values=values,
        log_probs=_chosen(log_softmax, rollouts),
        rollout_log_probs=rollouts.rollout_log_probs,
        entropies=torch.where(mask, -(probabilities * log_softmax).sum(-1), 0.0),
        sum_pi_squared=torch.where(mask, probabilities.square().sum(-1), 0.0),
        seeds=rollouts.seeds,
    )


@torch.no_grad()
def response_values(critic: Any, rollouts: Rollouts) -> Tensor:
    """V_t of every response token, the critic's output at the position before it: (B, T), zero outside the mask."""
    outputs = critic(input_ids=rollouts.ids).logits[..., 0]
    return torch.where(rollouts.mask, outputs.gather(1, rollouts.states), 0.0)


def _log_softmax(model: Any, rollouts: Rollouts, temperature: float) -> Tensor:
    """(B, T, V) log-probabilities of the next token in the state before each response token."""
    logits = model(input_ids=rollouts.ids, use_cache=False).logits
    rows = torch.arange(len(logits))[:, None]
    return torch.log_softmax(logits[rows, rollouts.states] / temperature, dim=-1)


def _chosen(log_softmax: Tensor, rollouts: Rollouts) -> Tensor:
    """(B, T): of the response tokens themselves, zero outside the mask."""
    after = (rollouts.states + 1).clamp(max=rollouts.ids.shape[1] - 1)
    chosen = log_softmax.gather(2, rollouts.ids.gather(1, after)[..., None]).squeeze(2)
    return torch.where(rollouts.mask, chosen, 0.0)


def pool(batches: Sequence[Tokens]) -> Tokens:
    """Several batches as one, padded to the longest response; a field that one of them lacks is left out."""
    longest, pooled = max(batch.mask.shape[1] for batch in batches), {}
    for name in (field.name for field in fields(Tokens)):
        parts = [getattr(batch, name) for batch in batches]
        if all(part is not None for part in parts):
            wide = [part if part.dim() == 1 else pad(part, (0, longest - part.shape[1])) for part in parts]
            pooled[name] = torch.cat(wide)
    return Tokens(**pooled)


def select(tokens: Tokens, rows: Tensor) -> Tokens:
    """Some of the responses, (k,) int64, at the same padded length."""
    parts = {field.name: getattr(tokens, field.name) for field in fields(Tokens)}
    return Tokens(**{name: part[rows] for name, part in parts.items() if part is not None})
