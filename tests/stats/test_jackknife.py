"""Intervals by leaving one out: for a mean they are Student's, and they cover what they promise."""

import math

import numpy as np
import pytest
from scipy import stats

from groupppo.stats.intervals import Estimate, jackknife, paired_t


def test_for_a_mean_it_is_students_t_interval() -> None:
    values = np.random.default_rng(0).normal(size=9)
    estimate = jackknife(lambda kept: float(values[kept].mean()), 9)
    student = paired_t(values, 0.90)
    assert estimate == pytest.approx((student.estimate, student.low, student.high))
    assert estimate != pytest.approx(jackknife(lambda kept: float(values[kept].mean()), 9, level=0.95))


def test_for_a_ratio_of_sums_it_covers_the_true_ratio_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        below = generator.exponential(size=24) + 0.5
        above = 0.4 * below + 0.2 * generator.normal(size=24)
        low, high = jackknife(lambda kept: float(above[kept].sum() / below[kept].sum()), 24)[1:]  # noqa: B023
        hits += low <= 0.4 <= high
    bound = stats.binom.ppf([0.001, 0.999], 400, 0.90)
    assert bound[0] - 8 <= hits <= bound[1] + 8


def test_one_unit_has_no_interval() -> None:
    estimate = jackknife(lambda kept: 3.0, 1)
    assert estimate.value == 3.0
    assert math.isnan(estimate.low)
    assert math.isnan(estimate.high)


def test_an_interval_is_cut_to_what_the_statistic_can_be() -> None:
    assert Estimate(0.9, 0.7, 1.1).within(-1.0, 1.0) == (0.9, 0.7, 1.0)
    assert Estimate(0.9, 0.7, 0.95).within(-1.0, 1.0) == (0.9, 0.7, 0.95)
    assert Estimate(1.02, 0.99, 1.05).within(-1.0, 1.0) == (1.0, 0.99, 1.0)
    assert all(math.isnan(part) for part in Estimate(*[math.nan] * 3).within(-1.0, 1.0))
