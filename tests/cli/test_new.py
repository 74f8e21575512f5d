"""groupppo new: what it writes can be used as it is, and nothing that exists is touched."""

import shutil
import string
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from groupppo.algorithm.params import GroupParams
from groupppo.check import check
from groupppo.cli.templates import arm_template, group_docs
from groupppo.config import load_arm, load_model, load_task
from groupppo.records.plain_yaml import read_yaml
from groupppo.schemas import read_checked, schema_faults
from tests.disks import fill, small_disk

LOAD = {"task": load_task, "model": load_model, "arm": load_arm}
GOOD = st.text(string.ascii_lowercase + string.digits + "_", min_size=1, max_size=30)
SHARED = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("kind", ["task", "model", "arm"])
def test_the_file_written_passes_validate(groupppo, project: Path, kind: str) -> None:
    done = groupppo("new", kind, "fresh_one")
    file = project / "benchmarks" / f"{kind}s" / "fresh_one.yaml"
    assert done.code == 0, done.err
    assert f"benchmarks/{kind}s/fresh_one.yaml" in done.out
    assert check(file) == []
    assert LOAD[kind](file).name == "fresh_one"
    file.write_text(file.read_text().replace("name: fresh_one", "name: other"))
    assert [fault.key for fault in check(file)] == ["name"], "a fault in such a file is seen"


def test_on_a_full_disk_nothing_is_left_and_any_command_says_what_to_do(
    groupppo, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "small", "2m") as disk:
        shutil.copytree(project / "benchmarks", disk / "benchmarks")
        shutil.copy(project / "Snakefile", disk)
        monkeypatch.chdir(disk)
        fill(disk)
        done = groupppo("new", "arm", "fresh_one")
        assert done.code == 1
        assert "fresh_one.yaml: free disk (GB) = 0.0" in done.err
        assert "No space left on device: make room there" in done.err
        assert not list(disk.rglob("*fresh_one*"))
        assert groupppo("ls", "arms").code == 0
        monkeypatch.chdir(project)


@SHARED
@example("null")
@example("123")
@example("1e5")
@example("0x1f")
@example("on")
@example("_")
@example("1_000")
@given(name=GOOD)
def test_every_name_of_letters_digits_and_underscores_reads_back_as_itself(groupppo, project: Path, name: str) -> None:
    for kind, load in LOAD.items():
        file = project / "benchmarks" / f"{kind}s" / f"{name}.yaml"
        if file.exists() or (kind, name) in (("arm", "start"), ("arm", "reference")):
            continue
        assert groupppo("new", kind, name).code == 0
        assert load(file).name == name
        assert list(schema_faults(file, kind, read_yaml(file))) == []
        file.unlink()


@SHARED
@example("a\n")
@example("../up")
@example("A")
@example("é")
@example("")
@example("a" * 300)
@given(
    name=st.text(max_size=40).filter(lambda text: not set(text) <= set(string.ascii_lowercase + string.digits + "_"))
)
def test_any_other_name_is_refused_and_nothing_is_written(groupppo, project: Path, name: str) -> None:
    before = sorted(project.rglob("*"))
    done = groupppo("new", "arm", "--", name)
    assert done.code == 1
    assert "hint:" in done.err
    assert sorted(project.rglob("*")) == before


@pytest.mark.parametrize("name", ["start", "reference"])
def test_a_name_that_means_something_else_is_refused_for_an_arm_only(groupppo, project: Path, name: str) -> None:
    assert groupppo("new", "arm", name).code == 1
    assert groupppo("new", "task", name).code == 0


def test_a_file_that_exists_is_left_alone(groupppo, project: Path) -> None:
    file = project / "benchmarks" / "arms" / "ppo.yaml"
    before = file.read_bytes()
    done = groupppo("new", "arm", "ppo")
    assert done.code == 1
    assert "choose another name" in done.err
    assert file.read_bytes() == before


def test_the_keys_of_an_arm_template_are_those_of_group_params_with_their_docs(project: Path) -> None:
    example_arm = read_checked(project / "benchmarks" / "arms" / "group_ppo.yaml", "arm")
    lines = arm_template("fresh", example_arm).splitlines()
    for field in fields(GroupParams):
        at = [i for i, line in enumerate(lines) if f"algorithm.group_params.{field.name}:" in line]
        assert len(at) == 1, field.name
        above = lines[at[0] - 1].strip()
        assert above.startswith("# "), field.name
        assert above.removeprefix("# ") in group_docs()[field.name] or len(above) > 10
    assert not any("group_params.no_such_key" in line for line in lines)


def test_the_docs_of_every_key_come_from_the_class(project: Path) -> None:
    docs = group_docs()
    assert list(docs) == [field.name for field in fields(GroupParams)]
    assert docs["group_epsilon"] == "Added to r_ppo before it is multiplied by tau."
    assert docs["kv_bytes"].startswith("Largest size of the keys and values")
    assert "kv_bytes" not in docs["kv"]
    assert docs["min_threshold"] == "Lower bound of tau."
    assert "stride" in docs["rule"]


def test_every_default_in_the_template_is_the_classs_own(project: Path) -> None:
    example_arm = read_checked(project / "benchmarks" / "arms" / "group_ppo.yaml", "arm")
    text = arm_template("fresh", example_arm)
    shown = {}
    for line in text.splitlines():
        if line.startswith("  # algorithm.group_params."):
            shown |= yaml.safe_load(line.removeprefix("  # "))
    given_keys = {key for key in example_arm["verl"] if key.startswith("algorithm.group_params.")}
    defaults = {f"algorithm.group_params.{field.name}": field.default for field in fields(GroupParams)}
    assert shown == {key: value for key, value in defaults.items() if key not in given_keys}


def test_a_template_takes_its_values_from_the_one_named(groupppo, project: Path) -> None:
    assert groupppo("new", "task", "sums", "--like", "chain").code == 0
    written, chain = (load_task(project / "benchmarks" / "tasks" / f"{name}.yaml") for name in ("sums", "chain"))
    assert (written.generator, written.params, written.warmstart) == (chain.generator, chain.params, chain.warmstart)
    assert written.generator != load_task(project / "benchmarks" / "tasks" / "sorting.yaml").generator
    done = groupppo("new", "task", "more", "--like", "chian")
    assert done.code == 1
    assert "did you mean chain" in done.err


def test_an_arm_without_groups_gets_no_group_keys(groupppo, project: Path) -> None:
    assert groupppo("new", "arm", "dense", "--like", "ppo").code == 0
    file = project / "benchmarks" / "arms" / "dense.yaml"
    assert "group_params" not in file.read_text()
    assert check(file) == []
