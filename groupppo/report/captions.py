"""Words under and behind each figure: how to read it, how many seeds it holds, and what a reader would see in it."""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from groupppo.config import Benchmark
from groupppo.report.figures_costs import WHOLE
from groupppo.report.figures_training import smoothing_window
from groupppo.report.figures_updates import METRICS, ROUNDING
from groupppo.report.style import MOST_SINGLE, START, Cell, arms_in, cell_title, cells
from groupppo.report.wording import in_bytes, number, percentage, plural, quantity, seconds_text

POOLED = "their width at a step uses the variance over seeds averaged over the nearest quarter of the run"


def reward(data: pd.DataFrame, benchmark: Benchmark) -> str:
    seeds = data[data["x_axis"] == "step"]
    window = smoothing_window(int(seeds["x"].max()))
    smooth = f"Curves are centred moving means over {window} steps. " if window > 1 else ""
    return (
        "Mean 0/1 reward of the rollouts of each step, against training steps (left) and seconds since the first step "
        f"began, start-up left out (right). {smooth}{_lines(data)} "
        f"{_band(seeds, benchmark, f'bands are 90 % t intervals of the mean over seeds ({POOLED})')} "
        "Read it from left to right: an arm that learns faster lies higher; bands that overlap decide nothing."
    )


def reward_alt(data: pd.DataFrame, benchmark: Benchmark) -> str:
    means = data[data["seed"].isna() & (data["x_axis"] == "step")]

    def arm(rows: pd.DataFrame, title: str) -> str:
        return f"{title} goes from {number(rows['reward'].iloc[0])} to {number(rows['reward'].iloc[-1])}"

    return f"Line chart of reward over training. {_each(means, benchmark, arm)}"


def accuracy(data: pd.DataFrame, benchmark: Benchmark) -> str:
    return (
        f"Accuracy on the held-out prompts after training. {_points(data)} "
        f"{_band(data, benchmark, 'whiskers are 90 % t intervals of the mean over seeds')} "
        "The dashed line is the start checkpoint that all runs share, its band one standard error over prompts. "
        f"Differences between arms are judged within a seed{'' if _many(data) else ': follow the grey lines'}."
    )


def accuracy_alt(data: pd.DataFrame, benchmark: Benchmark) -> str:
    metric = data["metric"].iloc[0]
    rows = data[(data["metric"] == metric) & data["seed"].isna()]
    starts = rows[rows["arm"] == START]
    start = f"Start checkpoint {', '.join(number(value) for value in starts['value'])}. " if len(starts) else ""

    def arm(rows: pd.DataFrame, title: str) -> str:
        return f"{title} {number(rows['value'].iloc[0])}"

    return f"Point chart of held-out {metric}. {start}Means over seeds: {_each(rows, benchmark, arm)}"


def density(data: pd.DataFrame, benchmark: Benchmark) -> str:
    return (
        "Above: share of response tokens that are group endpoints, at each step. "
        f"{_lines(data)} {_band(data, benchmark, f'bands are 90 % t intervals of the mean over seeds ({POOLED})')} "
        "Below: why groups closed, as shares of groups (mean over seeds): the size cap was reached, the variance "
        "criterion split the group, or the response ended. Where the cap closes nearly "
        "everything, the rule is a fixed stride."
    )


def density_alt(data: pd.DataFrame, benchmark: Benchmark) -> str:
    means = data[data["seed"].isna()]

    def arm(rows: pd.DataFrame, title: str) -> str:
        shares = ", ".join(f"{percentage(rows[cause].mean())} by {cause}" for cause in ("cap", "criterion", "end"))
        return f"{title} has a density of {percentage(rows['density'].mean())} over the run, groups closed {shares}"

    return (
        f"Line chart of endpoint density over stacked areas of what closed the groups. {_each(means, benchmark, arm)}"
    )


