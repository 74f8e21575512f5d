"""What a grouping rule may look at: the tokens of a batch of responses with what is known about each."""

from dataclasses import dataclass

from torch import Tensor

from groupppo.errors import BadInput


@dataclass(frozen=True)
class Tokens:
    """A batch of B responses padded to T tokens. Everything but the mask is optional; a rule says what it needs.

    Attributes:
        mask: (B, T) bool, the valid tokens. Holes are allowed: a token outside the mask belongs to no group.
        advantages: (B, T) per-token advantages before whitening.
        rewards, values: (B, T) token-level rewards, and values of the state before each token.
        log_probs: (B, T) log-probability of each token under the policy to be trained, before its update.
        rollout_log_probs: (B, T) the same as the rollout server computed it.
        entropies: (B, T) entropy of the policy at each token, in nats.
        sum_pi_squared: (B, T) sum over the vocabulary of the squared probabilities.
        seeds: (B,) int64, a seed per response, so that random choices depend on nothing else of the batch.
    """

    mask: Tensor
    advantages: Tensor | None = None
    rewards: Tensor | None = None
    values: Tensor | None = None
    log_probs: Tensor | None = None
    rollout_log_probs: Tensor | None = None
    entropies: Tensor | None = None
    sum_pi_squared: Tensor | None = None
    seeds: Tensor | None = None

    def get(self, name: str) -> Tensor:
        """The tensor of that name.

        Raises:
            BadInput: it was not given.
        """
        tensor = getattr(self, name)
        if tensor is None:
            raise BadInput("Tokens", name, None, "the grouping rule or its score needs this tensor; pass it.")
        assert isinstance(tensor, Tensor)
        return tensor
