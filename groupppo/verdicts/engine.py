"""Verdicts on claims: `decide(load_claims(benchmark.claims), load_tables(folder), benchmark)`.

For every claim and every cell (task, model) that is run with its arms the first of these that holds is the verdict; a
claim whose arms no cell is run with has one for every cell that is run at all:

1. `identity`: the claim's rule says that arithmetic alone makes it true.
2. `not testable`: no cell is run with the arms of the claim.
3. `not measurable here`: every run was made on a kind of device whose evidence the claim does not accept.
4. `not testable`: a planned run of the claim's arms is inadmissible, or the runs are not matched.
5. `not testable`: the claim needs learning, and the reference did not beat its own start; or the claim says that two
   arms beside the reference are alike, and neither was told apart from the start.
6. `supported`, `refuted` or `inconclusive`, as `rules.judge` finds.

A claim about the cost of one update has no cells: `costs.judge_cost` holds the profile's number against its region.
One that a study answers has a verdict for each cell, from that cell's table (`shares.judge_share`). Where accuracies
are compared and there is an interval, `item_share` says how much of it is noise of the held-out items.
"""

import json
from dataclasses import asdict, replace
from typing import Any

import pandas as pd

from groupppo.config import Benchmark, CellPlan
from groupppo.records.where import Where
from groupppo.stats.intervals import paired_t
from groupppo.tables import Tables
from groupppo.verdicts.assay import (
    planned_runs,
    unaccepted_devices,
    why_alike_for_nothing,
    why_inadmissible,
    why_insensitive,
)
from groupppo.verdicts.claims import EQUIVALENCE, REFERENCE, Claim, Claims
from groupppo.verdicts.costs import judge_cost, measured_where
from groupppo.verdicts.finding import IDENTITY, NOT_MEASURABLE, NOT_TESTABLE, Finding
from groupppo.verdicts.item_share import ItemShare, item_share
from groupppo.verdicts.rules import judge, shown, summarise
from groupppo.verdicts.shares import Share, judge_share
from groupppo.verdicts.studied import Studied


def decide(
    claims: Claims,
    tables: Tables,
    benchmark: Benchmark,
    variants: pd.DataFrame | None = None,
    studied: Studied | None = None,
) -> dict[str, Any]:
    """The content of verdicts.json, ready for `json.dumps(..., allow_nan=False)`.

    One entry per claim and cell (task, model), in the claims' order; `task` and `model` tell the cells apart, and are
    empty for a claim about the cost of one update. `elsewhere` is a `Where` as an object if the evidence was measured
    outside of these results, else null. `excluded` lists every inadmissible run with its reason.

    Args:
        variants: the table of that name of the benchmark's profile; None where it names none.
        studied: tables of the studies that the benchmark asks for, as far as claims are about them, and scores by item.
    """
    studied = studied or Studied()
    plans = benchmark.plans()
    verdicts = []
    for claim in claims.claims:
        if claim.cost is not None:
            finding = judge_cost(claim.cost, claim.cost_sample, claim.region, claim.evidence, variants)
            verdicts.append(_cost_entry(claim, finding, variants))
            continue
        if claim.share is not None:
            verdicts += [_share_entry(claim, claim.share, cell, studied) for cell in plans]
            continue
        arms = _arms(claim, benchmark)
        cells = [cell for cell in plans if set(arms) <= set(cell.arms)] or plans
        found = _examine(claim, claims, tables, benchmark, cells)
        verdicts += [_entry(claim, claims.level, cell, found[cell], tables, benchmark, studied) for cell in cells]
    excluded = tables.runs[~tables.runs["admissible"]]
    return {
        "benchmark": benchmark.name,
        "claims_sha256": claims.sha256,
        "level": claims.level,
        "verdicts": verdicts,
        "excluded": [
            {"task": run.task, "model": run.model, "arm": run.arm, "seed": _seed(run.seed), "reason": run.reason}
            for run in excluded.itertuples()
        ],
    }


