"""Grouping rules against a per-token reference in plain Python, and their invariants on all inputs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groupppo.errors import BadInput
from groupppo.grouping import Cause, GroupParams, Groups, Threshold, group_tokens, last_valid
from groupppo.metrics import group_metrics, group_sizes

EPSILON = GroupParams().group_epsilon


@st.composite
def batches(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """Advantages and a mask with padding, holes, empty responses, ties and zeros."""
    rows, length = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    values = st.one_of(st.sampled_from([0.0, 1.0, -1.0]), st.floats(-5, 5, width=32))
    advantages = [[draw(values) for _ in range(length)] for _ in range(rows)]
    mask = [[draw(st.booleans()) for _ in range(length)] for _ in range(rows)]
    return torch.tensor(advantages), torch.tensor(mask)


def reference(advantages: list[float], mask: list[bool], tau: float, cap: int) -> dict[int, Cause]:
    """`variance_split` with unit scores for one response, written as its definition reads."""
    valid = [t for t, inside in enumerate(mask) if inside]
    closed: dict[int, Cause] = {}
    group: list[int] = []
    for t in valid:
        tried = [*group, t]
        r_ppo = sum(advantages[k] ** 2 for k in tried)
        r_grpo = len(tried) * advantages[t] ** 2
        if len(tried) >= 2 and r_grpo > tau * (r_ppo + EPSILON):
            closed[group[-1]] = Cause.CRITERION
            group = [t]
        else:
            group = tried
        if len(group) == cap:
            closed[t] = Cause.CAP
            group = []
    if group:
        closed[group[-1]] = Cause.END
    return closed


def as_dict(groups: Groups, row: int) -> dict[int, Cause]:
    return {t: Cause(int(groups.cause[row, t])) for t in groups.endpoints[row].nonzero().flatten().tolist()}


@settings(max_examples=200, deadline=None)
@given(batches(), st.sampled_from([0.1, 0.5, 1.0, 2.0]), st.integers(1, 6))
def test_variance_split_is_its_definition(batch: tuple[torch.Tensor, torch.Tensor], tau: float, cap: int) -> None:
    advantages, mask = batch
    groups = group_tokens(advantages, mask, GroupParams(group_max_size=cap), tau)
    for row in range(len(mask)):
        expected = reference(advantages[row].tolist(), mask[row].tolist(), tau, cap)
        assert as_dict(groups, row) == expected


def test_a_reference_that_splits_at_the_token_instead_of_before_it_differs() -> None:
    advantages, mask = torch.tensor([[0.1, 5.0, 0.1, 0.1]]), torch.ones(1, 4, dtype=torch.bool)
    groups = group_tokens(advantages, mask, GroupParams(), 1.0)
    assert as_dict(groups, 0) == {0: Cause.CRITERION, 3: Cause.END}  # a split AT token 1 would close there instead


@settings(max_examples=100, deadline=None)
@given(batches(), st.sampled_from(["variance_split", "singleton"]))
def test_endpoints_lie_inside_the_mask_and_the_last_valid_token_is_one(
    batch: tuple[torch.Tensor, torch.Tensor], rule: str
) -> None:
    advantages, mask = batch
    groups = group_tokens(advantages, mask, GroupParams(rule=rule), 1.0)
    assert not (groups.endpoints & ~mask).any()
    assert groups.endpoints[last_valid(mask)].all()
    assert ((groups.index >= 0) == mask).all()
    assert ((groups.cause != Cause.NONE) == groups.endpoints).all()


@settings(max_examples=100, deadline=None)
@given(batches(), st.integers(1, 5))
def test_every_closed_group_obeys_cap_and_criterion(batch: tuple[torch.Tensor, torch.Tensor], cap: int) -> None:
    advantages, mask = batch
    groups = group_tokens(advantages, mask, GroupParams(group_max_size=cap), 1.0)
    for row in range(len(mask)):
        for number in range(int(groups.index[row].max()) + 1):
            members = (groups.index[row] == number).nonzero().flatten()
            square = advantages[row, members].double() ** 2
            assert len(members) <= cap
            assert groups.endpoints[row, members].tolist() == [False] * (len(members) - 1) + [True]
            if len(members) >= 2:
                assert len(members) * square[-1] <= 1.0 * (square.sum() + EPSILON)


@settings(max_examples=50, deadline=None)
@given(batches())
def test_padding_does_not_change_groups(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    advantages, mask = batch
    padded = torch.nn.functional.pad(advantages, (0, 3), value=7.0)
    groups = group_tokens(advantages, mask, GroupParams(), 1.0)
    wide = group_tokens(padded, torch.nn.functional.pad(mask, (0, 3)), GroupParams(), 1.0)
    assert (wide.endpoints[:, : mask.shape[1]] == groups.endpoints).all()
    assert not wide.endpoints[:, mask.shape[1] :].any()


def test_constant_advantages_are_closed_by_the_cap_alone() -> None:
    mask = torch.ones(2, 32, dtype=torch.bool)
    for value in (0.0, 0.3):
        groups = group_tokens(torch.full((2, 32), value), mask, GroupParams(), 1.0)
        assert groups.endpoints.nonzero()[:, 1].tolist() == [15, 31, 15, 31]
        assert (groups.cause[groups.endpoints] == Cause.CAP).all()


def test_singleton_closes_every_token() -> None:
    mask = torch.tensor([[1, 1, 1, 0], [0, 0, 0, 0], [1, 0, 1, 0]]).bool()
    groups = group_tokens(torch.randn(3, 4), mask, GroupParams(rule="singleton"), 1.0)
    assert (groups.endpoints == mask).all()
    assert group_sizes(groups).tolist() == [1] * 5


def test_each_numeric_parameter_of_the_rule_changes_the_groups() -> None:
    generator = torch.Generator().manual_seed(0)
    advantages, mask = torch.randn(8, 64, generator=generator), torch.ones(8, 64, dtype=torch.bool)
    base = group_tokens(advantages, mask, GroupParams(), 1.0).endpoints
    assert not (group_tokens(advantages, mask, GroupParams(group_max_size=2), 1.0).endpoints == base).all()
    assert not (group_tokens(advantages, mask, GroupParams(group_epsilon=1.0), 1.0).endpoints == base).all()
    assert not (group_tokens(advantages, mask, GroupParams(), 0.5).endpoints == base).all()


class TestThreshold:
    def test_too_many_endpoints_raise_it_and_too_few_lower_it(self) -> None:
        for density, direction in ((0.5, 1), (0.01, -1)):
            threshold = Threshold.start(GroupParams())
            threshold.update(density)
            assert (threshold.value - 1.0) * direction > 0

    def test_the_target_density_leaves_it_alone(self) -> None:
        threshold = Threshold.start(GroupParams(target_density=0.25))
        threshold.update(0.25)
        assert threshold.value == 1.0

    def test_it_follows_the_stated_law_and_stays_within_its_bounds(self) -> None:
        params = GroupParams(threshold_lr=0.1, target_density=0.2)
        threshold = Threshold.start(params)
        threshold.update(0.3)
        assert threshold.value == pytest.approx(2.718281828**0.05)
        fast = Threshold.start(GroupParams(threshold_lr=50.0))
        fast.update(1.0)
        assert fast.value == params.max_threshold
        slow = Threshold.start(GroupParams(threshold_lr=50.0, min_threshold=0.3))
        slow.update(0.0)
        assert slow.value == 0.3

    def test_it_is_constant_when_not_adaptive(self) -> None:
        threshold = Threshold.start(GroupParams(adaptive_threshold=False))
        threshold.update(1.0)
        assert threshold.value == 1.0

    def test_its_state_survives_a_checkpoint(self) -> None:
        moved = Threshold.start(GroupParams())
        moved.update(1.0)
        restored = Threshold.start(GroupParams())
        restored.load_state_dict(moved.state_dict())
        assert restored.value == moved.value != 1.0


class TestParams:
    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("rule", "variance_spilt"),
            ("group_max_size", 0),
            ("group_max_size", 2.5),
            ("group_variance_threshold", -1.0),
            ("group_variance_threshold", 11.0),
            ("group_epsilon", float("nan")),
            ("target_density", 0.0),
            ("target_density", 1.5),
            ("threshold_lr", -0.1),
            ("adaptive_threshold", "yes"),
            ("min_threshold", 20.0),
            ("max_threshold", float("inf")),
            ("group_variance_treshold", 1.0),
        ],
    )
    def test_a_bad_key_or_value_is_an_error_that_names_it(self, key: str, value: object) -> None:
        with pytest.raises(BadInput) as error:
            GroupParams.from_config({key: value})
        assert f"{key} = {value!r}" in str(error.value)
        assert "mend:" in str(error.value)

    def test_a_misspelt_key_is_met_with_the_right_one(self) -> None:
        with pytest.raises(BadInput, match="did you mean group_variance_threshold"):
            GroupParams.from_config({"group_variance_treshold": 1.0})

    def test_defaults_are_those_of_the_origin(self) -> None:
        params = GroupParams()
        assert (params.group_variance_threshold, params.group_max_size, params.group_epsilon) == (1.0, 16, 1e-6)
        assert (params.adaptive_threshold, params.threshold_lr) == (True, 0.01)
        assert (params.min_threshold, params.max_threshold) == (0.1, 10.0)


def test_metrics_are_the_counts_they_say() -> None:
    advantages = torch.tensor([[0.1, 5.0, 0.1, 0.1], [1.0, 1.0, 9.0, 9.0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    metrics = group_metrics(group_tokens(advantages, mask, GroupParams(group_max_size=2), 1.0), mask, 1.0)
    # Row 0: token 1 splits off token 0, then [1, 2] meets the cap, then [3] the end. Row 1: [0, 1] meets the cap.
    assert metrics["group/total_tokens"] == 6
    assert metrics["group/total_endpoints"] == 4
    assert metrics["group/density"] == pytest.approx(4 / 6)
    assert metrics["group/compression_ratio"] == pytest.approx(1 - 4 / 6)
    assert metrics["group/efficiency_gain"] == pytest.approx(6 / 4)
    assert metrics["group/algorithm_effectiveness"] == pytest.approx((1 - 4 / 6 - 0.1) / 0.9)
    assert metrics["group/closed_by/criterion"] == pytest.approx(1 / 4)
    assert metrics["group/closed_by/cap"] == pytest.approx(2 / 4)
    assert metrics["group/closed_by/end"] == pytest.approx(1 / 4)
    assert metrics["group/size/mean"] == pytest.approx(6 / 4)
    assert metrics["group/endpoints_per_response/mean"] == pytest.approx(2.0)
