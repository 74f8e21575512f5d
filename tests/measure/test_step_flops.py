"""Operations of a run's stages: which mode each pass is counted in, for which sequences."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from groupppo.algorithm import GroupParams
from groupppo.measure.mfu import Modes, Sequences, stage_flops
from groupppo.update.flops import Shape
from groupppo.verl import passes as flops
from groupppo.verl.passes import Asks, FlopsOfStep

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


def expected(modes: Modes, policy: list[int], value: list[int]) -> dict:
    return stage_flops(Shape.of(LLAMA), Sequences([9, 5], [4, 2], policy, value), modes, (2, 3))


def test_an_arm_without_groups_is_counted_dense(counter):
    found = counter().count(TAGS, RESPONSES, None, early=False)
    assert found == expected(Modes("dense", "dense", "dense", "dense"), RESPONSES, RESPONSES)


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
    assert found == expected(Modes("dense", "dense", critic, actor), [1, 1], [1, 1])
    other = expected(Modes("dense", "dense", critic, "gathered" if actor != "gathered" else "dense"), [1, 1], [1, 1])
    assert found != other


def test_a_policy_that_trains_on_more_than_endpoints_is_counted_with_all_of_them(counter):
    found = counter(update="gathered").count(TAGS, RESPONSES, grouped(policy=MASK), early=False)
    assert found == expected(Modes("dense", "dense", "gathered", "gathered"), [4, 2], [1, 1])


def test_endpoints_known_beforehand_make_the_passes_before_the_update_cheaper(counter):
    early = counter(update="gathered").count(TAGS, RESPONSES, grouped(), early=True)
    late = counter(update="gathered").count(TAGS, RESPONSES, grouped(), early=False)
    assert early["old_log_prob"] < late["old_log_prob"]
    assert early["values"] < late["values"]
    assert early["update_actor"] == late["update_actor"]


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
