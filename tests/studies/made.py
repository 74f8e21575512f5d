"""Small tables of the studies with known numbers, for everything that draws and shows them."""

import numpy as np
import pandas as pd

from groupppo.studies.faults import NO_FAULT, points_of
from groupppo.studies.shared.study import DENSE, DENSE_OTHER, ENDPOINTS, GATHERED, SHARE, WINDOW

_SPREAD = ("cosine", "norm_ratio", "expected_cosine", "relative_variance")


def made_tables() -> dict[str, pd.DataFrame]:
    """All tables by name: three scores, two precisions, three arms, six batches."""
    return {
        "density": _density(),
        "agreement": _agreement(),
        "cosines": pd.DataFrame(
            [{"statistic": name, "value": value, "low": 0.01, "high": 0.3} for name, value in _COSINES.items()]
        ).assign(responses=12),
        "direction_summary": _summary(),
    }


_COSINES = {"mean": 0.02, "mean_abs": 0.12}


def _density() -> pd.DataFrame:
    rows = []
    for rollout in ("float32", "bfloat16"):
        for score in ("unit", "log_ratio"):
            for tau, density in ((0.1, 0.8), (1.0, 0.3), (10.0, 0.1)):
                flat = 0.1 if (score, rollout) == ("log_ratio", "float32") else density
                rows.append((rollout, "variance_split", score, tau, tau == 1.0, flat, 0.6, 0.3, 0.1))
        rows.append((rollout, "published", "", np.nan, True, 0.02 if rollout == "float32" else 0.15, 0.5, 0.0, 0.5))
        rows.append((rollout, "stride", "", np.nan, True, 0.07, 0.0, 0.8, 0.2))
        rows += [(rollout, "literal", score, np.nan, True, 1.0, 1.0, 0.0, 0.0) for score in ("unit", "log_ratio")]
    columns = ["rollout", "rule", "score", "threshold", "default", "density", "criterion", "cap", "end"]
    return pd.DataFrame(rows, columns=columns).assign(size_p50=3.0, r_ratio_p50=np.nan, tokens=1234)


def _agreement() -> pd.DataFrame:
    f1 = {"true_norm": 0.85, "unit": 0.6, "logit_norm": 0.8, "log_ratio_float32": 0.2, "log_ratio_bfloat16": 0.4}
    controls = {"random": 0.3, "stride": 0.35}
    rows = [
        {"proxy": proxy, "cap": cap, "epsilon": epsilon, "f1": value, "f1_low": value - 0.02, "f1_high": value + 0.02}
        for cap in (np.nan, 16.0)
        for epsilon in (1e-6, 0.0)
        for proxy, value in (f1 | controls).items()
    ]
    shares = {"precision": 0.7, "recall": 0.5, "f1_inner": 0.4, "density": 0.25, "exact_density": 0.28}
    table = pd.DataFrame(rows).assign(**shares, responses=12, tokens=345)
    return table.assign(draws=np.where(table["proxy"] == "random", 64, 1))


def _summary() -> pd.DataFrame:
    arms = ((DENSE, "PPO", 1.0), ("sequence", "Sequence", 0.3), ("twin", "Twin", 0.3), ("random", "Random", 0.9))
    rows = []
    for arm, title, cosine in arms:
        row = {"arm": arm, "title": title, "density": 0.2, "mean_cosine": cosine, "same_as": ""}
        for name in _SPREAD:
            value = cosine if "cosine" in name else 2.0
            row |= {name: value, f"{name}_low": value - 0.05, f"{name}_high": value + 0.05}
        rows.append(row | {"same_as": "sequence" if arm == "twin" else ""})
    floor = {"arm": DENSE_OTHER, "title": "PPO, another batch", "density": 1.0, "mean_cosine": 0.4, "same_as": ""}
    rows.append(floor | {"cosine": 0.1, "cosine_low": -0.05, "cosine_high": 0.25})
    return pd.DataFrame(rows).assign(draws=1, batches=6)


CASES = [(checkpoint, arm, arm.title()) for checkpoint in ("start", "trained") for arm in ("split", "stride")]
_CASE = ["checkpoint", "arm", "title"]
# Speed-up and cosine.
_WAYS = {
    (ENDPOINTS, 0.0): (8.0, 0.5),
    (WINDOW, 4.0): (4.0, 0.8),
    (SHARE, 0.25): (3.0, 0.6),
    (GATHERED, 0.0): (2.0, 1.0),
}


def made_stream_tables() -> dict[str, pd.DataFrame]:
    """All tables by name: two checkpoints, two arms, three ways of streaming and the exact update."""
    return {
        "stream_groups": _with_ends(
            [
                (*case, group, cosine, 0.7)
                for case in CASES
                for group, cosine in (("all", 0.5), ("keys and values", 0.3), ("mlp", 0.75))
            ],
            [*_CASE, "group", "cosine", "norm_ratio"],
            ("cosine", "norm_ratio"),
        ),
        "stream_costs": _stream_costs(),
        "stream_staleness": _with_ends(
            [
                (*case, steps, kv, 0.5 - (0.1 * steps if kv == "reuse" else 0.0), 0.9, 0.01 * steps, 0.04 * steps)
                for case in CASES[2:]
                for steps in (0, 1, 2)
                for kv in ("recompute", "reuse")
            ],
            [*_CASE, "steps", "kv", "cosine", "norm_ratio", "log_prob_error", "moved"],
            ("cosine", "norm_ratio", "log_prob_error", "moved"),
        ),
    }


def _stream_costs() -> pd.DataFrame:
    rows = [(*case, *way, *measured, 0.9) for case in CASES for way, measured in _WAYS.items()]
    table = _with_ends(rows, [*_CASE, "kind", "size", "speedup", "cosine", "norm_ratio"], ("cosine", "norm_ratio"))
    return table.assign(density=0.125, live=0.2, speedup_recompute=table["speedup"] / 2)


def _with_ends(rows: list[tuple], columns: list[str], names: tuple[str, ...]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=columns)
    for name in names:
        table[f"{name}_low"], table[f"{name}_high"] = table[name] - 0.05, table[name] + 0.05
    return table.assign(batches=6)


ARMS = {"group_ppo": "masked", "group_ppo_streamed": "streamed"}


def made_faults(lost: int = 0) -> pd.DataFrame:
    """The table; the last `lost` points end their run."""
    cases = [(arm, update, point) for arm, update in ARMS.items() for point in points_of(update)]
    ended = set(cases[len(cases) - lost :])
    return pd.DataFrame([_fault_row(arm, point, ended=(arm, update, point) in ended) for arm, update, point in cases])


def _fault_row(arm: str, point: str, *, ended: bool) -> dict[str, object]:
    control = point == NO_FAULT
    well = not ended and not control
    return {
        "arm": arm,
        "point": point,
        "finished": not ended,
        "counted": well,
        "policy_equal": well,
        "critic_equal": well,
        "threshold_kept": well,
        "prompts_equal": not ended,
        "responses_equal": well,
        "survived": well,
        "cause": "exit code 1; InjectedError: made up" if ended else "",
    }
