"""What makes finished runs stale: code and config that they depend on; what does not: documents, reports, comments."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from groupppo.config import REPOSITORY
from groupppo.config.allowed import VARIABLE
from tests.conftest import shared_cache

REWARD = Path("benchmarks/rewards/mine.py")
COSTLY = {"task", "model", "warmstart", "train", "evaluate", "evaluate_start"}


@pytest.fixture(scope="module", autouse=True)
def allowed() -> Iterator[None]:
    """The task's own reward, in this process, too, which checks in the place of the plan."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, "reward_file")
        yield


def _own_reward(folder: Path) -> None:
    """The task is judged by a file of the user's."""
    file = folder / "benchmarks" / "tasks" / "sorting.yaml"
    file.write_text(f"{file.read_text()}reward: python\nreward_file: {REWARD.name}\n")
    (folder / REWARD).parent.mkdir()
    (folder / REWARD).write_text("def score(response, answer):\n    return response.endswith(answer)\n")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository with a benchmark that Snakemake takes for finished: files without content, and its records."""
    folder = tmp_path_factory.mktemp("finished")
    files = ("Snakefile", "environment.yml", "environment.post-deploy.sh", "README.md")
    for name in (*files, "workflow", "benchmarks", "groupppo", "requirements"):
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, folder / name)
    (folder / "profiles").symlink_to((REPOSITORY / "profiles").readlink())
    file = folder / "benchmarks" / "quick.yaml"
    data = yaml.safe_load(file.read_text()) | {"arms": ["ppo", "group_ppo"], "seeds": [1], "studies": []}
    del data["profile"]
    file.write_text(yaml.safe_dump(data))
    _own_reward(folder)
    summary = snakemake(folder, "--summary").splitlines()
    for output in (line.split("\t")[0] for line in summary if line.startswith("results/")):
        place = folder / output
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch() if place.suffix else place.mkdir()
    snakemake(folder, "--touch", "--forceall")
    return folder


@pytest.fixture
def editing(finished: Path) -> Iterator[Callable[[str, str, str], None]]:
    """Replaces a text in a file of the finished benchmark for one test."""
    kept: dict[Path, tuple[str, os.stat_result]] = {}

    def edit(name: str, old: str, new: str) -> None:
        file = finished / name
        text = file.read_text()
        assert old in text
        kept[file] = text, file.stat()
        file.write_text(text.replace(old, new, 1))

    yield edit
    for file, (text, stat) in kept.items():
        file.write_text(text)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.fixture
def losing(finished: Path, tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Takes a result away from the finished benchmark for one test."""
    gone: list[tuple[Path, Path]] = []

    def lose(name: str) -> None:
        gone.append((finished / "results" / "quick" / name, tmp_path / str(len(gone))))
        gone[-1][0].rename(gone[-1][1])

    yield lose
    for place, kept in gone:
        kept.rename(place)


