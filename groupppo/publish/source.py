"""Results wherever they are: a bundle, a bundle unpacked, or the folder a benchmark wrote; read and never changed."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from groupppo.config import Benchmark
from groupppo.errors import BadInput
from groupppo.publish.archive import LIMITS, Limits, extract
from groupppo.publish.matrix import CONFIG, RECORD, config_files, load_config
from groupppo.publish.reading import read_json
from groupppo.publish.sums import SUMS
from groupppo.verdicts.claims import Claims

BUNDLE, UNPACKED, RESULTS = "bundle", "unpacked bundle", "results folder"


@dataclass(frozen=True)
class Source:
    """Results that can be read.

    Args:
        path: what the user named. folder: where the files are, unpacked if need be. kind: BUNDLE, UNPACKED or RESULTS.
    """

    path: Path
    folder: Path
    kind: str

    def told(self, error: BadInput) -> BadInput:
        """The error with the place of the file inside the bundle, not that of a folder that is gone by then."""
        file = error.file.replace(f"{self.folder}/", f"{self.path}: ") if self.kind == BUNDLE else error.file
        return BadInput(file, error.key, error.value, error.hint)


@contextlib.contextmanager
def opened(path: Path, limits: Limits = LIMITS) -> Iterator[Source]:
    """Give the files of a bundle or folder; a bundle is unpacked into a temporary folder for as long as it lasts.

    Raises:
        BadInput: nothing is there, the archive is hostile or damaged, or the folder holds a link.
    """
    if path.is_dir():
        unpacked = (path / SUMS).is_file()
        if unpacked:
            _refuse_links(path)
        yield Source(path, path, UNPACKED if unpacked else RESULTS)
        return
    if not path.is_file():
        raise BadInput(path, "file", None, "name a bundle.zip, an unpacked bundle or a results folder.")
    with tempfile.TemporaryDirectory(prefix="groupppo-") as place:
        source = Source(path, Path(place).resolve(), BUNDLE)
        extract(path, source.folder, limits)
        yield source


def bundles_in(folder: Path) -> list[Path]:
    """Bundles, zipped or unpacked, that lie side by side in a folder which is neither one nor results; sorted."""
    if not folder.is_dir() or any((folder / name).exists() for name in (SUMS, "verdicts.json", RECORD)):
        return []
    return sorted([*folder.glob("*.zip"), *(sums.parent for sums in folder.glob(f"*/{SUMS}"))])


def _refuse_links(folder: Path) -> None:
    for file in sorted(folder.rglob("*")):
        if file.is_symlink() or not (file.is_file() or file.is_dir()):
            raise BadInput(file, "file", "a link or a device", "a bundle has none; unpack it again.")


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
    verdicts = read_json(folder / "verdicts.json")
    with tempfile.TemporaryDirectory(prefix="groupppo-") as place:
        for name, text in config_files(folder, str(verdicts.get("claims_sha256"))).items():
            file = Path(place) / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(text)
        yield load_config(Path(place), folder / RECORD)
