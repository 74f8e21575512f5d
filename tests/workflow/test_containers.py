"""Images of GPU nodes: what they are made of, and jobs that Snakemake runs in one, with a stand-in for Apptainer."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from groupppo.config import REPOSITORY
from tests.workflow.test_plan import project, snakemake  # noqa: F401  a fixture

FOLDER = REPOSITORY / "requirements"
# What a job of an image needs of the host's Python path is mounted there; the shell and its command come last.
APPTAINER = """#!/bin/bash
if [ "$1" = --version ]; then echo apptainer version 1.3.6; exit; fi
echo "$*" >> {said}
while [ "$1" != bash ]; do shift; done
PATH={image}/bin:$PATH exec "$@"
"""
# dnf, python3.11 and the environment's Python.
STAND_IN = """#!/bin/bash
echo "$(basename "$0") $* [${{FLASH_ATTENTION_FORCE_BUILD:-}}]" >> {said}
[ "$1 $2" = "-m venv" ] && mkdir -p "$3/bin" && cp "$0" "$3/bin/python"
case "$(basename "$0") $*" in *"{fails}"*) exit 1 ;; esac
"""


def of_docker(text: str) -> dict[str, Any]:
    """What a Dockerfile says: its base, where each file goes, what is run, and the path."""
    said = dict(re.findall(r"^(FROM|WORKDIR|RUN|ENV) (.+)$", text, re.MULTILINE))
    home = said["WORKDIR"]
    files: dict[str, str] = {}
    for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE):
        *sources, place = line.split()
        files |= {each: f"{home}/{each if place == './' else place}" for each in sources}
    return {"base": said["FROM"], "files": files, "run": [f"cd {home}", said["RUN"]], "env": [said["ENV"]]}


def of_apptainer(text: str) -> dict[str, Any]:
    """The same of a definition for Apptainer."""
    head, *rest = re.split(r"^%(\w+)$", text, flags=re.MULTILINE)
    bodies = dict(zip(rest[::2], rest[1::2], strict=True))
    parts = {name: [line.strip() for line in body.splitlines() if line.strip()] for name, body in bodies.items()}
    return {
        "base": re.findall(r"^From: (.+)$", head, re.MULTILINE)[0],
        "files": dict(line.split() for line in parts["files"]),
        "run": parts["post"],
        "env": [line.removeprefix("export ") for line in parts["environment"]],
    }


def test_both_images_are_made_of_the_same_and_of_what_is_there() -> None:
    docker, apptainer = ((FOLDER / name).read_text() for name in ("Dockerfile", "apptainer.def"))
    made = of_docker(docker)
    assert made == of_apptainer(apptainer)
    assert all((REPOSITORY / source).exists() for source in made["files"])
    assert f"bash {FOLDER.name}/image.sh" in made["run"]
    for line in ("FROM nvidia", "COPY groupppo", "RUN bash", "ENV PATH"):
        assert of_docker(docker.replace(line, f"{line}x")) != of_apptainer(apptainer), line


def test_their_cuda_is_that_of_the_locked_torch() -> None:
    lock = (FOLDER / "gpu.lock").read_text()
    (cuda,) = re.findall(r"^cuda-toolkit==(\d+\.\d+)\.", lock, re.MULTILINE)
    assert of_docker((FOLDER / "Dockerfile").read_text())["base"].startswith(f"nvidia/cuda:{cuda}.")
    assert re.search(r"^torch==2\.11\.0 ", lock, re.MULTILINE)  # whose CUDA that is


def test_lock_images_and_conda_have_one_python() -> None:
    places = {
        FOLDER / "gpu.lock": r"^# GPU nodes, Linux x86-64, Python (3\.\d+)\.",
        FOLDER / "lock.sh": r"--python-version (3\.\d+)\.",
        FOLDER / "image.sh": r"^python(3\.\d+) -m venv",
        REPOSITORY / "environment.yml": r"- python=(3\.\d+)$",
        REPOSITORY / "Makefile": r"^PYTHON \?= python(3\.\d+)$",
    }
    found = {str(file): re.findall(pattern, file.read_text(), re.MULTILINE) for file, pattern in places.items()}
    assert set(map(tuple, found.values())) == {("3.11",)}, found


def run_image(folder: Path, *, fails: str = "nothing does") -> tuple[int, list[str]]:
    """What image.sh calls, where `fails` is a call that fails."""
    folder.mkdir()
    said = folder / "said"
    for name in ("dnf", "python3.11"):
        (folder / name).write_text(STAND_IN.format(said=said, fails=fails))
        (folder / name).chmod(0o755)
    command = ["bash", "requirements/image.sh", str(folder / "env")]
    done = subprocess.run(command, cwd=REPOSITORY, env={"PATH": f"{folder}:{os.environ['PATH']}"}, capture_output=True)
    return done.returncode, said.read_text().splitlines()


def test_the_script_installs_both_locks_by_hash_and_builds_flash_attention_here(tmp_path: Path) -> None:
    code, said = run_image(tmp_path / "whole")
    assert code == 0
    assert [line.split()[0] for line in said[:3]] == ["dnf", "dnf", "python3.11"]
    assert "gcc-c++" in said[0]
    locks = [line for line in said if "--requirement" in line]
    assert all("--require-hashes" in line for line in locks)
    assert "requirements/gpu.lock []" in locks[1]
    assert locks[-1].endswith("requirements/flash_attn.lock [TRUE]")
    for fails in ("dnf install", "gpu.lock", "flash_attn.lock"):
        code, before = run_image(tmp_path / fails.replace(" ", "_"), fails=fails)
        assert code != 0
        assert fails in before[-1]


@pytest.fixture
def in_image(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    """The workflow, and a site with an image whose Python has the lock's packages and an older copy of this one."""
    (project / "groupppo").symlink_to(REPOSITORY / "groupppo")
    image, tools = tmp_path / "image", tmp_path / "tools"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", image], check=True)
    packages = next(image.glob("lib/python*/site-packages"))
    lock = next(path for path in sys.path if path.endswith("site-packages"))
    (packages / "lock.pth").write_text(f"{lock}\n")
    (packages / "groupppo").mkdir()
    (packages / "groupppo" / "__init__.py").write_text("raise ImportError('as it was when the image was made')\n")
    tools.mkdir()
    (tools / "apptainer").write_text(APPTAINER.format(said=tmp_path / "said", image=image))
    (tools / "apptainer").chmod(0o755)
    (project / "groupppo.sif").touch()
    (project / "benchmarks" / "site.yaml").write_text(yaml.safe_dump({"container": "groupppo.sif"}))
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    return project


