"""Rates and spread by a pilot: chosen by the mean, refused where a run is no evidence, shown on the page."""

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from groupppo.config import REPOSITORY, Benchmark, load_benchmark
from groupppo.config.benchmark import RATE_KEY as KEY
from groupppo.draw.blocks import Section
from groupppo.errors import BadInput
from groupppo.records.where import Found
from groupppo.report.figures.sweep import draw_sweep
from groupppo.report.sections import Judged, Results
from groupppo.report.sections.sweep import sections
from groupppo.stats.power import seeds_for_equivalence
from groupppo.verdicts.sweep import (
    RECORD,
    at_an_end,
    chosen_rates,
    opened_pilot,
    paired_spread,
    pilot_place,
    read_record,
    sweep_table,
    write_sweep,
)

RATES = (3e-5, 1e-4, 3e-4)
SCORES = {
    # by rate, of two seeds
    "ppo": [(0.50, 0.52), (0.70, 0.74), (0.60, 0.50)],
    "group_ppo": [(0.40, 0.42), (0.30, 0.34), (0.20, 0.50)],
    "random": [(0.40, 0.50), (0.50, 0.40), (0.30, 0.30)],
}


PARTS = (RECORD, "tables/runs.parquet", "tables/evals.parquet")


@pytest.fixture
def record(tmp_path: Path) -> dict:
    sorting = load_benchmark(REPOSITORY / "benchmarks" / "pilot.yaml")
    assert sorting.arms["ppo_lr100u"].verl[KEY] == 1e-4
    return sorting.resolved() | {
        "arms": {
            f"{arm}_{i}": {"title": f"The {arm}, rate {rate:g}", "verl": {KEY: rate}, "swept_from": arm}
            for arm in SCORES
            for i, rate in enumerate(RATES)
        },
        "seeds": [101, 102],
    }


def tables(**changed: object) -> tuple[pd.DataFrame, pd.DataFrame]:
    keys = [("sorting", "tiny", f"{arm}_{i}", seed) for arm in SCORES for i in range(3) for seed in (101, 102)]
    frame = pd.DataFrame(keys, columns=["task", "model", "arm", "seed"])
    values = [score for arm in SCORES for pair in SCORES[arm] for score in pair]
    runs = frame.assign(admissible=True, reason=None)
    for column, value in changed.items():
        runs.loc[3, column] = value
    return runs, frame.assign(metric="accuracy", value=values)


def test_each_arm_gets_the_rate_of_its_best_mean_and_the_lower_of_equals(record):
    table = sweep_table(record, *tables())
    assert chosen_rates(table) == {"ppo": 1e-4, "group_ppo": 3e-5, "random": 3e-5}
    assert at_an_end(table) == ["group_ppo", "random"]
    assert set(table["title"]) == {"The ppo", "The group_ppo", "The random"}


def test_the_spread_is_pooled_over_arms_each_at_its_best_rate(record):
    table = sweep_table(record, *tables())
    by_hand = [np.var([0.40 - 0.70, 0.42 - 0.74], ddof=1), np.var([0.40 - 0.70, 0.50 - 0.74], ddof=1)]
    spread, freedom = paired_spread(table, "ppo")
    assert spread == pytest.approx(np.sqrt(np.mean(by_hand)))
    assert freedom == 2
    with pytest.raises(ValueError, match="1 seeds"):
        paired_spread(table[table["seed"] == 101], "ppo")


@pytest.mark.parametrize("changed", [{"admissible": False, "reason": "it fell back"}, {"seed": 7}])
def test_a_pilot_with_a_run_that_is_no_evidence_chooses_nothing(record, changed):
    with pytest.raises(BadInput, match=r"ppo_1/seed102 is no evidence \((it fell back|not there)\)"):
        sweep_table(record, *tables(**changed))


def test_own_pilots_come_before_published_ones_and_none_is_an_error(tmp_path):
    pilot = Path("benchmarks/a_pilot_nobody_ran.yaml")
    with pytest.raises(BadInput, match=r"run it first: snakemake --config benchmark=benchmarks/a_pilot_nobody_ran"):
        pilot_place(pilot, tmp_path)
    for home in (tmp_path / "reference", tmp_path):
        (home / pilot.stem / "tables").mkdir(parents=True)
        for name in PARTS:
            (home / pilot.stem / name).touch()
        assert pilot_place(pilot, tmp_path) == Found(home / pilot.stem, published=home != tmp_path)


def test_a_benchmark_that_swept_nothing_is_no_pilot(tmp_path):
    file = tmp_path / RECORD
    with pytest.raises(BadInput, match="run the pilot"):
        read_record(file)
    file.write_text(yaml.safe_dump(load_benchmark(REPOSITORY / "benchmarks" / "quick.yaml").resolved()))
    with pytest.raises(BadInput, match="several rates"):
        read_record(file)


