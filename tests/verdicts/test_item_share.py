"""How much of an interval is item noise, and which of items and seeds narrows it more: against parts put in."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from groupppo.stats.intervals import paired_t
from groupppo.tables import collect, load_tables
from groupppo.verdicts.claims import load_claims
from groupppo.verdicts.engine import decide, read_studied
from groupppo.verdicts.item_scores import ItemScores
from groupppo.verdicts.item_share import ItemShare, item_share
from groupppo.verdicts.quantities import Sample
from tests.synthetic import write_results

SAMPLE = Sample("sorting", "tiny", "group_ppo", "ppo", metric="accuracy")
ALL_ITEMS = 1000


def write_scores(results: Path, arm: str, seed: int, scores: np.ndarray) -> dict[str, object]:
    """lm-eval's samples of one evaluation, and its row of the table."""
    folder = results / "evals/sorting/tiny" / arm / f"seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({"doc_id": i, "accuracy": float(score)}) for i, score in enumerate(scores))
    (folder / "samples_sorting_greedy_2026.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    value, n = float(scores.mean()), len(scores)
    return {"arm": arm, "seed": seed, "value": value, "stderr": math.sqrt(value * (1 - value) / n), "n": n}


def share_of(results: Path, by_arm: dict[str, np.ndarray], *, samples: bool = True) -> ItemShare:
    """Scores by arm, shape (seeds, items), through files and tables."""
    rows = pd.DataFrame(
        [write_scores(results, arm, seed, row) for arm, scores in by_arm.items() for seed, row in enumerate(scores)]
    )
    values = rows.pivot(index="seed", columns="arm", values="value")
    interval = paired_t(values["group_ppo"] - values["ppo"], 0.90)
    return item_share(rows, SAMPLE, interval, ItemScores(results) if samples else None)


def answers(rng: np.random.Generator, seeds: int, *, by_seed: float, by_item: float) -> dict[str, np.ndarray]:
    """Right and wrong answers; of group_ppo some seeds are better, and some items of theirs easier, than of ppo."""
    gain = np.clip(0.5 + by_seed * rng.normal(size=(seeds, 1)) + by_item * rng.normal(size=ALL_ITEMS), 0, 1)
    draw = rng.random((2, seeds, ALL_ITEMS))
    return {"ppo": (draw[0] < 0.5).astype(float), "group_ppo": (draw[1] < gain).astype(float)}


def test_where_seeds_do_much_little_of_the_interval_is_item_noise_and_more_seeds_help_more(tmp_path):
    found = share_of(tmp_path, answers(np.random.default_rng(1), 10, by_seed=0.2, by_item=0.0))
    assert found.share < 0.1
    assert found.of_seeds > 0.95 * found.half_width
    assert found.more == "seeds"
    assert found.twice_seeds < found.twice_items < found.together
    assert "More seeds would help more" in found.reason


def test_where_the_arms_differ_by_item_more_items_help_more(tmp_path):
    """Many seeds have averaged out all but the choice of the items, which no seed can."""
    found = share_of(tmp_path / "forty", answers(np.random.default_rng(2), 40, by_seed=0.0, by_item=0.5))
    assert found.of_choice > found.half_width
    assert found.more == "items"
    assert found.twice_items < found.twice_seeds < found.together
    assert "More items would help more" in found.reason
    # Negative control: with two seeds the same answers want seeds.
    two = share_of(tmp_path / "two", answers(np.random.default_rng(2), 2, by_seed=0.0, by_item=0.5))
    assert two.more == "seeds"


def test_the_numbers_are_those_of_the_formula(tmp_path):
    by_arm = answers(np.random.default_rng(3), 5, by_seed=0.05, by_item=0.3)
    found = share_of(tmp_path, by_arm)
    differences = by_arm["group_ppo"] - by_arm["ppo"]
    means = differences.mean(axis=1)
    residuals = differences - means[:, None] - differences.mean(axis=0) + differences.mean()
    item_variance = (residuals**2).sum() / (4 * (ALL_ITEMS - 1)) / ALL_ITEMS
    common = max(0.0, differences.mean(axis=0).var(ddof=1) / ALL_ITEMS - item_variance / 5)
    assert found.share == pytest.approx(item_variance / means.var(ddof=1))
    assert found.half_width == pytest.approx(stats.t.ppf(0.95, 4) * means.std(ddof=1) / math.sqrt(5))
    assert found.of_seeds == pytest.approx(found.half_width * math.sqrt(1 - found.share))
    assert found.of_choice == pytest.approx(stats.norm.ppf(0.95) * math.sqrt(common))
    ten = stats.t.ppf(0.95, 9) ** 2 * means.var(ddof=1) / 10
    assert found.twice_seeds == pytest.approx(math.sqrt(ten + found.of_choice**2))
    fewer = stats.t.ppf(0.95, 4) ** 2 * (means.var(ddof=1) - item_variance / 2) / 5
    assert found.twice_items == pytest.approx(math.sqrt(fewer + found.of_choice**2 / 2))
    # Negative control: twice the seeds with the quantile of five would be another number.
    assert found.twice_seeds < 0.9 * math.sqrt(stats.t.ppf(0.95, 4) ** 2 * means.var(ddof=1) / 10 + found.of_choice**2)


def test_without_scores_by_item_there_is_a_bound_above_what_they_would_say(tmp_path):
    rng = np.random.default_rng(4)
    difficulty = rng.beta(0.5, 0.5, ALL_ITEMS)
    both = (rng.random((2, 8, ALL_ITEMS)) < difficulty).astype(float)
    known = share_of(tmp_path, {"ppo": both[0], "group_ppo": both[1]})
    bound = share_of(tmp_path, {"ppo": both[0], "group_ppo": both[1]}, samples=False)
    assert bound.bound
    assert not known.bound
    assert bound.share > known.share or bound.share == 1
    assert bound.of_seeds <= known.of_seeds
    assert bound.half_width == pytest.approx(known.half_width)
    assert (bound.more, bound.share_low, bound.of_choice) == (None, None, None)
    assert "at most" in bound.reason
    assert "cannot be told: the scores by item are not at hand" in bound.reason
    uneven = share_of(tmp_path, {"ppo": both[0][:, :900], "group_ppo": both[1]})
    assert (uneven.bound, uneven.items) == (True, 900)


def test_the_engine_stores_item_noise_of_every_accuracy_comparison_that_has_an_interval(tmp_path):
    benchmark = write_results(tmp_path, seeds=(1, 2, 3))
    collect(tmp_path, benchmark)
    claims, tables = load_claims(benchmark.claims), load_tables(tmp_path / "tables")

    def stored() -> dict[str, dict]:
        content = decide(claims, tables, benchmark, studied=read_studied(tmp_path, benchmark, claims))
        assert json.loads(json.dumps(content, allow_nan=False)) == content
        return {entry["id"]: entry["item_noise"] for entry in content["verdicts"]}

    before = stored()
    assert {name for name, noise in before.items() if noise} == {"parity-ppo", "parity-grpo"}
    assert "rule-matters" not in before  # the arm `random` is not there
    assert before["parity-ppo"]["bound"] is True
    assert "evals/sorting/tiny/group_ppo/seed1: no scores by item" in before["parity-ppo"]["reason"]
    assert str(tmp_path) not in before["parity-ppo"]["reason"]
    for row in tables.evals[(tables.evals["metric"] == "accuracy") & tables.evals["seed"].notna()].itertuples():
        write_scores(tmp_path, row.arm, row.seed, np.arange(ALL_ITEMS) < round(row.value * ALL_ITEMS))
    tables = replace(tables, evals=tables.evals.assign(value=tables.evals["value"].round(3)))
    after = stored()["parity-ppo"]
    assert after["bound"] is False
    assert after["items"] == ALL_ITEMS
    assert after["half_width"] == pytest.approx(before["parity-ppo"]["half_width"], rel=0.1)
