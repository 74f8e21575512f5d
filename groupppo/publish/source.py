"""Results wherever they are: a bundle, a bundle unpacked, or the folder a benchmark wrote; read and never changed.

A results folder records its matrix in benchmark.yaml with all names resolved. `config_files` turns the record back into
benchmark, model, task and arm files; claims, a profile and arms that only claims name are copied, from the repository
or the results alone: whoever made the record may have put any path into it. A bundle has these files in config/.
"""

import contextlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import yaml

from groupppo.config import KINDS, REPOSITORY, Benchmark, ClaimsFile, load_benchmark
from groupppo.config.allowed import require_inside
from groupppo.config.files import read_form
from groupppo.config.things import LARGEST_REWARD, REWARDS
from groupppo.errors import BadInput
from groupppo.publish.archive import extract
from groupppo.publish.contents import CONFIG, LOCKS, RECORD, RIGHTS, SUMS, VERDICTS, Difference, files_in
from groupppo.records.plain_json import read_bytes, read_object
from groupppo.records.plain_yaml import read_yaml
from groupppo.verdicts.claims import Claims, arms_folder, claims_sha256, load_claims

BUNDLE, UNPACKED, RESULTS = "bundle", "unpacked bundle", "results folder"
_KINDS = ("models", "tasks", "arms")
# Keys of a matrix that name a file beside it, and its kind; a record has their places instead, as it has each source.
_BESIDE = {"claims": "claims", "profile": "profile", "pilot": "benchmark"}
_PLACES = ("source", "reward_text", *_BESIDE)
"""Of a record, and of no file that is made of it: the text of a reward is a file of its own."""
_Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_]+\Z")]
_COMMIT = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True)
class Source:
    """Results that can be read."""

    path: Path  # what the user named
    folder: Path  # where the files are, unpacked if need be
    kind: str  # BUNDLE, UNPACKED or RESULTS

    def placed(self, error: BadInput) -> BadInput:
        """The error with the place of the file inside the bundle, not that of a folder that is gone by then."""
        file = error.file.replace(f"{self.folder}/", f"{self.path}: ") if self.kind == BUNDLE else error.file
        return BadInput(file, error.key, error.value, error.hint)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Source]:
    """Give the files of a bundle or folder; a bundle is unpacked into a temporary folder for as long as it lasts.

    Raises:
        BadInput: nothing is there, the archive is hostile or damaged, or the folder holds a link.
    """
    if path.is_dir():
        unpacked = (path / SUMS).is_file()
        for file in sorted(path.rglob("*")) if unpacked else ():
            if file.is_symlink() or not (file.is_file() or file.is_dir()):
                raise BadInput(file, "file", "a link or a device", "a bundle has none; unpack it again.")
        yield Source(path, path, UNPACKED if unpacked else RESULTS)
        return
    if not path.is_file():
        raise BadInput(path, "file", None, "name a bundle.zip, an unpacked bundle or a results folder.")
    with tempfile.TemporaryDirectory(prefix="groupppo-") as place:
        source = Source(path, Path(place).resolve(), BUNDLE)
        extract(path, source.folder)
        yield source


def bundles_in(folder: Path) -> list[Path]:
    """Bundles, zipped or unpacked, that lie side by side in a folder which is neither one nor results; sorted."""
    if not folder.is_dir() or any((folder / name).exists() for name in (SUMS, VERDICTS, RECORD)):
        return []
    return sorted([*folder.glob("*.zip"), *(sums.parent for sums in folder.glob(f"*/{SUMS}"))])


@contextlib.contextmanager
def loaded_config(folder: Path) -> Iterator[tuple[Benchmark, Claims]]:
    """Matrix and claims that the results in `folder` belong to; their files exist for as long as this lasts.

    A bundle has them in config/. For a results folder they are written from its record, with the repository's claims.

    Raises:
        BadInput: as `config_files` and `load_config`.
    """
    if (folder / CONFIG).is_dir():
        yield load_config(folder / CONFIG, folder / RECORD)
        return
    verdicts = read_object(folder / VERDICTS, "decide the verdicts first: run `snakemake`.")
    with tempfile.TemporaryDirectory(prefix="groupppo-") as place:
        for name, content in config_files(folder, str(verdicts.get("claims_sha256"))).items():
            file = Path(place) / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        yield load_config(Path(place), folder / RECORD)


