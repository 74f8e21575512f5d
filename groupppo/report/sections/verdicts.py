"""The verdicts, what all those on one claim share, and what was registered before the first run."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from groupppo.config import Benchmark
from groupppo.draw.blocks import (
    Block,
    Details,
    Link,
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
)
from groupppo.draw.blocks import strong as bold
from groupppo.draw.captions import place
from groupppo.draw.figures import read_figures
from groupppo.draw.wording import MISSING, interval, percentage, plural, quantity
from groupppo.report.sections import PROFILE, Results, Verdict
from groupppo.verdicts.item_share import ItemShare
from groupppo.verdicts.preregistration import Stamp, read_stamp
from groupppo.verdicts.quantities import COSTS

ANSWERS = {
    "supported": "supported",
    "refuted": "refuted",
    "inconclusive": "inconclusive",
    "identity": "true by arithmetic alone",
    "not testable": "not testable",
    "not measurable here": "not measurable here",
}
MEANINGS = (
    ("supported", "The interval lies wholly inside the claimed region."),
    ("refuted", "The interval lies wholly outside it."),
    (
        "inconclusive",
        "Anything else; “needed” is the number of seeds that would decide it at the spread seen here.",
    ),
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
    verdicts = results.judged.verdicts
    stamp = read_stamp(results.folder, results.benchmark)
    blocks: list[Block] = [
        verdict_table(results),
        Details("What the verdicts mean", [Terms(MEANINGS)]),
        _registered(stamp, results.judged.claims_sha256),
    ]
    yield Section("verdicts", "", "Verdicts", 10, blocks, markdown=True)
    if results.several_cells and verdicts:
        claims = list({verdict.id: verdict for verdict in verdicts}.values())
        yield Section("claims", "Claims", "Claims", 20, [_claim_table(claims, results.benchmark)])


def answer(verdicts: Sequence[Verdict]) -> str:
    """A few sentences: how many of the verdicts are of each kind, those on measurements from elsewhere counted apart,
    and how many claims are not asked here."""
    asked = [verdict for verdict in verdicts if verdict.asked]
    own = Counter(verdict.verdict for verdict in asked if verdict.elsewhere is None)
    elsewhere = [verdict.elsewhere for verdict in asked if verdict.elsewhere is not None]
    here = " on what was run here" if elsewhere else ""
    sentences = [_counted(own, here) if own else f"No claim was tested{here}."]
    if elsewhere:
        others = Counter(verdict.verdict for verdict in asked if verdict.elsewhere is not None)
        published = all(where.published for where in elsewhere)
        sentences.append(
            _counted(
                others, f" on {'published measurements, not made here' if published else 'measurements made elsewhere'}"
            )
        )
    unasked = len(verdicts) - len(asked)
    if unasked:
        sentences.append(f"{unasked} more {'is' if unasked == 1 else 'are'} about what this benchmark leaves out.")
    return " ".join(sentences)


def _counted(counts: Counter[str], of_what: str) -> str:
    """Such as "Of 3 verdicts, 1 is supported and 2 are refuted."""
    parts = [
        f"{counts[kind]} {'is' if counts[kind] == 1 else 'are'} {words}"
        for kind, words in ANSWERS.items()
        if counts[kind]
    ]
    listed = " and ".join(part for part in (", ".join(parts[:-1]), parts[-1]) if part)
    return f"Of {plural(counts.total(), 'verdict')}{of_what}, {listed}."


def verdict_table(results: Results) -> Table:
    """The verdicts in their order, what the benchmark does not ask last; those on one claim that have no number and the
    same reason are one row."""
    alike: dict[tuple[Any, ...], list[Verdict]] = {}
    for i, verdict in enumerate(results.judged.verdicts):
        bare = verdict.estimate is None and not verdict.seeds and verdict.item_noise is None
        key = (verdict.verdict, verdict.reason, verdict.evidence.file) if bare else (i,)
        alike.setdefault((verdict.id, *key), []).append(verdict)
    groups = sorted(alike.values(), key=lambda group: not group[0].asked)
    drawn = {record.id for record in results.figures}
    if results.benchmark.profile is not None:
        drawn |= {record.id for record in read_figures(results.folder / PROFILE / "figures")}
    caption = (
        "Each claim, the reading of GROUP-PPO it is about, and what these runs say. Estimates with their "
        f"{100 * results.judged.level:g} % interval over training seeds."
    )
    if any(verdict.elsewhere for verdict in results.judged.verdicts):
        caption += f" What is marked as {NOT_HERE} rests on measurements that these runs did not make."
    if not all(verdict.asked for verdict in results.judged.verdicts):
        caption += " Claims about arms, studies or a profile that this benchmark leaves out stand last."
    head = ["Claim", "Reading", "Verdict", "Estimate", "Basis", "Reason", "Rows"]
    rows = [_row(group, results, drawn) for group in groups]
    return Table("Verdicts", caption, head, rows, kind="sortable", id="verdict-table")


