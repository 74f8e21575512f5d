"""Several tasks together: a table and a figure of performance profiles; of one task, a sentence that there is none."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from groupppo.config import Benchmark
from groupppo.draw.blocks import Table, TextCell
from groupppo.draw.style import figure_style
from groupppo.draw.wording import MISSING, percentage
from groupppo.report.figures import draw_figures, tasks
from groupppo.report.figures.tasks import TaskScores, task_scores
from groupppo.report.page import write_report
from groupppo.report.sections import Judged, Results
from groupppo.report.sections.tasks import ONE_TASK, across_tasks, sections
from groupppo.stats.across_tasks import interquartile_mean, probability_of_improvement
from groupppo.tables import Tables
from tests.report.conftest import collected, prepare, row
from tests.synthetic import ARMS, Effect

FAR_APART = ARMS | {"grpo": Effect(accuracy=0.60), "group_ppo": Effect(accuracy=0.90, density=0.08)}


@pytest.fixture(scope="module", autouse=True)
def no_figure_of_others(only_figures) -> None:
    only_figures("profiles")


@pytest.fixture(scope="module")
def two_tasks(tmp_path_factory) -> tuple[Tables, Benchmark, Path]:
    folder = tmp_path_factory.mktemp("two")
    return *collected(folder, tasks=("sorting", "chain"), seeds=(1, 2, 3), arms=FAR_APART), folder


def table(evals: pd.DataFrame, runs: pd.DataFrame, benchmark: Benchmark) -> Table:
    found = across_tasks(Results(Path(), benchmark, runs, evals, Judged.model_construct(), ()))
    assert found is not None
    return found


def scores_of(tables: Tables, benchmark: Benchmark, arm: str) -> TaskScores:
    return next(item for item in task_scores(tables.evals, benchmark) if item.arm == arm)


def test_scores_are_seeds_by_tasks_in_the_benchmark_s_order(two_tasks):
    tables, benchmark, _ = two_tasks
    evals = tables.evals[tables.evals["metric"] == "accuracy"]
    chain = (evals["task"] == "chain") & (evals["arm"] == "ppo") & (evals["seed"] == 2)
    marked = evals.assign(value=evals["value"].where(~chain, 0.123))
    found = next(item for item in task_scores(marked, benchmark) if item.arm == "ppo")
    assert found.scores.shape == (3, 2)
    assert found.scores[1, 1] == 0.123
    assert (found.scores == 0.123).sum() == 1
    assert (found.seeds, found.without) == ((1, 2, 3), ())


def test_the_table_has_interquartile_means_and_probabilities_of_improvement(two_tasks):
    tables, benchmark, _ = two_tasks
    found = table(tables.evals, tables.runs, benchmark)
    ours = scores_of(tables, benchmark, "group_ppo").scores
    mean = row(found, "GROUP-PPO")["Interquartile mean"]
    assert mean.text == f"{float(interquartile_mean(ours)):.3f}"
    assert mean.under.startswith("[0.")
    assert row(found, "GROUP-PPO")["Better than PPO (dense)"] == TextCell("100.0 %", "[100.0 %, 100.0 %]")
    # Negative control: a worse arm and the reference itself.
    assert row(found, "GRPO")["Better than PPO (dense)"] == TextCell("0.0 %", "[0.0 %, 0.0 %]")
    assert row(found, "PPO (dense)")["Better than PPO (dense)"] == TextCell(MISSING, "the reference")
    assert "fewer than 10 seeds these intervals are far too narrow" in found.caption


def test_a_seed_without_an_admissible_run_on_some_task_is_left_out_and_named(tmp_path):
    failed = {("grpo", 2): "killed"}
    tables, benchmark = collected(tmp_path, tasks=("sorting", "chain"), seeds=(1, 2, 3), failed=failed)
    found = row(table(tables.evals, tables.runs, benchmark), "GRPO")
    assert found["Seeds"] == TextCell("2", "without 2: not admissible on every task")
    assert row(table(tables.evals, tables.runs, benchmark), "PPO (dense)")["Seeds"] == TextCell("3")
    # The pairs are those of the seeds that both have.
    ours, theirs = scores_of(tables, benchmark, "grpo"), scores_of(tables, benchmark, "ppo")
    assert ours.seeds == (1, 3)
    chance = float(probability_of_improvement(ours.scores, theirs.scores[[0, 2]]))
    assert found["Better than PPO (dense)"].text == percentage(chance)


def test_an_arm_without_any_complete_seed_has_dashes(two_tasks):
    tables, benchmark, _ = two_tasks
    gone = (tables.evals["arm"] == "grpo") & (tables.evals["task"] == "chain")
    found = row(table(tables.evals[~gone], tables.runs, benchmark), "GRPO")
    assert found["Seeds"] == TextCell("0", "without 1, 2, 3: not admissible on every task")
    assert found["Interquartile mean"] == found["Better than PPO (dense)"] == TextCell(MISSING)


def test_the_profile_falls_from_all_runs_to_none_and_is_higher_for_the_better_arm(two_tasks):
    tables, benchmark, _ = two_tasks
    data = tasks.data(task_scores(tables.evals, benchmark))
    wide = data.pivot(index="threshold", columns="arm", values="share")
    assert (wide.iloc[0] == 1).all()
    assert (wide.diff().dropna() <= 0).all(axis=None)
    assert (wide["group_ppo"] >= wide["ppo"]).all()
    assert (wide["ppo"] >= wide["grpo"]).all()
    assert (wide["group_ppo"] > wide["grpo"]).any()
    assert (data["low"] <= data["share"]).all()
    assert (data["share"] <= data["high"]).all()
    middle = data[(data["arm"] == "ppo")].iloc[50]
    scores = scores_of(tables, benchmark, "ppo").scores
    assert middle["share"] == (scores > middle["threshold"]).mean()


def drawn(data: pd.DataFrame, benchmark: Benchmark) -> Figure:
    with figure_style():
        return tasks.draw(data, benchmark)


def test_the_figure_has_a_line_for_each_arm_and_bands_while_they_can_be_told_apart(two_tasks, monkeypatch):
    tables, benchmark, _ = two_tasks
    data = tasks.data(task_scores(tables.evals, benchmark))
    panel = drawn(data, benchmark).axes[0]
    assert len(panel.lines) == len(panel.collections) == 3
    lines = {tuple(np.round(line.get_ydata(), 9)) for line in panel.lines}
    assert lines == {tuple(np.round(rows["share"], 9)) for _, rows in data.groupby("arm")}
    monkeypatch.setattr(tasks, "MOST_BANDS", 2)
    assert len(drawn(data, benchmark).axes[0].collections) == 0


def test_table_and_figure_are_on_the_page_and_in_the_markdown(two_tasks):
    tables, benchmark, folder = two_tasks
    prepare(folder, tables, benchmark)
    text = write_report(folder, benchmark).read_text(encoding="utf-8")
    markdown = (folder / "report.md").read_text(encoding="utf-8")
    assert "Interquartile mean" in text[text.index('<section id="across">') : text.index('<section id="excluded">')]
    assert 'id="figure-profiles"' in text
    assert "figures/profiles.csv" in text
    assert "figures/profiles.png" in markdown
    assert "| Arm | Seeds | Interquartile mean | Better than PPO (dense) |" in markdown
    assert ONE_TASK not in text + markdown
    record = next(
        item for item in json.loads((folder / "figures/figures.json").read_text()) if item["id"] == "profiles"
    )
    assert "2 tasks and 3 seeds" in record["caption"]
    assert "they are too narrow" in record["caption"]
    assert "half of the runs lie above" in record["alt"]


def test_with_one_task_a_sentence_says_why_there_is_none(two_tasks, tmp_path):
    tables, benchmark, _ = two_tasks
    one = replace(benchmark, tasks={"sorting": benchmark.tasks["sorting"]})
    made = Results(tmp_path, one, tables.runs, tables.evals, Judged.model_construct(), ())
    [section] = sections(made)
    assert [block.words for block in section.blocks] == [ONE_TASK]
    assert not tasks.FIGURE.asked(one)


def test_several_tasks_without_a_complete_seed_leave_a_record_that_says_so(two_tasks, tmp_path):
    tables, benchmark, _ = two_tasks
    runs = tables.runs.assign(admissible=tables.runs["task"] == "sorting")
    records = draw_figures(replace(tables, runs=runs), benchmark, tmp_path)
    record = next(record for record in records if record.id == "profiles")
    assert record.files == {}
    assert "no seed of any arm is admissible on every task" in record.caption
