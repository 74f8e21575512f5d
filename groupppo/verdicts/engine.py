"""Verdicts on claims: `decide(load_claims(benchmark.claims), load_tables(folder), benchmark)`.

For every claim and every cell (task, model) that is run with its arms the first of these that holds is the verdict; a
claim whose arms no cell is run with has one for every cell that is run at all, or none (`left_out`):

1. `identity`: the claim's rule says that arithmetic alone makes it true.
2. `not testable`: no cell is run with the arms of the claim.
3. `not measurable here`: every run was made on a kind of device whose evidence the claim does not accept.
4. `not testable`: a planned run of the claim's arms is inadmissible, or the runs are not matched.
5. `not testable`: the claim needs learning, and the reference did not beat its own start; or the claim says that two
   arms beside the reference are alike, and neither was told apart from the start.
6. `supported`, `refuted` or `inconclusive`, as `rules.judge` decides.

A claim about the cost of one update has no cells: `rules.judge_cost` holds the profile's number against its region.
One that a study answers has a verdict for each cell, from that cell's table (`rules.judge_share`). Where accuracies
are compared and there is an interval, `item_share` says how much of it is noise of the held-out items.
"""

import json
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from groupppo.config import Benchmark, CellPlan
from groupppo.records.folders import START
from groupppo.records.where import Where, where_of
from groupppo.stats.intervals import paired_t
from groupppo.studies.shared.study import find_study
from groupppo.tables import Only, Tables
from groupppo.tables.schema import MISSING
from groupppo.verdicts.claims import EQUIVALENCE, REFERENCE, Claim, Claims
from groupppo.verdicts.item_scores import ItemScores
from groupppo.verdicts.item_share import ItemShare, item_share
from groupppo.verdicts.quantities import QUANTITIES, Cost, Quantity, Sample, Share
from groupppo.verdicts.rules import (
    EVIDENCE_OF_DEVICE,
    IDENTITY,
    NOT_MEASURABLE,
    NOT_TESTABLE,
    Finding,
    judge,
    judge_cost,
    judge_share,
    shown,
    summarise,
)

NEEDED = {name: Only() for name in ("runs", "evals", "stages", "groups")} | {
    "steps": Only(where={"metric": sorted({name for quantity in QUANTITIES.values() for name in quantity.metrics})})
}
"""What `load_tables` has to read for `decide`."""
_OF_NO_CELL = CellPlan("", "", (), ())
_OF_CLAIM = ("claim", "source", "reading", "arm", "quantity", "comparison", "margin")
_OF_FINDING = ("verdict", "asked", "estimate", "low", "high", "seeds", "seeds_needed", "replicates", "reason")


@dataclass(frozen=True)
class Studied:
    """What verdicts rest on beside the tidy tables.

    Args:
        tables: of studies, by table, task and model.
        scores: of checkpoints by item; None where no results folder is at hand.
    """

    tables: Mapping[tuple[str, str, str], pd.DataFrame] = field(default_factory=dict)
    scores: ItemScores | None = None


def read_studied(results: Path, benchmark: Benchmark, claims: Claims) -> Studied:
    """Of the studies that the benchmark asks for, the tables that a claim is about; scores are read when asked for.

    Raises:
        BadInput: such a table is missing, is not CSV or has other columns.
    """
    wanted = [claim.about for claim in claims.claims if isinstance(claim.about, Share)]
    shares = [share for share in wanted if share.study in benchmark.studies]
    tables = {
        (share.table, plan.task, plan.model): find_study(share.study).read_table(
            (results / share.file(plan.task, plan.model)).parent, share.table
        )
        for share in shares
        for plan in benchmark.plans()
    }
    return Studied(tables, ItemScores(results))


