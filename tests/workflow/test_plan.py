"""The Snakemake plan: the whole DAG, its lint, and what a user sees after a mistake."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from groupppo.config import REPOSITORY
from tests.cluster.conftest import make_assets
from tests.conftest import shared_cache


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The workflow, benchmarks and published measurements of the repository in a folder, with nothing computed."""
    for name in ("Snakefile", "workflow", "benchmarks", "environment.yml"):
        source = REPOSITORY / name
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, tmp_path / name)
    # A benchmark that names a profile shows the published costs of an update where this machine measured none.
    shutil.copytree(REPOSITORY / "results" / "reference", tmp_path / "results" / "reference")
    (tmp_path / "profiles").symlink_to((REPOSITORY / "profiles").readlink())
    return tmp_path


def snakemake(project: Path, *arguments: str, cache: Path | None = None) -> subprocess.CompletedProcess[str]:
    named = [each.removeprefix("benchmark=") for each in arguments if each.startswith("benchmark=")]
    environment = os.environ | {"XDG_CACHE_HOME": str(cache or shared_cache(project, *named))}
    command = [sys.executable, "-m", "snakemake", "--cores", "1", *arguments]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=300)


def edit(project: Path, **changes: object) -> None:
    file = project / "benchmarks" / "quick.yaml"
    data = yaml.safe_load(file.read_text())
    data["train"] |= changes.pop("train", {})
    file.write_text(yaml.safe_dump(data | changes))


def counts(project: Path, *arguments: str) -> dict[str, int]:
    """Jobs of each rule in the plan."""
    done = snakemake(project, "--dry-run", "--quiet", "host", *arguments)
    plan = done.stdout + done.stderr
    assert done.returncode == 0, plan
    rows = (line.split() for line in plan.splitlines())
    return {words[0]: int(words[1]) for words in rows if len(words) == 2 and words[1].isdigit()}


def test_a_dry_run_plans_every_run_evaluation_and_the_report(project: Path) -> None:
    once = (
        "task",
        "model",
        "warmstart",
        "evaluate_start",
        "grouping_study",
        "collect",
        "verdicts",
        "figures",
        "report",
    )
    jobs = {"train": 6, "evaluate": 6} | dict.fromkeys(once, 1)
    assert counts(project).items() >= jobs.items()


def test_the_plan_grows_with_the_matrix(project: Path) -> None:
    edit(project, tasks=["sorting", "chain"], seeds=[1, 2, 3])
    assert counts(project).items() >= {"train": 18, "warmstart": 2}.items()


def test_cells_narrow_the_plan_to_their_arms_and_seeds_and_one_that_is_not_run_has_no_job(project: Path) -> None:
    tiny = project / "benchmarks" / "models" / "tiny.yaml"
    (tiny.parent / "small.yaml").write_text(yaml.safe_dump(yaml.safe_load(tiny.read_text()) | {"name": "small"}))
    cells = [
        {"task": "chain", "model": "tiny", "arms": ["ppo", "group_ppo"], "seeds": [2, 3]},
        {"task": "chain", "model": "small", "arms": []},
    ]
    edit(project, tasks=["sorting", "chain"], models=["tiny", "small"], seeds=[1, 2, 3], cells=cells)
    done = snakemake(project, "--dry-run")
    plan = done.stdout + done.stderr
    assert done.returncode == 0, plan
    counts = {words[0]: words[1] for words in map(str.split, plan.splitlines()) if len(words) == 2}
    runs = 2 * 3 * 3 + 2 * 2  # of 36
    jobs = {"train": runs, "evaluate": runs, "warmstart": 3, "evaluate_start": 3, "grouping_study": 3, "task": 2}
    assert {rule: counts.get(rule) for rule in jobs} == {rule: str(count) for rule, count in jobs.items()}
    assert f"All of quick: {counts['total']} jobs" in plan
    assert "on chain with small" not in plan
    assert "small on chain" not in plan
    trained = {line.split("train ")[1] for line in plan.splitlines() if "train " in line and "on chain" in line}
    assert trained == {f"{arm} seed {seed} on chain with tiny" for arm in ("ppo", "group_ppo") for seed in (2, 3)}
    study = plan.partition("study grouping on chain with tiny")[2].partition("Job ")[0]
    assert "runs/chain/tiny/ppo/seed2/status.json" in study  # the cell's first seed, not the matrix's
    assert "seed1" not in study


