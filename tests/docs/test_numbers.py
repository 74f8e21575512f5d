"""What the README, the log of negative results and the pages of methods say in numbers is what is published."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from groupppo.config import REPOSITORY
from groupppo.profile.config import load_profile
from groupppo.profile.tables import tables_of
from groupppo.publish.source import opened
from groupppo.tables import Only, Tables, load_tables
from groupppo.verdicts.claims import load_claims

REFERENCE = REPOSITORY / "results" / "reference"
CELLS = [("sorting", "tiny"), ("sorting", "tiny_b"), ("sorting", "small"), ("chain", "tiny")]
JUDGED = json.loads((REFERENCE / "study" / "verdicts.json").read_text())["verdicts"]
CLAIMS = REPOSITORY / "benchmarks" / "claims" / "group_ppo.yaml"


def words(*place: str) -> str:
    return " ".join(REPOSITORY.joinpath(*place).read_text(encoding="utf-8").split())


README, LOG = words("README.md"), words("docs", "negative-results.md")
READINGS, BOUNDS = words("docs", "method", "readings.md"), words("docs", "method", "bounds.md")


def of(claim: str) -> list[dict[str, Any]]:
    """Verdicts of the study on a claim, in the order of CELLS."""
    found = {(each["task"], each["model"]): each for each in JUDGED if each["id"] == claim}
    return [found[cell] for cell in CELLS if cell in found]


@pytest.mark.parametrize(
    ("page", "claim", "told"),
    [
        (README, "compression", "dropped, reading A | {v[0]}: {p[0]:.1f} % [{low:.1f}, {high:.1f}]"),
        (README, "parity-ppo", "PPO, reading A | {v[0]}: {i[0]}; elsew"),
        (README, "parity-ppo-broadcast", "spread over groups | {v[0]}: {i[0]}"),
        (README, "parity-ppo-published", "public code | {v[0]}: {i[0]}"),
        (README, "published", "one endpoint per response, {p[0]:.1f} % of positions"),
        (README, "rule-matters", "than chance | {v[0]}: {i[0]}"),
        (README, "rule-matters-entropy", "against highest entropy {i[0]}"),
        (README, "rule-matters-stride", "against every 16th token {v[0]}, {i[0]}"),
        (README, "compression", "76.5]; elsewhere {least_p:.1f} % to {most_p:.1f} % | 5 seeds, 4 cells"),
        (README, "parity-ppo", "-0.092]; elsewhere {least:.3f} to {most:.3f}: it stays at its start"),
        (README, "rule-matters", "-0.031], elsewhere {least:.3f} to {most:.3f};"),
        (README, "parity-ppo-broadcast", "other task {v[1]}: {i[1]}, 14 % | 5 seeds, 2 cells"),
        (LOG, "compression", "Study: {p[0]:.1f}, {p[1]:.1f}, {p[2]:.1f} and {p[3]:.1f} %."),
        (LOG, "parity-ppo", "Study: {e[0]:.3f}, {e[1]:.3f}, {e[2]:.3f} and {e[3]:.3f} in held-out accuracy"),
        (LOG, "rule-matters", "Study: {e[0]:.3f}, {e[1]:.3f}, {e[2]:.3f} and {e[3]:.3f} against as many random"),
        (LOG, "rule-matters-entropy", "; {e[0]:.3f} against those of highest entropy"),
        (LOG, "speedup-adv", "in the study, {e[0]:.2f}x, {e[1]:.2f}x, {e[2]:.2f}x and {e[3]:.2f}x, against"),
        (LOG, "parity-ppo-tokens", "Divided by all tokens {e[0]:.3f};"),
        (LOG, "parity-ppo-lam95", "against PPO with it, {e[0]:.3f},"),
        (LOG, "parity-ppo-token-gae", "with token GAE {e[0]:.3f}."),
        (
            LOG,
            "parity-ppo-broadcast",
            "Study: {i[0]} on sorting, {v[0]}, with 73 % of PPO's gain; {i[1]} on chain, {v[1]}, with 14 %.",
        ),
        (
            LOG,
            "rule-matters-stride",
            "Study: {e[0]:+.3f} and {e[1]:+.3f} on sorting, {v[0]}, with three times as many endpoints; "
            "{e[2]:.3f} on chain, {v[2]}.",
        ),
        (LOG, "parity-ppo-published", "learns as PPO does: {i[0]}."),
        (LOG, "update-streamed-entropy", "within the margin, {i[0]};"),
    ],
)
def test_estimates_intervals_and_verdicts_are_those_of_the_study(page: str, claim: str, told: str) -> None:
    found = of(claim)
    estimates = [each["estimate"] for each in found]
    shares = [100 * estimate for estimate in estimates]
    least, most = min(estimates[1:], default=0), max(estimates[1:], default=0)
    numbers = {"least": least, "most": most, "least_p": 100 * least, "most_p": 100 * most, "e": estimates, "p": shares}
    bounded = [each for each in found if each["low"] is not None]
    numbers |= {end: 100 * bounded[0][end] for end in ("low", "high")} | {"v": [each["verdict"] for each in found]}
    numbers["i"] = ["{estimate:.3f} [{low:.3f}, {high:.3f}]".format(**each) for each in bounded]
    assert told.format(**numbers) in page


def test_what_is_told_as_refuted_is_refuted_wherever_it_was_run() -> None:
    told = ["compression", "parity-ppo", "rule-matters", "rule-matters-entropy", "speedup-adv", "parity-ppo-tokens"]
    for claim in (*told, "parity-ppo-lam95", "parity-ppo-token-gae"):
        assert {(each["verdict"], each["seeds"]) for each in of(claim)} == {("refuted", 5)}, claim


def test_the_noise_of_held_out_items_widens_intervals_and_changes_no_verdict() -> None:
    noisy = [each for each in JUDGED if each["item_noise"] and each["estimate"] is not None]
    claims = {claim.id: claim for claim in load_claims(CLAIMS).claims}
    widest = max(each["item_noise"]["together"] / each["item_noise"]["half_width"] for each in noisy)
    assert f"up to {widest:.1f} times as wide, and no verdict is another" in LOG
    for each in noisy:
        low, high = (each["estimate"] + sign * each["item_noise"]["together"] for sign in (-1, 1))
        region = claims[each["id"]].region
        inside, outside = region.low <= low and high <= region.high, high < region.low or region.high < low
        assert (inside, outside) == (each["verdict"] == "supported", each["verdict"] == "refuted"), each["id"]


@pytest.fixture(scope="module")
def study() -> Iterator[Path]:
    """The published study, unpacked."""
    with opened(REFERENCE / "study.zip") as source:
        yield source.folder


@pytest.fixture(scope="module")
def tables(study: Path) -> Tables:
    only = Only(where={"metric": ["critic/vf_explained_var"]})
    return load_tables(study / "tables", {"runs": Only(), "groups": Only(), "evals": Only(), "steps": only})


@pytest.fixture(scope="module")
def accuracy(tables: Tables) -> pd.DataFrame:
    """Mean held-out accuracy over seeds: a row for each cell, a column for each arm."""
    chosen = tables.evals[tables.evals["metric"] == "accuracy"]
    return chosen.pivot_table(index=["task", "model"], columns="arm", values="value").loc[CELLS]


def in_words(numbers: list[float], digits: int = 1) -> str:
    *first, last = (f"{number:.{digits}f}" for number in numbers)
    return f"{', '.join(first)} and {last}"


def test_runs_groups_and_tokens_are_counted_in_the_tables(tables: Tables) -> None:
    assert tables.runs["admissible"].all()
    assert f"All {len(tables.runs)} registered runs" in README
    published = tables.groups[tables.groups["arm"] == "group_ppo_published"]
    assert len(published) == 5 * 24
    assert (published["endpoints"] == 16 * 8).all()
    assert (published["end"] == 1.0).all()
    grouped = tables.groups.query("arm == 'group_ppo' and task == 'sorting' and model == 'tiny'")
    assert f"about {grouped['tokens'].mean() / (16 * 8):.0f} tokens" in README


def test_what_closes_groups_is_counted_in_the_tables(tables: Tables) -> None:
    closed = tables.groups[tables.groups["arm"] == "group_ppo"].copy()
    causes = ["criterion", "cap", "end"]
    closed[causes] = closed[causes].mul(closed["endpoints"], axis=0)
    summed = ["tokens", "endpoints", *causes]
    sums = closed.groupby(["task", "model"], observed=True)[summed].sum().loc[CELLS]
    shares = 100 * sums[causes].div(sums["endpoints"], axis=0)
    assert f"The criterion closes {in_words([*shares['criterion']])} % of the groups" in LOG
    assert f"the end of the response {in_words([*shares['end']])} %, the largest size the rest" in LOG
    claims = {claim["id"]: claim for claim in yaml.safe_load(CLAIMS.read_text())["claims"]}
    low, high = (f"{shares[cause].min():.0f} to {shares[cause].max():.0f} %" for cause in ("criterion", "end"))
    told = f"the criterion closes {low} of the groups, the end of the response {high}."
    assert told in claims["compression"]["what_would_change"]
    by_step = closed.groupby(["step", "task", "model"], observed=True)[summed].sum()
    dropped = 100 * (1 - by_step["endpoints"] / by_step["tokens"]).unstack("step").loc[CELLS]
    assert f"{in_words([*dropped[1]])} % in the first step, {in_words([*dropped[24]])} % in the last" in LOG


def test_what_verl_says_of_the_critics(tables: Tables) -> None:
    means = tables.steps.groupby(["arm", "task", "model"], observed=True)["value"].mean()
    grouped, dense = (in_words([*means[arm].loc[CELLS]], 2).replace("0.", ".") for arm in ("group_ppo", "ppo"))
    assert f"Study, verl's: {grouped}, dense PPO's {dense}." in LOG


def test_the_margin_and_what_an_arm_kept_are_shares_of_what_dense_ppo_gained(accuracy: pd.DataFrame) -> None:
    gained = accuracy["ppo"] - accuracy["start"]
    first, *others = shares = [*(0.05 / gained)]
    assert f"Its margin of 0.05 is {in_words(shares, 2)} of what dense PPO gains." in LOG
    assert f"{first:.2f} of what dense PPO gains (elsewhere {min(others):.2f} to {max(others):.2f})" in README
    kept = 100 * (accuracy["group_ppo_broadcast"] - accuracy["start"]) / gained
    assert f"-0.017], {kept['sorting', 'tiny']:.0f} % of PPO's gain" in README
    assert f"-0.044], {kept['chain', 'tiny']:.0f} % |" in README
    assert (abs(accuracy["group_ppo"] - accuracy["start"]) < 0.006).all()  # it stays at its start


@pytest.fixture(scope="module")
def variants() -> pd.DataFrame:
    tables = tables_of(load_profile(REPOSITORY / "benchmarks" / "profile.yaml"), REFERENCE / "profile" / "measured")
    return tables.variants.set_index(["setting", "variant"])


@pytest.mark.parametrize(
    ("page", "variant", "told"),
    [
        (README, "masked", "{t2} in time, {memory:.2f}x in memory | one update"),
        (README, "gathered", "at most {flops:.2f}x in operations"),
        (README, "gathered", "{t2} in time, as the dense head waits for memory"),
        (README, "gathered", "| {memory:.2f}x, at 512 tokens"),
        (README, "gathered", "which drops no token, {to_fused:.2f}x,"),
        (README, "streamed_recompute", "`streamed` | {flops:.1f}x in operations, {t1} in"),
        (README, "streamed_reuse", "{flops:.1f}x, supported as registered, in time {t1} |"),
        (README, "r512 gathered", "at 512 tokens {memory:.2f}x,"),
        (README, "r512 gathered", "which drops no token, 0.94x, {to_fused:.2f}x and"),
        (README, "r512_ckpt gathered", "with gradient checkpointing {memory:.2f}x, supported"),
        (README, "r512_ckpt gathered", "0.89x and {to_fused:.2f}x, refuted"),
        (LOG, "gathered", "{flops:.2f}x in operations, which is its bound; {t2} in time, in"),
        (LOG, "streamed_recompute", "keys and values {flops:.2f}x in operations, {t2}"),
        (LOG, "streamed_reuse", "{flops:.1f}x, supported, and {t2}"),
        (LOG, "r512 gathered", "{memory:.2f}x and 0.47x at responses of 512 and 1024"),
        (LOG, "gathered", "x and {memory:.2f}x at responses of 512 and 1024"),
        (LOG, "r512_ckpt gathered", "at responses of 512 and 1024, and {memory:.3f}x"),
        (LOG, "r512 gathered", "in chunks {to_fused:.2f}x, "),
        (LOG, "gathered", "x, {to_fused:.2f}x and "),
        (LOG, "r512_ckpt gathered", "x and {to_fused:.2f}x: refuted"),
        (words("benchmarks", "claims", "group_ppo.yaml"), "gathered", "(1/{logits:.0f} of them here,"),
    ],
)
def test_costs_are_those_of_the_published_profile(variants: pd.DataFrame, page: str, variant: str, told: str) -> None:
    setting, _, name = variant.rpartition(" ")
    row = variants.loc[(setting or "r1024", name)]
    named = {"flops": "flops_speedup", "memory": "memory_ratio", "to_fused": "memory_ratio_to_fused"}
    numbers: dict[str, Any] = {name: row[column] for name, column in named.items()} | {
        "logits": 1 / row["logits_ratio"]
    }
    time, low, high = (row[f"seconds_speedup{end}"] for end in ("", "_low", "_high"))
    numbers |= {"t1": f"{time:.1f}x [{low:.1f}, {high:.1f}]", "t2": f"{time:.2f}x [{low:.2f}, {high:.2f}]"}
    assert told.format(**numbers) in page


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
    assert f"an update is {times} as fast with {operations} fewer operations" in BOUNDS


def test_densities_agreement_and_cosines_are_those_of_the_grouping_study(study: Path) -> None:
    place = study / "studies" / "grouping"
    folders = sorted(place.iterdir())
    density = pd.concat(pd.read_csv(folder / "density.csv").assign(cell=folder.name) for folder in folders)
    published = density.query("rule == 'published'").set_index(["rollout", "cell"])["density"]
    of_bfloat16 = 100 * published["bfloat16"]
    assert len(of_bfloat16) == 4
    assert f"densities of {of_bfloat16.min():.0f} to {of_bfloat16.max():.0f} %" in READINGS
    assert f"it does group, at {of_bfloat16['sorting.tiny']:.1f} %" in LOG
    ratio = density.query(
        "cell == 'sorting.tiny' and score == 'log_ratio' and threshold == 1 and rule == 'variance_split'"
    )
    float32, bfloat16 = (100 * ratio.set_index("rollout")["density"][name] for name in ("float32", "bfloat16"))
    assert f"(density {float32:.1f} %; {bfloat16:.1f} % with bfloat16)" in READINGS
    cosines = pd.read_csv(place / "sorting.tiny" / "cosines.csv").set_index("statistic")["value"]
    assert (
        f"Mean cosine {cosines['mean']:.2f}, {cosines['mean_abs']:.2f} in absolute value".replace("0.", ".") in READINGS
    )
    agreement = pd.read_csv(place / "sorting.tiny" / "agreement.csv").groupby("proxy")["f1"].agg(["min", "max"])
    unit, norm = (agreement.loc[name] for name in ("unit", "logit_norm"))
    told = f"`unit` {unit['min']:.2f}-{unit['max']:.2f}; `logit_norm` {norm['min']:.2f}, and {norm['max']:.2f}"
    assert told.replace("0.", ".") in READINGS
    summary = pd.read_csv(place / "sorting.tiny" / "direction_summary.csv").set_index("arm")["cosine"]
    told = (
        f"Cosine {summary['group_ppo']:.2f}; random endpoints at its density {summary['random']:.2f}, noise floor "
        f"{summary['dense_other']:.2f}. `entropy` {summary['entropy']:.3f}, `low_prob` {summary['low_prob']:.2f}."
    )
    assert told.replace("0.", ".") in LOG
