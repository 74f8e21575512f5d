"""The adaptive threshold: its law, its bounds, and its state in a checkpoint."""

import json
from math import exp, log

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groupppo.algorithm import GroupParams, Threshold

SHARES = st.floats(0.001, 1.0)
RATES = st.one_of(st.just(0.0), st.floats(1e-4, 1.0), st.sampled_from([1e3, 1e300]))


@settings(max_examples=100)
@given(start=st.floats(0.1, 10.0), density=SHARES, target=SHARES, rate=RATES)
def test_it_follows_the_stated_law(start: float, density: float, target: float, rate: float) -> None:
    threshold = Threshold.start(GroupParams(group_variance_threshold=start, target_density=target, threshold_lr=rate))
    threshold.update(density)
    on_log_scale = log(start) + rate * (density - target) / target
    assert threshold.value == pytest.approx(exp(min(max(on_log_scale, log(0.1)), log(10.0))))
    assert 0.1 <= threshold.value <= 10.0


def test_too_many_endpoints_raise_it_and_too_few_lower_it() -> None:
    for density, direction in ((0.5, 1), (0.01, -1)):
        threshold = Threshold.start(GroupParams())
        threshold.update(density)
        assert (threshold.value - 1.0) * direction > 0


@settings(max_examples=50)
@given(start=st.floats(0.1, 10.0), target=SHARES)
def test_the_target_density_leaves_it_alone_to_the_bit(start: float, target: float) -> None:
    threshold = Threshold.start(GroupParams(group_variance_threshold=start, target_density=target))
    for _ in range(3):
        threshold.update(target)
    assert threshold.value == start
    threshold.update(target / 2 if target > 0.5 else 2 * target)
    assert threshold.value != start or start in (0.1, 10.0)


def test_it_is_constant_when_not_adaptive() -> None:
    for adaptive, moves in ((False, False), (True, True)):
        threshold = Threshold.start(GroupParams(adaptive_threshold=adaptive))
        threshold.update(1.0)
        assert (threshold.value != 1.0) == moves


def test_a_bound_is_reached_exactly() -> None:
    threshold = Threshold.start(GroupParams(threshold_lr=1000.0, min_threshold=0.3, max_threshold=7.0))
    threshold.update(1.0)
    assert threshold.value == 7.0
    for _ in range(3):
        threshold.update(0.001)
    assert threshold.value == 0.3


def test_its_state_survives_a_checkpoint_to_the_bit() -> None:
    moved, other = Threshold.start(GroupParams()), Threshold.start(GroupParams())
    for density in (0.7, 0.3, 0.11):
        moved.update(density)
    assert other.value != moved.value
    other.load_state_dict(json.loads(json.dumps(moved.state_dict())))
    assert other.value == moved.value
    moved.update(0.9)
    other.update(0.9)
    assert other.value == moved.value
