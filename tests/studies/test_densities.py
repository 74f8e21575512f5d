"""Densities of every rule, and the public code's rule as a function of the gap alone."""

import pytest
import torch

from groupppo.algorithm import GroupParams, Tokens, group_tokens, known_rules
from groupppo.algorithm.metrics import group_metrics
from groupppo.studies.grouping import COLUMNS
from groupppo.studies.shared.rollouts import pool, select
from groupppo.studies.shared.rules import density_table

TAUS = (0.1, 1.0, 10.0)


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


def test_a_row_is_what_the_rule_does_on_the_tokens(tokens: Tokens) -> None:
    table = density_table({"float32": tokens}, TAUS)
    for score, tau in (("unit", 0.1), ("logit_norm", 10.0)):
        params = GroupParams(score=score, group_variance_threshold=tau)
        metrics = group_metrics(group_tokens(tokens, params), tokens, params, tau)
        row = table[(table["score"] == score) & (table["threshold"] == tau)].iloc[0]
        assert row["density"] == metrics["group/density"]
        assert row["cap"] == metrics["group/closed_by/cap"]
        assert row["r_ratio_p50"] == metrics["group/r_ratio/p50"]
    dense = table[table["rule"] == "singleton"].iloc[0]
    assert (dense["density"], dense["size_p50"]) == (1.0, 1.0)
    assert not (table["density"] == 1.0).all()


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
