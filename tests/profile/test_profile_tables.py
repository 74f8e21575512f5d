"""Tables of a profile: paired ratios, bounds, targets, and what is missing."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from groupppo.config import REPOSITORY
from groupppo.errors import BadInput
from groupppo.profile.config import load_profile
from groupppo.profile.tables import (
    ProfileTables,
    read_tables,
    stage_shares,
    stage_speedups,
    tables_of,
    write_tables,
)
from groupppo.update.flops import Work, step_bound
from groupppo.update.variants import MEASURED


@pytest.fixture(scope="module")
def tables(measured) -> ProfileTables:
    return tables_of(measured.profile, measured.folder)


@pytest.fixture
def folder(measured, tmp_path):
    """A copy of the result files, to be changed."""
    return shutil.copytree(measured.folder, tmp_path / "measured")


def rewrite(file, change):
    content = json.loads(file.read_text())
    change({result["variant"]: result for result in content["results"]})
    file.write_text(json.dumps(content))


def row(tables, setting, variant):
    found = tables.variants
    return found[(found["setting"] == setting) & (found["variant"] == variant)].iloc[0]


def test_there_is_a_row_for_every_variant_that_was_asked_for(tables, smoke):
    for name, setting in smoke.measured.items():
        assert tuple(tables.variants[tables.variants["setting"] == name]["variant"]) == setting.variants
    missing = tables.variants[tables.variants["status"] != MEASURED]
    assert set(missing["variant"]) == {"verl_triton", "cce"}
    assert missing["reason"].str.startswith("needs").all()
    assert missing["seconds"].isna().all()


def test_formulas_agree_with_what_was_counted_and_no_exact_variant_beats_its_bound(tables):
    errors = tables.variants["flops_error"].dropna()
    assert len(errors) >= 10
    assert errors.abs().max() < 0.02
    bounded = tables.variants.dropna(subset=["bound", "flops_speedup"])
    assert set(bounded["variant"]) == {"gathered_head", "gathered"}
    assert bounded["flops_of_bound"].between(0.95, 1 + 1e-3).all()


def test_speed_ups_are_paired_within_rounds(measured, folder):
    """A slow round that hits dense and gathered alike leaves their ratio alone; an unpaired ratio would move."""

    def change(results):
        for variant, seconds in (("dense", (2.0, 20.0)), ("gathered", (1.0, 10.0)), ("masked", (2.0, 2.0))):
            for one, value in zip(results[variant]["rounds"], seconds, strict=True):
                one["reading"] = {"seconds": 3 * value, "cpu_seconds": value}

    rewrite(folder / "tiny.seconds.json", change)
    found = tables_of(measured.profile, folder)
    gathered, masked = row(found, "tiny", "gathered"), row(found, "tiny", "masked")
    assert gathered["seconds_speedup"] == pytest.approx(2)
    assert gathered["seconds_speedup_high"] == pytest.approx(2)
    assert gathered["wall_speedup"] == pytest.approx(2)
    assert masked["seconds_speedup"] == pytest.approx(np.sqrt(10))
    assert masked["seconds_speedup_high"] > 10
    assert gathered["seconds_speedup_to_masked"] == pytest.approx(np.sqrt(2.0 / 1.0 * 2.0 / 10.0))


def test_a_target_is_met_missed_or_not_measured(measured, folder, tables):
    found = tables.targets.set_index("quantity")
    assert found.loc["flops_of_bound", "met"] == True  # noqa: E712 - a column that may be missing
    assert found.loc["flops_speedup", "met"] == False  # noqa: E712
    rewrite(folder / "tiny.memory.json", lambda results: results["gathered"].update(status="failed", reason="why"))
    again = tables_of(measured.profile, folder)
    assert again.targets.set_index("quantity").loc["flops_of_bound", "met"] is None
    assert row(again, "tiny", "gathered")["reason"] == "why"


def test_files_that_are_missing_broken_or_of_another_profile_are_named(measured, folder):
    file = folder / "tiny.memory.json"
    rewrite(file, lambda results: results["gathered"].update(variant="other"))
    with pytest.raises(BadInput, match="measure again"):
        tables_of(measured.profile, folder)
    for spoil in (lambda: file.write_text("{"), file.unlink):
        spoil()
        with pytest.raises(BadInput, match="measure this setting first"):
            tables_of(measured.profile, folder)


def test_written_tables_read_back_and_a_missing_one_is_named(measured, tmp_path):
    written = write_tables(measured.profile, measured.folder, tmp_path)
    again = read_tables(tmp_path)
    for name, table in vars(written).items():
        assert len(getattr(again, name)) == len(table) == len(pd.read_csv(tmp_path / f"{name}.csv"))
    (tmp_path / "steps.parquet").unlink()
    with pytest.raises(BadInput, match=r"steps\.parquet"):
        read_tables(tmp_path)


def test_no_step_is_faster_than_its_generation_allows(tables):
    assert (tables.steps["step_speedup"] * tables.steps["generation"] < 1).all()
    masked = tables.steps[tables.steps["mode"] == "masked"]
    assert masked["step_speedup"].to_numpy() == pytest.approx(1)
    assert tables.steps["needed_speedup"].isna().all()  # generation of half a step forbids a step 16 times as fast
    assert (tables.steps["rest_speedup"] < 16).any()


def test_endpoints_known_beforehand_make_the_first_passes_cheaper_but_not_the_one_that_is_reused(smoke):
    shape, work = smoke.shapes["tiny"].shape, Work(144, 128, 8)
    shares = stage_shares(shape, work)
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["update"] > shares["ref"] == shares["old_log_prob"]
    late, early = (stage_speedups(shape, work, "gathered", known=known) for known in (False, True))
    assert late["ref"] == late["old_log_prob"] == 1
    assert early["ref"] == early["old_log_prob"] > 1
    assert early["update"] == late["update"]
    reuse = stage_speedups(shape, work, "streamed_reuse", known=True)
    assert reuse["old_log_prob"] == 1
    assert reuse["ref"] > 1
    assert step_bound(0.0, shares, late) < late["update"]


def test_the_published_measurements_are_those_of_the_shipped_profile_and_meet_its_targets():
    profile = load_profile(REPOSITORY / "benchmarks" / "profile.yaml")
    folder = REPOSITORY / "results" / "reference" / profile.name / "measured"
    tables = tables_of(profile, folder)
    assert set(tables.variants["setting"]) == set(profile.measured)
    assert tables.targets["met"].notna().all()
    exact = tables.variants[tables.variants["bound"].notna()]
    assert (exact["flops_of_bound"] <= 1 + 1e-4).all()  # an exact variant above the bound would be a mistake
    assert tables.variants["flops_error"].abs().max() < 0.02
