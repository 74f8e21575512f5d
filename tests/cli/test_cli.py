"""The command line as a whole: help, errors, where it works, what it prints in a pipe, what it imports."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from groupppo.cli import listing
from groupppo.config import REPOSITORY

COMMANDS = ["ls", "validate", "cost", "report", "verify", "compare", "new"]
HEAVY = {"torch", "pandas", "verl", "ray", "transformers", "numpy", "scipy", "matplotlib", "snakemake"}


def start(*arguments: str, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "groupppo.cli", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_the_help_of_every_command_has_an_example_of_it(groupppo, command: str) -> None:
    done = groupppo(*command.split(), "--help")
    assert done.code == 0
    assert "Example" in done.out
    assert f"  groupppo {command}".rstrip() in done.out
    listed = {line.split()[0] for line in done.out.partition("Commands:")[2].splitlines() if line.strip()}
    assert command or listed >= set(COMMANDS)


def test_help_imports_nothing_that_takes_long() -> None:
    code = "import sys, groupppo.cli.__main__; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = set(done.stdout.split())
    assert not loaded & HEAVY
    assert "typer" in loaded, "a list that cannot see an import proves nothing"


def test_it_works_from_any_folder_inside_the_repository(groupppo, project: Path, monkeypatch) -> None:
    here = groupppo("ls", "tasks").out
    monkeypatch.chdir(project / "benchmarks" / "arms")
    assert groupppo("ls", "tasks").out == here
    assert "sorting" in here


def test_an_error_that_is_nobodys_input_keeps_its_traceback() -> None:
    code = (
        "import sys; from groupppo.cli import listing; from groupppo.cli.__main__ import app\n"
        "def broken(*_): raise ZeroDivisionError('a bug')\n"
        "listing._entries = broken; sys.argv = ['groupppo', 'ls']; app()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert hasattr(listing, "_entries")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError: a bug" in done.stderr


def test_control_characters_in_a_file_do_not_reach_the_terminal(groupppo, project: Path) -> None:
    file = project / "benchmarks" / "arms" / "loud.yaml"
    file.write_text('name: loud\ntitle: "a\\e[31mb"\ndescription: x\nverl: {a.b: 1}\n')
    done = groupppo("ls", "arms")
    assert done.code == 1
    assert "\x1b" not in done.out + done.err
    assert f"{Path('benchmarks', 'arms', 'loud.yaml')}: line 2 = 'the character U+001B'" in done.err
    assert "group_ppo" in done.out  # the others are listed all the same


def test_ls_shows_every_kind_with_name_title_and_a_line_in_whole_lines_without_colour() -> None:
    done = start("ls")
    assert (done.returncode, "\x1b" in done.stdout) == (0, False), done.stderr
    lines = done.stdout.splitlines()
    assert all(line == line.rstrip() for line in lines)
    for name, title in {
        "tiny": "Qwen2 0.1M",
        "sorting": "Selection sort",
        "ppo": "PPO (dense)",
        "quick": "Quick look on one CPU machine",
        "profile": "Cost of the endpoint-sparse update",
        "compression": "8192 tokens become 512 endpoints",
    }.items():
        assert any(line.split()[:1] == [name] and title in line for line in lines), name
    description = "Reading C of GROUP-PPO. Groups as in group_ppo; all tokens of a group share its endpoint's"
    assert any(description in line for line in lines), "wrapped or cut"


def test_ls_for_programs_has_an_entry_for_every_file(groupppo, project: Path) -> None:
    found = json.loads(groupppo("ls", "--json").out)
    assert list(found) == ["models", "tasks", "arms", "claims", "benchmarks", "profiles"]
    assert [arm["name"] for arm in found["arms"]] == sorted(f.stem for f in (project / "benchmarks/arms").iterdir())
    assert json.loads(groupppo("ls", "arms", "--json").out) == {"arms": found["arms"]}


def test_outside_of_the_repository_a_command_works_or_says_what_to_do_without_a_traceback(
    groupppo, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in (["ls"], ["cost", "absent"]):
        done = groupppo(*command)
        assert done.code == 1
        assert "outside of the repository" in done.err
        assert "hint: change into a clone" in done.err
    done = groupppo("verify", "absent")
    assert (done.code, "absent: file = missing" in done.err) == (1, True)
