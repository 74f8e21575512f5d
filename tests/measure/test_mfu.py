"""MFU: its formula, its devices, and the operations of each pass of a step."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from groupppo.algorithm import GroupParams
from groupppo.measure.mfu import peak_of, stage_flops
from groupppo.update.flops import Shape, Work, forward_flops, update_flops
from groupppo.verl import passes as flops
from groupppo.verl.passes import Asks, FlopsOfStep

SHAPE = Shape(hidden=64, layers=2, intermediate=192, heads=2, kv_heads=1, head_dim=32, vocabulary=261, tied=True)
POLICY = [Work(20, 10, 3), Work(30, 20, 4), Work(20, 10, 3)]
VALUE = [Work(20, 10, 2), Work(30, 20, 4), Work(20, 10, 2)]
STAGES = ("old_log_prob", "ref", "values", "update_critic", "update_actor")
DENSE = dict.fromkeys(STAGES, "dense")


@pytest.mark.parametrize(("name", "tera"), [
    ("NVIDIA H100 80GB HBM3", 989.4), ("NVIDIA H100 PCIe", 756.5), ("NVIDIA H100 NVL", 835.5), ("NVIDIA H200", 989.4),
    ("NVIDIA A100-SXM4-80GB", 312), ("NVIDIA A100 80GB PCIe", 312), ("NVIDIA A100-PCIE-40GB", 312), ("NVIDIA L4", 121),
    ("NVIDIA L40", 181.05), ("NVIDIA L40S", 362.05), ("NVIDIA A10", 125), ("NVIDIA GH200 480GB", 989.4),
])  # fmt: skip
def test_a_known_device_has_its_published_dense_peak(name, tera):
    assert peak_of(name).flops_per_second == pytest.approx(tera * 1e12)
    assert "datasheet" in peak_of(name).source


@pytest.mark.parametrize("name", [
    "NVIDIA A10G", "NVIDIA H100 80GB HBM2e", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "Tesla V100-SXM2-16GB", "CPU", "",
])  # fmt: skip
def test_a_device_whose_name_only_looks_like_a_known_one_has_no_peak(name):
    assert peak_of(name) is None


def test_a_batch_costs_the_sum_of_its_sequences_and_a_critic_has_a_head_of_one_value():
    found = stage_flops(SHAPE, POLICY, VALUE, DENSE, (1, 1))
    forward, update = (
        sum(sum(flops(SHAPE, work, "dense").values()) for work in POLICY) for flops in (forward_flops, update_flops)
    )
    assert found["old_log_prob"] == found["ref"] == pytest.approx(forward)
    assert found["update_actor"] == pytest.approx(update)
    assert update > 2.9 * forward
    head = 3 * 2 * SHAPE.hidden * sum(work.tokens for work in POLICY)
    assert found["update_actor"] - found["update_critic"] == pytest.approx(head * (SHAPE.vocabulary - 1))


def test_a_gathered_update_is_credited_with_less_than_a_masked_one_which_does_all_the_work():
    gathered = stage_flops(SHAPE, POLICY, VALUE, DENSE | {"update_actor": "gathered"}, (1, 1))
    masked = stage_flops(SHAPE, POLICY, VALUE, DENSE | {"update_actor": "masked"}, (1, 1))
    dense = stage_flops(SHAPE, POLICY, VALUE, DENSE, (1, 1))
    assert masked == dense
    assert gathered["update_actor"] < dense["update_actor"]
    assert gathered["update_critic"] == dense["update_critic"]


LLAMA = SimpleNamespace(
    hidden_size=64, num_hidden_layers=2, intermediate_size=192, num_attention_heads=2, num_key_value_heads=1,
    vocab_size=261, tie_word_embeddings=True, model_type="llama",
)  # fmt: skip
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]], dtype=torch.bool)
ENDPOINTS = torch.tensor([[0, 0, 0, 1], [0, 1, 0, 0]], dtype=torch.bool)
TAGS = [{"seq_len": 9}, {"seq_len": 5}]
RESPONSES = [4, 2]
CONFIG = SimpleNamespace(
    actor_rollout_ref=SimpleNamespace(actor=SimpleNamespace(ppo_epochs=2), model=SimpleNamespace(path="start")),
    critic=SimpleNamespace(ppo_epochs=3),
)


def grouped(policy: torch.Tensor = ENDPOINTS) -> SimpleNamespace:
    losses = SimpleNamespace(policy=SimpleNamespace(counts=policy), value=SimpleNamespace(counts=ENDPOINTS))
    return SimpleNamespace(
        losses=losses, groups=SimpleNamespace(endpoints=ENDPOINTS), tokens=SimpleNamespace(mask=MASK)
    )


@pytest.fixture
def counter(monkeypatch):
    monkeypatch.setattr(flops.AutoConfig, "from_pretrained", lambda path: LLAMA)

    def make(**params):
        given = replace(GroupParams(), **params) if params else None
        return FlopsOfStep(CONFIG, Asks(given))

    return make


def expected(modes: dict, policy: list[int], value: list[int]) -> dict:
    works = ([Work(9, 4, rows[0]), Work(5, 2, rows[1])] for rows in (policy, value))
    return stage_flops(Shape.of(LLAMA), *works, modes, (2, 3))


def test_an_arm_without_groups_is_counted_dense(counter):
    found = counter().count(TAGS, RESPONSES, None, early=False)
    assert found == expected(DENSE, RESPONSES, RESPONSES)


@pytest.mark.parametrize(
    ("params", "actor", "critic"),
    [
        ({"update": "masked"}, "dense", "dense"),
        ({"update": "auto"}, "gathered", "gathered"),  # a third of the tokens are endpoints
        ({"update": "gathered"}, "gathered", "gathered"),
        ({"update": "streamed", "kv": "recompute"}, "streamed", "gathered"),
        ({"update": "streamed", "kv": "reuse"}, "streamed_reuse", "gathered"),
        ({"update": "streamed", "kv": "recompute", "live_window": 2}, None, "gathered"),
        ({"update": "streamed", "kv": "recompute", "live_share": 0.1}, None, "gathered"),
    ],
)
def test_a_grouped_arm_is_counted_as_its_update_runs(counter, params, actor, critic):
    found = counter(**params).count(TAGS, RESPONSES, grouped(), early=False)
    assert found == expected(DENSE | {"update_critic": critic, "update_actor": actor}, [1, 1], [1, 1])


def test_endpoints_known_beforehand_make_the_passes_before_the_update_cheaper(counter):
    early = counter(update="gathered").count(TAGS, RESPONSES, grouped(), early=True)
    late = counter(update="gathered").count(TAGS, RESPONSES, grouped(), early=False)
    assert early["old_log_prob"] < late["old_log_prob"]
    assert early["values"] < late["values"]
    assert early["update_actor"] == late["update_actor"]


def test_a_pass_that_is_left_out_has_no_operations(counter):
    found = counter(update="gathered", old_log_probs="update").count(TAGS, RESPONSES, grouped(), early=False)
    every = counter(update="gathered").count(TAGS, RESPONSES, grouped(), early=False)
    assert every.pop("old_log_prob") > 0
    assert found == every


def test_padding_is_not_counted(counter):
    padded = [*TAGS, {"seq_len": 9, "is_padding": True}]
    assert counter().count(padded, [*RESPONSES, 4], None, early=False) == counter().count(TAGS, RESPONSES, None, False)
    real = [*TAGS, {"seq_len": 9}]
    assert counter().count(real, [*RESPONSES, 4], None, early=False) != counter().count(TAGS, RESPONSES, None, False)


def test_a_family_of_models_without_a_known_shape_has_no_operations(monkeypatch, caplog):
    monkeypatch.setattr(flops.AutoConfig, "from_pretrained", lambda path: SimpleNamespace(d_model=64))
    with caplog.at_level("WARNING", logger=flops.__name__):  # whatever was imported before
        assert FlopsOfStep(CONFIG, Asks(None)).count(TAGS, RESPONSES, None, early=False) == {}
    assert "no operations are counted" in caplog.text


def test_sequences_of_unknown_length_have_no_operations(counter):
    assert counter().count([{}, {"seq_len": 5}], RESPONSES, None, early=False) == {}
