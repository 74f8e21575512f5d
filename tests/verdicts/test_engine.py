"""Verdicts from synthetic results with known answers: every verdict that a claim can reach, it reaches."""

import json
import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pytest

from groupppo.config import Benchmark
from groupppo.config.forms import Region
from groupppo.tables import Tables, collect, load_tables
from groupppo.verdicts.claims import Claim, Claims, load_claims
from groupppo.verdicts.engine import decide
from groupppo.verdicts.quantities import QUANTITIES
from groupppo.verdicts.rules import VERDICTS, judge
from tests.synthetic import ARMS, Effect, Spread, synthetic_benchmark, write_results

EIGHT = tuple(range(1, 9))


def with_controls(group_ppo: Effect, random: float, published: float) -> dict[str, Effect]:
    """All arms that claims are about: accuracy of `random`, density of `group_ppo_published`."""
    controls = {"random": Effect(random, group_ppo.density), "group_ppo_published": Effect(0.8, published)}
    return ARMS | {"group_ppo": group_ppo} | controls


AS_CLAIMED = with_controls(Effect(0.80, 1 / 16, {"step": 16.0}, 0.25, 0.2), 0.70, 0.10)
NO_GAIN = with_controls(Effect(0.60, 0.5), 0.70, 0.50)
AT_THE_EDGE = with_controls(Effect(0.75, 0.0725, {"step": 12.8}, 0.30, 0.3), 0.75, 0.20)
LOW_DENSITY = with_controls(Effect(0.85, 0.05), 0.85, 0.04)
WIDE = Spread(accuracy=0.03, density=0.005, log_seconds=0.3, log_memory=0.3)

CASES: dict[str, dict[str, Any]] = {
    "as claimed": {"arms": AS_CLAIMED, "seeds": EIGHT, "device": "cuda"},
    "no gain": {"arms": NO_GAIN, "seeds": EIGHT, "device": "cuda"},
    "at the edge": {"arms": AT_THE_EDGE, "seeds": EIGHT, "device": "cuda"},
    "at the lower edge": {"arms": LOW_DENSITY, "seeds": EIGHT, "device": "cuda"},
    "two seeds": {"arms": AS_CLAIMED, "seeds": (1, 2), "device": "cuda", "spread": WIDE},
    "one seed": {"arms": AS_CLAIMED, "seeds": (1,), "device": "cuda"},
    "nothing learned": {"arms": AS_CLAIMED, "seeds": EIGHT, "device": "cuda", "start_accuracy": 0.81},
    "a fallback": {"arms": AS_CLAIMED, "seeds": EIGHT, "device": "cuda", "fallbacks": {("group_ppo", 3): 1}},
    "a failed reference": {"arms": AS_CLAIMED, "seeds": EIGHT, "device": "cuda", "failed": {("ppo", 3): "killed"}},
    "on a cpu": {"arms": AS_CLAIMED, "seeds": EIGHT},
}

