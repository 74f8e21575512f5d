"""The page of a benchmark whose cells have fewer arms or seeds than its matrix says so, and misses nothing."""

from dataclasses import replace
from pathlib import Path

import pytest

from groupppo.config import Benchmark, CellPlan
from groupppo.report import captions
from groupppo.report.figures.tasks import has_tasks, left_out_told, profiles_data, shared_plans, task_scores
from groupppo.report.sections import runs as page_runs
from groupppo.report.sections.data import matched_settings, warm_starts
from groupppo.report.sections.tasks import across_tasks
from groupppo.report.sections.usage import usage
from groupppo.report.sections.verdicts import verdict_rows
from groupppo.tables import Tables, collect, load_tables
from groupppo.verdicts.claims import load_claims
from groupppo.verdicts.engine import decide
from tests.synthetic import synthetic_benchmark, write_results

CHAIN = CellPlan("chain", "tiny", ("ppo", "group_ppo"), (2, 3))
TASKS = {"tasks": ("sorting", "chain"), "seeds": (1, 2, 3)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tables, Benchmark]:
    results = tmp_path_factory.mktemp("cells")
    benchmark = write_results(results, steps=6, cells=[CHAIN], **TASKS)
    collect(results, benchmark)
    return results, load_tables(results / "tables"), benchmark


def settings_of(benchmark: Benchmark) -> dict[str, str]:
    return {setting.key: setting.value for setting in matched_settings(benchmark)}


def test_the_matrix_lists_planned_runs_alone(made) -> None:
    results, tables, benchmark = made
    rows = page_runs.matrix(results, benchmark, tables)
    assert len(rows) == 3 * 3 + 2 * 2
    assert {row.status for row in rows} == {"finished"}
    whole = page_runs.matrix(results, replace(benchmark, cells=()), tables)
    assert [row.status for row in whole].count("missing") == 5
    fewer = "not all arms and seeds with every task and model: 13 runs, none excluded"
    assert fewer in page_runs.scope(benchmark, tables)
    assert fewer not in page_runs.scope(replace(benchmark, cells=()), tables)


def test_the_settings_say_in_words_what_a_cell_is_run_with(made) -> None:
    benchmark = made[2]
    place = page_runs.place(benchmark, "chain", "tiny")
    told = settings_of(benchmark)
    assert told["Seeds"] == "1, 2, 3, where no row below says fewer"
    assert told[place] == "seeds 2, 3 of PPO (dense), GROUP-PPO"
    one = replace(benchmark, cells=(replace(CHAIN, arms=tuple(benchmark.arms), seeds=(1,)),))
    assert settings_of(one)[place] == "seed 1 of all arms"
    assert settings_of(replace(benchmark, cells=(replace(CHAIN, arms=()),)))[place] == "not run"
    whole = settings_of(replace(benchmark, cells=()))
    assert whole["Seeds"] == "1, 2, 3"
    assert place not in whole


def test_usage_has_a_row_for_each_planned_arm(made) -> None:
    _, tables, benchmark = made
    rows = [(cells[0].text, cells[1].text) for cells in usage(tables.runs, benchmark).table.rows]
    sorting = [("PPO (dense)", "3 of 3"), ("GRPO", "3 of 3"), ("GROUP-PPO", "3 of 3")]
    assert rows == [*sorting, ("PPO (dense)", "2 of 2"), ("GROUP-PPO", "2 of 2")]


def test_tasks_are_aggregated_over_the_arms_and_seeds_that_all_of_them_have_and_the_rest_is_named(made) -> None:
    _, tables, benchmark = made
    scores = {item.arm: item for item in task_scores(tables.evals, benchmark)}
    assert {arm: (item.seeds, item.without) for arm, item in scores.items()} == {
        "ppo": ((2, 3), ()),
        "group_ppo": ((2, 3), ()),
    }
    table = across_tasks(tables.evals, tables.runs, benchmark)
    assert table is not None
    assert [row[0].text for row in table.rows] == ["PPO (dense)", "GROUP-PPO"]
    model = benchmark.models["tiny"].title
    sentence = f"Left out with {model}, as not every task is run with them: GRPO, seed 1."
    assert sentence in table.caption
    data = profiles_data(list(scores.values()))
    assert sentence in captions.profiles(data, list(scores.values()), benchmark)
    assert left_out_told(replace(benchmark, cells=())) == ""


def test_models_run_on_one_task_are_named_and_without_any_other_there_is_nothing_to_aggregate(made) -> None:
    benchmark = made[2]
    other = replace(benchmark.models["tiny"], name="small", title="Small")
    both = replace(benchmark, models=benchmark.models | {"small": other}, cells=(CellPlan("chain", "small", (), (1,)),))
    assert [item.model for item in shared_plans(both)] == ["tiny"]
    assert left_out_told(both) == "Left out, as they are run on one task: Small."
    apart = replace(both, cells=(*both.cells, CellPlan("sorting", "tiny", (), (1,))))
    assert has_tasks(both)
    assert not has_tasks(apart)


def test_verdicts_of_all_cells_that_are_run_are_one_row(made) -> None:
    _, tables, benchmark = made
    other = replace(benchmark.models["tiny"], name="small", title="Small")
    unrun = CellPlan("chain", "small", (), (1,))
    three = replace(benchmark, models=benchmark.models | {"small": other}, cells=(CHAIN, unrun))
    claims = load_claims(benchmark.claims)
    only = replace(claims, claims=tuple(claim for claim in claims.claims if claim.id == "published"))
    [row] = verdict_rows(decide(only, tables, three)["verdicts"], three, set())
    assert (row.cells, row.place) == (3, "all 3 tasks and models")


def test_a_start_of_a_cell_that_is_not_run_is_not_shown(tmp_path: Path) -> None:
    benchmark = synthetic_benchmark(**TASKS)
    for task in ("sorting", "chain"):
        place = tmp_path / "assets" / "starts" / task / "tiny"
        place.mkdir(parents=True)
        (place / "warmstart.json").write_text('{"step": 1}')
    assert len(warm_starts(tmp_path, benchmark)) == 2
    not_run = replace(benchmark, cells=(replace(CHAIN, arms=()),))
    assert [row.task for row in warm_starts(tmp_path, not_run)] == [benchmark.tasks["sorting"].title]
