"""groupppo report, verify and compare: results that are there, that come from elsewhere, or from before; and what a GPU
shows in ten minutes, gpu-check."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from groupppo.cli.terminal import results_folder, root, say, say_table
from groupppo.draw.wording import plural
from groupppo.errors import BadInput

if TYPE_CHECKING:
    from groupppo.publish.verify import Verification


def add(app: typer.Typer) -> None:
    app.command("report")(report)
    app.command("verify")(verify)
    app.command("compare")(compare)
    app.command("gpu-check", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(gpu_check)


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
    from groupppo.publish.source import loaded_config
    from groupppo.records.plain_json import read_object
    from groupppo.records.plain_parquet import refuse_bomb
    from groupppo.report.sections import PROFILE

    for pattern in ("tables", "profile/tables", "pilot", "evals"):
        for file in sorted(folder.glob(f"{pattern}/*.parquet")):
            refuse_bomb(file)
    hint = "decide the verdicts first: snakemake --config benchmark=<file> makes the tables and verdicts it lacks."
    judged = read_object(folder / "verdicts.json", hint)
    with loaded_config(folder) as (benchmark, _):
        costs = read_tables(folder / PROFILE / "tables") if benchmark.profile is not None else None
        return draw_report(folder, benchmark, judged, costs, keep=False)


def _profile_page(folder: Path) -> Path:
    from groupppo.profile.config import load_profile
    from groupppo.profile.tables import write_tables
    from groupppo.report.figures.profile import draw_profile
    from groupppo.report.sections.profile import write_profile_page

    profile = load_profile(root() / "benchmarks" / f"{Path(os.path.abspath(folder)).name}.yaml")
    tables = write_tables(profile, folder / "measured", folder / "tables")
    draw_profile(tables, profile, folder / "figures")
    return write_profile_page(folder, profile, tables, folder / "measured")


def verify(
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH", help="A bundle.zip, a folder it was unpacked to, a folder of such bundles, or results."
        ),
    ],
    pictures: Annotated[bool, typer.Option(help="Also draw every picture again and compare its pixels.")] = False,
) -> None:
    """Check a bundle or a results folder: checksums, sources, and all that is made of raw records made again.

    Works outside of the repository too. Exit code 0 when nothing differs, 1 when something does or the archive is
    hostile or damaged. Of a folder that holds bundles every one is checked.

    \b
    Examples:
      groupppo verify results/quick/bundle.zip
      groupppo verify quick                       (results/quick)
      groupppo verify results/reference           (all that is published)
    """
    from groupppo.publish.source import bundles_in
    from groupppo.publish.verify import verify as verify_path

    named = results_folder(path)
    bundles = bundles_in(named)
    if bundles:
        for other in sorted(set(named.iterdir()) - set(bundles)):
            say(f"{other}: no bundle, not looked at")
    codes = []
    for each in bundles or [named]:
        found = verify_path(each, pictures=pictures)
        _say_found(found)
        codes.append(found.exit_code)
    raise typer.Exit(max(codes))


def _say_found(found: "Verification") -> None:
    say(f"{found.kind} {found.path}{f', benchmark {found.benchmark}' if found.benchmark else ''}")
    for check, covered in found.checks.items():
        say(f"  {check}: {covered}")
    for note in found.notes:
        say(f"  note: {note}")
    if found.sums_sha256:
        say(f"  SHA-256 of the list of checksums, to compare with the publisher's: {found.sums_sha256}")
    for difference in found.differences:
        say(f"  differs: {difference}")
    left = f", but for {plural(len(found.not_compared), 'file')} not compared" if found.not_compared else ""
    say(f"ok{left}" if found.ok else plural(len(found.differences), "difference"))


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="What was: a bundle.zip or a results folder.")],
    b: Annotated[str, typer.Argument(metavar="B", help="What is now.")],
    out: Annotated[
        Path | None, typer.Option(help="Also write compare.html and compare.md into this folder.", file_okay=False)
    ] = None,
) -> None:
    """Compare two bundles or results folders: their arms in the same cells, paired by seed; regressions flagged.

    Exit code 1 for a regression (or input that cannot be used), 2 when there is none but not everything could be
    compared, else 0. Works outside of the repository too.

    \b
    Examples:
      groupppo compare before.zip after.zip
      groupppo compare before.zip quick --out comparison
    """
    from groupppo.publish.compare import compare as compare_paths
    from groupppo.publish.compare_page import answer, comparison_tables, write_comparison

    found = compare_paths(results_folder(a), results_folder(b))
    say(answer(found))
    for table in comparison_tables(found):
        say(f"\n{table.title}")
        if table.rows:
            say_table(table.head, table.rows, indent=2)
        else:
            say(f"  {table.empty}")
    if out is not None:
        html, markdown = out / "compare.html", out / "compare.md"
        write_comparison(found, html, markdown)
        say(f"\n{html}\n{markdown}")
    raise typer.Exit(found.exit_code)


def gpu_check(context: typer.Context) -> None:
    """See in ten minutes what of the project works on this machine's GPU: docs/gpu.md says what is tried.

    All options: python3 -m groupppo.cli.gpu_check --help, which needs neither typer nor pydantic.

    \b
    Examples:
      groupppo gpu-check
      groupppo gpu-check --only machine,attention,updates
      groupppo gpu-check --device cpu --small --only exact
    """
    from groupppo.cli.gpu_check import main

    raise typer.Exit(main(context.args))
