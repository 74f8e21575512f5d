"""One archive with everything a stranger needs to read, check and rerun a benchmark: results/<name>/bundle.zip.

    make_bundle(Path("results/quick"), Path("results/quick/bundle.zip"), checkpoints=False)

Its bytes depend on the results and on this repository's sources alone: not on the clock, nor on where anything lies.
Raw records lose the paths of their machine; whatever is derived is derived again from what is left of them.
"""

import tempfile
from pathlib import Path
from typing import Any

from groupppo.errors import BadInput
from groupppo.measure.provenance import source
from groupppo.publish.archive import write_archive
from groupppo.publish.contents import InFile, require_complete, stage
from groupppo.publish.derive import derive
from groupppo.publish.files import MANIFEST, SUMS
from groupppo.publish.matrix import CONFIG
from groupppo.publish.records import notes
from groupppo.publish.source import loaded_config
from groupppo.publish.sums import read_sums, write_lists
from groupppo.publish.version import made_by
from groupppo.records.hashing import sha256_file
from groupppo.records.plain_json import read_object


def make_bundle(results: Path, out: Path, *, checkpoints: bool, samples: bool = True) -> Path:
    """Pack a finished results folder.

    Args:
        results: a results folder with its report, or an unpacked bundle, some of it made anew (`groupppo report`).
        out: the archive, replaced as a whole or not at all.
        checkpoints: also pack the weights of starts and trained policies (safetensors; never pickles).
        samples: pack lm-eval's samples, or their scores by item alone.

    Returns:
        `out`.

    Raises:
        BadInput: a product, a study or the profile is missing, claims or matrix have changed since the verdicts, a file
            is a link, of a kind that is not published, or has a name that some file system cannot keep.
    """
    if not results.is_dir():
        raise BadInput(results, "folder", None, "name a results folder, such as results/quick.")
    with loaded_config(results) as (benchmark, _):
        require_complete(results, benchmark)
    with tempfile.TemporaryDirectory(prefix="groupppo-") as place:
        folder = Path(place)
        staged = stage(results, folder, checkpoints=checkpoints, samples=samples)
        with loaded_config(folder) as (benchmark, claims):
            derive(folder, benchmark, claims)
            said = {"made_by": made_by(), "source": _source(results), "checkpoints": checkpoints, "samples": samples}
            files = {**_files(folder), **staged.weights}
            write_lists(
                folder, benchmark, files, said | {"notes": notes(folder)}, _before(results, folder) | staged.scrubbed
            )
        out.parent.mkdir(parents=True, exist_ok=True)
        write_archive(out, {name: InFile(file) for name, file in {**_files(folder), **staged.weights}.items()})
    return out


def _files(folder: Path) -> dict[str, Path]:
    return {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}


def _source(results: Path) -> dict[str, Any]:
    """The commit that config and locks are from: that which an unpacked bundle names, or this repository's."""
    if not (results / CONFIG).is_dir():
        return source()
    told = _manifest(results).get("source")
    return told if isinstance(told, dict) else {"commit": None, "uncommitted_sha256": None}


def _before(results: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """Of an unpacked bundle, what its manifest says of files that are still as their paths were taken out."""
    manifest = _manifest(results)
    # Before its second version a manifest listed these files alone.
    listed = manifest.get("scrubbed") or manifest.get("files")
    if not isinstance(listed, dict):
        return {}
    hashes = read_sums(results)
    kept = (name for name in listed if name in hashes and (folder / name).is_file())
    return {name: listed[name] for name in kept if sha256_file(folder / name) == hashes[name]}


def _manifest(results: Path) -> dict[str, Any]:
    file = results / MANIFEST
    if not file.is_file() or not (results / SUMS).is_file():
        return {}
    return read_object(file, "unpack the bundle again.")
