"""Intervals and tests over seeds, against scipy, statsmodels, brute force and simulation.

Simulations have fixed random seeds and a tolerance of 4 Monte-Carlo standard errors sqrt(p (1 - p) / draws), about one
false alarm in 16,000.
"""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired

from groupppo.stats.intervals import Estimate, holm, jackknife, one_sided, paired_ratio, paired_t, sign_flip
from groupppo.stats.power import power_inside

LEVEL, ALPHA, DRAWS = 0.90, 0.05, 3000
SEEDS = (3, 5, 10)
few = st.lists(st.floats(-5, 5).map(lambda value: round(value, 3)), min_size=2, max_size=7)
levels = st.sampled_from([0.80, 0.90, 0.95, 0.99])


def spread_out(values: list[float]) -> bool:
    return np.std(values, ddof=1) > 1e-2


def tost(differences, low: float, high: float) -> float:
    return max(one_sided(differences, low), one_sided(-np.asarray(differences), -high))


def error(share: float, draws: int = DRAWS) -> float:
    return 4 * math.sqrt(share * (1 - share) / draws)


def samples(seeds: int, mean: float = 0.0, spread: float = 1.0) -> np.ndarray:
    return np.random.default_rng(100 + seeds).normal(mean, spread, (DRAWS, seeds))


@given(few.filter(spread_out), levels)
def test_the_t_interval_is_that_of_scipy(differences, level):
    ours = paired_t(differences, level)
    mean, of_mean = np.mean(differences), stats.sem(differences)
    assert (ours.low, ours.high) == pytest.approx(stats.t.interval(level, len(differences) - 1, mean, of_mean))
    assert (ours.estimate, ours.seeds) == (pytest.approx(mean), len(differences))
    # Negative control: one degree of freedom too many is another interval.
    off_by_one = stats.t.interval(level, len(differences), mean, of_mean)
    assert (ours.low, ours.high) != pytest.approx(off_by_one, rel=1e-6, abs=1e-9)


@given(st.lists(st.floats(0.05, 20).map(lambda value: round(value, 3)), min_size=2, max_size=7), levels)
def test_swapping_numerator_and_denominator_inverts_a_ratio_interval(ratios, level):
    ours, swapped = paired_ratio(ratios, level), paired_ratio([1 / ratio for ratio in ratios], level)
    assert ours.estimate == pytest.approx(stats.gmean(ratios))
    assert (ours.low, ours.high) == pytest.approx((1 / swapped.high, 1 / swapped.low))
    assert 0 < ours.low <= ours.estimate <= ours.high


@given(few.filter(spread_out), st.floats(0.1, 3), levels)
def test_two_one_sided_tests_succeed_exactly_when_the_interval_lies_inside_the_margin(differences, margin, level):
    p_value = tost(differences, -margin, margin)
    assert p_value == pytest.approx(ttost_paired(np.array(differences), np.zeros(len(differences)), -margin, margin)[0])
    interval = paired_t(differences, level)
    assume(min(abs(abs(interval.low) - margin), abs(abs(interval.high) - margin)) > 1e-9)
    assert (p_value < (1 - level) / 2) == (-margin < interval.low and interval.high < margin)


@pytest.mark.parametrize("seeds", SEEDS)
def test_the_t_interval_covers_the_mean_and_neither_a_normal_nor_a_bootstrap_interval_does(seeds):
    rows = samples(seeds, mean=0.3, spread=2.0)
    found = [paired_t(row, LEVEL) for row in rows]
    covered = np.mean([interval.low < 0.3 < interval.high for interval in found])
    assert covered == pytest.approx(LEVEL, abs=error(LEVEL))
    half = stats.norm.ppf((1 + LEVEL) / 2) * rows.std(axis=1, ddof=1) / math.sqrt(seeds)
    assert np.mean(np.abs(rows.mean(axis=1) - 0.3) < half) < LEVEL - error(LEVEL)
    picks = np.random.default_rng(1).integers(0, seeds, (400, seeds))
    low, high = np.quantile(rows[:, picks].mean(axis=2), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1)
    assert np.mean((low < 0.3) & (high > 0.3)) < LEVEL - error(LEVEL)


@pytest.mark.parametrize("seeds", SEEDS)
def test_tost_calls_arms_equal_at_most_five_times_in_a_hundred_when_they_differ_by_the_margin(seeds):
    """At the margin, with a small spread, its size is 5 %; with a large one it is below (it is never liberal)."""
    small = samples(seeds, mean=1.0, spread=0.1)
    assert np.mean([tost(row, -1, 1) < ALPHA for row in small]) == pytest.approx(ALPHA, abs=error(ALPHA))
    large = samples(seeds, mean=1.0, spread=1.5)
    exact = power_inside(1.0, 1.5, -1.0, 1.0, seeds, LEVEL)
    assert exact < ALPHA
    assert np.mean([tost(row, -1, 1) < ALPHA for row in large]) == pytest.approx(exact, abs=error(exact) + 1e-3)
    # Negative control: "no significant difference, so equal" calls most of them equal.
    assert np.mean(stats.ttest_1samp(large, 0.0, axis=1).pvalue > ALPHA) > 0.40


def test_a_one_sided_test_without_a_bound_or_a_spread_is_certain():
    assert (one_sided([0.1, 0.2], -math.inf), one_sided([0.1, 0.2], math.inf)) == (0.0, 1.0)
    assert (tost([0.1] * 3, -0.2, 0.2), tost([0.3] * 3, -0.2, 0.2)) == (0.0, 1.0)
    assert one_sided([0.3, 0.1 + 0.2], 0.3) == one_sided([0.1 + 0.2, 0.3], 0.3) == 1.0


