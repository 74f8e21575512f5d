"""Numbers as a reader wants them: 0.843, 1.02x, 93.8 %, 12.3 s, 256 MB; intervals as [low, high]."""

import math
from collections import Counter
from collections.abc import Iterable

MISSING = "–"  # noqa: RUF001 - an en dash is what tables of numbers use


def number(value: float | None) -> str:
    """Three decimals below 10 (0.843), one below 100, whole and with thousands marks above; tiny ones as 2.1e-05."""
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "infinity" if value > 0 else "-infinity"
    size = abs(value)
    if 0 < size < 0.001:
        return f"{value:.1e}"
    if size < 10:
        return f"{value:.3f}" if value else "0"
    return f"{value:.1f}" if size < 100 else f"{value:,.0f}"


def ratio(value: float | None) -> str:
    """Two decimals and an x: 1.02x."""
    if value is None or not math.isfinite(value):
        return number(value)
    return f"{value:.2f}x" if abs(value) < 100 else f"{value:,.0f}x"


def percentage(share: float | None) -> str:
    """A share of 1 in percent: 0.9375 is 93.8 %."""
    return number(share) if share is None or not math.isfinite(share) else f"{100 * share:.1f} %"


def seconds_text(value: float | None) -> str:
    """Milliseconds below 0.1 s, then 12.3 s, then minutes from two minutes on, then hours."""
    if value is None or not math.isfinite(value):
        return number(value)
    if abs(value) < 0.1:
        return f"{1000 * value:.3g} ms" if value else "0 s"
    if abs(value) < 120:
        return f"{value:.2f} s" if abs(value) < 10 else f"{value:.1f} s"
    minutes = round(value / 60)
    return (
        f"{round(value) // 60} min {round(value) % 60:02d} s"
        if minutes < 60
        else f"{minutes // 60} h {minutes % 60:02d} min"
    )


def in_bytes(value: float | None) -> str:
    """Decimal units, three significant figures: 256 MB, 4.05 GB."""
    if value is None or not math.isfinite(value):
        return number(value)
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(value) >= 0.9995 * size:
            return f"{value / size:.3g} {unit}" if abs(value) < 999.5 * size else f"{value / size:,.0f} {unit}"
    return f"{value:.0f} B"


def quantity(value: float | None, unit: str) -> str:
    """A value in the form its unit asks for; a unit without a form of its own leaves a bare number."""
    if value is None or not math.isfinite(value):
        return number(value)
    return next((form(value) for start, form in _FORMS.items() if unit.startswith(start)), number(value))


def interval(low: float | None, high: float | None, unit: str) -> str:
    """[low, high], or nothing where there is no interval."""
    return "" if low is None or high is None else f"[{quantity(low, unit)}, {quantity(high, unit)}]"


MOST_REASONS = 20
"""Of many reasons those that a page names."""


def most_frequent(reasons: Counter[str], noun: str, whole: str) -> list[str]:
    """Reasons with the number of things that they hold for, the most frequent first; `whole` has those left out."""
    listed = [f"{reason} ({plural(count, noun)})" for reason, count in reasons.most_common(MOST_REASONS)]
    more = len(reasons) - MOST_REASONS
    return [*listed, f"and {plural(more, 'more reason')}; {whole} has all"] if more > 0 else listed


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def plurals(counts: Iterable[float], noun: str) -> str:
    """Such as "2 tasks", or "2 to 3 tasks" where the counts differ."""
    found = sorted({int(count) for count in counts})
    return plural(found[0], noun) if len(found) == 1 else f"{found[0]} to {found[-1]} {noun}s"


def _signed(value: float) -> str:
    return f"+{number(value)}" if value > 0 else number(value)


# The first word of a unit decides; whole units are the quantities' own.
_FORMS = {"x": ratio, "share": percentage, "difference": _signed, "seconds": seconds_text, "bytes": in_bytes}
