"""What of a results folder goes into a bundle, under which name, and how its text is scrubbed."""

import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from groupppo.config import REPOSITORY, Benchmark
from groupppo.errors import BadInput
from groupppo.publish.archive import CHUNK
from groupppo.publish.crate import Published
from groupppo.publish.matrix import CONFIG, RECORD, config_files, read_record
from groupppo.publish.scrub import Places, scrub_evidence, scrub_record, scrub_table, text_columns
from groupppo.report.page_data import read_object
from groupppo.superseded import FOLDER
from groupppo.tables import SCHEMA, Only, load_tables
from groupppo.tables.keys import plans_begun
from groupppo.tables.runs import SET_ASIDE
from groupppo.verdicts.item_scores import ITEMS, items_table
from groupppo.verdicts.preregistration import STAMP

LOCKS = ("requirements/cpu.lock", "requirements/gpu.lock", "environment.yml", "environment.post-deploy.sh")
RIGHTS = ("LICENSE", "CITATION.cff")
WEIGHTS = (".safetensors", ".json", ".jinja", ".txt", ".model")
"""Files of a checkpoint that hold no code and no pickles."""
_CHECKPOINTS = ("runs/*/*/*/*/checkpoint/**/*", "runs/*/*/*/*/critic/**/*")
_OF_A_RUN = ("status.json", "provenance.json", "config.yaml")
_BOOKKEEPING = ".snakemake_timestamp"
"""Snakemake leaves it in every folder that a rule makes as a whole."""


class Kind(Enum):
    """How a file's absolute paths are looked for."""

    RECORD = "record"
    EVIDENCE = "evidence"
    SAMPLES = "samples"
    TABLE = "table"
    AS_IS = "as it is"


_OF_SUFFIX = {
    ".html": Kind.EVIDENCE,
    ".md": Kind.EVIDENCE,
    ".csv": Kind.EVIDENCE,
    ".svg": Kind.EVIDENCE,
    ".json": Kind.EVIDENCE,
    ".jsonl": Kind.EVIDENCE,
    ".yaml": Kind.RECORD,
    ".parquet": Kind.TABLE,
    ".png": Kind.AS_IS,
}
_RECORDS = re.compile(r"(provenance|preregistration|status|card|config|warmstart|study|results_.*)\.json")


@dataclass(frozen=True)
class Member:
    """A file of a bundle: its bytes come from `source`, or are `data`. `places` are scrubbed from its text."""

    source: Path | None = None
    data: bytes = b""
    kind: Kind = Kind.AS_IS
    places: Places = field(default_factory=Places)

    def chunks(self) -> Iterator[bytes]:
        """The bytes as they are, piece by piece."""
        if self.source is None:
            yield self.data
        else:
            with self.source.open("rb") as file:
                while chunk := file.read(CHUNK):
                    yield chunk

    def published(self) -> Published:
        """Size and hash of the bytes as they are."""
        total, size = hashlib.sha256(), 0
        for chunk in self.chunks():
            total.update(chunk)
            size += len(chunk)
        return Published(size, total.hexdigest())

    def settled(self, spool: Path) -> tuple["Member", int]:
        """The member with its paths taken out, as it is published, and how many these were.

        Args:
            spool: a new file for the scrubbed bytes; memory must not grow with the number of runs.

        Raises:
            BadInput: a table that is not Parquet.
        """
        new, count = (b"", 0) if self.kind is Kind.AS_IS else self._scrubbed()
        if not count:
            return replace(self, kind=Kind.AS_IS), 0
        spool.write_bytes(new)
        return Member(spool), count

    def text(self) -> str:
        """The whole content. A broken run may have left bytes that are no text; they come out again as they were."""
        return b"".join(self.chunks()).decode("utf-8", "surrogateescape")

    def _scrubbed(self) -> tuple[bytes, int]:
        if self.kind is Kind.TABLE and self.source is not None:
            return _scrubbed_table(self.source, self.places)
        if self.kind is Kind.RECORD:
            new, count = scrub_record(self.text())
        else:
            new, count = scrub_evidence(self.text(), self.places, machine=self.kind is Kind.EVIDENCE)
        return new.encode("utf-8", "surrogateescape"), count


