"""Machines' paths leave published text; everything that only looks like one stays."""

from pathlib import Path

import pytest

from groupppo.records.hashing import published_sha256, scrub_record


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("path: /place/x/results/quick/a.parquet", "path: results/quick/a.parquet"),
        ('{"error": "in\\n/place/x/run.py:41"}', '{"error": "in\\npath-removed/run.py:41"}'),
        ("/env/lib/python3.11/site-packages/verl/a.py", "site-packages/verl/a.py"),
        ("file:///scratch/me/x.py", "file://path-removed/x.py"),
        ("--config=/place/x/a.yaml", "--config=path-removed/a.yaml"),
    ],
)
def test_a_record_loses_every_absolute_path_once(text, scrubbed):
    assert scrub_record(text) == scrub_record(scrubbed) == scrubbed


@pytest.mark.parametrize("text", ["https://a.org/b/c", "a/b/c", "</p></div>", "text/html", "1/2/3", "~5 tokens/s"])
def test_what_is_no_absolute_path_stays(text):
    assert scrub_record(text) == text


def test_a_record_has_one_hash_before_and_after_its_paths_are_taken_out_and_another_when_it_is_changed(tmp_path: Path):
    file = tmp_path / "config.yaml"
    hashes = []
    for text in ("out: /place/x/run\nseed: 1\n", "out: path-removed/run\nseed: 1\n", "out: /place/x/run\nseed: 2\n"):
        file.write_text(text)
        hashes.append(published_sha256(file))
    assert hashes[0] == hashes[1] != hashes[2]
