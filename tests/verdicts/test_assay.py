"""Whether runs may decide anything: the reference must have learned, and every planned run must count."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from groupppo.config import Benchmark, CellPlan
from groupppo.tables import Tables, collect, load_tables
from groupppo.verdicts.claims import load_claims
from groupppo.verdicts.engine import learning_gain, planned_runs, unaccepted_devices, why_inadmissible, why_insensitive
from tests.synthetic import write_results

CELL = CellPlan("sorting", "tiny", ("ppo", "grpo", "group_ppo"), (1, 2))


@pytest.fixture(scope="module")
def shown(tmp_path_factory) -> tuple[Tables, Benchmark]:
    folder: Path = tmp_path_factory.mktemp("results")
    benchmark = write_results(folder, steps=2)
    collect(folder, benchmark)
    return load_tables(folder / "tables"), benchmark


def with_start(tables: Tables, **values: float) -> Tables:
    evals = tables.evals.copy()
    for column, value in values.items():
        evals.loc[evals["arm"] == "start", column] = value
    return replace(tables, evals=evals)


def test_the_gain_takes_off_seed_noise_and_item_noise_in_quadrature():
    gains, errors = [0.10, 0.14, 0.12], [0.012, 0.012, 0.012]
    mean, low = learning_gain(gains, 0.015, errors, 0.90)
    seeds = stats.t.ppf(0.95, 2) * np.std(gains, ddof=1) / math.sqrt(3)
    items = stats.norm.ppf(0.95) * math.sqrt(0.015**2 + 0.012**2)
    assert mean == pytest.approx(0.12)
    assert low == pytest.approx(0.12 - math.sqrt(seeds**2 + items**2))
    assert low < 0.12 - max(seeds, items)


def test_lucky_agreement_of_two_seeds_does_not_hide_item_noise():
    _, low = learning_gain([0.02, 0.02], 0.016, [0.016, 0.016], 0.90)
    assert low < 0


def test_one_seed_has_item_noise_alone():
    mean, low = learning_gain([0.3], 0.015, [0.013], 0.90)
    assert mean - low == pytest.approx(stats.norm.ppf(0.95) * math.hypot(0.015, 0.013))


def test_a_reference_that_learned_passes_and_one_that_did_not_says_so(shown):
    tables, _ = shown
    assert why_insensitive(tables, CELL, "ppo", "accuracy", 0.9) is None
    reason = why_insensitive(with_start(tables, value=0.80), CELL, "ppo", "accuracy", 0.9)
    assert reason.startswith("ppo did not beat its own start (accuracy 0.800)")
    noisy = with_start(tables, stderr=0.5)
    assert why_insensitive(noisy, CELL, "ppo", "accuracy", 0.9) is not None


@pytest.mark.parametrize("gone", ["start", "ppo"])
def test_absent_evaluations_are_no_evidence_of_learning(shown, gone):
    tables, _ = shown
    tables = replace(tables, evals=tables.evals[tables.evals["arm"] != gone])
    assert "missing" in why_insensitive(tables, CELL, "ppo", "accuracy", 0.9)


def runs_of(tables: Tables, **changes: object) -> pd.DataFrame:
    """The planned runs of ppo and group_ppo, with columns of group_ppo seed 2 changed."""
    runs = planned_runs(tables.runs, CELL, ["ppo", "group_ppo"]).copy()
    for column, value in changes.items():
        runs.loc[("group_ppo", 2), column] = value
    return runs


def test_matched_admissible_runs_are_evidence(shown):
    assert why_inadmissible(runs_of(shown[0]), ["ppo", "group_ppo"], (1, 2)) is None


def test_one_inadmissible_run_spoils_the_comparison_and_is_named(shown):
    runs = runs_of(shown[0], admissible=False, reason="3 fallbacks to dense PPO")
    reason = why_inadmissible(runs, ["ppo", "group_ppo"], (1, 2))
    assert "group_ppo seed 2: 3 fallbacks to dense PPO" in reason
    assert why_inadmissible(runs, ["ppo"], (1, 2)) is None


def test_a_planned_run_that_was_never_made_is_named(shown):
    assert "group_ppo seed 3: no run" in why_inadmissible(runs_of(shown[0]), ["ppo", "group_ppo"], (1, 2, 3))


def test_runs_of_which_none_is_there_are_counted_and_not_listed(shown):
    runs = runs_of(shown[0]).assign(status="missing", admissible=False, reason="status.json: file = missing")
    counted = "None of the 4 runs that it is about is there."
    assert why_inadmissible(runs, ["ppo", "group_ppo"], (1, 2)) == counted
    one_failed = runs.assign(status=["failed", *["missing"] * (len(runs) - 1)])
    assert "seed 1: status.json" in why_inadmissible(one_failed, ["ppo", "group_ppo"], (1, 2))


@pytest.mark.parametrize(("column", "value"), [("device", "cuda"), ("rollout", "vllm")])
def test_runs_on_different_devices_or_servers_are_not_matched(shown, column, value):
    runs = runs_of(shown[0], **{column: value})
    assert "not matched" in why_inadmissible(runs, ["ppo", "group_ppo"], (1, 2))


def test_a_device_is_unaccepted_only_where_no_run_used_an_accepted_one(shown):
    claims = {claim.id: claim for claim in load_claims(shown[1].claims).claims}
    runs = runs_of(shown[0])
    assert unaccepted_devices(claims["speedup-step"], runs) == ["cpu"]
    assert unaccepted_devices(claims["speedup-update"], runs) == []
    assert unaccepted_devices(claims["speedup-step"], runs_of(shown[0], device="cuda")) == []
