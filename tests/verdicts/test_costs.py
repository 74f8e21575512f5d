"""Claims about the cost of one update: every verdict that a profile can give, it gives."""

from dataclasses import replace

import pandas as pd
import pytest

from groupppo.config import REPOSITORY
from groupppo.config.forms import Region
from groupppo.tables import collect, load_tables
from groupppo.verdicts.claims import load_claims
from groupppo.verdicts.engine import decide
from groupppo.verdicts.quantities import COSTS
from groupppo.verdicts.rules import Finding, judge_cost
from tests.synthetic import write_results

S, R, I, T, ELSEWHERE = "supported", "refuted", "inconclusive", "not testable", "not measurable here"  # noqa: E741
SIXTEEN, QUARTER = Region(low=12.8), Region(high=0.30)


def profile(device: str = "cuda", status: str = "measured", **numbers: float) -> pd.DataFrame:
    """One row of the table `variants` that the sample is about, and one that it is not."""
    counted = {"flops_speedup": 1.36, "logits_ratio": 1.0, "memory_ratio": 0.2, "memory_ratio_to_fused": 0.5}
    seconds = {"seconds_speedup": 16.0, "seconds_speedup_low": 15.0, "seconds_speedup_high": 17.0}
    fused = {"to_fused": 1.2, "to_fused_low": 1.1, "to_fused_high": 1.3}
    row = {"setting": "r1024", "variant": "gathered", "title": "gathered", "device": device, "status": status}
    row |= {"reason": "", "rounds": 5.0} | counted | seconds | fused | numbers
    other = row | {"variant": "dense", "flops_speedup": 100.0, "memory_ratio": 0.01, "seconds_speedup_low": 99.0}
    return pd.DataFrame([other, row])


def judged(
    quantity: str, region: Region, variants: pd.DataFrame | None, accepted: tuple[str, ...] = ("gpu",)
) -> Finding:
    claims = {claim.id: claim for claim in load_claims(REPOSITORY / "benchmarks" / "claims" / "group_ppo.yaml").claims}
    about = {"setting": "r1024", "variant": "gathered", "claimed": region, "margin": 0.0, "evidence": accepted}
    return judge_cost(replace(claims["speedup-update-exact"], quantity=quantity, **about), COSTS[quantity], variants)


def verdict(quantity: str, region: Region, variants: pd.DataFrame | None, accepted: tuple[str, ...] = ("gpu",)) -> str:
    return judged(quantity, region, variants, accepted).verdict


@pytest.mark.parametrize(
    ("quantity", "region", "numbers", "expected"),
    [
        ("update_flops_speedup", SIXTEEN, {}, R),
        ("update_flops_speedup", SIXTEEN, {"flops_speedup": 18.0}, S),
        ("update_flops_speedup", SIXTEEN, {"flops_speedup": 12.8}, I),
        ("update_logits_ratio", QUARTER, {}, R),
        ("update_logits_ratio", QUARTER, {"logits_ratio": 1 / 16}, S),
        ("update_memory_ratio", QUARTER, {}, S),
        ("update_memory_ratio_to_fused", QUARTER, {}, R),
        ("update_seconds_speedup", SIXTEEN, {}, S),
        ("update_seconds_speedup", SIXTEEN, {"seconds_speedup_low": 12.0}, I),
        ("update_seconds_speedup", SIXTEEN, {"seconds_speedup_low": 9.0, "seconds_speedup_high": 12.0}, R),
        ("update_seconds_speedup_to_fused", SIXTEEN, {}, R),
    ],
)
def test_a_number_or_its_whole_interval_must_lie_inside(quantity, region, numbers, expected):
    assert verdict(quantity, region, profile(**numbers)) == expected


@pytest.mark.parametrize("quantity", COSTS)
def test_a_cpu_decides_what_is_counted_and_no_claim_on_a_gpu(quantity):
    region = Region(high=1000.0)
    counted = COSTS[quantity].counted
    assert verdict(quantity, region, profile(device="cpu")) == (S if counted else ELSEWHERE)
    assert verdict(quantity, region, profile(device="cpu"), ("cpu", "gpu")) == S
    assert verdict(quantity, region, profile(device="cuda")) == S


@pytest.mark.parametrize("quantity", COSTS)
def test_what_was_not_measured_supports_nothing(quantity):
    region = Region(high=1000.0)
    column = COSTS[quantity].column
    assert verdict(quantity, region, None) == T
    assert not judged(quantity, region, None).asked
    assert judged(quantity, region, profile().head(1)).asked
    assert verdict(quantity, region, profile().head(1)) == T
    assert verdict(quantity, region, profile(status="not run")) == T
    assert verdict(quantity, region, profile(**{column: float("nan")})) == T
    assert verdict(quantity, region, profile()) == S


def test_the_reason_names_number_interval_and_rounds():
    finding = judged("update_seconds_speedup", SIXTEEN, profile())
    assert "16x [15, 17] over 5 rounds lies inside the region (at least 12.8)" in finding.reason
    assert (finding.estimate, finding.low, finding.high, finding.replicates) == (16.0, 15.0, 17.0, "5 rounds")
    counted = judged("update_flops_speedup", SIXTEEN, profile())
    assert (counted.estimate, counted.low, counted.replicates) == (1.36, None, "counted")


def test_a_benchmark_gets_one_verdict_for_each_cost_however_many_tasks_it_has(tmp_path):
    benchmark = write_results(tmp_path, seeds=(1, 2), steps=2, tasks=("sorting", "chain"))
    collect(tmp_path, benchmark)
    claims, tables = load_claims(benchmark.claims), load_tables(tmp_path / "tables")
    of_costs = [claim.id for claim in claims.claims if claim.quantity in COSTS]
    assert len(of_costs) == 9
    without = [entry for entry in decide(claims, tables, benchmark)["verdicts"] if entry["id"] in of_costs]
    assert [(entry["id"], entry["verdict"], entry["task"]) for entry in without] == [(name, T, "") for name in of_costs]
    entries = decide(claims, tables, benchmark, profile(device="cpu"))["verdicts"]
    found = {entry["id"]: entry for entry in entries}
    assert found["speedup-update-exact"]["verdict"] == R
    assert found["speedup-update-exact"]["evidence"] == {
        "table": "variants",
        "file": "profile/tables/variants.parquet",
        "rows": "setting == 'r1024' and variant == 'gathered'",
    }
    assert found["memory-logits"]["verdict"] == T  # the variant masked is not in this profile
