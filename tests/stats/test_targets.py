"""Cost to a target with misses: arrival by hand, medians with infinities, coverage by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupppo.stats.targets import median_above, median_ratio, time_to_target

INF = math.inf
METRIC, SECONDS, TOKENS = [0.1, 0.9, 0.2, 0.6, 0.8, 0.9], [5, 1, 1, 1, 1, 1], [10, 20, 30, 40, 50, 60]


def test_a_run_arrives_at_the_first_step_whose_metric_reaches_the_target():
    arrival = time_to_target(METRIC, SECONDS, TOKENS, 0.7)
    assert (arrival.steps, arrival.seconds, arrival.tokens) == (2, 6, 30)
    assert (arrival.spent_seconds, arrival.spent_tokens) == (10, 210)
    assert time_to_target(METRIC, SECONDS, TOKENS, 0.9).steps == 2


def test_smoothing_passes_a_lucky_step_over_and_looks_at_no_later_one():
    smoothed = time_to_target(METRIC, SECONDS, TOKENS, 0.7, window=2)
    assert (smoothed.steps, smoothed.seconds, smoothed.tokens) == (5, 9, 150)
    # Negative control: a centred window would let the run arrive before the steps that it averages.
    centred = np.convolve(METRIC, np.ones(3) / 3, mode="same")
    assert 1 + int(np.argmax(centred >= 0.5)) < time_to_target(METRIC, SECONDS, TOKENS, 0.5, window=3).steps


def test_a_miss_costs_infinity_and_says_what_was_spent():
    arrival = time_to_target(METRIC, SECONDS, TOKENS, 0.95)
    assert (arrival.steps, arrival.seconds, arrival.tokens) == (INF, INF, INF)
    assert (arrival.spent_seconds, arrival.spent_tokens) == (10, 210)


@given(st.lists(st.floats(0, 1), min_size=4, max_size=12), st.integers(1, 4), st.floats(0, 1), st.floats(0, 0.5))
def test_a_higher_target_or_a_shorter_run_never_arrives_sooner(metric, window, target, more):
    cost = np.ones(len(metric))
    sooner = time_to_target(metric, cost, cost, target, window)
    assert time_to_target(metric, cost, cost, target + more, window).steps >= sooner.steps
    assert window <= sooner.steps == sooner.seconds
    if len(metric) > window:
        cut = time_to_target(metric[:-1], cost[:-1], cost[:-1], target, window)
        assert cut.steps == (sooner.steps if sooner.steps < len(metric) else INF)


def test_ratios_with_misses_by_hand():
    bounds = median_ratio([0.5, 1, INF, 0, 0], 0.90)
    assert (bounds.median_low, bounds.median_high, bounds.undetermined) == (0.5, 0.5, 0)
    assert (bounds.low, bounds.high) == (0.0, INF)


def test_pairs_that_both_missed_leave_the_median_between_two_bounds():
    bounds = median_ratio([0.5, 1, math.nan], 0.90)
    assert (bounds.median_low, bounds.median_high, bounds.undetermined) == (0.5, 1.0, 1)


@pytest.mark.parametrize(("many", "rank"), [(4, 0), (5, 1), (8, 2), (10, 2)])
def test_the_interval_of_the_median_ratio_is_that_of_the_tables_of_order_statistics(many, rank):
    ratios = np.random.default_rng(1).lognormal(0.0, 1.0, many)
    bounds = median_ratio(ratios, 0.90)
    ends = (np.sort(ratios)[rank - 1], np.sort(ratios)[-rank]) if rank else (0.0, INF)
    assert (bounds.low, bounds.high) == ends


@pytest.mark.parametrize(("seeds", "nominal"), [(5, 0.9375), (10, 0.9785)])
def test_the_interval_of_the_median_ratio_covers_what_it_says(seeds, nominal):
    draws = 2000
    ratios = np.random.default_rng(2).lognormal(math.log(2), 1.5, (draws, seeds))
    found = [median_ratio(row, 0.90) for row in ratios]
    covered = np.mean([bounds.low <= 2 <= bounds.high for bounds in found])
    error = math.sqrt(nominal * (1 - nominal) / draws)
    assert covered == pytest.approx(nominal, abs=4 * error)
    # Negative control: one order statistic further in.
    inner = np.sort(ratios, axis=1)
    rank = 1 if seeds == 5 else 2
    assert np.mean((inner[:, rank] <= 2) & (inner[:, -rank - 1] >= 2)) < nominal - 4 * error


ratios_of_any_kind = st.lists(
    st.one_of(st.integers(0, 6).map(float), st.just(INF), st.just(math.nan)), min_size=1, max_size=12
)


@given(ratios_of_any_kind, st.sampled_from([0.5, 1.0, 2.0, 3.5, 7.0]), st.sampled_from([0.8, 0.9, 0.95]))
def test_the_interval_of_the_median_clears_a_bound_where_the_sign_test_says_so(ratios, bound, level):
    bounds, alpha = median_ratio(ratios, level), (1 - level) / 2
    assert (bounds.low > bound) == (median_above(ratios, bound) <= alpha)
    assert (bounds.high < bound) == (median_above(-np.array(ratios), -bound) <= alpha)


def test_the_sign_test_of_a_median_by_hand():
    assert median_above([2, 3, 4, 5, 6], 1.0) == 1 / 32
    assert median_above([-2, -3, -4, -5, -6], -1.0) == 1
    # Negative control: a tie, and a pair that both missed, count against.
    assert median_above([2, 3, 4, 5, 1], 1.0) == median_above([2, 3, 4, 5, math.nan], 1.0) == 6 / 32
    assert median_above([2, math.nan], -INF) == 0
