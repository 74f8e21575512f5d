"""Machines' paths leave published text; everything that only looks like one stays."""

import pyarrow as pa
import pytest

from groupppo.publish.scrub import Places, scrub_evidence, scrub_record, scrub_table


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
def test_a_record_loses_every_absolute_path(text, scrubbed):
    assert scrub_record(text) == (scrubbed, 1)


@pytest.mark.parametrize("text", ["https://a.org/b/c", "a/b/c", "</p></div>", "text/html", "1/2/3", "~5 tokens/s"])
def test_what_is_no_absolute_path_stays(text):
    assert scrub_record(text) == (text, 0)


def test_evidence_loses_only_paths_below_places_that_records_name():
    places = Places.of_records(["dir: /place/x/results/quick/runs"])
    assert places.beginnings == ("/place/x/",)
    assert scrub_evidence("see /place/x/log.txt and /usr/bin/env", places) == (
        "see path-removed/log.txt and /usr/bin/env",
        1,
    )


def test_a_prompt_about_file_systems_stays_in_samples_but_a_page_loses_a_home_folder():
    text = "ls /scratch/me/x"
    assert scrub_evidence(text, Places(), machine=False) == (text, 0)
    assert scrub_evidence(text, Places()) == ("ls path-removed/x", 1)


def test_pictures_within_a_page_are_left_alone():
    text = '<img src="data:image/png;base64,aa/scratch/me/x/bb==">/scratch/me/x'
    assert scrub_evidence(text, Places()) == ('<img src="data:image/png;base64,aa/scratch/me/x/bb==">path-removed/x', 1)


def test_a_table_without_paths_is_the_same_object_and_one_with_a_path_loses_it():
    clean = pa.table({"cause": ["out of memory", None], "n": [1, 2]})
    assert scrub_table(clean, Places())[0] is clean
    dirty = pa.table({"cause": ["/scratch/me/a.py failed", None], "n": [1, 2]})
    table, count = scrub_table(dirty, Places())
    assert (table["cause"].to_pylist(), count) == (["path-removed/a.py failed", None], 1)
    assert table.schema == dirty.schema


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_text_is_found_however_a_table_keeps_it(kind):
    dirty = pa.table({"cause": pa.array(["/scratch/me/a.py failed", None, "text"], pa.string()).cast(kind)})
    table, count = scrub_table(dirty, Places())
    assert (table["cause"].to_pylist(), count) == (["path-removed/a.py failed", None, "text"], 1)
    assert table.schema == dirty.schema
