"""RO-Crate 1.1 metadata of a bundle: https://www.researchobject.org/ro-crate/specification/1.1/."""

import json
import mimetypes
import posixpath
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import yaml
from rocrate.model import ContextEntity
from rocrate.rocrate import ROCrate

import groupppo
from groupppo.config import REPOSITORY, Benchmark

METADATA = "ro-crate-metadata.json"
VERSION = "1.1"
PROFILE = f"https://w3id.org/ro/crate/{VERSION}"
LICENSE = "https://spdx.org/licenses/Apache-2.0"
_CELLS = ("runs", "evals")
_FORMATS = {".parquet": "application/vnd.apache.parquet", ".jsonl": "application/jsonl", ".yaml": "application/yaml"}
_TOLD = {
    "report.html": "The report: verdicts first, then all that they rest on",
    "verdicts.json": "Every claim with its verdict, interval and evidence",
    "benchmark.yaml": "The matrix of models, tasks, arms and seeds, resolved",
    "manifest.json": "What was left out or scrubbed, and notes on the runs",
    "SHA256SUMS": "SHA-256 of every file",
}


@dataclass(frozen=True)
class Published:
    """A file as it lies in the bundle."""

    size: int
    sha256: str


def crate_metadata(benchmark: Benchmark, files: Mapping[str, Published], listed: Collection[str], date: str) -> bytes:
    """The text of ro-crate-metadata.json.

    Runs and evaluations are described by folder, all other files one by one. Nothing in it depends on the clock, on
    chance or on where the results lie.

    Args:
        files: size and hash of files that are known when the metadata is written.
        listed: names of further files, described without size and hash because they hold this file's own.
        date: when the last run ended, YYYY-MM-DD.
    """
    crate = ROCrate(version=VERSION)
    root = crate.root_dataset
    root["name"] = f"{benchmark.title}: results of the GROUP-PPO bench"
    fewer = "; not every task and model is run with all arms and seeds" if benchmark.cells else ""
    root["description"] = (
        f"Runs, evaluations, tables, figures and verdicts of the benchmark {benchmark.name}: "
        f"{len(benchmark.arms)} arms, {len(benchmark.tasks)} tasks, {len(benchmark.models)} models, "
        f"{len(benchmark.seeds)} seeds{fewer}. Start with report.html."
    )
    root["datePublished"] = date
    root["keywords"] = ", ".join(yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))["keywords"])
    root["license"] = crate.add(_entity(crate, LICENSE, "CreativeWork", name="Apache License 2.0"))
    author = crate.add(_entity(crate, "#authors", "Organization", name="The GROUP-PPO bench authors"))
    root["author"] = author
    software = crate.add(
        _entity(crate, "#groupppo", "SoftwareApplication", name="groupppo", softwareVersion=groupppo.__version__)
    )
    for name in sorted({*files, *listed}):
        if name.split("/")[0] not in _CELLS:
            crate.add_file(dest_path=name, properties=_properties(name, files.get(name)))
    for folder in sorted({posixpath.dirname(name) for name in files if name.split("/")[0] in _CELLS}):
        crate.add_dataset(dest_path=folder, properties={"name": folder})
    action = crate.add(
        _entity(crate, "#benchmark", "CreateAction", name=f"The benchmark {benchmark.name}", endTime=date)
    )
    action["instrument"] = software
    action["object"] = crate.get("benchmark.yaml")
    action["result"] = crate.get("verdicts.json")
    root["mentions"] = action
    return (json.dumps(crate.metadata.generate(), indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _entity(crate: ROCrate, identifier: str, kind: str, **properties: str) -> ContextEntity:
    return ContextEntity(crate, identifier, properties={"@type": kind, **properties})


def _properties(name: str, published: Published | None) -> dict[str, str]:
    suffix = posixpath.splitext(name)[1]
    form = _FORMATS.get(suffix) or mimetypes.types_map.get(suffix, "text/plain")
    told = {"name": _TOLD.get(name, posixpath.basename(name)), "encodingFormat": form}
    if published is None:
        return told
    return told | {"contentSize": str(published.size), "sha256": published.sha256}
