"""The repository as a whole: locks and manifests agree, files are short, nothing names a machine."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from groupppo.config import REPOSITORY

LONGEST_FILE = 600
LOCKS = ("cpu.lock", "gpu.lock", "torch_cpu.lock", "torch_cuda.lock")


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def lock(name: str) -> dict[str, str]:
    pins = {}
    for line in (REPOSITORY / "requirements" / name).read_text().splitlines():
        if line and not line.startswith(("#", " ")):
            package, version = line.split()[0].split("==")
            pins[normal(package)] = version
    return pins


def manifest() -> dict:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def tracked() -> list[str]:
    command = ["git", "-c", "safe.directory=*", "-C", str(REPOSITORY), "ls-files"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


@pytest.mark.parametrize(
    ("requirements", "locks"),
    [
        (manifest()["dependencies"], ["cpu.lock", "gpu.lock"]),
        (manifest()["optional-dependencies"]["cpu"], ["cpu.lock"]),
        (manifest()["optional-dependencies"]["gpu"], ["gpu.lock"]),
        (manifest()["optional-dependencies"]["slurm"], ["cpu.lock"]),
        (manifest()["optional-dependencies"]["test"], ["cpu.lock"]),
    ],
)
def test_every_direct_dependency_is_in_its_lock_at_the_same_version(requirements: list[str], locks: list[str]) -> None:
    for name in locks:
        pins = lock(name)
        for requirement in requirements:
            package, version = requirement.split("==")
            assert pins.get(normal(package)) == version, (requirement, name)


@pytest.mark.parametrize("name", LOCKS)
def test_locks_pin_every_package_exactly_with_hashes_and_name_no_place(name: str) -> None:
    text = (REPOSITORY / "requirements" / name).read_text()
    assert "://" not in text
    assert "file:" not in text
    entries = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)
    entry = r"[\w.-]+==[\w.+!]+ \\\n(?:    --hash=sha256:[0-9a-f]{64} \\\n)*    --hash=sha256:[0-9a-f]{64}\n"
    assert re.fullmatch(f"(?:{entry})+", entries)
    assert not re.fullmatch(f"(?:{entry})+", entries + "numpy==2.4.6\n")
    assert len(lock(name)) == len(re.findall(entry, entries))


def test_the_locks_beside_the_cpus_are_of_its_torch() -> None:
    torch, own = lock("cpu.lock")["torch"], lock("cpu.lock")
    assert lock("torch_cpu.lock") == {"torch": f"{torch}+cpu"}
    cuda = lock("torch_cuda.lock")
    assert not cuda.keys() & own.keys()


def test_the_installed_environment_is_the_lock() -> None:
    from importlib.metadata import PackageNotFoundError, version

    wrong = {}
    for package, pinned in lock("cpu.lock").items():
        try:
            installed = version(package)
        except PackageNotFoundError:
            installed = "missing"
        if installed.split("+")[0] != pinned:
            wrong[package] = (pinned, installed)
    assert not wrong


def test_the_conda_front_door_uses_the_gpu_lock_and_this_project() -> None:
    dependencies = yaml.safe_load((REPOSITORY / "environment.yml").read_text())["dependencies"]
    requires = manifest()["requires-python"]
    assert "python=3.11" in dependencies
    assert requires == ">=3.11,<3.12"
    # Nothing that the lock has: beside Python only what Triton and flash-attn are built with.
    assert dependencies == ["python=3.11", "pip", "c-compiler", "cxx-compiler"]


def test_the_script_after_it_installs_the_gpu_lock_from_where_it_is_started(tmp_path: Path) -> None:
    """Snakemake runs a copy of it that lies elsewhere."""
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements/install.sh").write_text('echo "$PWD: $*"; test ! -e fails\n')
    (tmp_path / "elsewhere").mkdir()
    script = shutil.copy(REPOSITORY / "environment.post-deploy.sh", tmp_path / "elsewhere/copy.sh")
    done = subprocess.run(["bash", script], check=True, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == f"{tmp_path}: requirements/gpu.lock\n"
    (tmp_path / "fails").touch()
    assert subprocess.run(["bash", script], check=False, cwd=tmp_path, capture_output=True).returncode == 1


def test_no_source_file_is_longer_than_agreed() -> None:
    for name in tracked():
        if name.endswith((".py", ".smk")) or name == "Snakefile":
            assert len((REPOSITORY / name).read_text().splitlines()) <= LONGEST_FILE, name


def test_no_tracked_file_names_a_path_of_one_machine() -> None:
    pattern = re.compile(r"/(?:home|root|opt|work)/[A-Za-z0-9_-]+")
    for name in tracked():
        if name.endswith((".lock", ".png", ".parquet")):
            continue
        file = REPOSITORY / name
        text = str(file.readlink()) if file.is_symlink() else file.read_text(errors="replace")
        assert not pattern.search(text), name


def test_the_core_needs_neither_verl_nor_ray_nor_snakemake() -> None:
    code = (
        "import sys, groupppo.algorithm.loss, groupppo.algorithm.metrics, groupppo.algorithm.kernels; "
        "print(sorted({'verl', 'ray', 'snakemake', 'transformers', 'vllm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_only_the_verl_room_imports_verl_and_only_the_workflow_imports_snakemake() -> None:
    for name in tracked():
        if name.startswith("groupppo/") and name.endswith(".py"):
            text = (REPOSITORY / name).read_text()
            imports = re.findall(r"^\s*(?:from|import) (\w+)", text, flags=re.MULTILINE)
            assert "snakemake" not in imports, name
            assert "verl" not in imports or name.startswith("groupppo/verl/"), name
