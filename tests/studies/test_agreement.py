"""Agreement of proxies with the exact rule: counted right, controls at its density, correlations by rank."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from groupppo.algorithm import Tokens, last_valid
from groupppo.studies.grouping import COLUMNS
from groupppo.studies.shared.rollouts import Rollouts
from groupppo.studies.shared.rules import (
    ExactScores,
    agreement_table,
    cosine_table,
    exact_endpoints,
    token_gram,
)
from tests.studies.conftest import TEMPERATURE

ONE = {"caps": (None,), "epsilons": (0.0,), "draws": 8}


@pytest.fixture(scope="module")
def scores(exact_policy: Any, rollouts: Rollouts, tokens: Tokens) -> ExactScores:
    rows = torch.arange(len(rollouts.mask))
    grams = [token_gram(exact_policy, rollouts.rows(row[None]), TEMPERATURE) for row in rows]
    noise = torch.randn(tokens.mask.shape, generator=torch.Generator().manual_seed(0))
    coarse = replace(tokens, rollout_log_probs=tokens.get("log_probs") + 1e-2 * noise)
    return ExactScores(tokens, coarse, grams)


def made(rows: list[list[float]], grams: list[torch.Tensor]) -> ExactScores:
    """Responses with these advantages and Gram matrices; everything else is constant."""
    longest = max(map(len, rows))
    mask = torch.tensor([[t < len(row) for t in range(longest)] for row in rows])
    advantages = torch.tensor([row + [9.0] * (longest - len(row)) for row in rows])
    half = torch.full(mask.shape, 0.5)
    parts = {"log_probs": -half, "rollout_log_probs": -half, "entropies": half, "sum_pi_squared": half}
    tokens = Tokens(mask, advantages=advantages, seeds=torch.arange(len(rows)), **parts)
    return ExactScores(tokens, tokens, grams)


def row_of(scores: ExactScores, proxy: str, **settings: Any) -> dict[str, Any]:
    table = agreement_table(scores, **(ONE | settings))
    return dict(table[table["proxy"] == proxy].iloc[0])


def test_precision_recall_and_f1_are_counted_over_all_tokens() -> None:
    """Advantages 1 2 1 2: orthogonal vectors split before each 2. With g_1 = -g_2 the first of these splits goes."""
    cancelling = torch.eye(4, dtype=torch.float64)
    cancelling[0, 1] = cancelling[1, 0] = -1.0
    scores = made([[1.0, 2.0, 1.0, 2.0], [1.0, 1.0]], [cancelling, torch.eye(2, dtype=torch.float64)])
    exact = exact_endpoints(scores, tau=1.0, epsilon=0.0, cap=9)
    unit = row_of(scores, "unit")
    chosen = {(0, 0), (0, 2), (0, 3), (1, 1)}
    wanted = {(row, t) for row, t in exact.nonzero().tolist()}
    assert (0, 0) not in wanted
    both = len(chosen & wanted)
    assert unit["precision"] == pytest.approx(both / len(chosen))
    assert unit["recall"] == pytest.approx(both / len(wanted))
    assert unit["f1"] == pytest.approx(2 * both / (len(chosen) + len(wanted)))
    inner = both - 2
    assert unit["f1_inner"] == pytest.approx(2 * inner / (len(chosen) + len(wanted) - 4))
    assert unit["f1"] < 1.0


def test_with_orthogonal_vectors_their_exact_norms_agree_wholly_and_other_scores_need_not() -> None:
    generator = np.random.default_rng(0)
    sizes = generator.integers(8, 14, size=10)
    grams = [torch.diag(torch.from_numpy(generator.exponential(size=size) ** 3)) for size in sizes]
    scores = made([list(generator.normal(size=size)) for size in sizes], grams)
    norms = row_of(scores, "true_norm")
    assert (norms["f1"], norms["f1_low"], norms["f1_high"]) == (1.0, 1.0, 1.0)
    assert norms["density"] == norms["exact_density"]
    assert row_of(scores, "unit")["f1"] < 0.95


def test_exact_endpoints_lie_inside_the_mask_and_hold_every_last_token(scores: ExactScores) -> None:
    for cap in (1, 4, 99):
        exact = exact_endpoints(scores, tau=1.0, epsilon=1e-6, cap=cap)
        assert not (exact & ~scores.tokens.mask).any()
        assert (exact | ~last_valid(scores.tokens.mask)).all()
    everything = exact_endpoints(scores, tau=1.0, epsilon=1e-6, cap=1)
    assert torch.equal(everything, scores.tokens.mask)
    assert not torch.equal(exact, scores.tokens.mask)


def test_controls_have_the_exact_rules_density_and_random_is_an_average_over_draws(scores: ExactScores) -> None:
    random = row_of(scores, "random", draws=32)
    tokens = int(scores.tokens.mask.sum())
    assert random["draws"] == 32
    assert abs(random["density"] - random["exact_density"]) <= 0.5 / tokens + 1e-12
    assert random["precision"] == pytest.approx(random["recall"], abs=0.02)
    assert row_of(scores, "random", draws=1)["f1"] != random["f1"]
    assert row_of(scores, "unit")["draws"] == 1


def test_chance_agrees_at_the_density_and_no_better() -> None:
    """Endpoints chosen without looking are right as often as a token is an endpoint, but for last tokens."""
    generator = np.random.default_rng(2)
    grams = [torch.eye(40, dtype=torch.float64)] * 30
    scores = made([list(generator.normal(size=40)) for _ in range(30)], grams)
    random = row_of(scores, "random", draws=64)
    inner_density = (random["exact_density"] * 40 - 1) / 39
    assert random["f1_inner"] == pytest.approx(inner_density, abs=0.02)
    assert row_of(scores, "unit")["f1"] == 1.0


def test_every_setting_of_cap_and_epsilon_has_every_proxy_once(scores: ExactScores) -> None:
    table = agreement_table(scores, caps=(None, 3), epsilons=(1e-6, 0.0), draws=2)
    assert set(table.columns) == set(COLUMNS["agreement"])
    counts = table.groupby(["cap", "epsilon"], dropna=False)["proxy"].nunique()
    assert counts.tolist() == [7] * 4
    assert not table.duplicated(["cap", "epsilon", "proxy"]).any()
    capped = table[table["cap"] == 3]["exact_density"].iloc[0]
    assert capped > table[table["cap"].isna()]["exact_density"].iloc[0]


def test_a_large_epsilon_hides_small_scores_and_so_changes_the_endpoints(scores: ExactScores) -> None:
    tiny = [gram * 1e-12 for gram in scores.grams]
    small = ExactScores(scores.tokens, scores.coarse, tiny)
    plain = exact_endpoints(scores, tau=1.0, epsilon=0.0, cap=99)
    assert torch.equal(exact_endpoints(small, tau=1.0, epsilon=0.0, cap=99), plain)
    assert torch.equal(exact_endpoints(small, tau=1.0, epsilon=1e-6, cap=99), last_valid(scores.tokens.mask))


def test_statistics_of_cosines_on_vectors_worked_out_by_hand() -> None:
    """Right angle, then 45 degrees back: cosines 0, r, r with r = 0.5 ** 0.5; |sum|^2 = 4 + 4 = 8 of 1 + 1 + 2."""
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    gram, r = vectors @ vectors.T, 0.5**0.5
    opposite = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    table = cosine_table([gram, opposite, gram]).set_index("statistic")["value"]
    assert table["mean"] == pytest.approx((4 * r - 1) / 7)
    assert table["mean_abs"] == pytest.approx((4 * r + 1) / 7)