def load_config(config: Path, record_file: Path) -> tuple[Benchmark, Claims]:
    """Benchmark and claims from the files of `config_files`, checked as any benchmark is, and against the record.

    Raises:
        BadInput: a file is missing or not in its schema, or the config is not the matrix that `record_file` records.
    """
    record = read_record(record_file)
    for name, content in written_files(record).items():
        if read_bytes(config / name, "unpack the bundle again.") != content:
            hint = f"not what {record_file.name} makes of it: not the same matrix."
            raise BadInput(config / name, "file", "another content", hint)
    benchmark = load_benchmark(config / f"{record['name']}.yaml")
    return benchmark, load_claims(benchmark.claims)


def config_files(results: Path, judged_sha256: str) -> dict[str, bytes]:
    """Config files of a results folder with its benchmark.yaml, by name below config/.

    Args:
        results: the folder.
        judged_sha256: `claims_sha256` of the claims files that the verdicts were decided with.

    Raises:
        BadInput: benchmark.yaml is missing, not a resolved matrix or names a file outside of the repository and
            `results`, or the claims have changed since.
    """
    record = read_record(results / RECORD)
    home = results.absolute().parents[1]
    # The folder of the workflow that these results are of, where it is not this repository.
    own = results.absolute().parent.name == "results" and (home / "Snakefile").is_file()
    homes = (REPOSITORY, results, *([home] if own else []))
    for key in _BESIDE:
        for place in _places(record, key):
            require_inside(REPOSITORY / place, results / RECORD, key, *homes)
    claims = [REPOSITORY / place for place in _places(record, "claims")]
    found = claims_sha256(claims)
    if found != judged_sha256:
        hint = f"decide the verdicts again: they were decided with claims whose SHA-256 is {judged_sha256}."
        raise BadInput(", ".join(map(str, claims)), "file", found, hint)
    copied = {name: REPOSITORY / place for name, place in _copied_files(record, claims).items()}
    for name, file in copied.items():
        if not file.is_file():
            raise BadInput(file, "file", None, "put it back: the claims or the benchmark of these results name it.")
        if name.startswith("arms/"):
            require_inside(file, claims[0], "arm", *homes, arms_folder(claims[0]).parent)
            read_form(file, KINDS["arm"])
    for key, kind in _BESIDE.items():
        for place in _places(record, key):
            read_form(REPOSITORY / place, KINDS[kind])  # a file of another kind is nothing to publish
    return written_files(record) | {name: file.read_bytes() for name, file in copied.items()}


def written_files(record: Mapping[str, Any]) -> dict[str, bytes]:
    """Files of a benchmark's config that are made of its record, by name below config/."""
    written = {f"{kind}/{name}.yaml": _without_places(entry) for kind in _KINDS for name, entry in record[kind].items()}
    rewards = {
        f"{REWARDS}/{task['reward_file']}": task["reward_text"].encode()
        for task in record["tasks"].values()
        if task.get("reward_file") is not None
    }
    matrix = {key: value for key, value in record.items() if key not in _PLACES and value is not None}
    matrix |= {kind: list(record[kind]) for kind in _KINDS}
    matrix |= {key: Path(record[key]).name for key in _BESIDE if isinstance(record.get(key), str)}
    if not isinstance(record["claims"], str):
        matrix["claims"] = [Path(place).stem for place in record["claims"]]
    written[f"{record['name']}.yaml"] = matrix
    return rewards | {
        name: yaml.safe_dump(entry, sort_keys=False, allow_unicode=True).encode() for name, entry in written.items()
    }


def _places(record: Mapping[str, Any], key: str) -> list[str]:
    """Of the files that a record names under a key: none, one, or a list of claims files."""
    named = record.get(key)
    return [] if named is None else [named] if isinstance(named, str) else list(named)


def _copied_files(record: Mapping[str, Any], claims: Sequence[Path]) -> dict[str, Path]:
    """Files of a benchmark's config that a record does not hold, by name below config/; where the repository has them.

    Args:
        record: of the matrix.
        claims: the claims files, which name arms.

    Raises:
        BadInput: one is not in its schema.
    """
    judged = [claim for file in claims for claim in read_form(file, ClaimsFile).claims]
    named = {name for claim in judged for name in (claim.arm, claim.against) if name} - {"reference"}
    arms = arms_folder(Path(_places(record, "claims")[0]))
    copied = {f"arms/{arm}.yaml": arms / f"{arm}.yaml" for arm in sorted(named - set(record["arms"]))}
    copied |= {f"studies/{name}.py": Path("groupppo", "studies", f"{name}.py") for name in record["studies"] or []}
    listed = {} if isinstance(record["claims"], str) else {_listed(place): Path(place) for place in record["claims"]}
    beside = [record[key] for key in _BESIDE if isinstance(record.get(key), str)]
    return copied | listed | {Path(place).name: Path(place) for place in beside}


