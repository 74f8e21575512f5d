"""Noise from items beside noise from seeds: against statsmodels' analysis of variance, and by simulation."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from groupppo.stats.item_noise import split_spread


def drawn(rng, seeds, items, seed_noise=0.0, common=0.3, rest=0.5):
    """Differences (seeds, items) with these standard deviations of a_k, b_i and e_ki."""
    by_seed, by_item = rng.normal(0, seed_noise, (seeds, 1)), rng.normal(0, common, items)
    return by_seed + by_item + rng.normal(0, rest, (seeds, items))


def test_the_split_is_that_of_the_two_way_analysis_of_variance():
    differences = drawn(np.random.default_rng(10), 4, 15, seed_noise=0.4)
    rows = pd.DataFrame(
        [(k, i, differences[k, i]) for k in range(4) for i in range(15)], columns=["seed", "item", "difference"]
    )
    table = anova_lm(ols("difference ~ C(seed) + C(item)", rows).fit())
    squares = table["sum_sq"] / table["df"]
    noise = split_spread(differences, 0.90)
    assert noise.item_noise == pytest.approx(math.sqrt(squares["Residual"] / 15))
    assert noise.spread == pytest.approx(math.sqrt(squares["C(seed)"] / 15))
    assert noise.spread == pytest.approx(differences.mean(axis=1).std(ddof=1))
    assert noise.common == pytest.approx(math.sqrt((squares["C(item)"] - squares["Residual"]) / 4 / 15))
    assert noise.share == pytest.approx(1 / table.loc["C(seed)", "F"])
    assert math.hypot(noise.item_noise, noise.seed_noise) == pytest.approx(noise.spread)
    # Negative control: the variance over items of each seed also holds what items do to every seed alike.
    naive = math.sqrt(differences.var(axis=1, ddof=1).mean() / 15)
    assert naive > 1.05 * noise.item_noise


@pytest.mark.parametrize(("seed_noise", "share"), [(0.0, 1.0), (0.05, 0.5), (0.15, 0.1)])
def test_item_noise_is_the_share_that_was_put_in(seed_noise, share):
    """100 items with a residual of 0.5 give 0.05 of item noise."""
    rng, draws = np.random.default_rng(1), 1000
    found = [split_spread(drawn(rng, 5, 100, seed_noise), 0.90) for _ in range(draws)]
    items, spread = (np.array([getattr(noise, name) ** 2 for noise in found]) for name in ("item_noise", "spread"))
    assert items.mean() == pytest.approx(0.05**2, abs=4 * items.std() / math.sqrt(draws))
    assert spread.mean() == pytest.approx(0.05**2 / share, rel=0.01, abs=4 * spread.std() / math.sqrt(draws))
    covered = np.mean([noise.share_low <= share <= noise.share_high for noise in found])
    # At share 1 the upper end is cut off at 1, which covers it always, and 5 % are left below.
    nominal = 0.95 if share == 1 else 0.90
    assert covered == pytest.approx(nominal, abs=4 * math.sqrt(nominal * (1 - nominal) / draws))


def test_right_and_wrong_answers_have_less_item_noise_than_the_binomial_of_two_independent_arms():
    """Both arms find the same items hard; neither training seed nor arm does anything here."""
    rng, seeds, items = np.random.default_rng(2), 200, 300
    difficulty = rng.beta(0.7, 0.7, items)
    first, second = rng.random((2, seeds, items)) < difficulty
    noise = split_spread(first.astype(float) - second, 0.90)
    truth = math.sqrt(2 * np.mean(difficulty * (1 - difficulty)) / items)
    assert noise.item_noise == pytest.approx(truth, rel=0.02)
    assert noise.share == pytest.approx(1.0, abs=4 * math.sqrt(2 / (seeds - 1)))
    accuracies = np.array([first.mean(), second.mean()])
    assert math.sqrt(np.sum(accuracies * (1 - accuracies)) / items) > 1.2 * truth


def test_more_items_bring_the_spread_where_the_split_says():
    """Simulated with 4 times the items; the prediction comes from the small set."""
    rng = np.random.default_rng(4)
    small = [split_spread(drawn(rng, 10, 50, seed_noise=0.05), 0.90) for _ in range(400)]
    large = [split_spread(drawn(rng, 10, 200, seed_noise=0.05), 0.90).spread for _ in range(400)]
    truth = math.sqrt(np.mean(np.square(large)))
    whole, items = np.mean([(noise.spread**2, noise.item_noise**2) for noise in small], axis=0)
    assert math.sqrt(whole - items + items / 4) == pytest.approx(truth, rel=0.05)
    # Negative control: a quarter of the whole variance forgets that seeds do not average over items.
    assert math.sqrt(whole / 4) < 0.8 * truth


@given(st.integers(0, 10**6), st.floats(0.1, 10), st.floats(-3, 3))
def test_the_split_follows_scale_and_knows_neither_shift_nor_order(seed, scale, shift):
    rng = np.random.default_rng(seed)
    differences = drawn(rng, 4, 9, seed_noise=0.3)
    one = split_spread(differences, 0.90)
    moved = split_spread(scale * differences[rng.permutation(4)][:, rng.permutation(9)] + shift, 0.90)
    assert (moved.share, moved.share_low, moved.share_high) == pytest.approx((one.share, one.share_low, one.share_high))
    for name in ("spread", "item_noise", "seed_noise", "common"):
        assert getattr(moved, name) == pytest.approx(scale * getattr(one, name), abs=1e-6)


def test_where_nothing_varies_there_is_nothing_to_split():
    for same in (np.zeros((3, 4)), np.full((3, 4), 0.1), np.tile([1.0, 0.0, -1.0], (4, 1))):
        noise = split_spread(same, 0.90)
        assert (noise.spread, noise.item_noise, noise.share, noise.spread_with(8)) == (0, 0, 0, 0)
    only_seeds = split_spread(np.repeat([[0.1], [0.3], [0.2]], 5, axis=1), 0.90)
    assert (only_seeds.share, only_seeds.share_high, only_seeds.item_noise) == (0, 0, 0)


@pytest.mark.parametrize("bad", [[[1.0, 0.0]], [[1.0], [0.0]], [1.0, 0.0], [[0.0, math.nan], [1.0, 0.0]]])
def test_what_cannot_be_split_raises(bad):
    with pytest.raises(ValueError, match=r"two seeds and two items|finite"):
        split_spread(bad, 0.9)
