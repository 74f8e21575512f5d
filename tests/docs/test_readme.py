"""The README: its files are those of the how-tos, and its links lead somewhere."""

import re
from pathlib import Path

import pytest

from groupppo.config import REPOSITORY
from tests.docs.pages import PAGES, files

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
WORDS = " ".join(README.split())
SHOWN = dict(re.findall(r"^`(benchmarks/\S+\.yaml)`.*?```yaml\n(.*?)^```", README, re.MULTILINE | re.DOTALL))
LINKS = sorted(set(re.findall(r"\]\((?!https?:)([^)]+)\)", README)))


def test_an_arm_a_model_and_a_task_are_shown_as_in_their_how_tos() -> None:
    told = {path: text for page in PAGES for path, text in files(str(page.relative_to(REPOSITORY / "docs"))).items()}
    assert sorted(Path(path).parent.name for path in SHOWN) == ["arms", "models", "tasks"]
    assert {path: told.get(path) for path in SHOWN} == SHOWN


@pytest.mark.parametrize("link", LINKS)
def test_its_links_lead_to_files_and_headings(link: str) -> None:
    path, _, anchor = link.partition("#")
    assert (REPOSITORY / path).is_file()
    if not anchor:
        return
    headings = re.findall(r"^#+ (.*)$", (REPOSITORY / path).read_text(encoding="utf-8"), re.MULTILINE)
    assert anchor in [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in headings]


def test_it_is_read_in_three_minutes() -> None:
    prose = re.sub(r"^```.*?^```", "", README, flags=re.MULTILINE | re.DOTALL)
    assert len(prose.split()) <= 3 * 260


def test_it_names_the_origin_as_the_claims_do() -> None:
    claims = (REPOSITORY / "benchmarks" / "claims" / "group_ppo.yaml").read_text(encoding="utf-8")
    repository, commit, file = "hiddenguy1/verl_modify", "921130a", "verl/verl/README.md"
    for text in (WORDS, claims, (REPOSITORY / "docs" / "method" / "readings.md").read_text(encoding="utf-8")):
        assert all(part in text for part in (repository, commit, file))
