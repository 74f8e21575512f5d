"""The README: its files are those of the how-tos, its links lead somewhere, and its numbers are published."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from groupppo.config import REPOSITORY
from groupppo.profile.config import load_profile
from groupppo.profile.tables import tables_of
from groupppo.publish.source import opened
from groupppo.tables import Only, load_tables
from tests.docs.pages import PAGES, files

REFERENCE = REPOSITORY / "results" / "reference"
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
WORDS = " ".join(README.split())
SHOWN = dict(re.findall(r"^`(benchmarks/\S+\.yaml)`.*?```yaml\n(.*?)^```", README, re.MULTILINE | re.DOTALL))
LINKS = sorted(set(re.findall(r"\]\((?!https?:)([^)]+)\)", README)))


@pytest.fixture(scope="module")
def variants() -> pd.DataFrame:
    tables = tables_of(load_profile(REPOSITORY / "benchmarks" / "profile.yaml"), REFERENCE / "profile" / "measured")
    return tables.variants.set_index(["setting", "variant"])


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


@pytest.mark.parametrize(
    ("setting", "variant", "shown"),
    [
        ("r1024", "masked", "1.00x [0.97, 1.03] in time"),
        ("r1024", "gathered", "1.45x [1.42, 1.49] in time"),
        ("r1024", "streamed_reuse", "12.7x [12.2, 13.2]"),
    ],
)
def test_seconds_are_those_of_the_published_profile(
    variants: pd.DataFrame, setting: str, variant: str, shown: str
) -> None:
    row, digits = variants.loc[(setting, variant)], 1 if "12." in shown else 2
    ratio, low, high = (row[f"seconds_speedup{end}"] for end in ("", "_low", "_high"))
    assert shown.startswith(f"{ratio:.{digits}f}x [{low:.{digits}f}, {high:.{digits}f}]")
    assert shown in WORDS


def test_operations_bounds_and_memory_are_those_of_the_published_profile(variants: pd.DataFrame) -> None:
    gathered, streamed = variants.loc[("r1024", "gathered")], variants.loc[("r1024", "streamed_reuse")]
    assert f"{gathered['bound']:.2f}x here" in WORDS
    assert f"{gathered['flops_speedup']:.2f}x" == f"{gathered['bound']:.2f}x"
    assert f"`streamed`, {streamed['flops_speedup']:.1f}x;" in WORDS
    small = variants.loc[("r512_ckpt", "gathered")]
    assert f"keeps all logits ({small['memory_ratio']:.2f}x)" in WORDS
    assert f"drops no token ({small['memory_ratio_to_fused']:.2f}x)" in WORDS


@pytest.fixture(scope="module")
def verdicts() -> pd.DataFrame:
    """Verdicts of the published study by claim, task and model."""
    judged = json.loads((REFERENCE / "study" / "verdicts.json").read_text())["verdicts"]
    return pd.DataFrame(judged).set_index(["id", "task", "model"])


@pytest.mark.parametrize(
    ("claim", "told"),
    [
        ("compression", "dropped | {verdict}: {shares[0]:.1f} % [{shares[1]:.1f}, {shares[2]:.1f}]"),
        ("parity-ppo", "(reading A) | {verdict}: {estimate:.3f} [{low:.3f}, {high:.3f}] in held-out accuracy"),
        ("parity-ppo-broadcast", "(reading C) | {verdict}: {estimate:.3f} [{low:.3f}, {high:.3f}]"),
        ("parity-ppo-published", "public code | {verdict}: {estimate:.3f} [{low:.3f}, {high:.3f}]"),
        ("published", "at the {shares[0]:.1f} % of positions"),
        ("rule-matters", "than chance | {verdict}: {estimate:.3f} [{low:.3f}, {high:.3f}]"),
        ("rule-matters-entropy", "against highest entropy {estimate:.3f} [{low:.3f}, {high:.3f}]"),
    ],
)
def test_what_was_learned_is_what_the_published_study_decides(verdicts: pd.DataFrame, claim: str, told: str) -> None:
    verdict = verdicts.loc[(claim, "sorting", "tiny")]
    assert verdict["seeds"] == 5
    shares = [100 * verdict[end] for end in ("estimate", "low", "high")]
    assert told.format(**verdict, shares=shares) in WORDS


@pytest.mark.parametrize(
    ("claim", "told"),
    [
        ("compression", "76.5]; elsewhere {low:.1f} % to {high:.1f} % | 5 seeds, 4 cells"),
        ("parity-ppo", "margin 0.05; elsewhere {low:.3f} to {high:.3f} | 5 seeds, 4 cells"),
        ("rule-matters", "-0.031], elsewhere {low:.3f} to {high:.3f};"),
    ],
)
def test_elsewhere_it_was_decided_alike(verdicts: pd.DataFrame, claim: str, told: str) -> None:
    of_claim = verdicts.loc[claim]
    others = of_claim.drop(("sorting", "tiny"))
    assert sorted(others.index) == [("chain", "tiny"), ("sorting", "small"), ("sorting", "tiny_b")]
    assert of_claim["verdict"].nunique() == 1
    scale = 100 if claim == "compression" else 1
    assert told.format(low=scale * others["estimate"].min(), high=scale * others["estimate"].max()) in WORDS


def test_where_a_reading_was_decided_otherwise_it_says_so(verdicts: pd.DataFrame) -> None:
    other = verdicts.loc[("parity-ppo-broadcast", "chain", "tiny")]
    assert "other task {verdict}: {estimate:.3f} [{low:.3f}, {high:.3f}] | 5 seeds, 2 cells".format(**other) in WORDS


def test_it_says_how_many_runs_the_study_had() -> None:
    with opened(REFERENCE / "study.zip") as study:
        runs = load_tables(study.folder / "tables", {"runs": Only()}).runs
    assert runs["admissible"].all()
    assert f"All {len(runs)} registered runs" in WORDS
