"""The hash of the code that a rule's script reaches."""

from pathlib import Path

from groupppo.config import REPOSITORY
from groupppo.records.code import code_sha256, modules

SCRIPTS = REPOSITORY / "workflow" / "scripts"


def names(script: str, **keywords: list[str]) -> set[str]:
    return {file.relative_to(REPOSITORY).as_posix() for file in modules(SCRIPTS / script, **keywords)}


def test_imports_are_followed_into_functions_and_modules_that_are_looked_up_by_name() -> None:
    found = names("train.py", entries=["groupppo.verl", "groupppo.algorithm"])
    assert "groupppo/verl/forkserver.py" in found  # imported inside a function
    assert "groupppo/algorithm/rules/stride.py" in found  # imported by nobody: a registry finds it
    assert "groupppo/verl/config/group_ppo.yaml" in found
    assert not any(name.startswith(("groupppo/report/", "groupppo/cli/")) for name in found)


def test_what_is_set_apart_is_left_out_with_what_only_it_imports() -> None:
    with_verdicts, without = names("train.py"), names("train.py", apart=["groupppo.verdicts"])
    assert "groupppo/verdicts/preregistration.py" in with_verdicts - without
    assert "groupppo/run/launch.py" in without


def test_the_hash_differs_between_scripts_and_repeats() -> None:
    task, model = code_sha256(SCRIPTS / "task.py"), code_sha256(SCRIPTS / "model.py")
    assert task == code_sha256(SCRIPTS / "task.py")
    assert task != model
    assert len(task) == 64


def test_a_script_that_imports_nothing_of_ours_reaches_nothing(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import json\n")
    assert modules(script) == []
