"""How responses are drawn: verl's agent loop with a seed per response, and the rollout server `transformers`.

The server decodes with Hugging Face models, needs no vLLM and repeats to the bit. For a tiny model verl's bookkeeping
around a response costs more than the response: the loop object is built once and the load balancer asked once, and on a
CPU a response is scored where it arrives.
"""

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import Generator
from importlib import import_module
from typing import Any

import ray
import torch
from torch import Tensor
from transfer_queue import KVBatchMeta
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, DictConfigWrap, ToolListWrap
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop
from verl.trainer.ppo.reward import get_custom_reward_fn
from verl.trainer.ppo.v1 import AgentLoopManagerTQ, AgentLoopWorkerTQ
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.utils.fs import copy_to_local
from verl.workers.rollout.base import BaseRollout
from verl.workers.rollout.llm_server import LLMServerClient
from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry, TokenOutput

from groupppo.errors import BadInput, RunFailed
from groupppo.models.sampling import Request, Response, decode, end_tokens
from groupppo.verl import patches

logger = logging.getLogger(__name__)

# A step's requests arrive one by one; when the count the trainer announced is not reached (a request failed on its
# way, or nothing was announced), the batch runs after this long without a newcomer.
_QUIET_SECONDS = 30.0
_QUIET_SECONDS_UNANNOUNCED = 0.02
_StockWorker: Any = AgentLoopWorkerTQ.__ray_metadata__.modified_class


def register_replicas() -> None:
    """Make the rollouts known in the trainer's process (the side that starts servers)."""
    RolloutReplicaRegistry.register("transformers", lambda: TransformersReplica)
    RolloutReplicaRegistry.register("vllm", lambda: import_module("groupppo.verl.vllm_rollout").Replica)


# ---- agent loops and the order of what they give


def sampling_seed(*, run_seed: int, step: int, prompt: int, response: int) -> int:
    """Seed of one response, the same in every arm of a cell; a 63-bit hash, so that neighbours share nothing."""
    text = f"{run_seed}/{step}/{prompt}/{response}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


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


class InPlaceWorker(_StockWorker):
    """Stock worker with one loop object and its reward function at hand; computes what verl's `naive` manager does."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        patches.gathered_puts()
        self.reward_function = get_custom_reward_fn(self.config)
        self.loop = SeededSingleTurn(
            trainer_config=DictConfigWrap(config=self.config),
            server_manager=self.llm_client,
            tokenizer=self.tokenizer,
            processor=self.processor,
            hf_model_type=self.hf_model_type,
            dataset_cls=self.dataset_cls,
            data_config=DictConfigWrap(self.config.data),
            tools=ToolListWrap(self.tools),
        )

    async def _run_agent_loop(self, sampling_params: dict[str, Any], trajectory: dict[str, Any], **kwargs: Any) -> None:
        for of_the_loop in ("agent_name", "trace"):
            kwargs.pop(of_the_loop, None)
        output = await self.loop.run(sampling_params, **kwargs)
        await self._agent_loop_postprocess(output, trajectory["validate"], **kwargs)

    async def _compute_score(self, outputs: list[AgentLoopOutput], kwargs: dict[str, Any]) -> None:
        final, began = outputs[-1], time.perf_counter()
        result = self.reward_function(
            data_source=kwargs["data_source"],
            solution_str=self.tokenizer.decode(final.response_ids, skip_special_tokens=True),
            ground_truth=kwargs["reward_model"]["ground_truth"],
            extra_info={
                **kwargs.get("extra_info", {}),
                **final.extra_fields,
                "num_turns": final.num_turns,
                "rollout_reward_scores": kwargs.get("reward_scores", {}),
            },
        )
        score, extra = (result["score"], dict(result)) if isinstance(result, dict) else (result, {"acc": result})
        final.reward_score = score
        final.extra_fields["reward_extra_info"] = extra
        final.metrics.compute_score = time.perf_counter() - began


class InPlaceManager(AgentLoopManagerTQ):
    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.agent_loop_workers_class = ray.remote(InPlaceWorker)


class OrderedReplayBuffer(ReplayBuffer):
    """verl's replay buffer in a fixed order: trajectories come back sorted by key, not by who finished first.

    Polls twenty times a second (stock: every 2 s, longer than a whole step of a tiny model).
    """

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


# ---- the rollout server `transformers`

_Waiting = tuple[Request, "asyncio.Future[Response]"]


class TransformersServer:
    """One replica's decoder, of a policy's Hugging Face folder with verl's rollout config."""

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
        """Decode one request; `sampling_params` may carry `seed` and `requests_in_step` (see SeededSingleTurn)."""
        longest = self.config.prompt_length + self.config.response_length - len(prompt_ids)
        request = as_request(list(prompt_ids), sampling_params, min(self.config.response_length, longest))
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self.waiting.append((request, future))
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
            batch = sorted(self.waiting, key=lambda item: (item[0].seed, item[0].prompt_ids))
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
        requests, futures = zip(*batch, strict=True)
        eos, pad = end_tokens(self.model, self.tokenizer), self.tokenizer.pad_token_id
        try:
            responses = await asyncio.to_thread(decode, self.model, list(requests), eos=eos, pad=pad)
        except Exception as error:  # handed to every caller, who raises it
            for future in futures:
                future.set_exception(error)
            return
        for future, response in zip(futures, responses, strict=True):
            future.set_result(response)

    async def _nothing(self, *args: Any, **kwargs: Any) -> None:
        """What a server without caches between requests has to do to sleep or wake up."""

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
