"""verl's single-turn agent loop with a sampling seed per response, so that all arms of a cell draw alike.

For a tiny model verl's bookkeeping around a response costs more than the response, so two parts of it are done once
instead of once per response: building the loop object, and asking the load balancer for the only server there is.
"""

import hashlib
from typing import Any

from verl.experimental.agent_loop.agent_loop import AgentLoopOutput
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop
from verl.workers.rollout.llm_server import LLMServerClient


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


_loops: list[SeededSingleTurn] = []


def seeded_single_turn(**parts: Any) -> SeededSingleTurn:
    """The loop of this process: it holds nothing of a single response, and all responses get the same parts."""
    if not _loops:
        _loops.append(SeededSingleTurn(**parts))
    return _loops[0]


class SingleServerClient(LLMServerClient):
    """Client of a run with one rollout server: the balancer's first answer holds for every request."""

    async def _acquire_server(self, request_id: str, **extra: Any) -> tuple[str, Any]:
        if not hasattr(self, "_server"):
            self._server = await super()._acquire_server(request_id, **extra)
        return self._server

    def _release_server(self, server_id: str, request_id: str | None = None) -> None: ...


def sampling_seed(*, run_seed: int, step: int, prompt: int, response: int) -> int:
    """Seed of one response, the same in every arm of a cell; a 63-bit hash, so that neighbours share nothing."""
    text = f"{run_seed}/{step}/{prompt}/{response}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