def _listed(place: str) -> str:
    """Below config/, a claims file that a matrix has in a list."""
    return f"claims/{Path(place).name}"


class _OwnReward(msgspec.Struct):
    reward_file: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_]+\.py\Z")]
    reward_text: Annotated[str, msgspec.Meta(max_length=LARGEST_REWARD)]


class _Record(msgspec.Struct):
    """What must be so in a record before it can be taken apart; a file made of it takes its name from it."""

    name: _Name
    source: str
    claims: str | Annotated[list[str], msgspec.Meta(min_length=1)]
    models: dict[_Name, dict[str, Any]]
    tasks: dict[_Name, dict[str, Any]]
    arms: dict[_Name, dict[str, Any]]
    studies: list[_Name] | None = None
    profile: str | None = None
    pilot: str | None = None


def read_record(file: Path) -> dict[str, Any]:
    """benchmark.yaml, far enough checked to be taken apart.

    Raises:
        BadInput: missing, not YAML, not a matrix, or with a name by which a file made from it could leave its folder.
    """
    record = read_yaml(file)
    try:
        for task in msgspec.convert(record, _Record).tasks.values():
            if task.get("reward_file") is not None:
                msgspec.convert(task, _OwnReward)
    except msgspec.ValidationError as error:
        raise BadInput(file, "file", str(error), "run the benchmark again with this version.") from None
    return {**record, "studies": record.get("studies")}


def _without_places(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The entry without the paths of its files, and without optional keys that are not set."""
    return {
        key: _without_places(value) if isinstance(value, Mapping) else value
        for key, value in entry.items()
        if key not in _PLACES and value is not None
    }


def source_differences(folder: Path, commit: str) -> Iterator[Difference]:
    """Every source in a bundle that is not what the record of its matrix makes of it or, where it was copied, what lies
    in a commit of this repository.

    Args:
        folder: the bundle's.
        commit: the commit that it was copied from; empty where nobody can compare that here.
    """
    record = read_record(folder / RECORD)
    named = record["claims"]
    below = [Path(named).name] if isinstance(named, str) else map(_listed, named)
    claims = [folder / CONFIG / place for place in below]
    expected: dict[str, tuple[bytes | None, str]] = {
        f"{CONFIG}/{name}": (content, f"what {RECORD} makes of it") for name, content in written_files(record).items()
    }
    copied = {f"{CONFIG}/{name}": place.as_posix() for name, place in _copied_files(record, claims).items()}
    for name, place in (copied | {name: name for name in (*LOCKS, *RIGHTS)}).items():
        if commit:
            # Before studies were modules of the package, they lay beside the benchmarks.
            for each in (place, place.replace("groupppo/studies/", "benchmarks/studies/")):
                content = _git("cat-file", "blob", f"{commit}:{each}")
                if content is not None:
                    break
            expected[name] = content, f"{place} of commit {commit}"
        else:
            file = folder / name
            expected[name] = file.read_bytes() if file.is_file() else b"", "a file: the matrix or the claims name it"
    present = {f"{CONFIG}/{name}" for name in files_in(folder / CONFIG)}
    for name in sorted({*expected, *present}):
        content, whose = expected.get(name, (None, "what the matrix and the claims name"))
        found = (folder / name).read_bytes() if (folder / name).is_file() else None
        if found != content:
            told = whose if content is not None else f"no such file: {whose} is none"
            yield name, told, "no file" if found is None else "another content"


def why_unchecked(source: Mapping[str, Any]) -> str:
    """Why the copied sources that a manifest tells of cannot be compared with this repository; empty if they can."""
    commit = str(source.get("commit"))
    if not _COMMIT.fullmatch(commit):
        return "the bundle names no commit."
    if source.get("uncommitted_sha256") is not None:
        return f"they were copied from commit {commit} with uncommitted changes."
    return "" if _git("cat-file", "-e", f"{commit}^{{commit}}") is not None else f"no commit {commit} is known here."


def _git(*arguments: str) -> bytes | None:
    """What git prints about this package's repository; None where it fails, or where there is none."""
    if not (REPOSITORY / ".git").exists() or shutil.which("git") is None:
        return None
    command = ["git", "-c", "safe.directory=*", "-C", str(REPOSITORY), *arguments]
    done = subprocess.run(command, capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else None