def test_studies_need_one_run_of_the_reference_for_each_task_and_model(project: Path) -> None:
    edit(project, tasks=["sorting", "chain"], seeds=[1, 2, 3])
    jobs = counts(project, "--", "studies")
    assert jobs.items() >= {"grouping_study": 2, "train": 2, "task": 2}.items()
    assert "report" not in jobs
    one = snakemake(project, "--dry-run", "--", "results/quick/studies/grouping/chain.tiny")
    assert "study grouping on chain with tiny" in one.stdout + one.stderr
    assert "on sorting" not in one.stdout + one.stderr


@pytest.mark.parametrize(
    ("study", "needed", "spared"),
    [
        ("streams", {"streams_study": 2, "warmstart": 2, "train": 2}, "grouping_study"),
        ("faults", {"faults_study": 2, "warmstart": 2, "task": 2}, "train"),
    ],
)
def test_a_study_needs_what_it_takes_and_nothing_else(
    project: Path, study: str, needed: dict[str, int], spared: str
) -> None:
    edit(project, studies=[study], tasks=["sorting", "chain"])
    jobs = counts(project, "--", "studies")
    assert jobs.items() >= needed.items()
    assert spared not in jobs


def test_verdicts_wait_for_the_study_that_a_claim_rests_on_and_for_no_other(project: Path) -> None:
    edit(project, studies=["faults"])
    assert counts(project, "--", "results/quick/verdicts.json")["faults_study"] == 1
    edit(project, studies=["grouping"])
    assert not [rule for rule in counts(project, "--", "results/quick/verdicts.json") if rule.endswith("_study")]


def test_without_studies_the_plan_has_none(project: Path) -> None:
    edit(project, studies=[], train={"save_critic": False})
    assert not [rule for rule in counts(project) if rule.endswith("_study")]


@pytest.mark.parametrize(
    ("changes", "named"),
    [  # found by what loads it, of which tests/config/test_config.py asks the rest, and by the workflow
        ({"train": {"step": 4}}, "train.step = 4"),
        ({"studies": ["kernels"]}, "studies = 'kernels'"),
    ],
)
def test_a_mistake_in_the_benchmark_stops_the_plan_with_file_key_value_and_mend(
    project: Path, changes: dict, named: str
) -> None:
    edit(project, **changes)
    done = snakemake(project, "--dry-run")
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "quick.yaml" in said
    assert named in said
    assert "hint: " in said
    assert "Traceback" not in said


def test_a_benchmark_file_that_does_not_exist_is_named(project: Path) -> None:
    done = snakemake(project, "--dry-run", "--config", "benchmark=benchmarks/none.yaml")
    assert done.returncode != 0
    assert "benchmarks/none.yaml" in done.stdout + done.stderr


def test_mistakes_in_files_that_the_benchmark_names_stop_the_plan_before_any_job_all_at_once(project: Path) -> None:
    wrong = {
        "tasks/sorting.yaml": ("params", {"min_length": 9, "max_lenght": 10}, "params.max_lenght = 10"),
        "models/tiny.yaml": ("factory", "tiny_qwen", "factory = 'tiny_qwen'"),
        "arms/ppo.yaml": ("verl", {"critic.optim.lrr": 1.0e-3}, "critic.optim.lrr = 0.001"),
        "arms/grpo.yaml": ("verl", {"algorithm.adv_estimator": "grpoo"}, "algorithm.adv_estimator = 'grpoo'"),
    }
    for file, (key, value, _) in wrong.items():
        path = project / "benchmarks" / file
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {key: value}))
    done = snakemake(project)
    said = done.stdout + done.stderr
    assert done.returncode != 0
    for file, (_, _, named) in wrong.items():
        assert f"benchmarks/{file}" in said
        assert named in said
    assert said.count("hint: ") >= len(wrong)
    assert "Traceback" not in said
    assert not (project / "results" / "quick").exists()


