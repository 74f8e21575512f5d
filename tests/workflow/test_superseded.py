"""Finished results that are to be made again stay until their successors are there, whatever becomes of the job."""

import ast
import hashlib
import inspect
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from snakemake.api import SnakemakeApi  # noqa: F401 - its modules import one another, and this is where they begin
from snakemake.dag import DAG
from snakemake.jobs import Job
from snakemake.persistence import PersistenceBase

from groupppo.config import REPOSITORY
from groupppo.records.hashing import SNAKEMAKES_OWN
from groupppo.records.superseded import FOLDER
from tests.conftest import shared_cache
from tests.disks import fill, small_disk

SNAKEFILE = """
import sys
from pathlib import Path
from groupppo.errors import BadInput
from groupppo.slurm.site import load_site
from snakemake.exceptions import WorkflowError

SITE = load_site(config.get("site"))

rule all:
    input: "evals/result.json", "runs/status.json"

rule start:
    output: directory("starts/tiny")
    params: code=config.get("code", "old")
    shell: "mkdir {output}; echo {params.code} > {output}/model; test ! -e start_fails"

# What it makes, what it leaves beside it, and what a next attempt goes on from.
rule train:
    input: rules.start.output
    output: status="runs/status.json", checkpoint=directory("runs/checkpoint")
    log: "runs/log.txt"
    params: key=config.get("key", "old")
    shell:
        "echo {params.key} | tee runs/log.txt runs/undeclared {output.status}; mkdir {output.checkpoint}; "
        "echo {params.key} > {output.checkpoint}/model; mkdir -p runs/global_step_1; "
        "echo {params.key} > runs/global_step_1/model; test ! -e fails; "
        "if [ -e hangs ]; then {sys.executable} hang.py; fi; rm -r runs/global_step_1"

rule evaluate:
    input: rules.train.output.checkpoint
    output: "evals/result.json"
    shell: "cat {input}/model | tee evals/samples > {output}; test ! -e evaluation_fails"

include: "workflow/rules/site.smk"
include: "workflow/rules/keep.smk"
"""

# As every script of the workflow does (workflow/scripts/job.py).
HANG = """
import time
from pathlib import Path
from groupppo.slurm.takeover import end_with_snakemake
end_with_snakemake(Path(".snakemake"))
Path("hanging").touch()
time.sleep(600)
"""

Snakemake = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all is made and finished."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "Snakefile").write_text(SNAKEFILE)
    (folder / "hang.py").write_text(HANG)
    shutil.copytree(REPOSITORY / "workflow", folder / "workflow", ignore=shutil.ignore_patterns("__pycache__"))
    for link in ("profiles", "slurm"):
        (folder / link).symlink_to((REPOSITORY / link).readlink())
    assert snakemake(folder) == (0, "")
    return folder


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "project", symlinks=True)
    return tmp_path / "project"


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "snakemake", "--cores", "1", *arguments]


def environment(folder: Path, **variables: str) -> dict[str, str]:
    return os.environ | {"XDG_CACHE_HOME": shared_cache(folder), "PYTHONPATH": str(REPOSITORY)} | variables


def snakemake(folder: Path, *arguments: str, **variables: str) -> tuple[int, str]:
    """Exit code, and what was said; nothing of one that did all without a word to its user."""
    done = subprocess.run(
        command(*arguments),
        cwd=folder,
        env=environment(folder, **variables),
        capture_output=True,
        text=True,
        timeout=240,
    )
    said = done.stdout + done.stderr
    return done.returncode, said if done.returncode or "Nothing to be done" in said or "--dry-run" in arguments else ""


def content(folder: Path) -> dict[str, tuple[str, int]]:
    """Text and time of every result."""
    files = (file for part in ("starts", "runs", "evals") for file in (folder / part).rglob("*") if file.is_file())
    return {
        str(file.relative_to(folder)): (file.read_text(), file.stat().st_mtime_ns)
        for file in files
        if file.name != SNAKEMAKES_OWN
    }


def planned(said: str) -> set[str]:
    rows = (line.split() for line in said.splitlines())
    return {words[0] for words in rows if len(words) == 2 and words[1].isdigit()} - {"all", "total", "jobid:"}


def nothing_to_do(folder: Path) -> None:
    code, said = snakemake(folder, "--dry-run")
    assert code == 0
    assert "Nothing to be done" in said


def test_a_run_whose_successor_failed_is_found_again_when_it_is_asked_for(project: Path) -> None:
    before = content(project)
    (project / "fails").touch()
    code, said = snakemake(project, "--config", "key=new")
    assert code == 1
    assert "What it had made before is kept: runs/superseded" in said
    assert not (project / "runs" / "status.json").exists()  # what stands in its place was made from what is asked for
    code, said = snakemake(project, "--dry-run", "--config", "key=new")
    assert planned(said) == {"train", "evaluate"}
    nothing_to_do(project)
    left = "runs/global_step_1/model"
    assert content(project) == before | {left: ("new\n", (project / left).stat().st_mtime_ns)}


def test_so_is_what_others_were_made_from(project: Path) -> None:
    before = content(project)
    (project / "start_fails").touch()
    assert snakemake(project, "--config", "code=new")[0] == 1
    assert not (project / "starts" / "tiny").exists()
    nothing_to_do(project)
    assert content(project) == before


