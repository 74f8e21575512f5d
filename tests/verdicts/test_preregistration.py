"""The first run of a benchmark fixes claims and matrix; whatever changes later is named."""

import errno
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest
import yaml

from groupppo.config import REPOSITORY, Benchmark, load_arm
from groupppo.errors import BadInput
from groupppo.verdicts.preregistration import ABSENT, STAMP, Change, content_sha256, read_stamp, register
from tests.disks import remount, small_disk
from tests.synthetic import synthetic_benchmark


@pytest.fixture
def benchmark(tmp_path: Path) -> Benchmark:
    """A benchmark whose claims are a file of the test's own."""
    claims = tmp_path / "claims.yaml"
    shutil.copy(REPOSITORY / "benchmarks" / "claims" / "group_ppo.yaml", claims)
    return replace(synthetic_benchmark(), claims=claims)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


def edit_claims(benchmark: Benchmark, change) -> None:
    data = yaml.safe_load(benchmark.claims.read_text())
    change(data)
    benchmark.claims.write_text(yaml.safe_dump(data, sort_keys=False, allow_unicode=True))


def test_nothing_has_changed_right_after_the_first_run_started(benchmark, results):
    assert read_stamp(results, benchmark) is None
    register(results, benchmark)
    stamp = read_stamp(results, benchmark)
    assert stamp.changes == []
    assert stamp.matrix_sha256 == content_sha256(benchmark.resolved())
    assert [file.name for file in results.iterdir()] == [STAMP]
    assert (results / STAMP).stat().st_mode & 0o777 == 0o644


def test_a_full_disk_leaves_no_stamp_and_no_part_of_one(benchmark, tmp_path):
    with small_disk(tmp_path / "small", "8k") as disk:
        with pytest.raises(BadInput, match="No space left on device"):
            register(disk, benchmark)
        assert list(disk.iterdir()) == []
        remount(disk, "size=1m")
        register(disk, benchmark)
        assert read_stamp(disk, benchmark).changes == []


def test_a_run_that_is_killed_while_it_writes_leaves_no_half_stamp(benchmark, results, monkeypatch):
    with monkeypatch.context() as killed:
        killed.setattr("os.fsync", lambda _: os._exit(9))
        run = get_context("fork").Process(target=register, args=(results, benchmark))
        run.start()
        run.join()
    assert run.exitcode == 9
    assert not (results / STAMP).exists()
    register(results, benchmark)
    assert read_stamp(results, benchmark).changes == []


def test_a_file_system_without_hard_links_has_one_stamp_too(benchmark, results, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    for one in (benchmark, replace(benchmark, seeds=(7,))):
        register(results, one)
    assert read_stamp(results, benchmark).changes == []
    assert [file.name for file in results.iterdir()] == [STAMP]


def test_a_later_margin_and_a_dropped_claim_are_named_and_layout_is_no_change(benchmark, results):
    register(results, benchmark)
    edit_claims(benchmark, lambda data: None)
    assert read_stamp(results, benchmark).changes == []
    parity = [claim["id"] for claim in yaml.safe_load(benchmark.claims.read_text())["claims"]].index("parity-ppo")
    edit_claims(benchmark, lambda data: data["claims"][parity].update(margin=0.2))
    assert read_stamp(results, benchmark).changes == [Change("claims.parity-ppo.margin", "0.05", "0.2")]
    edit_claims(benchmark, lambda data: data["claims"].pop(0))
    gone = [change for change in read_stamp(results, benchmark).changes if "parity" not in change.key]
    assert {change.key.split(".")[1] for change in gone} == {"compression"}
    assert {change.now for change in gone} == {ABSENT}


def test_several_files_are_registered_as_one_and_a_change_in_any_is_named(benchmark, results, tmp_path):
    other = tmp_path / "nat.yaml"
    shutil.copy(REPOSITORY / "benchmarks" / "claims" / "nat.yaml", other)
    several = replace(benchmark, claims=(benchmark.claims, other))
    register(results, several)
    assert read_stamp(results, several).changes == []
    other.write_text(other.read_text().replace("margin: 0.036", "margin: 0.1"))
    assert read_stamp(results, several).changes == [Change("claims.nat-prefix-memory.margin", "0.036", "0.1")]
    [named] = [change for change in read_stamp(results, benchmark).changes if change.key == "matrix.claims"]
    assert (named.registered, named.now) == ('["claims.yaml", "nat.yaml"]', "claims.yaml")


def test_a_later_seed_arm_or_setting_is_named_and_the_stamp_of_the_first_run_stays(benchmark, results):
    register(results, benchmark)
    first = (results / STAMP).read_bytes()
    arms = benchmark.arms | {"random": load_arm(REPOSITORY / "benchmarks" / "arms" / "random.yaml")}
    later = replace(benchmark, seeds=(1, 2, 3), arms=arms, train=replace(benchmark.train, steps=99))
    register(results, later)
    assert (results / STAMP).read_bytes() == first
    found = {change.key: (change.registered, change.now) for change in read_stamp(results, later).changes}
    assert found["matrix.seeds"] == ("[1, 2]", "[1, 2, 3]")
    assert found["matrix.train.steps"] == ("8", "99")
    assert found["matrix.arms.random.title"][0] == ABSENT


def test_of_runs_that_start_together_one_leaves_the_stamp(benchmark, results):
    several = [replace(benchmark, seeds=(seed,)) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda one: register(results, one), several))
    assert [file.name for file in results.iterdir()] == [STAMP]
    registered = json.loads((results / STAMP).read_text())["matrix"]["seeds"]
    assert [len(read_stamp(results, one).changes) for one in several].count(0) == 1
    assert registered in [[seed] for seed in range(8)]


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"claims": 3}'])
def test_a_stamp_that_is_none_is_refused(benchmark, results, content):
    results.mkdir()
    (results / STAMP).write_text(content)
    with pytest.raises(BadInput, match="restore it"):
        read_stamp(results, benchmark)


def test_where_the_files_lie_is_no_change_and_another_file_is(benchmark, results, tmp_path):
    """An unpacked bundle is drawn again with the config that it holds."""
    register(results, benchmark)
    moved = tmp_path / "config" / "claims.yaml"
    moved.parent.mkdir()
    shutil.copy(benchmark.claims, moved)
    arms = {name: replace(arm, source=tmp_path / arm.source.name) for name, arm in benchmark.arms.items()}
    elsewhere = replace(benchmark, claims=moved, source=tmp_path / benchmark.source.name, arms=arms)
    assert read_stamp(results, elsewhere).changes == []
    other = replace(elsewhere, source=tmp_path / "other.yaml")
    assert read_stamp(results, other).changes == [Change("matrix.source", benchmark.source.name, "other.yaml")]