def _scrubbed_table(file: Path, places: Places) -> tuple[bytes, int]:
    """The file written again without paths, and their number; no bytes where it has none.

    Looked for in the columns of text, one row group at a time: a table of ten thousand runs is larger than memory.
    """
    try:
        with pq.ParquetFile(file) as source:
            texts = [source.schema_arrow.names[i] for i in text_columns(source.schema_arrow)]
            groups = (source.read_row_group(i, columns=texts) for i in range(source.num_row_groups))
            if not any(scrub_table(group, places)[1] for group in groups):
                return b"", 0
            scrubbed, count = scrub_table(source.read(), places)
    except (pa.ArrowException, OSError) as error:
        raise BadInput(file, "file", str(error).splitlines()[0], "write the tables again.") from error
    written = io.BytesIO()
    pq.write_table(scrubbed, written)
    return written.getvalue(), count


def members(results: Path, *, checkpoints: bool, samples: bool = True, pictures: bool = True) -> dict[str, Member]:
    """Every file of the bundle of `results` but its manifest and its RO-Crate metadata, by name.

    Left out: logs, Snakemake's timings, steps.jsonl and stages.jsonl (tables/ has every row of them), task splits
    (config/tasks makes them again, their cards have the hashes), weights unless `checkpoints`, and lm-eval's samples,
    which are most of the bytes, unless `samples`: their scores alone are then in evals/items.parquet.
    Without `pictures`, a figure's numbers stay, and report.html shows it; report.md, which shows the files, goes too.
    A bundle that was unpacked has its config, its locks and its scores by item already; they stay as they are.

    Raises:
        BadInput: a product is missing, or a file is a link.
    """
    verdicts = read_object(results / "verdicts.json", "decide the claims first.")
    found = {name: _one(results, name) for name in ("report.html", "verdicts.json", RECORD)}
    found |= {f"tables/{table}.parquet": _one(results, f"tables/{table}.parquet") for table in SCHEMA}
    if (results / "report.md").exists():
        found["report.md"] = _one(results, "report.md")
    patterns = [
        STAMP,
        "tables/*.parquet",
        "figures/*",
        "studies/**/*",
        "profile/**/*",
        "pilot/*",
        "evals/**/*",
        "assets/tasks/*/card.json",
    ]
    patterns += ["assets/starts/*/*/warmstart.json*"]
    # What a failed run left may have been set aside for another attempt.
    patterns += [f"runs/*/*/*/*/{aside}{name}" for aside in ("", f"{SET_ASIDE}/") for name in _OF_A_RUN]
    found |= {name: _one(results, name) for name in _matches(results, patterns)}
    if not samples:
        found = {name: member for name, member in found.items() if member.kind is not Kind.SAMPLES}
        if ITEMS not in found:
            found[ITEMS] = Member(data=items_table(results, load_tables(results / "tables", {"evals": Only()}).evals))
    if not pictures:
        drawn = re.compile(r"figures/.*\.(png|svg)|report\.md")
        found = {name: member for name, member in found.items() if not drawn.fullmatch(name)}
        page = found["report.html"]
        found["report.html"] = replace(page, source=None, data=_without_picture_links(page.text()))
    if checkpoints:
        weights = _matches(results, [*_CHECKPOINTS, "assets/starts/*/*/*"])
        found |= {name: _weight(results, name) for name in weights if name not in found}
    for folder, least in (("figures", "figures.json"), ("evals", "result.json"), ("runs", "provenance.json")):
        if not any(name.startswith(f"{folder}/") and name.endswith(least) for name in found):
            raise BadInput(results / folder, "folder", None, "run the benchmark first: `snakemake`.")
    places = Places.of_records(member.text() for member in found.values() if member.kind is Kind.RECORD)
    described = _described(results, str(verdicts.get("claims_sha256")))
    return {name: replace(member, places=places) for name, member in found.items()} | described


def _described(results: Path, claims_sha256: str) -> dict[str, Member]:
    """Locks, rights and config."""
    if (results / CONFIG).is_dir():
        names = _matches(results, [*LOCKS, *RIGHTS, f"{CONFIG}/**/*"])
        return {name: Member(_existing(results, name)) for name in names}
    described = {name: Member(REPOSITORY / name) for name in (*LOCKS, *RIGHTS)}
    claims = Path(read_record(results / RECORD)["claims"]).name
    for name, text in config_files(results, claims_sha256).items():
        # The claims are known by their hash, and study scripts are programs: both stay as they are.
        kind = Kind.AS_IS if name == claims or name.endswith(".py") else Kind.RECORD
        described[f"{CONFIG}/{name}"] = Member(data=text, kind=kind)
    return described


