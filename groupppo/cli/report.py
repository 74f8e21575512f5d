"""groupppo report: figures and page of results that are there, again, without Snakemake."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from groupppo.cli.place import results_folder, root
from groupppo.cli.screen import say
from groupppo.errors import BadInput

if TYPE_CHECKING:
    from groupppo.config import Benchmark


def add(app: typer.Typer) -> None:
    app.command("report")(report)


def report(
    results: Annotated[str, typer.Argument(metavar="RESULTS", help="A results folder, or its name in results/.")],
) -> None:
    """Draw the figures and write the page of a results folder again, from its tables and verdicts.

    Tables and verdicts stay as they are; Snakemake makes those. A benchmark's folder and a profile's both work.

    \b
    Examples:
      groupppo report quick
      groupppo report results/profile
    """
    folder = results_folder(results)
    if not folder.is_dir():
        raise BadInput(folder, "folder", None, "name a results folder, such as results/quick.")
    if (folder / "benchmark.yaml").is_file():
        say(str(_benchmark_page(folder)))
    elif (folder / "measured").is_dir():
        say(str(_profile_page(folder)))
    else:
        hint = "name a folder with benchmark.yaml (a benchmark's results) or measured/ (a profile's)."
        raise BadInput(folder, "benchmark.yaml", None, hint)


def _benchmark_page(folder: Path) -> Path:
    from groupppo.profile.tables import read_tables
    from groupppo.publish.derive import draw_report
    from groupppo.publish.reading import refuse_bomb
    from groupppo.records.plain_json import read_object
    from groupppo.report.sections import PROFILE

    for pattern in ("tables", "profile/tables", "pilot", "evals"):
        for file in sorted(folder.glob(f"{pattern}/*.parquet")):
            refuse_bomb(file)
    hint = "decide the verdicts first: snakemake --config benchmark=<file> makes the tables and verdicts it lacks."
    judged = read_object(folder / "verdicts.json", hint)
    with _matrix(folder, judged) as benchmark:
        costs = read_tables(folder / PROFILE / "tables") if benchmark.profile is not None else None
        return draw_report(folder, benchmark, judged, costs, keep=False)


@contextlib.contextmanager
def _matrix(folder: Path, judged: dict[str, Any]) -> Iterator["Benchmark"]:
    """The matrix of the results: the repository's where that and its claims are still the same, else the one recorded
    with them."""
    from groupppo.config import load_benchmark
    from groupppo.publish.matrix import RECORD, read_record
    from groupppo.publish.source import loaded_config
    from groupppo.verdicts.claims import load_claims

    record = read_record(folder / RECORD)
    with contextlib.suppress(BadInput):
        benchmark = load_benchmark(root() / record["source"])
        if benchmark.resolved() == record and load_claims(benchmark.claims).sha256 == judged.get("claims_sha256"):
            yield benchmark
            return
    with loaded_config(folder) as (benchmark, _):
        yield benchmark


def _profile_page(folder: Path) -> Path:
    from groupppo.profile.config import load_profile
    from groupppo.profile.tables import write_tables
    from groupppo.report.figures.profile import draw_profile
    from groupppo.report.sections.profile import write_profile_page

    profile = load_profile(root() / "benchmarks" / f"{Path(os.path.abspath(folder)).name}.yaml")
    tables = write_tables(profile, folder / "measured", folder / "tables")
    draw_profile(tables, profile, folder / "figures")
    return write_profile_page(folder, profile, tables, folder / "measured")