def updates(data: pd.DataFrame, benchmark: Benchmark) -> str:
    return (
        "Arms that differ in nothing but how their updates are computed, each run beside the masked one of its seed. "
        "Left: reward of the rollouts of each step; a wider line under a narrower one is an equal curve. Right: the "
        f"largest relative difference of a step's metrics ({', '.join(METRICS)}; relative to the masked run's largest "
        f"value of the metric). {_differences(data, benchmark)} An exact update differs by rounding, which grows from "
        "step to step until a sampled token changes; an approximation differs from its first update on."
    )


def updates_alt(data: pd.DataFrame, benchmark: Benchmark) -> str:
    return f"Line charts of reward and of differences from the masked update. {_differences(data, benchmark)}"


def _differences(data: pd.DataFrame, benchmark: Benchmark) -> str:
    told = []
    for arm in arms_in(data, benchmark):
        rows = data[(data["arm"] == arm) & data["difference"].notna()]
        if rows.empty:
            continue
        far = rows.loc[rows["difference"] > ROUNDING, "step"]
        until = f"above {ROUNDING:g} from step {far.min():,} on" if len(far) else f"never above {ROUNDING:g}"
        told.append(f"{benchmark.arms[arm].title}: {until}, {number(rows['difference'].max())} at most")
    return f"{'; '.join(told)}."


def seconds(data: pd.DataFrame, benchmark: Benchmark) -> str:
    title = benchmark.arms[benchmark.reference].title
    return (
        "Wall-clock seconds of one training step by stage. Each segment is the median over the steps of a run, "
        f"averaged over seeds; {_seeds(data, benchmark)}. The diamond is the median of whole steps, with its ratio to "
        f"{title}; medians of parts need not add up to it. The rest is time between stages, median over steps. "
        "Arms without a critic have neither values nor update_critic."
    )


def seconds_alt(data: pd.DataFrame, benchmark: Benchmark) -> str:
    whole = data[data["stage"] == WHOLE]

    def arm(rows: pd.DataFrame, title: str) -> str:
        return f"{title} {seconds_text(rows['seconds'].mean())}"

    return f"Stacked bars of stage seconds. Whole steps take: {_each(whole, benchmark, arm)}"


def memory(data: pd.DataFrame, benchmark: Benchmark) -> str:
    return (
        "Memory of each stage. Left: the largest memory during the stage over all steps of a run. Right: how far it "
        "rose above the memory at the stage's entry, median over steps. Bars are means over seeds, "
        f"{'thin lines hold 90 % of them' if _many(data) else 'dots single seeds'}; "
        f"{_seeds(data, benchmark)}. The two scales differ. "
        "Arms without a critic have neither values nor update_critic."
    )


def memory_alt(data: pd.DataFrame, benchmark: Benchmark) -> str:
    whole = data[data["stage"] == WHOLE]

    def arm(rows: pd.DataFrame, title: str) -> str:
        return f"{title} {in_bytes(rows['peak_bytes'].mean())}"

    return f"Bar chart of stage memory. Peak of whole steps: {_each(whole, benchmark, arm)}"


def verdicts(data: pd.DataFrame, judged: int) -> str:
    rest = judged - len(data)
    others = f" Verdicts without an interval are not drawn ({rest})." if rest else ""
    return (
        "Each claim on an axis of its own: the claimed region, widened by its margin, and "
        "the estimate with its 90 % interval over seeds. A claim is supported where the interval lies wholly inside "
        f"the region and refuted where it lies wholly outside. Ratios (x) are on a log scale.{others}"
    )


def verdicts_alt(data: pd.DataFrame) -> str:
    told = (f"{row.claim} {row.verdict}, {quantity(row.estimate, row.unit)}" for row in data.itertuples())
    return f"Interval chart of estimates against claimed regions. {'; '.join(told)}."


