"""What status.json says about the machine a run was on, as columns of `runs`: a number, or why there is none."""

from typing import Any

from groupppo.tables.records import Record
from groupppo.tables.schema import USAGE_FIGURES

USAGE = "usage"
SOURCES = ("counter", "power", "counter and power")
UNRECORDED = "the run recorded none of it"


def usage_columns(status: Record) -> dict[str, Any]:
    """Columns of `runs` after `wall_seconds`, by name.

    Raises:
        BadInput: a value is of another kind.
    """
    if USAGE not in status.values:
        return {"usage_reason": UNRECORDED}
    usage = status.part(USAGE)
    found = {name: _figure(usage, name, dtype) for name, (dtype, _) in USAGE_FIGURES.items()}
    return {**found, "usage_reason": _reason(usage, [name for name, value in found.items() if value is None])}


def stated_mfu(status: Record) -> dict[str, float]:
    """Every MFU that status.json states, by key."""
    if USAGE not in status.values:
        return {}
    usage = status.part(USAGE)
    stages = usage.part("mfu_by_stage")
    stated = {f"{USAGE}.mfu": usage.real("mfu", missing=True)}
    stated |= {f"{USAGE}.mfu_by_stage.{stage}": stages.real(stage) for stage in stages.values}
    return {key: value for key, value in stated.items() if value is not None}


def _figure(usage: Record, name: str, dtype: str) -> Any:
    if usage.values.get(name) is None:
        return None
    if dtype == "str":
        return usage.text(name, SOURCES)
    return usage.whole(name) if dtype == "Int64" else usage.real(name, least=0.0)


def _reason(usage: Record, names: list[str]) -> str | None:
    """Each reason once, after the columns that it is the reason of."""
    reasons = usage.part("missing").values
    by_reason: dict[str, list[str]] = {}
    for name in names:
        by_reason.setdefault(str(reasons.get(name, "no reason was recorded")), []).append(name)
    return "; ".join(f"{', '.join(those)}: {reason}" for reason, those in by_reason.items()) or None
