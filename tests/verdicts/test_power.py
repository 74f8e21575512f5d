"""Seeds that would decide a claim, against the design's table, the non-central t and simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from groupppo.verdicts.intervals import paired_t
from groupppo.verdicts.power import MOST_SEEDS, power_inside, seeds_for_equivalence, seeds_for_interval


@pytest.mark.parametrize(("spread_over_margin", "seeds"), [(0.5, 4), (0.75, 7), (1.0, 10), (1.5, 21)])
def test_seeds_for_equivalence_match_the_design_table(spread_over_margin, seeds):
    margin = 0.05
    assert abs(seeds_for_equivalence(spread_over_margin * margin, margin, 0.90, 0.80) - seeds) <= 1
    # Negative control: at another power the table would not hold.
    assert abs(seeds_for_equivalence(spread_over_margin * margin, margin, 0.90, 0.99) - seeds) > 1


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


@settings(max_examples=25, deadline=None)
@given(st.floats(-2, 2), st.floats(0.2, 2), st.sampled_from([0.5, 0.8, 0.9]))
def test_the_number_of_seeds_is_the_smallest_that_suffices(mean, spread, power):
    needed = seeds_for_interval(mean, spread, -0.5, 0.5, 0.90, power)
    low, high = (-0.5, 0.5) if abs(mean) < 0.5 else ((0.5, math.inf) if mean > 0 else (-math.inf, -0.5))
    if needed is None:
        assert power_inside(mean, spread, low, high, MOST_SEEDS, 0.90) < power
        return
    assert power_inside(mean, spread, low, high, needed, 0.90) >= power
    assert needed == 2 or power_inside(mean, spread, low, high, needed - 1, 0.90) < power


def test_no_number_of_seeds_decides_a_mean_at_an_end_of_the_region():
    assert seeds_for_interval(0.5, 1.0, -0.5, 0.5, 0.90, 0.80) is None
    assert seeds_for_interval(12.8, 1.0, 12.8, math.inf, 0.90, 0.80) is None


def test_more_spread_or_less_margin_needs_more_seeds():
    needed = [seeds_for_equivalence(spread, 0.05, 0.90, 0.80) for spread in (0.01, 0.02, 0.05, 0.1)]
    assert needed == sorted(needed)
    assert needed[0] < needed[-1]
    assert seeds_for_equivalence(0.05, 0.02, 0.90, 0.80) > needed[2]


def test_impossible_arguments_raise():
    with pytest.raises(ValueError, match="above zero"):
        seeds_for_equivalence(0.0, 0.05, 0.9, 0.8)
    with pytest.raises(ValueError, match="above zero"):
        seeds_for_equivalence(0.1, 0.0, 0.9, 0.8)
    with pytest.raises(ValueError, match="above zero"):
        seeds_for_interval(0.0, 0.0, -1, 1, 0.9, 0.8)
