"""The order of a step's trajectories, and what happens when some are missing."""

from typing import Any

import pytest
from groupppo.verl.replay import OrderedReplayBuffer
from verl.trainer.ppo.v1 import replay_buffer

from groupppo.errors import RunFailed

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
