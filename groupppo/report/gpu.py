"""The page of `groupppo gpu-check`: what works on this machine in a line, then every row with its numbers and bounds.

It is made of the record alone, needs jinja2 and nothing that draws, and is the same again for the same record.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from groupppo.draw.blocks import Block, Details, Page, Row, Section, Table, Terms, Text, TextCell, Words, strong
from groupppo.draw.wording import MISSING, in_bytes, number, percentage, seconds_text
from groupppo.profile.gpu import Bound, Number
from groupppo.profile.gpu import Row as Tried
from groupppo.profile.gpu_check import WRONG, Record, by_check
from groupppo.report.render import html
from groupppo.update.variants import MEASURED

TITLES = {
    "machine": ("The machine", "What PyTorch sees, and what one large product of matrices reaches."),
    "recursions": (
        "Grouping",
        "The loops over tokens, compiled, against Python's own, and every rule on tensors of the device against the "
        "CPU: tokens that differ. A run's advantage stage works on CPU tensors.",
    ),
    "exact": (
        "Gradients in float32",
        "Whole gradients of updates that are equal on paper, at a small width; and endpoints one token late, which "
        "must differ.",
    ),
    "loop": ("A reinforcement loop", "Sample, group, estimate, update by the gathered pass; a token below 16 earns 1."),
    "attention": (
        "Attention",
        "Which of torch's kernels serve one layer of a pass, asked one by one; the kernel is the one that ran.",
    ),
    "updates": (
        "Updates",
        "One sequence forward and backward in bfloat16, random weights. Memory is the allocator's peak above what was "
        "held, beside what groupppo/update/memory.py counts; MFU credits no layer that runs a second time.",
    ),
    "runs": ("Runs of verl", "Five steps of each kind of arm, through the launcher of every run."),
}
HEADS = {
    "seconds": "Time",
    "tflops_per_second": "TFLOP/s",
    "mfu": "MFU",
    "rise_bytes": "Memory",
    "counted_bytes": "Counted",
    "counted_over_found": "Counted / found",
    "norm_error": "Norm, relative error",
    "relative_error": "Relative error",
}
_FORMS: dict[str, Callable[[float | None], str]] = {"seconds": seconds_text, "bytes": in_bytes, "mfu": percentage}


def gpu_page(record: Record) -> str:
    """The page as HTML; links nothing and loads nothing."""
    scope = f"{record.began}, {seconds_text(record.seconds)} of {seconds_text(record.limit_seconds)}"
    small = " Shapes were those of a test, which say nothing about a GPU." if record.small else ""
    head: list[Block] = [Text(record.answer, "answer"), Text(f"{scope}, on device {record.device}.{small}", "quiet")]
    sections, rows = [], by_check(record.rows)
    for order, name in enumerate(record.took):
        title, words = TITLES.get(name, (name, ""))
        sections.append(Section(name, title, title, order, [Text(words), *_blocks(rows.get(name, []))]))
    items: list[tuple[Words, Words]] = [(name, seconds_text(took)) for name, took in record.took.items()]
    items += [("commit", record.source.get("commit") or MISSING)]
    items += [("changed files", record.source.get("uncommitted_sha256") or "none"), ("SHA-256", record.sha256)]
    sections.append(Section("record", "The record", "The record", len(sections), [Terms(items)]))
    page = Page("What works on this machine", "GROUP-PPO bench, GPU check", "Skip to the checks", head, sections)
    return html(page, Path())


def _blocks(rows: Sequence[Tried]) -> list[Block]:
    """A table of what was tried; rows whose numbers are words, of a machine and its software, as terms."""
    blocks, measured = list[Block](), list[Tried]()
    for row in rows:
        if sum(isinstance(value, str) for value in row.numbers.values()) > 1:
            blocks.append(Details(row.name, [Terms([(key, _text(key, value)) for key, value in row.numbers.items()])]))
        else:
            measured.append(row)
    columns = list(dict.fromkeys(key for row in measured for key in row.numbers))
    head = ["Tried", "", *(HEADS.get(column, column.replace("_", " ")) for column in columns)]
    lines: list[Row] = [[row.name, _status(row), *(_cell(row, column) for column in columns)] for row in measured]
    return [Table("What was tried", "", head, lines), *blocks] if lines else blocks


def _status(row: Tried) -> TextCell:
    words = ("holds" if row.bounds else "ran") if row.status == MEASURED else row.status
    return TextCell(strong(words) if row.status in WRONG else words, row.reason)


def _cell(row: Tried, column: str) -> TextCell:
    if column not in row.numbers:
        return TextCell(MISSING)
    return TextCell(_text(column, row.numbers[column]), _bound(column, row.bounds.get(column, (None, None))))


def _bound(column: str, bound: Bound) -> str:
    if bound[0] is not None and bound[0] == bound[1]:
        return f"must be {_text(column, bound[0])}"
    ends = {"at least": bound[0], "at most": bound[1]}
    return " and ".join(f"{words} {_text(column, end)}" for words, end in ends.items() if end is not None)


def _text(column: str, value: Number) -> str:
    if isinstance(value, str):
        return value
    form = _FORMS.get(column.rpartition("_")[2], number)
    # Whole numbers are integers where they were measured, and floats where a record was read.
    return f"{value:,.0f}" if form is number and value is not None and float(value).is_integer() else form(value)