def _row(alike: list[Verdict], results: Results, drawn: set[str]) -> list[TextCell]:
    verdict, brief = alike[0], results.several_cells
    where = _places(alike, results.benchmark)
    words: list[Words] = [where] if where else []
    arm = f"Arm: {_arm(verdict, results.benchmark)}"
    if brief:
        reading = TextCell(Link(verdict.id, f"#claim-{verdict.id}"))
    elif verdict.asked:
        reading = TextCell(verdict.reading, [arm, code(verdict.id)])
        words.append(verdict.source)
    else:
        reading = TextCell(code(verdict.id), arm, (("Reading", verdict.reading),))
    marks: list[Words] = [Span(NOT_HERE, "warning")] if verdict.elsewhere else []
    marks += [f"{len(alike)} verdicts"] if len(alike) > 1 else []
    unit = "" if verdict.unit == "x" or verdict.estimate is None else verdict.unit
    under: list[Words] = [line for line in (interval(verdict.low, verdict.high, verdict.unit), unit) if line]
    under += [Link(share_in_words(verdict.item_noise), "#items")] if verdict.item_noise else []
    basis = verdict.replicates or (plural(verdict.seeds, "seed") if verdict.seeds else MISSING)
    changes = (("What would change it", verdict.what_would_change),) if verdict.asked and not brief else ()
    return [
        TextCell(bold(verdict.claim) if verdict.asked else verdict.claim, words),
        reading,
        TextCell(badge(verdict.verdict), marks),
        TextCell(quantity(verdict.estimate, verdict.unit), under),
        TextCell(basis, "" if verdict.seeds_needed is None else f"{verdict.seeds_needed} needed"),
        TextCell(
            verdict.reason, Span(_elsewhere(verdict), "warning") if verdict.elsewhere else "", changes, mark="break"
        ),
        _rows(verdict, drawn),
    ]


def _rows(verdict: Verdict, drawn: set[str]) -> TextCell:
    if not verdict.asked:
        return TextCell("")
    evidence = verdict.evidence
    table = Link(evidence.table, evidence.file) if evidence.file else evidence.table
    figure = (Link("figure", f"#figure-{verdict.figure}"), ", ") if verdict.figure in drawn else ()
    return TextCell((*figure, table), details=(("rows", code(evidence.rows)),) if evidence.rows else ())


def _arm(verdict: Verdict, benchmark: Benchmark) -> str:
    return benchmark.arms[verdict.arm].title if verdict.arm in benchmark.arms else verdict.arm


def _elsewhere(verdict: Verdict) -> str:
    words = verdict.elsewhere.told() if verdict.elsewhere else ""
    return f"{words}; a count, the same on every machine" if COSTS[verdict.quantity].counted else words


def _places(alike: list[Verdict], benchmark: Benchmark) -> str:
    """The tasks and models of a row; counted where they are all or more than a few."""
    cells = len(benchmark.plans())
    if len(alike) > 1 and len(alike) == cells:
        return f"all {cells} tasks and models"
    named = [place(benchmark, verdict.task, verdict.model) for verdict in alike[:3] if verdict.task]
    more = len(alike) - len(named)
    return f"{'; '.join(named)}{f'; and {more} more' if named and more else ''}"


def share_in_words(noise: ItemShare) -> str:
    """Such as "items: 38.2 % of the variance"."""
    return f"items: {'at most ' if noise.bound else ''}{percentage(noise.share)} of the variance"


def _claim_table(claims: Sequence[Verdict], benchmark: Benchmark) -> Table:
    caption = (
        "What the verdicts on all tasks and models share: where a claim comes from, how it is read and measured, which "
        "table has its evidence, and what would change its verdict."
    )
    head = ["Claim", "Reading", "Comparison", "Table", "What would change it"]
    rows: list[Row] = [
        [
            TextCell(bold(claim.claim), [claim.id, claim.source], id=f"claim-{claim.id}"),
            TextCell(claim.reading, f"Arm: {_arm(claim, benchmark)}"),
            claim.comparison,
            claim.evidence.table,
            claim.what_would_change,
        ]
        for claim in claims
    ]
    return Table("Claims", caption, head, rows, kind="prose")


def _registered(stamp: Stamp | None, claims_sha256: str) -> Block:
    """Whether claims, margins and matrix are still those of before the first run."""
    if stamp is None:
        missing = (
            "No stamp says what was fixed before the first run: ",
            code("preregistration.json"),
            f" is missing. Claims are those of the file with SHA-256 {claims_sha256}.",
        )
        return Warn([Text(missing)])
    if stamp.changes:
        words = (
            f"{plural(len(stamp.changes), 'value')} changed after the first run started ({stamp.at}). A verdict that "
            "rests on a changed value was not registered beforehand."
        )
        rows = [
            [
                TextCell(code(change.key), mark="break"),
                *(TextCell(x, mark="break") for x in (change.registered, change.now)),
            ]
            for change in stamp.changes
        ]
        table = Table(
            "Changes since the first run",
            "Registered before the first run, and now.",
            ["Key", "Registered", "Now"],
            rows,
        )
        return Warn([Text(words), table])
    commit = f", commit {stamp.commit}" if stamp.commit else ""
    commit += " with uncommitted changes" if stamp.commit and not stamp.clean else ""
    words = (
        f"Claims, margins and matrix are those that were registered when the first run started, {stamp.at}{commit} (",
        Link("preregistration.json", "preregistration.json"),
        f"; SHA-256 of the claims' content {stamp.claims_sha256}, of the matrix {stamp.matrix_sha256}).",
    )
    return Text(words, "small")
