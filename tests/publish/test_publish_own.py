"""A bundle whose reward is its author's Python: the text is in it, and runs where the reader allows it alone."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from groupppo.config import load_benchmark
from groupppo.config.allowed import VARIABLE
from groupppo.errors import BadInput
from groupppo.publish.bundle import make_bundle
from groupppo.publish.source import read_record
from groupppo.publish.verify import Verification, verify
from tests.publish.conftest import unzipped

SAME = "from groupppo.tasks.reward import score\n"
NONE = "def score(response, answer):\n    return 0\n"
MARK = "open('ran', 'w')\n"


@pytest.fixture
def bundled(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Make an unpacked bundle of the finished results, judged by a file with this text."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)

    def make(text: str) -> Path:
        file = copy / "benchmark.yaml"
        record = yaml.safe_load(file.read_text())
        record["tasks"]["sorting"] |= {"reward": "python", "reward_file": "mine.py", "reward_text": text}
        file.write_text(yaml.safe_dump(record, sort_keys=False))
        return unzipped(make_bundle(copy, tmp_path / "bundle.zip", checkpoints=False), tmp_path / "own")

    return make


def wrong(found: Verification) -> set[str]:
    return {difference.check for difference in found.differences}


def test_the_authors_reward_is_in_the_bundle_and_judges_where_it_is_allowed(
    bundled: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, ran = bundled(MARK + SAME), tmp_path / "ran"
    assert (folder / "config" / "rewards" / "mine.py").read_text() == MARK + SAME
    assert load_benchmark(folder / "config" / "quick.yaml").tasks["sorting"].reward_text == MARK + SAME
    found = verify(folder)
    assert (found.differences, ran.exists()) == ([], False)
    [note] = [note for note in found.notes if "not judged again" in note]
    assert "config/rewards/mine.py" in note
    monkeypatch.setenv(VARIABLE, "reward_file")
    found = verify(folder)
    assert (found.differences, ran.exists()) == ([], True)
    assert not any("not judged again" in note for note in found.notes)
    (folder / "config" / "rewards" / "mine.py").write_text(NONE)
    assert {"checksums", "sources"} <= wrong(verify(folder))


def test_scores_that_the_authors_reward_does_not_give_are_found_where_it_is_allowed(
    bundled: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = bundled(NONE)
    assert verify(folder).ok
    monkeypatch.setenv(VARIABLE, "reward_file")
    assert wrong(verify(folder)) == {"evaluations"}


@pytest.mark.parametrize(
    "entry",
    [
        {"reward_file": "../mine.py", "reward_text": "x"},
        {"reward_file": "/tmp/mine.py", "reward_text": "x"},
        {"reward_file": "mine.sh", "reward_text": "x"},
        {"reward_file": "mine.py\n", "reward_text": "x"},
        {"reward_file": "mine.py"},
        {"reward_file": "mine.py", "reward_text": 1},
    ],
)
def test_a_record_writes_no_reward_outside_of_its_folder(finished: Path, tmp_path: Path, entry: dict) -> None:
    file = Path(shutil.copy(finished / "benchmark.yaml", tmp_path))
    record = yaml.safe_load(file.read_text())
    read_record(file)
    record["tasks"]["sorting"] |= entry
    file.write_text(yaml.safe_dump(record))
    with pytest.raises(BadInput, match="run the benchmark again"):
        read_record(file)