def test_a_published_pilot_may_be_a_bundle(tmp_path):
    bundle = tmp_path / "reference" / "bundled.zip"
    bundle.parent.mkdir()
    with zipfile.ZipFile(bundle, "w") as archive:
        for name in (*PARTS, "report.html"):
            archive.writestr(name, name)
    assert pilot_place(Path("benchmarks/bundled.yaml"), tmp_path) == Found(bundle, published=True)
    with opened_pilot(bundle) as folder:
        assert {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()} == set(PARTS)
        assert (folder / RECORD).read_text() == RECORD
    for name in PARTS:
        file = tmp_path / "reference" / "bundled" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    # A folder comes before a bundle.
    assert pilot_place(Path("benchmarks/bundled.yaml"), tmp_path) == Found(bundle.with_suffix(""), published=True)


@pytest.mark.parametrize("content", [b"no archive", None], ids=["damaged", "without its tables"])
def test_a_bundle_without_a_pilots_tables_is_named(tmp_path, content):
    bundle = tmp_path / "pilot.zip"
    if content is None:
        with zipfile.ZipFile(bundle, "w") as archive:
            archive.writestr(RECORD, "")
    else:
        bundle.write_bytes(content)
    with pytest.raises(BadInput, match=r"(?s)pilot\.zip: file = .*restore the bundle"), opened_pilot(bundle):
        pass


def test_the_page_says_which_rate_was_best_which_is_used_and_how_many_seeds_it_asks_for(tmp_path, record):
    table = sweep_table(record, *tables())
    (tmp_path / "pilot").mkdir()
    table.to_parquet(tmp_path / "pilot" / "sweep.parquet")
    benchmark = load_benchmark(REPOSITORY / "benchmarks" / "quick.yaml")
    draw_sweep(table, benchmark, tmp_path / "pilot")
    assert swept(tmp_path, benchmark) is None
    asked = replace(benchmark, pilot=Path("pilot.yaml"))
    words, rates, _ = swept(tmp_path, asked).blocks
    ppo, group_ppo, random = rates.cells
    assert [cell.text for cell in ppo] == ["The ppo", "0.510", "best: 0.720", "0.550", "0.0001"]
    assert group_ppo[-1].under == "not the pilot's best, 3e-05"
    assert random[-1].under == "not in this benchmark"
    assert words.words.startswith(
        "Not run for this results folder: the pilot is measured at a place that these results do not record."
    )
    table.assign(measured_in="results/reference/pilot.zip", published=True).to_parquet(
        tmp_path / "pilot" / "sweep.parquet"
    )
    named, _, figure = swept(tmp_path, asked).blocks
    place = "Not run for this results folder: the pilot is from results/reference/pilot.zip (published)."
    assert named.words.startswith(place)
    assert figure.record.caption.startswith(place)
    needed = seeds_for_equivalence(paired_spread(table, "ppo")[0], 0.05, 0.90, 0.80)
    assert f"Equivalence within 0.05 with 80% power asks for {needed} seeds" in words.words
    assert words.words.endswith("an end of the sweep for: The group_ppo, The random.")
    assert (tmp_path / "pilot" / "sweep.svg").stat().st_size > 5000
    with pytest.raises(BadInput, match="run the pilot first"):
        swept(tmp_path / "elsewhere", asked)


def swept(results: Path, benchmark: Benchmark) -> Section | None:
    """The section of the page."""
    made = Results(results, benchmark, pd.DataFrame(), pd.DataFrame(), Judged.model_construct(), ())
    return next(sections(made), None)


def test_the_sweep_of_a_pilot_is_written_beside_its_matrix(tmp_path, record, monkeypatch):
    folder = tmp_path / "pilot"
    (folder / "tables").mkdir(parents=True)
    (folder / RECORD).write_text(yaml.safe_dump(record))
    for name in PARTS[1:]:
        (folder / name).touch()
    read = dict(zip(("runs", "evals"), tables(), strict=True))
    monkeypatch.setattr("groupppo.verdicts.sweep.load_tables", lambda *_: type("Tables", (), read))
    benchmark = load_benchmark(REPOSITORY / "benchmarks" / "quick.yaml")
    written = write_sweep(replace(benchmark, pilot=tmp_path / "pilot.yaml"), tmp_path, tmp_path / "out")
    assert written.equals(pd.read_parquet(tmp_path / "out" / "sweep.parquet"))
    assert set(written["measured_in"]) == {f"path-removed/{folder.name}"}  # a table that may be published
    assert not written["published"].any()
    assert (tmp_path / "out" / RECORD).read_text() == (folder / RECORD).read_text()
    with pytest.raises(BadInput, match="pilot"):
        write_sweep(benchmark, tmp_path, tmp_path / "out")
