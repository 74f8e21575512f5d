"""Words under and behind each figure: how to read it, how many seeds it holds, and what a reader would see in it."""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from groupppo.config import Benchmark
from groupppo.draw.captions import band, each, many_seeds, seed_lines, seed_points, seeds_told
from groupppo.draw.style import START
from groupppo.draw.wording import in_bytes, number, percentage, plural, quantity, seconds_text
from groupppo.report import captions_compared as compared
from groupppo.report.figures.costs import WHOLE
from groupppo.report.figures.tasks import MOST_BANDS, TaskScores, left_out_told, tasks_told
from groupppo.report.figures.training import smoothing_window
from groupppo.stats.across_tasks import FEWEST_SEEDS

POOLED = "their width at a step uses the variance over seeds averaged over the nearest quarter of the run"


def reward(data: pd.DataFrame, benchmark: Benchmark) -> str:
    seeds = data[data["x_axis"] == "step"]
    window = smoothing_window(int(seeds["x"].max()))
    smooth = f"Curves are centred moving means over {window} steps. " if window > 1 else ""
    return (
        "Mean 0/1 reward of the rollouts of each step, against training steps, against seconds since the first step "
        "began, start-up left out, and against endpoints since then, which in a dense arm are all tokens of the "
        "responses. "
        f"{smooth}{seed_lines(data)} "
        f"{band(seeds, benchmark, f'bands are 90 % t intervals of the mean over seeds ({POOLED})')} "
        "Read it from left to right: an arm that learns faster lies higher; bands that overlap decide nothing."
    )


def reward_alt(data: pd.DataFrame, benchmark: Benchmark) -> str:
    means = data[data["seed"].isna() & (data["x_axis"] == "step")]

    def arm(rows: pd.DataFrame, title: str) -> str:
        return f"{title} goes from {number(rows['reward'].iloc[0])} to {number(rows['reward'].iloc[-1])}"

    return f"Line chart of reward over training. {each(means, benchmark, arm)}"


def accuracy(data: pd.DataFrame, benchmark: Benchmark) -> str:
    return (
        f"Accuracy on the held-out prompts after training. {seed_points(data)} "
        f"{band(data, benchmark, 'whiskers are 90 % t intervals of the mean over seeds')} "
        "The dashed line is the start checkpoint that all runs share, its band one standard error over prompts. "
        f"Differences between arms are judged within a seed{'' if many_seeds(data) else ': follow the grey lines'}."
    )


def accuracy_alt(data: pd.DataFrame, benchmark: Benchmark) -> str:
    metric = data["metric"].iloc[0]
    rows = data[(data["metric"] == metric) & data["seed"].isna()]
    starts = rows[rows["arm"] == START]
    start = f"Start checkpoint {', '.join(number(value) for value in starts['value'])}. " if len(starts) else ""

    def arm(rows: pd.DataFrame, title: str) -> str:
        return f"{title} {number(rows['value'].iloc[0])}"

    return f"Point chart of held-out {metric}. {start}Means over seeds: {each(rows, benchmark, arm)}"


def density(data: pd.DataFrame, benchmark: Benchmark) -> str:
    return (
        "Above: share of response tokens that are group endpoints, at each step. "
        f"{seed_lines(data)} {band(data, benchmark, f'bands are 90 % t intervals of the mean over seeds ({POOLED})')} "
        "Below: why groups closed, as shares of groups (mean over seeds): the size cap was reached, the variance "
        "criterion split the group, or the response ended. Where the cap closes nearly "
        "everything, the rule is a fixed stride."
    )


def density_alt(data: pd.DataFrame, benchmark: Benchmark) -> str:
    means = data[data["seed"].isna()]

    def arm(rows: pd.DataFrame, title: str) -> str:
        shares = ", ".join(f"{percentage(rows[cause].mean())} by {cause}" for cause in ("cap", "criterion", "end"))
        return f"{title} has a density of {percentage(rows['density'].mean())} over the run, groups closed {shares}"

    return f"Line chart of endpoint density over stacked areas of what closed the groups. {each(means, benchmark, arm)}"


def seconds(data: pd.DataFrame, benchmark: Benchmark) -> str:
    title = benchmark.arms[benchmark.reference].title
    return (
        "Wall-clock seconds of one training step by stage. Each segment is the median over the steps of a run, "
        f"averaged over seeds; {seeds_told(data, benchmark)}. The diamond is the median of whole steps, with its ratio "
        f"to {title}; medians of parts need not add up to it. The rest is time between stages, median over steps. "
        "Arms without a critic have neither values nor update_critic."
    )


