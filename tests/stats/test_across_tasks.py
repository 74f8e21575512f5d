"""Aggregates over tasks, against rliable's answers on stored cases, enumeration, scipy and simulation."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from groupppo.stats.across_tasks import (
    interquartile_mean,
    performance_profile,
    probability_of_improvement,
    stratified_bootstrap,
)

RLIABLE = json.loads((Path(__file__).parent / "rliable_cases.json").read_text())
CASES = RLIABLE["cases"]
LEVEL, THRESHOLDS = RLIABLE["level"], RLIABLE["thresholds"]


def within_reach(statistic, scores, low, high, draws):
    """Whether both ends lie where those of `draws` other resamples fall, but for 4 Monte-Carlo standard errors."""
    ours, tail = 4000, (1 - LEVEL) / 2
    error = 4 * math.sqrt(tail * (1 - tail) * (1 / ours + 1 / draws))
    wide = stratified_bootstrap(statistic, *scores, level=1 - 2 * (tail - error), draws=ours)
    tight = stratified_bootstrap(statistic, *scores, level=1 - 2 * (tail + error), draws=ours)
    slack = 1e-9
    lows = (wide.low - slack <= low) & (low <= tight.low + slack)
    return bool(np.all(lows & (tight.high - slack <= high) & (high <= wide.high + slack)))


def profile(scores):
    return performance_profile(scores, THRESHOLDS)


@pytest.mark.parametrize("name", CASES)
def test_estimates_are_those_of_rliable(name):
    case = CASES[name]
    assert interquartile_mean(case["first"]) == pytest.approx(case["iqm"])
    better = probability_of_improvement(case["first"], case["second"])
    assert better == pytest.approx(case["probability_of_improvement"])
    assert profile(case["first"]) == pytest.approx(np.array(case["profile"]))
    # Negative controls: the median, and the arms swapped.
    assert np.median(case["first"]) != pytest.approx(case["iqm"], abs=1e-4)
    assert probability_of_improvement(case["second"], case["first"]) == pytest.approx(1 - better)
    assert better != pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("name", CASES)
def test_bootstrap_intervals_are_those_of_rliable_within_monte_carlo_error(name):
    case = CASES[name]
    first, second = case["first"], case["second"]
    assert within_reach(interquartile_mean, [first], *case["iqm_interval"], RLIABLE["draws"])
    ends = case["probability_of_improvement_interval"]
    assert within_reach(probability_of_improvement, [first, second], *ends, RLIABLE["draws_of_pairs"])
    assert within_reach(profile, [first], *np.array(case["profile_band"]), RLIABLE["draws"])


def test_resampling_whole_runs_instead_of_seeds_within_tasks_gives_another_interval():
    """Negative control. The order of seeds within a task means nothing; in this order good runs stand side by side."""
    case = CASES["many seeds"]
    ordered = np.sort(np.array(case["first"]), axis=0)
    runs = np.arange(len(ordered))[:, None]

    def of_whole_runs(resampled):
        return interquartile_mean(ordered[resampled[..., 0].astype(int)])

    assert within_reach(interquartile_mean, [ordered], *case["iqm_interval"], RLIABLE["draws"])
    assert not within_reach(of_whole_runs, [runs], *case["iqm_interval"], RLIABLE["draws"])


def test_arms_that_share_their_seeds_are_resampled_together():
    first = np.random.default_rng(4).normal(size=(6, 2))
    second = first - 0.25

    def gap(x, y):
        return interquartile_mean(x) - interquartile_mean(y)

    together = stratified_bootstrap(gap, first, second, level=0.9, draws=300, paired=True)
    assert (together.low, together.high) == (pytest.approx(0.25), pytest.approx(0.25))
    # Negative control: on their own, the seeds no longer cancel.
    apart = stratified_bootstrap(gap, first, second, level=0.9, draws=300)
    assert apart.high - apart.low > 0.1


def test_the_same_random_seed_gives_the_same_interval():
    scores = np.random.default_rng(5).normal(size=(9, 2))
    one, two, other = (
        stratified_bootstrap(interquartile_mean, scores, level=0.9, draws=700, random_seed=seed) for seed in (1, 1, 2)
    )
    assert (one.low, one.high) == (two.low, two.high)
    assert (one.low, one.high) != (other.low, other.high)


def test_a_missing_score_is_never_averaged_over():
    with pytest.raises(ValueError, match="every score must be finite"):
        stratified_bootstrap(interquartile_mean, [[1.0, float("nan")]], level=0.9)
