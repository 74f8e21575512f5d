"""The selection stage on verl's batch fields: group, estimate, whiten, and say where the losses count.

With an estimator of verl's, which has run before, it chooses tokens and leaves advantages as they are.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from groupppo.algorithm import DensitySchedule, GroupParams, Groups, Tokens, group_tokens, next_threshold
from groupppo.algorithm.estimators import gae
from groupppo.algorithm.loss import GroupBatch, group_batch
from groupppo.algorithm.metrics import group_metrics
from groupppo.errors import BadInput
from groupppo.records.storage import write_whole

logger = logging.getLogger(__name__)

STATE_FILE = "group_ppo.json"

# verl's name of each field of `Tokens`; mask, seeds and dense advantages are made here.
_VERL_FIELDS = {
    "rewards": "token_level_rewards",
    "returns": "returns",
    "values": "values",
    "log_probs": "old_log_probs",
    "rollout_log_probs": "rollout_log_probs",
    "entropies": "entropy",
    "sum_pi_squared": "sum_pi_squared",
}


@dataclass(frozen=True)
class Grouped:
    """One batch after the stage: its tokens and groups, and what its losses need."""

    tokens: Tokens
    groups: Groups
    threshold: float
    losses: GroupBatch


class GroupStage:
    """The stage with its state, the adaptive threshold.

    Args:
        params: of the run. gamma, lam: discount and lambda. seed: of the run, for rules that draw.
    """

    def __init__(self, params: GroupParams, gamma: float, lam: float, seed: int):
        self.params = params
        self.gamma, self.lam, self.seed = gamma, lam, seed
        self.threshold = params.group_variance_threshold
        self.schedule = DensitySchedule.load(params.density_source) if params.density_source else None

    def fields(self) -> list[str]:
        """verl's batch fields that the stage reads next to the mask."""
        estimates = {"returns"} if self.params.advantage == "stock" else {"rewards", "values"}
        fields = [_VERL_FIELDS[name] for name in sorted(self.params.needs | estimates) if name in _VERL_FIELDS]
        return ["advantages", *fields] if self.params.advantage == "stock" else fields

    @property
    def early(self) -> bool:
        """Whether nothing but endpoints is ever needed, and the rule knows them before any pass over the batch."""
        params = self.params
        return (
            params.definition.known_before_update
            and params.spread == "endpoint"
            and params.advantage not in ("token_gae", "stock")
            and params.update in ("auto", "gathered")
            and params.on_error == "raise"  # a step that falls back to dense PPO needs values everywhere
        )

    def group_early(self, mask: Tensor, keys: Sequence[str], step: int) -> Groups:
        """Groups of a batch from its (B, T) bool mask of valid tokens alone."""
        tokens = self._tokens({"response_mask": mask}, mask, keys)
        return group_tokens(tokens, self.params, density=self.schedule.at(step) if self.schedule else None)

    def run(self, batch: dict[str, Tensor], keys: Sequence[str], step: int) -> Grouped:
        """Group one batch.

        Args:
            batch: padded (B, T) tensors under verl's names: `response_mask` and what `fields()` names.
            keys: verl's key of each response. step: training step from 1.

        Raises:
            BadInput: the rule needs a field or a density that there is not.
            ValueError: the batch has no valid token, or fewer than two would carry an advantage.
        """
        mask = batch["response_mask"].bool()
        if not mask.any():
            raise ValueError(f"step {step}: none of the batch's {len(mask)} responses has a valid token")
        for field in self.fields():
            if batch.get(field) is None:
                hint = f"rule {self.params.rule} with score {self.params.score} needs this field of verl's batch."
                raise BadInput(f"batch of step {step}", field, None, hint)
        density = self.schedule.at(step) if self.schedule else None
        tokens = self._tokens(batch, mask, keys)
        groups = group_tokens(tokens, self.params, self.threshold, density)
        losses = group_batch(tokens, groups, self.params, self.gamma, self.lam)
        return Grouped(tokens, groups, self.threshold, losses)

    def accept(self, grouped: Grouped) -> None:
        """Move the threshold by a batch that is trained on; not in `run`, for a step may yet fall back to dense PPO."""
        if "adaptive_threshold" in self.params.definition.uses:
            density = int(grouped.groups.endpoints.sum()) / int(grouped.tokens.mask.sum())
            self.threshold = next_threshold(self.threshold, density, self.params)

    def metrics(self, grouped: Grouped) -> dict[str, float]:
        """Statistics of the step's groups; kept out of `run`, because they are not part of the algorithm."""
        return group_metrics(grouped.groups, grouped.tokens, self.params, grouped.threshold)

    def dense_returns(self, grouped: Grouped) -> Tensor:
        """Dense GAE's returns A_t + V_t at every valid token, (B, T): what a critic is held against in every arm."""
        tokens, values = grouped.tokens, grouped.tokens.get("values")
        return gae(tokens.get("rewards"), values, tokens.mask, self.gamma, self.lam) + values

    def save(self, folder: Path) -> None:
        write_whole(folder / STATE_FILE, json.dumps({"threshold": self.threshold}) + "\n")

    def load(self, folder: Path) -> None:
        """Raises BadInput: the checkpoint is not one of a run that chooses tokens."""
        file = folder / STATE_FILE
        if not file.is_file():
            raise BadInput(file, "file", None, "resume from a checkpoint of a run with the same rule.")
        self.threshold = json.loads(file.read_text(encoding="utf-8"))["threshold"]

    def _tokens(self, batch: dict[str, Tensor], mask: Tensor, keys: Sequence[str]) -> Tokens:
        found = {name: batch.get(field) for name, field in _VERL_FIELDS.items()}
        advantages = seeds = None
        if self.params.advantage == "stock":
            advantages = batch["advantages"]
        elif "advantages" in self.params.needs or self.params.advantage == "token_gae":
            advantages = gae(batch["token_level_rewards"], batch["values"], mask, self.gamma, self.lam)
        if "seeds" in self.params.needs:
            seeds = torch.tensor([response_seed(self.seed, key) for key in keys], dtype=torch.int64)
        return Tokens(mask, advantages=advantages, seeds=seeds, **found)


def response_seed(run_seed: int, key: str) -> int:
    """Seed of the draws for one response, from the run's seed and the response's key, which names its step."""
    return int.from_bytes(hashlib.sha256(f"{run_seed}/{key}".encode()).digest()[:8], "big") >> 1
