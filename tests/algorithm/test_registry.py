"""One file is one rule: found by being there, and honest about what it reads."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from groupppo.algorithm import Cause, GroupParams, Tokens, group_tokens, known_rules, registry, rules
from groupppo.errors import BadInput
from tests.algorithm.strategies import EVERY_READING, closings, fixed_batch

RULES = {
    "variance_split",
    "literal",
    "published",
    "stride",
    "random",
    "entropy",
    "low_prob",
    "singleton",
    "sequence",
}

NEW_RULE = '''
import torch
from groupppo.algorithm.groups import Cause, last_valid
from groupppo.algorithm.registry import rule

@rule(uses=("group_max_size",), needs=("rewards",))
def rewarded(tokens, params, step):
    """Close at tokens whose reward reaches `group_max_size`."""
    cause = torch.where(last_valid(tokens.mask), Cause.END, Cause.NONE).to(torch.int8)
    cause[tokens.mask & (tokens.get("rewards") >= params.group_max_size)] = Cause.CRITERION
    return cause
'''


@pytest.fixture
def new_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A tenth rule in a file beside the nine, taken away again."""
    (tmp_path / "rewarded.py").write_text(NEW_RULE)
    monkeypatch.setattr(rules, "__path__", [*rules.__path__, str(tmp_path)])
    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))
    importlib.invalidate_caches()
    known_rules.cache_clear()
    yield
    sys.modules.pop("groupppo.algorithm.rules.rewarded", None)
    known_rules.cache_clear()


def test_the_nine_rules_are_found() -> None:
    assert set(known_rules()) == RULES


@pytest.mark.usefixtures("new_rule")
def test_a_new_file_is_a_new_rule() -> None:
    assert set(known_rules()) == RULES | {"rewarded"}
    tokens = Tokens(torch.ones(1, 5, dtype=torch.bool), rewards=torch.tensor([[0.0, 3.0, 2.0, 4.0, 0.0]]))
    params = GroupParams.from_config({"rule": "rewarded", "group_max_size": 3})
    assert closings(group_tokens(tokens, params)) == {1: Cause.CRITERION, 3: Cause.CRITERION, 4: Cause.END}
    with pytest.raises(BadInput, match="rule rewarded does not use it"):
        GroupParams.from_config({"rule": "rewarded", "group_epsilon": 0.5})


def test_a_second_rule_of_one_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))

    def stride(tokens: Tokens, params: GroupParams, step: registry.StepValues) -> torch.Tensor:
        return torch.zeros_like(tokens.mask, dtype=torch.int8)

    with pytest.raises(ValueError, match=r"rule stride of .* is already in groupppo\.grouping\.rules\.stride"):
        registry.rule()(stride)


def test_without_its_file_there_is_no_such_rule() -> None:
    with pytest.raises(BadInput, match="write one of: entropy, literal, low_prob"):
        GroupParams(rule="rewarded")


def test_endpoints_are_known_before_the_update_for_exactly_four_rules() -> None:
    early = {name for name, rule in known_rules().items() if rule.known_before_update}
    assert early == {"stride", "random", "sequence", "singleton"}


def test_a_rule_that_asks_for_a_score_alone_does_not_know_its_endpoints_before() -> None:
    def nothing(tokens: Tokens, params: GroupParams, step: registry.StepValues) -> torch.Tensor:
        raise NotImplementedError

    for uses, early in ((frozenset({"score"}), False), (frozenset({"group_max_size"}), True)):
        assert registry.Rule("new", nothing, uses, needs=(), evidence=None).known_before_update == early


@pytest.mark.parametrize("name", sorted(RULES))
def test_those_rules_and_no_others_work_from_mask_and_seeds_alone(name: str) -> None:
    tokens = fixed_batch()
    bare = Tokens(tokens.mask, seeds=tokens.seeds)
    params = GroupParams(rule=name, density=0.5 if "density" in known_rules()[name].uses else None)
    if known_rules()[name].known_before_update:
        assert torch.equal(group_tokens(bare, params).endpoints, group_tokens(tokens, params).endpoints)
    else:
        with pytest.raises(BadInput, match="the grouping rule or its score needs this tensor"):
            group_tokens(bare, params)


@EVERY_READING
def test_a_rule_reads_exactly_what_it_says_it_needs(params: GroupParams) -> None:
    tokens = fixed_batch()
    needed = {name: tokens.get(name) for name in params.needs}
    enough = group_tokens(Tokens(tokens.mask, **needed), params)
    assert torch.equal(enough.cause, group_tokens(tokens, params).cause)
    for missing in needed:
        with pytest.raises(BadInput) as error:
            group_tokens(Tokens(tokens.mask, **{name: needed[name] for name in needed if name != missing}), params)
        assert error.value.key == missing
