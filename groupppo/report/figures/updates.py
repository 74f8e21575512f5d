"""Whether a curve depends on how the update is computed: the same arm and seed, masked, gathered and streamed."""

from dataclasses import fields
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from groupppo.algorithm import GroupParams
from groupppo.algorithm.params import HOME
from groupppo.config import Arm, Benchmark
from groupppo.draw import style
from groupppo.draw.wording import number
from groupppo.report.figures import RunFigure

COLUMNS = ("task", "model", "arm", "seed", "step", "family", "reward", "difference")
UPDATE_KEYS = (
    *("update", "kv", "kv_bytes", "live_window", "live_share"),
    *("skip_zero_advantage", "shared_prompts", "old_log_probs"),
)
"""Keys of GroupParams that say how an update is computed and not what is trained on."""
METRICS = ("reward/mean", "actor/entropy", "actor/grad_norm", "critic/vf_loss", "critic/grad_norm")
"""Not `actor/pg_loss`: with whitened advantages and one update per step it is zero but for rounding."""
ROUNDING = 1e-3
"""A relative difference that 24 bits and a few dozen steps can make; far below what another gradient makes."""
LEAST = 1e-9
"""Where a difference of exactly zero is drawn on the logarithmic axis."""


def twins(benchmark: Benchmark) -> dict[str, list[str]]:
    """For each arm with a masked update, the other arms that would train alike were their updates exact."""
    grouped = {name: _settings(arm) for name, arm in benchmark.arms.items() if arm.grouped}
    masked = [name for name, settings in grouped.items() if settings["update"] == "masked"]
    alike = {name: settings | dict.fromkeys(UPDATE_KEYS) for name, settings in grouped.items()}
    found = {name: [other for other in alike if other != name and alike[other] == alike[name]] for name in masked}
    return {name: others for name, others in found.items() if others}


def _settings(arm: Arm) -> dict[str, Any]:
    """All that an arm trains with: its keys of GroupParams, defaults included, and of verl."""
    params = {field.name: field.default for field in fields(GroupParams)}
    return (
        params | {key.removeprefix(f"{HOME}."): value for key, value in arm.verl.items()} | {"from": arm.density_from}
    )


def data(steps: pd.DataFrame, benchmark: Benchmark) -> pd.DataFrame:
    """Reward of every run of a family of twins, and how far its metrics are from the masked run's of the same seed.

    Returns:
        task, model, family (the masked arm), arm, seed, step, reward (mean 0/1 reward of the step's rollouts), and
        `difference`: the largest over METRICS of |m - m_masked| / max |m_masked| over the run's steps; missing for the
        masked arm and where the masked run has no such step. Cells whose plan has no twins are left out.
    """
    style.refuse_empty(steps, "steps")
    chosen = steps[steps["metric"].isin(METRICS)]
    wide = chosen.pivot(index=[*style.RUN_KEYS, "step"], columns="metric", values="value").reset_index()
    metrics = [name for name in METRICS if name in wide]
    keys, frames = ["task", "model", "seed"], []
    for masked, others in twins(benchmark).items():
        # Cells that leave all the others out have nothing to lay over the masked run.
        compared = [(plan.task, plan.model) for plan in benchmark.plans() if {*others} & {*plan.arms}]
        rows = wide[pd.MultiIndex.from_frame(wide[["task", "model"]]).isin(compared)]
        base = rows[rows["arm"] == masked]
        if base.empty:
            continue
        scale = base.groupby(keys, observed=True)[metrics].agg(lambda values: values.abs().max())
        for arm in (masked, *others):
            own = rows[rows["arm"] == arm].reset_index(drop=True)
            theirs = own[[*keys, "step"]].merge(base, on=[*keys, "step"], how="left")[metrics]
            largest = own[keys].merge(scale, on=keys, how="left")[metrics]
            difference = np.nan if arm == masked else ((own[metrics] - theirs).abs() / largest).max(axis=1)
            kept = own[[*style.RUN_KEYS, "step"]].assign(family=masked)
            frames.append(kept.assign(reward=own["reward/mean"], difference=difference))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=COLUMNS)


def draw(data: pd.DataFrame, benchmark: Benchmark) -> Figure:
    """Left: reward curves over one another. Right: the largest relative difference of a step's metrics, log scale."""
    looks, cells = style.arm_looks(benchmark, data), style.cells(data, benchmark)
    rows = [(cell, family, own) for cell in cells for family, own in cell.rows(data).groupby("family", sort=False)]
    figure = Figure(figsize=(style.WIDTH, 2.9 * len(rows) + 0.5), layout="constrained")
    for (left, right), (cell, family, own) in zip(figure.subplots(len(rows), 2, squeeze=False), rows, strict=True):
        own = own.assign(difference=own["difference"].clip(lower=LEAST))
        arms = list(dict.fromkeys(own["arm"]))
        for (arm, _), run in own.groupby(["arm", "seed"], sort=False):
            # Of equal rewards the earlier ones are wider, so that a line that covers another shows it.
            under, look = len(arms) - 1 - arms.index(arm), style.curve(looks[arm], len(run))
            left.plot(run["step"], run["reward"], zorder=9 - under, **look | {"linewidth": 1.4 + 1.8 * under})
            right.plot(run["step"], run["difference"], zorder=9 - under, **look | {"linewidth": 1.6})
        left.set(xlabel="training step", ylabel="reward (mean of rollouts)", title=style.cell_title(cell, benchmark))
        left.set_ylim(*style.share_limits(own[["reward"]]))
        right.set(xlabel="training step", ylabel="largest relative difference", title=f"from {looks[family].label}")
        right.set(yscale="log", ylim=(LEAST / 2, 10))
        right.yaxis.set_major_formatter(lambda value, _: f"{value:.0e}")
        for panel in (left, right):
            style.steps_axis(panel, 6)
    style.legend_below(figure, map(style.line, looks.values()))
    return figure


def caption(data: pd.DataFrame, benchmark: Benchmark) -> str:
    return (
        "Arms that differ in nothing but how their updates are computed, each run beside the masked one of its seed. "
        "Left: reward of the rollouts of each step; a wider line under a narrower one is an equal curve. Right: the "
        f"largest relative difference of a step's metrics ({', '.join(METRICS)}; relative to the masked run's largest "
        f"value of the metric). {_differences(data, benchmark)} An exact update differs by rounding, which grows from "
        "step to step until a sampled token changes; an approximation differs from its first update on."
    )


def alt(data: pd.DataFrame, benchmark: Benchmark) -> str:
    return f"Line charts of reward and of differences from the masked update. {_differences(data, benchmark)}"


def _differences(data: pd.DataFrame, benchmark: Benchmark) -> str:
    text = []
    for arm in style.arms_in(data, benchmark):
        rows = data[(data["arm"] == arm) & data["difference"].notna()]
        if rows.empty:
            continue
        far = rows.loc[rows["difference"] > ROUNDING, "step"]
        until = f"above {ROUNDING:g} from step {far.min():,} on" if len(far) else f"never above {ROUNDING:g}"
        text.append(f"{benchmark.arms[arm].title}: {until}, {number(rows['difference'].max())} at most")
    return f"{'; '.join(text)}."


FIGURE = RunFigure(
    "updates",
    "One arm, its update computed in several ways",
    80,
    data,
    draw,
    caption,
    alt,
    metrics=METRICS,
    asked=lambda benchmark: bool(twins(benchmark)),
    without=lambda _: "no arm has been run whose update is computed in another way",
)
