"""Verdicts of a benchmark whose cells are not all run with the same arms and seeds."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from groupppo.config import REPOSITORY, Benchmark, CellPlan, load_benchmark
from groupppo.errors import BadInput
from groupppo.studies.shared.study import find_study
from groupppo.tables import Tables, collect, load_tables
from groupppo.verdicts.claims import load_claims
from groupppo.verdicts.engine import decide, read_studied
from groupppo.verdicts.rules import judge
from tests.studies.made import made_faults
from tests.synthetic import ARMS, Effect, write_results

EFFECTS = ARMS | {"random": Effect(0.60, 0.08)}
SEEDS = (1, 2, 3, 4, 5)
CHAIN = CellPlan("chain", "tiny", ("ppo", "group_ppo", "random"), (2, 3, 4))


@dataclass(frozen=True)
class Made:
    tables: Tables
    benchmark: Benchmark

    def entries(self, claim: str, benchmark: Benchmark | None = None) -> dict[str, dict[str, Any]]:
        """Of one claim, by task."""
        benchmark = benchmark or self.benchmark
        claims = load_claims(benchmark.claims)
        only = replace(claims, claims=tuple(each for each in claims.claims if each.id == claim))
        return {entry["task"]: entry for entry in decide(only, self.tables, benchmark)["verdicts"]}


@pytest.fixture(scope="module")
def made() -> Iterator[Made]:
    """Sorting with four arms and five seeds, chain with three of each."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        benchmark = write_results(folder, arms=EFFECTS, seeds=SEEDS, tasks=("sorting", "chain"), cells=[CHAIN])
        collect(folder, benchmark)
        yield Made(load_tables(folder / "tables"), benchmark)


def test_planned_runs_alone_are_in_the_tables_and_none_of_them_is_missing(made: Made) -> None:
    runs = made.tables.runs
    assert len(runs) == 4 * 5 + 3 * 3
    assert runs["admissible"].all()
    # Negative control: the whole matrix would miss 11 of them.
    with TemporaryDirectory() as name:
        whole = write_results(Path(name), arms=EFFECTS, seeds=SEEDS, tasks=("sorting", "chain"), cells=[CHAIN])
        collect(Path(name), replace(whole, cells=()))
        assert (~load_tables(Path(name) / "tables").runs["admissible"]).sum() == 4 * 5 - 3 * 3


def test_each_cell_is_judged_by_its_own_seeds(made: Made) -> None:
    found = made.entries("rule-matters")
    assert {task: entry["seeds"] for task, entry in found.items()} == {"sorting": 5, "chain": 3}
    assert {entry["verdict"] for entry in found.values()} == {"supported"}
    # Negative control: with the seeds of the matrix the second cell misses two.
    whole = made.entries("rule-matters", replace(made.benchmark, cells=()))
    assert whole["chain"]["verdict"] == "not testable"
    assert "no run" in whole["chain"]["reason"]


def test_a_claim_has_no_row_for_a_cell_that_is_not_run_with_its_arms_and_holm_does_not_count_it(made: Made) -> None:
    found = made.entries("parity-grpo")
    assert set(found) == {"sorting"}
    assert "Holm" not in found["sorting"]["reason"]
    both = made.entries("rule-matters")
    assert set(both) == {"sorting", "chain"}
    assert "Holm over 2 cells" in both["sorting"]["reason"]


def test_a_claim_of_a_methods_file_has_a_row_where_its_arms_are_in_the_matrix_alone(made: Made) -> None:
    selection = load_benchmark(REPOSITORY / "benchmarks" / "selection.yaml")
    benchmark = replace(made.benchmark, claims=selection.claims)
    ids = ("nat-random-tokens", "nat-prefix-time", "random-tokens-fail", "top-entropy-beats-random")
    assert [made.entries(name, benchmark) for name in ids] == [{}] * 4
    arms = {"grpo_random": selection.arms["grpo_random"]}
    with_random = replace(benchmark, arms=benchmark.arms | arms, cells=())
    assert [set(made.entries(name, with_random)) for name in ids] == [set(), set(), {"sorting", "chain"}, set()]
    # A cost comes from the profile, whichever arms are trained.
    assert set(made.entries("speedup-update-exact")) == {""}


def test_an_arm_that_no_cell_is_run_with_is_told_for_every_cell(made: Made) -> None:
    own = replace(made.benchmark, claims=made.benchmark.claims_files[0])
    found = made.entries("published", own)
    assert set(found) == {"sorting", "chain"}
    reasons = {entry["reason"] for entry in found.values()}
    assert reasons == {"The arm group_ppo_published is not in this benchmark."}
    assert not any(entry["asked"] for entry in found.values())
    assert all(entry["asked"] for entry in made.entries("parity-grpo").values())
    apart = (CellPlan("sorting", "tiny", ("ppo", "grpo"), SEEDS), CHAIN)
    found = made.entries("parity-grpo", replace(made.benchmark, cells=apart))
    assert set(found) == {"sorting", "chain"}
    assert all("is run with " in entry["reason"] for entry in found.values())


def test_a_cell_that_is_not_run_has_no_row_and_no_study_to_be_read(made: Made, tmp_path: Path) -> None:
    not_run = replace(made.benchmark, cells=(replace(CHAIN, arms=()),), studies=("faults",))
    assert set(made.entries("parity-ppo", not_run)) == {"sorting"}
    study = tmp_path / "studies" / "faults" / "sorting.tiny"
    study.mkdir(parents=True)
    find_study("faults").write_table(study, "faults", made_faults())
    claims = load_claims(not_run.claims)
    assert set(read_studied(tmp_path, not_run, claims).tables) == {("faults", "sorting", "tiny")}
    with pytest.raises(BadInput, match=r"chain\.tiny"):
        read_studied(tmp_path, replace(not_run, cells=()), claims)


def test_a_seed_that_has_no_value_leaves_its_cell_undecided_and_the_others_judged(made: Made) -> None:
    claims = load_claims(made.benchmark.claims)
    claim = next(claim for claim in claims.claims if claim.id == "rule-matters")
    better = {seed: 0.15 + 0.01 * seed for seed in range(5)}
    three = {seed: better[seed] for seed in range(3)}
    five_and_three = [finding.verdict for finding in judge(claim, claims, [better, three], [5, 3])]
    assert five_and_three == ["supported", "supported"]
    one_missing = judge(claim, claims, [better, three], [5, 4])
    assert [finding.verdict for finding in one_missing] == ["supported", "inconclusive"]
    assert one_missing[1].reason.startswith("Only 3 of 4 seeds")