def test_what_was_found_good_is_not_checked_again_and_what_was_not_is(project: Path) -> None:
    checked = project / "cache" / "groupppo" / "checked"
    plan = ("--dry-run", "--quiet", "all")
    assert snakemake(project, *plan, cache=project / "cache").returncode == 0
    [good] = checked.iterdir()
    arm = project / "benchmarks" / "arms" / "ppo.yaml"
    before = arm.read_text()
    arm.write_text(before + "  critic.absent: 1\n")
    done = snakemake(project, *plan, cache=project / "cache")
    assert "critic.absent" in done.stdout + done.stderr
    assert list(checked.iterdir()) == [good]
    arm.write_text(before)
    at = good.stat().st_mtime_ns
    done = snakemake(project, *plan, cache=project / "cache")
    assert done.returncode == 0, done.stdout + done.stderr
    assert good.stat().st_mtime_ns == at


@pytest.mark.parametrize(
    ("setting", "named"),
    [("benchmrk=benchmarks/quick.yaml", "did you mean benchmark?"), ("partial=maybe", "write true or false")],
)
def test_a_wrong_key_or_value_of_config_is_refused(project: Path, setting: str, named: str) -> None:
    done = snakemake(project, "--dry-run", "--config", setting)
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert f"--config: {setting.partition('=')[0]}" in said
    assert named in said


def test_what_cannot_act_is_said_and_does_not_stop_the_plan(project: Path) -> None:
    arm = project / "benchmarks" / "arms" / "ppo.yaml"
    arm.write_text(arm.read_text() + "  actor_rollout_ref.actor.clip_ratio_high: 0.28\n")
    done = snakemake(project, "--dry-run", "--quiet", "host")
    assert done.returncode == 0
    assert "ppo sets actor_rollout_ref.actor.clip_ratio_high, which cannot act" in done.stdout + done.stderr


def test_a_start_checkpoint_without_its_tokenizer_fails_training_with_the_file_named(project: Path) -> None:
    edit(project, arms=["ppo"], seeds=[1])
    make_assets(project, "quick")
    (project / "results/quick/assets/starts/sorting/tiny/tokenizer.json").unlink()
    disk = project / "disk" / "of" / "runs"
    disk.mkdir(parents=True)
    (project / "results/quick/runs").symlink_to(disk)
    target = "results/quick/runs/sorting/tiny/ppo/seed1/status.json"
    done = snakemake(project, "--rerun-triggers", "mtime", "--allowed-rules", "train", "--", target)
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "tokenizer.json" in said
    assert "hint: " in said
    # It had begun, on another disk, and left its stamp with its own benchmark.
    assert (disk / "sorting" / "tiny" / "ppo" / "seed1").is_dir()
    assert [file.parent.name for file in project.rglob("preregistration.json") if "reference" not in str(file)] == [
        "quick"
    ]


def test_a_partial_plan_reports_on_what_is_there_and_trains_nothing(project: Path) -> None:
    edit(project, tasks=["sorting", "chain"])
    jobs = counts(project, "--config", "partial=true").keys()
    assert {"collect", "verdicts", "figures", "report"} <= jobs
    assert not {"train", "evaluate", "warmstart", "grouping_study"} & jobs


def test_a_gpu_matrix_asks_for_its_gpus_and_a_cpu_matrix_for_none(project: Path) -> None:
    rule = project / "workflow" / "rules" / "train.smk"
    before, after = rule.read_text().split("    message:\n")
    rule.write_text(before + after.split("\n", 1)[1])  # a job with a message does not print its resources
    for benchmark, asked in (("origin_8gpu", "gpu=8"), ("quick", None)):
        done = snakemake(project, "--dry-run", "--config", f"benchmark=benchmarks/{benchmark}.yaml")
        plan = done.stdout + done.stderr
        assert done.returncode == 0, plan
        resources = [line for line in plan.splitlines() if line.strip().startswith("resources:") and "mem_mb=" in line]
        assert resources
        assert all(("gpu=" in line) == (asked is not None) for line in resources)
        assert asked is None or all(asked in line and "runtime=1440" in line for line in resources)
