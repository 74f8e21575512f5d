"""One archive with everything a stranger needs to read, check and rerun a benchmark: results/<name>/bundle.zip.

    make_bundle(Path("results/quick"), Path("results/quick/bundle.zip"), checkpoints=False)

Its bytes depend on the results and on this repository's lock files alone: not on the clock, nor on where anything lies.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import groupppo
from groupppo.config import REPOSITORY
from groupppo.errors import BadInput
from groupppo.measure.hashing import sha256_file
from groupppo.publish.archive import write_archive
from groupppo.publish.contents import LOCKS, Member, last_date, members, notes, require_judged
from groupppo.publish.crate import METADATA, crate_metadata
from groupppo.publish.source import loaded_config
from groupppo.publish.sums import FORMAT, FORMAT_VERSION, MANIFEST, SUMS, read_manifest, read_sums, sums_text


def make_bundle(results: Path, out: Path, *, checkpoints: bool, samples: bool = True, pictures: bool = True) -> Path:
    """Pack a finished results folder.

    Args:
        results: a results folder with its report, or an unpacked bundle, some of it made anew (`groupppo report`).
        out: the archive, replaced as a whole or not at all.
        checkpoints: also pack the weights of starts and trained policies (safetensors; never pickles).
        samples: pack lm-eval's samples, or their scores by item alone.
        pictures: pack the figures as pictures, too, or their numbers alone; the report shows them either way.

    Returns:
        `out`.

    Raises:
        BadInput: a product, a study or the profile is missing, claims or matrix have changed since the verdicts, a file
            is a link, of a kind that is not published, or has a name that some file system cannot keep.
    """
    if not results.is_dir():
        raise BadInput(results, "folder", None, "name a results folder, such as results/quick.")
    found = members(results, checkpoints=checkpoints, samples=samples, pictures=pictures)
    with loaded_config(results) as (benchmark, _), tempfile.TemporaryDirectory(prefix="groupppo-") as spool:
        require_judged(results, benchmark)
        files, scrubbed = {}, {}
        earlier = _scrubbed_before(results)
        for number, name in enumerate(sorted(found)):
            original = found[name]
            found[name], count = original.settled(Path(spool) / str(number))
            files[name] = found[name].published()
            if count:
                scrubbed[name] = {"paths": count, "original_sha256": original.published().sha256}
            elif files[name].sha256 == earlier.get(name, ("", {}))[0]:
                scrubbed[name] = earlier[name][1]
        manifest = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "benchmark": benchmark.name,
            "groupppo": groupppo.__version__,
            "checkpoints": checkpoints,
            "samples": samples,
            "pictures": pictures,
            "files": len(files) + 3,
            "scrubbed": scrubbed,
            "notes": notes(results, found, sha256_file(REPOSITORY / LOCKS[0])),
        }
        text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
        found[MANIFEST] = Member(data=text.encode())
        files[MANIFEST] = found[MANIFEST].published()
        found[METADATA] = Member(data=crate_metadata(benchmark, files, [SUMS], last_date(results)))
        files[METADATA] = found[METADATA].published()
        found[SUMS] = Member(data=sums_text({name: file.sha256 for name, file in files.items()}))
        out.parent.mkdir(parents=True, exist_ok=True)
        write_archive(out, found)
    return out


def _scrubbed_before(results: Path) -> dict[str, tuple[str, dict[str, Any]]]:
    """Of an unpacked bundle, by name: SHA-256 of every file that was scrubbed for it, and what it says of that."""
    if not (results / SUMS).is_file():
        return {}
    hashes = read_sums(results)
    return {name: (hashes.get(name, ""), told) for name, told in read_manifest(results)["scrubbed"].items()}