def excluded(runs: pd.DataFrame) -> str:
    """A sentence on the runs that are not drawn, or nothing when all are."""
    count = int((~runs["admissible"].astype(bool)).sum())
    return (
        f"{plural(count, 'run')} excluded from the evidence {'is' if count == 1 else 'are'} not drawn." if count else ""
    )


def _many(data: pd.DataFrame) -> bool:
    """Whether some arm has more seeds than are drawn one by one."""
    return max(_counts(data).values()) > MOST_SINGLE


def _lines(data: pd.DataFrame) -> str:
    if _many(data):
        return f"Lines are means over seeds; single seeds are thin lines where an arm has at most {MOST_SINGLE}."
    return "Thin lines are single seeds, thick lines their mean."


def _points(data: pd.DataFrame) -> str:
    if _many(data):
        return "Wide bars hold 90 % of an arm's runs; bars beside them are means over seeds."
    return "Each point is one run; grey lines join the runs of one seed. Bars beside the points are means over seeds."


def _band(rows: pd.DataFrame, benchmark: Benchmark, band: str) -> str:
    """Number of seeds, and what the band is or why an arm has none."""
    counts = _counts(rows)
    if max(counts.values()) < 2:
        return "One seed in each arm, so there is no interval over seeds."
    single = sorted({arm for (_, arm), n in counts.items() if n < 2})
    without = f"; none for {_titles(single, benchmark)}, with one seed" if single else ""
    sentence = _seeds(rows, benchmark)
    return f"{sentence[0].upper()}{sentence[1:]}; {band}{without}."


def _seeds(rows: pd.DataFrame, benchmark: Benchmark) -> str:
    counts = _counts(rows)
    if len(set(counts.values())) == 1:
        return f"{plural(next(iter(counts.values())), 'seed')} in each arm"
    shown = []
    for arm in arms_in(rows, benchmark):
        own = [n for (_, name), n in counts.items() if name == arm]
        span = plural(own[0], "seed") if len(set(own)) == 1 else f"{min(own)} to {max(own)} seeds"
        shown.append(f"{benchmark.arms[arm].title} has {span}")
    return ", ".join(shown)


def _counts(rows: pd.DataFrame) -> dict[tuple[Cell, str], int]:
    runs = rows[rows["arm"] != START]
    means = runs[runs["seed"].isna()] if "seeds" in runs else runs[:0]
    by_arm = (means if len(means) else runs).groupby(["task", "model", "arm"], observed=True)
    # The mean knows how many seeds it is of, also where they are not drawn.
    grouped = by_arm["seeds"].max() if len(means) else by_arm["seed"].nunique()
    return {(Cell(task, model), arm): int(n) for (task, model, arm), n in grouped.items()}


def _titles(arms: list[str], benchmark: Benchmark) -> str:
    return ", ".join(benchmark.arms[arm].title for arm in arms)


def _each(rows: pd.DataFrame, benchmark: Benchmark, describe: Callable[[pd.DataFrame, str], str]) -> str:
    """One clause for each arm, one sentence for each task and model."""
    facets = cells(rows, benchmark)
    sentences = []
    for cell in facets:
        own = cell.rows(rows)
        clauses = [describe(own[own["arm"] == arm], benchmark.arms[arm].title) for arm in arms_in(own, benchmark)]
        place = f"{cell_title(cell, benchmark)}: " if len(facets) > 1 else ""
        sentences.append(f"{place}{'; '.join(clauses)}.")
    return " ".join(sentences)


@dataclass(frozen=True)
class Words:
    """How a figure is put into words; both take the frame that is drawn."""

    caption: Callable[[pd.DataFrame, Benchmark], str]
    alt: Callable[[pd.DataFrame, Benchmark], str]


WORDS = {
    "reward": Words(reward, reward_alt),
    "accuracy": Words(accuracy, accuracy_alt),
    "density": Words(density, density_alt),
    "updates": Words(updates, updates_alt),
    "stage_seconds": Words(seconds, seconds_alt),
    "stage_memory": Words(memory, memory_alt),
}
