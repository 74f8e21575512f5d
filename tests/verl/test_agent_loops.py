"""Scores computed where a response arrives are those of verl's reward worker, from the same arguments."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput
from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager

from groupppo.verl.cpu.agent_loops import InPlaceWorker

StockWorker: Any = InPlaceWorker.__mro__[1]
ROW = {
    "data_source": "sorting",
    "raw_prompt": [{"role": "user", "content": "3 1 2"}],
    "reward_model": {"style": "rule", "ground_truth": "1 2 3"},
    "extra_info": {"index": 7},
    "uid": "step000001-prompt00000",
}


class Letters:
    """Tokenizer of one letter per id; the last id is special."""

    def decode(self, ids: Any, skip_special_tokens: bool) -> str:
        return "".join(chr(97 + int(i)) for i in ids if not (skip_special_tokens and int(i) == 25))


def output() -> AgentLoopOutput:
    return AgentLoopOutput(
        prompt_ids=[3, 1],
        response_ids=[2, 0, 25],
        response_mask=[1, 1, 1],
        num_turns=2,
        metrics={},
        extra_fields={"turn_scores": [], "tool_rewards": [], "raw_prompt": ROW["raw_prompt"]},
    )


def worker(cls: Any, function: Any) -> Any:
    made = object.__new__(cls)
    made.tokenizer, made.processor, made.reward_function = Letters(), None, function
    made.mm_processor_kwargs = {}
    manager = NaiveRewardManager(OmegaConf.create({}), Letters(), function)

    async def compute_score(data: Any) -> dict[str, Any]:
        manager.loop = asyncio.get_running_loop()
        return await manager.run_single(data)

    made.reward_loop_worker_handles = [SimpleNamespace(compute_score=SimpleNamespace(remote=compute_score))]
    return made


def scored(cls: Any, result: Any) -> tuple[AgentLoopOutput, dict[str, Any]]:
    calls: list[dict[str, Any]] = []

    def function(**given: Any) -> Any:
        calls.append(given)
        return result(given["solution_str"], given["ground_truth"])

    final = output()
    asyncio.run(worker(cls, function)._compute_score([final], kwargs=ROW))
    (call,) = calls
    return final, call


@pytest.mark.parametrize(
    "result",
    [lambda solution, truth: float(solution == "ca"), lambda solution, truth: {"score": 0.5, "acc": solution == truth}],
    ids=["number", "dictionary"],
)
def test_score_extras_and_arguments_are_those_of_the_reward_worker(result: Any) -> None:
    stock, stock_call = scored(StockWorker, result)
    ours, our_call = scored(InPlaceWorker, result)
    assert ours.reward_score == stock.reward_score
    assert ours.extra_fields == stock.extra_fields
    assert our_call == stock_call
    assert our_call["solution_str"] == "ca"


def test_an_error_of_the_reward_function_reaches_the_one_who_waits_for_the_response() -> None:
    def fails(solution: str, truth: str) -> float:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        scored(InPlaceWorker, fails)
