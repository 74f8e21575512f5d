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
    ("variant", "told"),
    [
        ("masked", "{time:.2f}x [{low:.2f}, {high:.2f}] in time, {memory:.2f}x in memory | one update"),
        ("gathered", "at most {flops:.2f}x in operations"),
        ("gathered", "{time:.2f}x [{low:.2f}, {high:.2f}] in time, as the dense head waits for memory"),
        ("gathered", "| {memory:.2f}x, at 512 tokens"),
        ("gathered", "which drops no token, {to_fused:.2f}x,"),
        ("streamed_recompute", "`streamed` | {flops:.1f}x in operations, {time:.1f}x [{low:.1f}, {high:.1f}] in time;"),
        ("streamed_reuse", "{flops:.1f}x, supported as registered, in time {time:.1f}x [{low:.1f}, {high:.1f}] |"),
        ("r512 gathered", "at 512 tokens {memory:.2f}x,"),
        ("r512 gathered", "which drops no token, 0.94x, {to_fused:.2f}x and"),
        ("r512_ckpt gathered", "with gradient checkpointing {memory:.2f}x, supported"),
        ("r512_ckpt gathered", "0.89x and {to_fused:.2f}x, refuted"),
    ],
)
def test_costs_are_those_of_the_published_profile(variants: pd.DataFrame, variant: str, told: str) -> None:
    setting, _, name = variant.rpartition(" ")
    row = variants.loc[(setting or "r1024", name)]
    named = {"flops": "flops_speedup", "memory": "memory_ratio", "to_fused": "memory_ratio_to_fused"}
    times = {"time": "", "low": "_low", "high": "_high"}
    numbers = {name: row[column] for name, column in named.items()}
    numbers |= {name: row[f"seconds_speedup{end}"] for name, end in times.items()}
    assert told.format(**numbers) in WORDS


def test_a_gathered_update_reaches_its_bound_and_leaves_more_of_the_time_out_than_of_the_operations(
    variants: pd.DataFrame,
) -> None:
    gathered = variants.loc[("r1024", "gathered")]
    assert f"{gathered['bound']:.2f}" == f"{gathered['flops_speedup']:.2f}"
    head = variants.xs("gathered_head", level="variant")
    assert (head["seconds_speedup"] > head["flops_speedup"]).all()
    times, operations = (
        f"{head[of].min():.2f}x to {head[of].max():.2f}x" for of in ("seconds_speedup", "flops_speedup")
    )
    page = " ".join((REPOSITORY / "docs" / "method" / "bounds.md").read_text(encoding="utf-8").split())
    assert f"an update is {times} as fast with {operations} fewer operations" in page


@pytest.fixture(scope="module")
def verdicts() -> pd.DataFrame:
    """Verdicts of the published study by claim, task and model."""
    judged = json.loads((REFERENCE / "study" / "verdicts.json").read_text())["verdicts"]
    return pd.DataFrame(judged).set_index(["id", "task", "model"])


@pytest.mark.parametrize(
    ("claim", "told"),
    [
        ("compression", "dropped, reading A | {verdict}: {shares[0]:.1f} % [{shares[1]:.1f}, {shares[2]:.1f}]"),
        ("parity-ppo", "PPO, reading A | {verdict}: {estimate:.3f} [{low:.3f}, {high:.3f}]; elsewhere"),
        ("parity-ppo-broadcast", "spread over groups | {verdict}: {estimate:.3f} [{low:.3f}, {high:.3f}]"),
        ("parity-ppo-published", "public code | {verdict}: {estimate:.3f} [{low:.3f}, {high:.3f}]"),
        ("published", "one endpoint per response, {shares[0]:.1f} % of positions"),
        ("rule-matters", "than chance | {verdict}: {estimate:.3f} [{low:.3f}, {high:.3f}]"),
        ("rule-matters-entropy", "against highest entropy {estimate:.3f} [{low:.3f}, {high:.3f}]"),
        ("rule-matters-stride", "against every 16th token {verdict}, {estimate:.3f} [{low:.3f}, {high:.3f}]"),
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
        ("parity-ppo", "-0.092]; elsewhere {low:.3f} to {high:.3f}: it stays at its start | 5 seeds, 4 cells"),
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
    assert (
        "other task {verdict}: {estimate:.3f} [{low:.3f}, {high:.3f}], 14 % | 5 seeds, 2 cells".format(**other) in WORDS
    )


@pytest.fixture(scope="module")
def accuracy() -> pd.DataFrame:
    """Mean held-out accuracy of the published study over seeds: a row for each cell, a column for each arm."""
    with opened(REFERENCE / "study.zip") as study:
        evals = load_tables(study.folder / "tables", {"evals": Only()}).evals
    chosen = evals[evals["metric"] == "accuracy"]
    return chosen.pivot_table(index=["task", "model"], columns="arm", values="value")


def test_the_margin_and_what_an_arm_kept_are_shares_of_what_dense_ppo_gained(accuracy: pd.DataFrame) -> None:
    gained = accuracy["ppo"] - accuracy["start"]
    first, *others = 0.05 / gained[[("sorting", "tiny"), *gained.drop(("sorting", "tiny")).index]]
    assert f"{first:.2f} of what dense PPO gains (elsewhere {min(others):.2f} to {max(others):.2f})" in WORDS
    kept = 100 * (accuracy["group_ppo_broadcast"] - accuracy["start"]) / gained
    assert f"-0.017], {kept['sorting', 'tiny']:.0f} % of PPO's gain" in WORDS
    assert f"-0.044], {kept['chain', 'tiny']:.0f} % |" in WORDS
    assert (abs(accuracy["group_ppo"] - accuracy["start"]) < 0.006).all()  # it stays at its start


def test_the_public_code_formed_one_group_per_response_and_responses_had_52_tokens() -> None:
    with opened(REFERENCE / "study.zip") as study:
        groups = load_tables(study.folder / "tables", {"groups": Only()}).groups
    published = groups[groups["arm"] == "group_ppo_published"]
    assert len(published) == 5 * 24
    assert (published["endpoints"] == 16 * 8).all()
    assert (published["end"] == 1.0).all()
    grouped = groups.query("arm == 'group_ppo' and task == 'sorting' and model == 'tiny'")
    assert f"about {grouped['tokens'].mean() / (16 * 8):.0f} tokens" in WORDS


def test_it_says_how_many_runs_the_study_had() -> None:
    with opened(REFERENCE / "study.zip") as study:
        runs = load_tables(study.folder / "tables", {"runs": Only()}).runs
    assert runs["admissible"].all()
    assert f"All {len(runs)} registered runs" in WORDS


def test_it_names_the_origin_as_the_claims_do() -> None:
    claims = (REPOSITORY / "benchmarks" / "claims.yaml").read_text(encoding="utf-8")
    repository, commit, file = "hiddenguy1/verl_modify", "921130a", "verl/verl/README.md"
    for text in (WORDS, claims, (REPOSITORY / "docs" / "method" / "readings.md").read_text(encoding="utf-8")):
        assert all(part in text for part in (repository, commit, file))
