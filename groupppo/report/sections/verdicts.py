"""The verdicts, the claims that they are on, and what was registered before the first run."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path

from groupppo.config import Benchmark
from groupppo.draw.blocks import (
    Block,
    Details,
    Link,
    List,
    Row,
    Section,
    Span,
    Table,
    Terms,
    Text,
    TextCell,
    Warn,
    Words,
    badge,
    code,
    strong,
)
from groupppo.draw.figures import place, read_figures
from groupppo.draw.wording import MISSING, interval, percentage, plural, quantity
from groupppo.report.sections import PROFILE, Results, Verdict
from groupppo.verdicts.claims import load_claims
from groupppo.verdicts.engine import left_out
from groupppo.verdicts.item_share import ItemShare
from groupppo.verdicts.preregistration import Stamp, read_stamp
from groupppo.verdicts.quantities import COSTS
from groupppo.verdicts.rules import VERDICTS

MEANINGS = (
    ("supported", "The interval lies wholly inside the claimed region."),
    ("refuted", "The interval lies wholly outside it."),
    ("inconclusive", "Anything else; “needed” is the number of seeds that would decide it at the spread seen here."),
    ("identity", "True by arithmetic; it measures nothing."),
    (
        "not testable",
        "These runs cannot answer: the benchmark leaves out what the claim is about, a run is no evidence, or nothing "
        "was learnt that could differ.",
    ),
    ("not measurable here", "It needs hardware that this evidence does not have."),
)
NOT_HERE = "not measured here"


def sections(results: Results) -> Iterator[Section]:
    verdicts, stamp = results.judged.verdicts, read_stamp(results.folder, results.benchmark)
    blocks: list[Block] = [verdict_table(results), Details("What the verdicts mean", [Terms(MEANINGS)])]
    unasked = list(dict.fromkeys(f"{verdict.id}: {verdict.reason}" for verdict in verdicts if not verdict.asked))
    if unasked:
        blocks.append(Details(f"What this benchmark leaves out ({plural(len(unasked), 'claim')})", [List(unasked)]))
    blocks += _files(results.benchmark)
    blocks.append(_registered(stamp, results.judged.claims_sha256))
    yield Section("verdicts", "", "Verdicts", 10, blocks, markdown=True)
    claims = list({verdict.id: verdict for verdict in verdicts}.values())
    if claims:
        yield Section("claims", "Claims", "Claims", 89, [_claims(claims, results.benchmark)], markdown=True)


def _files(benchmark: Benchmark) -> list[Block]:
    """Which methods' claims the benchmark names, and how many of them are about arms that it does not have."""
    if isinstance(benchmark.claims, Path):
        return []
    claims = load_claims(benchmark.claims)
    absent = left_out(claims, benchmark)
    named = f"Claims of {', '.join(file.stem for file in benchmark.claims_files)}: {len(claims.claims)}"
    return [Text(f"{named}, {len(absent)} of them about arms that this benchmark does not have.", "small")]


def answer(verdicts: Sequence[Verdict]) -> str:
    """How many verdicts there are of each kind, those on measurements from elsewhere apart; claims that the benchmark
    does not ask are not counted."""
    asked = [verdict for verdict in verdicts if verdict.asked]
    here = [verdict for verdict in asked if verdict.elsewhere is None]
    there = [verdict for verdict in asked if verdict.elsewhere is not None]
    counted = _counted(here, "what was run here") if here else "No claim was tested on what was run here."
    if not there:
        return counted
    published = all(verdict.elsewhere and verdict.elsewhere.published for verdict in there)
    place = "published measurements, not made here" if published else "measurements made elsewhere"
    return f"{counted} {_counted(there, place)}"


def _counted(verdicts: Sequence[Verdict], of_what: str) -> str:
    counts = Counter(verdict.verdict for verdict in verdicts)
    kinds = ", ".join(f"{counts[kind]} {kind}" for kind in VERDICTS if counts[kind])
    return f"{plural(len(verdicts), 'verdict')} on {of_what}: {kinds}."


def verdict_table(results: Results) -> Table:
    """The verdicts that the benchmark asks for; those on one claim that have no number and the same reason are one
    row."""
    alike: dict[Hashable, list[Verdict]] = defaultdict(list)
    for i, verdict in enumerate(results.judged.verdicts):
        bare = verdict.estimate is None and not verdict.seeds and verdict.item_noise is None
        if verdict.asked:
            alike[verdict.id, (verdict.verdict, verdict.reason, verdict.evidence.file) if bare else i].append(verdict)
    records = list(results.figures)
    if results.benchmark.profile is not None:
        records += read_figures(results.folder / PROFILE / "figures")
    caption = (
        f"Each claim and what these runs say. Estimates with their {100 * results.judged.level:g} % interval over "
        f"training seeds. What is marked as {NOT_HERE} rests on measurements that these runs did not make."
    )
    head = ["Claim", "Reading", "Verdict", "Estimate", "Basis", "Reason", "Rows"]
    rows = [_row(group, results.benchmark, {record.id for record in records}) for group in alike.values()]
    return Table("Verdicts", caption, head, rows, kind="sortable", id="verdict-table")


