"""The rollout server `transformers`: a Ray actor that decodes with a Hugging Face model, behind verl's interface.

It serves tiny models on machines where vLLM does not install, and it repeats to the bit: all requests of a step are
decoded in one batch, sorted by their seed, and every request draws from a generator of its own.
"""

import asyncio
import logging
import os
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import ray
import torch
from torch import Tensor
from verl.utils.fs import copy_to_local
from verl.workers.rollout.base import BaseRollout
from verl.workers.rollout.replica import RolloutReplica, TokenOutput

from groupppo.errors import BadInput
from groupppo.models.sampling import Request, Response, decode, end_tokens

logger = logging.getLogger(__name__)

# A step's requests arrive one by one; when the count the trainer announced is not reached (a request failed on its
# way, or nothing was announced), the batch runs after this long without a newcomer.
_QUIET_SECONDS = 30.0
_QUIET_SECONDS_UNANNOUNCED = 0.02


@dataclass
class _Waiting:
    request: Request
    future: "asyncio.Future[Response]"


class TransformersServer:
    """One replica's decoder.

    Args:
        path: Hugging Face folder of the policy.
        config: verl's rollout config (lengths, dtype, largest batch).
    """

    def __init__(self, path: str, config: Any):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(1)
        self.config = config
        dtype = getattr(torch, str(config.dtype).removeprefix("torch."))
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation="sdpa").eval()
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.global_steps: int | None = None
        self.waiting: list[_Waiting] = []
        self.announced = 0
        self.arrival = asyncio.Event()
        self.loop_task: asyncio.Task[None] | None = None

    def ready(self) -> bool:
        return True

    def load_weights(self, state: dict[str, Tensor], global_steps: int | None) -> None:
        """Replace all weights; a name the model does not have, or lacks, is an error."""
        missing, unexpected = self.model.load_state_dict(state, strict=False)
        tied = {"lm_head.weight"} if self.model.config.tie_word_embeddings else set()
        if unexpected or set(missing) - tied:
            raise ValueError(f"weights do not fit the model: missing {missing}, unexpected {unexpected}")
        self.model.tie_weights()
        if global_steps is not None:
            self.global_steps = global_steps

    async def generate(
        self, request_id: str, prompt_ids: list[int], sampling_params: dict[str, Any], **_: Any
    ) -> TokenOutput:
        """Decode one request; `sampling_params` may carry `seed` and `requests_in_step` (see agent_loop.py)."""
        longest = self.config.prompt_length + self.config.response_length - len(prompt_ids)
        request = as_request(list(prompt_ids), sampling_params, min(self.config.response_length, longest))
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self.waiting.append(_Waiting(request, future))
        self.announced = int(sampling_params.get("requests_in_step", 0))
        self.arrival.set()
        if self.loop_task is None or self.loop_task.done():
            self.loop_task = asyncio.create_task(self._serve())
        response = await future
        return TokenOutput(
            token_ids=response.token_ids,
            log_probs=response.log_probs,
            stop_reason="completed",
            extra_fields={"global_steps": self.global_steps},
        )

    async def _serve(self) -> None:
        while self.waiting:
            await self._collect()
            batch = sorted(self.waiting, key=lambda item: (item.request.seed, item.request.prompt_ids))
            self.waiting = []
            for start in range(0, len(batch), self.config.max_num_seqs):
                await self._run(batch[start : start + self.config.max_num_seqs])

    async def _collect(self) -> None:
        while self.announced == 0 or len(self.waiting) < self.announced:
            self.arrival.clear()
            quiet = _QUIET_SECONDS if self.announced else _QUIET_SECONDS_UNANNOUNCED
            try:
                await asyncio.wait_for(self.arrival.wait(), quiet)
            except TimeoutError:
                if self.announced:
                    waiting, announced = len(self.waiting), self.announced
                    logger.warning("%d of %d announced requests came; rounding may differ", waiting, announced)
                return

    async def _run(self, batch: list[_Waiting]) -> None:
        try:
            responses = await asyncio.to_thread(
                decode,
                self.model,
                [item.request for item in batch],
                eos=end_tokens(self.model, self.tokenizer),
                pad=self.tokenizer.pad_token_id,
            )
        except Exception as error:  # handed to every caller, who raises it
            for item in batch:
                item.future.set_exception(error)
            return
        for item, response in zip(batch, responses, strict=True):
            item.future.set_result(response)

    async def _nothing(self, *args: Any, **kwargs: Any) -> None:
        """Sleep, wake-up, caches, profiles: a server without caches between requests has nothing to do."""

    wake_up = sleep = clear_kv_cache = release_kv_cache = resume_kv_cache = _nothing
    abort_all_requests = resume_generation = start_profile = stop_profile = _nothing


class TransformersReplica(RolloutReplica):
    async def launch_servers(self) -> None:
        actor = ray.remote(TransformersServer).options(
            name=server_name(self.replica_rank), max_concurrency=self.max_concurrency
        )
        server = actor.remote(copy_to_local(self.model_config["path"]), self.config)
        await server.ready.remote()
        self.servers = [server]
        self._server_handle = server
        self._server_address = server_name(self.replica_rank)


class TransformersAdapter(BaseRollout):
    """The training worker's side: sends the policy's weights to its server."""

    def __init__(self, config: Any, model_config: Any, device_mesh: Any, replica_rank: int = -1):
        super().__init__(config, model_config, device_mesh)
        self.replica_rank = int(os.environ["RANK"]) if replica_rank == -1 else replica_rank
        self.server: Any = None

    async def resume(self, tags: list[str]) -> None: ...

    async def release(self) -> None: ...

    @torch.no_grad()
    async def update_weights(
        self,
        weights: Generator[tuple[str, Tensor], None, None],
        wire_format: str = "named_tensors",
        global_steps: int | None = None,
        **_: Any,
    ) -> None:
        if wire_format != "named_tensors":
            raise ValueError(f"rollout.name=transformers takes whole weights only, not {wire_format!r}")
        state = {name: tensor.detach().cpu().clone() for name, tensor in weights}
        if self.server is None:
            self.server = ray.get_actor(server_name(self.replica_rank))
        await self.server.load_weights.remote(state, global_steps)


def as_request(prompt_ids: list[int], params: dict[str, Any], max_tokens: int) -> Request:
    """verl's sampling parameters as a request; what this server does not do is refused rather than ignored."""
    neutral = {"top_p": (1.0,), "top_k": (-1, 0), "repetition_penalty": (1.0,)}
    for key, allowed in neutral.items():
        if params.get(key, allowed[0]) not in allowed:
            home = "actor_rollout_ref.rollout (name=transformers)"
            raise BadInput(home, key, params[key], f"use {allowed[0]}, or rollout.name=vllm.")
    asked = params.get("max_tokens") or params.get("max_new_tokens") or max_tokens
    return Request(prompt_ids, max(1, min(asked, max_tokens)), float(params["temperature"]), int(params.get("seed", 0)))


def server_name(replica_rank: int) -> str:
    return f"transformers_server_{replica_rank}"