ASKED = ("--sdm", "apptainer", "--apptainer-args=--nv", "results/quick/benchmark.yaml")


def test_jobs_run_in_the_image_that_the_site_names_with_the_code_of_this_folder(in_image: Path, tmp_path: Path) -> None:
    plan = snakemake(in_image, "--dry-run", *ASKED)
    assert plan.returncode == 0, plan.stderr
    assert not (tmp_path / "said").exists()
    done = snakemake(in_image, *ASKED)
    assert done.returncode == 0, done.stderr
    (said,) = (tmp_path / "said").read_text().splitlines()
    assert said.startswith(f"exec --home {in_image} --nv ")
    assert " groupppo.sif bash -c " in said
    assert (in_image / ASKED[-1]).is_file()


def test_without_this_folder_in_its_path_a_job_would_take_the_images_copy(in_image: Path) -> None:
    file = in_image / "Snakefile"
    file.write_text(file.read_text().replace("if IN_IMAGE:", "if False:"))
    done = snakemake(in_image, *ASKED)
    assert done.returncode != 0
    assert "as it was when the image was made" in done.stdout + done.stderr


def test_a_run_over_several_nodes_is_refused_in_an_image_which_has_no_srun(in_image: Path) -> None:
    model = in_image / "benchmarks" / "models" / "tiny.yaml"
    data = yaml.safe_load(model.read_text())
    model.write_text(yaml.safe_dump(data | {"resources": data["resources"] | {"nodes": 2}}))
    site = in_image / "benchmarks" / "site.yaml"
    site.write_text(site.read_text() + "network_is_ours: true\n")
    run = "results/quick/runs/sorting/tiny/ppo/seed1/status.json"
    done = snakemake(in_image, "--sdm", "apptainer", "--dry-run", run)
    assert done.returncode != 0
    assert "tiny.yaml: resources.nodes = 2" in done.stdout + done.stderr
    assert "an image has no srun" in done.stdout + done.stderr
    assert snakemake(in_image, "--dry-run", run).returncode == 0
