"""What the runs took is summed by arm from what was measured; what no sensor gave is a dash with its reason."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from groupppo.config import Benchmark
from groupppo.draw.wording import MISSING
from groupppo.report import drawing as figures
from groupppo.report.drawing import write_figures
from groupppo.report.page import write_report
from groupppo.report.sections import usage as page_usage
from groupppo.report.sections.study import TextCell
from groupppo.report.sections.usage import Usage, usage
from groupppo.tables import collect, load_tables
from groupppo.verdicts.claims import load_claims
from groupppo.verdicts.engine import decide
from tests.synthetic import rewrite_json, write_results

NO_GPU = "energy_joules, energy_source, gpu_utilisation, gpu_peak_bytes, gpu_hours, mfu"
REASONS = {"mfu": "no published peak is known; ask: the vendor", "cpu_energy_joules": "no RAPL"}
MEASURED = {
    "energy_joules": 7200.0,
    "energy_source": "counter",
    "cpu_energy_joules": None,
    "gpu_utilisation": 0.5,
    "gpu_peak_bytes": 4_000_000_000,
    "gpu_hours": 0.25,
    "tokens_per_second": 1000.0,
    "mfu": None,
    "mfu_by_stage": {},
    "missing": REASONS,
    "notes": [],
}


@pytest.fixture(scope="module", autouse=True)
def no_figure_of_others() -> Iterator[None]:
    """Drawing them all is most of the time, and none of them is looked at here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "PLANS", ())
        yield


def written(results: Path, measured: dict[tuple[str, int], dict], **options) -> Benchmark:
    """Results whose runs of (arm, seed) have recorded this."""
    benchmark = write_results(results, **options)
    for (arm, seed), values in measured.items():
        rewrite_json(results / f"runs/sorting/tiny/{arm}/seed{seed}/status.json", usage=values)
    collect(results, benchmark)
    return benchmark


def of(results: Path, benchmark: Benchmark) -> Usage:
    return usage(load_tables(results / "tables", None).runs, benchmark)


def row(found: Usage, title: str) -> dict[str, TextCell]:
    cells = next(cells for cells in found.table.rows if cells[0].text == title)
    return dict(zip(found.table.head, cells, strict=True))


def test_an_arm_s_runs_are_added_up_and_rates_are_means(tmp_path):
    second = MEASURED | {"energy_joules": 3600.0, "gpu_peak_bytes": 5_000_000_000, "tokens_per_second": 3000.0}
    benchmark = written(tmp_path, {("ppo", 1): MEASURED, ("ppo", 2): second})
    found = row(of(tmp_path, benchmark), "PPO (dense)")
    assert found["Finished"] == TextCell("2 of 2")
    assert found["GPU energy"] == TextCell("3.000 Wh")
    assert found["GPU-hours"] == TextCell("0.500")
    assert found["Tokens per second"] == TextCell("2,000")
    assert found["GPU utilisation"] == TextCell("50.0 %")
    assert found["GPU memory"] == TextCell("5 GB")


def test_a_missing_sensor_is_a_dash_with_its_reason_and_never_zero(tmp_path):
    benchmark = written(tmp_path, {("ppo", seed): MEASURED for seed in (1, 2)})
    found = of(tmp_path, benchmark)
    assert row(found, "PPO (dense)")["MFU"] == row(found, "PPO (dense)")["Processor energy"] == TextCell(MISSING)
    assert "MFU: no published peak is known; ask: the vendor (2 runs)" in found.missing
    assert "Processor energy: no RAPL (2 runs)" in found.missing
    assert "All but run time: the run recorded none of it (4 runs)" in found.missing
    # Negative control: a sensor that did read zero is shown as zero.
    zero = written(tmp_path / "zero", {("ppo", 1): MEASURED | {"cpu_energy_joules": 0.0}}, seeds=(1,))
    assert row(of(tmp_path / "zero", zero), "PPO (dense)")["Processor energy"] == TextCell("0 Wh")


def test_a_sum_over_some_of_the_runs_says_of_how_many(tmp_path):
    benchmark = written(tmp_path, {("ppo", 1): MEASURED})
    found = row(of(tmp_path, benchmark), "PPO (dense)")
    assert found["GPU energy"] == TextCell("2.000 Wh", "1 of 2 runs")
    assert found["Run time"].under == ""


def test_failed_runs_are_counted_and_runs_without_any_record_named(tmp_path):
    benchmark = written(tmp_path, {}, failed={("grpo", 2): "killed"})
    wider = replace(benchmark, seeds=(1, 2, 3))
    collect(tmp_path, wider)
    found = of(tmp_path, wider)
    assert row(found, "GRPO")["Finished"] == TextCell("1 of 3", "2 excluded")
    assert row(found, "GRPO")["Run time"].under == "2 of 3 runs"
    assert "Every number: the run left no record (3 runs)" in found.missing


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (
            f"{NO_GPU}: the run is on a CPU",
            [("GPU energy, GPU utilisation, GPU memory, GPU-hours, MFU", "the run is on a CPU")],
        ),
        ("mfu: a; b: c; gpu_hours: d", [("MFU", "a; b: c"), ("GPU-hours", "d")]),
        ("energy_source: no words", []),
        ("the run recorded none of it", [("All but run time", "the run recorded none of it")]),
    ],
)
def test_reasons_are_told_with_the_columns_of_the_page(text, parts):
    assert page_usage._reasons(text) == parts


def test_each_task_and_model_has_its_rows_until_these_are_too_many(tmp_path, monkeypatch):
    benchmark = written(tmp_path, {}, tasks=("sorting", "chain"), seeds=(1,), steps=2)
    found = of(tmp_path, benchmark)
    assert len(found.table.rows) == 6
    assert found.table.rows[0][0].under
    monkeypatch.setattr(page_usage, "MOST_LINES", 5)
    pooled = of(tmp_path, benchmark)
    assert [cells[1].text for cells in pooled.table.rows] == ["2 of 2"] * 3
    assert "over all tasks and models; the table runs has each" in pooled.table.caption


def test_of_very_many_reasons_the_most_frequent_are_told(tmp_path):
    benchmark = written(tmp_path, {}, seeds=(1,), steps=2)
    runs = load_tables(tmp_path / "tables").runs
    many = pd.concat([runs.assign(usage_reason=f"mfu: {place}") for place in range(30)], ignore_index=True)
    told = usage(many, benchmark).missing
    assert len(told) == page_usage.MOST_REASONS + 1
    assert told[-1] == "and 10 more reasons; the table runs has all"


def test_table_and_reasons_are_on_the_page_and_in_the_markdown(tmp_path):
    hostile = MEASURED | {"missing": REASONS | {"mfu": "<script>alert(1)</script>"}}
    benchmark = written(tmp_path, {("ppo", 1): hostile}, steps=4)
    tables = load_tables(tmp_path / "tables")
    judged = decide(load_claims(benchmark.claims), tables, benchmark)
    (tmp_path / "verdicts.json").write_text(json.dumps(judged), encoding="utf-8")
    write_figures(tables, benchmark, tmp_path / "figures", judged)
    text = write_report(tmp_path, benchmark, memory_definition="Memory.").read_text(encoding="utf-8")
    section = text[text.index('<section id="usage">') : text.index('<section id="matrix">')]
    for wanted in ("GPU energy", "2.000 Wh", "1 of 2 runs", "All but run time: the run recorded none of it (5 runs)"):
        assert wanted in section
    assert "MFU: &lt;script&gt;alert(1)&lt;/script&gt; (1 run)" in section
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| PPO (dense) |" in markdown
    assert "2.000 Wh (1 of 2 runs)" in markdown
