"""Everything in a results folder that is made of its raw records, made again by the functions that the workflow uses.

    derive(folder, benchmark, claims)

A bundle is packed from what this makes, and verified by making it again.
"""

import json
import os
import shutil
import tempfile
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

import groupppo
from groupppo.config import Benchmark
from groupppo.draw.figures import FORMATS, INDEX, read_figures
from groupppo.profile.config import load_profile
from groupppo.profile.tables import FOUND, ProfileTables, write_tables
from groupppo.publish.contents import STEP_TABLES, VERDICTS, files_in
from groupppo.records.code import code_sha256
from groupppo.records.plain_json import read_object
from groupppo.records.where import Found
from groupppo.report.figures import draw_figures
from groupppo.report.figures import needed as drawn
from groupppo.report.figures.profile import draw_profile
from groupppo.report.figures.sweep import FOLDER as SWEEP
from groupppo.report.figures.sweep import draw_sweep, read_rows
from groupppo.report.page import write_report
from groupppo.report.sections import PROFILE
from groupppo.studies.shared.study import find_study, known_names
from groupppo.tables import StoredTables, collect, load_table, load_tables
from groupppo.tables.schema import Keys, found_keys
from groupppo.tasks.lm_eval import write_yaml
from groupppo.verdicts.claims import Claims
from groupppo.verdicts.engine import NEEDED, decide, read_studied, verdicts_text

_PACKAGES = ("jinja2", "matplotlib", "numpy", "pandas", "pillow", "rocrate", "scipy")
"""Libraries that decide the bytes of pages, pictures and tables."""
_RENDERERS = ("groupppo.draw", "groupppo.report", "groupppo.studies")
"""Rooms whose modules may be looked up by name."""


def derive(folder: Path, benchmark: Benchmark, claims: Claims) -> None:
    """Write tables, verdicts, figures and pages into `folder` from the raw records in it.

    Pictures that are there stay as they are; those that are not are drawn.

    Args:
        folder: raw records at their places in a results folder. Where no run has its steps.jsonl, tables/ must hold
            the tables of STEP_TABLES, and the other tables are made of these.
        benchmark: the matrix of the results.
        claims: what is decided.

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
    studied = read_studied(folder, benchmark, claims)
    judged = decide(claims, tables, benchmark, costs.variants if costs else None, studied)
    (folder / VERDICTS).write_text(verdicts_text(judged), encoding="utf-8")
    for name in known_names():
        for place in sorted(folder.glob(f"studies/{name}/*")):
            study = find_study(name)
            study.draw(study.read_tables(place), place, keep=True)
    draw_report(folder, benchmark, judged, costs, keep=True)


def draw_report(
    folder: Path, benchmark: Benchmark, judged: dict[str, Any], costs: ProfileTables | None, *, keep: bool
) -> Path:
    """Write figures and pages of a results folder from its tables, studies and verdicts; returns the page.

    Args:
        folder: the results folder.
        benchmark: its matrix.
        judged: the content of verdicts.json.
        costs: the tables of the profile that the benchmark asks for.
        keep: whether pictures that are there stay as they are.
    """
    tables = StoredTables(folder / "tables", drawn(benchmark))
    draw_figures(tables, benchmark, folder / "figures", judged, keep=keep)
    if benchmark.profile is not None and costs is not None:
        draw_profile(costs, load_profile(benchmark.profile), folder / PROFILE / "figures", keep=keep)
    if benchmark.pilot is not None:
        draw_sweep(read_rows(folder, benchmark.pilot), benchmark, folder / SWEEP, keep=keep)
    return write_report(folder, benchmark)


def derived_files(folder: Path) -> set[str]:
    """Names of what `derive` made in a folder whose raw records are links, and of the pictures that it names."""
    made = {name for name, file in files_in(folder).items() if not file.is_symlink()}
    pictures = {f"{SWEEP}/sweep.{suffix}" for suffix in FORMATS if f"{SWEEP}/sweep.csv" in made}
    for index in sorted(folder.rglob(INDEX)):
        home = index.parent.relative_to(folder).as_posix()
        pictures |= {f"{home}/{file}" for record in read_figures(index.parent) for file in record.files.values()}
    return made | pictures


@cache
def made_by() -> dict[str, Any]:
    """This version: its number, a hash of the code and templates that derive results, and of the libraries' numbers.

    Pages and pictures are the same, to the byte, for that version alone.
    """
    code = code_sha256(Path(__file__), entries=_RENDERERS)
    return {
        "groupppo": groupppo.__version__,
        "code_sha256": code,
        "packages": {name: version(name) for name in _PACKAGES},
    }


def has_steps(folder: Path) -> bool:
    """Whether any run has its steps.jsonl; where none has, the tables of STEP_TABLES are raw."""
    return any(folder.glob("runs/*/*/*/*/steps.jsonl"))


def _profile(folder: Path, benchmark: Benchmark) -> ProfileTables | None:
    if benchmark.profile is None:
        return None
    home = folder / PROFILE
    where = read_object(home / FOUND, "run `snakemake`, which writes where the measurements were found.")
    # Measured for these results, they have no other place.
    elsewhere = where.get("measured_in") != ""
    found = Found(Path(str(where.get("measured_in"))), where.get("published") is True) if elsewhere else None
    return write_tables(load_profile(benchmark.profile), home / "measured", home / "tables", found)


def _collect_restored(folder: Path, benchmark: Benchmark) -> None:
    """The other tables from the runs' records and what those of STEP_TABLES say of single steps."""
    with tempfile.TemporaryDirectory(prefix="groupppo-") as place:
        home = Path(place)
        for name in ("runs", "evals"):
            if (folder / name).is_dir():
                shutil.copytree((folder / name).resolve(), home / name, copy_function=os.symlink)
        for table in STEP_TABLES:
            _restore(folder / table, home / "runs")
        collect(home, benchmark)
        for name, file in files_in(home / "tables").items():
            if f"tables/{name}" not in STEP_TABLES:
                shutil.copyfile(file, folder / "tables" / name)


def _restore(file: Path, runs: Path) -> None:
    """steps.jsonl or stages.jsonl of every run of which the table has rows."""
    table = load_table(file.parent, file.stem)
    by_run = table.groupby(list(Keys._fields), observed=True, sort=False).indices
    # By the folders that are there: a name in the table leads nowhere.
    for keys in found_keys(runs)[0] if runs.is_dir() else ():
        if tuple(keys) in by_run:
            rows = table.iloc[by_run[tuple(keys)]].drop(columns=list(Keys._fields))
            lines = _step_lines(rows) if file.stem == "steps" else rows.to_dict("records")
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (keys.below(runs) / f"{file.stem}.jsonl").write_text(text, encoding="utf-8")


def _step_lines(rows: pd.DataFrame) -> list[dict[str, Any]]:
    lines: dict[int, dict[str, Any]] = {}
    for step, metric, value in zip(rows["step"], rows["metric"], rows["value"], strict=True):
        lines.setdefault(step, {"step": int(step)})[metric] = None if pd.isna(value) else value
    return [lines[step] for step in sorted(lines)]
