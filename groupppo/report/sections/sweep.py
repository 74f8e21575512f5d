"""The pilot's sweep of learning rates: table, figure, and what the seeds were counted from."""

from collections.abc import Iterator

import pandas as pd

from groupppo.config import Benchmark
from groupppo.config.benchmark import RATE_KEY
from groupppo.draw.blocks import Block, FigureBlock, Section, Table, Text, TextCell
from groupppo.draw.wording import MISSING, number
from groupppo.report.figures.sweep import FOLDER, pilot_place, read_rows, sweep_picture
from groupppo.report.sections import Results
from groupppo.stats.power import seeds_for_equivalence
from groupppo.verdicts.claims import EQUIVALENCE, Claims, load_claims
from groupppo.verdicts.sweep import METRIC, at_an_end, chosen_rates, paired_spread


def sections(results: Results) -> Iterator[Section]:
    benchmark = results.benchmark
    if benchmark.pilot is None:
        return
    rows = read_rows(results.folder, benchmark.pilot)
    seeds = _seeds_needed(rows, benchmark, load_claims(benchmark.claims))
    figure = FigureBlock(sweep_picture(rows, benchmark).record, FOLDER)
    blocks: list[Block] = [Text(f"{pilot_place(rows)} {seeds}"), _table(rows, benchmark), figure]
    yield Section("sweep", "Learning rates", "Learning rates", 80, blocks, markdown=True)


def _table(rows: pd.DataFrame, benchmark: Benchmark) -> Table:
    best, rates = chosen_rates(rows), sorted(set(rows["rate"]))
    lines = []
    for arm, own in rows.groupby("arm", sort=False):
        cells, chosen = [], best[str(arm)]
        for rate in rates:
            values = own[own["rate"] == rate]["accuracy"]
            mean = f"{'best: ' if rate == chosen else ''}{number(values.mean())}"
            cells.append(TextCell(mean, " ".join(map(number, values))) if len(values) else TextCell(MISSING))
        here = TextCell(MISSING, "not in this benchmark")
        if arm in benchmark.arms:
            rate = float(benchmark.arms[str(arm)].verl.get(RATE_KEY, benchmark.train.actor_lr))
            here = TextCell(f"{rate:g}", "" if rate == chosen else f"not the pilot's best, {chosen:g}")
        lines.append([own["title"].iloc[0], *cells, here])
    seeds = ", ".join(map(str, sorted(set(rows["seed"]))))
    caption = (
        f"Mean held-out {METRIC} of the pilot's runs (seeds {seeds}, which this benchmark does not use), below it each "
        "seed's. Every arm was swept over the same rates; the best mean chose the rate that this benchmark trains at."
    )
    return Table("The pilot's sweep", caption, ["Arm", *(f"rate {rate:g}" for rate in rates), "Trained here at"], lines)


def _seeds_needed(rows: pd.DataFrame, benchmark: Benchmark, claims: Claims) -> str:
    title = benchmark.arms[benchmark.reference].title
    spread, freedom = paired_spread(rows, benchmark.reference)
    text = (
        f"The paired difference of held-out {METRIC} to {title}, each arm at its best rate, has a standard deviation "
        f"of {number(spread)} (pooled over arms, {freedom} degrees of freedom)."
    )
    for margin in sorted({claim.margin for claim in claims.claims if claim.rule == EQUIVALENCE and claim.margin}):
        needed = seeds_for_equivalence(spread, margin, claims.level, claims.power)
        asks = f"{needed} seeds" if needed else "more seeds than anyone trains"
        text += f" Equivalence within {margin:g} with {claims.power:.0%} power asks for {asks}."
    titles = dict(zip(rows["arm"], rows["title"], strict=True))
    ends = ", ".join(titles[arm] for arm in at_an_end(rows))
    return text + (f" The best rate is an end of the sweep for: {ends}." if ends else "")
