"""Intervals and tests over seeds, against scipy, statsmodels, brute force and simulation."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW, ttost_paired

from groupppo.stats.intervals import holm, one_sided, paired_ratio, paired_t, sign_flip, tost

few = st.lists(st.floats(-5, 5).map(lambda value: round(value, 3)), min_size=2, max_size=7)
levels = st.sampled_from([0.80, 0.90, 0.95, 0.99])


def spread_out(values: list[float]) -> bool:
    return np.std(values, ddof=1) > 1e-2


@given(few.filter(spread_out), levels)
def test_the_t_interval_is_that_of_scipy_and_statsmodels(differences, level):
    ours = paired_t(differences, level)
    mean, error = np.mean(differences), stats.sem(differences)
    assert (ours.low, ours.high) == pytest.approx(stats.t.interval(level, len(differences) - 1, mean, error))
    assert (ours.low, ours.high) == pytest.approx(DescrStatsW(differences).tconfint_mean(1 - level))
    assert (ours.estimate, ours.seeds) == (pytest.approx(mean), len(differences))
    # Negative control: one degree of freedom too many is another interval.
    off_by_one = stats.t.interval(level, len(differences), mean, error)
    assert (ours.low, ours.high) != pytest.approx(off_by_one, rel=1e-6, abs=1e-9)


@given(st.lists(st.floats(0.05, 20).map(lambda value: round(value, 3)), min_size=2, max_size=7), levels)
def test_swapping_numerator_and_denominator_inverts_a_ratio_interval(ratios, level):
    ours, swapped = paired_ratio(ratios, level), paired_ratio([1 / ratio for ratio in ratios], level)
    assert ours.estimate == pytest.approx(stats.gmean(ratios))
    assert (ours.low, ours.high) == pytest.approx((1 / swapped.high, 1 / swapped.low))
    assert 0 < ours.low <= ours.estimate <= ours.high


def test_a_ratio_interval_is_not_the_interval_of_the_ratios():
    assert paired_ratio([1.0, 4.0], 0.9).estimate == pytest.approx(2.0)
    assert paired_t([1.0, 4.0], 0.9).estimate == pytest.approx(2.5)


@given(few.filter(spread_out), st.floats(0.1, 3), levels)
def test_tost_succeeds_exactly_when_the_interval_lies_inside_the_margin(differences, margin, level):
    p_value = tost(differences, -margin, margin)
    assert p_value == pytest.approx(ttost_paired(np.array(differences), np.zeros(len(differences)), -margin, margin)[0])
    interval = paired_t(differences, level)
    assume(min(abs(abs(interval.low) - margin), abs(abs(interval.high) - margin)) > 1e-9)
    assert (p_value < (1 - level) / 2) == (-margin < interval.low and interval.high < margin)


@given(few.filter(spread_out), st.floats(-3, 3))
def test_the_one_sided_test_is_that_of_scipy(differences, bound):
    expected = stats.ttest_1samp(differences, bound, alternative="greater").pvalue
    assert one_sided(differences, bound) == pytest.approx(expected)
    assert one_sided(differences, -math.inf) == 0.0
    assert one_sided(differences, math.inf) == 1.0


@settings(max_examples=50)
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=7))
def test_the_sign_flip_test_counts_every_pattern(differences):
    sums = [abs(np.dot(signs, differences)) for signs in product((1, -1), repeat=len(differences))]
    assert sign_flip(differences) == np.mean([total >= abs(sum(differences)) for total in sums])


def test_the_sign_flip_test_agrees_with_scipys_exact_permutation_test():
    differences = np.array([0.3, -0.1, 0.25, 0.4, 0.05, 0.2])
    exact = stats.permutation_test((differences,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip(differences) == pytest.approx(exact.pvalue)


@pytest.mark.parametrize("seeds", range(2, 9))
def test_the_sign_flip_test_cannot_reach_five_percent_below_six_seeds(seeds):
    least = sign_flip(np.arange(1.0, seeds + 1))
    assert least == 2.0 ** (1 - seeds)
    assert (least < 0.05) == (seeds >= 6)


def test_rounding_does_not_break_ties():
    assert sign_flip([0.1 + 0.2, -0.3, 0.3]) == sign_flip([0.3, -0.3, 0.3]) == 1.0


def test_equal_differences_have_no_spread_whatever_their_rounding():
    interval = paired_t([0.804 - 0.8, 0.808 - 0.804, 0.812 - 0.808], 0.9)
    assert interval.spread == 0
    assert interval.low == interval.estimate == interval.high
    assert tost([0.1] * 3, -0.2, 0.2) == 0.0
    assert tost([0.3] * 3, -0.2, 0.2) == 1.0
    assert (one_sided([0.1] * 3, 0.0), one_sided([0.1] * 3, 0.2)) == (0.0, 1.0)
    assert one_sided([0.3, 0.1 + 0.2], 0.3) == one_sided([0.1 + 0.2, 0.3], 0.3) == 1.0
    assert paired_t([0.1, 0.1000001], 0.9).spread > 0


@settings(max_examples=10)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_that_of_statsmodels(p_values):
    assert holm(p_values) == pytest.approx(list(multipletests(p_values, method="holm")[1]))


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.01, 0.04, 0.03]) != pytest.approx([0.03, 0.12, 0.09])  # Bonferroni
    assert holm([0.04]) == [0.04]
    assert holm([]) == []


@pytest.mark.parametrize("values", [[], [0.1], [0.1, float("nan")], [0.1, float("inf")], [[0.1, 0.2]]])
def test_what_has_no_interval_raises(values):
    with pytest.raises(ValueError, match=r"values|finite"):
        paired_t(values, 0.9)
    with pytest.raises(ValueError, match=r"values|finite"):
        tost(values, -1, 1)


def test_impossible_arguments_raise():
    with pytest.raises(ValueError, match="above zero"):
        paired_ratio([1.0, 0.0], 0.9)
    with pytest.raises(ValueError, match="level"):
        paired_t([1.0, 2.0], 90)
    with pytest.raises(ValueError, match="below"):
        tost([1.0, 2.0], 0.1, -0.1)
    with pytest.raises(ValueError, match="21 differences"):
        sign_flip(np.ones(21))
