"""A step's memory from shapes: what offloading, sharing and the server move, and what they leave alone."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupppo.update.budget import RunShape, host_bytes, server_bytes, step_bytes
from groupppo.update.flops import Shape

SMALL = Shape(hidden=896, layers=24, intermediate=4864, heads=14, kv_heads=2, head_dim=64, vocabulary=151936, tied=True)
RUN = RunShape(
    shape=SMALL,
    gpus=1,
    tensor_parallel=1,
    micro_batch=4096,
    longest=1024,
    fused=False,
    critic=True,
    reference=False,
    checkpointing=True,
    offload="none",
    server_share=0.4,
)
GPU = 80e9


def test_resting_states_are_master_weights_and_two_moments_of_both_networks() -> None:
    phases = step_bytes(RUN, GPU)
    assert phases["rollout"]["states"] == 2 * 12 * SMALL.parameters
    assert phases["update_actor"]["states"] == (12 + 4 + 12) * SMALL.parameters
    assert phases["rollout"]["server"] == 0.4 * GPU
    alone = step_bytes(replace(RUN, critic=False), GPU)
    assert alone["rollout"]["states"] == 12 * SMALL.parameters
    assert "update_critic" not in alone


@given(gpus=st.sampled_from([1, 2, 4, 8]), offload=st.sampled_from(["none", "between", "always"]))
def test_more_gpus_and_more_offloading_never_need_more_of_one_gpu(gpus: int, offload: str) -> None:
    run = replace(RUN, gpus=gpus, offload=offload)
    for lighter in (replace(run, gpus=2 * gpus), replace(run, offload="always")):
        for phase, causes in step_bytes(lighter, GPU).items():
            assert sum(causes.values()) <= sum(step_bytes(run, GPU)[phase].values())


def test_what_leaves_the_gpu_is_in_the_machines_memory() -> None:
    assert host_bytes(RUN) == 0
    between, always = replace(RUN, offload="between"), replace(RUN, offload="always")
    assert step_bytes(between, GPU)["rollout"]["states"] == 0
    assert host_bytes(between) == 2 * 12 * SMALL.parameters
    assert host_bytes(always) == 2 * 16 * SMALL.parameters
    assert step_bytes(always, GPU)["update_actor"]["states"] == 0
    assert step_bytes(between, GPU)["update_actor"]["states"] == 16 * SMALL.parameters


def test_only_the_policys_head_is_wide_and_a_fused_one_keeps_no_logits() -> None:
    dense, fused = step_bytes(RUN, GPU), step_bytes(replace(RUN, fused=True), GPU)
    assert dense["update_actor"]["update"] > 4 * RUN.micro_batch * SMALL.vocabulary
    assert fused["update_actor"]["update"] < dense["update_actor"]["update"] / 2
    assert dense["update_critic"]["update"] < dense["update_actor"]["update"] / 2
    assert step_bytes(replace(RUN, kept=1e9), GPU)["update_actor"]["update"] - dense["update_actor"]["update"] == 1e9


def test_the_server_needs_its_weights_and_one_responses_keys_and_values() -> None:
    assert server_bytes(RUN) == 2 * SMALL.parameters + 2 * 2 * 24 * 2 * 64 * 1024
    assert server_bytes(replace(RUN, tensor_parallel=2)) == server_bytes(RUN) / 2


def test_an_unknown_offload_is_an_error() -> None:
    with pytest.raises(ValueError, match="between"):
        step_bytes(replace(RUN, offload="sometimes"), GPU)