def _row(alike: list[Verdict], benchmark: Benchmark, drawn: set[str]) -> list[TextCell]:
    verdict, evidence = alike[0], alike[0].evidence
    marks: list[Words] = [Span(NOT_HERE, "warning")] if verdict.elsewhere else []
    marks += [f"{len(alike)} verdicts"] if len(alike) > 1 else []
    unit = "" if verdict.unit == "x" or verdict.estimate is None else verdict.unit
    under: list[Words] = [line for line in (interval(verdict.low, verdict.high, verdict.unit), unit) if line]
    under += [Link(share_in_words(verdict.item_noise), "#items")] if verdict.item_noise else []
    figure = (Link("figure", f"#figure-{verdict.figure}"), ", ") if verdict.figure in drawn else ()
    table = Link(evidence.table, evidence.file) if evidence.file else evidence.table
    return [
        TextCell(strong(verdict.claim), _places(alike, benchmark)),
        TextCell(Link(verdict.id, f"#claim-{verdict.id}")),
        TextCell(badge(verdict.verdict), marks),
        TextCell(quantity(verdict.estimate, verdict.unit), under),
        TextCell(
            verdict.replicates or (plural(verdict.seeds, "seed") if verdict.seeds else MISSING),
            "" if verdict.seeds_needed is None else f"{verdict.seeds_needed} needed",
        ),
        TextCell(verdict.reason, Span(_elsewhere(verdict), "warning") if verdict.elsewhere else "", mark="break"),
        TextCell((*figure, table), details=(("rows", code(evidence.rows)),) if evidence.rows else ()),
    ]


def _elsewhere(verdict: Verdict) -> str:
    words = verdict.elsewhere.told() if verdict.elsewhere else ""
    return f"{words}; a count, the same on every machine" if COSTS[verdict.quantity].counted else words


def _places(alike: list[Verdict], benchmark: Benchmark) -> str:
    """The tasks and models of a row; counted where they are all or more than a few."""
    cells = len(benchmark.plans())
    if 1 < len(alike) == cells:
        return f"all {cells} tasks and models"
    named = [place(benchmark, verdict.task, verdict.model) for verdict in alike[:3] if verdict.task]
    more = len(alike) - len(named)
    return f"{'; '.join(named)}{f'; and {more} more' if named and more else ''}"


def share_in_words(noise: ItemShare) -> str:
    """Such as "items: 38.2 % of the variance"."""
    return f"items: {'at most ' if noise.bound else ''}{percentage(noise.share)} of the variance"


def _claims(claims: Sequence[Verdict], benchmark: Benchmark) -> Table:
    caption = (
        "Where a claim comes from, how it is read and measured, which table has its evidence, and what would change "
        "its verdict."
    )
    head = ["Claim", "Reading", "Comparison", "Table", "What would change it"]
    rows: list[Row] = []
    for claim in claims:
        arm = benchmark.arms[claim.arm].title if claim.arm in benchmark.arms else claim.arm
        name = TextCell(strong(claim.claim), [claim.id, claim.source], id=f"claim-{claim.id}")
        reading = TextCell(claim.reading, f"Arm: {arm}")
        rows.append([name, reading, claim.comparison, claim.evidence.table, claim.what_would_change])
    return Table("Claims", caption, head, rows, kind="prose")


def _registered(stamp: Stamp | None, claims_sha256: str) -> Block:
    """Whether claims, margins and matrix are still those of before the first run."""
    file = Link("preregistration.json", "preregistration.json")
    if stamp is None:
        none = "No stamp says what was fixed before the first run: preregistration.json is missing."
        return Warn([Text(f"{none} Claims are those of the file with SHA-256 {claims_sha256}.")])
    if stamp.changes:
        changed = (
            f"{plural(len(stamp.changes), 'value')} changed after the first run started ({stamp.at}). A verdict that "
            "rests on a changed value was not registered beforehand."
        )
        rows = [
            [TextCell(words, mark="break") for words in (code(change.key), change.registered, change.now)]
            for change in stamp.changes
        ]
        head = ["Key", "Registered", "Now"]
        return Warn([Text(changed), Table("Changes", "Registered before the first run, and now.", head, rows)])
    dirty = "" if stamp.clean else " with uncommitted changes"
    commit = f", commit {stamp.commit}{dirty}" if stamp.commit else ""
    first = (
        f"Claims, margins and matrix are those that were registered when the first run started, {stamp.at}{commit} ("
    )
    hashes = f"; SHA-256 of the claims' content {stamp.claims_sha256}, of the matrix {stamp.matrix_sha256})."
    return Text((first, file, hashes), "small")
