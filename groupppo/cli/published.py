"""groupppo verify and groupppo compare: results that come from elsewhere, or from before."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from groupppo.cli.place import results_folder
from groupppo.cli.screen import say, say_table

if TYPE_CHECKING:
    from groupppo.publish.verify import Verification


def add(app: typer.Typer) -> None:
    app.command("verify")(verify)
    app.command("compare")(compare)


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
    for other in sorted(set(named.iterdir()) - set(bundles)) if bundles else []:
        say(f"{other}: no bundle, not looked at")
    found = [verify_path(each, pictures=pictures) for each in bundles or [named]]
    for each in found:
        _say_found(each)
    raise typer.Exit(max(each.exit_code for each in found))


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
    count, left = len(found.differences), len(found.not_compared)
    ok = f"ok, but for {left} file{'s' if left > 1 else ''} not compared" if left else "ok"
    say(ok if found.ok else f"{count} difference{'s' if count > 1 else ''}")


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="What was: a bundle.zip or a results folder.")],
    b: Annotated[str, typer.Argument(metavar="B", help="What is now.")],
    out: Annotated[
        Path | None, typer.Option(help="Also write compare.html and compare.md into this folder.", file_okay=False)
    ] = None,
) -> None:
    """Compare two bundles or results folders: the same cells side by side, paired by seed; regressions flagged.

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
