"""A benchmark whose cells have fewer arms or seeds than its matrix: bundled, verified and compared as what it is."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from groupppo.config import Benchmark, CellPlan
from groupppo.errors import BadInput
from groupppo.publish.bundle import make_bundle
from groupppo.publish.compare import Gap, compare
from groupppo.publish.compare_page import answer, comparison_tables
from groupppo.publish.derive import derive
from groupppo.publish.source import loaded_config
from groupppo.publish.verify import verify
from groupppo.tables import collect
from groupppo.tables.schema import planned_keys
from groupppo.verdicts.claims import load_claims
from tests.synthetic import synthetic_benchmark, write_results

CHAIN = CellPlan("chain", "tiny", ("ppo", "group_ppo"), (2, 3))
TASKS = {"tasks": ("sorting", "chain"), "seeds": (1, 2, 3)}


def judged(results: Path, benchmark: Benchmark) -> None:
    (results / "benchmark.yaml").write_text(yaml.safe_dump(benchmark.resolved(), sort_keys=False), encoding="utf-8")
    derive(results, benchmark, load_claims(benchmark.claims))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of two tasks with all arms and seeds."""
    results = tmp_path_factory.mktemp("whole") / "quick"
    judged(results, write_results(results, steps=6, **TASKS))
    return results


@pytest.fixture(scope="module")
def narrowed(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same runs but those that the cells leave out, with pages of their own."""
    results = tmp_path_factory.mktemp("narrowed") / "quick"
    benchmark = synthetic_benchmark(steps=6, cells=[CHAIN], **TASKS)
    shutil.copytree(whole, results)
    planned = {keys.below(Path()).as_posix() for keys in planned_keys(benchmark)}
    for run in [*results.glob("runs/*/*/*/seed*"), *results.glob("evals/*/*/*/seed*")]:
        if run.relative_to(results).as_posix().partition("/")[2] not in planned:
            shutil.rmtree(run)
    judged(results, benchmark)
    return results


def test_a_bundle_of_narrowed_cells_verifies_and_says_that_they_are(narrowed, tmp_path) -> None:
    bundle = make_bundle(narrowed, tmp_path / "bundle.zip", checkpoints=False)
    assert [verify(path).differences for path in (bundle, narrowed)] == [[], []]
    shutil.unpack_archive(bundle, tmp_path / "unpacked")
    crate = json.loads((tmp_path / "unpacked" / "ro-crate-metadata.json").read_text())
    told = next(entity for entity in crate["@graph"] if entity["@id"] == "./")["description"]
    assert "2 tasks, 1 models, 3 seeds; not every task and model is run with all arms and seeds" in told
    # Negative control: with other cells its verdicts are not those of its matrix.
    file = tmp_path / "unpacked" / "config" / "quick.yaml"
    matrix = yaml.safe_load(file.read_text())
    assert matrix["cells"] == [{"task": "chain", "model": "tiny", "arms": ["ppo", "group_ppo"], "seeds": [2, 3]}]
    for other in ([matrix["cells"][0] | {"seeds": [1, 2, 3]}], []):
        file.write_text(yaml.safe_dump(matrix | {"cells": other}))
        with pytest.raises(BadInput, match="not the same matrix"), loaded_config(tmp_path / "unpacked"):
            pass


def test_cells_that_one_side_does_not_plan_are_told_and_not_missing(whole, narrowed) -> None:
    found = compare(whole, narrowed)
    assert found.exit_code == 0
    left = [
        "chain/tiny/group_ppo/seed1",
        *(f"chain/tiny/grpo/seed{seed}" for seed in (1, 2, 3)),
        "chain/tiny/ppo/seed1",
    ]
    told = [(Gap.UNPLANNED, cell, "not in the matrix of b") for cell in left]
    assert [(each.gap, each.what, each.why) for each in found.not_compared] == told
    assert answer(found).endswith("13 cells compared. 5 cells not planned on both sides.")
    rows = next(table for table in comparison_tables(found) if table.title == "Not compared").rows
    assert ("chain/tiny/grpo/seed2", "not in the matrix of b") in rows
    assert {each.why for each in compare(narrowed, whole).not_compared} == {"not in the matrix of a"}
    assert compare(whole, whole).not_compared == ()


def test_a_planned_run_that_is_not_there_is_still_missing(whole, narrowed, tmp_path) -> None:
    copy = tmp_path / "quick"
    shutil.copytree(narrowed, copy)
    shutil.rmtree(copy / "runs" / "chain" / "tiny" / "ppo" / "seed2")
    collect(copy, synthetic_benchmark(steps=6, cells=[CHAIN], **TASKS))
    found = compare(whole, copy)
    assert found.exit_code == 1
    assert [place for place in found.regressions if "chain/tiny/ppo/seed2" in place.place]
