"""The tutorial and the how-tos work as written: their files are valid, their commands run, in the order of the page."""

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from groupppo.cli.app import app
from tests.docs.pages import DOCS, PAGES, Step, steps, write

FOLLOWED = [page for page in PAGES if steps(page)]
DRY = ("snakemake", "make")


def follow(step: Step, project: Path, shell: Callable) -> None:
    """Do what a block says; raises AssertionError with what was said where it cannot be done."""
    if step.path is not None:
        write(project, step.path, step.text)
        return
    for line in step.text.splitlines():
        program, *arguments = shlex.split(line)
        if step.dry:
            assert program in DRY, f"{step.page}: {program} has no dry run"
            line = f"{line} -n"
        if program == "groupppo":  # in this process: starting one takes longer than most of the commands
            done = CliRunner().invoke(app, arguments)
            assert done.exit_code == 0, (step.page, line, done.output, done.exception)
        else:
            ran = shell(line)
            assert ran.returncode == 0, (step.page, line, ran.stdout[-2000:], ran.stderr[-2000:])


@pytest.mark.parametrize("page", FOLLOWED, ids=lambda page: page.stem)
def test_a_page_can_be_followed_from_its_first_block_to_its_last(
    page: Path, project: Path, shell: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    for step in steps(page):
        follow(step, project, shell)


def test_the_tutorial_and_every_how_to_is_followed() -> None:
    followed = {page.relative_to(DOCS).as_posix() for page in FOLLOWED}
    assert {"tutorial.md"} | {f"howto/{page.name}" for page in DOCS.glob("howto/*.md")} <= followed


@pytest.mark.parametrize("page", FOLLOWED, ids=lambda page: page.stem)
def test_every_command_of_such_a_page_is_marked(page: Path) -> None:
    assert page.read_text(encoding="utf-8").count("```bash") == sum(step.path is None for step in steps(page))


@pytest.mark.parametrize(
    ("line", "dry"),
    [
        ("groupppo validate benchmarks/none.yaml", False),
        ("snakemake --config benchmark=benchmarks/none.yaml", True),
        ("false", False),
        ("python benchmarks/studies/scale.py", True),
    ],
)
def test_a_command_that_fails_or_cannot_be_run_dry_is_noticed(
    line: str, dry: bool, project: Path, shell: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    with pytest.raises(AssertionError):
        follow(Step("page", None, f"{line}\n", dry), project, shell)


def test_a_mark_without_a_block_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- run -->\n```bash\ntrue\n```\n")
    assert [step.text for step in steps(page)] == ["true\n"]
    page.write_text("<!-- run -->\n\n```bash\ntrue\n```\n")
    with pytest.raises(ValueError, match="1 comments ask for a file or a run, 0 have a block"):
        steps(page)
