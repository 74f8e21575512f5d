"""Small tables of a study with known numbers, for everything that draws and tells them."""

import numpy as np
import pandas as pd

from groupppo.studies.tables import DENSE, DENSE_OTHER

_SPREAD = ("cosine", "norm_ratio", "expected_cosine", "relative_variance")


def made_tables() -> dict[str, pd.DataFrame]:
    """All tables by name: three scores, two precisions, three arms, six batches."""
    return {
        "density": _density(),
        "published": _published(),
        "agreement": _agreement(),
        "scores": pd.DataFrame(
            [{"proxy": name, "spearman": rank, "low": rank - 0.1, "high": rank + 0.05} for name, rank in _RANKS.items()]
        ).assign(responses=12, tokens=345),
        "cosines": pd.DataFrame(
            [
                {"statistic": name, "value": value, "low": value - 0.01, "high": value + 0.01}
                for name, value in {
                    "mean": 0.02,
                    "mean_abs": 0.12,
                    "mean_adjacent": 0.05,
                    "top_tenth": 0.98,
                    "coherence": 0.9,
                }.items()
            ]
        ).assign(responses=12),
        "directions": _directions(),
        "direction_summary": _summary(),
    }


_RANKS = {"logit_norm": 0.9, "log_ratio_float32": 0.5, "log_ratio_bfloat16": 0.6, "entropy": 0.8, "low_prob": 0.7}


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


def _published() -> pd.DataFrame:
    rows = [("float32", factor, 2e-7 * factor, density) for factor, density in ((0.0, 0.02), (1.0, 0.02), (1e5, 0.3))]
    table = pd.DataFrame([*rows, ("bfloat16", 1.0, 4e-3, 0.15)], columns=["rollout", "factor", "mean_gap", "density"])
    return table.assign(criterion=0.5, tokens=1234)


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


def _directions() -> pd.DataFrame:
    rows = [
        {"arm": arm, "batch": batch, "density": 0.2, "cosine": cosine + 0.01 * batch, "norm_ratio": 2.0 + 0.1 * batch}
        for arm, cosine in (("sequence", 0.3), ("twin", 0.3), ("random", 0.9))
        for batch in range(6)
    ]
    floor = [{"arm": DENSE_OTHER, "batch": batch, "density": 1.0, "cosine": 0.1} for batch in (0, 2, 4)]
    return pd.DataFrame([*rows, *floor])


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