def test_equal_differences_have_no_spread_whatever_their_rounding():
    interval = paired_t([0.804 - 0.8, 0.808 - 0.804, 0.812 - 0.808], 0.9)
    assert interval.spread == 0
    assert interval.low == interval.estimate == interval.high
    assert paired_t([0.1, 0.1000001], 0.9).spread > 0


@settings(max_examples=50)
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=7))
def test_the_sign_flip_test_counts_every_pattern(differences):
    sums = [abs(np.dot(signs, differences)) for signs in product((1, -1), repeat=len(differences))]
    assert sign_flip(differences) == np.mean([total >= abs(sum(differences)) for total in sums])


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("shape", ["normal", "standard_cauchy"])
def test_the_sign_flip_test_has_the_size_that_its_patterns_allow_for_any_symmetric_difference(seeds, shape):
    """Its p-values are multiples of 2^(1-n), so its size is the largest of them that is not above alpha."""
    rows = getattr(np.random.default_rng(200 + seeds), shape)(size=(DRAWS, seeds))
    p_values, step = np.array([sign_flip(row) for row in rows]), 2.0 ** (1 - seeds)
    for alpha in (0.05, 0.10, 0.25, 0.50):
        size = math.floor(alpha / step + 1e-9) * step
        assert np.mean(p_values <= alpha + 1e-9) == pytest.approx(size, abs=error(size))
    # Negative control: differences that are shifted from zero are found more often than that.
    shifted = np.mean([sign_flip(row + 1.0) <= 0.25 for row in rows])
    assert shifted > 0.25 + error(0.25)


@pytest.mark.parametrize("seeds", range(2, 9))
def test_the_sign_flip_test_cannot_reach_five_percent_below_six_seeds(seeds):
    least = sign_flip(np.arange(1.0, seeds + 1))
    assert least == 2.0 ** (1 - seeds)
    assert (least < 0.05) == (seeds >= 6)


def test_rounding_does_not_break_ties():
    assert sign_flip([0.1 + 0.2, -0.3, 0.3]) == sign_flip([0.3, -0.3, 0.3]) == 1.0


@settings(max_examples=10)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_that_of_statsmodels(p_values):
    assert holm(p_values) == pytest.approx(list(multipletests(p_values, method="holm")[1]))


def test_holm_keeps_its_error_where_some_tasks_do_differ_and_separate_tests_do_not():
    """The step-down is what is used up by false nulls: three of five differ, two do not."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
    rng = np.random.default_rng(4)
    p_values = np.concatenate([rng.uniform(size=(DRAWS, 3)) * 1e-6, rng.uniform(size=(DRAWS, 2))], axis=1)
    wrong = np.mean([min(holm(row)[3:]) <= ALPHA for row in p_values])
    family = 1 - (1 - ALPHA / 2) ** 2
    assert wrong == pytest.approx(family, abs=error(family))
    # Negative controls: Bonferroni over all five finds less, no adjustment too much.
    assert np.mean(np.min(5 * p_values[:, 3:], axis=1) <= ALPHA) < family - error(family)
    assert np.mean(p_values[:, 3:].min(axis=1) <= ALPHA) > family + error(family)


@pytest.mark.parametrize("values", [[], [0.1], [0.1, float("nan")], [0.1, float("inf")], [[0.1, 0.2]]])
def test_what_has_no_interval_raises(values):
    for function in (paired_t, paired_ratio, one_sided):
        with pytest.raises(ValueError, match=r"values|finite"):
            function(values, 0.9)
    with pytest.raises(ValueError, match="above zero"):
        paired_ratio([1.0, 0.0], 0.9)


def test_the_jackknife_of_a_mean_is_students_t_interval():
    values = np.random.default_rng(0).normal(size=9)
    estimate, student = jackknife(lambda kept: float(values[kept].mean()), 9), paired_t(values, 0.90)
    assert estimate == pytest.approx((student.estimate, student.low, student.high))
    assert estimate != pytest.approx(jackknife(lambda kept: float(values[kept].mean()), 9, level=0.95))
    alone = jackknife(lambda kept: 3.0, 1)
    assert alone.value == 3.0
    assert math.isnan(alone.low)
    assert math.isnan(alone.high)


def test_the_jackknife_of_a_ratio_of_sums_covers_the_true_ratio_about_as_often_as_it_says():
    generator, draws = np.random.default_rng(1), 400
    hits = 0
    for _ in range(draws):
        below = generator.exponential(size=24) + 0.5
        above = 0.4 * below + 0.2 * generator.normal(size=24)
        low, high = jackknife(lambda kept: float(above[kept].sum() / below[kept].sum()), 24)[1:]  # noqa: B023
        hits += low <= 0.4 <= high
    assert hits / draws == pytest.approx(0.90, abs=error(0.90, draws))


def test_an_interval_is_cut_to_what_the_statistic_can_be():
    assert Estimate(0.9, 0.7, 1.1).within(-1.0, 1.0) == (0.9, 0.7, 1.0)
    assert Estimate(1.02, 0.99, 1.05).within(-1.0, 1.0) == (1.0, 0.99, 1.0)
    assert all(math.isnan(part) for part in Estimate(*[math.nan] * 3).within(-1.0, 1.0))
