"""verl's single-turn agent loop with a sampling seed per response, so that all arms of a cell draw alike."""

import hashlib
from typing import Any

from verl.experimental.agent_loop.agent_loop import AgentLoopOutput
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop


class SeededSingleTurn(SingleTurnAgentLoop):
    async def run(self, sampling_params: dict[str, Any], priority: int = 0, **kwargs: Any) -> AgentLoopOutput:
        seed = sampling_seed(
            run_seed=self.rollout_config.seed,
            step=int(kwargs["global_steps"]),
            prompt=int(kwargs["index"]),
            response=int(kwargs["session_id"]),
        )
        params = {**sampling_params, "seed": seed}
        if self.rollout_config.name == "transformers":
            params["requests_in_step"] = int(kwargs.get("requests_in_step", 0))
        return await super().run(params, priority=priority, **kwargs)


def sampling_seed(*, run_seed: int, step: int, prompt: int, response: int) -> int:
    """Seed of one response, the same in every arm of a cell; a 63-bit hash, so that neighbours share nothing."""
    text = f"{run_seed}/{step}/{prompt}/{response}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