def verdicts_text(judged: dict[str, Any]) -> str:
    """The content of verdicts.json as it is written."""
    return json.dumps(judged, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _seed(value: Any) -> int | None:
    """None for a folder among the runs whose name tells no seed."""
    return None if pd.isna(value) else int(value)


def _examine(
    claim: Claim, claims: Claims, tables: Tables, benchmark: Benchmark, cells: list[CellPlan]
) -> dict[CellPlan, Finding]:
    barred = {cell: _barrier(claim, claims, tables, benchmark, cell) for cell in cells}
    open_cells = [cell for cell in cells if barred[cell] is None]
    measured = [_values(claim, tables, benchmark, cell) for cell in open_cells]
    judged = judge(claim, claims, measured, [len(cell.seeds) for cell in open_cells]) if open_cells else []
    return {cell: finding for cell, finding in barred.items() if finding} | dict(zip(open_cells, judged, strict=True))


def _arms(claim: Claim, benchmark: Benchmark) -> list[str]:
    """The arm that the claim is about, and the one it is compared with."""
    compared = claim.compared(benchmark.reference)
    return [claim.arm] if compared is None else [claim.arm, compared]


def _why_absent(arms: list[str], benchmark: Benchmark, cell: CellPlan) -> str | None:
    """Why no cell is run with these arms; None where this one is."""
    if set(arms) <= set(cell.arms):
        return None
    absent = [arm for arm in arms if arm not in benchmark.arms]
    if absent:
        return f"The arm {absent[0]} is not in this benchmark."
    return f"No task and model of this benchmark is run with {' and '.join(arms)}."


def _barrier(claim: Claim, claims: Claims, tables: Tables, benchmark: Benchmark, cell: CellPlan) -> Finding | None:
    """The finding that keeps this claim from being judged by its interval, or None."""
    arms = _arms(claim, benchmark)
    absent = _why_absent(arms, benchmark, cell)
    runs = planned_runs(tables.runs, cell.task, cell.model, arms)
    evidence = why_inadmissible(runs, arms, cell.seeds) is None
    if claim.measured.identity:
        finding = Finding(IDENTITY, f"True by arithmetic: {claim.measured.identity}.")
        return _with_numbers(finding, claim, claims, tables, benchmark, cell, evidence)
    if absent:
        return Finding(NOT_TESTABLE, absent, asked=False)
    devices = unaccepted_devices(claim, runs)
    if devices:
        kinds, accepted = " and ".join(devices).upper(), " or ".join(claim.evidence).upper()
        seen = summarise(claim, claims.level, _values(claim, tables, benchmark, cell)) if evidence else None
        aside = f" The runs here gave {shown(seen)} {claim.measured.unit}, which does not decide it." if seen else ""
        return Finding(NOT_MEASURABLE, f"The claim takes evidence from a {accepted}; all runs used a {kinds}.{aside}")
    if claim.needs_learning:
        arms = list(dict.fromkeys([*arms, benchmark.reference]))
        runs = planned_runs(tables.runs, cell.task, cell.model, arms)
    reason = why_inadmissible(runs, arms, cell.seeds)
    if reason is None and claim.needs_learning:
        metric = claims.learning_metric
        reason = why_insensitive(tables, benchmark, cell.task, cell.model, metric, claims.level)
        if reason is None and claim.rule == EQUIVALENCE and claim.against != REFERENCE:
            compared = _arms(claim, benchmark)
            reason = why_alike_for_nothing(tables, benchmark, cell.task, cell.model, compared, metric, claims.level)
    return Finding(NOT_TESTABLE, reason) if reason else None


def _values(claim: Claim, tables: Tables, benchmark: Benchmark, cell: CellPlan) -> dict[int, float]:
    sample = claim.sample(cell.task, cell.model, benchmark.reference)
    return claim.measured.values(tables, sample, cell.seeds)


def _with_numbers(
    finding: Finding, claim: Claim, claims: Claims, tables: Tables, benchmark: Benchmark, cell: CellPlan, evidence: bool
) -> Finding:
    """The finding with estimate and interval, for a reader; they take no part in the verdict."""
    values = _values(claim, tables, benchmark, cell) if evidence else {}
    interval = summarise(claim, claims.level, values)
    if interval is None:
        return finding
    return replace(finding, estimate=interval.estimate, low=interval.low, high=interval.high, seeds=interval.seeds)


def _entry(
    claim: Claim, level: float, cell: CellPlan, finding: Finding, tables: Tables, benchmark: Benchmark, studied: Studied
) -> dict[str, Any]:
    rows = claim.sample(cell.task, cell.model, benchmark.reference).query()
    evidence = {"table": claim.measured.table, "file": f"tables/{claim.measured.table}.parquet", "rows": rows}
    noise = _items(claim, level, cell, finding, tables, benchmark, studied) if claim.measured.table == "evals" else None
    return _told(claim, cell, finding, evidence, noise)


def _items(
    claim: Claim, level: float, cell: CellPlan, finding: Finding, tables: Tables, benchmark: Benchmark, studied: Studied
) -> ItemShare | None:
    """Item noise in the interval of an accuracy comparison; None where the finding has no interval."""
    if finding.low is None:
        return None
    sample = claim.sample(cell.task, cell.model, benchmark.reference)
    rows = sample.select(tables.cell("evals", cell.task, cell.model))
    interval = paired_t(list(_values(claim, tables, benchmark, cell).values()), level)
    return item_share(rows[rows["seed"].isin(cell.seeds)], sample, interval, studied.scores)


def _cost_entry(claim: Claim, finding: Finding, variants: pd.DataFrame | None) -> dict[str, Any]:
    file = "" if variants is None else "profile/tables/variants.parquet"
    evidence = {"table": "variants", "file": file, "rows": claim.cost_sample.query()}
    where = None if variants is None else measured_where(claim.cost_sample, variants)
    return _told(claim, CellPlan("", "", (), ()), finding, evidence, where=where)


def _share_entry(claim: Claim, share: Share, cell: CellPlan, studied: Studied) -> dict[str, Any]:
    table = studied.tables.get((share.table, cell.task, cell.model))
    file = "" if table is None else share.file(cell.task, cell.model)
    evidence = {"table": share.table, "file": file, "rows": share.rows}
    return _told(claim, cell, judge_share(share, claim.region, table), evidence)


def _told(
    claim: Claim,
    cell: CellPlan,
    finding: Finding,
    evidence: dict[str, str],
    noise: ItemShare | None = None,
    where: Where | None = None,
) -> dict[str, Any]:
    return {
        "id": claim.id,
        "task": cell.task,
        "model": cell.model,
        "claim": claim.claim,
        "source": claim.source,
        "reading": claim.reading,
        "arm": claim.arm,
        "quantity": claim.quantity,
        "comparison": claim.comparison,
        "margin": claim.margin,
        "unit": claim.unit,
        "verdict": finding.verdict,
        "asked": finding.asked,
        "estimate": finding.estimate,
        "low": finding.low,
        "high": finding.high,
        "seeds": finding.seeds,
        "seeds_needed": finding.seeds_needed,
        "replicates": finding.replicates,
        "reason": finding.reason,
        "what_would_change": claim.what_would_change,
        "item_noise": asdict(noise) if noise else None,
        "evidence": evidence,
        "elsewhere": None if where is None or where.here else asdict(where),
        "figure": claim.figure,
    }
