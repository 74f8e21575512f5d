"""What the passes of a step compute: what of the batch they get, what they are asked for, how many operations it takes.

A worker call brings the engines keys of `extra_info`; an arm without groups sends none, so that its passes are verl's.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import transfer_queue as tq
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from transformers import AutoConfig
from verl.workers.utils.padding import response_to_nested

from groupppo.algorithm import GroupParams
from groupppo.algorithm.loss import LossMask
from groupppo.measure.mfu import stage_flops
from groupppo.update.flops import Shape, Work
from groupppo.verl.group_stage import Grouped

logger = logging.getLogger(__name__)

# "gathered" or "streamed"; without it a pass is verl's own.
MODE = "endpoint_update"
# Of `streamed`: further tokens that flow, by window and random share, and the seed of the share.
WINDOW, SHARE, SEED = "live_window", "live_share", "live_seed"
# Of `gathered`: equal prompts once, for which a prompt's responses stay in one micro-batch; no rows of advantage 0.
SHARED, TOGETHER, SKIP_ZERO = "shared_prompts", "force_group_size", "skip_zero_advantage"
# Old log-probabilities are the update's own.
OWN_OLD = "own_old_log_probs"
# A token's weight in the policy's loss, which is verl's own field, and in the critic's (engine.py).
POLICY_WEIGHTS, VALUE_WEIGHTS = "rollout_is_weights", "selection_weights"
# Keep the pass's keys and values, up to so many bytes; use what was kept.
KEEP_BYTES, USE_KEPT = "keep_kv_bytes", "use_kept_kv"


def get_fields(batch: KVBatchMeta, fields: Sequence[str]) -> TensorDict:
    return tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=list(fields))


def put_fields(batch: KVBatchMeta, fields: dict[str, torch.Tensor], nested_mask: torch.Tensor) -> KVBatchMeta:
    """Write padded (B, T) tensors back as verl's nested ones, cut to the lengths of `nested_mask`."""
    nested = {name: response_to_nested(tensor, nested_mask) for name, tensor in fields.items()}
    written = TensorDict(nested, batch_size=len(batch))
    return tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=written)


def mask_fields(mask: LossMask, like: torch.Tensor) -> dict[str, torch.Tensor]:
    """verl's fields of a loss: the tokens that count, those whose number divides, and the weights, if any."""
    fields = {"response_mask": mask.counts.to(like.dtype), "loss_mask": mask.divides.to(like.dtype)}
    if mask.weights is not None:
        fields |= dict.fromkeys((POLICY_WEIGHTS, VALUE_WEIGHTS), mask.weights.float())
    return fields


@contextmanager
def asking(batch: KVBatchMeta, keys: dict[str, Any]) -> Iterator[None]:
    """Send keys along with the worker calls made inside."""
    batch.extra_info.update(keys)
    try:
        yield
    finally:
        for key in keys:
            batch.extra_info.pop(key, None)


def call_with(
    batch: KVBatchMeta, fields: Sequence[str], call: Callable[..., KVBatchMeta], metrics: dict[str, Any]
) -> KVBatchMeta:
    """Run a worker call with the batch narrowed to `fields`, and return the whole batch."""
    call(replace(batch, fields=list(fields)), metrics)
    return batch


