"""What an update costs: a section of the report's page, and the sections of a profile's own page."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from groupppo.draw.blocks import (
    Block,
    Details,
    FigureBlock,
    Link,
    Page,
    Row,
    Section,
    Table,
    Terms,
    Text,
    TextCell,
    listed,
    with_interval,
)
from groupppo.draw.figures import read_figures
from groupppo.draw.wording import MISSING, in_bytes, number, plural, ratio, seconds_text
from groupppo.profile.config import Profile, load_profile, result_files
from groupppo.profile.tables import ProfileTables, read_tables
from groupppo.records.plain_json import read_object
from groupppo.records.storage import write_whole
from groupppo.report.figures.profile import measured_in_words, setting_title
from groupppo.report.render import html, prose
from groupppo.report.sections import PROFILE, Results
from groupppo.report.sections.benchmark import as_text
from groupppo.update.variants import MEASURED, find

QUANTITIES = {
    "flops_speedup": "speed-up over dense, operations",
    "seconds_speedup": "speed-up over dense, seconds",
    "flops_of_bound": "share of the bound, operations",
    "seconds_of_bound": "share of the bound, seconds",
    "memory_ratio": "memory, ratio to dense",
    "memory_ratio_to_fused": "memory, ratio to dense with our fused head",
    "seconds_speedup_to_masked": "speed-up over masked, seconds",
}


def sections(results: Results) -> Iterator[Section]:
    if results.benchmark.profile is None:
        return
    profile, home = load_profile(results.benchmark.profile), results.folder / PROFILE
    tables = read_tables(home / "tables")
    parts = profile_sections(results.folder, f"{PROFILE}/", profile, tables, home / "measured")
    words = Text(f"{measured_in_words(tables.variants)} {_answer(tables.targets)}")
    blocks = [words, *(block for part in parts for block in part.blocks)]
    yield Section("profile", "Cost of an update at real model shapes", "Cost of an update", 70, blocks)


def write_profile_page(results: Path, profile: Profile, tables: ProfileTables, measured: Path) -> Path:
    """Write `results`/report.html as a whole or not at all; figures/ must be there.

    Args:
        results: the profile's folder of results.
        measured: the folder of result files, for the machine and the commands.

    Returns:
        the path of the page.

    Raises:
        BadInput: the figures or a result file are missing.
    """
    head = [Text(_answer(tables.targets), "answer"), Text(measured_in_words(tables.variants), "quiet")]
    parts = profile_sections(results, "", profile, tables, measured)
    eyebrow = f"GROUP-PPO bench, profile {profile.name}"
    page = results / "report.html"
    write_whole(page, html(Page(profile.title, eyebrow, "Skip to the targets", head, parts), results))
    return page


def profile_sections(
    results: Path, home: str, profile: Profile, tables: ProfileTables, measured: Path
) -> list[Section]:
    """What a page in `results` says of the profile in its folder `home`, which ends with a slash or is empty."""
    figures = f"{home}figures"
    files = listed([Link(f"{name}.csv", f"{home}tables/{name}.csv") for name in vars(tables)])
    machine = Details("Machine, software and the command behind each file", [Terms(_provenance(profile, measured))])
    parts: list[tuple[str, str, list[Block]]] = [
        ("targets", "Targets", [_targets(tables)] if len(tables.targets) else []),
        ("figures", "Figures", [FigureBlock(record, figures) for record in read_figures(results / figures)]),
        ("measured", "Measurements", [_setting(rows) for _, rows in tables.variants.groupby("setting", sort=False)]),
        ("method", "Method and limits", prose("profile_method.j2")),
        ("provenance", "Provenance", [machine]),
        ("data", "Data", [Text(("Tables: ", *files, "."), "small")]),
    ]
    return [
        Section(name, title if order else "", title, order, blocks) for order, (name, title, blocks) in enumerate(parts)
    ]


def _answer(targets: pd.DataFrame) -> str:
    if targets.empty:
        return "No target was set beforehand."
    met = int((targets["met"] == True).sum())  # noqa: E712 - missing where nothing was measured
    unmeasured = int(targets["met"].isna().sum())
    rest = f" {plural(unmeasured, 'target')} could not be measured." if unmeasured else ""
    return f"{met} of {plural(len(targets), 'target')} set beforehand {'is' if met == 1 else 'are'} met.{rest}"


def _targets(tables: ProfileTables) -> Table:
    settings = tables.variants.drop_duplicates("setting").set_index("setting")
    rows: list[Row] = []
    for target in tables.targets.itertuples():
        ends = {"at least": target.at_least, "at most": target.at_most}
        met = "not measured" if pd.isna(target.met) else "met" if target.met else "missed"
        rows.append(
            [
                TextCell(find(target.variant).title, setting_title(settings.loc[target.setting])),
                QUANTITIES[target.quantity],
                " and ".join(f"{words} {number(end)}" for words, end in ends.items() if pd.notna(end)),
                with_interval(target.value, target.low, target.high),
                met,
            ]
        )
    caption = "Targets, written before the measurement; 90 % intervals over rounds where a number has one."
    return Table("Targets", caption, ["Variant", "Quantity", "Target", "Found", ""], rows)


def _setting(rows: pd.DataFrame) -> Table:
    title = setting_title(rows.iloc[0])
    head = ["Variant", "Operations", "Seconds", "Over dense, operations", "Over dense, seconds", "Bound", "Memory"]
    lines: list[Row] = []
    for row in rows.itertuples():
        if row.status != MEASURED:
            lines.append([row.title, TextCell(row.status, row.reason), *[MISSING] * 5])
            continue
        low, high = (None, None) if row.variant == "dense" else (row.seconds_speedup_low, row.seconds_speedup_high)
        lines.append(
            [
                TextCell(row.title, "" if row.exact else "approximate gradient"),
                TextCell(f"{row.flops / 1e12:.3g} T", f"formula {100 * row.flops_error:+.2f} %"),
                TextCell(seconds_text(row.seconds), plural(int(row.rounds), "round")),
                ratio(row.flops_speedup),
                with_interval(row.seconds_speedup, low, high, form=ratio),
                ratio(row.bound),
                TextCell(in_bytes(row.rise_bytes), f"{ratio(row.memory_ratio)} of dense"),
            ]
        )
    return Table(title, f"{title}; {int(rows['endpoints'].iloc[0])} endpoints.", head, lines)


def _provenance(profile: Profile, measured: Path) -> list[tuple[str, str]]:
    files = sorted(result_files(profile, measured))
    contents: list[dict[str, Any]] = [read_object(file, "measure this setting first.") for file in files]
    shared = [(key, as_text(contents[0][key])) for key in ("machine", "software", "source")]
    memory = next(content["memory"] for content in contents if "memory" in content)
    return [*shared, ("memory", memory), *((content["finished_at"], content["command"]) for content in contents)]
