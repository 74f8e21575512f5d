"""Densities of every rule, the exact score vectors and the rule on them, and how well proxies agree with it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groupppo.algorithm import Cause, Tokens, kernels, known_rules, last_valid
from groupppo.studies.grouping import COLUMNS
from groupppo.studies.shared.rollouts import Rollouts, pool, response_log_probs, select
from groupppo.studies.shared.rules import (
    ExactScores,
    agreement_table,
    cosine_table,
    density_table,
    exact_split,
    off_diagonal_cosines,
    token_gram,
)
from tests.studies.conftest import TEMPERATURE

TAUS = (0.1, 1.0, 10.0)
ONE = {"caps": (None,), "epsilons": (0.0,), "draws": 8}
# Few bits, so that sums and products are exact in every order.
DYADIC = st.integers(-32, 32).map(lambda number: number / 8)
CHOSEN = {"tau": st.sampled_from([0.25, 0.5, 1.0, 3.0]), "cap": st.integers(1, 7)}


def test_every_rule_has_a_row_and_every_threshold_where_it_has_one(tokens: Tokens) -> None:
    table = density_table({"float32": tokens, "bfloat16": tokens}, TAUS)
    assert set(table.columns) == set(COLUMNS["density"])
    assert set(table["rule"]) == set(known_rules())
    split = table[(table["rule"] == "variance_split") & (table["rollout"] == "float32")]
    assert len(split) == 3 * len(TAUS)
    assert split["default"].sum() == 3
    assert table.loc[table["rule"] != "variance_split", "threshold"].isna().all()
    assert ((table["criterion"] + table["cap"] + table["end"]) - 1).abs().max() < 1e-12
    assert not table.duplicated(["rollout", "rule", "score", "threshold"]).any()


def test_random_and_entropy_have_the_density_of_variance_split(tokens: Tokens) -> None:
    table = density_table({"float32": tokens}, TAUS)
    split = table[(table["rule"] == "variance_split") & (table["score"] == "unit") & table["default"]]
    for rule in ("random", "entropy"):
        own = table[table["rule"] == rule]["density"].iloc[0]
        assert own == pytest.approx(split["density"].iloc[0], abs=1 / int(tokens.mask.sum()))
    assert table[table["rule"] == "sequence"]["density"].iloc[0] != pytest.approx(split["density"].iloc[0])


def test_pooled_batches_keep_every_response_as_it_was(tokens: Tokens) -> None:
    first, second = select(tokens, torch.tensor([0, 3])), select(tokens, torch.tensor([1]))
    short = Tokens(second.mask[:, :5], **{name: getattr(second, name)[:, :5] for name in ("advantages", "rewards")})
    pooled = pool([first, short])
    assert pooled.mask.shape == (3, tokens.mask.shape[1])
    assert torch.equal(pooled.get("advantages")[:2], first.get("advantages"))
    assert torch.equal(pooled.get("advantages")[2, :5], short.get("advantages")[0])
    assert not pooled.mask[2, 5:].any()
    assert pooled.values is None  # one of the two has none


# ---- exact score vectors


@pytest.mark.parametrize("place", [0, 1])
def test_the_gram_matrix_is_that_of_one_gradient_for_each_token(
    exact_policy: Any, rollouts: Rollouts, place: int
) -> None:
    row = rollouts.mask.sum(1).argsort(descending=True)[place]
    response, parameters = rollouts.rows(row[None]), dict(exact_policy.named_parameters())
    assert "lm_head.weight" not in parameters, "tied parameters count once"
    chosen = response_log_probs(exact_policy, response, TEMPERATURE)[response.mask]
    each = [torch.autograd.grad(one, list(parameters.values()), retain_graph=True) for one in chosen]
    vectors = torch.stack([torch.cat([part.flatten() for part in parts]) for parts in each])
    gram = token_gram(exact_policy, response, TEMPERATURE)
    assert torch.allclose(gram, vectors @ vectors.T, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(gram, (vectors @ vectors.T).roll((1, 1), (0, 1)), rtol=1e-3)


def test_cosines_are_taken_once_for_each_pair_and_never_of_a_vector_of_length_zero() -> None:
    vectors = torch.tensor([[1.0, 0.0], [2.0, 2.0], [0.0, 0.0], [0.0, -3.0]], dtype=torch.float64)
    cosines = off_diagonal_cosines(vectors @ vectors.T)
    half = 0.5**0.5
    assert torch.allclose(cosines, torch.tensor([half, 0.0, -half], dtype=torch.float64))


@settings(max_examples=100)
@given(rows=st.lists(st.tuples(DYADIC, DYADIC), min_size=1, max_size=16), **CHOSEN)
def test_with_orthogonal_or_parallel_vectors_the_exact_rule_is_the_rule_with_their_scores(
    rows: list[tuple[float, float]], tau: float, cap: int
) -> None:
    advantages, scalars = (torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True))
    mask, chosen = torch.ones(1, len(rows), dtype=torch.bool), {"tau": tau, "epsilon": 0.0, "cap": cap}
    vectors = {True: (torch.diag(scalars**2), scalars**2), False: (torch.outer(scalars, scalars), scalars)}
    for orthogonal, (gram, scores) in vectors.items():
        cause = kernels.variance_split(advantages[None], scores[None], mask, orthogonal=orthogonal, **chosen)
        assert torch.equal(exact_split(gram, advantages, **chosen), cause[0])


def test_a_rule_that_closes_at_the_token_or_knows_no_inner_products_differs() -> None:
    advantages = torch.tensor([1.0, 2.0, 1.0, 0.5])
    before = exact_split(torch.eye(4, dtype=torch.float64), advantages, tau=1.0, epsilon=0.0, cap=9)
    assert before.tolist() == [Cause.CRITERION, Cause.NONE, Cause.NONE, Cause.END]
    # Opposite vectors cancel: |g_1 + g_2| = 0 can never pass the threshold.
    opposite = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    assert exact_split(opposite, advantages[:2], tau=1.0, epsilon=0.0, cap=9).tolist() == [Cause.NONE, Cause.END]
    full = exact_split(torch.eye(3, dtype=torch.float64), torch.ones(3), tau=1.0, epsilon=0.0, cap=3)
    assert full[-1] == Cause.CAP, "a group that is full at the last token is closed by the cap"


# ---- agreement


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
    exact = scores.endpoints(tau=1.0, epsilon=0.0, cap=9)
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
        exact = scores.endpoints(tau=1.0, epsilon=1e-6, cap=cap)
        assert not (exact & ~scores.tokens.mask).any()
        assert (exact | ~last_valid(scores.tokens.mask)).all()
    everything = scores.endpoints(tau=1.0, epsilon=1e-6, cap=1)
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
    plain = scores.endpoints(tau=1.0, epsilon=0.0, cap=99)
    assert torch.equal(small.endpoints(tau=1.0, epsilon=0.0, cap=99), plain)
    assert torch.equal(small.endpoints(tau=1.0, epsilon=1e-6, cap=99), last_valid(scores.tokens.mask))


def test_statistics_of_cosines_on_vectors_worked_out_by_hand() -> None:
    """Right angle, then 45 degrees back: cosines 0, r, r with r = 0.5 ** 0.5; |sum|^2 = 4 + 4 = 8 of 1 + 1 + 2."""
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    gram, r = vectors @ vectors.T, 0.5**0.5
    opposite = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    table = cosine_table([gram, opposite, gram]).set_index("statistic")["value"]
    assert table["mean"] == pytest.approx((4 * r - 1) / 7)
    assert table["mean_abs"] == pytest.approx((4 * r + 1) / 7)
