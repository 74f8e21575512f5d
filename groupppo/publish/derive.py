"""Everything in a results folder that is made of its raw records, made again by the functions that the workflow uses.

    derive(folder, benchmark, claims)

A bundle is packed from what this makes, and verified by making it again.
"""

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from groupppo.config import Benchmark
from groupppo.profile.config import load_profile
from groupppo.profile.tables import FOUND, ProfileTables, write_tables
from groupppo.publish.files import STEP_TABLES, VERDICTS
from groupppo.publish.reading import read_json
from groupppo.report.figures import draw_figures
from groupppo.report.figures import needed as drawn
from groupppo.report.figures.profile import draw_profile
from groupppo.report.figures.sweep import FOLDER as SWEEP
from groupppo.report.figures.sweep import draw_sweep, read_rows
from groupppo.report.page import write_report
from groupppo.report.sections import PROFILE
from groupppo.studies.shared.study import find_study, known_names
from groupppo.tables import StoredTables, collect, load_table, load_tables
from groupppo.tables.keys import Keys, found_keys
from groupppo.tasks.lm_eval import write_yaml
from groupppo.verdicts.claims import Claims
from groupppo.verdicts.engine import NEEDED, decide, read_studied, verdicts_text
from groupppo.where import Found


def derive(folder: Path, benchmark: Benchmark, claims: Claims) -> None:
    """Write tables, verdicts, figures and pages into `folder` from the raw records in it.

    Pictures that are there stay as they are; those that are not are drawn.

    Args:
        folder: raw records at their places in a results folder. Where no run has its steps.jsonl, tables/ must hold
            the tables of STEP_TABLES, and the other tables are made of these.

    Raises:
        BadInput: a raw record is missing or not in its form.
    """
    for place in sorted(folder.glob("evals/*/*/**/result.json")):
        task = benchmark.tasks.get(place.relative_to(folder).parts[1])
        evaluation, temperature = benchmark.evaluation, benchmark.train.temperature
        if task is not None:
            write_yaml(task, place.parent / "lm_eval", evaluation.repeats, evaluation.sampled_prompts, temperature)
    if has_steps(folder):
        collect(folder, benchmark)
    else:
        _collect_restored(folder, benchmark)
    costs = _profile(folder, benchmark)
    tables = load_tables(folder / "tables", NEEDED)
    judged = decide(
        claims, tables, benchmark, costs.variants if costs else None, read_studied(folder, benchmark, claims)
    )
    (folder / VERDICTS).write_text(verdicts_text(judged), encoding="utf-8")
    _study_figures(folder)
    draw_report(folder, benchmark, judged, costs, keep=True)


def draw_report(
    folder: Path, benchmark: Benchmark, judged: dict[str, Any], costs: ProfileTables | None, *, keep: bool
) -> Path:
    """Write figures and pages of a results folder from its tables, studies and verdicts; returns the page.

    Args:
        judged: the content of verdicts.json. costs: the tables of the profile that the benchmark asks for.
        keep: whether pictures that are there stay as they are.
    """
    tables = StoredTables(folder / "tables", drawn(benchmark))
    draw_figures(tables, benchmark, folder / "figures", judged, keep=keep)
    if benchmark.profile is not None and costs is not None:
        draw_profile(costs, load_profile(benchmark.profile), folder / PROFILE / "figures", keep=keep)
    if benchmark.pilot is not None:
        draw_sweep(read_rows(folder, benchmark.pilot), benchmark, folder / SWEEP, keep=keep)
    return write_report(folder, benchmark)


def has_steps(folder: Path) -> bool:
    """Whether any run has its steps.jsonl; where none has, the tables of STEP_TABLES are raw."""
    return any(folder.glob("runs/*/*/*/*/steps.jsonl"))


def _profile(folder: Path, benchmark: Benchmark) -> ProfileTables | None:
    if benchmark.profile is None:
        return None
    home = folder / PROFILE
    where = read_json(home / FOUND)
    found = Found(Path(str(where.get("measured_in"))), where.get("published") is True)
    # No place of its own is the folder itself.
    own = None if where.get("measured_in") == "" else found
    return write_tables(load_profile(benchmark.profile), home / "measured", home / "tables", own)


def _study_figures(folder: Path) -> None:
    for name in known_names():
        for place in sorted(folder.glob(f"studies/{name}/*")):
            study = find_study(name)
            study.draw(study.read_tables(place), place, keep=True)


def _collect_restored(folder: Path, benchmark: Benchmark) -> None:
    """The other tables from the runs' records and what those of STEP_TABLES say of single steps."""
    with tempfile.TemporaryDirectory(prefix="groupppo-") as place:
        home = Path(place)
        if (folder / "evals").is_dir():
            os.symlink((folder / "evals").resolve(), home / "evals")
        for run in (path for path in folder.glob("runs/*/*/*/*") if path.is_dir()):
            new = home / run.relative_to(folder)
            new.mkdir(parents=True)
            for file in run.iterdir():
                os.symlink(file.resolve(), new / file.name)
        for table in STEP_TABLES:
            _restore(folder / table, home / "runs")
        collect(home, benchmark)
        for file in (home / "tables").iterdir():
            if f"tables/{file.name}" not in STEP_TABLES:
                os.replace(_moved(file, folder / "tables"), folder / "tables" / file.name)


def _moved(file: Path, folder: Path) -> Path:
    """A copy beside its future place: the temporary folder may be on another disk."""
    new = folder / f"{file.name}.part"
    new.write_bytes(file.read_bytes())
    return new


def _restore(file: Path, runs: Path) -> None:
    """steps.jsonl or stages.jsonl of every run of which the table has rows."""
    rows = load_table(file.parent, file.stem)
    by_run = rows.groupby(["task", "model", "arm", "seed"], observed=True, sort=False).indices
    for keys in sorted(found_keys(runs)[0] if runs.is_dir() else ()):
        own = by_run.get(tuple(keys))
        if own is not None:
            lines = _step_lines(rows.iloc[own]) if file.stem == "steps" else _stage_lines(rows.iloc[own])
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (Keys(*keys).below(runs) / f"{file.stem}.jsonl").write_text(text, encoding="utf-8")


def _step_lines(rows: pd.DataFrame) -> Iterable[dict[str, Any]]:
    lines: dict[int, dict[str, Any]] = {}
    for step, metric, value in zip(rows["step"], rows["metric"], rows["value"], strict=True):
        lines.setdefault(step, {"step": int(step)})[metric] = None if pd.isna(value) else value
    return [lines[step] for step in sorted(lines)]


def _stage_lines(rows: pd.DataFrame) -> Iterable[dict[str, Any]]:
    columns = [column for column in rows.columns if column not in ("task", "model", "arm", "seed")]
    return [dict(zip(columns, row, strict=True)) for row in rows[columns].astype(object).itertuples(index=False)]
