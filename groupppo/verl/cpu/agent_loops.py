"""verl's agent loops for models so small that verl's bookkeeping around a response costs more than the response.

Stock verl builds the loop object once per response through Hydra, sends every response to another process to be scored,
and stores each by itself. Here one loop object serves all responses; scores are computed where the response arrives, by
the same reward function with the same arguments as verl's `naive` reward manager; and what arrives while others are
being stored is stored together. On a GPU node the stock classes run.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
import verl.trainer.ppo.v1.agent_loop_tq as stock
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, DictConfigWrap, ToolListWrap
from verl.trainer.ppo.reward import get_custom_reward_fn
from verl.trainer.ppo.v1 import AgentLoopManagerTQ, AgentLoopWorkerTQ
from verl.utils.profiler.performance import simple_timer
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from groupppo.verl.agent_loop import SeededSingleTurn

_StockWorker: Any = AgentLoopWorkerTQ.__ray_metadata__.modified_class


class GatheredPuts:
    """In the place of TransferQueue's module: what is put while a put is under way goes into the next one.

    Args:
        queue: the module, whose other functions stay what they are.
        join: makes what the queue stores of a list of rows.
    """

    def __init__(self, queue: Any, join: Callable[[list[dict[str, Any]]], Any]):
        self.queue, self.join = queue, join
        self.waiting: list[_Put] = []
        self.task: asyncio.Task[None] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.queue, name)

    async def async_kv_batch_put(
        self, *, keys: list[str], fields: list[dict[str, Any]], tags: list[dict[str, Any]], partition_id: str
    ) -> None:
        """As the queue's, of rows that were not joined; an error of a put is raised to all whose rows are in it."""
        put = _Put(keys, fields, tags, partition_id, asyncio.get_running_loop().create_future())
        self.waiting.append(put)
        if self.task is None or self.task.done():
            self.task = asyncio.create_task(self._store())
        await put.stored

    async def _store(self) -> None:
        while self.waiting:
            partition = self.waiting[0].partition
            puts = [put for put in self.waiting if put.partition == partition]
            self.waiting = [put for put in self.waiting if put.partition != partition]
            try:
                await self.queue.async_kv_batch_put(
                    keys=[key for put in puts for key in put.keys],
                    fields=self.join([row for put in puts for row in put.rows]),
                    tags=[tag for put in puts for tag in put.tags],
                    partition_id=partition,
                )
            except Exception as error:  # handed to every caller, who raises it
                for put in puts:
                    put.stored.set_exception(error)
            else:
                for put in puts:
                    put.stored.set_result(None)


@dataclass(frozen=True)
class _Put:
    keys: list[str]
    rows: list[dict[str, Any]]
    tags: list[dict[str, Any]]
    partition: str
    stored: "asyncio.Future[None]"


def _gather_puts() -> None:
    """verl's trainer/ppo/v1/agent_loop_tq.py:219 joins the rows of a response and puts them by these two names."""
    if not isinstance(stock.tq, GatheredPuts):
        stock.tq = GatheredPuts(stock.tq, list_of_dict_to_tensordict)
        stock.list_of_dict_to_tensordict = list


class InPlaceWorker(_StockWorker):
    """Stock worker with one loop object and its reward function at hand."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        _gather_puts()
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

    async def _run_agent_loop(
        self,
        sampling_params: dict[str, Any],
        trajectory: dict[str, Any],
        *,
        agent_name: str,
        trace: bool = True,
        **kwargs: Any,
    ) -> None:
        output = await self.loop.run(sampling_params, **kwargs)
        await self._agent_loop_postprocess(output, trajectory["validate"], **kwargs)

    async def _compute_score(self, outputs: list[AgentLoopOutput], kwargs: dict[str, Any]) -> None:
        final = outputs[-1]
        timing: dict[str, float] = {}
        with simple_timer("compute_score", timing):
            score, extra = self._score(final, kwargs)
        final.reward_score = score
        final.extra_fields["reward_extra_info"] = extra
        final.metrics.compute_score = timing["compute_score"]

    def _score(self, output: AgentLoopOutput, kwargs: dict[str, Any]) -> tuple[float, dict[str, Any]]:
        result = self.reward_function(
            data_source=kwargs["data_source"],
            solution_str=self.tokenizer.decode(output.response_ids, skip_special_tokens=True),
            ground_truth=kwargs["reward_model"]["ground_truth"],
            extra_info={
                **kwargs.get("extra_info", {}),
                **output.extra_fields,
                "num_turns": output.num_turns,
                "rollout_reward_scores": kwargs.get("reward_scores", {}),
            },
        )
        return (result["score"], dict(result)) if isinstance(result, dict) else (result, {"acc": result})


class InPlaceManager(AgentLoopManagerTQ):
    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.agent_loop_workers_class = ray.remote(InPlaceWorker)