def _without_picture_links(page: str) -> bytes:
    """The page that shows its figures and does not link to files of them that the bundle leaves out."""
    return re.sub(r'<a href="figures/[^"]*\.(?:png|svg)">[A-Z]+</a>[,.]\s*', "", page).encode()


def _matches(results: Path, patterns: Iterable[str]) -> list[str]:
    files = (file for pattern in patterns for file in results.glob(pattern) if not file.is_dir() or file.is_symlink())
    names = (file.relative_to(results) for file in files if file.name != _BOOKKEEPING)
    return sorted({name.as_posix() for name in names if FOLDER not in name.parts})


def _weight(results: Path, name: str) -> Member:
    file = _existing(results, name)
    if file.suffix not in WEIGHTS:
        mend = f"move it out of the checkpoint: only {', '.join(WEIGHTS)} files are published, no code and no pickles."
        raise BadInput(file, "file", file.suffix, mend)
    return Member(file, kind=Kind.RECORD if file.name == "config.json" else Kind.AS_IS)


def _one(results: Path, name: str) -> Member:
    file = _existing(results, name)
    kind = _OF_SUFFIX.get(file.suffix)
    if kind is None:
        known = ", ".join(_OF_SUFFIX)
        raise BadInput(file, "file", file.suffix, f"move it out of the results: only {known} files are published here.")
    if _RECORDS.fullmatch(file.name) or name.startswith("profile/measured/"):
        kind = Kind.RECORD
    return Member(file, kind=Kind.SAMPLES if file.name.startswith("samples_") else kind)


def _existing(results: Path, name: str) -> Path:
    file = results / name
    above = [results.joinpath(*Path(name).parts[: i + 1]) for i in range(len(Path(name).parts))]
    if any(place.is_symlink() for place in above):
        raise BadInput(
            file, "file", "a link", "put the file itself there: what a link points to is not part of results."
        )
    if not file.is_file():
        raise BadInput(file, "file", None, "run the benchmark to its end first: `snakemake`.")
    return file


def require_judged(results: Path, benchmark: Benchmark) -> None:
    """Whatever the benchmark asks for beside its runs is there, of the tasks and models begun: without it nobody can
    decide the verdicts again.

    Raises:
        BadInput: its profile's tables or one of its studies are missing.
    """
    cells = [f"{plan.task}.{plan.model}" for plan in plans_begun(results, benchmark)]
    asked = [f"studies/{study}/{cell}/*.csv" for study in benchmark.studies for cell in cells]
    for pattern in [*asked, *(["profile/tables/*.parquet"] if benchmark.profile else [])]:
        if not any(results.glob(pattern)):
            mend = f"run the benchmark to its end first, `snakemake`: {RECORD} asks for it."
            raise BadInput(results / pattern, "files", None, mend)


def notes(results: Path, found: Mapping[str, Member], lock_sha256: str) -> list[str]:
    """What a reader must know that is missing or does not fit: runs without provenance, another lock."""
    told = dict[str, list[str]]()
    for folder in sorted(path for path in results.glob("runs/*/*/*/*") if path.is_dir()):
        place = folder.relative_to(results).as_posix()
        names = [f"{place}/{aside}provenance.json" for aside in ("", f"{SET_ASIDE}/")]
        name = next((name for name in names if name in found), None)
        if name is None:
            told.setdefault("missing; the run did not get as far as to write it.", []).append(names[0])
            continue
        used = _object(results / name).get("software", {})
        lock = used.get("lock_sha256") if isinstance(used, dict) else None
        if lock not in (None, lock_sha256):
            why = f"the run used another lock (SHA-256 {lock}) than {LOCKS[0]} of this bundle."
            told.setdefault(why, []).append(name)
    return [
        f"{names[0]}{f' and {len(names) - 1:,} more' if len(names) > 1 else ''}: {why}" for why, names in told.items()
    ]


def last_date(results: Path) -> str:
    """When the last run ended, as YYYY-MM-DD: a date of the results themselves, not of their packing.

    Raises:
        BadInput: no run says when it ended.
    """
    ends = (_object(file).get("finished_at") for file in sorted(results.glob("runs/*/*/*/*/status.json")))
    dates = [end[:10] for end in ends if isinstance(end, str) and re.match(r"\d{4}-\d{2}-\d{2}", end)]
    if not dates:
        raise BadInput(
            results / "runs", "finished_at", None, "run the benchmark first: no status.json says when it ended."
        )
    return max(dates)


def _object(file: Path) -> dict[str, object]:
    """A JSON object, empty where a broken run left none: the tables name that run and its fault."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