@dataclass(frozen=True)
class _Case:
    """A claim about training runs, with all that it is decided from."""

    claim: Claim
    claims: Claims
    tables: Tables
    benchmark: Benchmark
    scores: ItemScores | None

    @property
    def arms(self) -> list[str]:
        """The arm that the claim is about, and the one it is compared with."""
        compared = self.claim.compared(self.benchmark.reference)
        return [self.claim.arm] if compared is None else [self.claim.arm, compared]

    def entries(self) -> Iterator[dict[str, Any]]:
        """Of every cell that is run with the claim's arms; of every cell where none is."""
        plans = self.benchmark.plans()
        cells = [cell for cell in plans if set(self.arms) <= set(cell.arms)] or plans
        barred = {cell: self._barrier(cell) for cell in cells}
        open_cells = [cell for cell in cells if barred[cell] is None]
        measured = [self._values(cell) for cell in open_cells]
        judged = iter(judge(self.claim, self.claims, measured, [len(cell.seeds) for cell in open_cells]))
        table = self.claim.measured.table
        for cell, barrier in barred.items():
            finding = barrier or next(judged)
            evidence = {"table": table, "file": f"tables/{table}.parquet", "rows": self._sample(cell).query()}
            yield _entry(self.claim, cell, finding, evidence, self._item_noise(cell, finding))

    def _sample(self, cell: CellPlan) -> Sample:
        return self.claim.sample(cell.task, cell.model, self.benchmark.reference)

    def _values(self, cell: CellPlan) -> dict[int, float]:
        """The measured value of every seed of a cell that has one."""
        return self.claim.measured.values(self.tables, self._sample(cell), cell.seeds)

    def _barrier(self, cell: CellPlan) -> Finding | None:
        """The finding that keeps this claim from being judged by its interval, or None."""
        claim, arms = self.claim, self.arms
        runs = planned_runs(self.tables.runs, cell, arms)
        evidence = self._values(cell) if why_inadmissible(runs, arms, cell.seeds) is None else {}
        # For a reader; numbers take no part in these verdicts.
        seen = summarise(claim, self.claims.level, evidence)
        if claim.measured.identity:
            numbers = {key: getattr(seen, key) for key in ("estimate", "low", "high", "seeds")} if seen else {}
            return Finding(IDENTITY, f"True by arithmetic: {claim.measured.identity}.", **numbers)
        if not set(arms) <= set(cell.arms):
            absent = [arm for arm in arms if arm not in self.benchmark.arms]
            together = f"No task and model of this benchmark is run with {' and '.join(arms)}."
            reason = f"The arm {absent[0]} is not in this benchmark." if absent else together
            return Finding(NOT_TESTABLE, reason, asked=False)
        devices = unaccepted_devices(claim, runs)
        if devices:
            kinds, accepted = " and ".join(devices).upper(), " or ".join(claim.evidence).upper()
            aside = (
                f" The runs here gave {shown(seen)} {claim.measured.unit}, which does not decide it." if seen else ""
            )
            reason = f"The claim takes evidence from a {accepted}; all runs used a {kinds}.{aside}"
            return Finding(NOT_MEASURABLE, reason)
        untestable = self._why_untestable(cell)
        return Finding(NOT_TESTABLE, untestable) if untestable else None

    def _why_untestable(self, cell: CellPlan) -> str | None:
        """Why a cell's runs cannot decide the claim; None where they can."""
        claim, metric, level = self.claim, self.claims.learning_metric, self.claims.level
        arms = list(dict.fromkeys([*self.arms, *([self.benchmark.reference] if claim.needs_learning else [])]))
        reason = why_inadmissible(planned_runs(self.tables.runs, cell, arms), arms, cell.seeds)
        if reason is None and claim.needs_learning:
            reason = why_insensitive(self.tables, cell, self.benchmark.reference, metric, level)
            if reason is None and claim.rule == EQUIVALENCE and claim.against != REFERENCE:
                reason = why_alike_for_nothing(self.tables, cell, self.arms, metric, level)
        return reason

    def _item_noise(self, cell: CellPlan, finding: Finding) -> ItemShare | None:
        """Item noise in the interval of an accuracy comparison; None for others, and where there is no interval."""
        if self.claim.measured.table != "evals" or finding.low is None:
            return None
        sample = self._sample(cell)
        rows = sample.select(self.tables.cell("evals", cell.task, cell.model))
        interval = paired_t(list(self._values(cell).values()), self.claims.level)
        return item_share(rows[rows["seed"].isin(cell.seeds)], sample, interval, self.scores)


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
        claims: to decide.
        tables: the tidy tables, at least what is `NEEDED`.
        benchmark: whose runs they are.
        variants: the table of that name of the benchmark's profile; None where it names none.
        studied: tables of the studies that the benchmark asks for, as far as claims are about them, and scores by item.
    """
    studied, verdicts, absent = studied or Studied(), list[dict[str, Any]](), left_out(claims, benchmark)
    for claim in claims.claims:
        if isinstance(claim.about, Cost):
            verdicts.append(_cost_entry(claim, claim.about, variants))
        elif isinstance(claim.about, Share):
            verdicts += [_share_entry(claim, claim.about, cell, studied) for cell in benchmark.plans()]
        elif claim not in absent:
            verdicts += _Case(claim, claims, tables, benchmark, studied.scores).entries()
    excluded = tables.runs[~tables.runs["admissible"]]
    return {
        "benchmark": benchmark.name,
        "claims_sha256": claims.sha256,
        "level": claims.level,
        "verdicts": verdicts,
        "excluded": [
            # A folder among the runs whose name tells no seed has none.
            {"task": run.task, "model": run.model, "arm": run.arm, "seed": None if pd.isna(run.seed) else int(run.seed)}
            | {"reason": run.reason}
            for run in excluded.itertuples()
        ],
    }


def left_out(claims: Claims, benchmark: Benchmark) -> list[Claim]:
    """Claims about runs of an arm that the benchmark does not have, of files that hold a method's claims for any
    benchmark. A file of the benchmark's own has a verdict on each of its claims."""
    if isinstance(benchmark.claims, Path):
        return []
    return [
        claim
        for claim in claims.claims
        if isinstance(claim.about, Quantity)
        and not {claim.arm, claim.compared(benchmark.reference) or claim.arm} <= set(benchmark.arms)
    ]


