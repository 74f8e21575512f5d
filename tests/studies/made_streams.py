"""Small tables of the study of the streamed update with known numbers."""

import numpy as np
import pandas as pd

from groupppo.studies.names import ENDPOINTS, GATHERED, SHARE, WINDOW
from groupppo.studies.stream_curves import pareto

CASES = [(checkpoint, arm, arm.title()) for checkpoint in ("start", "trained") for arm in ("split", "stride")]
_CASE = ["checkpoint", "arm", "title"]
# Speed-up and cosine: the share is beaten by the window.
_WAYS = {
    (ENDPOINTS, 0.0): (8.0, 0.5),
    (WINDOW, 4.0): (4.0, 0.8),
    (SHARE, 0.25): (3.0, 0.6),
    (GATHERED, 0.0): (2.0, 1.0),
}


def made_stream_tables() -> dict[str, pd.DataFrame]:
    """All tables by name: two checkpoints, two arms, three ways of streaming and the exact update."""
    return {
        "stream_groups": _spread(
            [
                (*case, group, cosine, 0.7)
                for case in CASES
                for group, cosine in (("all", 0.5), ("keys and values", 0.3), ("mlp", 0.75))
            ],
            [*_CASE, "group", "cosine", "norm_ratio"],
            ("cosine", "norm_ratio"),
        ),
        "stream_costs": _costs(),
        "stream_progress": _progress(),
        "stream_staleness": _spread(
            [
                (*case, steps, kv, 0.5 - (0.1 * steps if kv == "reuse" else 0.0), 0.9, 0.01 * steps, 0.04 * steps)
                for case in CASES[2:]
                for steps in (0, 1, 2)
                for kv in ("recompute", "reuse")
            ],
            [*_CASE, "steps", "kv", "cosine", "norm_ratio", "log_prob_error", "moved"],
            ("cosine", "norm_ratio", "log_prob_error", "moved"),
        ).assign(log_prob_error_max=0.5),
    }


def _costs() -> pd.DataFrame:
    rows = [(*case, *way, *measured, 0.9) for case in CASES for way, measured in _WAYS.items()]
    table = _spread(rows, [*_CASE, "kind", "size", "speedup", "cosine", "norm_ratio"], ("cosine", "norm_ratio"))
    table = table.assign(density=0.125, live=0.2, speedup_recompute=table["speedup"] / 2)
    exact = table["kind"] == GATHERED
    table["expected_cosine"] = (table["cosine"] + 0.1).where(~exact, 1.0)
    table["expected_cosine_low"] = (table["cosine"] - 0.1).mask(exact)
    table["expected_cosine_high"] = np.minimum(table["cosine"] + 0.3, 1.0).mask(exact)
    return table.assign(pareto=pd.concat([pareto(own) for _, own in table.groupby(_CASE, sort=False)]))


def _progress() -> pd.DataFrame:
    rows = [
        (*case, *way, share, cosine / (1 - share + share / speedup))
        for case in CASES
        for share in (1.0, 0.5)
        for way, (speedup, cosine) in _WAYS.items()
    ]
    table = _spread(rows, [*_CASE, "kind", "size", "update_share", "progress"], ("progress",))
    largest = table.groupby([*_CASE, "update_share"])["progress"].transform("max")
    return table.assign(best=table["progress"] == largest)


def _spread(rows: list[tuple], columns: list[str], names: tuple[str, ...]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=columns)
    for name in names:
        table[f"{name}_low"], table[f"{name}_high"] = table[name] - 0.05, table[name] + 0.05
    return table.assign(batches=6)
