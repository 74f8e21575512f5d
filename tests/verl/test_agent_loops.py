"""Scores where a response arrives are those of verl's reward worker; responses stored together lose nothing."""

import asyncio
import inspect
from types import SimpleNamespace
from typing import Any

import pytest
from groupppo.verl.cpu.agent_loops import GatheredPuts, InPlaceWorker
from omegaconf import OmegaConf
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput
from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager

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


class SlowQueue:
    """Stores what it is given after a while; fails for keys that start with "bad"."""

    def __init__(self) -> None:
        self.puts: list[tuple[list[str], list[dict[str, Any]], list[dict[str, Any]], str]] = []
        self.other = "something else of the module"

    async def async_kv_batch_put(self, *, keys: Any, fields: Any, tags: Any, partition_id: str) -> None:
        await asyncio.sleep(0.01)
        if any(key.startswith("bad") for key in keys):
            raise ConnectionError("no storage")
        self.puts.append((keys, fields, tags, partition_id))


def put_all(keys: list[str], partition: str = "train") -> tuple[SlowQueue, list[Any]]:
    """What the queue was given, and what each caller got, when all put one row at once after a first one."""
    queue = SlowQueue()
    gathered = GatheredPuts(queue, list)

    async def put(key: str, where: str = partition) -> None:
        await gathered.async_kv_batch_put(keys=[key], fields=[{"row": key}], tags=[{"tag": key}], partition_id=where)

    async def all_of_them() -> list[Any]:
        first = asyncio.create_task(put("first", "train"))
        await asyncio.sleep(0.001)
        return await asyncio.gather(first, *map(put, keys), return_exceptions=True)

    return queue, asyncio.run(all_of_them())


def test_rows_that_arrive_while_others_are_stored_are_stored_together_with_their_own_tags() -> None:
    queue, answers = put_all(["a", "b", "c"])
    assert [keys for keys, *_ in queue.puts] == [["first"], ["a", "b", "c"]]
    assert queue.puts[1][1:] == ([{"row": k} for k in "abc"], [{"tag": k} for k in "abc"], "train")
    assert answers == [None] * 4


def test_rows_of_two_partitions_are_not_mixed() -> None:
    queue, _ = put_all(["a", "b"], partition="val")
    assert [(keys, where) for keys, _, _, where in queue.puts] == [(["first"], "train"), (["a", "b"], "val")]


def test_an_error_of_a_put_reaches_all_whose_rows_were_in_it_and_nobody_else() -> None:
    queue, (first, *others) = put_all(["a", "bad"])
    assert first is None
    assert [keys for keys, *_ in queue.puts] == [["first"]]
    assert [str(error) for error in others] == ["no storage"] * 2


def test_everything_else_of_the_queue_is_its_own() -> None:
    assert GatheredPuts(SlowQueue(), list).other == "something else of the module"


def test_verl_stores_a_response_by_the_two_names_that_are_replaced() -> None:
    source = inspect.getsource(StockWorker._agent_loop_postprocess)
    assert "await tq.async_kv_batch_put(" in source
    assert "fields=list_of_dict_to_tensordict(fields)" in source
    assert {"tq", "list_of_dict_to_tensordict"} <= set(vars(inspect.getmodule(StockWorker._agent_loop_postprocess)))
