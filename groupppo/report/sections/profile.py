"""One offline page for a profile: targets, figures, tables, and how it was measured; with the report's own means."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from groupppo.draw.wording import MISSING, in_bytes, number, percentage, plural, ratio, seconds_text
from groupppo.profile.config import Profile, result_files
from groupppo.profile.tables import ProfileTables
from groupppo.records.plain_json import read_object
from groupppo.report.captions_profile import measured_told, setting_title
from groupppo.report.drawing import read_figures
from groupppo.report.sections.data import Setting, as_text
from groupppo.report.sections.parts import (
    PageFigure,
    content_policy,
    page_environment,
    page_figure,
    source_text,
    write_page,
)
from groupppo.report.sections.study import TextCell, TextTable
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


@dataclass(frozen=True)
class ProfileSection:
    """A profile in words and pictures, for its own page and for a benchmark's.

    Attributes:
        folder: where its tables/ and figures/ are, relative to the page; "" beside it.
        measured: when and on what, and where it is from if not of the page's results. answer: how many targets are met,
            in one sentence. tables: names of its tables.
    """

    folder: str
    measured: str
    answer: str
    targets: TextTable
    figures: list[PageFigure]
    settings: list[TextTable]
    steps: TextTable
    provenance: list[Setting]
    tables: list[str]


def profile_section(
    results: Path,
    folder: str,
    profile: Profile,
    tables: ProfileTables,
    measured: Path,
    largest: int | None = None,
) -> ProfileSection:
    """What a page in `results` shows of the profile in `results`/`folder`.

    Args:
        measured: the folder of result files, for the machine and the commands.
        largest: bytes that a picture may have, as `page_parts.largest_picture` says.

    Raises:
        BadInput: the figures or a result file are missing.
    """
    home = f"{folder}/figures".removeprefix("/")
    contents = _contents(profile, measured)
    return ProfileSection(
        folder=folder,
        measured=measured_told(tables.variants),
        answer=_answer(tables.targets),
        targets=_targets(tables),
        figures=[page_figure(results, home, record, largest=largest) for record in read_figures(results / home)],
        settings=[_setting(rows) for _, rows in tables.variants.groupby("setting", sort=False)],
        steps=_steps(tables, profile),
        provenance=_provenance(contents),
        tables=list(vars(tables)),
    )


def write_profile_page(results: Path, profile: Profile, tables: ProfileTables, measured: Path) -> Path:
    """Render `results`/report.html; figures/ must be there. `measured` as for `profile_section`.

    Returns:
        the path of the page, which is replaced as a whole or not at all.

    Raises:
        BadInput: the figures or a result file are missing.
    """
    environment = page_environment()
    style, script = (source_text(environment, name) for name in ("report.css", "report.js"))
    page = environment.get_template("profile.html.j2").render(
        profile=profile,
        section=profile_section(results, "", profile, tables, measured),
        style=style,
        script=script,
        policy=content_policy(style, script),
    )
    return write_page(results / "report.html", page)


def _answer(targets: pd.DataFrame) -> str:
    if targets.empty:
        return "No target was set beforehand."
    met = int((targets["met"] == True).sum())  # noqa: E712 - missing where nothing was measured
    unmeasured = int(targets["met"].isna().sum())
    rest = f" {plural(unmeasured, 'target')} could not be measured." if unmeasured else ""
    return f"{met} of {plural(len(targets), 'target')} set beforehand {'is' if met == 1 else 'are'} met.{rest}"


def _targets(tables: ProfileTables) -> TextTable:
    titles = tables.variants.drop_duplicates("setting").set_index("setting")
    rows = []
    for target in tables.targets.itertuples():
        ends = [f"at least {number(target.at_least)}"] if pd.notna(target.at_least) else []
        ends += [f"at most {number(target.at_most)}"] if pd.notna(target.at_most) else []
        interval = f"[{number(target.low)}, {number(target.high)}]" if pd.notna(target.low) else ""
        verdict = "not measured" if pd.isna(target.met) else "met" if target.met else "missed"
        rows.append(
            [
                TextCell(find(target.variant).title, setting_title(titles.loc[target.setting])),
                TextCell(QUANTITIES[target.quantity]),
                TextCell(" and ".join(ends)),
                TextCell(number(target.value), interval),
                TextCell(verdict),
            ]
        )
    caption = "Targets, written before the measurement; 90 % intervals over rounds where a number has one."
    return TextTable(caption, ["Variant", "Quantity", "Target", "Found", ""], rows)


def _setting(rows: pd.DataFrame) -> TextTable:
    title = setting_title(rows.iloc[0])
    head = ["Variant", "Operations", "Seconds", "Over dense, operations", "Over dense, seconds", "Bound", "Memory"]
    lines = []
    for row in rows.itertuples():
        if row.status != MEASURED:
            lines.append([TextCell(row.title), TextCell(row.status, row.reason), *[TextCell(MISSING)] * 5])
            continue
        interval = f"[{ratio(row.seconds_speedup_low)}, {ratio(row.seconds_speedup_high)}]"
        lines.append(
            [
                TextCell(row.title, "" if row.exact else "approximate gradient"),
                TextCell(f"{row.flops / 1e12:.3g} T", f"formula {100 * row.flops_error:+.2f} %"),
                TextCell(seconds_text(row.seconds), plural(int(row.rounds), "round")),
                TextCell(ratio(row.flops_speedup)),
                TextCell(ratio(row.seconds_speedup), "" if row.variant == "dense" else interval),
                TextCell(ratio(row.bound)),
                TextCell(in_bytes(row.rise_bytes), f"{ratio(row.memory_ratio)} of dense"),
            ]
        )
    return TextTable(f"{title}; {int(rows['endpoints'].iloc[0])} endpoints.", head, lines)


def _steps(tables: ProfileTables, profile: Profile) -> TextTable:
    """Whole steps at the lowest density: ranges over models, lengths and checkpointing."""
    endpoints = tables.counted["endpoints"] / tables.counted["response"]
    sparsest = tables.counted.loc[endpoints.idxmin(), "density"]
    steps = tables.steps[tables.steps["density"] == sparsest]
    shares = sorted(set(steps["generation"]))
    need = profile.counted.need
    head = ["Update", "Log-probability passes", "All but generation"]
    head += [f"Step, generation {percentage(share)}" for share in shares] + [f"Generation allowed for {need:g}x"]
    lines = []
    for (mode, known), rows in steps.groupby(["mode", "known"], sort=False):
        if mode in ("dense", "masked") or (mode == "fused" and known):
            continue
        allowed = rows["needed_generation"]
        cells = [TextCell(mode.replace("_", " "))]
        cells += [TextCell("gathered" if known else "dense" if mode != "fused" else "fused")]
        cells += [TextCell(_range(rows["rest_speedup"]))]
        cells += [TextCell(_range(rows[rows["generation"] == share]["step_speedup"])) for share in shares]
        cells += [TextCell(f"at most {percentage(allowed.max())}" if allowed.notna().any() else "none suffices")]
        lines.append(cells)
    caption = (
        f"Speed-up of a whole step by operations at density {sparsest}: least and greatest over all models, response "
        "lengths and checkpointing counted. Endpoints of a rule that reads log-probabilities or values are known only "
        "after those passes, which then stay dense; a fixed stride is known before them."
    )
    return TextTable(caption, head, lines)


def _range(values: pd.Series) -> str:
    low, high = ratio(float(values.min())), ratio(float(values.max()))
    return low if low == high else f"{low} to {high}"


def _contents(profile: Profile, measured: Path) -> list[dict[str, Any]]:
    return [read_object(file, "measure this setting first.") for file in sorted(result_files(profile, measured))]


def _provenance(contents: list[dict[str, Any]]) -> list[Setting]:
    told = [Setting(key, as_text(contents[0][key])) for key in ("machine", "software", "source")]
    told += [Setting("memory", next(content["memory"] for content in contents if "memory" in content))]
    told += [Setting(content["finished_at"], content["command"]) for content in contents]
    return told
