"""Whether a curve depends on how the update is computed: the same arm and seed, masked, gathered and streamed."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from groupppo.algorithm import GroupParams
from groupppo.algorithm.params import HOME
from groupppo.config import Arm, Benchmark
from groupppo.draw import style
from groupppo.draw.wording import number
from groupppo.report.figures import Need, RunFigure

COLUMNS = ("task", "model", "arm", "seed", "step", "family", "reward", "difference")
UPDATE_KEYS = ("update", "kv", "kv_bytes", "live_window", "live_share")
"""Keys of GroupParams that say how an update is computed and not what is trained on."""
METRICS = ("reward/mean", "actor/entropy", "actor/grad_norm", "critic/vf_loss", "critic/grad_norm")
"""Not `actor/pg_loss`: with whitened advantages and one update per step it is zero but for rounding."""
ROUNDING = 1e-3
"""A relative difference that 24 bits and a few dozen steps can make; far below what another gradient makes."""
LEAST = 1e-9
"""Where a difference of exactly zero is drawn on the logarithmic axis."""


def twins(benchmark: Benchmark) -> dict[str, list[str]]:
    """For each arm with a masked update, the other arms that would train alike were their updates exact."""
    settings = {name: _apart_from_update(arm) for name, arm in benchmark.arms.items()}
    found = {
        name: [other for other in benchmark.arms if other != name and settings[other] == settings[name]]
        for name, arm in benchmark.arms.items()
        if settings[name] and _group_params(arm)["update"] == "masked"
    }
    return {name: others for name, others in found.items() if others}


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
    frames = []
    for masked, others in twins(benchmark).items():
        # Cells that leave all the others out have nothing to lay over the masked run.
        compared = {(plan.task, plan.model) for plan in benchmark.plans() if {*others} & {*plan.arms}}
        there = np.array([cell in compared for cell in zip(wide["task"], wide["model"], strict=True)], dtype=bool)
        base = wide[there & (wide["arm"] == masked)].drop(columns="arm")
        if base.empty:
            continue
        keys = ["task", "model", "seed"]
        scale = base.groupby(keys)[metrics].agg(lambda values: values.abs().max()).reset_index()
        for arm in (masked, *others):
            rows = wide[there & (wide["arm"] == arm)].merge(
                base, on=[*keys, "step"], how="left", suffixes=("", ":masked")
            )
            rows = rows.merge(scale, on=keys, how="left", suffixes=("", ":scale"))
            relative = [(rows[name] - rows[f"{name}:masked"]).abs() / rows[f"{name}:scale"] for name in metrics]
            difference = np.nan if arm == masked else pd.concat(relative, axis=1).max(axis=1)
            kept = rows[["task", "model", "arm", "seed", "step"]].assign(family=masked)
            frames.append(kept.assign(reward=rows["reward/mean"], difference=difference))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=COLUMNS)


def draw(data: pd.DataFrame, benchmark: Benchmark) -> Figure:
    """Left: reward curves over one another. Right: the largest relative difference of a step's metrics, log scale."""
    looks, facets = style.arm_looks(benchmark), style.cells(data, benchmark)
    rows = [(cell, family) for cell in facets for family in dict.fromkeys(cell.rows(data)["family"])]
    figure, axes = style.grid(len(rows), 2, 2.9)
    for panels, (cell, family) in zip(axes, rows, strict=True):
        own = cell.rows(data)
        own = own[own["family"] == family]
        _lines(panels[0], own, "reward", looks, widths=True)
        _lines(panels[1], own.assign(difference=own["difference"].clip(lower=LEAST)), "difference", looks)
        panels[0].set(
            xlabel="training step", ylabel="reward (mean of rollouts)", title=style.cell_title(cell, benchmark)
        )
        panels[0].set_ylim(*style.share_limits(own[["reward"]]))
        panels[1].set(xlabel="training step", ylabel="largest relative difference", yscale="log", ylim=(LEAST / 2, 10))
        panels[1].yaxis.set_major_formatter(lambda value, _: f"{value:.0e}")
        panels[1].set_title(f"from {looks[family].label}")
        for panel in panels:
            style.steps_axis(panel, 6)
    style.legend_below(figure, [style.line(looks[arm]) for arm in style.arms_in(data, benchmark)])
    return figure


def _lines(panel: Axes, rows: pd.DataFrame, column: str, looks: dict[str, style.Look], *, widths: bool = False) -> None:
    """One line per run; with `widths` the earlier ones are wider, so that a line that covers another shows it."""
    arms = list(dict.fromkeys(rows["arm"]))
    for place, arm in enumerate(arms):
        for _, run in rows[rows["arm"] == arm].groupby("seed"):
            width = 1.4 + 1.8 * (len(arms) - 1 - place) if widths else 1.6
            look = style.curve(looks[arm], len(run)) | {"linewidth": width}
            panel.plot(run["step"], run[column], zorder=3 + place, **look)


def _group_params(arm: Arm) -> dict[str, Any]:
    given = {key.removeprefix(f"{HOME}."): value for key, value in arm.verl.items() if key.startswith(f"{HOME}.")}
    return {name: given.get(name, getattr(GroupParams, name)) for name in GroupParams.__dataclass_fields__}


def _apart_from_update(arm: Arm) -> dict[str, Any]:
    """All that an arm trains with, its update left out; empty for an arm that forms no groups."""
    if not arm.grouped:
        return {}
    params = {key: value for key, value in _group_params(arm).items() if key not in UPDATE_KEYS}
    other = {key: value for key, value in arm.verl.items() if not key.startswith(f"{HOME}.")}
    return {"other": other, "density_from": arm.density_from, **params}


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
    id="updates",
    title="One arm, its update computed in several ways",
    order=80,
    needs=(Need("steps", ("metric", "value"), METRICS),),
    asked=lambda benchmark: bool(twins(benchmark)),
    data=data,
    draw=draw,
    caption=caption,
    alt=alt,
    without=lambda _: "no arm has been run whose update is computed in another way",
)
