"""The page of a benchmark whose cells have fewer arms or seeds than its matrix says so, and misses nothing."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from groupppo.config import Benchmark, CellPlan
from groupppo.draw.wording import MISSING
from groupppo.report.figures import tasks
from groupppo.report.figures.tasks import shared_plans, task_scores
from groupppo.report.sections import Judged, Results
from groupppo.report.sections.benchmark import warm_starts
from groupppo.report.sections.runs import run_table, scope
from groupppo.report.sections.tasks import across_tasks
from groupppo.report.sections.usage import usage_table
from groupppo.report.sections.verdicts import verdict_table
from groupppo.tables import Tables, collect, load_tables
from groupppo.verdicts.claims import load_claims
from groupppo.verdicts.engine import decide
from tests.report.conftest import collected, results_of
from tests.synthetic import ARMS, rewrite_json, synthetic_benchmark, write_results

CHAIN = CellPlan("chain", "tiny", ("ppo", "group_ppo"), (2, 3))
TASKS = {"tasks": ("sorting", "chain"), "seeds": (1, 2, 3)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tables, Benchmark]:
    results = tmp_path_factory.mktemp("cells")
    tables, benchmark = collected(results, steps=6, cells=[CHAIN], **TASKS)
    judged(results, tables, benchmark)
    return results, tables, benchmark


def judged(results: Path, tables: Tables, benchmark: Benchmark, *only: str) -> None:
    claims = load_claims(benchmark.claims)
    kept = tuple(claim for claim in claims.claims if claim.id in only or not only)
    decided = decide(replace(claims, claims=kept), tables, benchmark)
    (results / "verdicts.json").write_text(json.dumps(decided), encoding="utf-8")


def test_runs_and_usage_have_a_row_for_what_is_planned_alone(made) -> None:
    results, tables, benchmark = made
    statuses = [row[4].text.text for row in run_table(results_of(results, tables, benchmark), tables.runs, "").cells]
    assert statuses == ["finished"] * (3 * 3 + 2 * 2)
    assert "not all arms and seeds with every task and model: 13 runs, none excluded" in scope(benchmark, tables.runs)
    assert "not all" not in scope(replace(benchmark, cells=()), tables.runs)
    rows = [(cells[0].text, cells[1].text) for cells in usage_table(tables.runs, benchmark).cells]
    sorting = [("PPO (dense)", "3 of 3"), ("GRPO", "3 of 3"), ("GROUP-PPO", "3 of 3")]
    assert rows == [*sorting, ("PPO (dense)", "2 of 2"), ("GROUP-PPO", "2 of 2")]


def test_a_run_says_in_what_share_of_its_steps_a_ratio_was_clipped(tmp_path: Path) -> None:
    """A step is clipped or not, by however many tokens; one that logs null is neither."""
    benchmark = write_results(tmp_path, arms={"ppo": ARMS["ppo"]}, seeds=[1, 2, 3], steps=6)
    shares = {1: [0.0, 0.001, 0.0, 0.9, None, 0.0], 2: [0.0] * 6}
    for seed, values in shares.items():
        file = tmp_path / "runs" / "sorting" / "tiny" / "ppo" / f"seed{seed}" / "steps.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        logged = [row | {"actor/pg_clipfrac": value} for row, value in zip(rows, values, strict=True)]
        file.write_text("".join(f"{json.dumps(row)}\n" for row in logged))
    collect(tmp_path, benchmark)
    tables = load_tables(tmp_path / "tables")
    judged(tmp_path, tables, benchmark)
    shown = run_table(results_of(tmp_path, tables, benchmark), tables.runs, "")
    place = shown.head.index("Clipped")
    assert [row[place].text for row in shown.cells] == ["40.0 %", "0.0 %", MISSING]


def test_tasks_are_aggregated_over_the_arms_and_seeds_that_all_of_them_have_and_the_rest_is_named(made) -> None:
    results, tables, benchmark = made
    scores = {item.arm: item for item in task_scores(tables.evals, benchmark)}
    assert {arm: (item.seeds, item.without) for arm, item in scores.items()} == {
        "ppo": ((2, 3), ()),
        "group_ppo": ((2, 3), ()),
    }
    table = across_tasks(results_of(results, tables, benchmark))
    assert table is not None
    assert [row[0].text for row in table.cells] == ["PPO (dense)", "GROUP-PPO"]
    model = benchmark.models["tiny"].title
    sentence = f"Left out with {model}, as not every task is run with them: GRPO, seed 1."
    assert sentence in table.caption
    data = tasks.data(list(scores.values()))
    assert sentence in tasks.caption(data, list(scores.values()), benchmark)
    assert tasks.left_out(replace(benchmark, cells=())) == ""


def test_models_run_on_one_task_are_named_and_without_any_other_there_is_nothing_to_aggregate(made) -> None:
    benchmark = made[2]
    other = replace(benchmark.models["tiny"], name="small", title="Small")
    both = replace(benchmark, models=benchmark.models | {"small": other}, cells=(CellPlan("chain", "small", (), (1,)),))
    assert [item.model for item in shared_plans(both)] == ["tiny"]
    assert tasks.left_out(both) == "Left out, as they are run on one task: Small."
    apart = replace(both, cells=(*both.cells, CellPlan("sorting", "tiny", (), (1,))))
    assert tasks.FIGURE.asked(both)
    assert not tasks.FIGURE.asked(apart)


def test_verdicts_of_all_cells_that_are_run_are_one_row(made, tmp_path: Path) -> None:
    _, tables, benchmark = made
    other = replace(benchmark.models["tiny"], name="small", title="Small")
    unrun = CellPlan("chain", "small", (), (1,))
    three = replace(benchmark, models=benchmark.models | {"small": other}, cells=(CHAIN, unrun))
    three = replace(three, claims=benchmark.claims_files[0])
    judged(tmp_path, tables, three, "published")
    file = tmp_path / "verdicts.json"
    rewrite_json(file, verdicts=[entry | {"asked": True} for entry in json.loads(file.read_text())["verdicts"]])
    [row] = verdict_table(results_of(tmp_path, tables, three)).cells
    assert (row[0].lines, row[2].lines) == (["all 3 tasks and models"], ["3 verdicts"])


def test_a_start_of_a_cell_that_is_not_run_is_not_shown(tmp_path: Path) -> None:
    benchmark = synthetic_benchmark(**TASKS)
    for task in ("sorting", "chain"):
        place = tmp_path / "assets" / "starts" / task / "tiny"
        place.mkdir(parents=True)
        (place / "warmstart.json").write_text('{"step": 1}')
    judged_on = Results(tmp_path, benchmark, pd.DataFrame(), pd.DataFrame(), Judged.model_construct(), ())
    assert len(warm_starts(judged_on).rows) == 2
    not_run = replace(judged_on, benchmark=replace(benchmark, cells=(replace(CHAIN, arms=()),)))
    assert [row[0].text for row in warm_starts(not_run).cells] == [benchmark.tasks["sorting"].title]
