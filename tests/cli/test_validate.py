"""groupppo validate: every fault of every file, and no fault where there is none."""

from pathlib import Path

import pytest
import yaml

from groupppo.cli.check import check, note_of_no_faults
from groupppo.config import REPOSITORY, kind_of, load_benchmark
from groupppo.errors import BadInput
from groupppo.records.code import modules


def spoil(file: Path, **changes: object) -> None:
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | changes, sort_keys=False))


def keys(file: Path) -> list[str]:
    return [fault.key for fault in check(file)]


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("quick.yaml", "benchmark"),
        ("claims/group_ppo.yaml", "claims"),
        ("profile_smoke.yaml", "profile"),
        ("arms/ppo.yaml", "arm"),
        ("tasks/chain.yaml", "task"),
        ("models/tiny.yaml", "model"),
    ],
)
def test_the_kind_is_told_by_place_or_by_content(project: Path, file: str, kind: str) -> None:
    path = project / "benchmarks" / file
    assert kind_of(path) == kind
    moved = project / "moved.yaml"
    moved.write_text(path.read_text())
    assert kind_of(moved) == kind
    elsewhere = project / "tasks" / path.name
    elsewhere.parent.mkdir()
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    assert kind_of(path) == kind  # the place of the link, not of what it leads to


def test_a_file_of_no_kind_is_refused(project: Path) -> None:
    file = project / "odd.yaml"
    file.write_text("name: odd\ntitle: Odd\n")
    with pytest.raises(BadInput, match="its kind cannot be told"):
        kind_of(file)
    with pytest.raises(BadInput, match="a folder"):
        kind_of(project / "benchmarks")


def test_all_files_are_checked_after_one_that_fails(groupppo, project: Path) -> None:
    home = project / "benchmarks"
    spoil(home / "tasks" / "sorting.yaml", seed=-1)
    done = groupppo("validate", home / "tasks" / "sorting.yaml", home / "absent.yaml", home / "tasks" / "chain.yaml")
    assert done.code == 1
    assert f"{home / 'tasks' / 'sorting.yaml'}: seed = -1" in done.err
    assert "hint:" in done.err
    assert f"{home / 'absent.yaml'}: file = missing" in done.err
    assert f"{home / 'tasks' / 'chain.yaml'}: ok (task)" in done.out
    assert "1 of 3 files can be used" in done.out


def test_every_fault_of_a_file_is_named_not_only_the_first(project: Path) -> None:
    file = project / "benchmarks" / "quick.yaml"
    spoil(file, seeds=[], titel="x", train={"steps": 0, "stepz": 3, "actor_lr": 1e-4})
    found = keys(file)
    expected = ["train.steps", "train.stepz", "train.critic_lr", "train.prompts_per_step", "seeds", "titel"]
    assert set(found) == {*expected, "train.responses_per_prompt"}
    assert len(found) == len(set(found))
    assert any("did you mean steps" in fault.hint for fault in check(file))


def test_a_benchmark_is_checked_with_the_files_it_names(project: Path) -> None:
    home = project / "benchmarks"
    assert keys(home / "quick.yaml") == []
    spoil(home / "tasks" / "sorting.yaml", params={"min_length": 4, "max_len": 10})
    assert ("params.max_len", str(home / "tasks" / "sorting.yaml")) in [
        (fault.key, fault.file) for fault in check(home / "quick.yaml")
    ]
    spoil(home / "quick.yaml", tasks=["chain", "sortin"])
    assert keys(home / "quick.yaml") == ["tasks"]


def test_every_wrong_key_of_an_arm_is_named_group_params_and_verls_own(project: Path) -> None:
    file = project / "benchmarks" / "arms" / "group_ppo.yaml"
    assert keys(file) == []
    arm = yaml.safe_load(file.read_text())
    wrong = {
        "algorithm.group_params.rule": "variance",
        "algorithm.group_params.group_max_size": 0,
        "algorithm.group_params.density": 0.5,
        "algorithm.gama": 1.0,
        "critic.enabel": True,
    }
    spoil(file, verl=arm["verl"] | wrong)
    assert sorted(keys(file)) == sorted(f"verl.{key}" for key in wrong)


def test_every_claim_at_fault_is_named_by_its_own_number(project: Path) -> None:
    file = project / "benchmarks" / "claims" / "group_ppo.yaml"
    data = yaml.safe_load(file.read_text())
    data["claims"][1]["arm"] = "group_pop"
    data["claims"][4]["stage"] = "update_actor"
    data["claims"][4].pop("against")
    file.write_text(yaml.safe_dump(data, sort_keys=False))
    found = check(file)
    assert [fault.key for fault in found] == ["claims.1.arm", "claims.4.against"]
    assert {fault.file for fault in found} == {str(file)}
    assert str(project / "benchmarks" / "arms") in found[0].hint


def test_claims_files_that_do_not_go_together_are_at_fault_and_the_former_spelling_is_told_the_new_one(
    project: Path,
) -> None:
    quick, nat = project / "benchmarks" / "quick.yaml", project / "benchmarks" / "claims" / "nat.yaml"
    spoil(quick, claims=["group_ppo", "nat"])
    assert check(quick) == []
    spoil(nat, level=0.95)
    assert [(fault.file, fault.key) for fault in check(quick)] == [(str(nat), "level")]
    spoil(quick, claims="claims.yaml")
    [fault] = check(quick)
    assert fault.key == "claims"
    assert "as [group_ppo]" in fault.hint
    spoil(quick, claims=["natt"])
    [fault] = check(quick)
    assert "did you mean nat?" in fault.hint


def test_a_study_that_changes_is_checked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found by its name, and may need a critic tomorrow."""
    hashed = list[Path]()

    def code_sha256(script: Path, *, entries: list[str]) -> str:
        hashed.extend(modules(script, entries=entries))
        return ""

    monkeypatch.setattr("groupppo.cli.check.code_sha256", code_sha256)
    note_of_no_faults(load_benchmark(REPOSITORY / "benchmarks" / "quick.yaml"), tmp_path)
    assert set((REPOSITORY / "groupppo" / "studies").glob("*.py")) <= set(hashed)
