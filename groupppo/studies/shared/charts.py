"""The chart that studies are shown by: values with their intervals, a line for each thing that is compared."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from groupppo.draw.figures import Picture
from groupppo.draw.style import QUIET, WIDTH, legend_below, look_at, points, wrap
from groupppo.draw.wording import number


def picture(
    name: str,
    title: str,
    rows: pd.DataFrame,
    panels: Mapping[str, str],
    *,
    keys: Sequence[str],
    caption: str,
    row: str,
    series: str = "",
    **look: Any,
) -> Picture:
    """The figure of some columns of a table: its data has panel, the keys, value, low and high.

    Args:
        rows: with a column for each panel, and NAME_low and NAME_high where it has an interval.
        panels: as for `interval_chart`, as `row`, `series` and `look`; rows without a value are left out.
        keys: columns that are kept.
        caption: how to read it.
    """
    columns, parts = ["panel", *keys, "value", "low", "high"], []
    for panel in panels:
        ends = {panel: "value", f"{panel}_low": "low", f"{panel}_high": "high"}
        parts.append(rows.rename(columns=ends).assign(panel=panel).reindex(columns=columns))
    data = pd.concat(parts, ignore_index=True).dropna(subset="value").reset_index(drop=True)
    draw = partial(interval_chart, data, panels, row=row, series=series, **look)
    alt = f"Point charts. {' '.join(_ranges(data, panels, row, series))}"
    return Picture(name, title, data, draw, caption, alt)


def _ranges(data: pd.DataFrame, panels: Mapping[str, str], row: str, series: str) -> Iterator[str]:
    """What each panel shows in words: smallest and largest value of every series."""
    for (panel, *names), own in data.groupby(["panel", series] if series else ["panel"], sort=False):
        ends = (own.loc[own["value"].idxmin()], own.loc[own["value"].idxmax()])
        span = " to ".join(f"{number(end['value'])} ({end[row]})" for end in ends)
        yield f"{', '.join([panels[panel], *names])}: {span}."


def interval_chart(
    data: pd.DataFrame,
    panels: Mapping[str, str],
    *,
    row: str,
    series: str = "",
    logarithmic: Collection[str] = (),
    around_one: Collection[str] = (),
) -> Figure:
    """Points with whiskers; a panel beside another for each measure.

    Args:
        data: columns panel, value, low, high, and those that `row` and `series` name.
        panels: label of the axis of each panel, by its name in the data.
        row: column whose values stand below each other.
        series: column whose values are told apart by colour and marker; one series unless given.
        logarithmic: panels with a logarithmic axis.
        around_one: panels in which a dashed line marks 1.
    """
    data = data if series else data.assign(all="")
    rows, names = list(dict.fromkeys(data[row])), list(dict.fromkeys(data[series or "all"]))
    looks: list[dict[str, Any]] = [points(look_at(place, "")) for place in range(len(names))]
    figure = Figure(figsize=(WIDTH, (0.24 + 0.08 * len(names)) * len(rows) + 1.3), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (panel, label) in zip(axes, panels.items(), strict=True):
        own = data[data["panel"] == panel]
        for place, (name, look) in enumerate(zip(names, looks, strict=True)):
            some = own[own[series or "all"] == name]
            places = [rows.index(one) + 0.17 * (place - (len(names) - 1) / 2) for one in some[row]]
            reach = [(some["value"] - some["low"]).clip(lower=0), (some["high"] - some["value"]).clip(lower=0)]
            axis.errorbar(some["value"], places, xerr=reach, capsize=2, elinewidth=1.1, **look)
        if panel in around_one:
            axis.axvline(1.0, color=QUIET, linewidth=1.0, dashes=(4, 2), zorder=1)
        if panel in logarithmic:
            # By the values: an interval can reach down to zero, which a logarithmic axis does not have.
            axis.set(xscale="log", xlim=(own["value"].min() / 1.6, own["value"].max() * 1.6))
            axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
            axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axis.minorticks_off()
        axis.set_xlabel(wrap(label, 72 // len(panels)))
        axis.grid(visible=False, axis="y")
        axis.tick_params(axis="y", length=0)
    axes[0].set_yticks(range(len(rows)), [wrap(str(one), 24) for one in rows])
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    if series:
        legend_below(figure, [Line2D([], [], label=name, **look) for name, look in zip(names, looks, strict=True)])
    return figure