S, R, I, T = "supported", "refuted", "inconclusive", "not testable"  # noqa: E741
IDENTITY, ELSEWHERE = "identity", "not measurable here"
COLUMNS = tuple(CASES)
TRUTH: dict[str, tuple[str, ...]] = {
    # claim: as claimed, no gain, edge, lower edge, two seeds, one seed, not learned, fallback, failed ref., cpu
    "compression": (S, R, I, S, I, I, T, T, T, S),
    "endpoint-share": (S, R, S, I, I, I, T, T, T, S),
    "speedup-tokens": (IDENTITY,) * 10,
    "speedup-adv": (S, R, I, R, I, I, S, T, T, S),
    "speedup-update": (S, R, I, R, I, I, S, T, T, S),
    "speedup-critic": (S, R, S, R, S, I, S, T, T, S),
    "speedup-step": (S, R, I, R, I, I, S, T, T, ELSEWHERE),
    "speedup-target": (I, R, R, S, I, I, T, T, T, I),
    "speedup-target-seconds": (S, R, R, S, I, I, T, T, T, ELSEWHERE),
    "memory-update": (S, R, I, R, I, I, S, T, T, S),
    "memory-run": (S, R, R, R, S, I, S, T, T, ELSEWHERE),
    "parity-ppo": (S, R, I, I, I, I, T, T, T, S),
    "parity-grpo": (S, R, R, S, I, I, T, T, T, S),
    "rule-matters": (S, R, I, I, I, I, T, T, T, S),
    "published": (S, R, I, R, S, I, T, S, T, S),
}
# Claims that say of other arms what one above says: it, and the arms by the names that they have there.
ALIKE: dict[str, tuple[str, dict[str, str]]] = {
    "parity-ppo-tokens": ("parity-ppo", {"group_ppo": "group_ppo_norm_tokens"}),
    "parity-ppo-lam95": ("parity-ppo", {"group_ppo": "group_ppo_lam95", "ppo": "ppo_lam95"}),
    "parity-ppo-token-gae": ("parity-ppo", {"group_ppo": "group_ppo_token_lam95", "ppo": "ppo_lam95"}),
    "parity-ppo-broadcast": ("parity-ppo", {"group_ppo": "group_ppo_broadcast"}),
    "parity-ppo-published": ("parity-ppo", {"group_ppo": "group_ppo_published", "group_ppo_published": "stride"}),
    "rule-matters-stride": ("rule-matters", {"random": "stride"}),
    "rule-matters-entropy": ("rule-matters", {"random": "entropy"}),
    "update-gathered": ("parity-ppo", {"group_ppo": "group_ppo_gathered", "ppo": "group_ppo"}),
    "update-streamed": ("parity-ppo", {"group_ppo": "group_ppo_streamed", "ppo": "group_ppo"}),
    "update-gathered-entropy": ("parity-ppo", {"group_ppo": "entropy_gathered", "ppo": "entropy"}),
    "update-streamed-entropy": ("parity-ppo", {"group_ppo": "entropy_streamed", "ppo": "entropy"}),
}
ON_A_GPU = {"speedup-step", "speedup-target-seconds", "memory-run"}
REACHABLE = {
    claim: {IDENTITY} if claim == "speedup-tokens" else {S, R, I, T} | ({ELSEWHERE} if claim in ON_A_GPU else set())
    for claim in TRUTH
}


@cache
def case(name: str) -> tuple[Claims, Tables, Benchmark]:
    with TemporaryDirectory() as folder:
        benchmark = write_results(Path(folder), **CASES[name])
        collect(Path(folder), benchmark)
        return load_claims(benchmark.claims), load_tables(Path(folder) / "tables"), benchmark


@cache
def verdicts(name: str) -> dict[str, dict[str, Any]]:
    """The verdicts of TRUTH; those on an update's cost and on studies have truth tables of their own."""
    return {entry["id"]: entry for entry in decide(*case(name))["verdicts"] if entry["id"] in TRUTH}


