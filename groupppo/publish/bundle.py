"""One archive with everything a stranger needs to read, check and rerun a benchmark: results/<name>/bundle.zip.

    make_bundle(Path("results/quick"), Path("results/quick/bundle.zip"), checkpoints=False)

Its bytes depend on the results and on this repository's lock files alone: not on the clock, nor on where anything lies.
"""

import hashlib
import json
from pathlib import Path

import groupppo
from groupppo.config import REPOSITORY
from groupppo.errors import BadInput
from groupppo.measure.hashing import sha256_file
from groupppo.publish.archive import write_archive
from groupppo.publish.contents import LOCKS, Kind, Member, last_date, members, notes
from groupppo.publish.crate import METADATA, Published, crate_metadata
from groupppo.publish.source import loaded_config
from groupppo.publish.sums import FORMAT, FORMAT_VERSION, MANIFEST, SUMS, sums_text


def make_bundle(results: Path, out: Path, *, checkpoints: bool) -> Path:
    """Pack a finished results folder.

    Args:
        results: a results folder with its report.
        out: the archive, replaced as a whole or not at all.
        checkpoints: also pack the weights of starts and trained policies (safetensors; never pickles).

    Returns:
        `out`.

    Raises:
        BadInput: a product is missing, claims or matrix have changed since the verdicts, a file is a link, of a kind
            that is not published, or has a name that some file system cannot keep.
    """
    if not results.is_dir():
        raise BadInput(results, "folder", None, "name a results folder, such as results/quick.")
    found = members(results, checkpoints=checkpoints)
    with loaded_config(results) as (benchmark, _):
        files, scrubbed = {}, {}
        for name in sorted(found):
            files[name] = _published(found[name])
            count = found[name].scrubbed()[1] if found[name].kind is not Kind.AS_IS else 0
            if count:
                original = hashlib.sha256(found[name].original()).hexdigest()
                scrubbed[name] = {"paths": count, "original_sha256": original}
        manifest = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "benchmark": benchmark.name,
            "groupppo": groupppo.__version__,
            "checkpoints": checkpoints,
            "files": len(files) + 3,
            "scrubbed": scrubbed,
            "notes": notes(results, found, sha256_file(REPOSITORY / LOCKS[0])),
        }
        text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
        found[MANIFEST] = Member(data=text.encode())
        files[MANIFEST] = _published(found[MANIFEST])
        found[METADATA] = Member(data=crate_metadata(benchmark, files, [SUMS], last_date(results)))
        files[METADATA] = _published(found[METADATA])
        found[SUMS] = Member(data=sums_text({name: file.sha256 for name, file in files.items()}))
        out.parent.mkdir(parents=True, exist_ok=True)
        write_archive(out, found)
    return out


def _published(member: Member) -> Published:
    total, size = hashlib.sha256(), 0
    for chunk in member.chunks():
        total.update(chunk)
        size += len(chunk)
    return Published(size, total.hexdigest())