def test_a_run_whose_successor_was_killed_is_found_again_and_so_is_what_the_successor_had_reached(
    project: Path,
) -> None:
    before = content(project)
    (project / "hangs").touch()
    process = subprocess.Popen(command("--config", "key=new"), cwd=project, env=environment(project))
    while not (project / "hanging").exists():
        assert process.poll() is None
    process.kill()
    process.wait()
    # Its lock stands, and its job, which had begun to write, may be at work: the next start waits for its end.
    assert any((project / ".snakemake" / "locks").iterdir())
    nothing_to_do(project)
    assert {name: text for name, text in content(project).items() if "global_step" not in name} == before
    assert (project / "runs" / "global_step_1" / "model").read_text() == "new\n"


def test_a_start_on_a_full_disk_is_refused_and_says_what_to_do(made: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "4m") as disk:
        project = disk / "project"
        shutil.copytree(made, project, symlinks=True)
        shutil.rmtree(project / ".snakemake")
        fill(disk)
        code, said = snakemake(project, "--dry-run")
        assert code == 1
        assert ".snakemake" in said
        assert "No space left on device: make room there" in said
        assert "Traceback" not in said


def test_an_evaluation_of_another_checkpoint_is_not_what_is_asked_for(project: Path) -> None:
    (project / "evaluation_fails").touch()
    assert snakemake(project, "--config", "key=new")[0] == 1
    assert (project / "runs" / "status.json").read_text() == "new\n"
    assert planned(snakemake(project, "--dry-run", "--config", "key=new")[1]) == {"evaluate"}
    assert not (project / "evals" / "result.json").exists()


def test_they_go_when_their_successors_are_there(project: Path) -> None:
    (project / "fails").touch()
    assert snakemake(project, "--config", "key=new")[0] == 1
    (project / "fails").unlink()
    assert snakemake(project, "--config", "key=newer") == (0, "")
    texts = {name: text for name, (text, _) in content(project).items()}
    assert {text for name, text in texts.items() if "starts" not in name} == {"newer\n"}
    assert not list(project.rglob(FOLDER))


@pytest.mark.parametrize(
    ("part", "known"),
    [
        (Job.remove_existing_output, "60336044309b"),
        (Job.postprocess, "6c242cdd6b93"),
        (Job.cleanup, "3dae832da305"),
        (DAG.check_incomplete, "29292729683e"),
        (PersistenceBase.started, "a2febaa91900"),
        (PersistenceBase.finished, "3f347851a55e"),
    ],
)
def test_what_keep_smk_replaces_and_relies_on_in_snakemake_is_as_it_was_when_that_was_written(
    part: Callable[..., object], known: str
) -> None:
    """Where it is not: read the new text, see whether what the rules file replaces may go, and write its hash here."""
    assert hashlib.sha256(inspect.getsource(part).encode()).hexdigest()[:12] == known


def test_the_stock_executor_which_would_submit_jobs_twice_is_refused_with_the_name_of_ours(project: Path) -> None:
    code, said = snakemake(project, "--executor", "slurm", "--jobs", "1", "--config", "key=new")
    assert (code, "write groupppo-slurm" in said) == (1, True)


def test_the_rules_whose_folders_move_as_a_whole_are_the_workflows() -> None:
    texts = {file.name: file.read_text() for file in (REPOSITORY / "workflow" / "rules").glob("*.smk")}
    named = re.search(r"OWN_FOLDER = (\{[^}]*\})", texts["keep.smk"])
    assert named is not None
    rules = re.findall(r"^ *(?:rule|use rule \w+ as) (\w+)", "\n".join(texts.values()), re.MULTILINE)
    assert ast.literal_eval(named[1]) <= set(rules)


def test_without_slurm_nothing_is_removed_and_what_is_missing_is_said(project: Path, tmp_path: Path) -> None:
    before = content(project)
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("sh", "bash", "which", "mkdir", "cat", "tee"):
        (programs / name).symlink_to(str(shutil.which(name)))
    ask = ("--profile", "slurm", "--config", "key=new")
    code, said = snakemake(project, *ask, PATH=str(programs))
    assert code == 1
    assert "Slurm: not on PATH = 'sbatch, squeue, scancel, sacct'" in said
    assert "nothing was submitted or removed" in said
    assert "Traceback" not in said
    assert content(project) == before
    code, said = snakemake(project, "--dry-run", *ask, PATH=str(programs))
    assert (code, planned(said)) == (0, {"train", "evaluate"})
    assert "sbatch, squeue, scancel, sacct" in said
    nothing_to_do(project)


def test_a_controller_that_does_not_answer_stops_the_start(project: Path, tmp_path: Path) -> None:
    before = content(project)
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("sbatch", "squeue", "scancel", "sacct"):
        (programs / name).write_text("#!/bin/sh\necho 'slurm_load_jobs error: Connection refused' >&2; exit 1\n")
        (programs / name).chmod(0o755)
    path = f"{programs}:{os.environ['PATH']}"
    code, said = snakemake(project, "--profile", "slurm", "--config", "key=new", PATH=path)
    assert code == 1
    assert "Slurm: squeue = 'slurm_load_jobs error: Connection refused'" in said
    assert content(project) == before
