"""groupppo new: what it writes can be used as it is, and nothing that exists is touched."""

import shutil
import string
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from groupppo.algorithm.params import GroupParams, key_docs
from groupppo.cli.check import check
from groupppo.cli.new import PARAMS, template
from groupppo.config import load_arm, load_model, load_task
from groupppo.records.plain_yaml import read_yaml
from tests.disks import fill, small_disk

LOAD = {"task": load_task, "model": load_model, "arm": load_arm}
GOOD = st.text(string.ascii_lowercase + string.digits + "_", min_size=1, max_size=30)
SHARED = settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])


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


def test_a_file_that_exists_and_a_name_that_means_something_else_are_refused(groupppo, project: Path) -> None:
    file = project / "benchmarks" / "arms" / "ppo.yaml"
    before = file.read_bytes()
    for name in ("ppo", "start", "reference"):
        done = groupppo("new", "arm", name)
        assert (done.code, "choose another name" in done.err) == (1, True)
    assert file.read_bytes() == before
    assert groupppo("new", "task", "start").code == 0


def test_an_arm_that_groups_has_every_key_of_group_params_with_its_docs_and_default(project: Path) -> None:
    example_arm = read_yaml(project / "benchmarks" / "arms" / "group_ppo.yaml")
    text = template("arm", "fresh", example_arm)
    lines, docs = text.splitlines(), key_docs()
    assert ", entropy, " in docs["rule"].partition(" One of: ")[2]
    for key, doc in docs.items():
        [at] = [i for i, line in enumerate(lines) if f"{PARAMS}{key}:" in line]
        assert doc.strip().endswith(lines[at - 1].strip().removeprefix("# ")), key
    shown = yaml.safe_load("\n".join(line[4:] for line in lines if line.startswith(f"  # {PARAMS}")))
    defaults = {f"{PARAMS}{field.name}": field.default for field in fields(GroupParams)}
    assert shown == {key: value for key, value in defaults.items() if key not in example_arm["verl"]}
    assert yaml.safe_load(text)["verl"] == example_arm["verl"]
    stock = template("arm", "fresh", read_yaml(project / "benchmarks" / "arms" / "grpo_random.yaml"))
    assert f"  # {PARAMS}advantage: stock" in stock.splitlines()
    assert f"  # {PARAMS}advantage: stock" not in lines


def test_a_template_takes_its_values_from_the_one_named(groupppo, project: Path) -> None:
    assert groupppo("new", "task", "sums", "--like", "chain").code == 0
    written, chain = (load_task(project / "benchmarks" / "tasks" / f"{name}.yaml") for name in ("sums", "chain"))
    assert (written.generator, written.params, written.warmstart) == (chain.generator, chain.params, chain.warmstart)
    assert written.generator != load_task(project / "benchmarks" / "tasks" / "sorting.yaml").generator
    assert groupppo("new", "task", "published", "--like", "gsm8k").code == 0
    done = groupppo("new", "task", "more", "--like", "chian")
    assert done.code == 1
    assert "did you mean chain" in done.err