class Asks:
    """What a run asks the engines for; without parameters it is one of an arm without groups.

    Args:
        params: of the run.
        responses: of a prompt, where all of them are on one rank, else 1.
    """

    def __init__(self, params: GroupParams | None, responses: int = 1):
        self.params, self.responses = params, responses

    @property
    def own_old(self) -> bool:
        """Whether the policy's update takes its own log-probabilities for the old ones."""
        return self.params is not None and self.params.old_log_probs == "update"

    @property
    def shares(self) -> bool:
        """Whether a prompt is computed once for all its responses."""
        return self.params is not None and self.params.shared_prompts

    @property
    def skips(self) -> bool:
        """Whether the policy's update leaves out tokens without an advantage."""
        return self.params is not None and self.params.skip_zero_advantage

    def gathered_if(self, condition: bool) -> dict[str, Any]:
        """What asks for a pass that computes the rows of the mask only, which are all in a pass before the rule."""
        if self.shares:
            return {MODE: "gathered", SHARED: True, TOGETHER: self.responses}
        return {MODE: "gathered"} if condition else {}

    @property
    def keeps(self) -> bool:
        """Whether the old-log-prob pass keeps keys and values for the update."""
        return self.params is not None and self.params.update == "streamed" and self.params.kv == "reuse"

    def gathers_at(self, density: float) -> bool:
        """Whether the updates of a step of this density leave out what no endpoint depends on."""
        mode = None if self.params is None else self.params.update
        return mode in ("gathered", "streamed") or (mode == "auto" and density < 0.5)

    def gathers(self, grouped: Grouped | None) -> bool:
        """The same for a step's groups; a step without groups trains on every token."""
        if grouped is None:
            return False
        return self.gathers_at(int(grouped.groups.endpoints.sum()) / int(grouped.tokens.mask.sum()))

    def log_probs(self, early: bool) -> dict[str, Any]:
        """Of the old-log-prob pass; `early` when the endpoints are known before it and nothing else is needed."""
        keys = self.gathered_if(early)
        if self.params is not None and "sum_pi_squared" in self.params.needs:
            keys["calculate_sum_pi_squared"] = True
        if self.params is not None and self.keeps:
            keys[KEEP_BYTES] = self.params.kv_bytes
        return keys

    def policy_update(self, grouped: Grouped | None, step: int) -> dict[str, Any]:
        gathers, params = self.gathers(grouped), self.params
        own = {OWN_OLD: True} if self.own_old else {}
        if not gathers or params is None or params.update != "streamed":
            return self.gathered_if(gathers) | ({SKIP_ZERO: True} if self.skips else {}) | own
        live = {WINDOW: params.live_window, SHARE: params.live_share, SEED: step}
        return {MODE: "streamed", **live, USE_KEPT: params.kv == "reuse", **own}

    def modes(self, grouped: Grouped | None, early: bool) -> dict[str, str | None]:
        """How each stage is computed, by which operations are counted."""
        before = "gathered" if early else "dense"
        gathers, params = self.gathers(grouped), self.params
        critic: str = "gathered" if gathers else "dense"
        policy: str | None = critic
        passes = ("ref", "values") if self.own_old else ("old_log_prob", "ref", "values")
        if self.shares:
            return dict.fromkeys((*passes, "update_critic", "update_actor"))
        if self.skips:
            policy = None  # how many tokens are left is known to the engine only
        if gathers and params is not None and params.update == "streamed":
            policy = "streamed_reuse" if params.kv == "reuse" else "streamed"
            if params.live_window or params.live_share:
                policy = None  # how many tokens flow next to the endpoints is known to the engine only
        return {**dict.fromkeys(passes, before), "update_critic": critic, "update_actor": policy}


class FlopsOfStep:
    """Counts the operations of a step's passes over all its sequences."""

    def __init__(self, config: Any, asks: Asks):
        self.asks, self.epochs = asks, (int(config.actor_rollout_ref.actor.ppo_epochs), int(config.critic.ppo_epochs))
        self.shape: Shape | None = None
        try:
            self.shape = Shape.of(AutoConfig.from_pretrained(config.actor_rollout_ref.model.path))
        except AttributeError as error:
            logger.warning("no operations are counted for this family of models: %s", error)

    def count(
        self, tags: Sequence[Mapping[str, Any]], responses: list[int], grouped: Grouped | None, early: bool
    ) -> dict[str, float | None]:
        """Operations by stage; empty where the model's shape or the sequences' lengths are not known.

        Args:
            tags: verl's, one per sequence. responses: tokens of each response. early: as of `log_probs`.
            grouped: the step's groups, None where it trains on every token.
        """
        if self.shape is None or any("seq_len" not in tag for tag in tags):
            return {}
        policy = value = responses
        if grouped is not None:
            policy, value = (mask.counts.sum(-1).tolist() for mask in (grouped.losses.policy, grouped.losses.value))

        def works(rows: list[int]) -> list[Work]:
            return [
                Work(int(tag["seq_len"]), int(response), int(row))
                for tag, response, row in zip(tags, responses, rows, strict=True)
                if not tag.get("is_padding", False)
            ]

        return stage_flops(self.shape, works(policy), works(value), self.asks.modes(grouped, early), self.epochs)
