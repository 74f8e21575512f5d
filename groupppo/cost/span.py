"""A range: what something costs at least and at most."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high:
            raise ValueError(f"no range of a cost: {self.low} to {self.high}")

    def __add__(self, other: "Span") -> "Span":
        return Span(self.low + other.low, self.high + other.high)

    def __mul__(self, factor: float) -> "Span":
        return Span(self.low * factor, self.high * factor)

    def over(self, speed: "Span") -> "Span":
        """Work over a range of speeds."""
        return Span(self.low / speed.high, self.high / speed.low)

    def widened(self, factor: float) -> "Span":
        """Both ends moved apart by a factor."""
        return Span(self.low / factor, self.high * factor)

    def below(self, limit: float) -> "Span":
        return Span(min(self.low, limit), min(self.high, limit))

    def text(self, unit: float = 1.0, suffix: str = "") -> str:
        """Both ends in a unit, two digits of each: "0.34 - 1.4"."""
        return f"{_short(self.low / unit)} - {_short(self.high / unit)}{suffix}"

    def bytes_text(self) -> str:
        """Both ends in the decimal unit that fits the higher one: "16 - 81 MB"."""
        unit, name = next(((10.0**power, name) for power, name in _UNITS if self.high >= 10.0**power), (1.0, "B"))
        return self.text(unit, f" {name}")


NOTHING = Span(0.0, 0.0)
_UNITS = ((12, "TB"), (9, "GB"), (6, "MB"), (3, "kB"))


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def around(values: Iterable[float]) -> Span:
    """The range of some values."""
    found = list(values)
    return Span(min(found), max(found))


def largest(spans: Iterable[Span]) -> Span:
    """The largest of both ends; there must be one."""
    found = list(spans)
    return Span(max(span.low for span in found), max(span.high for span in found))


def total(spans: Iterable[Span]) -> Span:
    return sum(spans, NOTHING)
