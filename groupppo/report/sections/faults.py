"""The study of faults as the page shows it: for each update, what held after a fault at each point."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from groupppo.config import Benchmark
from groupppo.draw.blocks import Section, Table, TextCell
from groupppo.draw.captions import place
from groupppo.draw.wording import number
from groupppo.errors import BadInput
from groupppo.records.plain_json import read_object
from groupppo.report.sections import Results
from groupppo.report.sections.study import RERUN, Study, study_blocks
from groupppo.studies.fault_table import FAULT_COLUMNS
from groupppo.studies.names import NO_FAULT
from groupppo.studies.record import RECORD
from groupppo.studies.tables import read_table

YES, NO = "yes", "no"
_HEAD = ["Fault at", "Went on as dense PPO", "Run ended by itself", "Counted", "Policy", "Critic", "Left no trace"]
_TRACES = {
    "threshold_kept": "threshold moved",
    "finite": "not finite",
    "prompts_equal": "other prompts",
    "responses_equal": "other responses",
}


def sections(results: Results) -> Iterator[Section]:
    limits = "Every case was run once; the same seed repeats a run to the bit."
    blocks = study_blocks(fault_studies(results.folder, results.benchmark), limits)
    if blocks:
        yield Section("faults", "Study: what a fault does to a run", "Study of faults", 62, blocks)


def fault_studies(results: Path, benchmark: Benchmark) -> list[Study]:
    """One for each task and model, where the benchmark asks for them.

    Raises:
        BadInput: a study was asked for and is not there, or its files are not in their form.
    """
    if "faults" not in benchmark.studies:
        return []
    return [_study(results, benchmark, plan.task, plan.model) for plan in benchmark.plans()]


def _study(results: Path, benchmark: Benchmark, task: str, model: str) -> Study:
    folder = results / "studies" / "faults" / f"{task}.{model}"
    record, rows = read_object(folder / RECORD, RERUN), read_table(folder, "faults")
    return Study(
        place=place(benchmark, task, model),
        anchor=f"faults-{task}-{model}",
        folder=folder.relative_to(results).as_posix(),
        scope=_scope(record, folder / RECORD, rows, benchmark),
        figures=[],
        tables={str(own["title"].iloc[0]): _table(own) for _, own in rows.groupby("arm", sort=False)},
        files=[f"{name}.csv" for name in FAULT_COLUMNS],
    )


def _scope(record: dict[str, Any], file: Path, rows: pd.DataFrame, benchmark: Benchmark) -> str:
    try:
        steps, seed = record["settings"]["steps"], record["settings"]["seed"]
    except (KeyError, TypeError) as error:
        raise BadInput(file, str(error), None, RERUN) from error
    faults, reference = rows[rows["point"] != NO_FAULT], benchmark.arms[benchmark.reference].title
    return (
        f"One run of {steps} steps for each of {len(faults)} injection points, seed {seed}, with on_error: dense, "
        f"against {reference}: {int(faults['survived'].sum())} went on exactly as it does, "
        f"{int((~faults['finished']).sum())} ended with the error."
    )


def _table(rows: pd.DataFrame) -> Table:
    body = [
        [
            TextCell(str(row["place"])),
            _said(row["survived"]),
            _said(row["finished"], f"after {row['steps']} steps: {row['cause']}"),
            _said(row["counted"], f"{row['fallbacks']} fallbacks"),
            _said(row["policy_equal"], _apart(row["policy_difference"])),
            _said(row["critic_equal"], _apart(row["critic_difference"])),
            _left(row),
        ]
        for _, row in rows.iterrows()
    ]
    caption = (
        f"Update {rows['update'].iloc[0]}: one fault in the first step. Policy and critic: whether parameters and "
        "optimizer state at the end of that step are dense PPO's to the bit, else their largest difference. Traces: "
        "the threshold, NaN or infinity, prompts of all steps and responses of the next. The control must differ "
        "from dense PPO, or the comparison could tell nothing."
    )
    return Table(str(rows["title"].iloc[0]), caption, _HEAD, body)


def _said(holds: bool, otherwise: str = "") -> TextCell:
    return TextCell(YES) if holds else TextCell(NO, otherwise)


def _apart(difference: float) -> str:
    return "no such update" if pd.isna(difference) else f"{number(difference)} apart"


def _left(row: pd.Series) -> TextCell:
    if not row["finished"]:
        return TextCell(NO, "no step after it")
    return _said(all(row[name] for name in _TRACES), ", ".join(text for name, text in _TRACES.items() if not row[name]))