def with_tables(**changed: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """The verdicts on the case "as claimed" with other tables."""
    claims, tables, benchmark = case("as claimed")
    return {entry["id"]: entry for entry in decide(claims, replace(tables, **changed), benchmark)["verdicts"]}


def shipped(name: str) -> tuple[Claims, Claim]:
    claims = load_claims(synthetic_benchmark().claims)
    return claims, next(claim for claim in claims.claims if claim.id == name)


@pytest.mark.parametrize("name", COLUMNS)
def test_every_claim_gets_the_verdict_that_its_results_call_for(name):
    expected = {claim: row[COLUMNS.index(name)] for claim, row in TRUTH.items()}
    assert {claim: entry["verdict"] for claim, entry in verdicts(name).items()} == expected
    for entry in verdicts(name).values():
        assert entry["seeds_needed"] is None or (entry["verdict"] == I and entry["seeds_needed"] > entry["seeds"])
        if entry["verdict"] == T:
            assert (entry["estimate"], entry["low"], entry["high"], entry["seeds"]) == (None, None, None, 0)


def test_the_truth_table_reaches_every_verdict_of_every_claim():
    assert {claim: set(row) for claim, row in TRUTH.items()} == REACHABLE
    assert set().union(*REACHABLE.values()) == set(VERDICTS)


@pytest.mark.parametrize("name", ["as claimed", "no gain", "nothing learned"])
def test_a_claim_about_other_arms_gets_the_verdict_of_the_one_that_it_is_like(name):
    claims, tables, benchmark = case(name)
    for alike, (other, names) in ALIKE.items():
        renamed = {arm: replace(found, name=names.get(arm, arm)) for arm, found in benchmark.arms.items()}
        arms, reference = {found.name: found for found in renamed.values()}, names.get("ppo", "ppo")
        parts = {
            part: getattr(tables, part).assign(arm=lambda rows, names=names: rows["arm"].map(lambda a: names.get(a, a)))
            for part in ("runs", "evals")
        }
        one = replace(claims, claims=tuple(claim for claim in claims.claims if claim.id == alike))
        [entry] = decide(one, replace(tables, **parts), replace(benchmark, arms=arms, reference=reference))["verdicts"]
        expected = verdicts(name)[other]
        assert (entry["verdict"], entry["estimate"]) == (expected["verdict"], expected["estimate"]), alike


def test_no_claim_about_runs_is_without_a_truth():
    claims = load_claims(synthetic_benchmark().claims).claims
    assert {claim.id for claim in claims if claim.quantity in QUANTITIES} == set(TRUTH) | set(ALIKE)


def test_numbers_are_the_ones_that_were_put_in():
    entry = verdicts("as claimed")["speedup-update"]
    half = 1.894579 * 0.02 / math.sqrt(8)
    assert entry["estimate"] == pytest.approx(16.0)
    assert (entry["low"], entry["high"]) == (pytest.approx(16 * math.exp(-half)), pytest.approx(16 * math.exp(half)))
    assert (entry["seeds"], entry["seeds_needed"], entry["margin"], entry["unit"]) == (8, None, 3.2, "x")


def test_two_seeds_are_enormously_uncertain_and_say_how_many_would_do():
    entry = verdicts("two seeds")["parity-ppo"]
    assert (entry["estimate"], entry["seeds"]) == (pytest.approx(0.0, abs=1e-12), 2)
    assert entry["high"] - entry["estimate"] == pytest.approx(6.3138 * 0.03 / math.sqrt(2), rel=1e-4)
    assert entry["seeds_needed"] in {4, 5, 6}
    assert f"about {entry['seeds_needed']} seeds would decide it" in entry["reason"]
    assert "cannot fall below 0.5" in entry["reason"]


def test_at_the_very_edge_no_number_of_seeds_is_promised():
    entry = verdicts("at the edge")["speedup-step"]
    assert entry["verdict"] == I
    assert entry["seeds_needed"] is None or entry["seeds_needed"] > 100
    assert "seeds would decide it" in entry["reason"]


def test_one_seed_supports_and_refutes_nothing():
    for name, entry in verdicts("one seed").items():
        if name != "speedup-tokens":
            wanted = 5 if name.startswith("speedup-target") else None
            assert (entry["verdict"], entry["low"], entry["seeds_needed"]) == (I, None, wanted)
            assert "no interval" in entry["reason"]


def test_the_reason_names_the_spoiled_run_and_the_run_is_listed():
    assert "group_ppo seed 3: 1 fallbacks" in verdicts("a fallback")["parity-ppo"]["reason"]
    assert decide(*case("a fallback"))["excluded"] == [
        {"task": "sorting", "model": "tiny", "arm": "group_ppo", "seed": 3, "reason": "1 fallbacks to dense PPO"}
    ]
    assert "ppo seed 3: failed: killed" in verdicts("a failed reference")["compression"]["reason"]
    assert decide(*case("as claimed"))["excluded"] == []


def test_a_failed_run_of_an_arm_that_a_claim_is_not_about_leaves_it_alone(tmp_path):
    benchmark = write_results(tmp_path, arms=AS_CLAIMED, seeds=EIGHT, failed={("grpo", 1): "killed"})
    collect(tmp_path, benchmark)
    content = decide(load_claims(benchmark.claims), load_tables(tmp_path / "tables"), benchmark)
    found = {entry["id"]: entry["verdict"] for entry in content["verdicts"]}
    assert (found["parity-ppo"], found["parity-grpo"], len(content["excluded"])) == (S, T, 1)


def test_a_cpu_is_named_and_its_number_stays_out_of_the_verdict():
    entry = verdicts("on a cpu")["speedup-step"]
    assert "from a GPU; all runs used a CPU" in entry["reason"]
    assert "16" in entry["reason"]
    assert entry["estimate"] is None


def test_an_arm_outside_the_benchmark_is_not_testable():
    claims, tables, benchmark = case("as claimed")
    arms = {name: benchmark.arms[name] for name in ("ppo", "grpo")}
    own = replace(benchmark, arms=arms, claims=claims.sources[0])
    entries = decide(claims, tables, own)["verdicts"]
    assert {entry["verdict"] for entry in entries} == {T, IDENTITY}


def test_a_planned_seed_that_was_never_run_is_not_passed_over():
    claims, tables, benchmark = case("as claimed")
    entries = decide(claims, tables, replace(benchmark, seeds=(*EIGHT, 9)))["verdicts"]
    assert {entry["verdict"] for entry in entries} == {T, IDENTITY}
    of_runs = [entry for entry in entries if entry["id"] in TRUTH]
    assert all("seed 9: no run" in entry["reason"] for entry in of_runs if entry["verdict"] == T)


@pytest.mark.parametrize(
    ("masked", "streamed", "verdict"),
    [(0.655, 0.660, T), (0.75, 0.75, S), (0.50, 0.50, S), (0.655, 0.50, R), (0.50, 0.655, R)],
    ids=["neither left the start", "both learned", "both unlearned", "one of them", "the other"],
)
def test_arms_that_stayed_at_their_start_are_alike_for_nothing(tmp_path, masked, streamed, verdict):
    arms = ARMS | {"group_ppo": Effect(masked, 0.25), "group_ppo_streamed": Effect(streamed, 0.25)}
    benchmark = write_results(tmp_path, arms=arms, seeds=EIGHT, start_accuracy=0.655)
    collect(tmp_path, benchmark)
    entries = decide(load_claims(benchmark.claims), load_tables(tmp_path / "tables"), benchmark)["verdicts"]
    found = {entry["id"]: entry for entry in entries}
    assert found["update-streamed"]["verdict"] == verdict
    assert ("Neither arm left its start (accuracy 0.655)" in found["update-streamed"]["reason"]) == (verdict == T)
    assert found["parity-ppo"]["verdict"] != T  # the reference learned: enough where it is compared with


def test_a_seed_without_a_measurement_leaves_the_claim_open():
    stages = case("as claimed")[1].stages
    entries = with_tables(stages=stages[(stages["seed"] != 4) | (stages["stage"] != "adv")])
    assert (entries["speedup-adv"]["verdict"], entries["speedup-adv"]["seeds"]) == (I, 7)
    assert "7 of 8 seeds" in entries["speedup-adv"]["reason"]
    assert entries["speedup-update"]["verdict"] == S


def test_copies_of_one_run_support_nothing():
    evals = case("as claimed")[1].evals
    first = evals[evals["seed"].isna() | (evals["seed"] == 1)]
    copies = [first] + [first[first["seed"].notna()].assign(seed=seed) for seed in EIGHT[1:]]
    entry = with_tables(evals=pd.concat(copies, ignore_index=True).astype({"seed": "Int64"}))["parity-ppo"]
    assert entry["verdict"] == I
    assert "copies of one run" in entry["reason"]


def test_counts_that_agree_in_every_seed_are_decided():
    entry = with_tables(groups=case("as claimed")[1].groups.assign(tokens=1600, endpoints=100))["compression"]
    assert (entry["verdict"], entry["low"], entry["high"]) == (S, 0.9375, 0.9375)


def test_swapping_the_arms_turns_support_into_refutation():
    """Negative control: a comparison the wrong way round must not pass."""
    stages = case("as claimed")[1].stages
    entries = with_tables(stages=stages.assign(arm=stages["arm"].replace({"ppo": "group_ppo", "group_ppo": "ppo"})))
    assert entries["speedup-update"]["verdict"] == entries["memory-update"]["verdict"] == R


def test_margins_are_read_from_the_data():
    claims, tables, benchmark = case("as claimed")
    tight = tuple(replace(claim, margin=0.001) for claim in claims.claims if claim.id == "parity-ppo")
    [entry] = decide(replace(claims, claims=tight), tables, benchmark)["verdicts"]
    assert entry["verdict"] == I


@pytest.mark.parametrize(("accuracy", "alone"), [(0.7885, S), (0.7115, R)])
def test_several_tasks_are_judged_each_and_held_to_holm(tmp_path, accuracy, alone):
    # At 5 seeds the interval clears an end of the region at 5 % but not at 2.5 %, which two cells ask of the smaller p.
    arms, spread = ARMS | {"group_ppo": Effect(accuracy)}, Spread(accuracy=0.038)
    found = {}
    for tasks in (("sorting",), ("sorting", "chain")):
        folder = tmp_path / str(len(tasks))
        benchmark = write_results(folder, arms=arms, seeds=(1, 2, 3, 4, 5), tasks=tasks, spread=spread)
        collect(folder, benchmark)
        claims = load_claims(benchmark.claims)
        parity = replace(claims, claims=tuple(claim for claim in claims.claims if claim.id == "parity-ppo"))
        found[len(tasks)] = decide(parity, load_tables(folder / "tables"), benchmark)["verdicts"]
    assert [(entry["task"], entry["verdict"]) for entry in found[1]] == [("sorting", alone)]
    assert [(entry["task"], entry["verdict"]) for entry in found[2]] == [("sorting", I), ("chain", I)]
    assert (found[1][0]["low"], found[1][0]["high"]) == (found[2][0]["low"], found[2][0]["high"])
    assert "Holm over 2 cells" in found[2][0]["reason"]


def test_an_interval_that_ends_where_the_region_ends_is_not_inside():
    """At level 0.5 the interval of two seeds runs from one to the other: p is the level, but for rounding."""
    claims, claim = shipped("parity-ppo")
    claims, pairs = replace(claims, level=0.5), np.random.default_rng(0).normal(size=(20, 2))
    for low, high in np.sort(pairs):
        values = {1: float(low), 2: float(high)}
        for region in (Region(low - 1, high), Region(low, high + 1), Region(high=low), Region(low=high)):
            assert judge(replace(claim, claimed=region, margin=0.0), claims, [values], [2])[0].verdict == I
        inside = replace(claim, claimed=Region(low - 0.01, high + 0.01), margin=0.0)
        assert judge(inside, claims, [values], [2])[0].verdict == S


def test_a_ratio_below_zero_is_refuted():
    claims, claim = shipped("speedup-adv")
    below = replace(claim, claimed=Region(high=0.0), margin=0.0)
    assert judge(below, claims, [{1: 1.0, 2: 1.1, 3: 1.2}], [3])[0].verdict == R


def test_orders_of_costs_are_held_to_holm_over_several_tasks_too():
    """Five seeds of which all arrive sooner: p = 1/32, enough for one task and not for the smaller of two."""
    claims, claim = shipped("speedup-target")
    sooner = dict.fromkeys(range(5), 1.5)
    assert [finding.verdict for finding in judge(claim, claims, [sooner], [5])] == [S]
    two = judge(claim, claims, [sooner, sooner], [5, 5])
    assert [finding.verdict for finding in two] == [I, I]
    assert "Holm over 2 cells" in two[0].reason
    assert two[0].seeds_needed == 6
    six = dict.fromkeys(range(6), 1.5)
    assert [finding.verdict for finding in judge(claim, claims, [six, six], [6, 6])] == [S, S]


def test_a_seed_whose_reference_alone_misses_the_target_speaks_for_the_claim():
    claims, claim = shipped("speedup-target")
    one_missed = dict.fromkeys(range(4), 1.5) | {4: math.inf}
    assert judge(claim, claims, [one_missed], [5])[0].verdict == S
    # Negative control: where both missed nothing is known.
    assert judge(claim, claims, [one_missed | {4: math.nan}], [5])[0].verdict == I


def test_the_content_is_plain_json_with_the_keys_of_the_contract():
    content = decide(*case("two seeds"))
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert list(content) == ["benchmark", "claims_sha256", "level", "verdicts", "excluded"]
    contract = (
        "id claim source reading arm quantity comparison margin unit verdict asked estimate low high seeds seeds_needed"
    )
    for entry in content["verdicts"]:
        told = {"reason", "what_would_change", "evidence", "figure", "task", "model", "replicates", "item_noise"}
        told |= {"elsewhere"}
        assert set(entry) == {*contract.split(), *told}
        assert entry["verdict"] in VERDICTS
        assert entry["reason"].endswith(".")


@pytest.mark.parametrize("name", ["as claimed", "on a cpu", "two seeds"])
def test_the_evidence_of_a_verdict_selects_the_rows_it_rests_on(name):
    _, tables, benchmark = case(name)
    for entry in verdicts(name).values():
        rows = getattr(tables, entry["evidence"]["table"]).query(entry["evidence"]["rows"])
        assert set(rows["seed"]) == set(benchmark.seeds)
        assert entry["arm"] in set(rows["arm"])
