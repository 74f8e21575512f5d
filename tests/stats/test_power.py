"""Seeds that would decide a claim, against the design's table, the non-central t and simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from groupppo.stats.intervals import paired_t
from groupppo.stats.power import (
    MOST_SEEDS,
    power_inside,
    seeds_for_equivalence,
    seeds_for_interval,
    seeds_for_sign_flip,
)
from groupppo.stats.targets import median_ratio


@pytest.mark.parametrize(
    ("spread_over_margin", "seeds", "reached", "one_fewer"),
    [(0.5, 4, 0.828, 0.558), (0.75, 7, 0.854, 0.752), (1.0, 11, 0.849, 0.795), (1.5, 21, 0.808, 0.780)],
)
def test_seeds_for_equivalence_at_80_percent_power(spread_over_margin, seeds, reached, one_fewer):
    """With spread equal to margin 10 seeds reach 79.5 %, which rounds to 80 % and is below it: 11 are needed."""
    margin = 0.05
    spread = spread_over_margin * margin
    assert seeds_for_equivalence(spread, margin, 0.90, 0.80) == seeds
    assert power_inside(0.0, spread, -margin, margin, seeds, 0.90) == pytest.approx(reached, abs=1e-3)
    assert power_inside(0.0, spread, -margin, margin, seeds - 1, 0.90) == pytest.approx(one_fewer, abs=1e-3)
    # Negative control: with a known spread, z for t, it would be fewer.
    normal = (stats.norm.ppf(0.95) + stats.norm.ppf(0.90)) * spread_over_margin
    assert math.ceil(normal**2) < seeds


@pytest.mark.parametrize("seeds", [2, 3, 5, 12])
def test_power_with_one_end_is_that_of_the_non_central_t(seeds):
    expected = 1 - stats.nct.cdf(stats.t.ppf(0.95, seeds - 1), seeds - 1, 0.8 * math.sqrt(seeds))
    assert power_inside(0.8, 1.0, 0.0, math.inf, seeds, 0.90) == pytest.approx(expected, abs=1e-6)
    assert power_inside(-0.8, 1.0, -math.inf, 0.0, seeds, 0.90) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("mean", "seeds"), [(0.0, 4), (0.3, 6), (0.0, 2)])
def test_power_is_the_share_of_simulated_intervals_inside(mean, seeds):
    draws = 3000
    samples = np.random.default_rng(11).normal(mean, 0.5, (draws, seeds))
    inside = np.mean([(i := paired_t(row, 0.90)).low > -1 and i.high < 1 for row in samples])
    power = power_inside(mean, 0.5, -1.0, 1.0, seeds, 0.90)
    assert inside == pytest.approx(power, abs=4 * math.sqrt(power * (1 - power) / draws))


@settings(max_examples=25)
@given(st.floats(-2, 2), st.floats(0.2, 2), st.sampled_from([0.5, 0.8, 0.9]))
def test_the_number_of_seeds_is_the_smallest_that_suffices(mean, spread, power):
    needed = seeds_for_interval(mean, spread, -0.5, 0.5, 0.90, power)
    low, high = (-0.5, 0.5) if abs(mean) < 0.5 else ((0.5, math.inf) if mean > 0 else (-math.inf, -0.5))
    if needed is None:
        assert power_inside(mean, spread, low, high, MOST_SEEDS, 0.90) < power
        return
    assert power_inside(mean, spread, low, high, needed, 0.90) >= power
    assert needed == 2 or power_inside(mean, spread, low, high, needed - 1, 0.90) < power


@pytest.mark.parametrize(("level", "seeds"), [(0.5, 2), (0.80, 4), (0.90, 5), (0.95, 6), (0.99, 8)])
def test_seeds_for_an_interval_of_the_median_are_the_fewest_whose_whole_range_covers_enough(level, seeds):
    assert seeds_for_sign_flip(1 - level) == seeds
    for count, exists in ((seeds, True), (seeds - 1, False)):
        assert (median_ratio(np.arange(1.0, count + 1), level).low > 0) == exists


def test_no_number_of_seeds_decides_a_mean_at_an_end_of_the_region():
    assert seeds_for_interval(0.5, 1.0, -0.5, 0.5, 0.90, 0.80) is None
    assert seeds_for_interval(12.8, 1.0, 12.8, math.inf, 0.90, 0.80) is None


def test_with_little_power_asked_for_the_smallest_number_is_found_where_power_falls_before_it_rises():
    powers = [power_inside(0.0, 3.0, -1.0, 1.0, seeds, 0.90) for seeds in (2, 3, 30)]
    assert powers[1] < powers[0] < powers[2]
    assert seeds_for_equivalence(3.0, 1.0, 0.90, powers[0]) == 2
