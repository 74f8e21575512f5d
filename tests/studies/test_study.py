"""What every study shares: it is found by being there, its parameters are checked, its tables come back as written."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from groupppo.config import REPOSITORY, load_benchmark
from groupppo.errors import BadInput
from groupppo.studies.shared.rollouts import load_critic, load_policy, max_response_tokens
from groupppo.studies.shared.study import find_study, known_names, planned, study_faults
from tests.studies.made import made_faults, made_stream_tables, made_tables

FOLDERS = ["--critic", "c", "--task", "t", "--out", "o"]
GROUPING = [*FOLDERS, "--policy", "p"]
STREAMS = [*FOLDERS, "--checkpoints", "start=a", "--checkpoints", "trained=b"]
FAULTS = ["--task", "t", "--out", "o", "--benchmark", "b", "--model", "tiny", "--start", "s"]
TABLES = {"grouping": made_tables(), "streams": made_stream_tables(), "faults": {"faults": made_faults(lost=2)}}


def test_a_study_is_found_by_being_there_and_one_that_is_nearly_named_is_suggested() -> None:
    assert known_names() == ["faults", "grouping", "streams"]
    assert [find_study(name).name for name in known_names()] == known_names()
    with pytest.raises(BadInput, match=r"quick.yaml: studies = 'groupings'(.|\n)*did you mean grouping"):
        find_study("groupings", "quick.yaml", "studies")


def test_a_page_that_shows_studies_needs_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from groupppo.studies.shared.study import find_study, known_names; "
        "[find_study(name) for name in known_names()]; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=REPOSITORY)
    assert done.stdout.strip() == "[]", done.stderr


def test_defaults_are_a_training_step_of_the_default_benchmark() -> None:
    parameters = find_study("grouping").parse(GROUPING)
    assert (parameters.prompts, parameters.responses, parameters.batches) == (16, 8, 24)
    assert (parameters.temperature, parameters.gamma, parameters.lam) == (1.0, 1.0, 1.0)
    assert "policy" not in parameters.settings
    assert parameters.settings["exact"] == 48
    assert find_study("grouping").parse([*GROUPING, "--lam", "0"]).lam == 0.0
    assert find_study("faults").parse(FAULTS).steps == 3


def test_checkpoints_keep_their_names_and_their_order() -> None:
    parameters = find_study("streams").parse([*STREAMS, "--follow", "stride", "--checkpoints", "last=x=y"])
    assert list(parameters.models) == ["start", "trained", "last", "critic"]
    assert parameters.models["last"] == Path("x=y")
    assert parameters.settings["follow"] == ["stride"]
    assert "checkpoints" not in parameters.settings


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("grouping", "--batches", "3"),
        ("grouping", "--exact", "1"),
        ("grouping", "--exact", "1000"),
        ("grouping", "--temperature", "0"),
        ("grouping", "--temperature", "nan"),
        ("grouping", "--gamma", "1.5"),
        ("grouping", "--lam", "nan"),
        ("grouping", "--arms", "nowhere"),
        ("streams", "--stale", "1"),
        ("streams", "--stale", "9"),
        ("faults", "--steps", "1"),
    ],
)
def test_a_value_out_of_range_is_named(name: str, option: str, value: str) -> None:
    arguments = {"grouping": GROUPING, "streams": STREAMS, "faults": FAULTS}[name]
    with pytest.raises(BadInput, match=rf"study {name}: {option} = (.|\n)*hint: "):
        find_study(name).parse([*arguments, option, value])


def test_a_folder_without_arms_is_refused_and_not_a_study_of_none(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="name a folder that holds arm files"):
        assert not find_study("grouping").parse([*GROUPING, "--arms", str(tmp_path)]).arm_files
    assert find_study("grouping").parse(GROUPING).arm_files


def test_a_checkpoint_without_a_name_or_an_unknown_option_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadInput, match="NAME=VALUE"):
        find_study("streams").parse([*FOLDERS, "--checkpoints", "nowhere"])
    with pytest.raises(SystemExit):
        find_study("grouping").parse([*GROUPING, "--nowhere", "3"])
    assert "unrecognized" in capsys.readouterr().err


def test_no_parameter_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHES", "99")
    assert find_study("grouping").parse(GROUPING).batches == 24


def test_a_benchmark_gives_each_study_the_parameters_that_it_has(tmp_path: Path) -> None:
    benchmark = load_benchmark(REPOSITORY / "benchmarks" / "updates.yaml")
    folders = {name: tmp_path / name for name in ("task", "out", "start", "policy", "critic")}
    values = planned(benchmark, "sorting", "tiny", folders)
    grouping, streams, faults = (find_study(name).given(values) for name in ("grouping", "streams", "faults"))
    assert grouping.policy == tmp_path / "policy"
    assert (grouping.prompts, grouping.lam) == (benchmark.train.prompts_per_step, benchmark.train.lam)
    assert streams.models == {"start": tmp_path / "start", "trained": tmp_path / "policy", "critic": grouping.critic}
    assert streams.actor_lr == benchmark.train.actor_lr
    assert (faults.model, faults.start, faults.run_seed) == ("tiny", tmp_path / "start", 1)


def test_a_benchmark_whose_study_cannot_run_is_told_what_to_write() -> None:
    benchmark = load_benchmark(REPOSITORY / "benchmarks" / "updates.yaml")
    assert not list(study_faults(benchmark))
    without = replace(benchmark, train=replace(benchmark.train, save_critic=False))
    assert [(fault.key, fault.value) for fault in study_faults(without)] == [("train.save_critic", False)]
    assert not list(study_faults(replace(without, studies=("faults",))))
    other = replace(benchmark, reference="ppo", studies=("grouping", "groupings"))
    arm = replace(benchmark.arms["ppo"], verl=benchmark.arms["ppo"].verl | {"critic.enable": False})
    faults = list(study_faults(replace(other, arms=benchmark.arms | {"ppo": arm})))
    assert [fault.key for fault in faults] == ["reference", "studies"]
    assert "did you mean grouping" in str(faults[1])


@pytest.mark.parametrize("name", known_names())
def test_every_table_comes_back_as_it_was_written(name: str, tmp_path: Path) -> None:
    study, tables = find_study(name), TABLES[name]
    assert set(tables) == set(study.columns)
    for table, rows in tables.items():
        study.write_table(tmp_path, table, rows)
        back = study.read_table(tmp_path, table)
        pd.testing.assert_frame_equal(back, rows[list(study.columns[table])], check_dtype=False)
    with pytest.raises(ValueError, match="documented"):
        study.write_table(tmp_path, table, rows.rename(columns={rows.columns[0]: "other"}))


@pytest.mark.parametrize("text", [None, "", "a,b\n1,2\n"])
def test_a_table_that_is_missing_or_another_is_named(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "cosines.csv").write_text(text)
    with pytest.raises(BadInput, match=r"cosines.csv(.|\n)*run the study"):
        find_study("grouping").read_table(tmp_path, "cosines")


def test_the_longest_response_comes_from_the_tasks_card(small_task_folder: Path, tmp_path: Path) -> None:
    assert max_response_tokens(small_task_folder) == 16
    with pytest.raises(BadInput, match=r"card.json: file = missing"):
        max_response_tokens(tmp_path)
    for text in ("{", json.dumps({"spec": {}}), json.dumps([])):
        (tmp_path / "card.json").write_text(text)
        with pytest.raises(BadInput, match=r"card.json"):
            max_response_tokens(tmp_path)


def test_a_folder_that_is_no_critic_is_refused_because_its_value_head_would_be_random(
    policy_folder: Path, critic_folder: Path, tmp_path: Path
) -> None:
    import torch

    assert load_critic(critic_folder).config.num_labels == 1
    with pytest.raises(BadInput, match=r"architectures(.|\n)*save_critic: true"):
        load_critic(policy_folder)
    with pytest.raises(BadInput, match=r"folder = missing(.|\n)*save_critic: true"):
        load_critic(tmp_path)
    with pytest.raises(BadInput):
        load_policy(tmp_path, torch.float32)
