"""A cut-down default benchmark, start to verdicts: through Slurm, and the runs again on this machine."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from groupppo.config import REPOSITORY
from tests.cluster.conftest import copy_workflow, said, start
from tests.cluster.local_slurm import Cluster

pytestmark = pytest.mark.cluster


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The repository with a matrix of two arms, one seed and two steps."""
    copy_workflow(tmp_path)
    shutil.copytree(REPOSITORY / "benchmarks", tmp_path / "benchmarks")
    for name in ("environment.yml", "requirements"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    (tmp_path / "Snakefile").write_text((REPOSITORY / "Snakefile").read_text() + '\n\ninclude: "looks.smk"\n')
    edit(tmp_path / "benchmarks" / "quick.yaml", arms=["ppo", "group_ppo"], seeds=[1], studies=[], profile=None)
    edit(tmp_path / "benchmarks" / "quick.yaml", "train", steps=2, save_critic=False, prompts_per_step=4)
    edit(tmp_path / "benchmarks" / "quick.yaml", "evaluation", sampled_prompts=16, repeats=2)
    edit(tmp_path / "benchmarks" / "tasks" / "sorting.yaml", "splits", train=200, dev=30, test=60)
    edit(tmp_path / "benchmarks" / "tasks" / "sorting.yaml", "warmstart", target_accuracy=0.01, eval_prompts=30)
    edit(tmp_path / "benchmarks" / "tasks" / "sorting.yaml", "params", min_length=1, max_length=3)
    return tmp_path


def edit(file: Path, section: str | None = None, **changes: object) -> None:
    data = yaml.safe_load(file.read_text())
    part = data if section is None else data[section]
    part.update(changes)
    for key in [key for key, value in changes.items() if value is None]:
        del part[key]
    file.write_text(yaml.safe_dump(data))


def verdict_table(results: Path) -> dict[str, str]:
    """The verdict of each claim; with one seed none has an estimate."""
    claims = json.loads((results / "verdicts.json").read_text())["verdicts"]
    return {claim["id"]: claim["verdict"] for claim in claims}


def test_a_matrix_through_slurm_has_the_verdicts_and_the_steps_of_one_on_this_machine(
    cluster: Cluster, project: Path
) -> None:
    (project / "benchmarks" / "site.yaml").write_text("light_rules: local\npartition: gpu\n")
    assert start(cluster, project).wait(timeout=500) == 0, said(project)[-5000:]
    results = project / "results" / "quick"
    there = verdict_table(results)
    assert (results / "report.html").is_file()
    steps = {run: run.read_text() for run in results.glob("runs/*/*/*/*/steps.jsonl")}
    assert len(steps) == 2
    assert cluster.jobs(states="pending,running") == []
    for part in ("runs", "evals", "tables", "figures"):
        shutil.rmtree(results / part)
    (results / "verdicts.json").unlink()  # with it there, nobody would ask for the runs again
    variables = os.environ | {"XDG_CACHE_HOME": str(project / "cache")}
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--", "results/quick/verdicts.json"]
    done = subprocess.run(command, cwd=project, env=variables, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-5000:]
    assert "warm start" not in done.stderr  # the start is the one that a job made
    assert verdict_table(results) == there
    assert {"compression", "endpoint-share"} <= set(there)
    for run, before in steps.items():
        for first, second in zip(before.splitlines(), run.read_text().splitlines(), strict=True):
            first_row, second_row = json.loads(first), json.loads(second)
            for key in ("critic/score/mean", "response_length/mean", "actor/grad_norm"):
                assert first_row[key] == second_row[key], (run, key)
        assert before.splitlines()[0] != before.splitlines()[1]  # what is compared does vary