def seconds_alt(data: pd.DataFrame, benchmark: Benchmark) -> str:
    whole = data[data["stage"] == WHOLE]

    def arm(rows: pd.DataFrame, title: str) -> str:
        return f"{title} {seconds_text(rows['seconds'].mean())}"

    return f"Stacked bars of stage seconds. Whole steps take: {each(whole, benchmark, arm)}"


def memory(data: pd.DataFrame, benchmark: Benchmark) -> str:
    return (
        "Memory of each stage. Left: the largest memory during the stage over all steps of a run. Right: how far it "
        "rose above the memory at the stage's entry, median over steps. Bars are means over seeds, "
        f"{'thin lines hold 90 % of them' if many_seeds(data) else 'dots single seeds'}; "
        f"{seeds_told(data, benchmark)}. The two scales differ. "
        "Arms without a critic have neither values nor update_critic."
    )


def memory_alt(data: pd.DataFrame, benchmark: Benchmark) -> str:
    whole = data[data["stage"] == WHOLE]

    def arm(rows: pd.DataFrame, title: str) -> str:
        return f"{title} {in_bytes(rows['peak_bytes'].mean())}"

    return f"Bar chart of stage memory. Peak of whole steps: {each(whole, benchmark, arm)}"


def verdicts(data: pd.DataFrame, judged: int, drawn: int) -> str:
    rest, cut = judged - len(data), len(data) - drawn
    others = f" Verdicts without an interval are not drawn ({rest:,})." if rest else ""
    if cut:
        others += f" Of each claim the first tasks and models are drawn; {cut:,} more verdicts are in the CSV."
    return (
        "Each claim on an axis of its own: the claimed region, widened by its margin, and "
        "the estimate with its 90 % interval over seeds. A claim is supported where the interval lies wholly inside "
        f"the region and refuted where it lies wholly outside. Ratios (x) are on a log scale.{others}"
    )


def profiles(data: pd.DataFrame, scores: list[TaskScores], benchmark: Benchmark) -> str:
    seeds = sorted({int(seeds) for seeds in data["seeds"]})
    told = plural(seeds[0], "seed") if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds"
    many = data.groupby("model", observed=True)["arm"].nunique().max() > MOST_BANDS
    bands = "" if many else " Bands are 90 % bootstrap intervals at each threshold, over seeds within tasks."
    narrow = "" if many or seeds[0] >= FEWEST_SEEDS else f" With fewer than {FEWEST_SEEDS} seeds they are too narrow."
    left = {item.arm: len(item.without) for item in scores if item.without}
    without = ", ".join(f"{benchmark.arms[arm].title} ({plural(count, 'seed')})" for arm, count in left.items())
    missing = f" Left out, as a run of that seed is not admissible on some task: {without}." if without else ""
    narrowed = left_out_told(benchmark)
    missing += f" {narrowed}" if narrowed else ""
    return (
        f"Share of runs over {tasks_told(data['tasks'])} and {told} whose held-out accuracy lies "
        "above the threshold. A line that lies higher everywhere is an arm that does better on the whole."
        f"{bands}{narrow}{missing}"
    )


def profiles_alt(data: pd.DataFrame, benchmark: Benchmark) -> str:
    sentences = []
    for model in dict.fromkeys(data["model"]):
        rows = data[(data["model"] == model) & (data["share"] >= 0.5)]
        medians = rows.groupby("arm", observed=True)["threshold"].max()
        told = [f"{benchmark.arms[arm].title} {number(medians[arm])}" for arm in benchmark.arms if arm in medians]
        sentences.append(f"{benchmark.models[model].title}: half of the runs lie above: {'; '.join(told)}.")
    return f"Step chart of performance profiles. {' '.join(sentences)}"


def verdicts_alt(data: pd.DataFrame) -> str:
    told = (f"{row.claim} {row.verdict}, {quantity(row.estimate, row.unit)}" for row in data.itertuples())
    return f"Interval chart of estimates against claimed regions. {'; '.join(told)}."


@dataclass(frozen=True)
class Words:
    """How a figure is put into words; both take the frame that is drawn."""

    caption: Callable[[pd.DataFrame, Benchmark], str]
    alt: Callable[[pd.DataFrame, Benchmark], str]


WORDS = {
    "reward": Words(reward, reward_alt),
    "accuracy": Words(accuracy, accuracy_alt),
    "target": Words(compared.target, compared.target_alt),
    "parity": Words(compared.parity, compared.parity_alt),
    "controls": Words(compared.controls, compared.controls_alt),
    "density": Words(density, density_alt),
    "updates": Words(compared.updates, compared.updates_alt),
    "stage_seconds": Words(seconds, seconds_alt),
    "stage_memory": Words(memory, memory_alt),
}
