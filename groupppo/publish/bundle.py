"""One archive with everything a stranger needs to read, check and rerun a benchmark: results/<name>/bundle.zip.

    make_bundle(Path("results/quick"), Path("results/quick/bundle.zip"), checkpoints=False)

Its bytes depend on the results and on this repository's sources alone: not on the clock, nor on where anything lies.
Records lose every absolute path, samples of lm-eval's stay as they are, and what is derived is derived again.
"""

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from groupppo.config import REPOSITORY, Benchmark
from groupppo.errors import BadInput
from groupppo.measure.provenance import source
from groupppo.publish import contents
from groupppo.publish.archive import write_archive
from groupppo.publish.contents import CONFIG, ITEMS, RECORD, VERDICTS, Kind, files_in, is_picture, kind_of
from groupppo.publish.derive import derive, has_steps, made_by
from groupppo.publish.reading import read_json
from groupppo.publish.records import notes
from groupppo.publish.source import config_files, loaded_config, read_record, written_files
from groupppo.records.hashing import RECORDS, SNAKEMAKES_OWN, published
from groupppo.records.superseded import FOLDER
from groupppo.report.sections import PROFILE
from groupppo.tables import Only, load_tables
from groupppo.tables.schema import plans_begun
from groupppo.verdicts.item_scores import items_table

_WEIGHTS = re.compile(rf"{contents.RUN}/(?:checkpoint|critic)/.+")
_END = "run the benchmark to its end first: `snakemake`."


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
        _require_complete(results, benchmark)
    with tempfile.TemporaryDirectory(prefix="groupppo-") as place:
        folder = Path(place)
        weights = stage(results, folder, checkpoints=checkpoints, samples=samples)
        with loaded_config(folder) as (benchmark, claims):
            derive(folder, benchmark, claims)
        unpacked = (results / CONFIG).is_dir()
        origin = contents.read_manifest(results)["source"] if unpacked else source()
        said = {"made_by": made_by(), "source": origin, "checkpoints": checkpoints, "samples": samples}
        contents.write_lists(folder, benchmark, files_in(folder) | weights, said | {"notes": notes(folder)})
        out.parent.mkdir(parents=True, exist_ok=True)
        write_archive(out, files_in(folder) | weights)
    return out


def _require_complete(results: Path, benchmark: Benchmark) -> None:
    """The results are whole, and whatever the benchmark asks for beside its runs is there, of the tasks and models
    begun: without it nobody can decide the verdicts again.
    """
    cells = [f"{plan.task}.{plan.model}" for plan in plans_begun(results, benchmark)]
    asked = [f"studies/{study}/{cell}/*.csv" for study in benchmark.studies for cell in cells]
    asked += [f"{PROFILE}/tables/*.parquet"] if benchmark.profile else []
    least = ("report.html", VERDICTS, RECORD, *contents.STEP_TABLES)
    for pattern in (*least, "figures/figures.json", "evals/**/result.json", "runs/**/provenance.json", *asked):
        if not any(results.glob(pattern)):
            hint = f"{_END[:-1]}; {RECORD} asks for it." if pattern in asked else _END
            raise BadInput(results / pattern, "files", None, hint)


def stage(results: Path, folder: Path, *, checkpoints: bool, samples: bool) -> dict[str, Path]:
    """Copy what a bundle of `results` holds and nothing can make again into the empty `folder`, paths taken out.

    Left out: logs, Snakemake's timings, task splits (config/tasks makes them again, their cards have the hashes),
    weights unless `checkpoints`, and lm-eval's samples, which are most of the bytes, unless `samples`: their scores
    alone are then in evals/items.parquet. A bundle that was unpacked has its config, its locks and its scores by item
    already; they stay as they are.

    Returns:
        Weights, which stay where they are, by name.

    Raises:
        BadInput: a file is a link, or no kind of file that is published.
    """
    weights, names = dict[str, Path](), set(underived(results, weights=checkpoints))
    with_samples = {name for name in names if name.endswith(".jsonl") and "/samples_" in name}
    if not samples:
        names -= with_samples
        if ITEMS not in names:
            _write(folder / ITEMS, items_table(results, load_tables(results / "tables", {"evals": Only()}).evals))
    elif with_samples:
        names.discard(ITEMS)  # the samples say more
    for name in sorted(names):
        file, kind = results / name, kind_of(name)
        if kind is None:
            hint = "move it out of the checkpoint: only weights, JSON and text are published, no code and no pickles."
            raise BadInput(file, "file", file.suffix, hint)
        if any((results / place).is_symlink() for place in (Path(name), *Path(name).parents)[:-1]):
            hint = "put the file itself there: what a link points to is not part of results."
            raise BadInput(file, "file", "a link", hint)
        if kind is Kind.WEIGHTS and file.name != "config.json":
            weights[name] = file
        elif kind in (Kind.RAW, Kind.WEIGHTS) and file.suffix in RECORDS:
            _write(folder / name, published(file))
        else:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / name)
    if not (results / CONFIG).is_dir():
        for name in (*contents.LOCKS, *contents.RIGHTS):
            _write(folder / name, (REPOSITORY / name).read_bytes())
        # The record that is published has lost its paths, and so do the files that are made of it.
        config = config_files(results, str(read_json(results / VERDICTS).get("claims_sha256")))
        for name, content in (config | written_files(read_record(folder / RECORD))).items():
            _write(folder / CONFIG / name, content)
    return weights


def underived(results: Path, *, weights: bool = False) -> Iterator[str]:
    """What `derive` begins with: raw files, sources, and pictures, which it need not draw again.

    Args:
        results: the folder.
        weights: also the weights, and whatever else lies in a checkpoint.
    """
    raw_tables = () if has_steps(results) else contents.STEP_TABLES
    for file in sorted(results.rglob("*")):
        place = file.relative_to(results)
        name, kind = place.as_posix(), kind_of(place.as_posix())
        if (file.is_dir() and not file.is_symlink()) or FOLDER in place.parts or file.name == SNAKEMAKES_OWN:
            continue
        if (
            kind in (Kind.RAW, Kind.SOURCE)
            or (is_picture(name) and kind)
            or name in raw_tables
            or (weights and (kind is Kind.WEIGHTS or _WEIGHTS.fullmatch(name)))
        ):
            yield name


def _write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
