"""docs/verl.md: verl's own main trains with our rules, from the wheel, in a folder outside of this repository."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from groupppo.config import REPOSITORY
from groupppo.verl.stock import command

pytestmark = pytest.mark.verl

PAGE = REPOSITORY / "docs" / "verl.md"
# The model is untrained: a reward that some of its responses earn, so that GRPO has something to compare.
REWARD = """def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    return float(len(solution_str) % 2)
"""


def commands() -> list[str]:
    return re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked into a folder for packages."""
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for package in ("groupppo", "snakemake_executor_plugin_groupppo_slurm"):
        shutil.copytree(REPOSITORY / package, source / package, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(REPOSITORY / name, source / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    alone = ["--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, "wheel", *alone, "--wheel-dir", str(place), str(source)], check=True)
    (wheel,) = place.glob("*.whl")
    subprocess.run([*pip, "install", *alone, "--target", str(place / "packages"), str(wheel)], check=True)
    return place / "packages"


@pytest.mark.timeout(900)
def test_the_command_of_the_page_trains_from_the_wheel_in_a_folder_of_its_own(
    installed: Path, small_task_folder: Path, small_model_folder: Path, tmp_path: Path
) -> None:
    for split in ("train", "test"):
        shutil.copy2(small_task_folder / f"{split}.parquet", tmp_path)
    shutil.copytree(small_model_folder, tmp_path / "model")
    (tmp_path / "reward.py").write_text(REWARD)
    (line,) = [text for text in commands() if text.startswith("python -m groupppo.verl.stock")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GROUPPPO_", "RAY_"))}
    environment |= {"PYTHONPATH": str(installed), "PATH": f"{Path(sys.executable).parent}:{environment['PATH']}"}
    ran = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    rows = [json.loads(row) for row in (tmp_path / "run" / "steps.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    for row in rows:
        assert 0.3 < row["group/density"] < 0.7
        assert row["actor/grad_norm"] > 0
    where = subprocess.run(
        [sys.executable, "-c", "import groupppo; print(groupppo.__file__)"],
        **{"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "check": True},
    )
    assert where.stdout.startswith(str(installed))


def test_on_gpus_it_is_the_other_command_of_the_page() -> None:
    program, variables = command(["KEY=VALUE"], cpu=False)
    (line,) = [text for text in commands() if "verl.trainer.main_ppo" in text]
    for name, value in variables.items():
        assert f"export {name}={value}\n" in line
    assert " ".join(["python", *program[1:-1]]) in line.replace(" \\\n   ", "")


def test_what_is_written_comes_after_what_a_machine_without_a_gpu_needs() -> None:
    program, variables = command(["actor_rollout_ref.rollout.dtype=bfloat16"], cpu=True)
    assert program[-1] == "actor_rollout_ref.rollout.dtype=bfloat16"
    assert "++actor_rollout_ref.rollout.dtype=float32" in program[:-1]
    assert variables["GROUPPPO_PLATFORM"] == "cpu"
