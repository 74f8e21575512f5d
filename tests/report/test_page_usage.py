"""What runs took is added up by arm, and a number that is missing has its reason."""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from groupppo.config import Benchmark
from groupppo.draw.blocks import Table, TextCell
from groupppo.draw.wording import MISSING, MOST_REASONS
from groupppo.report.page import write_report
from groupppo.report.sections import usage
from groupppo.tables import collect, load_tables
from tests.report.conftest import prepare, row
from tests.synthetic import rewrite_json, write_results

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


def written(results: Path, measured: dict[tuple[str, int], dict], **options) -> Benchmark:
    """Results whose runs of (arm, seed) have recorded this."""
    benchmark = write_results(results, **options)
    for (arm, seed), values in measured.items():
        rewrite_json(results / f"runs/sorting/tiny/{arm}/seed{seed}/status.json", usage=values)
    collect(results, benchmark)
    return benchmark


def of(results: Path, benchmark: Benchmark) -> Table:
    return usage.usage_table(load_tables(results / "tables").runs, benchmark)


def missing(results: Path) -> list[str]:
    return usage.reasons(load_tables(results / "tables").runs)


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
    assert any(
        "mfu: no published peak is known; ask: the vendor" in reason and "(2 runs)" in reason
        for reason in missing(tmp_path)
    )
    assert "the run recorded none of it (4 runs)" in missing(tmp_path)
    # Negative control: a sensor that did read zero is shown as zero.
    zero = written(tmp_path / "zero", {("ppo", 1): MEASURED | {"cpu_energy_joules": 0.0}}, seeds=(1,))
    assert row(of(tmp_path / "zero", zero), "PPO (dense)")["Processor energy"] == TextCell("0 Wh")


def test_failed_runs_are_counted_and_runs_without_any_record_named(tmp_path):
    benchmark = written(tmp_path, {("ppo", 1): MEASURED}, failed={("grpo", 2): "killed"})
    wider = replace(benchmark, seeds=(1, 2, 3))
    collect(tmp_path, wider)
    found = of(tmp_path, wider)
    assert row(found, "GRPO")["Finished"] == TextCell("1 of 3", "2 excluded")
    assert row(found, "GRPO")["Run time"].under == "2 of 3 runs"
    assert row(found, "PPO (dense)")["GPU energy"] == TextCell("2.000 Wh", "1 of 3 runs")
    assert "every number: the run left no record (3 runs)" in missing(tmp_path)


def test_of_very_many_reasons_the_most_frequent_are_told(tmp_path):
    written(tmp_path, {}, seeds=(1,), steps=2)
    runs = load_tables(tmp_path / "tables").runs
    many = pd.concat([runs.assign(usage_reason=f"mfu: {place}") for place in range(30)], ignore_index=True)
    told = usage.reasons(many)
    assert len(told) == MOST_REASONS + 1
    assert told[-1] == "and 10 more reasons; the table runs has all"


def test_table_and_reasons_are_on_the_page_and_in_the_markdown(tmp_path, only_figures):
    only_figures()
    hostile = MEASURED | {"missing": REASONS | {"mfu": "<script>alert(1)</script>"}}
    benchmark = written(tmp_path, {("ppo", 1): hostile}, steps=4)
    prepare(tmp_path, load_tables(tmp_path / "tables"), benchmark)
    text = write_report(tmp_path, benchmark).read_text(encoding="utf-8")
    section = text[text.index('<section id="usage">') : text.index('<section id="matrix">')]
    for wanted in ("GPU energy", "2.000 Wh", "1 of 2 runs", "the run recorded none of it (5 runs)"):
        assert wanted in section
    assert "mfu: &lt;script&gt;alert(1)&lt;/script&gt;" in section
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| PPO (dense) |" in markdown
    assert "2.000 Wh (1 of 2 runs)" in markdown
