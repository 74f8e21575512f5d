"""Rollouts: seeds, scores where a response arrives, responses stored together, and the order they come back in."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput
from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager
from verl.trainer.ppo.v1 import replay_buffer

from groupppo.errors import BadInput, RunFailed
from groupppo.verl.patches import GatheredPuts
from groupppo.verl.rollouts import InPlaceWorker, OrderedReplayBuffer, as_request, sampling_seed

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


def test_rows_that_arrive_while_others_are_stored_are_stored_together_with_their_own_tags_by_partition() -> None:
    queue, answers = put_all(["a", "b", "c"])
    assert [keys for keys, *_ in queue.puts] == [["first"], ["a", "b", "c"]]
    assert queue.puts[1][1:] == ([{"row": k} for k in "abc"], [{"tag": k} for k in "abc"], "train")
    assert answers == [None] * 4
    queue, _ = put_all(["a", "b"], partition="val")
    assert [(keys, where) for keys, _, _, where in queue.puts] == [(["first"], "train"), (["a", "b"], "val")]


def test_an_error_of_a_put_reaches_all_whose_rows_were_in_it_and_nobody_else() -> None:
    queue, (first, *others) = put_all(["a", "bad"])
    assert first is None
    assert [keys for keys, *_ in queue.puts] == [["first"]]
    assert [str(error) for error in others] == ["no storage"] * 2


@pytest.mark.parametrize(("key", "value"), [("top_p", 0.9), ("top_k", 5), ("repetition_penalty", 1.2)])
def test_sampling_this_server_does_not_do_is_refused(key: str, value: float) -> None:
    with pytest.raises(BadInput, match=key):
        as_request([1], {"temperature": 1.0, key: value}, max_tokens=4)


def test_sampling_seeds_differ_between_steps_prompts_responses_and_runs() -> None:
    seeds = {
        sampling_seed(run_seed=run, step=step, prompt=prompt, response=response)
        for run in range(3) for step in range(5) for prompt in range(10) for response in range(4)
    }  # fmt: skip
    assert len(seeds) == 3 * 5 * 10 * 4
    assert all(0 <= seed < 2**63 for seed in seeds)


SNAPSHOT = {key: {"seq_len": 3} for key in ("step2-prompt1_1_0", "step2-prompt0_10_0", "step2-prompt0_2_0")}


@pytest.fixture
def buffer(monkeypatch: pytest.MonkeyPatch) -> OrderedReplayBuffer:
    monkeypatch.setattr(replay_buffer.tq, "kv_clear", lambda **_: None)
    made = OrderedReplayBuffer.__new__(OrderedReplayBuffer)
    made.failure_keys = {"train": set()}
    return made


def keys(buffer: OrderedReplayBuffer, snapshot: dict[str, Any]) -> list[str]:
    return buffer._materialize_batch("train", ["step2-prompt1", "step2-prompt0"], snapshot).keys


def test_trajectories_come_by_prompt_and_number_whoever_finished_first(buffer: OrderedReplayBuffer) -> None:
    backwards = dict(reversed(SNAPSHOT.items()))
    ordered = ["step2-prompt0_2_0", "step2-prompt0_10_0", "step2-prompt1_1_0"]
    assert keys(buffer, SNAPSHOT) == keys(buffer, backwards) == ordered
    assert list(SNAPSHOT) != ordered


def test_a_prompt_whose_rollout_failed_ends_the_run_instead_of_being_filled_up(buffer: OrderedReplayBuffer) -> None:
    buffer.failure_keys["train"] = {"step2-prompt1"}
    with pytest.raises(RunFailed, match="failed for 1 of 2 prompts"):
        keys(buffer, SNAPSHOT)
    buffer.failure_keys["train"] = {"step1-prompt1"}  # of another batch
    assert keys(buffer, SNAPSHOT)
