"""verl's agent loops for models so small that verl's bookkeeping around a response costs more than the response.

Stock verl builds the loop object once per response through Hydra and sends every response to another process to be
scored. Here one loop object serves all responses, and scores are computed where the response arrives: the same reward
function, with the same arguments, as verl's `naive` reward manager. On a GPU node the stock classes run.
"""

from typing import Any

import ray
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, DictConfigWrap, ToolListWrap
from verl.trainer.ppo.reward import get_custom_reward_fn
from verl.trainer.ppo.v1 import AgentLoopManagerTQ, AgentLoopWorkerTQ
from verl.utils.profiler.performance import simple_timer

from groupppo.verl.agent_loop import SeededSingleTurn

_StockWorker: Any = AgentLoopWorkerTQ.__ray_metadata__.modified_class


class InPlaceWorker(_StockWorker):
    """Stock worker with one loop object and its reward function at hand."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
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
