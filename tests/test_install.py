"""What install.sh takes: files whose SHA-256 a lock has, torch alone from TORCH_INDEX, and nothing to build with.

Indexes are folders here, with packages of one file; pip is the real one.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from groupppo.config import REPOSITORY

# In the place of the environment's Python: packages go into a folder, and what is not installed there is only noted.
PYTHON = """#!/bin/bash
case " $* " in
  *" --editable "*) echo "$*" >> {said} ;;
  *" -c "*) test -e {site}/torch.py ;;
  *) exec {python} "$@" --target {site} --upgrade --no-warn-script-location ;;
esac
"""


def wheel(index: Path, name: str, version: str, content: str) -> str:
    """A package of one module, served by a folder that is an index; its SHA-256."""
    folder = index / name
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}-{version}-py3-none-any.whl"
    about = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo(f"{name}.py"), content)
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    links = "".join(f'<a href="{each.name}">{each.name}</a>\n' for each in sorted(folder.glob("*.whl")))
    (folder / "index.html").write_text(f"<html><body>{links}</body></html>")
    return hashlib.sha256(file.read_bytes()).hexdigest()


class Place:
    """A repository's folder with locks of three packages, an index that stands for PyPI and one for PyTorch's."""

    def __init__(self, home: Path) -> None:
        self.home, self.site = home, home / "site"
        self.pypi, self.pytorch = home / "pypi", home / "pytorch"
        hashes = {name: wheel(self.pypi, name, "1.0", "from = 'pypi'") for name in ("setuptools", "torch", "tool")}
        hashes["cpu"] = wheel(self.pytorch, "torch", "1.0+cpu", "from = 'pytorch'")
        wheel(self.pytorch, "tool", "1.0", "from = 'pytorch'")
        folder = home / "requirements"
        folder.mkdir()
        shutil.copy(REPOSITORY / "requirements/install.sh", folder)
        lines = [f"{name}==1.0 \\\n    --hash=sha256:{hashes[name]}\n" for name in ("setuptools", "tool", "torch")]
        (folder / "cpu.lock").write_text("# flat\n" + "".join(lines))
        (folder / "torch_cpu.lock").write_text(f"# CPU\ntorch==1.0+cpu \\\n    --hash=sha256:{hashes['cpu']}\n")
        python = home / "bin/python"
        python.parent.mkdir()
        python.write_text(PYTHON.format(said=home / "said", site=self.site, python=sys.executable))
        python.chmod(0o755)

    def install(self, **variables: str) -> subprocess.CompletedProcess[str]:
        ours = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "TORCH_"))}
        ours |= {"PATH": f"{self.home}/bin:{ours['PATH']}", "PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1"}
        ours |= {"PIP_INDEX_URL": self.pypi.as_uri(), "PYTHONPATH": ""} | variables
        command = ["bash", "requirements/install.sh", "requirements/cpu.lock"]
        return subprocess.run(command, cwd=self.home, env=ours, capture_output=True, text=True, timeout=120)

    def installed(self) -> dict[str, str]:
        return {file.stem: file.read_text() for file in self.site.glob("*.py")}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_the_index_of_torch_serves_torch_alone(place: Place) -> None:
    done = place.install(TORCH_INDEX=place.pytorch.as_uri())
    assert done.returncode == 0, done.stderr
    assert place.installed()["tool"] == "from = 'pypi'"
    assert "--no-deps --no-build-isolation --no-compile --editable ." in (place.home / "said").read_text()


def test_another_file_of_the_same_name_is_refused_wherever_it_comes_from(place: Place) -> None:
    wheel(place.pypi, "tool", "1.0", "from = 'a stranger'")
    done = place.install()
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert "tool" not in place.installed()
    assert not (place.home / "said").exists()


def test_a_build_of_torch_that_no_lock_knows_is_taken_by_its_hash_alone(place: Place) -> None:
    other = wheel(place.pytorch, "torch", "1.0+cpu", "from = 'another platform'")
    done = place.install(TORCH_INDEX=place.pytorch.as_uri())
    assert done.returncode != 0
    assert "torch==1.0+cpu" in done.stderr
    assert "torch" not in place.installed()
    # pip has --target forget what is there: without a lock of torch alone, the other torch would come after this one.
    (place.home / "requirements/cpu.lock").write_text(
        (place.home / "requirements/cpu.lock").read_text().split("torch")[0]
    )
    done = place.install(TORCH_INDEX=place.pytorch.as_uri(), TORCH_HASH=f"sha256:{other}")
    assert done.returncode == 0, done.stderr
    assert place.installed()["torch"] == "from = 'another platform'"
