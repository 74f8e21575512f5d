"""The README: its files are those of the how-tos, its links lead somewhere, and its numbers are published."""

import re
from pathlib import Path

import pandas as pd
import pytest

from groupppo.config import REPOSITORY, load_benchmark
from groupppo.profile.config import load_profile
from groupppo.profile.tables import tables_of
from groupppo.tables import Only, load_tables
from groupppo.verdicts.sweep import chosen_rates, opened_pilot, write_sweep
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
    text = (REPOSITORY / path).read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    assert not anchor or anchor in [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in headings]


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


def test_accuracies_are_those_of_the_published_pilot(tmp_path: Path) -> None:
    sweep = write_sweep(load_benchmark(REPOSITORY / "benchmarks" / "study.yaml"), tmp_path / "none", tmp_path)
    with opened_pilot(REFERENCE / "pilot.zip") as pilot:
        evals = load_tables(pilot / "tables", {"evals": Only()}).evals
    start = evals[(evals["arm"] == "start") & (evals["metric"] == "accuracy")]["value"].item()
    best = sweep[sweep["rate"] == sweep["arm"].map(chosen_rates(sweep))].groupby("arm")["accuracy"].mean()
    told = {"group_ppo": r"accuracy (\S+), start", "ppo": r"PPO (\S+), GRPO", "grpo": r"GRPO (\S+), random"}
    told |= {"random": r"random endpoints (\S+), those", "entropy": r"highest entropy (\S+) "}
    found = {arm: float(re.search(words, WORDS)[1]) for arm, words in told.items()}
    assert found == pytest.approx({arm: best[arm] for arm in told}, abs=0.00051)
    assert float(re.search(r", start (\S+);", WORDS)[1]) == pytest.approx(start, abs=0.00051)
