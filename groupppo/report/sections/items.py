"""Noise of the held-out items beside that of training seeds, for every accuracy comparison with an interval."""

from collections import Counter
from pathlib import Path
from typing import Any

from groupppo.config import Benchmark
from groupppo.draw.wording import MISSING, number, percentage, plural
from groupppo.errors import BadInput
from groupppo.report.sections.runs import place
from groupppo.report.sections.study import TextCell, TextTable

MOST_LINES = 100
"""Comparisons that the table lists; verdicts.json has all."""
MOST_REASONS = 20
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
_NUMBERS = ("share", "half_width", "of_seeds")
_OPTIONAL = ("share_low", "share_high", "of_choice", "together", "twice_items", "twice_seeds")


def item_noise(verdicts: list[dict[str, Any]], benchmark: Benchmark) -> TextTable | None:
    """The table, comparisons in the claims' order; None where no claim compares accuracies by an interval.

    Args:
        verdicts: of verdicts.json, each of whose item noise `check_item_noise` has passed.
    """
    compared = [verdict for verdict in verdicts if verdict["item_noise"] is not None]
    if not compared:
        return None
    rows = [_row(verdict, benchmark) for verdict in compared[:MOST_LINES]]
    more = len(compared) - MOST_LINES
    left = f" The first {MOST_LINES} of {len(compared):,} comparisons; verdicts.json has all." if more > 0 else ""
    return TextTable(f"{CAPTION}{left}", HEAD, rows)


def bounds_told(verdicts: list[dict[str, Any]]) -> list[str]:
    """Why some comparisons have only a bound: each reason once, the most frequent first, with the number of them."""
    reasons = [verdict["item_noise"]["why"] for verdict in verdicts if verdict["item_noise"]]
    counted = Counter(reason for reason in reasons if reason is not None)
    told = [f"{reason} ({plural(count, 'comparison')})" for reason, count in counted.most_common(MOST_REASONS)]
    more = len(counted) - MOST_REASONS
    return [*told, f"and {plural(more, 'more reason')}; verdicts.json has all"] if more > 0 else told


def share_told(noise: dict[str, Any] | None) -> str:
    """A few words beside an interval, such as "items: 38.2 % of the variance"."""
    if noise is None:
        return ""
    return f"items: {'at most ' if noise['bound'] else ''}{percentage(noise['share'])} of the variance"


def _row(verdict: dict[str, Any], benchmark: Benchmark) -> list[TextCell]:
    noise = verdict["item_noise"]
    where = place(benchmark, verdict["task"], verdict["model"])
    interval = "" if noise["bound"] else f"[{percentage(noise['share_low'])}, {percentage(noise['share_high'])}]"
    return [
        TextCell(verdict["id"], where or verdict["claim"]),
        TextCell(f"{noise['items']:,}"),
        TextCell(percentage(noise["share"]), "at most" if noise["bound"] else interval),
        TextCell(_half(noise["half_width"]), _half(noise["of_seeds"])),
        *(TextCell(_half(noise[key])) for key in ("of_choice", "together", "twice_items", "twice_seeds")),
        TextCell(noise["more"] or MISSING),
    ]


def _half(width: float | None) -> str:
    return MISSING if width is None else f"±{number(width)}"


def check_item_noise(noise: Any, file: Path, key: str) -> None:
    """Refuse item noise of a verdict without numbers where numbers belong.

    Raises:
        BadInput: it is neither null nor of the form of `groupppo.verdicts.item_share.ItemShare`.
    """
    if noise is None:
        return
    if not isinstance(noise, dict):
        raise BadInput(file, key, noise, "decide the verdicts again.")
    for name in (*_NUMBERS, *_OPTIONAL, "items"):
        value = noise.get(name)
        if not (isinstance(value, int | float) or (value is None and name in _OPTIONAL)):
            raise BadInput(file, f"{key}.{name}", value, "decide the verdicts again.")
    for name, kind in (("bound", bool), ("reason", str)):
        if not isinstance(noise.get(name), kind):
            raise BadInput(file, f"{key}.{name}", noise.get(name), "decide the verdicts again.")
    if not isinstance(noise.get("why"), str | None):
        raise BadInput(file, f"{key}.why", noise["why"], "decide the verdicts again.")
    if noise.get("more") not in ("items", "seeds", None):
        raise BadInput(file, f"{key}.more", noise.get("more"), "decide the verdicts again.")
