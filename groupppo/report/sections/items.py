"""Noise of the held-out items beside that of training seeds, for every accuracy comparison with an interval."""

from collections import Counter
from collections.abc import Iterator, Sequence

from groupppo.config import Benchmark
from groupppo.draw.blocks import Block, Details, List, Section, Table, Text, TextCell
from groupppo.draw.captions import place
from groupppo.draw.wording import MISSING, most_frequent, number, percentage
from groupppo.report.sections import Results, Verdict

MOST_LINES = 100
"""Comparisons that the table lists; verdicts.json has all."""
CAPTION = (
    "Half-widths of intervals of a difference in accuracy. Item noise is the part of the spread over seeds that comes "
    "from having so many held-out items and not more: with each seed an arm is right on other items. The choice of the "
    "items is the same for all seeds and not in the interval over seeds. Both together is what the claim knows about "
    "all items like these; the last column says what would narrow it more, twice the items or twice the seeds."
)
HEAD = [
    "Comparison",
    "Items",
    "Item noise, share of the variance over seeds",
    "Interval over seeds, and with endless items",
    "Choice of items",
    "Both together",
    "Twice the items",
    "Twice the seeds",
    "More helps more",
]


def sections(results: Results) -> Iterator[Section]:
    compared = [verdict for verdict in results.judged.verdicts if verdict.item_noise is not None]
    if not compared:
        return
    more = len(compared) - MOST_LINES
    left = f" The first {MOST_LINES} of {len(compared):,} comparisons; verdicts.json has all." if more > 0 else ""
    shown = compared[:MOST_LINES]
    rows = [_row(verdict, results.benchmark) for verdict in shown]
    blocks: list[Block] = [Table("Item noise", f"{CAPTION}{left}", HEAD, rows)]
    reasons = bounds(compared)
    if reasons:
        why = "“At most” is what the standard errors of two independent arms would make. Why no more is known:"
        blocks += [Text(why), List(reasons)]
    said = [
        f"{_name(verdict, results.benchmark)}: {verdict.item_noise.reason}" for verdict in shown if verdict.item_noise
    ]
    blocks.append(Details("Each comparison in words", [List(said)]))
    yield Section("items", "Noise of the held-out items", "Item noise", 25, blocks, markdown=True)


def bounds(verdicts: Sequence[Verdict]) -> list[str]:
    """Why some comparisons have only a bound: each reason once, the most frequent first, with the number of them."""
    counted = Counter(verdict.item_noise.why for verdict in verdicts if verdict.item_noise and verdict.item_noise.why)
    return most_frequent(counted, "comparison", "verdicts.json")


def _name(verdict: Verdict, benchmark: Benchmark) -> str:
    where = place(benchmark, verdict.task, verdict.model)
    return f"{verdict.id} ({where})" if where else verdict.id


def _row(verdict: Verdict, benchmark: Benchmark) -> list[TextCell | str]:
    noise = verdict.item_noise
    assert noise is not None
    interval = f"[{percentage(noise.share_low)}, {percentage(noise.share_high)}]"
    return [
        TextCell(verdict.id, place(benchmark, verdict.task, verdict.model) or verdict.claim),
        f"{noise.items:,}",
        TextCell(percentage(noise.share), "at most" if noise.bound else interval),
        TextCell(_half(noise.half_width), _half(noise.of_seeds)),
        *(_half(width) for width in (noise.of_choice, noise.together, noise.twice_items, noise.twice_seeds)),
        noise.more or MISSING,
    ]


def _half(width: float | None) -> str:
    return MISSING if width is None else f"±{number(width)}"
