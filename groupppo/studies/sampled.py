"""Batches of rollouts as training steps make them, drawn from the prompts of a built task."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from groupppo.algorithm import Tokens
from groupppo.studies.options import RolloutOptions, max_response_tokens
from groupppo.studies.rollouts import Rollouts, Sampling, sample_rollouts, trainer_tokens
from groupppo.tasks.base import Example
from groupppo.tasks.rows import read_examples


@dataclass(frozen=True)
class Sampled:
    """Rollouts, batch by batch, with what a trainer knows about their tokens."""

    rollouts: list[Rollouts]
    tokens: list[Tokens]

    def counts(self) -> dict[str, float]:
        responses = sum(len(rollouts.mask) for rollouts in self.rollouts)
        return {
            "responses": responses,
            "tokens": sum(int(rollouts.mask.sum()) for rollouts in self.rollouts),
            "mean_reward": sum(float(rollouts.rewards.sum()) for rollouts in self.rollouts) / responses,
        }


def draw_prompts(options: RolloutOptions) -> list[Example]:
    """Distinct training prompts for all batches.

    Raises:
        BadInput: the split has fewer.
    """
    file = options.task / "train.parquet"
    examples, wanted = read_examples(file), options.batches * options.prompts
    if len(examples) < wanted:
        raise options.wrong("batches", f"{file} has {len(examples)} prompts, not {wanted}.")
    return random.Random(options.seed).sample(examples, wanted)


def draw_batches(
    sampler: Any,
    policy: Any,
    critic: Any,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    options: RolloutOptions,
    batches: int,
) -> Sampled:
    """The first batches of responses to the examples; the same options draw with the same seeds.

    Args:
        sampler: causal language model that draws. policy, critic: the trainer's models, float32.
        examples: of `draw_prompts`.

    Raises:
        BadInput: the task's card is missing or does not say how long a response may be.
    """
    sampling = Sampling(options.responses, max_response_tokens(options.task), options.temperature)
    settings = {"temperature": options.temperature, "gamma": options.gamma, "lam": options.lam}
    rollouts = []
    for batch in range(batches):
        prompts = examples[batch * options.prompts :][: options.prompts]
        seed = (options.seed * options.batches + batch) * options.prompts * options.responses
        rollouts.append(sample_rollouts(sampler, tokenizer, prompts, sampling, seed))
    return Sampled(rollouts, [trainer_tokens(policy, critic, drawn, **settings) for drawn in rollouts])
