"""Noise of the held-out items beside that of training seeds, for every accuracy comparison with an interval."""

from collections.abc import Iterator

from groupppo.draw.blocks import MOST_ROWS, Details, List, Row, Section, Table, TextCell
from groupppo.draw.figures import place
from groupppo.draw.wording import MISSING, number, percentage
from groupppo.report.sections import Results

CAPTION = (
    "Half-widths of intervals of a difference in accuracy. Item noise is the part of the spread over seeds that comes "
    "from having so many held-out items and not more: with each seed an arm is right on other items; “at most” is what "
    "the standard errors of two independent arms would make. The choice of the items is the same for all seeds and not "
    "in the interval over seeds. Both together is what the claim knows about all items like these; the last column "
    "says what would narrow it more, twice the items or twice the seeds."
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
    rows, said = list[Row](), list[str]()
    for verdict in results.judged.verdicts:
        noise, where = verdict.item_noise, place(results.benchmark, verdict.task, verdict.model)
        if noise is None:
            continue
        interval = f"[{percentage(noise.share_low)}, {percentage(noise.share_high)}]"
        rows.append(
            [
                TextCell(verdict.id, where or verdict.claim),
                f"{noise.items:,}",
                TextCell(percentage(noise.share), "at most" if noise.bound else interval),
                TextCell(half(noise.half_width), half(noise.of_seeds)),
                *map(half, (noise.of_choice, noise.together, noise.twice_items, noise.twice_seeds)),
                noise.more or MISSING,
            ]
        )
        said.append(f"{verdict.id}{f' ({where})' if where else ''}: {noise.reason}")
    if rows:
        table = Table("Item noise", CAPTION, HEAD, rows, whole="verdicts.json")
        words = Details("Each comparison in words", [List(said[:MOST_ROWS])])
        yield Section("items", "Noise of the held-out items", "Item noise", 25, [table, words], markdown=True)


def half(width: float | None) -> str:
    return MISSING if width is None else f"±{number(width)}"
