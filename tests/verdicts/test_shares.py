"""Claims that a study answers: a share of its rows is counted, and one exception refutes an "always"."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupppo.config import Benchmark
from groupppo.config.forms import Region
from groupppo.errors import BadInput
from groupppo.studies.shared.study import find_study
from groupppo.tables import Tables, collect, load_tables
from groupppo.verdicts.claims import Claims, load_claims
from groupppo.verdicts.engine import decide, read_studied
from groupppo.verdicts.quantities import SHARES
from groupppo.verdicts.rules import judge_share
from tests.studies.made import made_faults
from tests.synthetic import write_results

S, R, T = "supported", "refuted", "not testable"
FAULTS = SHARES["faults_survived"]
ALWAYS = Region(low=1.0)


def table(*survived: bool, control: bool = False) -> pd.DataFrame:
    """One row for each injection point, after the control that does not count."""
    points = ["none", *(f"point{number}" for number in range(len(survived)))]
    return pd.DataFrame({"arm": "group_ppo", "point": points, "survived": [control, *survived]})


@pytest.mark.parametrize(
    ("region", "survived", "expected"),
    [
        (ALWAYS, (True, True, True), S),
        (ALWAYS, (True, False, True), R),
        (ALWAYS, (False,), R),
        (Region(low=0.5), (True, False), S),
        (Region(low=0.51), (True, False), R),
        (Region(high=0.5), (True, False), S),
        (Region(low=0.2, high=0.4), (True, False), R),
        (ALWAYS, (), T),
    ],
)
def test_the_share_must_lie_in_the_region_whose_ends_belong_to_it(region, survived, expected):
    assert judge_share(FAULTS, region, table(*survived)).verdict == expected


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.booleans())
def test_the_control_never_counts_and_one_exception_refutes(survived, control):
    finding = judge_share(FAULTS, ALWAYS, table(*survived, control=control))
    assert finding.verdict == (S if all(survived) else R)
    assert finding.estimate == sum(survived) / len(survived)
    assert finding.low is finding.high is None


def test_the_reason_counts_and_names_every_exception():
    finding = judge_share(FAULTS, ALWAYS, table(True, False, True, False))
    assert finding.reason == (
        "2 of 4 injection points, 0.5, lies outside the region (at least 1). Not: group_ppo point1, group_ppo point3."
    )
    assert finding.replicates == "2 of 4 injection points"
    words = table(True, True).astype({"survived": object})
    words.loc[1, "survived"] = "False"  # a word is not true
    assert judge_share(FAULTS, ALWAYS, words).estimate == 0.5


def test_without_the_study_the_claim_is_not_testable():
    finding = judge_share(FAULTS, ALWAYS, None)
    assert (finding.verdict, finding.estimate, finding.asked) == (T, None, False)
    assert judge_share(FAULTS, ALWAYS, table()).asked  # a study without rows was asked for


# ---- from a results folder


@pytest.fixture
def results(tmp_path: Path) -> tuple[Claims, Tables, Benchmark]:
    """Two tasks that ask for the study: on `sorting` all faults are survived, on `chain` one is not."""
    benchmark = write_results(tmp_path, seeds=(1, 2), steps=2, tasks=("sorting", "chain"))
    collect(tmp_path, benchmark)
    for task in benchmark.tasks:
        folder = tmp_path / "studies" / "faults" / f"{task}.tiny"
        folder.mkdir(parents=True)
        find_study("faults").write_table(folder, "faults", made_faults(lost=1 if task == "chain" else 0))
    return load_claims(benchmark.claims), load_tables(tmp_path / "tables"), replace(benchmark, studies=("faults",))


def verdicts(results: tuple[Claims, Tables, Benchmark], folder: Path) -> dict[str, dict]:
    claims, tables, benchmark = results
    claims = replace(claims, claims=tuple(claim for claim in claims.claims if claim.id == "fallback"))
    content = decide(claims, tables, benchmark, studied=read_studied(folder, benchmark, claims))
    return {entry["task"]: entry for entry in content["verdicts"]}


def test_every_task_gets_the_verdict_of_its_own_study(results, tmp_path):
    found = verdicts(results, tmp_path)
    assert {task: entry["verdict"] for task, entry in found.items()} == {"sorting": S, "chain": R}
    assert found["sorting"]["evidence"] == {
        "table": "faults",
        "file": "studies/faults/sorting.tiny/faults.csv",
        "rows": "point != 'none'",
    }
    rows = pd.read_csv(tmp_path / found["chain"]["evidence"]["file"]).query(found["chain"]["evidence"]["rows"])
    assert rows["survived"].mean() == found["chain"]["estimate"]


def test_a_benchmark_that_does_not_ask_for_the_study_leaves_it_unread(results, tmp_path):
    claims, tables, benchmark = results
    found = verdicts((claims, tables, replace(benchmark, studies=())), tmp_path)
    assert {(entry["verdict"], entry["evidence"]["file"]) for entry in found.values()} == {(T, "")}


def test_a_study_that_was_asked_for_and_is_missing_is_named(results, tmp_path):
    (tmp_path / "studies" / "faults" / "chain.tiny" / "faults.csv").unlink()
    with pytest.raises(BadInput, match=r"chain.tiny/faults.csv(.|\n)*run the study first"):
        verdicts(results, tmp_path)
