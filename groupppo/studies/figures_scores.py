"""The figure of what proxies know of the exact score vectors."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from groupppo.draw.style import INK, WIDTH, legend_below, look_at, points

Tables = Mapping[str, pd.DataFrame]

PROXY_LABELS = {
    "true_norm": "exact norms alone",
    "unit": "unit",
    "logit_norm": "logit norm",
    "log_ratio_float32": "log-ratio, float32",
    "log_ratio_bfloat16": "log-ratio, bfloat16",
    "entropy": "entropy",
    "low_prob": "-log-probability",
    "random": "random",
    "stride": "stride",
}


def setting_label(cap: float | None, epsilon: float) -> str:
    """Such as "cap 16, epsilon 1e-06"; a missing cap is none."""
    return f"{'no cap' if pd.isna(cap) else f'cap {cap:.0f}'}, epsilon {epsilon:g}"


def agreement_data(tables: Tables) -> pd.DataFrame:
    """panel ("f1" or "spearman"), proxy, cap, epsilon (missing for the correlation), value, low, high."""
    f1 = tables["agreement"].rename(columns={"f1": "value", "f1_low": "low", "f1_high": "high"}).assign(panel="f1")
    rank = tables["scores"].rename(columns={"spearman": "value"}).assign(panel="spearman")
    columns = ["panel", "proxy", "cap", "epsilon", "value", "low", "high"]
    return pd.concat([f1[columns], rank.reindex(columns=columns)], ignore_index=True)


def agreement_figure(data: pd.DataFrame) -> Figure:
    """F1 of each proxy's endpoints with intervals (left), rank correlation of proxies with exact norms (right)."""
    f1, rank = data[data["panel"] == "f1"], data[data["panel"] == "spearman"]
    proxies = list(dict.fromkeys(f1["proxy"]))
    figure = Figure(figsize=(WIDTH, 0.42 * len(proxies) + 1.3), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.4, 1.0])
    settings = f1[["cap", "epsilon"]].drop_duplicates().sort_values(["epsilon", "cap"], ascending=[False, True])
    handles: list[Artist] = []
    for i, (cap, epsilon) in enumerate(settings.itertuples(index=False)):
        rows = f1[(f1["epsilon"] == epsilon) & (f1["cap"].isna() if pd.isna(cap) else f1["cap"] == cap)]
        look = points(look_at(i, ""))
        places = [proxies.index(proxy) + 0.17 * (i - (len(settings) - 1) / 2) for proxy in rows["proxy"]]
        reach = [rows["value"] - rows["low"], rows["high"] - rows["value"]]
        left.errorbar(rows["value"], places, xerr=reach, capsize=2, elinewidth=1.1, **look)
        handles.append(Line2D([], [], label=setting_label(cap, epsilon), **look))
    left.set_yticks(range(len(proxies)), [PROXY_LABELS.get(proxy, proxy) for proxy in proxies])
    left.set(xlabel="F1 with the exact rule's endpoints", xlim=(0, 1.02), ylim=(len(proxies) - 0.5, -0.5))
    reach = [rank["value"] - rank["low"], rank["high"] - rank["value"]]
    right.errorbar(rank["value"], range(len(rank)), xerr=reach, fmt="D", color=INK, markersize=4.5, capsize=2)
    right.set_yticks(range(len(rank)), [PROXY_LABELS.get(proxy, proxy) for proxy in rank["proxy"]])
    low = min(0.0, float(rank["low"].min()) - 0.05)
    right.set(xlabel="rank correlation with\nexact squared norms", xlim=(low, 1.03), ylim=(len(rank) - 0.5, -0.5))
    for panel in (left, right):
        panel.grid(visible=False, axis="y")
        panel.tick_params(axis="y", length=0)
    legend_below(figure, handles)
    return figure