def snakemake(folder: Path, *arguments: str) -> str:
    variables = os.environ | {"XDG_CACHE_HOME": shared_cache(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "snakemake", "--cores", "1", *arguments]
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def planned(folder: Path, *arguments: str) -> set[str]:
    """Rules with jobs in the plan."""
    said = snakemake(folder, "--dry-run", "--quiet", "host", *arguments)
    table = (line.split() for line in said.splitlines())
    return {words[0] for words in table if len(words) == 2 and words[1].isdigit()} - {"total", "all"}


def trained(folder: Path) -> set[str]:
    """Arms with a training job in the plan."""
    return set(re.findall(r"train (\w+) seed", snakemake(folder, "--dry-run")))


def test_a_finished_benchmark_has_nothing_to_do(finished: Path) -> None:
    assert planned(finished) == set()


def test_a_folder_with_a_report_that_has_lost_a_part_of_a_run_is_not_complete(
    finished: Path, losing: Callable[[str], None]
) -> None:
    for part in ("ppo/seed1/steps.jsonl", "group_ppo/seed1/checkpoint"):
        losing(f"runs/sorting/tiny/{part}")
    assert trained(finished) == {"ppo", "group_ppo"}
    assert "train" in planned(finished, "--", "results/quick/bundle.zip")
    assert not planned(finished, "--config", "partial=true") & COSTLY


def test_nor_is_one_that_has_lost_an_evaluation_or_what_the_report_was_made_from(
    finished: Path, losing: Callable[[str], None]
) -> None:
    losing("evals/sorting/tiny/ppo/seed1/result.json")
    plan = snakemake(finished, "--dry-run")
    assert "evaluate ppo seed 1" in plan
    assert "evaluate group_ppo seed 1" not in plan
    assert not planned(finished) & (COSTLY - {"evaluate"})
    losing("verdicts.json")
    losing("evals/sorting/tiny/start/result.json")
    assert planned(finished) >= {"evaluate", "evaluate_start", "verdicts", "report"}


def test_texts_reports_and_verdicts_train_and_evaluate_nothing_again(
    finished: Path, editing: Callable[[str, str, str], None]
) -> None:
    editing("README.md", "# GROUP-PPO", "# The GROUP-PPO")
    editing("groupppo/report/page.py", "def write_report(", "def _unused() -> None: ...\n\n\ndef write_report(")
    editing("groupppo/verdicts/preregistration.py", "ABSENT = ", "UNUSED = 1\nABSENT = ")
    editing("groupppo/verl/group_stage.py", '"""', '"""Reworded. ')
    editing("groupppo/algorithm/estimators.py", "\nimport", "\n# a comment\nimport")
    editing("benchmarks/quick.yaml", "title: ", "title: A ")
    plan = planned(finished)
    assert not plan & COSTLY
    assert "report" in plan  # the edits are seen where they count


def test_a_rule_and_a_generator_make_what_uses_them_stale_and_nothing_else(
    finished: Path, editing: Callable[[str, str, str], None]
) -> None:
    rules, generators = "groupppo/algorithm/rules", "groupppo/tasks/generators"
    added = [finished / rules / "mine.py", finished / generators / "mine.py"]
    try:
        for file, like in zip(added, ("stride", "chain"), strict=True):
            text = file.with_name(f"{like}.py").read_text()
            text = text.replace(f"def {like}(", "def mine(")
            file.write_text(text)
        editing(f"{rules}/stride.py", "\nfrom", "\nUNUSED = 1\nfrom")
        editing(f"{generators}/chain.py", "\nimport", "\nUNUSED = 1\nimport")
        assert not planned(finished) & COSTLY
    finally:
        for file in added:
            file.unlink()
    editing(f"{rules}/variance_split.py", "\nfrom", "\nUNUSED = 1\nfrom")
    assert trained(finished) == {"group_ppo"}


@pytest.mark.parametrize(
    ("file", "old", "new", "stale"),
    [
        ("groupppo/tasks/generators/sorting.py", "\nimport", "\nUNUSED = 1\nimport", COSTLY - {"model"}),
        ("groupppo/algorithm/rules/variance_split.py", "\nfrom", "\nUNUSED = 1\nfrom", {"train", "evaluate"}),
        ("groupppo/verl/config/group_ppo.yaml", "\n", "\nunused: 1\n", {"train", "evaluate"}),
        ("groupppo/evaluate.py", "\nimport", "\nUNUSED = 1\nimport", {"evaluate", "evaluate_start"}),
        (str(REWARD), "return response", "return response.strip()", COSTLY - {"model"}),
        ("benchmarks/quick.yaml", "steps: 24", "steps: 25", {"train", "evaluate"}),
        (
            "benchmarks/arms/ppo.yaml",
            "critic.enable: true",
            "critic.enable: true\n  critic.cliprange_value: 0.4",
            {"train", "evaluate"},
        ),
    ],
)
def test_code_and_config_that_a_run_depends_on_make_it_stale_and_nothing_before_it(
    finished: Path, editing: Callable[[str, str, str], None], file: str, old: str, new: str, stale: set[str]
) -> None:
    editing(file, old, new)
    assert planned(finished) & COSTLY == stale