def verdicts_text(judged: dict[str, Any]) -> str:
    """The content of verdicts.json as it is written."""
    return json.dumps(judged, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _cost_entry(claim: Claim, cost: Cost, variants: pd.DataFrame | None) -> dict[str, Any]:
    evidence = {"table": "variants", "file": "", "rows": claim.variant_rows}
    where: Where | None = None
    if variants is not None:
        rows = variants.query(claim.variant_rows, engine="python")
        evidence["file"], where = "profile/tables/variants.parquet", where_of(variants if rows.empty else rows)
    return _entry(claim, _OF_NO_CELL, judge_cost(claim, cost, variants), evidence, where=where)


def _share_entry(claim: Claim, share: Share, cell: CellPlan, studied: Studied) -> dict[str, Any]:
    table = studied.tables.get((share.table, cell.task, cell.model))
    file = "" if table is None else share.file(cell.task, cell.model)
    evidence = {"table": share.table, "file": file, "rows": share.rows}
    return _entry(claim, cell, judge_share(share, claim.region, table), evidence)


def _entry(
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
        **{key: getattr(claim, key) for key in _OF_CLAIM},
        "unit": claim.about.unit,
        **{key: getattr(finding, key) for key in _OF_FINDING},
        "what_would_change": claim.what_would_change,
        "item_noise": asdict(noise) if noise else None,
        "evidence": evidence,
        "elsewhere": None if where is None or where.here else asdict(where),
        "figure": claim.figure,
    }


def planned_runs(runs: pd.DataFrame, cell: CellPlan, arms: Collection[str]) -> pd.DataFrame:
    """Rows of `runs` of one cell and these arms, indexed by (arm, seed)."""
    rows = runs[(runs["task"] == cell.task) & (runs["model"] == cell.model) & runs["arm"].isin(list(arms))]
    return rows.dropna(subset="seed").set_index(["arm", "seed"])


def unaccepted_devices(claim: Claim, runs: pd.DataFrame) -> list[str]:
    """The kinds of device ("cpu", "gpu") that the runs used, when the claim accepts none of them; else empty."""
    kinds = sorted({EVIDENCE_OF_DEVICE[device] for device in runs["device"].dropna()})
    return kinds if kinds and not set(kinds) & set(claim.evidence) else []


def why_inadmissible(runs: pd.DataFrame, arms: Collection[str], seeds: Collection[int]) -> str | None:
    """Why these runs are no evidence, or None when every planned one is admissible and all are matched.

    One inadmissible run spoils the comparison: the seeds that are left are not a sample of those that were planned.
    """
    wanted = [(arm, seed) for arm in arms for seed in seeds]
    used = runs.reindex(wanted)
    reasons = [
        f"{arm} seed {seed}: {'no run' if pd.isna(row.status) else row.reason}"
        for (arm, seed), row in zip(wanted, used.itertuples(), strict=True)
        if pd.isna(row.status) or not row.admissible
    ]
    if reasons and set(runs["status"]) == {MISSING}:
        return f"None of the {len(reasons)} runs that it is about is there."
    if reasons:
        more = f" (and {len(reasons) - 3} more)" if len(reasons) > 3 else ""
        return f"Runs that are no evidence: {', '.join(reasons[:3])}{more}."
    for column, name in (("device", "devices"), ("rollout", "rollout servers")):
        kinds = sorted(set(used[column]))
        if len(kinds) > 1:
            return f"The runs are not matched: they used the {name} {' and '.join(kinds)}."
    return None


def learning_gain(gains: ArrayLike, start_stderr: float, run_stderrs: ArrayLike, level: float) -> tuple[float, float]:
    """Mean gain of an arm over its own start, and the lower end of its interval.

    gain_k = accuracy after training with seed k - accuracy of the start, on the same n prompts. Two kinds of noise add
    in quadrature below the mean of K gains:

    - seeds: t_{(1+level)/2, K-1} s / sqrt(K), with s the sample standard deviation of the gains (none for K = 1);
    - items: z_{(1+level)/2} sqrt(se_start^2 + mean_k se_k^2), the standard errors over prompts. All seeds answer the
      same prompts, so more seeds do not average it away; and with few seeds s alone may be small by luck. Start and
      run are treated as independent, which overstates it and so errs towards "no sensitivity".

    Args:
        gains: one per seed, at least 1.
        start_stderr: standard error over prompts of the start's accuracy; `run_stderrs` of each seed's.
        level: confidence of the two-sided interval.
    """
    values, errors = np.asarray(gains, dtype=float), np.asarray(run_stderrs, dtype=float)
    over_seeds = 0.0
    if len(values) > 1:
        over_seeds = stats.t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    over_items = stats.norm.ppf((1 + level) / 2) * math.sqrt(start_stderr**2 + float(np.mean(errors**2)))
    return float(values.mean()), float(values.mean() - math.hypot(over_seeds, over_items))


def why_insensitive(tables: Tables, cell: CellPlan, arm: str, metric: str, level: float) -> str | None:
    """Why the cell cannot tell arms apart: the lower end of its reference's `learning_gain` is not above zero."""
    gain = _gain(tables, cell, arm, metric, level)
    if gain is None:
        return f"Nothing shows that {arm} learned: a held-out {metric} of it or of its start is missing."
    before, mean, low = gain
    if low > 0:
        return None
    return (
        f"{arm} did not beat its own start ({metric} {before:.3f}): its gain is {mean:+.3f}, "
        f"lower end {low:+.3f}. Runs that did not learn cannot tell arms apart."
    )


def why_alike_for_nothing(
    tables: Tables, cell: CellPlan, arms: Collection[str], metric: str, level: float
) -> str | None:
    """Why two arms that are alike show nothing: neither is told apart from the start, either way. None when one is.

    An arm whose learning rate leaves it where it began is like any other such arm, whatever sets the two apart.
    """
    gains = []
    for arm in arms:
        gain = _gain(tables, cell, arm, metric, level)
        if gain is None:
            return f"Nothing shows that {arm} changed: a held-out {metric} of it or of its start is missing."
        before, mean, low = gain
        if abs(mean) > mean - low:
            return None
        gains.append(f"{arm} {mean:+.3f} ± {mean - low:.3f}")
    return (
        f"Neither arm left its start ({metric} {before:.3f}): {', '.join(gains)}. Arms that stay put are alike anyway."
    )


def _gain(tables: Tables, cell: CellPlan, arm: str, metric: str, level: float) -> tuple[float, float, float] | None:
    """Metric of the start, `learning_gain` of an arm over it and the lower end; None where a score is missing."""
    rows = tables.cell("evals", cell.task, cell.model)
    rows = rows[rows["metric"] == metric]
    start, runs = rows[rows["arm"] == START], rows[rows["arm"] == arm].dropna(subset="seed").set_index("seed")
    if len(start) != 1 or not set(cell.seeds) <= set(runs.index):
        return None
    before, trained = start.iloc[0], runs.loc[list(cell.seeds)]
    gains = trained["value"] - before["value"]
    return before["value"], *learning_gain(gains, before["stderr"], trained["stderr"], level)
