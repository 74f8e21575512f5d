"""Operations of a step's stages in a run: sizes from verl's batch and masks, modes from what the engines are asked."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import AutoConfig

from groupppo.measure.mfu import Modes, Sequences, stage_flops
from groupppo.update.flops import Shape
from groupppo.verl.asks import Asks
from groupppo.verl.group_stage import Grouped

logger = logging.getLogger(__name__)


class FlopsOfStep:
    """Counts the operations of a step's passes over all its sequences.

    Args:
        config: verl's config of the run. asks: what the engines are asked to compute.
    """

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
            tags: verl's, one per sequence. responses: tokens of each response. grouped: of this step, None where it
                trains on every token. early: whether the passes before the update compute endpoints only.
        """
        if self.shape is None or any("seq_len" not in tag for tag in tags):
            return {}
        policy = value = responses
        if grouped is not None:
            policy, value = (mask.counts.sum(-1).tolist() for mask in (grouped.losses.policy, grouped.losses.value))
        real = [row for row, tag in enumerate(tags) if not tag.get("is_padding", False)]
        sequences = Sequences(
            [int(tags[row]["seq_len"]) for row in real],
            [int(responses[row]) for row in real],
            [int(policy[row]) for row in real],
            [int(value[row]) for row in real],
        )
        return stage_flops(self.shape, sequences, self._modes(grouped, early), self.epochs)

    def _modes(self, grouped: Grouped | None, early: bool) -> Modes:
        before = "gathered" if early else "dense"
        gathers, params = self.asks.gathers(grouped), self.asks.params
        update: str | None = "gathered" if gathers else "dense"
        if gathers and params is not None and params.update == "streamed":
            update = "streamed_reuse" if params.kv == "reuse" else "streamed"
            if params.live_window or params.live_share:
                update = None  # how many tokens flow next to the endpoints is known to the engine only
        return Modes(before, before, "gathered" if gathers else "dense", update)
