"""What each file of a bundle is: one list, from which a bundle is packed and by which it is checked.

Raw files are what runs, evaluations and measurements recorded; nothing can make them again. Derived files are made from
them by the functions that the workflow uses, and are compared with what they say now. Sources were copied from the
repository, or written from benchmark.yaml. Lists say what is in the bundle. A file that no rule knows is a difference.
"""

import re
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """Where a file's content comes from."""

    RAW = "raw"
    DERIVED = "derived"
    SOURCE = "source"
    LIST = "list"


class Scrub(StrEnum):
    """How the absolute paths of a raw file are taken out before it is published."""

    RECORD = "record"
    SAMPLES = "samples"
    TABLE = "table"
    NONE = "none"


@dataclass(frozen=True)
class Rule:
    """Files whose whole name matches `pattern`; `weights` are packed where they are asked for only."""

    pattern: str
    kind: Kind
    scrub: Scrub = Scrub.NONE
    weights: bool = False


_NAME = r"[^/]+"
_RUN = rf"runs/{_NAME}/{_NAME}/{_NAME}/{_NAME}"
_ASIDE = r"(?:failed/)?"
_EVALUATION = rf"evals/{_NAME}/{_NAME}/(?:start|{_NAME}/{_NAME})"
_WEIGHTS = r"(?:safetensors|json|jinja|txt|model)"
RECORD, STAMP, PAGE, MARKDOWN, VERDICTS = (
    "benchmark.yaml",
    "preregistration.json",
    "report.html",
    "report.md",
    "verdicts.json",
)
ITEMS = "evals/items.parquet"
LOCKS = ("requirements/cpu.lock", "requirements/gpu.lock", "environment.yml", "environment.post-deploy.sh")
RIGHTS = ("LICENSE", "CITATION.cff")
MANIFEST, METADATA, SUMS = "manifest.json", "ro-crate-metadata.json", "SHA256SUMS"
STEP_TABLES = ("tables/steps.parquet", "tables/stages.parquet")
"""Raw where no run has steps.jsonl: bundles of before they were packed."""

RULES = (
    Rule(rf"{RECORD}|{STAMP}", Kind.RAW, Scrub.RECORD),
    Rule(rf"{_RUN}/{_ASIDE}(?:status\.json|provenance\.json|config\.yaml)", Kind.RAW, Scrub.RECORD),
    Rule(rf"{_RUN}/{_ASIDE}(?:steps|stages)\.jsonl", Kind.RAW),
    Rule(rf"{_RUN}/(?:checkpoint|critic)/(?:.+/)?config\.json", Kind.RAW, Scrub.RECORD, weights=True),
    Rule(rf"{_RUN}/(?:checkpoint|critic)/.+\.{_WEIGHTS}", Kind.RAW, weights=True),
    Rule(rf"{_EVALUATION}/(?:result|results_{_NAME})\.json", Kind.RAW, Scrub.RECORD),
    Rule(rf"{_EVALUATION}/samples_{_NAME}\.jsonl", Kind.RAW, Scrub.SAMPLES),
    Rule(re.escape(ITEMS), Kind.RAW),
    Rule(rf"assets/tasks/{_NAME}/card\.json", Kind.RAW, Scrub.RECORD),
    Rule(rf"assets/starts/{_NAME}/{_NAME}/warmstart\.jsonl?", Kind.RAW, Scrub.RECORD),
    Rule(rf"assets/starts/{_NAME}/{_NAME}/config\.json", Kind.RAW, Scrub.RECORD, weights=True),
    Rule(rf"assets/starts/{_NAME}/{_NAME}/.+\.{_WEIGHTS}", Kind.RAW, weights=True),
    Rule(rf"studies/{_NAME}/{_NAME}/(?:study\.json|{_NAME}\.csv)", Kind.RAW, Scrub.RECORD),
    Rule(rf"profile/measured/{_NAME}\.json", Kind.RAW, Scrub.RECORD),
    Rule(r"profile/found\.json", Kind.RAW, Scrub.RECORD),
    Rule(r"pilot/benchmark\.yaml", Kind.RAW, Scrub.RECORD),
    Rule(r"pilot/sweep\.parquet", Kind.RAW, Scrub.TABLE),
    Rule(rf"tables/{_NAME}\.parquet", Kind.DERIVED),
    Rule(rf"{_EVALUATION}/lm_eval/{_NAME}\.yaml", Kind.DERIVED),
    Rule(rf"{VERDICTS}|{PAGE}|{MARKDOWN}", Kind.DERIVED),
    Rule(rf"profile/tables/{_NAME}\.(?:csv|parquet)", Kind.DERIVED),
    Rule(rf"(?:profile/|studies/{_NAME}/{_NAME}/)?figures/{_NAME}\.(?:csv|svg|png|json)", Kind.DERIVED),
    Rule(r"pilot/sweep\.(?:csv|svg|png)", Kind.DERIVED),
    Rule("|".join(map(re.escape, (*LOCKS, *RIGHTS))), Kind.SOURCE),
    Rule(r"config/.+\.(?:yaml|py)", Kind.SOURCE),
    Rule("|".join(map(re.escape, (MANIFEST, METADATA, SUMS))), Kind.LIST),
)
_PATTERNS = tuple((re.compile(rule.pattern), rule) for rule in RULES)


def rule_of(name: str) -> Rule | None:
    """The first rule that knows the file; None for a file that belongs into no bundle."""
    return next((rule for pattern, rule in _PATTERNS if pattern.fullmatch(name)), None)


def is_picture(name: str) -> bool:
    """Whether it is drawn: its pixels depend on the drawing library, its numbers are in a CSV file beside it."""
    return name.endswith((".svg", ".png"))
