"""The site builds without a warning and without a network, and every link in it leads somewhere."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from groupppo.algorithm.params import known_rules
from groupppo.config import REPOSITORY
from groupppo.tables.gates import GATES
from groupppo.tables.schema import SCHEMA
from tests.docs.pages import DOCS
from tests.test_repository import lock, manifest, normal

CLOSED = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "no_proxy": ""}
FETCHED = {("link", "href"), ("object", "data"), *((tag, "src") for tag in ("script", "img", "iframe", "source"))}
"""What a browser gets by itself, without a click."""


def build(source: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--builder", "html", "-c", str(DOCS)]
    environment = os.environ | CLOSED | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([*command, str(source), str(out)], env=environment, capture_output=True, text=True)


class Page(HTMLParser):
    """Anchors of a page, its links, and what a browser fetches for it."""

    def __init__(self, file: Path):
        super().__init__()
        self.anchors, self.links, self.fetched = set[str](), list[str](), list[str]()
        self.text: list[str] = []
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for key, value in attrs:
            if key == "id" and value:
                self.anchors.add(value)
            if key in ("href", "src", "data") and value:
                self.links.append(value)
                self.fetched += [value] if (tag, key) in FETCHED else []

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def broken(site: Path) -> Iterator[str]:
    """Every link inside the site that leads to no file or no anchor."""
    pages = {file: Page(file) for file in sorted(site.rglob("*.html"))}
    for file, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            anchors = pages[target].anchors if target in pages else {unquote(parts.fragment)}
            if not target.is_file() or (parts.fragment and unquote(parts.fragment) not in anchors):
                yield f"{file.relative_to(site)}: {link}"


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site").resolve()
    done = build(DOCS, out)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def bare(text: str) -> str:
    """Without spaces and the marks of code, which the page turns into tags."""
    return re.sub(r"[\s`]", "", text)


def text_of(site: Path, page: str) -> str:
    return bare("".join(Page(site / f"{page}.html").text))


def test_every_page_is_built_and_every_link_in_it_leads_somewhere(site: Path) -> None:
    for page in DOCS.rglob("*.md"):
        assert (site / page.relative_to(DOCS).with_suffix(".html")).is_file(), page
    assert list(broken(site)) == []


def test_a_link_to_nothing_is_found(tmp_path: Path) -> None:
    (tmp_path / "one.html").write_text('<a id="here"></a><a href="two.html#there">2</a><a href="#here">1</a>')
    (tmp_path / "two.html").write_text('<h1 id="there">2</h1><a href="https://example.org/none">elsewhere</a>')
    assert list(broken(tmp_path)) == []
    (tmp_path / "two.html").write_text('<h1 id="moved">2</h1><a href="three.html">3</a>')
    assert list(broken(tmp_path)) == ["one.html: two.html#there", "two.html: three.html"]


def elsewhere(folder: Path) -> list[str]:
    """What a browser would fetch from another place than the folder, for its pages and their styles."""
    found = [link for file in folder.rglob("*.html") for link in Page(file).fetched if urlsplit(link).netloc]
    for file in folder.rglob("*.css"):
        found += re.findall(r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^\"')]+)", file.read_text(encoding="utf-8"))
    return found


def test_no_page_fetches_anything_from_elsewhere(site: Path, tmp_path: Path) -> None:
    assert list(site.rglob("*.css"))
    assert elsewhere(site) == []
    (tmp_path / "one.html").write_text('<a href="https://a.org/x"></a><script src="//b.org/x.js"></script>')
    (tmp_path / "one.css").write_text('@import "https://c.org/x.css"; a { background: url(own.png) }')
    assert elsewhere(tmp_path) == ["//b.org/x.js", "https://c.org/x.css"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[other](none.md), [other](index.md#nowhere)", ("none", "nowhere")),
        ("<!-- generated: none -->", ("nothing generates 'none'",)),
    ],
)
def test_a_broken_page_does_not_build(text: str, said: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "index.md").write_text(f"# One\n\n{text}\n")
    done = build(tmp_path, tmp_path / "out")
    assert done.returncode != 0
    assert all(words in done.stdout + done.stderr for words in said)


def test_the_reference_has_what_the_code_has(site: Path) -> None:
    tables, grouping, claims = (text_of(site, page) for page in ("tables", "reference/grouping", "reference/claims"))
    for columns in SCHEMA.values():
        for column in columns:
            assert bare(f"{column.name}{column.dtype}{column.description}") in tables, column.name
    assert all(bare(f"{gate.name}{gate.checks}{gate.why}") in tables for gate in GATES)
    assert all(bare(rule.close.__doc__.split("\n")[0]) in grouping for rule in known_rules().values())
    files = sorted((REPOSITORY / "benchmarks" / "claims").glob("*.yaml"))
    registry = [claim for file in files for claim in yaml.safe_load(file.read_text(encoding="utf-8"))["claims"]]
    shown = {claim["id"]: bare(f"{claim['id']}¶claim{claim['claim']}source{claim['source']}") for claim in registry}
    assert [name for name, text in shown.items() if text not in claims] == []
    assert shown["compression"].replace("93.75", "93.74") not in claims


def test_no_copy_of_the_reference_is_kept() -> None:
    """A column or gate described in a page's own text would go stale."""
    kept = (DOCS / "tables.md").read_text(encoding="utf-8")
    assert not [column for columns in SCHEMA.values() for column in columns if f"| {column.description} |" in kept]
    assert not [gate for gate in GATES if gate.why in kept]


def test_the_generator_is_in_the_lock_and_its_output_is_no_part_of_the_repository() -> None:
    pins = lock("cpu.lock")
    for requirement in manifest()["optional-dependencies"]["docs"]:
        package, version = requirement.split("==")
        assert pins.get(normal(package)) == version
    git = ["git", "-c", "safe.directory=*", "-C", str(REPOSITORY)]
    ignored = subprocess.run([*git, "check-ignore", "-q", "site/index.html"])
    assert shutil.which("git")
    assert ignored.returncode == 0


def test_every_line_of_the_threat_model_names_a_test_that_is_there() -> None:
    lines = [line for line in (DOCS / "security.md").read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    told = [line for line in lines if not re.match(r"\| (-|who wants to|what happens)", line)]
    assert told
    for line in told:
        named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", line)
        assert named, line
        for file, test in named:
            assert f"def {test or 'test_'}" in (REPOSITORY / file).read_text(encoding="utf-8"), (file, test)
