"""RO-Crate 1.1 metadata of a bundle: https://www.researchobject.org/ro-crate/specification/1.1/."""

import json
import mimetypes
import posixpath
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from rocrate.model import ContextEntity
from rocrate.rocrate import ROCrate

from groupppo.config import Benchmark
from groupppo.errors import BadInput
from groupppo.records.plain_json import read_object
from groupppo.records.plain_yaml import read_yaml

VERSION = "1.1"
PROFILE = f"https://w3id.org/ro/crate/{VERSION}"
LICENSE = "https://spdx.org/licenses/Apache-2.0"
_CELLS = ("runs", "evals")
_STATUS = re.compile(r"runs/[^/]+/[^/]+/[^/]+/[^/]+/status\.json")
_FORMATS = {".parquet": "application/vnd.apache.parquet", ".jsonl": "application/jsonl", ".yaml": "application/yaml"}
_TOLD = {
    "report.html": "The report: verdicts first, then all that they rest on",
    "verdicts.json": "Every claim with its verdict, interval and evidence",
    "benchmark.yaml": "The matrix of models, tasks, arms and seeds, resolved",
    "manifest.json": "What every file is, what was left out or scrubbed, and notes on the runs",
    "SHA256SUMS": "SHA-256 of every file",
}


def crate_metadata(
    benchmark: Benchmark, files: Mapping[str, Path], hashes: Mapping[str, str], listed: Collection[str], version: str
) -> bytes:
    """The text of ro-crate-metadata.json.

    Runs and evaluations are described by folder, all other files one by one. Nothing in it depends on the clock, on
    chance or on where the results lie.

    Args:
        files: those that are known when the metadata is written, by name. hashes: their SHA-256.
        listed: names of further files, described without size and hash because they hold this file's own.
        version: of this package, that made the bundle.

    Raises:
        BadInput: no run says when it ended.
    """
    crate, date = ROCrate(version=VERSION), last_date(files)
    root = crate.root_dataset
    root["name"] = f"{benchmark.title}: results of the GROUP-PPO bench"
    fewer = "; not every task and model is run with all arms and seeds" if benchmark.cells else ""
    root["description"] = (
        f"Runs, evaluations, tables, figures and verdicts of the benchmark {benchmark.name}: "
        f"{len(benchmark.arms)} arms, {len(benchmark.tasks)} tasks, {len(benchmark.models)} models, "
        f"{len(benchmark.seeds)} seeds{fewer}. Start with report.html."
    )
    root["datePublished"] = date
    root["keywords"] = _keywords(files.get("CITATION.cff"))
    root["license"] = crate.add(_entity(crate, LICENSE, "CreativeWork", name="Apache License 2.0"))
    author = crate.add(_entity(crate, "#authors", "Organization", name="The GROUP-PPO bench authors"))
    root["author"] = author
    software = crate.add(_entity(crate, "#groupppo", "SoftwareApplication", name="groupppo", softwareVersion=version))
    for name in sorted({*files, *listed}):
        if name.split("/")[0] not in _CELLS:
            crate.add_file(dest_path=name, properties=_properties(name, files.get(name), hashes.get(name)))
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


def _properties(name: str, file: Path | None, sha256: str | None) -> dict[str, str]:
    suffix = posixpath.splitext(name)[1]
    form = _FORMATS.get(suffix) or mimetypes.types_map.get(suffix, "text/plain")
    told = {"name": _TOLD.get(name, posixpath.basename(name)), "encodingFormat": form}
    if file is None or sha256 is None:
        return told
    return told | {"contentSize": str(file.stat().st_size), "sha256": sha256}


def _keywords(citation: Path | None) -> str:
    """Of the bundle's own CITATION.cff."""
    told = read_yaml(citation) if citation is not None else None
    words = told.get("keywords") if isinstance(told, dict) else None
    return ", ".join(map(str, words)) if isinstance(words, list) else ""


def last_date(files: Mapping[str, Path]) -> str:
    """When the last run ended, as YYYY-MM-DD: a date of the results themselves, not of their packing.

    Raises:
        BadInput: no run says when it ended.
    """
    ends = (_object(file).get("finished_at") for name, file in files.items() if _STATUS.fullmatch(name))
    dates = [end[:10] for end in ends if isinstance(end, str) and re.match(r"\d{4}-\d{2}-\d{2}", end)]
    if not dates:
        hint = "run the benchmark first: no status.json says when it ended."
        raise BadInput("runs", "finished_at", None, hint)
    return max(dates)


def _object(file: Path) -> dict[str, object]:
    """A JSON object, empty where a broken run left none: the tables name that run and its fault."""
    try:
        return read_object(file, "run it again.")
    except BadInput:
        return {}
