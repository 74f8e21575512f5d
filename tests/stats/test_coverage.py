"""What intervals and tests promise, by simulation: coverage, size, power, and the error of a family of tests.

Fixed random seeds. Tolerance: 4 Monte-Carlo standard errors sqrt(p (1 - p) / draws), about one false alarm in 16,000.
"""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from groupppo.stats.intervals import holm, paired_t, sign_flip, tost
from groupppo.stats.power import power_inside

LEVEL, ALPHA, DRAWS = 0.90, 0.05, 3000
SEEDS = (3, 5, 10)


def error(share: float, draws: int = DRAWS) -> float:
    return 4 * math.sqrt(share * (1 - share) / draws)


def samples(seeds: int, mean: float = 0.0, spread: float = 1.0) -> np.ndarray:
    return np.random.default_rng(100 + seeds).normal(mean, spread, (DRAWS, seeds))


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
    rejected = np.mean([tost(row, -1, 1) < ALPHA for row in large])
    assert rejected < ALPHA + error(ALPHA)
    exact = power_inside(1.0, 1.5, -1.0, 1.0, seeds, LEVEL)
    assert rejected == pytest.approx(exact, abs=error(exact) + 1e-3)
    # Negative control: "no significant difference, so equal" calls most of them equal.
    assert np.mean(stats.ttest_1samp(large, 0.0, axis=1).pvalue > ALPHA) > 0.40


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("shape", ["normal", "cauchy"])
def test_the_sign_flip_test_has_the_size_that_its_patterns_allow_for_any_symmetric_difference(seeds, shape):
    """Its p-values are multiples of 2^(1-n), so its size is the largest of them that is not above alpha."""
    rng = np.random.default_rng(200 + seeds)
    rows = rng.normal(size=(DRAWS, seeds)) if shape == "normal" else rng.standard_cauchy((DRAWS, seeds))
    p_values = np.array([sign_flip(row) for row in rows])
    step = 2.0 ** (1 - seeds)
    for alpha in (0.05, 0.10, 0.25, 0.50):
        size = math.floor(alpha / step + 1e-9) * step
        assert np.mean(p_values <= alpha + 1e-9) == pytest.approx(size, abs=error(size))
    # Negative control: a difference that is not symmetric about zero is found.
    if seeds == 10:
        assert np.mean([sign_flip(row) <= 0.05 for row in samples(seeds, mean=1.0)]) > 0.5


def test_holm_keeps_the_error_of_five_tasks_and_five_separate_tests_do_not():
    p_values = np.random.default_rng(3).uniform(size=(DRAWS, 5))
    wrong = np.mean([min(holm(row)) <= ALPHA for row in p_values])
    family = 1 - (1 - ALPHA / 5) ** 5
    assert wrong == pytest.approx(family, abs=error(family))
    assert np.mean(p_values.min(axis=1) <= ALPHA) > 4 * ALPHA - error(ALPHA)


def test_holm_keeps_its_error_where_some_tasks_do_differ():
    """The step-down is what is used up by false nulls: three of five differ, two do not."""
    rng = np.random.default_rng(4)
    p_values = np.concatenate([rng.uniform(size=(DRAWS, 3)) * 1e-6, rng.uniform(size=(DRAWS, 2))], axis=1)
    wrong = np.mean([min(holm(row)[3:]) <= ALPHA for row in p_values])
    family = 1 - (1 - ALPHA / 2) ** 2
    assert wrong == pytest.approx(family, abs=error(family))
    # Negative control: Bonferroni over all five is kept too, but finds less.
    assert np.mean(np.min(5 * p_values[:, 3:], axis=1) <= ALPHA) < family - error(family)


@given(
    st.lists(st.integers(-40, 40).map(lambda value: value / 8), min_size=2, max_size=8).filter(lambda v: np.ptp(v) > 0),
    st.integers(1, 8).map(float),
    st.integers(-16, 16).map(lambda value: value / 8),
    st.randoms(use_true_random=False),
)
def test_intervals_and_tests_follow_shift_and_scale_and_do_not_know_the_order_of_seeds(values, scale, shift, random):
    order = list(values)
    random.shuffle(order)
    one, moved = paired_t(values, LEVEL), paired_t(scale * np.array(order) + shift, LEVEL)
    ends = (scale * one.estimate + shift, scale * one.low + shift, scale * one.high + shift, scale * one.spread)
    assert (moved.estimate, moved.low, moved.high, moved.spread) == pytest.approx(ends, abs=1e-9)
    low, high = -scale + shift, scale + shift
    assert tost(scale * np.array(order) + shift, low, high) == pytest.approx(tost(values, -1, 1), abs=1e-9)
    assert sign_flip(scale * np.array(order)) == sign_flip(values) == sign_flip(-np.array(values))


@pytest.mark.parametrize("bad", [[-0.1], [1.1, 0.5], [float("nan")]])
def test_what_is_no_p_value_raises(bad):
    with pytest.raises(ValueError, match="p-value"):
        holm(bad)
