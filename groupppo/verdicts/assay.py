"""Whether runs may decide a claim at all: admissible, matched, on a device the claim accepts, and able to learn."""

import math
from collections.abc import Collection

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from groupppo.config import CellPlan
from groupppo.records.folders import START
from groupppo.tables import Tables
from groupppo.tables.schema import MISSING
from groupppo.verdicts.claims import Claim
from groupppo.verdicts.rules import EVIDENCE_OF_DEVICE


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
        start_stderr: standard error over prompts of the start's accuracy.
        run_stderrs: the same of each seed's accuracy.
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
