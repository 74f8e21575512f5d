"""The pilot's sweep of learning rates: every run, and lines through the means. It is drawn into pilot/."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from groupppo.config import Benchmark
from groupppo.draw.figures import Picture, write_figure
from groupppo.draw.style import QUIET, WIDTH, curve, legend_below, line, looks_of, points, wrap
from groupppo.errors import BadInput
from groupppo.records.where import where_of
from groupppo.verdicts.sweep import METRIC, TABLE, chosen_rates

FOLDER = "pilot"
"""Folder of the pilot in a results folder."""


def read_rows(results: Path, pilot: Path) -> pd.DataFrame:
    """The table of a benchmark's pilot.

    Raises:
        BadInput: it is missing.
    """
    file = results / FOLDER / TABLE
    if not file.is_file():
        raise BadInput(file, "file", None, f"run the pilot first: snakemake --config benchmark={pilot}")
    return pd.read_parquet(file)


def sweep_picture(rows: pd.DataFrame, benchmark: Benchmark) -> Picture:
    """The figure of a pilot's table; arms of `benchmark` look as in its other figures."""
    best = chosen_rates(rows)
    shown = "; ".join(f"{title} best at {best[arm]:g}" for arm, title in _titles(rows).items())
    caption = (
        f"{pilot_place(rows)} Held-out accuracy of the pilot's runs against the learning rate: each run, and lines "
        "through the means."
    )
    title = "The pilot's sweep of learning rates"
    return Picture("sweep", title, rows, lambda: _figure(rows, benchmark), caption, f"Line chart. {shown}.")


def draw_sweep(rows: pd.DataFrame, benchmark: Benchmark, out: Path, *, keep: bool = False) -> None:
    """Write the figure with its data into `out`; with `keep`, pictures that are there stay as they are."""
    write_figure(sweep_picture(rows, benchmark), out, keep=keep)


def pilot_place(rows: pd.DataFrame) -> str:
    """A sentence on where the pilot was run."""
    return f"Not run for this results folder: the pilot is {where_of(rows).told()}."


def _titles(rows: pd.DataFrame) -> dict[str, str]:
    return dict(zip(rows["arm"], rows["title"], strict=True))


def _figure(rows: pd.DataFrame, benchmark: Benchmark) -> Figure:
    titles, here = _titles(rows), {name: arm.title for name, arm in benchmark.arms.items()}
    looks, rates = looks_of(here | titles, benchmark.reference), sorted(set(rows["rate"]))
    figure = Figure(figsize=(WIDTH, 3.9), layout="constrained")
    panel = figure.subplots()
    for arm in titles:
        own = rows[rows["arm"] == arm]
        panel.plot(own["rate"], own["accuracy"], alpha=0.45, **points(looks[arm]))
        means = own.groupby("rate")["accuracy"].mean()
        panel.plot(means.index, means, **curve(looks[arm], len(means)))
    panel.set(xscale="log", xlabel="learning rate of the policy", ylabel=f"held-out {METRIC}")
    panel.set_title(wrap(pilot_place(rows), 100), fontsize=8.5, fontweight="normal", color=QUIET)
    panel.set_xticks(rates, [f"{rate:g}" for rate in rates])
    panel.minorticks_off()
    legend_below(figure, [line(looks[arm]) for arm in titles])
    return figure
