"""Collection: what goes in comes out, and what cannot be read stays with its run, named by file, line and value."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from groupppo.tables import SCHEMA, Tables, collect
from tests.synthetic import Effect, rewrite_json, synthetic_benchmark, write_results
from tests.tables.conftest import EVAL, RUN, STEPS, run_row, tables_of


def assert_nothing_of_the_run_is_measured(tables: Tables, seed: int = 2) -> None:
    for name in ("steps", "stages", "groups", "evals"):
        table = getattr(tables, name)
        assert table.query(f"arm == 'group_ppo' and seed == {seed}").empty
        assert len(table.query("arm == 'group_ppo' and seed == 1"))


def assert_unreadable(tables: Tables, reason: str) -> None:
    """The run is named with its reason, gives no other row, and no other run suffers."""
    row = run_row(tables)
    assert (row["status"], row["admissible"]) == ("unreadable", False)
    assert reason in row["reason"]
    assert_nothing_of_the_run_is_measured(tables)
    others = tables.runs[(tables.runs["arm"] != "group_ppo") | (tables.runs["seed"] != 2)]
    assert others["admissible"].all()


def edit_line(file: Path, number: int, change: Callable[[str], str]) -> None:
    lines = file.read_text().splitlines(keepends=True)
    lines[number - 1] = change(lines[number - 1])
    file.write_text("".join(lines))


def with_value(key: str, value: object) -> Callable[[str], str]:
    return lambda line: json.dumps(json.loads(line) | {key: value}) + "\n"


def test_every_fact_of_the_files_is_one_row(results):
    folder, benchmark = results
    tables = tables_of(folder, benchmark)
    assert len(tables.runs) == 3 * 2
    assert tables.runs["admissible"].all()
    assert tables.runs["reason"].isna().all()
    logged = [json.loads(line) for file in folder.glob("runs/*/*/*/*/steps.jsonl") for line in file.open()]
    assert len(tables.steps) == sum(len(line) - 1 for line in logged)
    assert len(tables.stages) == sum(len(file.read_text().splitlines()) for file in folder.glob("runs/**/stages.jsonl"))
    assert set(tables.groups["arm"]) == {"group_ppo"}
    assert len(tables.groups) == 2 * STEPS
    assert len(tables.evals) == (1 + 3 * 2) * 2


def test_values_survive_unchanged(results):
    folder, benchmark = results
    tables = tables_of(folder, benchmark)
    line = json.loads((folder / RUN / "steps.jsonl").read_text().splitlines()[2])
    step = tables.steps.query("arm == 'group_ppo' and seed == 2 and step == 3").set_index("metric")["value"]
    assert step["reward/mean"] == line["reward/mean"]
    group = tables.groups.query("seed == 2 and step == 3").iloc[0]
    assert (group["endpoints"], group["cap"]) == (line["group/total_endpoints"], line["group/closed_by/cap"])
    stage = json.loads((folder / RUN / "stages.jsonl").read_text().splitlines()[5])
    row = tables.stages.query("arm == 'group_ppo' and seed == 2 and step == 1 and stage == @stage['stage']").iloc[0]
    assert {key: row[key] for key in stage} == stage


def test_the_start_has_no_seed_and_null_metrics_stay_missing(results):
    folder, benchmark = results
    tables = tables_of(folder, benchmark)
    assert tables.evals.query("arm == 'start'")["seed"].isna().all()
    assert tables.evals.query("arm != 'start'")["seed"].notna().all()
    assert tables.steps.query("arm == 'grpo' and metric == 'critic/vf_loss'")["value"].isna().all()
    assert tables.steps.query("arm == 'ppo' and metric == 'critic/vf_loss'")["value"].notna().all()


def test_types_are_the_declared_ones_even_of_empty_tables(tmp_path):
    benchmark = write_results(tmp_path, arms={"ppo": Effect()}, steps=2, failed={("ppo", 1): "killed", ("ppo", 2): "x"})
    tables = tables_of(tmp_path, benchmark)
    assert tables.groups.empty
    for name, columns in SCHEMA.items():
        frame = getattr(tables, name)
        assert {column.name: column.dtype for column in columns} == frame.dtypes.astype(str).to_dict()


def test_collecting_leaves_runs_and_evaluations_untouched_and_repeats_to_the_byte(results):
    folder, benchmark = results
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.rglob("*") if file.is_file()}
    collect(folder, benchmark)
    assert before == {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in before}
    first = {file.name: file.read_bytes() for file in (folder / "tables").iterdir()}
    collect(folder, benchmark)
    assert first == {file.name: file.read_bytes() for file in (folder / "tables").iterdir()}
    assert set(first) == {f"{name}.parquet" for name in SCHEMA}


def test_a_failed_run_is_kept_with_its_cause_and_nothing_of_it_is_measured(tmp_path):
    benchmark = write_results(tmp_path, steps=4, failed={("group_ppo", 2): "out of memory"})
    (tmp_path / RUN / "provenance.json").unlink()
    (tmp_path / RUN / "steps.jsonl").write_text('{"step": 1, "rew')
    tables = tables_of(tmp_path, benchmark)
    row = run_row(tables)
    assert (row["status"], row["cause"], row["steps"]) == ("failed", "out of memory", 2)
    assert not row["admissible"]
    assert row["reason"] == "failed: out of memory"
    assert_nothing_of_the_run_is_measured(tables)


def test_a_fallback_that_only_the_steps_tell_of_counts_too(results):
    folder, benchmark = results
    edit_line(folder / RUN / "steps.jsonl", 3, with_value("group/fallbacks", 1))
    row = run_row(tables_of(folder, benchmark))
    assert (row["fallbacks"], row["admissible"]) == (1, False)


def test_a_planned_run_that_is_not_there_is_missing_and_stops_no_other(results):
    folder, _ = results
    tables = tables_of(folder, synthetic_benchmark(seeds=(1, 2, 3), steps=STEPS))
    row = run_row(tables, seed=3)
    assert (row["status"], row["admissible"], row["planned_steps"]) == ("missing", False, STEPS)
    assert row[["rollout", "device", "wall_seconds"]].isna().all()
    assert row["reason"].startswith("runs/sorting/tiny/group_ppo/seed3/status.json: file = missing")
    assert_nothing_of_the_run_is_measured(tables, seed=3)
    assert tables.runs.query("seed != 3")["admissible"].all()


@pytest.mark.parametrize("left", ["", '{"status": "fini', "\0" * 40])
def test_a_run_that_did_not_say_how_it_ended_is_unreadable_and_stops_no_other(results, left):
    folder, benchmark = results
    (folder / RUN / "status.json").write_text(left)  # a full disk, under an older version
    tables = tables_of(folder, benchmark)
    row = run_row(tables)
    assert (row["status"], row["admissible"]) == ("unreadable", False)
    assert "status.json: file = " in row["reason"]
    assert "broke off; run it again, or remove its folder" in row["reason"]
    assert tables.runs.query("seed != 2 or arm != 'group_ppo'")["admissible"].all()
    assert_nothing_of_the_run_is_measured(tables)


def test_a_failed_run_whose_outputs_were_deleted_is_known_from_what_it_set_aside(results):
    folder, benchmark = results
    (folder / RUN / "failed").mkdir()
    for name in ("status.json", "provenance.json"):
        (folder / RUN / name).rename(folder / RUN / "failed" / name)
    rewrite_json(folder / RUN / "failed" / "status.json", status="failed", cause="out of memory")
    row = run_row(tables_of(folder, benchmark))
    assert (row["status"], row["cause"], row["device"]) == ("failed", "out of memory", "cpu")


BROKEN_LINES = {
    "truncated": (lambda line: line[: len(line) // 2], "line 3"),
    "blank": (lambda line: "\n", "line 3"),
    "not an object": (lambda line: "3\n", "line 3"),
    "NaN": (with_value("seconds", float("nan")), "line 3"),
    "too large for a float": (lambda line: re.sub(r'"seconds": [0-9.e-]+', '"seconds": 1e999', line), "line 3"),
    "text for a number": (with_value("seconds", "0.1"), "line 3 seconds"),
    "true for a number": (with_value("seconds", True), "line 3 seconds"),
    "half a byte": (with_value("peak_bytes", 0.5), "line 3 peak_bytes"),
    "a key gone": (lambda line: line.replace('"cpu_seconds"', '"cpu"'), "line 3 cpu_seconds"),
    "a key twice": (lambda line: line.replace("}", ', "seconds": 0.5}'), "line 3"),
    "a row twice": (with_value("stage", "gen"), "line 3"),
}


@pytest.mark.parametrize("case", BROKEN_LINES)
def test_a_line_that_cannot_be_read_is_named_and_the_other_runs_are_collected(results, case):
    folder, benchmark = results
    change, place = BROKEN_LINES[case]
    edit_line(folder / RUN / "stages.jsonl", 3, change)
    tables = tables_of(folder, benchmark)
    assert_unreadable(tables, f"{RUN.as_posix()}/stages.jsonl: {place} = ")


def test_a_step_logged_twice_is_named(results):
    folder, benchmark = results
    file = folder / RUN / "steps.jsonl"
    file.write_text(file.read_text() + file.read_text().splitlines(keepends=True)[1])
    tables = tables_of(folder, benchmark)
    assert_unreadable(tables, "steps.jsonl: line 6 = 'step 2' (line 2 has the same row")


@pytest.mark.parametrize(
    ("metric", "value"), [("group/density", 0.0625), ("group/total_tokens", 6420.5), ("group/total_tokens", 0)]
)
def test_group_metrics_that_contradict_each_other_are_unreadable(results, metric, value):
    edit_line(results[0] / RUN / "steps.jsonl", 2, with_value(metric, value))
    assert_unreadable(tables_of(*results), f"line 2 {metric} = ")


@pytest.mark.parametrize("metric", ["group/total_tokens", "group/density", "group/closed_by/cap"])
def test_a_grouped_arm_without_group_metrics_is_unreadable(results, metric):
    edit_line(results[0] / RUN / "steps.jsonl", 2, lambda line: line.replace(metric, "group/else"))
    assert_unreadable(tables_of(*results), f"steps.jsonl: line 2 {metric} = missing")


@pytest.mark.parametrize("endpoints", [0, 1])
def test_a_step_in_which_the_rule_chose_nothing_has_no_groups_and_its_run_is_read(results, endpoints):
    folder, _ = results

    def chose_nothing(line: str) -> str:
        row = {name: value for name, value in json.loads(line).items() if not name.startswith("group/")}
        few = {"group/total_tokens": 6400, "group/total_endpoints": endpoints, "group/density": endpoints / 6400}
        return json.dumps(row | few | {"group/fallbacks": 0}) + "\n"

    edit_line(folder / RUN / "steps.jsonl", 2, chose_nothing)
    tables = tables_of(*results)
    if endpoints:
        assert_unreadable(tables, "steps.jsonl: line 2 group/")
        return
    groups = tables.groups[(tables.groups["arm"] == "group_ppo") & (tables.groups["seed"] == 2)].set_index("step")
    assert groups.loc[2, "density"] == 0
    assert groups.loc[2, ["criterion", "size_mean"]].isna().all()
    assert groups.loc[1, ["criterion", "size_mean"]].notna().all()


@pytest.mark.parametrize(
    ("file", "change", "key"),
    [
        (RUN / "status.json", {"status": "running"}, "status"),
        (RUN / "status.json", {"seed": 3}, "seed"),
        (RUN / "status.json", {"rollout": "else"}, "rollout"),
        (RUN / "status.json", {"wall_seconds": None}, "wall_seconds"),
        (RUN / "provenance.json", {"device": "tpu"}, "device"),
        (EVAL, {"arm": "ppo"}, "arm"),
        (EVAL, {"data_sha256": "other prompts"}, "data_sha256"),
        (EVAL, {"n": 999}, "n"),
        (EVAL, {"metrics": [0.5]}, "metrics"),
        (EVAL, {"metrics": {"accuracy": 0.5}}, "metrics accuracy"),
        (EVAL, {"metrics": {"accuracy": {"value": 0.5}}}, "metrics accuracy stderr"),
        (EVAL, {"metrics": {"accuracy": {"value": float("nan"), "stderr": 0.1}}}, "file"),
    ],
)
def test_a_record_that_contradicts_its_place_or_its_kind_is_unreadable(results, file, change, key):
    folder, benchmark = results
    rewrite_json(folder / file, **change)
    assert_unreadable(tables_of(folder, benchmark), f"{file.as_posix()}: {key} = ")


@pytest.mark.parametrize("file", [RUN / "provenance.json", RUN / "steps.jsonl", RUN / "stages.jsonl", EVAL])
def test_a_finished_run_without_one_of_its_files_is_unreadable(results, file):
    folder, benchmark = results
    (folder / file).unlink()
    tables = tables_of(folder, benchmark)
    assert_unreadable(tables, f"{file.as_posix()}: file = missing")
    assert str(folder) not in run_row(tables)["reason"]


@pytest.mark.parametrize("change", ["missing", "broken"])
def test_a_start_whose_evaluation_cannot_be_read_makes_its_own_cells_inadmissible_only(tmp_path, change):
    benchmark = write_results(tmp_path, steps=4, tasks=("sorting", "chain"))
    file = tmp_path / "evals/chain/tiny/start/result.json"
    file.unlink() if change == "missing" else file.write_text("{")
    tables = tables_of(tmp_path, benchmark)
    assert tables.runs.query("task == 'sorting'")["admissible"].all()
    spoiled = tables.runs.query("task == 'chain'")
    assert not spoiled["admissible"].any()
    assert set(spoiled["status"]) == {"finished"}
    assert spoiled["reason"].str.contains("evals/chain/tiny/start/result.json", regex=False).all()
    assert set(tables.evals.query("arm == 'start'")["task"]) == {"sorting"}


def test_a_folder_among_the_runs_that_is_no_seed_is_a_row_that_says_so(results):
    folder, benchmark = results
    (folder / RUN).with_name("seed2-old").mkdir()
    tables = tables_of(folder, benchmark)
    row = tables.runs[tables.runs["seed"].isna()].iloc[0]
    assert (row["status"], row["arm"]) == ("unreadable", "group_ppo")
    assert "seed2-old: name it seed<k>" in row["reason"]
    assert tables.runs.loc[tables.runs["seed"].notna(), "admissible"].all()


def test_several_processes_write_the_same_tables_to_the_byte(tmp_path):
    benchmark = write_results(tmp_path, steps=3, seeds=(1, 2, 3), tasks=("sorting", "chain"))
    collect(tmp_path, benchmark)
    alone = {file.name: file.read_bytes() for file in (tmp_path / "tables").iterdir()}
    collect(tmp_path, benchmark, processes=2)
    assert alone == {file.name: file.read_bytes() for file in (tmp_path / "tables").iterdir()}


def test_a_collection_that_ends_badly_leaves_the_earlier_tables(results, monkeypatch):
    folder, benchmark = results
    collect(folder, benchmark)
    before = {file.name: file.read_bytes() for file in (folder / "tables").iterdir()}

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("groupppo.tables.collecting.read_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        collect(folder, benchmark)
    assert before == {file.name: file.read_bytes() for file in (folder / "tables").iterdir()}
