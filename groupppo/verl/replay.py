"""verl's replay buffer with a fixed order: trajectories come back sorted by key, not by who finished first."""

from typing import Any

from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from groupppo.errors import RunFailed


class OrderedReplayBuffer(ReplayBuffer):
    """Polls twenty times a second (stock: every 2 s, longer than a whole step of a tiny model)."""

    def __init__(self, *args: Any, poll_interval: float = 0.05, **kwargs: Any):
        super().__init__(*args, poll_interval=poll_interval, **kwargs)

    def _materialize_batch(
        self, partition_id: str, selected_prompt_uids: list[str], partition_snapshot: dict[str, dict[str, Any]]
    ) -> KVBatchMeta:
        # verl would go on without them, with padding in their place.
        lost = self.failure_keys[partition_id].intersection(selected_prompt_uids)
        if lost:
            prompts = f"{len(lost)} of {len(selected_prompt_uids)} prompts"
            raise RunFailed(f"a rollout or its reward failed for {prompts}; the log has the error of each")
        ordered = dict(sorted(partition_snapshot.items(), key=lambda item: _key_parts(item[0])))
        return super()._materialize_batch(partition_id, selected_prompt_uids, ordered)


def _key_parts(key: str) -> tuple[str, int, int]:
    """`{prompt}_{response}_{turn}` -> its parts, numbers compared as numbers."""
    prompt, response, turn = key.rsplit("_", 2)
    return prompt, int(response), int(turn)
